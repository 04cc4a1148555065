"""methods/: losses and metrics recomputed in float64 NumPy, but for the bound and the MMD."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import in_ci, skip_without_ott
from wiseale_jax.divergences import mmd, wiseale_kl
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.methods import METHODS, bind
from wiseale_jax.models.autoencoder import Outputs

KEY = jax.random.key(0)
NAMES = {"loss", "reconstruction_error", "aevb_kl", "wiseale_kl", "elbo", "mse"}
OF_ITS_OWN = {
    "wae_gan": {"discriminator_loss"},
    "aae": {"discriminator_loss"},
    "sinkhorn": {"sinkhorn_cost", "marginal_error"},
    "rae": {"regularizer"},
    "gmvae": {"conditional_kl", "w_kl", "cluster_kl"},
    "vampprior": {"prior_kl"},
    "beta_tcvae": {"index_code_information", "total_correlation", "dimension_kl"},
    "info_vae": {"mmd"},
    "dip_vae": {"dip_penalty"},
}
# With a prior of its own, the ELBO is of that.
OWN_PRIOR = ("gmvae", "vampprior")
SIZES = {"gmvae": {"gmvae_units": 5}, "vampprior": {"pseudo_inputs": 2}}


def case(likelihood, seed=0, batch=6, latent=3):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x = draw(batch, 8, 2)
    if likelihood == "bernoulli":
        x = (x > 0).astype(np.float32)
    mean, logvar = draw(batch, latent), draw(batch, latent)
    outputs = Outputs(mean, logvar, draw(batch, latent), draw(batch, 8, 2), jnp.float32(-0.7))
    return x, outputs


def objective_of(method, likelihood="gaussian", latent=3, shape=(8, 2), **settings):
    """A method as a function of outputs, x and key, with a network that is next to none."""
    if method == "sinkhorn":
        skip_without_ott()
    bound = bind(method, LIKELIHOODS[likelihood], {**SIZES.get(method, {}), **settings})

    def encode(x):
        return x.reshape(len(x), -1)[:, :latent], jnp.zeros((len(x), latent))

    given = {"encode": encode, "decode": lambda z: z, "decoder": {"bias": jnp.ones(3)}}
    if bound.init is not None:
        model = types.SimpleNamespace(latent_dim=latent)
        given["own"] = bound.init(KEY, model, jnp.full((2, *shape), 0.5))
    return functools.partial(bound, **given)


def expected(x, outputs, likelihood):
    x, mean, logvar, output = map(np.float64, (x, outputs.mean, outputs.logvar, outputs[3]))
    if likelihood == "gaussian":
        error = np.sum((x - output) ** 2, axis=(1, 2))
        variance = np.exp(-0.7)
        nll = error / (2 * variance) + 0.5 * 16 * np.log(2 * np.pi * variance)
        expectation = output
    else:
        expectation = 1 / (1 + np.exp(-output))
        nll = error = -np.sum(
            x * np.log(expectation) + (1 - x) * np.log(1 - expectation), axis=(1, 2)
        )
    kl = 0.5 * np.sum(mean**2 + np.exp(logvar) - 1 - logvar, axis=1)
    return {
        "nll": nll.mean(),
        "reconstruction_error": error.mean(),
        "aevb_kl": kl.mean(),
        "elbo": -nll.mean() - kl.mean(),
        "mse": np.mean((x - expectation) ** 2),
    }


# What takes seconds to compile.
HEAVY = ("gmvae", "sinkhorn", "vampprior")
# Each method with one likelihood; both with the paper's.
PAIRS = [
    (method, likelihood)
    if (likelihood == "gaussian" and method not in HEAVY) or method not in OF_ITS_OWN
    else pytest.param(method, likelihood, marks=pytest.mark.ci)
    for method in METHODS
    for likelihood in LIKELIHOODS
]


@pytest.mark.parametrize(("method", "likelihood"), PAIRS)
def test_metrics_are_the_same_for_every_method(method, likelihood):
    x, outputs = case(likelihood)
    loss, metrics = jax.jit(objective_of(method, likelihood))(outputs, x, KEY)
    want = expected(x, outputs, likelihood)
    assert set(metrics) == NAMES | OF_ITS_OWN.get(method, set())
    assert all(value.shape == () for value in metrics.values())
    for name in ("reconstruction_error", "aevb_kl", "elbo", "mse"):
        if name == "elbo" and method in OWN_PRIOR:
            continue
        np.testing.assert_allclose(metrics[name], want[name], rtol=1e-5)
    np.testing.assert_allclose(metrics["wiseale_kl"], wiseale_kl(outputs.mean, outputs.logvar))
    assert loss == metrics["loss"]


def loss_of(method, likelihood="gaussian", warmup=None, **settings):
    x, outputs = case(likelihood)
    return objective_of(method, likelihood, **settings)(outputs, x, KEY, warmup=warmup)[0]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_losses(likelihood):
    x, outputs = case(likelihood)
    want = expected(x, outputs, likelihood)
    kl = float(wiseale_kl(outputs.mean, outputs.logvar))
    prior_z = jax.random.normal(KEY, outputs.z.shape)
    penalty = float(mmd(outputs.z, prior_z))
    for method, settings, loss in (
        ("aevb", {}, want["nll"] + want["aevb_kl"]),
        ("beta_vae", {}, want["nll"] + 4 * want["aevb_kl"]),
        ("beta_vae", {"beta": 0.5}, want["nll"] + 0.5 * want["aevb_kl"]),
        ("wiseale", {}, want["nll"] + kl / 6),
        ("wiseale", {"kl_weight": "batch"}, want["nll"] + kl),
        ("wiseale", {"kl_weight": 3.0}, want["nll"] + 3 * kl / 6),
        ("wae_mmd", {}, want["reconstruction_error"] + 200 * penalty),
        ("wae_mmd", {"mmd_weight": 100.0}, want["reconstruction_error"] + 100 * penalty),
        ("ae", {}, want["nll"]),
    ):
        np.testing.assert_allclose(loss_of(method, likelihood, **settings), loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "weight", "value"),
    [
        ("aevb", None, None),
        ("beta_vae", "beta", 4.0),
        ("wiseale", "kl_weight", 1.0),
        ("wae_mmd", "mmd_weight", 200.0),
        in_ci("sinkhorn", "sinkhorn_weight", 100.0),
        in_ci("gmvae", None, None),
        in_ci("vampprior", None, None),
        ("beta_tcvae", None, None),
        ("info_vae", None, None),
        ("dip_vae", None, None),
        ("rae", None, None),
    ],
)
def test_a_warmup_multiplies_the_term_of_the_prior_alone(method, weight, value):
    full, none = loss_of(method), loss_of(method, warmup=0.0)
    np.testing.assert_allclose(loss_of(method, warmup=0.25), none + (full - none) / 4, rtol=1e-6)
    assert abs(full - none) > 0.01
    if weight:
        np.testing.assert_array_equal(
            loss_of(method, warmup=0.25), loss_of(method, **{weight: value / 4})
        )


@pytest.mark.parametrize("bound", ["bhattacharyya", "tightest"])
def test_wiseale_with_another_bound(bound):
    x, outputs = case("gaussian")
    kl = float(wiseale_kl(outputs.mean, outputs.logvar, bound=bound))
    want = expected(x, outputs, "gaussian")["nll"] + kl / 6
    np.testing.assert_allclose(loss_of("wiseale", bound=bound), want, rtol=1e-6)


@pytest.mark.parametrize("spread", [0.3, "auto"])
def test_wiseale_with_a_spread(spread):
    x, outputs = case("gaussian")
    kl = float(wiseale_kl(outputs.mean, outputs.logvar, spread=spread))
    want = expected(x, outputs, "gaussian")["nll"] + kl
    objective = objective_of("wiseale", kl_weight="batch", spread=spread)
    loss, metrics = objective(outputs, x, KEY)
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(metrics["spread_kl"], kl, rtol=1e-6)
    assert set(metrics) == NAMES | {"spread_kl"} and metrics["wiseale_kl"] > kl


def test_wiseale_with_the_kl_of_single_posteriors():
    x, outputs = case("gaussian")
    plain = expected(x, outputs, "gaussian")
    kl = float(wiseale_kl(outputs.mean, outputs.logvar))
    want = plain["nll"] + kl / 6 + 0.3 * plain["aevb_kl"]
    np.testing.assert_allclose(loss_of("wiseale", aevb_kl_weight=0.3), want, rtol=1e-6)
    # Without a KL of the aggregate it is a beta-VAE.
    alone = loss_of("wiseale", kl_weight=0.0, aevb_kl_weight=0.3)
    np.testing.assert_allclose(alone, loss_of("beta_vae", beta=0.3), rtol=1e-6)
    warming = objective_of("wiseale", aevb_kl_weight=0.3)(outputs, x, KEY, warmup=0.5)[0]
    np.testing.assert_allclose(warming, plain["nll"] + (want - plain["nll"]) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    "method",
    [in_ci(m) if m in HEAVY else m for m, known in METHODS.items() if not known.needs_density],
)
def test_deterministic_encoder_has_infinite_kl_and_finite_gradient(method):
    x, outputs = case("gaussian")
    outputs = outputs._replace(logvar=jnp.full_like(outputs.logvar, -jnp.inf))
    objective = objective_of(method)

    def loss(mean, reconstruction):
        changed = outputs._replace(mean=mean, z=mean, reconstruction=reconstruction)
        return objective(changed, x, KEY)

    gradients, metrics = jax.grad(loss, (0, 1), has_aux=True)(outputs.mean, outputs.reconstruction)
    assert metrics["aevb_kl"] == metrics["wiseale_kl"] == np.inf and metrics["elbo"] == -np.inf
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown method 'vae'; known: wiseale, aevb, beta_vae"):
        bind("vae", LIKELIHOODS["gaussian"], {})


def test_a_weight_of_the_kl_that_is_misspelt():
    objective = bind("wiseale", LIKELIHOODS["gaussian"], {"kl_weight": "bacth"})
    zeros = jnp.zeros((4, 2))
    outputs = Outputs(zeros, zeros, zeros, zeros, jnp.zeros(()))
    with pytest.raises(ValueError, match="kl_weight must be a number or 'batch', got 'bacth'"):
        objective(outputs, zeros, jax.random.key(0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"x": jnp.zeros((4, 3, 1))},
            r"shape \(4, 3\) and floating-point, got \(4, 3, 1\) float32",
        ),
        ({"x": jnp.zeros((3,))}, r"got \(3,\) float32"),
        ({"x": jnp.zeros((4, 3), jnp.uint8)}, r"got \(4, 3\) uint8"),
        ({"mean": jnp.zeros((5, 2))}, r"with batch 4, got mean \(5, 2\)"),
        ({"logvar": jnp.zeros((4, 1))}, r"got logvar \(4, 1\) and mean \(4, 2\)"),
        ({"z": jnp.zeros(4)}, r"got z \(4,\) and mean \(4, 2\)"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_shapes_that_do_not_belong_together(method, changes, words):
    given = {name: jnp.zeros((4, 2)) for name in ("mean", "logvar", "z")}
    given |= {"x": jnp.zeros((4, 3)), **changes}
    x = given.pop("x")
    outputs = Outputs(**given, reconstruction=jnp.zeros((4, 3)), observation_logvar=jnp.zeros(()))
    objective = objective_of(method, latent=2, shape=(3,))
    with pytest.raises(ValueError, match=words):
        jax.jit(objective)(outputs, x, jax.random.key(0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"kl_wieght": 1.0},
            r"method 'wiseale' has no setting 'kl_wieght'; did you mean 'kl_weight'",
        ),
        ({"beta": 1.0}, r"setting 'beta' \(known: aevb_kl_weight, bound, kl_weight, spread\)"),
        ({"likelihood": 1.0}, "has no setting 'likelihood'"),
        ({"warmup": 1.0}, "has no setting 'warmup'"),
    ],
)
def test_a_setting_that_is_none_is_refused_with_the_nearest(settings, words):
    with pytest.raises(ValueError, match=words):
        bind("wiseale", LIKELIHOODS["gaussian"], settings)


def discriminator(own, z):
    """The discriminator's logit in float64 NumPy."""
    z = np.float64(z)
    for i in range(len(own)):
        layer = jax.tree.map(np.float64, own[f"Dense_{i}"])
        z = z @ layer["kernel"] + layer["bias"]
        z = np.maximum(z, 0) if i < len(own) - 1 else z
    return z[:, 0]


@pytest.mark.ci
@pytest.mark.parametrize("trick", [False, True])
def test_wae_gan_is_algorithm_1(trick):
    x, outputs = case("gaussian")
    settings = {"gan_weight": 7.0, "log_prior_trick": trick}
    settings |= {"discriminator_width": 5, "discriminator_depth": 2}
    bound = bind("wae_gan", LIKELIHOODS["gaussian"], settings)
    own = bound.init(KEY, types.SimpleNamespace(latent_dim=3), None)
    assert own["Dense_0"]["kernel"].shape == (3, 5) and set(own) == {f"Dense_{i}" for i in range(3)}
    prior_z = np.float64(jax.random.normal(KEY, (6, 3)))

    def logit(z):
        return discriminator(own, z) - (0.5 * np.sum(np.float64(z) ** 2, 1) if trick else 0)

    def mean_log_sigmoid(t):
        return -np.mean(np.log1p(np.exp(-t)))

    def total(outputs, own):
        return bound(outputs, x, KEY, own=own)

    want = expected(x, outputs, "gaussian")["reconstruction_error"]
    want -= 7 * mean_log_sigmoid(logit(outputs.z))
    told = -mean_log_sigmoid(logit(prior_z)) - mean_log_sigmoid(-logit(outputs.z))
    (of_outputs, of_own), metrics = jax.grad(total, (0, 1), has_aux=True)(outputs, own)
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
    np.testing.assert_allclose(metrics["discriminator_loss"], told, rtol=1e-5)

    # Each player's gradient is that of its own term, by central differences in float64.
    def shifted(tree, path, by):
        changed = jax.tree.map(np.float64, tree)
        changed["Dense_1"]["kernel"][path] += by
        return changed

    def told_apart(own):
        def of(z):
            return discriminator(own, z) - (0.5 * np.sum(np.float64(z) ** 2, 1) if trick else 0)

        return -mean_log_sigmoid(of(prior_z)) - mean_log_sigmoid(-of(outputs.z))

    slope = (
        told_apart(shifted(own, (0, 1), 1e-5)) - told_apart(shifted(own, (0, 1), -1e-5))
    ) / 2e-5
    np.testing.assert_allclose(of_own["Dense_1"]["kernel"][0, 1], slope, rtol=1e-3, atol=1e-6)
    up, down = (np.float64(outputs.z) + by * np.eye(1, 18).reshape(6, 3) for by in (1e-5, -1e-5))
    slope = -7 * (mean_log_sigmoid(logit(up)) - mean_log_sigmoid(logit(down))) / 2e-5
    np.testing.assert_allclose(of_outputs.z[0, 0], slope, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["wae_gan", "aae"])
def test_the_best_discriminator_of_two_gaussians(method):
    # Of N(0, I) and N(m, I) the logit is log p(z) - log q(z) = |m|^2 / 2 - m z, which is linear.
    m, size = np.array([0.8, -0.5]), 20_000
    rng = np.random.default_rng(0)
    z = np.float32(m + rng.standard_normal((size, 2)))
    zeros = jnp.zeros((size, 1))
    outputs = Outputs(z, jnp.zeros_like(z), z, zeros, jnp.float32(0))
    kernel, bias = jnp.float32(-m)[:, None], jnp.float32([m @ m / 2])
    own = {"Dense_0": {"kernel": kernel, "bias": bias}}
    bound = bind(method, LIKELIHOODS["gaussian"], {"gan_weight": 3.0})

    def loss(z, own):
        return bound(outputs._replace(z=z), zeros, KEY, own=own)

    (of_z, of_own), metrics = jax.grad(loss, (0, 1), has_aux=True)(z, own)
    # The encoder's gradient: of -log D(z), sigmoid(-logit) m, each a share of the batch.
    logit = m @ m / 2 - np.float64(z) @ m
    want = 3 / (1 + np.exp(logit))[:, None] * m / size
    np.testing.assert_allclose(of_z, want, rtol=1e-3, atol=1e-9)
    # The discriminator is at its best: no gradient but that of the sample, whose terms are < 1.
    assert all(np.all(np.abs(leaf) < 5 * 2 / size**0.5) for leaf in jax.tree.leaves(of_own))
    # Its loss is log 4 less twice the Jensen-Shannon divergence, by quadrature along m.
    t, length = np.linspace(-9, 9, 20_001), np.linalg.norm(m)
    p, q = (np.exp(-0.5 * (t - at) ** 2) / np.sqrt(2 * np.pi) for at in (0, length))
    middle = (p + q) / 2
    divergence = np.trapezoid(p * np.log(p / middle) + q * np.log(q / middle), t) / 2
    np.testing.assert_allclose(metrics["discriminator_loss"], np.log(4) - 2 * divergence, atol=0.02)


def test_the_discriminator_has_a_value_at_any_logit():
    x, outputs = case("gaussian")
    bound = bind("wae_gan", LIKELIHOODS["gaussian"], {})
    own = bound.init(KEY, types.SimpleNamespace(latent_dim=3), None)
    far = outputs._replace(z=1e4 * outputs.z)
    gradients, metrics = jax.grad(
        lambda z: bound(far._replace(z=z), x, KEY, own=own), has_aux=True
    )(far.z)
    assert np.isfinite(metrics["loss"]) and np.all(np.isfinite(gradients))
