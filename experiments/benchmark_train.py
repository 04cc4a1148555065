"""`python -m experiments.benchmarks.train` by the name it had before."""

from experiments.run.moved import run_as

if __name__ == "__main__":
    run_as("experiments.benchmarks.train")
