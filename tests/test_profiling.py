"""profiling.py: operations as a count by hand has them, and a trace that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import profiling
from tests.test_training import DATA, assert_same, make
from wiseale_jax import training
from wiseale_jax.datasets.feeding import Steps
from wiseale_jax.networks import Architecture, Dense, Reshape


def test_flops_of_dense_layers_are_those_of_a_count_by_hand():
    layers = [(256, 512), (512, 512), (512, 4), (2, 512), (512, 256)]
    wide = Architecture(
        (256, 1),
        (Dense(512), Dense(512)),
        (Dense(512), Dense(256, relu=False), Reshape((256, 1))),
    )
    program = make("aevb", 32, wide)
    data = jnp.zeros((64, 256, 1))
    state = training.create_state(program, 0, data[:1])
    part = Steps(data, training.epoch_order(state.key, 1, 64), 0, 2)
    forward = sum(2 * 32 * rows * columns for rows, columns in layers)
    # Backwards, every product is two, but for the first layer's, whose input has no gradient.
    by_hand = 3 * forward - 2 * 32 * 256 * 512
    # Adam and all else that is not a product come to about one operation in ten here.
    assert by_hand < profiling.flops_per_step(program, state, part) < 1.2 * by_hand
    in_parts = program._replace(microbatches=2)
    assert profiling.flops_per_step(in_parts, state, part) is None


def test_a_trace_is_written_and_the_state_is_left(tmp_path):
    program = make()
    state = training.create_state(program, 0, DATA[:1])
    before = jax.tree.map(np.asarray, state)
    part = Steps(DATA, training.epoch_order(state.key, 1, len(DATA)), 0, 6)
    profiling.write_trace(program, state, part, tmp_path / "profile")
    assert_same(jax.tree.map(np.asarray, state), before)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_speed_names_the_share_of_a_known_peak_only(monkeypatch):
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    assert profiling.speed(2.5e9) == "2.5 GFLOP/s"
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert profiling.speed(989e11, 2) == "98,900.0 GFLOP/s, 5.0% of the peak in bfloat16"
    for kind, peak in (("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("NVIDIA H100 NVL", 835e12)):
        Device.device_kind = kind
        assert profiling.speed(peak).endswith(" 100.0% of the peak in bfloat16")
