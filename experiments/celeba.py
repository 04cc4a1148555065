"""The paper's Figure 5b, faces: `python -m experiments.celeba --source=img_align_celeba.zip`.

Trains WAE, WiSE-ALE and AEVB with every seed, skips what is finished, and writes tables (Markdown
and CSV) and figures (PNG and PDF): reconstructions side by side, samples, interpolations, and the
sharpness of each. `--image_folder=DIR` takes any images of your own in CelebA's place.
"""

from __future__ import annotations

from absl import flags

from experiments import images, runs, sections
from wiseale_jax import run_folder

FLAGS = flags.FLAGS

# In the order of the paper's figure.
VARIANTS = {
    "WAE": {"method": "wae_mmd"},
    "WiSE-ALE": {"method": "wiseale"},
    "AEVB": {"method": "aevb"},
}

NUMBERS = (
    "reconstruction_error_at_mean",
    "sharpness_data",
    "sharpness_reconstructions",
    "sharpness_samples",
    "interpolation_energy",
    "overlap_coefficient",
    "active_units",
)


def main(argv: list[str]) -> None:
    """Trains all methods and writes the tables and figures."""
    del argv
    seeds = sections.parse_seeds(FLAGS.seeds)
    variants = sections.choose(VARIANTS, FLAGS.only)
    settings = sections.settings_from_flags()
    if FLAGS.image_folder is not None and FLAGS.source is not None:
        raise ValueError("source is CelebA's archive, image_folder is in its place: give one")
    if FLAGS.image_folder is None and FLAGS.image_size is not None:
        raise ValueError("image_size is for --image_folder: CelebA is 64 x 64")
    output = run_folder.make_folder(FLAGS.output, "output")
    given, preparing = images.given_from_flags(), runs.preparing_from_flags()
    dataset = "celeba"
    if FLAGS.image_folder is not None:
        dataset = "image_folder"
        given |= {"source": FLAGS.image_folder, "image_size": FLAGS.image_size}
    done = sections.train_all(dataset, variants, output, seeds, given, FLAGS.data_dir, **preparing)
    images.report(done, output, FLAGS.data_dir, settings, NUMBERS, **preparing)


if __name__ == "__main__":
    images.define_flags("runs/section-celeba")
    flags.DEFINE_string("source", None, "img_align_celeba.zip, or its unpacked folder")
    flags.DEFINE_string("image_folder", None, "a folder of your own images, in CelebA's place")
    flags.DEFINE_integer("image_size", None, "image_folder: 32, 64 or 128 pixels along each side")
    runs.define_preparing()
    runs.run(main)
