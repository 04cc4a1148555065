"""How tight the bounds are: `python -m experiments.tightness`.

Prints a table of each bound beside the Monte-Carlo truth, for 64 posteriors of one width. Their
means are drawn from N(0, 1 - sigma^2), and every standard deviation is sigma, so that their
aggregate is about as wide as the prior.

With `--workdir=RUN`, the table is for the posteriors of a trained model instead, by batch size. It
also says how the paper's bound differs from the mean KL of one posterior. "Own share" is the share
of a posterior's pair with itself in the bound's sum over pairs. The cosines are between the
gradients of the bound and of the mean KL. If the share and the cosines are 1, WiSE-ALE trains like
a beta-VAE with beta = kl_weight / M.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float
from tqdm import tqdm

from experiments.run import cli, setup
from wiseale_jax import DATASETS, aggregate_kl, gaussian_kl, load, load_examples, wiseale_kl
from wiseale_jax.pair_terms import JENSEN, LOGVAR_LIMIT, gaussians
from wiseale_jax.pairwise import log_sum_exp

FLAGS = flags.FLAGS

SIZES = (64, 256, 1024, 4096, 16384)
_BOUNDS = ("jensen", "bhattacharyya")
# A gradient is averaged over so many orders of the examples, or over fewer if fewer batches fit.
_SHUFFLES = 64
# Examples on the device at once.
_AT_ONCE = 1000


def row(latent: int, sigma: float, size: int, samples: int, seed: int) -> dict[str, float]:
    """The truth, its standard error and each bound, in nats."""
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal((size, latent)) * np.sqrt(max(1 - sigma**2, 0))
    mean = mean.astype(np.float32)
    logvar = np.full((size, latent), 2 * np.log(sigma), np.float32)
    return _compare(mean, logvar, samples, seed)


def rows_by_size(
    mean: np.ndarray, logvar: np.ndarray, samples: int, seed: int
) -> dict[int, dict[str, float]]:
    """The means of each number over a set's whole batches, by batch size.

    Args:
      mean, logvar: `[size, latent]`, of all examples, in any order.
      samples: draws for the truth, over all batches together.
      seed: the seed of the draws.

    Returns:
      By batch size: the numbers of `row`, where the standard error counts only the draws; "own",
      from `own_share`; and the cosines of `gradient_cosines`.
    """
    found = {}
    for size in [size for size in SIZES if size < len(mean)] + [len(mean)]:
        parts = [slice(a, a + size) for a in range(0, len(mean) - size + 1, size)]
        each = [
            _compare(mean[part], logvar[part], max(2, samples // len(parts)), seed + part.start)
            | {"own": float(own_share(mean[part], logvar[part]))}
            for part in tqdm(parts, desc=f"batches of {size}", leave=False, disable=None)
        ]
        found[size] = {name: float(np.mean([r[name] for r in each])) for name in each[0]}
        found[size]["error"] = float(np.sqrt(np.mean([r["error"] ** 2 for r in each]) / len(each)))
        shuffles = min(_SHUFFLES, len(mean) // size)
        found[size] |= gradient_cosines(mean, logvar, size, shuffles, seed)._asdict()
    return found


class GradientCosines(NamedTuple):
    """Cosines between the gradients of the paper's bound and of the mean KL of one posterior.

    Attributes:
      by_mean_in_a_batch: the cosine of the derivatives by the means of all examples, with each
        example in one batch.
      by_mean: the same, with the bound's derivatives averaged over many batches for each example.
      by_logvar: same as `by_mean`, for the log variances.
    """

    by_mean_in_a_batch: float
    by_mean: float
    by_logvar: float


def gradient_cosines(
    mean: np.ndarray, logvar: np.ndarray, size: int, shuffles: int, seed: int
) -> GradientCosines:
    """Compares the gradients of the paper's bound and of the mean KL of one posterior.

    Args:
      mean, logvar: `[size, latent]`, of all examples.
      size: the batch size.
      shuffles: how often all examples are cut into batches, each time in another order. Left-over
        examples are in no batch.
      seed: the seed of the orders.
    """
    rng = np.random.default_rng(seed)
    whole = len(mean) // size * size
    sums, times = np.zeros((2, *mean.shape)), np.zeros((len(mean), 1))
    in_a_batch = 1.0
    closed = np.stack([mean, 0.5 * np.expm1(logvar)]).astype(np.float64)
    for number in range(shuffles):
        rows = rng.permutation(len(mean))[:whole]
        batches = (a[rows].reshape(-1, size, a.shape[1]) for a in (mean, logvar))
        found = size * np.asarray(_gradients(*batches), np.float64).reshape(2, whole, -1)
        if number == 0:
            in_a_batch = _cosine(found[0], closed[0, rows])
        sums[:, rows] += found
        times[rows] += 1
    by_mean, by_logvar = (
        _cosine(a, b) for a, b in zip(sums / np.maximum(times, 1), closed, strict=True)
    )
    return GradientCosines(in_a_batch, by_mean, by_logvar)


@jax.jit
def _gradients(mean: Array, logvar: Array) -> tuple[Array, Array]:
    """The bound's gradients for each batch, `[batches, size, latent]`."""
    return jax.lax.map(lambda batch: jax.grad(wiseale_kl, (0, 1))(*batch), (mean, logvar))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


@jax.jit
def own_share(mean: Float[Array, "batch latent"], logvar: Float[Array, "batch latent"]) -> Array:
    """The mean over i of N(mu_i; mu_i, 2 sigma_i^2) / sum_j N(mu_i; mu_j, sigma_i^2 + sigma_j^2).

    This is the share of a posterior's pair with itself in the paper's bound, Eq. 21. It ranges from
    1/M, where all posteriors are the same, to 1, where none overlap. logvar is clipped to -40..40.
    """
    logvar = jnp.clip(logvar, -LOGVAR_LIMIT, LOGVAR_LIMIT)
    posteriors = gaussians(mean, logvar, JENSEN)
    own = -0.5 * jnp.sum(logvar + math.log(2), axis=1)
    return jnp.mean(jnp.exp(own - log_sum_exp(posteriors, posteriors, JENSEN.distance)))


def _compare(mean: np.ndarray, logvar: np.ndarray, samples: int, seed: int) -> dict[str, float]:
    truth = aggregate_kl(jax.random.key(seed), mean, logvar, samples)
    bounds = {bound: float(wiseale_kl(mean, logvar, bound=bound)) for bound in _BOUNDS}
    return {"truth": float(truth.kl), "error": float(truth.kl_stderr), **bounds}


def _cells(row: dict[str, float]) -> str:
    """The truth and the bounds, with the smaller bound in bold."""
    jensen, bhattacharyya = (f"{row[bound]:.3f}" for bound in _BOUNDS)
    if row["jensen"] < row["bhattacharyya"]:
        jensen = f"**{jensen}**"
    else:
        bhattacharyya = f"**{bhattacharyya}**"
    return f"{row['truth']:.3f} ± {row['error']:.3f} | {jensen} | {bhattacharyya} |"


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    if FLAGS.workdir:
        cli.refuse_given(["size"], "is for posteriors without a run: of a run there are several")
        mean, logvar = posteriors(FLAGS.workdir, FLAGS.data_dir, FLAGS.seed)
        print(
            "| M | truth | Jensen | Bhattacharyya | own share | cosine by means, one batch | by "
            "means | by log variances |"
        )
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for size, found in rows_by_size(mean, logvar, FLAGS.samples, FLAGS.seed).items():
            print(
                f"| {size:,} | {_cells(found)} {found['own']:.3f} | "
                f"{found['by_mean_in_a_batch']:.2f} | {found['by_mean']:.2f} | "
                f"{found['by_logvar']:.2f} |"
            )
        print(f"\nmean KL of one posterior: {float(np.mean(gaussian_kl(mean, logvar))):.3f}")
        return
    print("| d | sigma | truth | Jensen | Bhattacharyya |\n| ---: | ---: | ---: | ---: | ---: |")
    for latent in (1, 2, 8, 64):
        for sigma in (1.0, 0.5, 0.2, 0.05):
            cells = _cells(row(latent, sigma, FLAGS.size, FLAGS.samples, FLAGS.seed))
            print(f"| {latent} | {sigma:g} | {cells}", flush=True)


def posteriors(
    workdir: str | os.PathLike, data_dir: str | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log variance, `[size, latent]`, of a run's test examples in random order.

    Raises:
      ValueError: the encoder is deterministic; or as in `wiseale_jax.load`.
      OSError: as in `load_examples`.
    """
    trained = load(workdir)
    if not trained.model.has_density:
        raise ValueError(f"{workdir} has a deterministic encoder: all its bounds are infinite")
    config = trained.config
    settings = ("binarize", *DATASETS[config["dataset"]].settings)
    given = {name: config[name] for name in settings if config[name] is not None}
    x = load_examples(config["dataset"], "test", data_dir=data_dir, **given).x
    x = x[np.random.default_rng(seed).permutation(len(x))]
    parts = [trained.encode(x[a : a + _AT_ONCE]) for a in range(0, len(x), _AT_ONCE)]
    mean, logvar = (np.concatenate(each) for each in zip(*parts, strict=True))
    return mean, logvar


if __name__ == "__main__":
    flags.DEFINE_integer("size", 64, "number of posteriors, without --workdir", lower_bound=1)
    flags.DEFINE_integer("samples", 100_000, "draws for the Monte-Carlo truth", lower_bound=2)
    flags.DEFINE_integer(
        "seed", 0, "seed of everything random", lower_bound=0, upper_bound=2**32 - 1
    )
    flags.DEFINE_string(
        "workdir", None, "run folder; the posteriors are then those of the run's test examples"
    )
    setup.define_data_dir()
    cli.run(main)
