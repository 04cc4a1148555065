"""training/together.py: many runs in one program, each as it is by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import in_ci, skip_without_ott
from tests.helpers.devices import run_on_devices
from wiseale_jax import METHODS, fit, load, methods
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.autoencoder import build_autoencoder
from wiseale_jax.models.networks import default_architecture
from wiseale_jax.training import batches, optimizers, together
from wiseale_jax.training.recipe import Recipe

RNG = np.random.default_rng(0)
FACTORS = RNG.standard_normal((200, 2)).astype(np.float32)
VECTORS = np.float32(np.tanh(FACTORS @ RNG.standard_normal((2, 12))))
QUIET = {"progress": False, "batch_size": 32}


def assert_near(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), a, b)


def numbers(row):
    """A row of a history, but for the speed."""
    return {k: v for k, v in row.items() if k not in ("examples_per_second", "split")}


@pytest.fixture(scope="module")
def models():
    sweep = {"kl_weight": [1, 16.0], "spread": [0.0, 0.3]}
    return fit(VECTORS, test=VECTORS[:50], epochs=2, seeds=[3, 1], sweep=sweep, **QUIET)


def test_each_combination_with_each_seed(models):
    chosen = [(m.config["kl_weight"], m.config["spread"], m.config["seed"]) for m in models]
    assert chosen == [(w, h, s) for w in (1, 16.0) for h in (0.0, 0.3) for s in (3, 1)]
    assert all(model.config["epochs"] == 2 and model.step == 12 for model in models)


@pytest.mark.ci
def test_one_line_says_what_is_trained(capsys):
    fit(VECTORS, epochs=1, batch_size=200, method="beta_vae", sweep={"beta": [1, 4]})
    said = capsys.readouterr().out
    assert "; 2 runs together: beta 1, 4; seed 0\n" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("which", [in_ci(0), 7])
def test_each_is_what_it_is_alone(models, which):
    found, config = models[which], models[which].config
    settings = {name: config[name] for name in ("kl_weight", "spread", "seed")}
    alone = fit(VECTORS, test=VECTORS[:50], epochs=2, **settings, **QUIET)
    assert found.config == alone.config
    assert [row["split"] for row in found.history] == ["train", "test"] * 2
    for row, other in zip(found.history, alone.history, strict=True):
        assert numbers(row).keys() == numbers(other).keys()
        assert_near(numbers(row), numbers(other))
    assert_near(found.variables, alone.variables)


@pytest.mark.ci
def test_all_at_once_as_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(together, "_in_turn", together._at_once)
    shared = {"test": VECTORS[:50], "epochs": 2, "progress": False, "batch_size": 40}
    found = fit(VECTORS, seeds=[0, 1], sweep={"spread": [0.0, 0.3]}, **shared)
    alone = fit(VECTORS, seed=1, spread=0.3, **shared)
    assert_near(numbers(found[-1].history[-1]), numbers(alone.history[-1]))
    assert_near(found[-1].variables, alone.variables)


@pytest.mark.ci
def test_each_is_saved_and_trained_on(models, tmp_path):
    models[0].save(tmp_path / "model")
    again = fit(VECTORS, init=load(tmp_path / "model"), epochs=1, **QUIET)
    assert again.step == 18 and [row["epoch"] for row in again.history] == [1, 1, 2, 2, 3]
    longer = fit(VECTORS, epochs=3, seed=3, **QUIET)
    assert_near(again.variables, longer.variables)


@pytest.mark.ci
def test_a_run_that_diverges_leaves_the_others():
    sweep = {"beta": [4.0, 3e38]}
    with pytest.warns(UserWarning, match=r"the run of beta 3e\+38, seed 0: step 0, in epoch 1, is"):
        sound, ended = fit(VECTORS, method="beta_vae", epochs=2, sweep=sweep, **QUIET)
    assert ended.step == 0 and ended.history == [] and ended.config["epochs"] == 0
    assert np.all(np.isfinite(np.asarray(ended.reconstruct(VECTORS))))
    alone = fit(VECTORS, method="beta_vae", epochs=2, **QUIET)
    assert_near(sound.variables, alone.variables)
    with pytest.raises(FloatingPointError, match=r"the run of beta 3e\+38, seed 0: step 0"):
        fit(VECTORS, method="beta_vae", epochs=2, sweep={"beta": [3e38]}, **QUIET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": []}, r"seeds must be different values, at least one, got \[\]"),
        ({"seeds": [1, 1]}, r"seeds must be different values, at least one, got \[1, 1\]"),
        ({"seeds": [0.5]}, "seed must be a whole number, at least 0, got 0.5"),
        ({"seeds": [1], "seed": 2}, "seed 2 and seeds are both given: one of them is enough"),
        ({"sweep": {"kl_weight": []}}, "kl_weight must be different values, at least one"),
        ({"sweep": {"kl_weight": ["batch"]}}, r"sweep\['kl_weight'\] must hold finite numbers"),
        ({"sweep": {"spread": "auto"}}, r"sweep\['spread'\] must hold finite numbers, got 'auto'"),
        ({"sweep": {"spread": 0.5}}, r"sweep\['spread'\] must be a list of values, got 0.5"),
        ({"sweep": ["spread"]}, r"sweep must be .* \[values\]}, got \['spread'\]"),
        ({"seeds": 3}, "seeds must be a list of values, got 3"),
        ({"seeds": [[0]]}, r"seed must be a whole number, at least 0, got \[0\]"),
        ({"sweep": {"kl_weight": [1, np.nan]}}, r"must hold finite numbers, got nan"),
        ({"sweep": {"kl_weight": [True]}}, "must hold finite numbers, got True"),
        ({"sweep": {"spread": [-1.0]}}, "spread must be at least 0 and finite"),
        ({"sweep": {"beta": [1]}}, "beta is for method beta_vae, and not for 'wiseale'"),
        ({"sweep": {"bound": ["jensen"]}}, "a sweep of method 'wiseale' has no setting 'bound'"),
        ({"sweep": {"kl_wieght": [1]}}, "did you mean 'kl_weight'"),
        (
            {"sweep": {"kl_weight": [1]}, "kl_weight": 2},
            "kl_weight is in the sweep: leave it out of the settings",
        ),
        (
            {"method": "info_vae", "sweep": {"info_lambda": [2.0, 0.5]}},
            r"info_alpha \+ info_lambda must be at least 1, got 0 \+ 0.5",
        ),
    ],
)
def test_what_cannot_be_is_one_error(given, message):
    with pytest.raises(ValueError, match=message):
        fit(VECTORS, epochs=1, **given, **QUIET)


def test_not_with_a_model_to_train_on_or_more_than_fits(models, monkeypatch):
    with pytest.raises(ValueError, match="seeds and sweep begin anew: leave init out"):
        fit(VECTORS, init=models[0], seeds=[1, 2], **QUIET)
    monkeypatch.setattr(batches, "_device_memory", lambda: 1000)
    with pytest.raises(ValueError, match="x is too large to be held on the device"):
        fit(VECTORS, epochs=1, seeds=[1, 2], **QUIET)


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_every_method_can_be_swept(method, monkeypatch):
    monkeypatch.setattr(together, "_in_turn", together._at_once)
    if method == "sinkhorn":
        skip_without_ott()
    weighed = METHODS[method].sweep
    names = methods.numbers_of(method)
    assert weighed is None or weighed[0] in names
    model = build_autoencoder(
        default_architecture((12,)), 2, encoder=METHODS[method].encoder, observation_noise=0.5
    )
    settings = {"pseudo_inputs": 20} if method == "vampprior" else {}
    bound = methods.bind(method, LIKELIHOODS["gaussian"], settings)
    optimizer = optimizers.adam(1e-3, two_players=bound.two_players)
    recipe = Recipe(model, bound, optimizer, lambda x, key: x, 32, dataset_size=len(VECTORS))
    swept = [dict.fromkeys(names, value) for value in (1.0, 2.0)]
    values = together.plan(recipe, [0, 1], swept, VECTORS).values
    keys = jax.random.split(jax.random.key(0), 2)
    states = together._create.eval_shape(recipe, keys, values, VECTORS)
    orders = jnp.zeros((2, len(VECTORS)), int)
    traced = together.train_steps.trace(recipe, states, values, VECTORS, orders, 0, 1)
    assert jax.tree.structure(traced.out_info) == jax.tree.structure(states)
    assert jax.tree.leaves(traced.out_info.params)[0].shape[0] == 2


@pytest.mark.slow
def test_two_devices_share_the_runs():
    run_on_devices(
        2,
        """
        import jax, numpy as np
        from tests.wiseale_jax.training.test_together import QUIET, VECTORS, assert_near, numbers
        from wiseale_jax import fit
        from wiseale_jax.training import together

        separate, devices = together.separate, []

        def watched(runs, states):
            devices.append(len(states.step.devices()))
            return separate(runs, states)

        together.separate = watched
        for method, sweep in (("wiseale", {"spread": [0.0, 0.5]}), ("wae_gan", None)):
            seeds = [0, 1] if sweep is None else [0, 1, 2]
            models = fit(
                VECTORS, test=VECTORS[:50], epochs=2, method=method, seeds=seeds, sweep=sweep,
                **QUIET,
            )
            assert devices.pop() == 2
            last = models[-1]
            settings = {} if sweep is None else {"spread": last.config["spread"]}
            alone = fit(
                VECTORS, test=VECTORS[:50], epochs=2, method=method, seed=last.config["seed"],
                **settings, **QUIET,
            )
            assert_near(numbers(last.history[-1]), numbers(alone.history[-1]))
            assert_near(jax.device_get(last.variables), jax.device_get(alone.variables))
        """,
    )
