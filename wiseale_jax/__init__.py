"""WiSE-ALE in JAX: variational auto-encoders with a prior on the aggregate posterior."""

from wiseale_jax.datasets import DATASETS
from wiseale_jax.datasets.load import Examples, load_examples
from wiseale_jax.divergences import (
    aggregate_kl,
    gaussian_kl,
    mmd,
    wiseale_kl,
    wiseale_kl_of_dataset,
)
from wiseale_jax.evaluation.latents import aggregate_kl_lower_bound, moment_matched_kl
from wiseale_jax.evaluation.likelihood import importance_weighted_log_likelihood
from wiseale_jax.likelihoods import (
    LIKELIHOODS,
    bernoulli_log_likelihood,
    gaussian_log_likelihood,
)
from wiseale_jax.methods import METHODS
from wiseale_jax.models.autoencoder import Autoencoder, Modules, Outputs, build_autoencoder
from wiseale_jax.models.networks import (
    Architecture,
    Conv,
    ConvTranspose,
    Crop,
    Dense,
    Reshape,
)
from wiseale_jax.models.trained import TrainedAutoencoder, load
from wiseale_jax.training.fit import fit
from wiseale_jax.training.fit_samplers import fit_samplers
from wiseale_jax.version import __version__

__all__ = [
    "DATASETS",
    "LIKELIHOODS",
    "METHODS",
    "Architecture",
    "Autoencoder",
    "Conv",
    "ConvTranspose",
    "Crop",
    "Dense",
    "Examples",
    "Modules",
    "Outputs",
    "Reshape",
    "TrainedAutoencoder",
    "__version__",
    "aggregate_kl",
    "aggregate_kl_lower_bound",
    "bernoulli_log_likelihood",
    "build_autoencoder",
    "fit",
    "fit_samplers",
    "gaussian_kl",
    "gaussian_log_likelihood",
    "importance_weighted_log_likelihood",
    "load",
    "load_examples",
    "mmd",
    "moment_matched_kl",
    "wiseale_kl",
    "wiseale_kl_of_dataset",
]
