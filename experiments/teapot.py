"""Rendered teapots, a set of the paper's Appendix D: `python -m experiments.teapot`.

Trains WiSE-ALE, beta-VAE and AEVB with every seed, and skips finished runs. Writes tables (Markdown
and CSV) and figures (PNG and PDF). The figures are latent traversals, reconstructions, samples and
interpolations side by side. The tables say how well the latents recover the true
factors: disentanglement, completeness and informativeness (Eastwood and Williams, 2018), and the
mutual information gap (Chen et al., 2018).
"""

from __future__ import annotations

import functools

from absl import flags

from experiments import image_study, studies
from experiments.run import cli

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
    "fid_reconstructions",
    "fid_samples",
)


def main(argv: list[str]) -> None:
    """Trains all methods and writes the tables and figures."""
    del argv
    report = functools.partial(image_study.report, numbers=NUMBERS)
    given = {"batch_size": FLAGS.batch_size}
    studies.run_section("teapot", VARIANTS, report, FLAGS.output, given)


if __name__ == "__main__":
    image_study.define_flags("runs/section-teapot")
    cli.run(main)
