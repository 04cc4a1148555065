"""models/layers.py against flax.linen's own convolutions: same parameters, same results."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.devices import run_on_devices
from wiseale_jax.models import layers, winograd

# (spatial shape, kernel size, stride): the paper's layers, and odd sizes that SAME pads unevenly.
CASES = [
    ((256,), 16, 2),
    ((8,), 8, 2),
    ((1,), 1, 1),
    ((1,), 8, 4),
    ((64,), 16, 4),
    ((28, 28), 4, 2),
    ((7, 7), 4, 2),
    ((8, 8), 5, 2),
    ((8, 6), 5, 1),
    ((13,), 3, 2),
    ((13,), 5, 4),
    ((9, 11), 3, 2),
    ((10,), 2, 3),
    ((8, 8), 5, 1),
    ((16, 8), 4, 1),
    ((4, 4), 5, 2),
]
# Filters of one to three entries at each place of a stride, and lengths that no tile divides.
WINOGRAD_CASES = [
    ((8, 8), 5, 2),
    ((9, 11), 3, 2),
    ((7, 6), 4, 2),
    ((1, 2), 5, 2),
    ((5, 4), 3, 1),
    ((7, 9), 6, 2),
    ((13,), 5, 4),
    ((3, 4, 5), 3, 1),
]
# Those that tell most, for every day.
SOME = [((256,), 16, 2), ((64,), 16, 4), ((7, 7), 4, 2)]


def by_matmul(module):
    """`module.apply` by matrix products, of arrays whose batch comes first, as flax has them."""
    batch_last = module.clone(batch_last=True)
    exchange = layers.exchange_batch_and_channels
    return lambda variables, x: exchange(batch_last.apply(variables, exchange(x)))


def native(module):
    """`module.apply` by the vendor's convolutions."""
    return module.apply


def by_winograd(module):
    """`by_matmul` with half the multiplications, however few the channels."""
    apply = by_matmul(module)

    def patched(variables, x):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(winograd, "_CHANNELS", 1)
            patch.setattr(winograd, "_SAVED", 1)
            kernel = variables["params"]["kernel"]
            assert winograd.suits(kernel, module.strides)
            return apply(variables, x)

    return patched


FORMS = pytest.mark.parametrize("form", [by_matmul, by_winograd, native])


def cases():
    """Every kernel, form and number of channels; few by default, and not all in CI."""
    for case in CASES:
        for form, channels in (
            (by_matmul, (5, 6)),
            (native, (5, 6)),
            (by_matmul, (48, 1)),
            (by_matmul, (1, 48)),
        ):
            plain = form is by_matmul and channels == (5, 6)
            marks = [] if plain and case in SOME else [pytest.mark.ci]
            if not plain and case not in SOME:
                marks = [pytest.mark.slow]
            yield pytest.param(*case, form, channels, marks=marks)
    for case in WINOGRAD_CASES:
        marks = [] if case == ((8, 8), 5, 2) else [pytest.mark.ci]
        yield pytest.param(*case, by_winograd, (5, 6), marks=marks)


def pair(kind, spatial, size, stride, channels=(5, 6)):
    """Our module; flax's; flax's variables, which both take; and an input."""
    n = len(spatial)
    options = {"features": channels[1], "kernel_size": (size,) * n, "strides": (stride,) * n}
    theirs = {"conv": nn.Conv, "transpose": nn.ConvTranspose}[kind](**options, padding="SAME")
    ours = {"conv": layers.Conv, "transpose": layers.ConvTranspose}[kind](**options)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, *spatial, channels[0]))
    variables = theirs.init(keys[1], x)
    variables["params"]["bias"] = jax.random.normal(keys[2], channels[1:])
    return ours, theirs, variables, x


@pytest.mark.parametrize("kind", ["conv", "transpose"])
@pytest.mark.parametrize(("spatial", "size", "stride", "form", "channels"), list(cases()))
def test_values_and_gradients_equal_flax(form, kind, spatial, size, stride, channels):
    ours, theirs, variables, x = pair(kind, spatial, size, stride, channels)
    cotangent = jax.random.normal(
        jax.random.key(1), jax.eval_shape(theirs.apply, variables, x).shape
    )

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(apply, variables, x):
        value, pull_back = jax.vjp(apply, variables, x)
        return value, pull_back(cotangent)

    want, want_gradients = value_and_gradients(theirs.apply, variables, x)
    got, got_gradients = value_and_gradients(form(ours), variables, x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        got_gradients,
        want_gradients,
    )


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["conv", "transpose"])
@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev, jax.hessian])
@FORMS
def test_derivatives_of_both_modes_and_second_order_equal_flax(form, kind, derivative):
    ours, theirs, variables, x = pair(kind, (5, 4), 3, 2)

    def jacobian(apply):
        # Not linear, so that the second derivative is not 0.
        return derivative(lambda v, x: jnp.sin(apply(v, x)).sum((0, 1, 2)), (0, 1))(variables, x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        jacobian(form(ours)),
        jacobian(theirs.apply),
    )


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["conv", "transpose"])
@FORMS
def test_vmap_over_parameters_equals_a_loop(form, kind):
    ours, _, variables, x = pair(kind, (9, 11), 3, 2)
    several = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), variables)
    apply = form(ours)
    got = jax.vmap(apply, (0, None))(several, x)
    for i, want in enumerate((variables, jax.tree.map(lambda a: 2 * a, variables))):
        np.testing.assert_allclose(got[i], apply(want, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["conv", "transpose"])
def test_native_convolution_is_the_same_function(kind):
    ours, theirs, variables, x = pair(kind, (28, 28), 4, 2)
    got, want = ours.apply(variables, x), theirs.apply(variables, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got, by_matmul(ours)(variables, x), rtol=1e-4, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["conv", "transpose"])
def test_initial_parameters_equal_flax(kind):
    ours, theirs, _, x = pair(kind, (8, 8), 5, 2)
    key, want = jax.random.key(3), theirs.init(jax.random.key(3), x)
    batch_last = ours.clone(batch_last=True)
    for got in (ours.init(key, x), batch_last.init(key, layers.exchange_batch_and_channels(x))):
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_bfloat16_stays_bfloat16():
    ours, _, variables, x = pair("conv", (16,), 4, 2)
    for apply in (ours.apply, by_matmul(ours)):
        assert apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("shape", "stride", "dtype", "suits"),
    [
        ((5, 5, 64, 128), (2, 2), "float32", True),
        ((3, 3, 64, 64), (1, 1), "float32", True),
        ((5, 5, 3, 128), (2, 2), "float32", False),
        ((5, 5, 64, 128), (2, 2), "bfloat16", False),
        ((4, 4, 64, 128), (2, 2), "float32", False),
        ((7, 7, 64, 128), (2, 2), "float32", False),
        ((2, 2, 64, 128), (3, 3), "float32", False),
        ((5, 64, 128), (2,), "float32", False),
    ],
)
def test_winograd_is_for_many_channels_and_half_the_multiplications(shape, stride, dtype, suits):
    assert winograd.suits(jax.ShapeDtypeStruct(shape, dtype), stride) == suits


@pytest.mark.parametrize("kind", ["conv", "transpose"])
def test_the_error_of_winograd_is_that_of_float32(kind):
    """Against float64, at the widths of the paper's network for CelebA, beside flax's own error."""
    ours, theirs, variables, x = pair(kind, (8, 8), 5, 2, (128, 64))
    with jax.enable_x64(True):
        exact = theirs.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        want = exact.apply(jax.tree.map(np.float64, variables), np.float64(x))
    want = np.asarray(want)
    error = np.abs(by_matmul(ours)(variables, x) - want).max()
    assert winograd.suits(variables["params"]["kernel"], ours.strides)
    assert error < 1e-5 * want.std()
    assert error < 5 * np.abs(theirs.apply(variables, x) - want).max()


@pytest.mark.ci
def test_a_batch_split_over_devices_gives_the_gradients_of_the_whole():
    run_on_devices(
        2,
        """
        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax.sharding import Mesh, PartitionSpec as P
        from wiseale_jax.models import convolutions, winograd

        mesh = Mesh(np.array(jax.devices()), ("data",))
        rows = P(None, None, None, "data")
        for channels in (3, 64):
            keys = jax.random.split(jax.random.key(0))
            x = jax.random.normal(keys[0], (channels, 8, 8, 4))
            kernel = jax.random.normal(keys[1], (5, 5, channels, channels)) / 5 / channels**0.5
            assert winograd.suits(kernel, (2, 2)) == (channels == 64)

            def loss(kernel, x):
                outputs = convolutions.conv(x, kernel, (2, 2))
                return jnp.sum(jnp.sin(convolutions.conv_transpose(outputs, kernel, (2, 2))))

            def of_part(kernel, x):
                value, gradients = jax.value_and_grad(loss, (0, 1))(kernel, x)
                return jax.lax.psum(value, "data"), gradients

            split = jax.shard_map(
                of_part, mesh=mesh, in_specs=(P(), rows), out_specs=(P(), (P(), rows))
            )
            got = jax.jit(split)(kernel, x)
            want = jax.jit(jax.value_and_grad(loss, (0, 1)))(kernel, x)
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
        """,
    )
