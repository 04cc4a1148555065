"""RAE: deterministic auto-encoders with a regulariser instead of a prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods.terms import Metrics, evaluate, with_loss
from wiseale_jax.models.autoencoder import Outputs

REGULARIZERS = ("none", "l2", "gradient_penalty")


def rae(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    rae_weight: float = 0.0128,
    regularizer: str = "l2",
    regularizer_weight: float = 5e-5,
    decode: Callable[[Array], Array] | None = None,
    decoder: Any = None,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """Regularised auto-encoder (Ghosh et al., ICLR 2020), whose codes get a density afterwards.

    The loss is reconstruction_error + rae_weight * |z|^2 / 2 + regularizer_weight * R, with means
    over the batch. To draw samples, fit a density to the codes with `fit_samplers`, and use
    `sample(sampler="mixture")`.

    Args:
      outputs, x, key: see `terms`. The authors' encoder is "deterministic".
      likelihood: its `error` is the reconstruction error.
      rae_weight: beta. The authors' code averages squared errors over the P values of an example,
        and z^2 over d dimensions, so their weight w corresponds to 2 w P / d here. 0.0128 is their
        1e-4 for MNIST (32 x 32 pixels, 16 dimensions) with R.
      regularizer: R. "l2" is the sum of squares of the decoder's parameters. "gradient_penalty" is
        |dx/dz|^2, the squared Frobenius norm of the decoder's Jacobian at z, estimated without bias
        by a random projection. "none" has no R, only |z|^2.
      regularizer_weight: lambda. The authors' values for MNIST are multiplied by P = 1,024: their
        weight decay of 1e-7 multiplies half the square, and so corresponds to 5e-5 here; their
        gradient penalty's weight corresponds to about 5e-5, too.
      decode, decoder: the decoder's function and its parameters, passed by training.
      warmup: see `methods`.

    Raises:
      ValueError: regularizer is unknown, or needs an argument that was not passed; or shapes do not
        match, see `terms`.
    """
    if regularizer not in REGULARIZERS:
        raise ValueError(f"unknown regularizer {regularizer!r}; known: {', '.join(REGULARIZERS)}")
    _, metrics = evaluate(outputs, x, likelihood)
    size_of_z = jnp.mean(jnp.sum(jnp.square(outputs.z), axis=1))
    loss = metrics["reconstruction_error"] + warmup * 0.5 * rae_weight * size_of_z
    if regularizer != "none":
        if decode is None or decoder is None:
            raise ValueError(f"regularizer {regularizer!r} needs the decoder: training passes it")
        term = (
            sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(decoder))
            if regularizer == "l2"
            else gradient_penalty(decode, outputs.z, key)
        )
        metrics["regularizer"] = term
        loss += warmup * regularizer_weight * term
    return with_loss(loss, metrics)


def gradient_penalty(decode: Callable[[Array], Array], z: Array, key: PRNGKeyArray) -> Array:
    """The mean over rows of z of the decoder's squared Frobenius norm |dx/dz|^2, unbiased.

    E |v' J|^2 = |J|^2 for a v with independent entries of mean 0 and variance 1 (Hutchinson, 1989).
    Each row has its own v.
    """
    x, pull_back = jax.vjp(decode, z)
    (projected,) = pull_back(jax.random.normal(key, x.shape, x.dtype))
    return jnp.mean(jnp.sum(jnp.square(projected), axis=1))
