"""The pairwise log-sum-exp over diagonal Gaussians that every mixture bound here stands on.

For M Gaussians N(mean_i, diag v_i), v = exp(logvar), and two constants (distance, entropy):

    l_ij  = a_i + a_j - sum_k [distance (mean_ik - mean_jk)^2 / s_ijk + 1/2 log s_ijk]
    s_ijk = v_ik + v_jk
    a_i   = entropy * sum_k logvar_ik
    lse_i = log sum_j exp(l_ij)

l is symmetric, so the derivative of mean_i lse_i needs one weight per pair,
W_ij = exp(l_ij - lse_i) + exp(l_ij - lse_j), and has the closed form written in `_dense_gradient`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class PairTerm(NamedTuple):
    """The constants of one pair term l_ij (see the module's docstring)."""

    distance: float
    entropy: float


def _log_terms(mean, logvar, term: PairTerm) -> Float[Array, "batch batch"]:
    variance = jnp.exp(logvar)
    total = jnp.zeros((mean.shape[0], mean.shape[0]), mean.dtype)
    for k in range(mean.shape[1]):
        spread = variance[:, k, None] + variance[None, :, k]
        difference = mean[:, k, None] - mean[None, :, k]
        total -= term.distance * difference**2 / spread + 0.5 * jnp.log(spread)
    bias = term.entropy * jnp.sum(logvar, axis=1)
    return total + bias[:, None] + bias[None, :]


def _dense_gradient(mean, logvar, term: PairTerm):
    """Value of mean_i lse_i and its gradient with respect to mean and logvar."""
    size = mean.shape[0]
    log_terms = _log_terms(mean, logvar, term)
    lse = jax.nn.logsumexp(log_terms, axis=1)
    weights = jnp.exp(log_terms - lse[:, None]) + jnp.exp(log_terms - lse[None, :])

    def one_dimension(mean_k, logvar_k):
        variance = jnp.exp(logvar_k)
        precision = 1 / (variance[:, None] + variance[None, :])
        slope = (mean_k[:, None] - mean_k[None, :]) * precision
        grad_mean = -2 * term.distance * jnp.sum(weights * slope, axis=1)
        # Only ever multiplied by quantities of order 1 before the weight, which is 0 for far pairs
        # of narrow Gaussians: slope**2 alone would overflow there, and 0 * inf is not 0.
        share = variance[:, None] * precision
        squared = jnp.minimum(slope * (mean_k[:, None] - mean_k[None, :]), 1e30)
        grad_logvar = jnp.sum(weights * (term.distance * squared - 0.5) * share, axis=1)
        return grad_mean, grad_logvar

    grad_mean, grad_logvar = jax.vmap(one_dimension, 1, 1)(mean, logvar)
    grad_logvar += term.entropy * jnp.sum(weights, axis=1)[:, None]
    return jnp.mean(lse), (grad_mean / size, grad_logvar / size)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def mean_log_sum_exp(
    mean: Float[Array, "batch latent"], logvar: Float[Array, "batch latent"], term: PairTerm
) -> Float[Array, ""]:
    """mean_i log sum_j exp(l_ij) for float32 inputs.

    The derivative is a dot product of the closed-form gradient with the tangents, so forward mode,
    reverse mode and second derivatives all follow from one rule.
    """
    return jnp.mean(jax.nn.logsumexp(_log_terms(mean, logvar, term), axis=1))


@mean_log_sum_exp.defjvp
def _mean_log_sum_exp_jvp(term, primals, tangents):
    value, gradient = _dense_gradient(*primals, term)
    return value, sum(jnp.vdot(g, t) for g, t in zip(gradient, tangents, strict=True))
