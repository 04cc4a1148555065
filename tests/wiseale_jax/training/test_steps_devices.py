"""training/steps.py over a mesh of 8 devices: one batch, one bound, the same curve."""

import pytest

from tests.helpers.devices import run_on_devices
from wiseale_jax.methods.transport import HAS_OTT


@pytest.mark.slow
def test_eight_devices_train_as_one():
    run_on_devices(
        8,
        """
        import jax, numpy as np, optax
        from tests.wiseale_jax.training.test_steps import DATA, make
        from wiseale_jax.training import recipe as recipes
        from wiseale_jax.training import steps
        from wiseale_jax.training import batches

        mesh = recipes.make_mesh(8)
        curves, parameters = {}, {}
        for name in ("one", "eight", "eight, streamed"):
            # Not Adam: it makes whole steps of the rounding in the gradient of a bias that
            # batch normalisation takes away again.
            recipe = make("wiseale", 16, optimizer=optax.sgd(1e-2))
            if name != "one":
                recipe = recipe._replace(mesh=mesh)
            state = steps.create_state(recipe, 0, DATA)
            curve = []
            for epoch in (1, 2, 3):
                order = steps.epoch_order(state.key, epoch, len(DATA))
                if name == "eight, streamed":
                    sharding = recipes.batches_sharding(recipe)
                    parts = batches.stream(np.asarray(DATA), order, 16, 0, sharding)
                else:
                    parts = batches.resident(recipes.replicate(recipe, DATA), order, 16)
                for part in parts:
                    state = steps.train_steps(recipe, state, *part)
                state, means = steps.finish_epoch(state)
                curve.append([means[key] for key in sorted(means)])
            assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
            if name != "one":
                assert len(state.step.devices()) == 8
            test = steps.evaluate(recipe, state.variables, recipes.replicate(recipe, DATA), 0)
            curve.append([test[key] for key in sorted(test)])
            curves[name], parameters[name] = curve, jax.device_get(state.params)
        for name in curves:
            np.testing.assert_allclose(curves[name], curves["one"], rtol=1e-4, err_msg=name)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
                parameters[name], parameters["one"],
            )
        """,
    )


CALLING = ("wae_gan", "gmvae", "vampprior", "rae", "beta_tcvae")  # The network in the loss.
OTHERS = ("aae", "dip_vae", "info_vae", *["sinkhorn"] * HAS_OTT)


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        pytest.param("wiseale", (1, 4, 8), marks=pytest.mark.ci),
        *(pytest.param(method, (1, 4, 8), marks=pytest.mark.slow) for method in CALLING),
        *(pytest.param(method, (1,), marks=pytest.mark.slow) for method in OTHERS),
    ],
)
def test_a_batch_in_parts_on_two_devices_has_the_gradient_of_the_whole(method, parts):
    run_on_devices(
        2,
        f"""
        import jax, numpy as np, optax
        from tests.wiseale_jax.training.test_steps import DATA, PLAIN, make
        from wiseale_jax.training import recipe as recipes
        from wiseale_jax.training import steps

        step = jax.jit(steps.train_step, static_argnums=0)
        recipe = make({method!r}, 16, PLAIN, optax.sgd(1.0), observation_noise="learned")
        want, _ = step(recipe, steps.create_state(recipe, 0, DATA), DATA[:16])
        assert ("method" in want.params) == (recipe.method.init is not None)
        for parts in {parts}:
            recipe = recipe._replace(mesh=recipes.make_mesh(2), microbatches=parts)
            got, _ = step(recipe, steps.create_state(recipe, 0, DATA), DATA[:16])
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-5),
                jax.device_get(got.params), jax.device_get(want.params),
            )
        """,
    )


@pytest.mark.ci
def test_devices_share_the_pairs_of_a_large_batch():
    run_on_devices(
        4,
        """
        import functools
        import jax, numpy as np, optax
        from tests.wiseale_jax.training.test_steps import DATA, PLAIN, make
        from wiseale_jax import pairwise
        from wiseale_jax.likelihoods import LIKELIHOODS
        from wiseale_jax.methods import bind, variational
        from wiseale_jax.training import recipe as recipes
        from wiseale_jax.training import steps

        # XLA counts a loop's operations once: every step has one part, and its size says the work.
        pairwise._PART_LANES = 1
        data = np.tile(DATA[:32], (40, 1, 1))[:1280]
        data += np.random.default_rng(0).standard_normal(data.shape, np.float32)
        for settings in ({}, {"spread": "auto", "bound": "tightest", "kl_weight": "batch"}):
            recipe = make("wiseale", len(data), PLAIN, optax.sgd(1e-2))
            recipe = recipe._replace(method=bind("wiseale", LIKELIHOODS["gaussian"], settings))
            found, flops = [], []
            for shares in (False, True):
                variational._SHARED_PAIRS = 1024 if shares else len(data)
                jax.clear_caches()
                recipe = recipe._replace(mesh=recipes.make_mesh(4))
                state = steps.create_state(recipe, 0, DATA)
                step = jax.jit(steps.train_step, static_argnums=0)
                flops.append(step.lower(recipe, state, data).compile().cost_analysis()["flops"])
                state, metrics = step(recipe, state, data)
                found.append(jax.device_get((state.params, metrics)))
            near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
            jax.tree.map(near, *found)
            assert flops[1] < 0.5 * flops[0], flops
        """,
    )


@pytest.mark.ci
def test_a_full_memory_on_two_devices_is_that_of_one():
    run_on_devices(
        2,
        """
        import jax, numpy as np, optax
        from tests.wiseale_jax.training.test_steps import DATA, remembering
        from wiseale_jax.training import recipe as recipes
        from wiseale_jax.training import steps

        step = jax.jit(steps.train_step, static_argnums=0)
        kept = remembering(optimizer=optax.sgd(0.1))
        ends = []
        for recipe in (kept, kept._replace(mesh=recipes.make_mesh(2))):
            state = steps.create_state(recipe, 0, DATA)
            for start in (0, 8, 16, 24):
                state, _ = step(recipe, state, DATA[start : start + 8])
            ends.append(jax.device_get((state.params, state.memory)))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *ends
        )
        """,
    )


@pytest.mark.slow
def test_two_accelerators_take_the_step_of_one_cpu():
    # Every form of a convolution that accelerators have, in the encoder and in the decoder.
    run_on_devices(
        2,
        """
        import jax, numpy as np, optax
        from tests.wiseale_jax.training.test_steps import make
        from wiseale_jax import backend
        from wiseale_jax.models.networks import Architecture, Conv, ConvTranspose, Dense, Reshape
        from wiseale_jax.training import recipe as recipes
        from wiseale_jax.training import steps

        network = Architecture(
            (8, 8, 3),
            (Conv(4, 3, 2), Conv(4, 5, 2), Dense(8)),
            (
                Dense(4 * 4 * 4),
                Reshape((4, 4, 4)),
                ConvTranspose(4, 5, 2, batch_norm=True),
                ConvTranspose(3, 5, 1, relu=False),
            ),
        )
        data = np.random.default_rng(0).standard_normal((16, 8, 8, 3), np.float32)
        found = {}
        for platform, devices in (("cpu", 1), ("tpu", 1), ("tpu", 2)):
            with backend.compiling_for(platform):
                recipe = make("wiseale", 16, network, optax.sgd(1.0))
                if devices == 2:
                    recipe = recipe._replace(mesh=recipes.make_mesh(2))
                state = steps.create_state(recipe, 0, data[:1])
                state, _ = jax.jit(steps.train_step, static_argnums=0)(recipe, state, data)
                found[platform, devices] = jax.device_get(state.params)
        want = found.pop(("cpu", 1))
        for name, got in found.items():
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name),
                got, want,
            )
        """,
    )
