"""How tight the bounds are: `python -m experiments.tightness`.

A table of each bound less the Monte-Carlo truth, for 64 posteriors of one width whose aggregate is
about as wide as the prior: means from N(0, 1 - sigma^2), every standard deviation sigma.
"""

from __future__ import annotations

import jax
import numpy as np
from absl import app, flags

from wiseale_jax import aggregate_kl, wiseale_kl

FLAGS = flags.FLAGS


def row(latent: int, sigma: float, size: int, samples: int, seed: int) -> dict[str, float]:
    """The truth, its standard error and each bound, in nats."""
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal((size, latent)) * np.sqrt(max(1 - sigma**2, 0))
    mean = mean.astype(np.float32)
    logvar = np.full((size, latent), 2 * np.log(sigma), np.float32)
    truth = aggregate_kl(jax.random.key(seed), mean, logvar, samples)
    bounds = {b: float(wiseale_kl(mean, logvar, bound=b)) for b in ("jensen", "bhattacharyya")}
    return {"truth": float(truth.kl), "error": float(truth.kl_stderr), **bounds}


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    print("| d | sigma | truth | Jensen | Bhattacharyya |\n| ---: | ---: | ---: | ---: | ---: |")
    for latent in (1, 2, 8, 64):
        for sigma in (1.0, 0.5, 0.2, 0.05):
            r = row(latent, sigma, FLAGS.size, FLAGS.samples, FLAGS.seed)
            jensen, bhattacharyya = (f"{r[b]:.3f}" for b in ("jensen", "bhattacharyya"))
            if r["jensen"] < r["bhattacharyya"]:
                jensen = f"**{jensen}**"
            else:
                bhattacharyya = f"**{bhattacharyya}**"
            truth = f"{r['truth']:.3f} ± {r['error']:.3f}"
            print(f"| {latent} | {sigma:g} | {truth} | {jensen} | {bhattacharyya} |", flush=True)


if __name__ == "__main__":
    flags.DEFINE_integer("size", 64, "posteriors", lower_bound=1)
    flags.DEFINE_integer("samples", 100_000, "draws for the truth", lower_bound=2)
    flags.DEFINE_integer("seed", 0, "of means and draws")
    app.run(main)
