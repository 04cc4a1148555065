"""The group, unit and meaning of each number of an evaluation, in a few words."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A description of one number of an evaluation.

    Attributes:
      group: the idea that the number belongs to.
      unit: the unit of the number and of its standard error.
      better: "higher" or "lower", all else equal; "" if neither is better.
      description: the meaning, in a few words.
    """

    group: str
    unit: str
    better: str
    description: str


# For `Metric.better`.
ARROWS = {"higher": "↑", "lower": "↓", "": " "}

_PER_EXAMPLE = "per example"
# The sources of z whose decoded draws are measured by `_GENERATION`.
_SOURCES = {
    "samples": "samples of the prior",
    "aggregate": "draws of q(z)",
    "mixture": "draws of a mixture fitted to codes",
    "two_stage": "draws of a second VAE",
}
_GENERATION = {
    "frechet": Metric("generation", "", "lower", "Fréchet distance between the data and"),
    "precision": Metric("generation", "0 to 1", "higher", "share that resembles the data, among"),
    "recall": Metric("generation", "0 to 1", "higher", "share of the data that resembles"),
    "density": Metric("generation", "about 1", "higher", "how densely the data surround"),
    "coverage": Metric(
        "generation", "0 to 1", "higher", "share of the data with near neighbours among"
    ),
    # These are for sine waves, whose true distribution is known.
    "wave_distance": Metric(
        "generation", _PER_EXAMPLE, "lower", "squared distance to the nearest sine wave from"
    ),
    "amplitude_gap": Metric(
        "generation",
        "0 to 1",
        "lower",
        "Kolmogorov-Smirnov distance between U(0, 2) and amplitudes of",
    ),
    "frequency_gap": Metric(
        "generation",
        "0 to 1",
        "lower",
        "Kolmogorov-Smirnov distance between U(0, 20) and frequencies of",
    ),
}
METRICS = {
    "reconstruction_error": Metric(
        "reconstruction", _PER_EXAMPLE, "lower", "squared error or cross-entropy, at a sampled z"
    ),
    "reconstruction_error_at_mean": Metric(
        "reconstruction",
        _PER_EXAMPLE,
        "lower",
        "squared error or cross-entropy, at the posterior's mean",
    ),
    "mse": Metric("reconstruction", "per value of x", "lower", "squared error, at a sampled z"),
    "mse_at_mean": Metric(
        "reconstruction", "per value of x", "lower", "squared error, at the posterior's mean"
    ),
    "sharpness_data": Metric("images", "", "", "variance of the Laplacian of the data"),
    "sharpness_reconstructions": Metric(
        "images", "", "higher", "variance of the Laplacian of reconstructions"
    ),
    "sharpness_samples": Metric(
        "images", "", "higher", "variance of the Laplacian of samples of the prior"
    ),
    "fid_reconstructions": Metric(
        "images", "", "lower", "FID of reconstructions, at the posterior's mean"
    ),
    "fid_samples": Metric("images", "", "lower", "FID of samples of the prior"),
    "frechet_reconstructions": Metric(
        "generation",
        "",
        "lower",
        "Fréchet distance between the data and reconstructions, at the posterior's mean",
    ),
    "wave_distance_data": Metric(
        "generation", _PER_EXAMPLE, "", "squared distance to the nearest sine wave from the data"
    ),
    "wave_distance_reconstructions": Metric(
        "generation",
        _PER_EXAMPLE,
        "lower",
        "squared distance to the nearest sine wave from reconstructions, at the posterior's mean",
    ),
    **{
        f"{name}_{of}": metric._replace(description=f"{metric.description} {source}")
        for of, source in _SOURCES.items()
        for name, metric in _GENERATION.items()
    },
    "loss": Metric("evidence", _PER_EXAMPLE, "", "the loss that the method minimises"),
    "elbo": Metric("evidence", "nats per example", "higher", "lower bound on log p(x)"),
    "log_likelihood": Metric(
        "evidence", "nats per example", "higher", "importance-weighted lower bound on log p(x)"
    ),
    "effective_sample_size": Metric(
        "evidence",
        "draws",
        "",
        "effective sample size of the importance weights; log_likelihood is loose if it is near 1",
    ),
    "aevb_kl": Metric("prior", "nats", "", "mean KL[q(z|x) || N(0, I)]"),
    "prior_kl": Metric("prior", "nats", "", "mean KL[q(z|x) || p(z)] to the method's own prior"),
    "wiseale_kl": Metric(
        "prior", "nats", "", "Eq. 21's bound on the KL of q(z), mean over batches"
    ),
    "wiseale_kl_of_dataset": Metric(
        "prior", "nats", "lower", "Eq. 21's bound on the KL of q(z), over all examples"
    ),
    "aggregate_kl": Metric(
        "prior",
        "nats",
        "lower",
        "KL[q(z) || p(z)], at least mean KL[q(z|x) || p(z)] - log examples",
    ),
    "aggregate_kl_lower_bound": Metric(
        "prior",
        "nats",
        "lower",
        "lower bound on aggregate_kl, by pairs of posteriors or by moments",
    ),
    "moment_matched_kl": Metric(
        "prior", "nats", "lower", "lower bound on aggregate_kl, by the moments of q(z)"
    ),
    "mutual_information": Metric("prior", "nats", "", "I_q(x; z), at most log examples"),
    "mmd": Metric("prior", "", "lower", "squared MMD between q(z) and the prior"),
    "active_units": Metric("latent space", "dimensions", "", "number with Var E[z|x] > 0.01"),
    "overlap_coefficient": Metric(
        "latent space",
        "0 to 1",
        "higher",
        "compactness: share of the prior's mass that q(z) covers",
    ),
    "latent_precision": Metric(
        "latent space", "0 to 1", "higher", "share of draws of q(z) that lie among the prior's"
    ),
    "latent_coverage": Metric(
        "latent space",
        "0 to 1",
        "higher",
        "compactness without gaps: share of the prior's draws with a near draw of q(z)",
    ),
    "bhattacharyya_coefficient": Metric(
        "latent space",
        "0 to 1",
        "lower",
        "separation: mean overlap of two posteriors, in blocks of 64",
    ),
    "decoder_sensitivity": Metric(
        "latent space",
        _PER_EXAMPLE,
        "",
        "squared change of the decoder's output by posterior noise",
    ),
    "interpolation_energy": Metric(
        "latent space",
        "1 is even",
        "lower",
        "smoothness: unevenness of decoded paths between examples",
    ),
    "knn_accuracy": Metric(
        "representation", "0 to 1", "higher", "share of labels found by the 5 nearest neighbours"
    ),
    "logistic_regression_accuracy": Metric(
        "representation", "0 to 1", "higher", "share of labels found by a linear classifier"
    ),
    "cluster_accuracy_best_example": Metric(
        "representation",
        "0 to 1",
        "higher",
        "share of labels found, if each cluster has its surest example's label",
    ),
    "cluster_accuracy_majority": Metric(
        "representation",
        "0 to 1",
        "higher",
        "share of labels found, if each cluster has its commonest label",
    ),
    "cluster_accuracy_hungarian": Metric(
        "representation",
        "0 to 1",
        "higher",
        "share of labels found, by the best matching of one cluster to each label",
    ),
    "linear_r2": Metric(
        "representation", "at most 1", "higher", "R^2 of factor by linear regression"
    ),
    "forest_r2": Metric("representation", "at most 1", "higher", "R^2 of factor by random forest"),
    "dci_disentanglement": Metric(
        "representation", "0 to 1", "higher", "how far each code predicts only one factor"
    ),
    "dci_completeness": Metric(
        "representation", "0 to 1", "higher", "how far only one code predicts each factor"
    ),
    "dci_informativeness": Metric(
        "representation", "at most 1", "higher", "mean R^2 of the factors by random forest"
    ),
    "mig": Metric(
        "representation", "0 to 1", "higher", "mutual information gap of a factor's best two codes"
    ),
}

# These give one number for each factor, such as linear_r2_amplitude.
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
    """The index in `METRICS` of a number or of its standard error; None if it is no metric."""
    name = name.removesuffix("_stderr")
    for place, known in enumerate(METRICS):
        if name == known or (known in BY_FACTOR and name.startswith(f"{known}_")):
            return place
    return None


def describe(name: str) -> Metric:
    """Describes a number, given its name in the result of an evaluation.

    Raises:
      KeyError: there is no such number.
    """
    for known in BY_FACTOR:
        if name.startswith(f"{known}_"):
            factor, metric = name.removeprefix(f"{known}_"), METRICS[known]
            return metric._replace(description=metric.description.replace("factor", factor, 1))
    return METRICS[name]
