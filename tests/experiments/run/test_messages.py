"""messages.py: what is said of a step that is not finite."""

import jax.numpy as jnp

from experiments import configs
from experiments.run import messages
from tests.wiseale_jax.training.test_steps import DATA, make
from wiseale_jax.training import steps


def explain(method, fault):
    config = configs.make_config({"dataset": "sine", "method": method})
    state = steps.create_state(make(), 0, DATA[:1])
    found = {**state.fault, **{name: jnp.float32(value) for name, value in fault.items()}}
    return messages.explain(state._replace(fault=found), config, 1)


def test_a_point_has_an_infinite_kl_without_a_fault():
    inf = float("inf")
    fault = {"loss": float("nan"), "aevb_kl": inf, "wiseale_kl": inf, "elbo": -inf}
    assert "is not finite: loss nan." in explain("ae", fault)
    told = explain("aevb", fault)
    assert all(f"{name} " in told for name in ("aevb_kl", "wiseale_kl", "elbo"))
    assert "loss nan" in told and "--learning_rate" in told and "--clip_norm=1" in told
