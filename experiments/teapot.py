"""Rendered teapots, a set of the paper's Appendix D: `python -m experiments.teapot`.

Trains WiSE-ALE, beta-VAE and AEVB with every seed, skips what is finished, and writes tables
(Markdown and CSV) and figures (PNG and PDF): latent traversals, reconstructions, samples and
interpolations side by side, and how well the latents recover the true factors, by the
disentanglement, completeness and informativeness of Eastwood and Williams (2018) and by the mutual
information gap of Chen et al. (2018).
"""

from __future__ import annotations

from absl import flags

from experiments import images, runs, sections
from wiseale_jax import run_folder

FLAGS = flags.FLAGS

VARIANTS = {
    "WiSE-ALE": {"method": "wiseale"},
    "beta-VAE": {"method": "beta_vae"},
    "AEVB": {"method": "aevb"},
}

NUMBERS = (
    "dci_disentanglement",
    "dci_completeness",
    "dci_informativeness",
    "mig",
    "active_units",
    "mutual_information",
    "sharpness_data",
    "sharpness_reconstructions",
    "sharpness_samples",
)


def main(argv: list[str]) -> None:
    """Trains all methods and writes the tables and figures."""
    del argv
    seeds = sections.parse_seeds(FLAGS.seeds)
    variants = sections.choose(VARIANTS, FLAGS.only)
    settings = sections.settings_from_flags()
    output = run_folder.make_folder(FLAGS.output, "output")
    given = images.given_from_flags()
    done = sections.train_all("teapot", variants, output, seeds, given, FLAGS.data_dir)
    images.report(done, output, FLAGS.data_dir, settings, NUMBERS)


if __name__ == "__main__":
    images.define_flags("runs/section-teapot")
    runs.run(main)
