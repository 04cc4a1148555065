"""wiseale_kl over several devices and processes: the bound of the whole batch, everywhere."""

import subprocess
import sys
import textwrap

import pytest

from tests.helpers import in_ci
from tests.helpers.devices import ROOT, environment, free_port, run_on_devices


@pytest.mark.parametrize("count", [in_ci(2), pytest.param(8, marks=pytest.mark.slow)])
def test_devices_give_the_bound_of_the_whole_batch(count):
    run_on_devices(
        count,
        f"""
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
        from tests.wiseale_jax.test_divergences import normal_rows
        from wiseale_jax import wiseale_kl

        # Shardings as part of the types, and found by the compiler.
        explicit = jax.make_mesh(({count},), ("data",), axis_types=(AxisType.Explicit,))
        automatic = Mesh(np.array(jax.devices()), ("data",))
        cases = [(64, "tightest", automatic), (64, "jensen", explicit)]
        if {count} == 8:
            cases.append((1000, "bhattacharyya", automatic))
        for size, bound, mesh in cases:
            mean, logvar = normal_rows(size, 4)

            def whole(mean, logvar, axis_name=None):
                return wiseale_kl(mean, logvar, bound=bound, axis_name=axis_name)

            both = jax.value_and_grad(whole, (0, 1))
            want, want_gradient = both(mean, logvar)

            def check(value, gradient):
                np.testing.assert_allclose(value, want, rtol=1e-6)
                for got, expected in zip(gradient, want_gradient, strict=True):
                    limit = 1e-6 * np.abs(expected).max()
                    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=limit)

            split = NamedSharding(mesh, P("data"))
            check(*jax.jit(both)(*jax.device_put((mean, logvar), split)))

            def sharded(function, out_specs):
                specs = dict(in_specs=(P("data"), P("data")), out_specs=out_specs)
                return jax.jit(jax.shard_map(function, mesh=mesh, **specs))

            # The derivative taken inside of shard_map, and outside.
            inside = sharded(
                lambda m, v: jax.value_and_grad(whole, (0, 1))(m, v, "data"),
                (P(), (P("data"), P("data"))),
            )
            rows = jax.device_put((mean, logvar), split)
            check(*inside(*rows))
            outside = sharded(lambda m, v: whole(m, v, "data"), P())
            with jax.set_mesh(mesh):
                check(*jax.value_and_grad(outside, (0, 1))(*rows))

            # Averaging the devices' own bounds is a different, wrong objective.
            def average(mean, logvar):
                return jax.lax.pmean(whole(mean, logvar), "data")

            assert abs(sharded(average, P())(*rows) - want) > 1e-2
        """,
    )


@pytest.mark.ci
def test_two_processes_give_the_bound_of_the_whole_batch():
    script = """
        import sys
        import jax
        jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
        import numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from tests.wiseale_jax.test_divergences import normal_rows
        from wiseale_jax import wiseale_kl

        mean, logvar = normal_rows(64, 4)
        mesh = Mesh(np.array(jax.devices()), ("data",))
        split = NamedSharding(mesh, P("data"))
        arrays = [
            jax.make_array_from_callback(x.shape, split, lambda i, x=x: x[i])
            for x in (mean, logvar)
        ]
        want = wiseale_kl(mean, logvar)
        value = jax.jit(wiseale_kl)(*arrays)
        named = jax.jit(jax.shard_map(
            lambda m, v: wiseale_kl(m, v, axis_name="data"),
            mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P(),
        ))(*arrays)
        for got in (value, named):
            np.testing.assert_allclose(got.addressable_data(0), want, rtol=1e-6)
        print("equal")
    """
    address = f"localhost:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), address, str(rank)],
            cwd=ROOT,
            env=environment(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        results = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for output, errors in results:
        assert "equal" in output, errors[-3000:]
