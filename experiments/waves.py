"""Numbers about generated sine waves: how near each wave is to a true sine wave."""

from __future__ import annotations

import jax
import numpy as np
from scipy import stats

from wiseale_jax import evaluation
from wiseale_jax.datasets import sine
from wiseale_jax.evaluation import estimates, generation
from wiseale_jax.evaluation.estimates import Estimate
from wiseale_jax.models.trained import TrainedAutoencoder

# So many waves of each source are used: finding the nearest sine wave takes about a millisecond.
_COUNT = 2000


def generated_waves(
    trained: TrainedAutoencoder, test: np.ndarray, train: np.ndarray, seed: int
) -> dict[str, float]:
    """The `catalogue.METRICS` of generated waves: distances, amplitudes and frequencies.

    Args:
      trained: the model.
      test: test waves, `[size, 256, 1]`; the first 2,000 are used.
      train: training waves; their codes give the aggregate and the mixture.
      seed: the seed of all draws.
    """
    size = min(_COUNT, len(test))
    keys = jax.random.split(jax.random.key(seed))
    drawn = {"samples": np.asarray(trained.prior.sample(keys[0], size))}
    drawn |= generation.draw(trained, keys[1], *evaluation.posteriors(trained, train), size, seed)
    waves = {of: np.asarray(trained.decode(z)) for of, z in drawn.items()}
    waves["data"] = np.asarray(test[:size])
    waves["reconstructions"] = np.asarray(trained.reconstruct(waves["data"]))
    found: dict[str, Estimate | float] = {}
    for of, some in waves.items():
        nearest = sine.nearest(some)
        found[f"wave_distance_{of}"] = estimates.mean(nearest.distance)
        if of in drawn:
            ranges = {"amplitude": sine.MAX_AMPLITUDE, "frequency": sine.MAX_FREQUENCY}
            for name, most in ranges.items():
                test_of = stats.kstest(getattr(nearest, name), "uniform", (0, most))
                found[f"{name}_gap_{of}"] = float(test_of.statistic)
    flat: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, Estimate):
            flat[name], flat[f"{name}_stderr"] = value
        else:
            flat[name] = value
    return flat
