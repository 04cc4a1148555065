"""The former name of `python -m experiments.benchmarks.batch`."""

from experiments.run.moved import run_as

if __name__ == "__main__":
    run_as("experiments.benchmarks.batch")
