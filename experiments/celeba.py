"""The paper's Figure 5b, faces: `python -m experiments.celeba --source=img_align_celeba.zip`.

Trains WAE, WiSE-ALE and AEVB with every seed, and skips finished runs. Writes tables (Markdown and
CSV) and figures (PNG and PDF): reconstructions side by side, samples, interpolations, and the
sharpness of each. `--image_folder=DIR` takes your own images in CelebA's place.
"""

from __future__ import annotations

import functools
from pathlib import Path

from absl import flags

from experiments import configs, image_study, studies
from experiments.run import cli, setup

FLAGS = flags.FLAGS

# In the order of the paper's figure.
VARIANTS = {
    "WAE": {"method": "wae_mmd"},
    "WiSE-ALE": {"method": "wiseale"},
    "AEVB": {"method": "aevb"},
}
STUDIES = {"methods": VARIANTS, "rivals": studies.RIVALS}

NUMBERS = (
    "reconstruction_error_at_mean",
    "sharpness_data",
    "sharpness_reconstructions",
    "sharpness_samples",
    "fid_reconstructions",
    "fid_samples",
    "interpolation_energy",
    "overlap_coefficient",
    "active_units",
)


def main(argv: list[str]) -> None:
    """Trains all methods and writes the tables and figures."""
    del argv
    if FLAGS.image_folder is not None and FLAGS.source is not None:
        raise ValueError("source is CelebA's archive, image_folder is in its place: give one")
    for name in ("image_size", "channels"):
        if FLAGS.image_folder is None and FLAGS[name].value is not None:
            raise ValueError(f"{name} is for --image_folder: CelebA is 64 x 64, RGB")
    dataset, given = "celeba", {"batch_size": FLAGS.batch_size}
    if FLAGS.image_folder is not None:
        dataset = "image_folder"
        given |= {name: FLAGS[name].value for name in ("image_size", "channels")}
        given["source"] = FLAGS.image_folder
    report = functools.partial(image_study.report, numbers=NUMBERS)
    preparing = setup.preparing_from_flags()
    output = Path(FLAGS.output)
    if FLAGS.study != "methods":
        output /= FLAGS.study
    studies.run_section(dataset, STUDIES[FLAGS.study], report, output, given, **preparing)


if __name__ == "__main__":
    image_study.define_flags("runs/section-celeba")
    flags.DEFINE_enum(
        "study",
        "methods",
        list(STUDIES),
        "runs to train: methods are the paper's methods, rivals are other methods",
    )
    flags.DEFINE_string("source", None, "img_align_celeba.zip, or the unpacked folder")
    flags.DEFINE_string("image_folder", None, "folder of your own images, to use instead of CelebA")
    configs.define_flags(("image_size", "channels"))
    setup.define_preparing()
    cli.run(main)
