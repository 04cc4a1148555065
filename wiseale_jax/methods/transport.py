"""The Sinkhorn auto-encoder: optimal transport from codes to draws of the prior, with ott-jax."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods.terms import Metrics, draws_of_prior, evaluate, with_loss
from wiseale_jax.models.autoencoder import Outputs
from wiseale_jax.priors import Prior

# ott-jax 0.6 gives no gradient with earlier versions of JAX.
HAS_OTT = importlib.util.find_spec("ott") is not None and jax.__version_info__ >= (0, 9)

COSTS = ("sharp", "debiased")

# Above this, the plan's marginals are far from the two samples, and training ends with a warning.
_MOST_MARGINAL_ERROR = 0.1


def unfinished(metrics: Mapping[str, Any]) -> str | None:
    """A warning if Sinkhorn's iterations are far from convergence; None otherwise.

    Args:
      metrics: the last epoch's metrics, of any method.
    """
    error = metrics.get("marginal_error")
    if error is None or error <= _MOST_MARGINAL_ERROR:
        return None
    return (
        f"the transport plan's marginals are off by {error:.2f}, of 2 at most: epsilon is small "
        "for so few iterations. A larger epsilon or more iterations helps"
    )


def sinkhorn_cost(
    z: Float[Array, "batch latent"],
    prior_z: Float[Array, "samples latent"],
    *,
    epsilon: float = 0.1,
    iterations: int = 50,
    cost: str = "sharp",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The cost of moving one sample onto another, at |z_i - z'_j|^2 per unit of mass.

    It is computed by entropic optimal transport (Cuturi, 2013) with ott-jax. The iterations run in
    the log domain, and the gradient goes through them.

    Args:
      z, prior_z: the samples, all rows of equal mass.
      epsilon: weight of the entropy, positive, in squared units of z. A smaller epsilon is nearer
        to optimal transport, and needs more iterations.
      iterations: iterations of Sinkhorn's algorithm.
      cost: "sharp" is the plan's cost without its entropy (Luise et al., 2018; Patrini et al.,
        2018, Eq. 11); "debiased" is the Sinkhorn divergence (Feydy et al., 2019), which is 0 for
        two equal samples.

    Returns:
      The cost, and the error of the plan's marginals: the sum over both samples' rows of the
      distance of a row's mass from its target, in 0..2. It is 0 at convergence.

    Raises:
      ImportError: ott-jax is not installed, or JAX is older than 0.9.
      ValueError: cost is unknown, epsilon is not positive, or iterations are fewer than 1.
    """
    if not HAS_OTT:
        raise ImportError(
            "method 'sinkhorn' needs ott-jax, and JAX 0.9: pip install 'wiseale_jax[sinkhorn]'"
        )
    if cost not in COSTS:
        raise ValueError(f"unknown sinkhorn_cost {cost!r}; known: {', '.join(COSTS)}")
    known = not isinstance(epsilon, jax.core.Tracer)
    if (known and not epsilon > 0) or iterations < 1:
        raise ValueError(
            f"epsilon must be positive and iterations at least 1, got {epsilon} and {iterations}"
        )
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn as solver

    solve = solver.Sinkhorn(
        lse_mode=True,
        threshold=-1.0,  # Never stop early, so that the loss is always the same function.
        # A single block: with several, ott-jax 0.6 starts its backward pass at the wrong block.
        inner_iterations=iterations,
        min_iterations=iterations,
        max_iterations=iterations,
        use_danskin=False,
        implicit_diff=None,
    )

    def solved(a: Array, b: Array):
        geometry = pointcloud.PointCloud(a, b, epsilon=epsilon)
        out = solve(linear_problem.LinearProblem(geometry))
        return geometry, out

    geometry, out = solved(z, prior_z)
    plan = out.matrix
    error = jnp.sum(jnp.abs(jnp.sum(plan, axis=1) - 1 / len(z)))
    error += jnp.sum(jnp.abs(jnp.sum(plan, axis=0) - 1 / len(prior_z)))
    if cost == "sharp":
        return jnp.sum(plan * geometry.cost_matrix), error
    own = [solved(a, a)[1].reg_ot_cost for a in (z, prior_z)]
    return out.reg_ot_cost - 0.5 * sum(own), error


def sinkhorn(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    sinkhorn_weight: float = 100.0,
    epsilon: float = 0.1,
    iterations: int = 50,
    sinkhorn_cost: str = "sharp",
    prior: Prior | None = None,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """Sinkhorn auto-encoder (Patrini et al., UAI 2019): transports codes to draws of the prior.

    The loss is reconstruction_error + sinkhorn_weight * cost, with as many draws of the prior as
    codes. The metric `sinkhorn_cost` is the cost, in squared units of z. The metric
    `marginal_error` is the distance from convergence, see `transport.sinkhorn_cost`.

    Args:
      outputs, x, key: see `terms`. The authors' encoder is "deterministic", or "spherical" with the
        uniform prior on the sphere.
      likelihood: its `error` is the reconstruction error.
      sinkhorn_weight: beta; 100 is the authors' for MNIST on the sphere, 10 for CelebA.
      epsilon, iterations: 0.1 and 50 are the authors'. On the sphere, no cost exceeds 4. With
        N(0, I), costs grow with the dimensions of z, and an epsilon of 1 converges better.
      sinkhorn_cost: "sharp", the authors', or "debiased".
      prior: passed by training; None for N(0, I).
      warmup: see `methods`.

    Raises:
      ImportError, ValueError: see `transport.sinkhorn_cost` and `terms`.
    """
    _, metrics = evaluate(outputs, x, likelihood)
    prior_z = draws_of_prior(prior, key, outputs.z)
    cost, error = _cost(
        outputs.z, prior_z, epsilon=epsilon, iterations=iterations, cost=sinkhorn_cost
    )
    loss = metrics["reconstruction_error"] + warmup * sinkhorn_weight * cost
    own = {"sinkhorn_cost": cost, "marginal_error": jax.lax.stop_gradient(error)}
    return with_loss(loss, {**metrics, **own})


_cost = sinkhorn_cost  # In `sinkhorn`, a setting of the same name hides the function.
