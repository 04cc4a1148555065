"""profiling.py: operations as a count by hand has them, a trace that changes nothing, its parts."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import profiling
from tests.wiseale_jax.training.test_steps import DATA, assert_same, make
from wiseale_jax.models.networks import Architecture, Dense, Reshape
from wiseale_jax.training import steps
from wiseale_jax.training.batches import Steps


def test_flops_of_dense_layers_are_those_of_a_count_by_hand():
    layers = [(256, 512), (512, 512), (512, 4), (2, 512), (512, 256)]
    wide = Architecture(
        (256, 1),
        (Dense(512), Dense(512)),
        (Dense(512), Dense(256, relu=False), Reshape((256, 1))),
    )
    recipe = make("aevb", 32, wide)
    data = jnp.zeros((64, 256, 1))
    state = steps.create_state(recipe, 0, data[:1])
    part = Steps(data, steps.epoch_order(state.key, 1, 64), 0, 2)
    forward = sum(2 * 32 * rows * columns for rows, columns in layers)
    # Backwards, every product is two, but for the first layer's, whose input has no gradient.
    by_hand = 3 * forward - 2 * 32 * 256 * 512
    # Adam and all else that is not a product come to about one operation in ten here.
    assert by_hand < profiling.flops_per_step(recipe, state, part) < 1.2 * by_hand
    in_parts = recipe._replace(microbatches=2)
    assert profiling.flops_per_step(in_parts, state, part) is None


def test_a_trace_is_written_of_all_parts_and_the_state_is_left(tmp_path):
    recipe = make()
    state = steps.create_state(recipe, 0, DATA[:1])
    before = jax.tree.map(np.asarray, state)
    # A resident set's first part is of one step, as its speed is not known yet.
    part = Steps(DATA, steps.epoch_order(state.key, 1, len(DATA)), 0, 1)
    times = profiling.write_trace(recipe, state, part, tmp_path / "profile")
    assert_same(jax.tree.map(np.asarray, state), before)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    names = [name for name, _ in profiling.executed(trace)]
    assert max(map(names.count, names)) >= profiling.TRACED_STEPS
    layers = {"encoder Dense_0", "decoder Dense_0", "heads", "wiseale_kl", "objective", "optimizer"}
    assert layers <= set(times), times
    assert all(sum(time) > 0 for time in times.values())
    assert times["encoder Dense_0"].backward > 0 < times["encoder Dense_0"].forward
    assert times["optimizer"].backward == 0
    assert list(times) == sorted(times, key=lambda name: -sum(times[name]))


def test_times_are_summed_by_part_and_what_a_loop_holds_is_counted_once():
    hlo = """HloModule jit_run_steps

%body.1 (arg: f32[2]) -> f32[2] {
  %dot.1 = f32[2] dot(%arg), metadata={op_name="BODY/jvp(A)/encoder_stack/Conv_0/dot" id=1}
  dot.2 = f32[2] dot(%arg), metadata={op_name="BODY/transpose(jvp(A))/encoder_stack/Conv_0/dot"}
  %while.3 = f32[2] while(%arg), metadata={op_name="BODY/jvp(jit(wiseale_kl))/while"}
  %add.4 = f32[2] add(%arg), metadata={op_name="BODY/jvp(jit(wiseale_kl))/while/body/add"}
  ROOT %copy.5 = f32[2] copy(%arg)
}

ENTRY %main (arg: f32[2]) -> f32[2] {
  %copy.6 = f32[2] copy(%arg)
  ROOT %while.7 = f32[2] while(%copy.6), body=%body.1, metadata={op_name="jit(run_steps)/while"}
}
""".replace("BODY", "jit(run_steps)/while/body")
    names = ("dot.1", "dot.2", "while.3", "add.4", "copy.5", "copy.6", "while.7")
    events = [(name, 2.0**i) for i, name in enumerate(names)] * 2
    times = profiling.by_part(events, profiling.origins(hlo))
    assert times == {
        "of no known origin": (32, 0),
        "wiseale_kl": (8, 0),
        "encoder Conv_0": (2, 4),
    }
    assert profiling.table(times).splitlines()[-1].split() == (
        "encoder Conv_0 2.000 4.000 13.0%".split()
    )


def test_speed_names_the_share_of_a_known_peak_only(monkeypatch):
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    assert profiling.speed(2.5e9) == "2.5 GFLOP/s"
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert profiling.speed(989e11, 2) == "98,900.0 GFLOP/s, 5.0% of the peak in bfloat16"
    for kind, peak in (("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("NVIDIA H100 NVL", 835e12)):
        Device.device_kind = kind
        assert profiling.speed(peak).endswith(" 100.0% of the peak in bfloat16")
