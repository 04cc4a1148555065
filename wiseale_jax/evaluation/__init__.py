"""Evaluates a trained model: computes every number of the comparison on one set of examples.

Each number comes from a pure function in `likelihood`, `latents`, `decoder`, `divergences`,
`representation`, `frechet` or `fidelity`, whose docstring gives its definition, range and
reference. `catalogue` lists all numbers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm import tqdm

from wiseale_jax import divergences, priors
from wiseale_jax.evaluation import decoder, estimates, latents, representation
from wiseale_jax.evaluation.catalogue import NEEDS_DENSITY
from wiseale_jax.evaluation.estimates import Estimate
from wiseale_jax.evaluation.features import Features, load_features
from wiseale_jax.evaluation.frechet import frechet_distance
from wiseale_jax.evaluation.generation import draw, generated_images
from wiseale_jax.evaluation.likelihood import evidence, importance_weighted_log_likelihood
from wiseale_jax.methods import unknown_setting
from wiseale_jax.models.trained import TrainedAutoencoder
from wiseale_jax.priors import StandardNormal
from wiseale_jax.training.recipe import Branch, branch

# How many decoded examples are in memory at once, and how many pairs are interpolated.
_AT_ONCE = 250
# The number of posteriors in the paper's Figure 1.
_FIGURE_1 = 64
# The networks whose features compare images, named as in `Settings`.
INCEPTION, FEATURES = "inception", "features"


class Settings(NamedTuple):
    """How thoroughly to evaluate.

    Attributes:
      examples: how many examples to use, from the first on; at least 2. None for all.
      likelihood_examples: how many examples log p(x) is estimated on. Their mean gap to the ELBO is
        added to everyone's ELBO.
      num_importance_samples: K, how many draws of z estimate log p(x) of each example.
      num_samples: how many draws estimate the aggregate posterior's KL and overlap.
      seed: the seed of all draws.
      inception: path of an ONNX file for FID, as in `features.load_features`; None for no FID.
      features: path of a classifier's npz file, as in `features.load_features`, for Fréchet
        distances, precision and recall of images; None for none of these.
    """

    examples: int | None = None
    likelihood_examples: int = 1000
    num_importance_samples: int = 500
    num_samples: int = 10_000
    seed: int = 0
    inception: str | None = None
    features: str | None = None


DEFAULTS = Settings()


def evaluate(
    trained: TrainedAutoencoder,
    x: Float[Array, "size *shape"],
    factors: Mapping[str, np.ndarray] | None = None,
    settings: Settings = DEFAULTS,
    *,
    train: Float[Array, "train_size *shape"] | None = None,
    circular: Collection[str] = (),
    progress: bool = True,
) -> dict[str, float | None]:
    """Evaluates a trained model on a set of examples.

    The result has the numbers of `catalogue.METRICS`, except `loss` and `wiseale_kl`, which need
    batches, and the numbers about sine waves.

    Args:
      trained: the model.
      x: examples as the model takes them, `[size, *shape]`: an array, or any object with a length
        whose slices are arrays. 250 examples are read at a time.
      factors: the examples' factors, by name. Integers `[size]` are class labels, and there may be
        only one set of labels. Floats `[size]` are true factors. Other arrays and constant factors
        are ignored. Without scikit-learn, or with fewer than 10 examples, factors are ignored too,
        and labels only serve for the accuracy of a model's clusters.
      settings: how thoroughly to evaluate.
      train: training examples, like x. With `settings.features`, images are generated from the
        codes of these examples. None to use x itself.
      circular: the names of the factors that are angles in radians.
      progress: whether to show progress bars, if the output is a terminal.

    Returns:
      Numbers by name, and their standard errors over examples or draws as `<name>_stderr`. A
      non-finite number is None, and so are the numbers of `catalogue.NEEDS_DENSITY` for a
      deterministic encoder.

    Raises:
      ValueError: a setting is out of range, there are too few examples for a metric, there is more
        than one set of labels, or a features file is invalid or does not fit the examples.
    """
    check(settings, len(x))
    kinds = {n: np.asarray(v).dtype.kind for n, v in (factors or {}).items() if np.ndim(v) == 1}
    if len(labels := [name for name, kind in kinds.items() if kind in "iu"]) > 1:
        raise ValueError(f"factors must have labels of one kind, got {', '.join(labels)}")
    networks = load_networks(settings, trained.model.architecture.shape)
    size = len(x) if settings.examples is None else settings.examples
    keys = _keys(settings)
    has_density = trained.model.has_density
    with tqdm(total=5, leave=False, disable=None if progress else True) as bar:
        bar.set_description("evaluation: reconstruction")
        by_example, mean, logvar, seen = _by_example(trained, x, size, keys[0], networks)
        result = {
            name: estimates.mean(values)
            for name, values in by_example.items()
            if (has_density or name not in NEEDS_DENSITY)
            and (name != "prior_kl" or trained.has_own_prior)
        }
        bar.update()
        bar.set_description("evaluation: log-likelihood")
        if has_density:
            elbo = by_example["elbo"]
            result |= _log_likelihood(trained, x, keys[1], elbo, settings, progress)
        bar.update()
        bar.set_description("evaluation: aggregate posterior")
        result |= _aggregate(trained, mean, logvar, keys[2], settings, progress)
        bar.update()
        bar.set_description("evaluation: decoder")
        result |= _decoder(trained, mean, logvar, keys[3], settings)
        if _is_image(trained):
            result |= _samples(trained, size, keys[4], networks, seen)
        if FEATURES in networks:
            codes = (mean, logvar) if train is None else posteriors(trained, train)
            draw_key = jax.random.fold_in(keys[4], size)
            drawn = draw(trained, draw_key, *codes, size, settings.seed)
            of = (seen[FEATURES, kind] for kind in ("data", "reconstructions", "samples"))
            result |= generated_images(trained, networks[FEATURES], *of, drawn)
        bar.update()
        bar.set_description("evaluation: representation")
        if representation.HAS_SCIKIT_LEARN:
            known = {name: np.asarray(factors[name])[:size] for name in kinds}
            result |= _represent(mean, known, circular, settings.seed)
        if labels and trained.has_clusters:
            parts = [np.asarray(trained.assign_clusters(part)) for part in _parts(x, size)]
            values = np.asarray(factors[labels[0]])[:size]
            result |= representation.clustering_accuracy(np.concatenate(parts), values)
        bar.update()
    return _flatten(result, trained)


def evaluate_arrays(
    trained: TrainedAutoencoder,
    x: Float[Array, "size *shape"],
    labels: np.ndarray | None = None,
    factors: Mapping[str, np.ndarray] | None = None,
    **options: Any,
) -> dict[str, float | None]:
    """Calls `evaluate` with arrays, and settings by name, for `trained.evaluate`.

    Raises:
      ValueError: an option is unknown, or labels or factors do not have one number for each
        example; or as `evaluate`.
    """
    x = trained.as_taken(x)
    known = {**(factors or {}), **({} if labels is None else {"label": np.asarray(labels)})}
    for name, values in known.items():
        if np.shape(values) != (len(x),):
            raise ValueError(
                f"{'labels' if name == 'label' else name} must have a number for each of the "
                f"{len(x)} examples, got shape {np.shape(values)}"
            )
    of_evaluate = {k: options.pop(k) for k in ("circular", "progress") if k in options}
    if unknown := [name for name in options if name not in Settings._fields]:
        raise ValueError(unknown_setting(unknown[0], Settings._fields, "an evaluation"))
    return evaluate(trained, x, known, Settings(**options), **of_evaluate)


def load_networks(settings: Settings, shape: tuple[int, ...]) -> dict[str, Features]:
    """Loads the networks of the settings `inception` and `features`, by these names.

    Args:
      settings: the evaluation's settings.
      shape: the shape of an example.

    Raises:
      ValueError: as `features.load_features`.
    """
    paths = {INCEPTION: settings.inception, FEATURES: settings.features}
    return {name: load_features(path, shape) for name, path in paths.items() if path is not None}


def data_key(settings: Settings) -> PRNGKeyArray:
    """The key for random preprocessing of stored examples, as in `datasets.load.Preprocessed`."""
    return _keys(settings)[0]


def _keys(settings: Settings) -> PRNGKeyArray:
    return jax.random.split(branch(jax.random.key(settings.seed), Branch.EVALUATION), 5)


def check(settings: Settings, size: int | None = None) -> None:
    """Checks the settings, for a set of `size` examples if the size is known.

    Raises:
      ValueError: there are fewer than 2 examples, or a setting is out of range; the message names
        the setting.
    """
    if size is not None and size < 2:
        raise ValueError(f"evaluation needs 2 examples or more, there are {size}")
    examples, most = settings.examples, math.inf if size is None else size
    if examples is not None and not 2 <= examples <= most:
        known = "at least 2" if size is None else f"in 2..{size}"
        raise ValueError(f"examples must be {known}, got {examples}")
    for name, least in (
        ("likelihood_examples", 1),
        ("num_importance_samples", 1),
        ("num_samples", 2),
    ):
        if getattr(settings, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(settings, name)}")
    if not 0 <= settings.seed < 2**32:
        raise ValueError(f"seed must be in 0..2^32-1, got {settings.seed}")


def _parts(x: Array, size: int) -> Iterator[Array]:
    """The first `size` examples, `_AT_ONCE` at a time."""
    for start in range(0, size, _AT_ONCE):
        yield jnp.asarray(x[start : min(start + _AT_ONCE, size)])


def posteriors(
    trained: TrainedAutoencoder, x: Float[Array, "size *shape"]
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the mean and log variance of q(z|x) of all examples; x as in `evaluate`."""
    found = [trained.encode(part) for part in _parts(x, len(x))]
    mean, logvar = (np.concatenate(side) for side in zip(*found, strict=True))
    return mean, logvar


def _is_image(trained: TrainedAutoencoder) -> bool:
    return len(trained.model.architecture.shape) == 3


def _by_example(
    trained: TrainedAutoencoder,
    x: Array,
    size: int,
    key: Array,
    networks: Mapping[str, Features],
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, dict[tuple[str, str], np.ndarray]]:
    """The numbers that exist for each example, the posteriors, and the images' features."""
    rows = []
    for number, some in enumerate(_parts(x, size)):
        row = evidence(trained, some, jax.random.fold_in(key, size + number))._asdict()
        row = jax.device_get(row)
        reconstruction = row.pop("reconstruction")
        if _is_image(trained):
            row["sharpness_data"] = decoder.sharpness(some)
            row["sharpness_reconstructions"] = decoder.sharpness(reconstruction)
        for name, features in networks.items():
            row[name, "data"] = features(np.asarray(some))
            row[name, "reconstructions"] = features(reconstruction)
        rows.append(row)
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    mean, logvar = found.pop("mean"), found.pop("logvar")
    seen = {name: found.pop(name) for name in list(found) if isinstance(name, tuple)}
    return found, mean, logvar, seen


def _log_likelihood(
    trained: TrainedAutoencoder,
    x: Array,
    key: Array,
    elbo: np.ndarray,
    settings: Settings,
    progress: bool,
) -> dict[str, Estimate]:
    count = min(settings.likelihood_examples, len(elbo))
    x = np.concatenate([np.asarray(part) for part in _parts(x, count)])
    weighted = importance_weighted_log_likelihood(
        trained, x, key, settings.num_importance_samples, progress=progress
    )
    # The difference estimator of sampling theory: over examples, the ELBO varies much more than the
    # gap.
    gaps = weighted.log_likelihood - elbo[: len(x)]
    gap, bound = estimates.mean(gaps), estimates.mean(elbo)
    # The gap's examples are also examples of the ELBO, so the two means covary.
    shared = np.cov(gaps, elbo[: len(x)])[0, 1] / len(elbo) if len(x) > 1 else 0.0
    stderr = float(np.sqrt(max(gap.stderr**2 + bound.stderr**2 + 2 * shared, 0.0)))
    return {
        "log_likelihood": Estimate(bound.value + gap.value, stderr),
        "effective_sample_size": estimates.mean(weighted.effective_sample_size),
    }


def _aggregate(
    trained: TrainedAutoencoder,
    mean: np.ndarray,
    logvar: np.ndarray,
    key: Array,
    settings: Settings,
    progress: bool,
) -> dict[str, Estimate | float]:
    keys = jax.random.split(key, 4)
    has_density = trained.model.has_density
    z = mean + np.exp(0.5 * logvar) * jax.random.normal(keys[0], mean.shape)
    found = {
        "active_units": latents.active_units(mean),
        "moment_matched_kl": latents.moment_matched_kl(mean, logvar),
        "mmd": latents.mmd_to_prior(keys[1], z, prior=trained.prior),
        **latents.latent_fidelity(jax.random.fold_in(keys[1], 1), z, trained.prior),
    }
    if not isinstance(trained.prior, StandardNormal):
        # The bounds, the moments and the overlap are defined for N(0, I) only.
        del found["moment_matched_kl"]
        return found | (_of_prior(trained, mean, logvar, keys[2], settings) if has_density else {})
    if not has_density:
        return found
    blocks = [
        slice(a, a + _FIGURE_1) for a in range(0, max(len(mean) - _FIGURE_1, 0) + 1, _FIGURE_1)
    ]
    truth = divergences.aggregate_kl(keys[2], mean, logvar, settings.num_samples)
    return found | {
        "aggregate_kl_lower_bound": latents.aggregate_kl_lower_bound(mean, logvar),
        "wiseale_kl_of_dataset": divergences.wiseale_kl_of_dataset(mean, logvar, progress=progress),
        "aggregate_kl": Estimate(float(truth.kl), float(truth.kl_stderr)),
        "mutual_information": Estimate(
            float(truth.mutual_information), float(truth.mutual_information_stderr)
        ),
        "overlap_coefficient": latents.overlap_coefficient(
            keys[3], mean, logvar, settings.num_samples
        ),
        "bhattacharyya_coefficient": estimates.mean(
            [latents.bhattacharyya_coefficient(mean[b], logvar[b]) for b in blocks]
        ),
    }


def _of_prior(
    trained: TrainedAutoencoder,
    mean: np.ndarray,
    logvar: np.ndarray,
    key: Array,
    settings: Settings,
) -> dict[str, Estimate | float]:
    """Numbers about the aggregate posterior and a prior other than N(0, I)."""
    aggregate = priors.Mixture(jnp.asarray(mean), jnp.asarray(logvar))
    z = aggregate.sample(key, settings.num_samples)
    log_ratio = np.asarray(aggregate.log_prob(z)) - np.asarray(trained.prior.log_prob(z))
    truth = divergences.aggregate_kl(key, mean, logvar, settings.num_samples)
    return {
        "aggregate_kl": estimates.mean(log_ratio),
        "mutual_information": Estimate(
            float(truth.mutual_information), float(truth.mutual_information_stderr)
        ),
    }


def _decoder(
    trained: TrainedAutoencoder,
    mean: np.ndarray,
    logvar: np.ndarray,
    key: Array,
    settings: Settings,
) -> dict[str, Estimate]:
    """Numbers about the decoder's outputs for the posteriors."""
    parts = [slice(a, a + _AT_ONCE) for a in range(0, len(mean), _AT_ONCE)]
    sensitivity = [
        decoder.decoder_sensitivity(
            trained.decode, jax.random.fold_in(key, part.start), mean[part], logvar[part]
        )
        for part in parts
    ]
    # Each example is in only one pair, because the standard errors assume independent pairs.
    order = np.random.default_rng(settings.seed).permutation(len(mean))[: 2 * _AT_ONCE]
    pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
    return {
        "decoder_sensitivity": estimates.mean(np.concatenate(sensitivity)),
        "interpolation_energy": decoder.interpolation_energy(
            trained.decode, mean[pairs[:, 0]], mean[pairs[:, 1]]
        ),
    }


def _samples(
    trained: TrainedAutoencoder,
    size: int,
    key: Array,
    networks: Mapping[str, Features],
    seen: dict[tuple[str, str], np.ndarray],
) -> dict[str, Estimate | float]:
    """Numbers about `size` sampled images; adds the images' features to `seen`."""
    sharpness, rows = [], {name: [] for name in networks}
    for start in range(0, size, _AT_ONCE):
        n = min(_AT_ONCE, size - start)
        images = np.asarray(trained.sample(jax.random.fold_in(key, start), n))
        sharpness.append(decoder.sharpness(images))
        for name, features in networks.items():
            rows[name].append(features(images))
    seen |= {(name, "samples"): np.concatenate(parts) for name, parts in rows.items()}
    found: dict[str, Estimate | float] = {
        "sharpness_samples": estimates.mean(np.concatenate(sharpness))
    }
    if INCEPTION in networks:
        for of in ("reconstructions", "samples"):
            found[f"fid_{of}"] = frechet_distance(seen[INCEPTION, "data"], seen[INCEPTION, of])
    return found


def _represent(
    codes: np.ndarray, factors: Mapping[str, np.ndarray], circular: Collection[str], seed: int
) -> dict[str, Estimate | float]:
    """The numbers of `representation`; labels are integers `[size]`, factors floats `[size]`."""
    result: dict[str, Estimate | float] = {}
    if len(codes) < representation.FEWEST:
        return result
    for values in (values for values in factors.values() if values.dtype.kind in "iu"):
        with contextlib.suppress(representation.NothingToPredict):
            result.update(representation.label_accuracy(codes, values, seed))
    true = {n: v for n, v in factors.items() if v.dtype.kind == "f" and np.ptp(v) > 0}
    if not true:
        return result
    recovered = representation.recover_factors(codes, true, circular, seed)
    for name in true:
        result[f"linear_r2_{name}"] = recovered.linear_r2[name]
        result[f"forest_r2_{name}"] = recovered.forest_r2[name]
    if len(true) > 1 and codes.shape[1] > 1:
        # Constant codes have no importance for any factor.
        if np.all(np.sum(recovered.importance, axis=0) > 0):
            shares = representation.dci(recovered.importance)
            result["dci_disentanglement"] = shares.disentanglement
            result["dci_completeness"] = shares.completeness
        values = [estimate.value for estimate in recovered.forest_r2.values()]
        result["dci_informativeness"] = float(np.mean(values))
        result["mig"] = representation.mutual_information_gap(codes, true)
    return result


def _flatten(
    result: Mapping[str, Estimate | float], trained: TrainedAutoencoder
) -> dict[str, float | None]:
    flat: dict[str, float | None] = {}
    for name, value in result.items():
        if isinstance(value, Estimate):
            flat[name], flat[f"{name}_stderr"] = value
        else:
            flat[name] = value
    if not trained.model.has_density:
        flat |= {name: None for name in NEEDS_DENSITY}
    return {
        name: value if value is not None and np.isfinite(value) else None
        for name, value in flat.items()
    }
