"""What each number of `evaluate` is: its group, unit and meaning, in a few words."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """What a number of `evaluate` is.

    Attributes:
      group: the idea that it belongs to.
      unit: of the number and of its standard error.
      better: "higher" or "lower", all else equal; "" where neither is.
      description: in a few words.
    """

    group: str
    unit: str
    better: str
    description: str


# For `Metric.better`.
ARROWS = {"higher": "↑", "lower": "↓", "": " "}

_PER_EXAMPLE = "per example"
# Of decoded draws z of each of these, in a classifier's features.
_SOURCES = {
    "samples": "samples of the prior",
    "aggregate": "draws of q(z)",
    "mixture": "draws of a mixture fitted to codes",
    "two_stage": "draws of a second VAE",
}
_GENERATION = {
    "frechet": Metric("generation", "", "lower", "Fréchet distance,"),
    "precision": Metric("generation", "0 to 1", "higher", "share that looks like data,"),
    "recall": Metric("generation", "0 to 1", "higher", "share of the data's kinds,"),
    "density": Metric("generation", "about 1", "higher", "data's neighbourhoods around each,"),
    "coverage": Metric("generation", "0 to 1", "higher", "data with one of them near,"),
    # Of sine waves, whose truth is known.
    "wave_distance": Metric(
        "generation", _PER_EXAMPLE, "lower", "squared distance from the nearest sine wave,"
    ),
    "amplitude_gap": Metric(
        "generation", "0 to 1", "lower", "Kolmogorov-Smirnov distance from U(0, 2) of amplitudes,"
    ),
    "frequency_gap": Metric(
        "generation", "0 to 1", "lower", "Kolmogorov-Smirnov distance from U(0, 20) of frequencies,"
    ),
}
METRICS = {
    "reconstruction_error": Metric(
        "reconstruction", _PER_EXAMPLE, "lower", "squared error or cross-entropy, sampled z"
    ),
    "reconstruction_error_at_mean": Metric(
        "reconstruction", _PER_EXAMPLE, "lower", "squared error or cross-entropy, z the mean"
    ),
    "mse": Metric("reconstruction", "per value of x", "lower", "squared error, sampled z"),
    "mse_at_mean": Metric(
        "reconstruction", "per value of x", "lower", "squared error, z the posterior's mean"
    ),
    "sharpness_data": Metric("images", "", "", "variance of the Laplacian, of the images"),
    "sharpness_reconstructions": Metric(
        "images", "", "higher", "variance of the Laplacian, of reconstructions"
    ),
    "sharpness_samples": Metric(
        "images", "", "higher", "variance of the Laplacian, of samples of the prior"
    ),
    "fid_reconstructions": Metric("images", "", "lower", "FID of reconstructions, at mean"),
    "fid_samples": Metric("images", "", "lower", "FID of samples of the prior"),
    "frechet_reconstructions": Metric(
        "generation", "", "lower", "Fréchet distance of reconstructions, at mean"
    ),
    "wave_distance_data": Metric(
        "generation", _PER_EXAMPLE, "", "squared distance from the nearest sine wave, data"
    ),
    "wave_distance_reconstructions": Metric(
        "generation", _PER_EXAMPLE, "lower", "the same of reconstructions, at mean"
    ),
    **{
        f"{name}_{of}": metric._replace(description=f"{metric.description} {source}")
        for of, source in _SOURCES.items()
        for name, metric in _GENERATION.items()
    },
    "loss": Metric("evidence", _PER_EXAMPLE, "", "what the method minimises"),
    "elbo": Metric("evidence", "nats per example", "higher", "lower bound on log p(x)"),
    "log_likelihood": Metric(
        "evidence", "nats per example", "higher", "log p(x), importance-weighted bound"
    ),
    "effective_sample_size": Metric(
        "evidence", "draws", "", "of the importance weights; near 1, that bound is loose"
    ),
    "aevb_kl": Metric("prior", "nats", "", "mean KL[q(z|x) || N(0, I)]"),
    "prior_kl": Metric("prior", "nats", "", "mean KL[q(z|x) || p(z)] of the method's own prior"),
    "wiseale_kl": Metric("prior", "nats", "", "Eq. 21's bound, mean over batches"),
    "wiseale_kl_of_dataset": Metric("prior", "nats", "lower", "Eq. 21's bound, all examples"),
    "aggregate_kl": Metric(
        "prior", "nats", "lower", "KL[q(z) || p(z)] of these; at least aevb_kl - log examples"
    ),
    "aggregate_kl_lower_bound": Metric(
        "prior", "nats", "lower", "by pairs of posteriors or by moments, the larger"
    ),
    "moment_matched_kl": Metric(
        "prior", "nats", "lower", "lower bound on aggregate_kl, by q(z)'s moments"
    ),
    "mutual_information": Metric("prior", "nats", "", "I_q(x; z), at most log examples"),
    "mmd": Metric("prior", "", "lower", "squared MMD, aggregate posterior and prior"),
    "active_units": Metric("latent space", "dimensions", "", "Var E[z|x] > 0.01"),
    "overlap_coefficient": Metric(
        "latent space", "0 to 1", "higher", "compactness: prior mass that q(z) covers"
    ),
    "bhattacharyya_coefficient": Metric(
        "latent space", "0 to 1", "lower", "separation: overlap of pairs, in blocks of 64"
    ),
    "decoder_sensitivity": Metric(
        "latent space", _PER_EXAMPLE, "", "squared change by posterior noise"
    ),
    "interpolation_energy": Metric(
        "latent space", "1 is even", "lower", "smoothness: of paths between test examples"
    ),
    "knn_accuracy": Metric("representation", "0 to 1", "higher", "labels, 5 nearest neighbours"),
    "logistic_regression_accuracy": Metric(
        "representation", "0 to 1", "higher", "labels, a linear classifier"
    ),
    "cluster_accuracy_best_example": Metric(
        "representation", "0 to 1", "higher", "labels, by each cluster's surest example"
    ),
    "cluster_accuracy_majority": Metric(
        "representation", "0 to 1", "higher", "labels, by each cluster's majority"
    ),
    "cluster_accuracy_hungarian": Metric(
        "representation", "0 to 1", "higher", "labels, a cluster for each, best matching"
    ),
    "linear_r2": Metric("representation", "at most 1", "higher", "factor, linear regression"),
    "forest_r2": Metric("representation", "at most 1", "higher", "factor, random forest"),
    "dci_disentanglement": Metric("representation", "0 to 1", "higher", "one factor to a code"),
    "dci_completeness": Metric("representation", "0 to 1", "higher", "one code to a factor"),
    "dci_informativeness": Metric("representation", "at most 1", "higher", "mean forest R^2"),
    "mig": Metric("representation", "0 to 1", "higher", "mutual information gap"),
}

# One number for each factor: linear_r2_amplitude.
BY_FACTOR = ("linear_r2", "forest_r2")

# These are None for a deterministic encoder.
NEEDS_DENSITY = (
    "elbo",
    "log_likelihood",
    "effective_sample_size",
    "aevb_kl",
    "wiseale_kl",
    "wiseale_kl_of_dataset",
    "aggregate_kl",
    "aggregate_kl_lower_bound",
    "mutual_information",
    "overlap_coefficient",
    "bhattacharyya_coefficient",
)


def place(name: str) -> int | None:
    """The place of a number, or of its standard error, in `METRICS`; None where it is no metric."""
    name = name.removesuffix("_stderr")
    for place, known in enumerate(METRICS):
        if name == known or (known in BY_FACTOR and name.startswith(f"{known}_")):
            return place
    return None


def describe(name: str) -> Metric:
    """What a number is, by its name in the result of `evaluate`.

    Raises:
      KeyError: there is no such number.
    """
    for known in BY_FACTOR:
        if name.startswith(f"{known}_"):
            factor, metric = name.removeprefix(f"{known}_"), METRICS[known]
            return metric._replace(description=metric.description.replace("factor", factor, 1))
    return METRICS[name]
