"""A picture of 8x8 examples of a data set: `python -m experiments.samples --dataset=mnist`.

The examples are drawn from `--split` with `--seed`, and shown as the model sees them.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import configs
from experiments.run import cli, setup
from wiseale_jax import files, plots
from wiseale_jax.datasets import DATASETS, pipeline, preprocessing
from wiseale_jax.plots import run as run_plots

FLAGS = flags.FLAGS

COUNT = 64


def main(argv: list[str]) -> None:
    """Draws the picture that the flags describe."""
    del argv
    config = configs.config_from_flags()
    output = Path(FLAGS.output or f"{config.dataset}-samples.png").expanduser()
    known = Figure().canvas.get_supported_filetypes()
    if output.suffix[1:].lower() not in known:
        raise ValueError(f"--output must end in .{', .'.join(sorted(known))}, got {str(output)!r}")
    files.make_folder(output.parent, "output")
    feature = DATASETS[config.dataset].feature
    builder = setup.prepare(config, FLAGS.data_dir, **setup.preparing_from_flags())
    data = pipeline.load_arrays(builder, config.split, [feature])[feature]
    rng = np.random.default_rng(config.seed)
    rows = np.sort(rng.choice(len(data), min(COUNT, len(data)), replace=False))
    preprocess = preprocessing(config.dataset, config.binarize)
    x = np.asarray(preprocess(jax.numpy.asarray(data[rows]), jax.random.key(config.seed)))
    plots.save(run_plots.samples(x, f"{config.dataset}: {len(x)} of {len(data):,}"), output)
    print(f"drawn: {output}")


if __name__ == "__main__":
    configs.define_flags(
        ("dataset", "seed", "split", "binarize", "image_size", "channels", "source")
    )
    flags.DEFINE_string("output", None, "file of the picture (default: <dataset>-samples.png)")
    setup.define_data_dir()
    setup.define_preparing()
    cli.run(main)
