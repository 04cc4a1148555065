"""Prepares a data set without training: `python -m experiments.prepare --dataset=mnist`.

Training prepares its data set by itself; this command does so beforehand. Run again, it checks
every byte of the arrays that training on `--split` reads, and repairs them.
"""

from __future__ import annotations

from absl import flags

from experiments import configs
from experiments.run import cli, setup
from wiseale_jax.datasets import DATASETS, pipeline

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prepares the data set that the flags name, and prints how many examples it holds."""
    del argv
    config = configs.config_from_flags()
    builder = setup.prepare(config, FLAGS.data_dir, **setup.preparing_from_flags())
    dataset = DATASETS[config.dataset]
    for split in (config.split, "test"):
        factors = dataset.factors if split == "test" else ()
        pipeline.load_arrays(builder, split, [dataset.feature, *factors], thorough=True)
    counts = ", ".join(
        f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items()
    )
    print(f"{config.dataset} is ready in {builder.data_path}: {counts}")


if __name__ == "__main__":
    configs.define_flags(("dataset", "image_size", "channels", "source", "split"))
    setup.define_data_dir()
    setup.define_preparing()
    cli.run(main)
