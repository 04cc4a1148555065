"""Trains one model: `python -m experiments.train --dataset=sine --method=wiseale`.

Writes a run folder with config.json, metrics.jsonl, checkpoints/, figures/ and summary.json. The
same command resumes a run that stopped, or says that the run is finished.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from experiments import configs, fit_sampler
from experiments.run import cli, processes, setup
from experiments.run.loop import train
from wiseale_jax import samplers
from wiseale_jax.training import batches

FLAGS = flags.FLAGS

__all__ = ["main", "train"]


def main(argv: list[str]) -> None:
    """Trains the run that the flags describe."""
    del argv
    processes.join()
    config = configs.config_from_flags()
    for name in ("checkpoint_every", "keep"):
        if FLAGS[name].value < 1:
            raise ValueError(f"{name} must be at least 1, got {FLAGS[name].value}")
    names = samplers.check(cli.listed("samplers"))
    workdir = Path(FLAGS.workdir).expanduser() if FLAGS.workdir else setup.default_workdir(config)
    preparing = setup.preparing_from_flags()
    train(
        config,
        workdir,
        FLAGS.data_dir,
        FLAGS.checkpoint_every,
        FLAGS.keep,
        FLAGS.feed,
        FLAGS.mesh,
        FLAGS.profile,
        **preparing,
    )
    if names and processes.is_first():
        fit_sampler.fit_run(workdir, names, FLAGS.data_dir, **preparing)


if __name__ == "__main__":
    configs.define_flags()
    flags.DEFINE_string("workdir", None, "run folder (default: runs/<dataset>-<method>-seed<seed>)")
    setup.define_data_dir()
    setup.define_preparing()
    flags.DEFINE_enum(
        "feed",
        "auto",
        batches.FEEDS,
        "where examples are kept: resident on the device, in a stream from disk, or chosen by size",
    )
    flags.DEFINE_string("mesh", "auto", "number of devices that share every batch, or auto")
    processes.define_flags()
    flags.DEFINE_bool(
        "profile", False, "print the time of each part of a step, and write a trace into profile/"
    )
    cli.define_list(
        "samplers", [], "samplers to fit to the codes at the end: aggregate, mixture, two_stage"
    )
    flags.DEFINE_integer("checkpoint_every", 1, "write a checkpoint every so many epochs")
    flags.DEFINE_integer(
        "keep", 3, "how many of the newest checkpoints to keep, besides the one of lowest test loss"
    )
    cli.run(main)
