"""Deterministic auto-encoders that are regularised, in place of a prior: RAE."""

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

    reconstruction_error + rae_weight * |z|^2 / 2 + regularizer_weight * R, means over the batch.
    Draw samples from a density that is fitted to its codes: `sample(sampler="mixture")`.

    Args:
      outputs, x, key: see `terms`. The authors' encoder is "deterministic".
      likelihood: whose `error` is the reconstruction error.
      rae_weight: beta. The authors' code averages squared errors over P values of an example, and
        z^2 over d dimensions: its weight w is 2 w P / d here. 0.0128 is their 1e-4 for MNIST (32 x
        32 pixels, 16 dimensions) with R.
      regularizer: R. "l2" is the sum of squares of the decoder's parameters; "gradient_penalty" is
        |dx/dz|^2, the decoder's squared Frobenius norm at z, by a random projection that has it for
        its mean; "none" is no R, and only |z|^2.
      regularizer_weight: lambda. Theirs for MNIST, times P = 1,024: a decay of 1e-7, half of whose
        square is 5e-5 here, and about 5e-5 for the gradient penalty.
      decode, decoder: passed by training: the decoder's function and its parameters.
      warmup: see `bind`.

    Raises:
      ValueError: regularizer is unknown, or needs what training did not pass.
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

    E |v' J|^2 = |J|^2 for v of independent entries of variance 1 (Hutchinson, 1989), one v a row.
    """
    x, pull_back = jax.vjp(decode, z)
    (projected,) = pull_back(jax.random.normal(key, x.shape, x.dtype))
    return jnp.mean(jnp.sum(jnp.square(projected), axis=1))
