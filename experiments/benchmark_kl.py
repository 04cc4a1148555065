"""The former name of `python -m experiments.benchmarks.kl`."""

from experiments.run.moved import run_as

if __name__ == "__main__":
    run_as("experiments.benchmarks.kl")
