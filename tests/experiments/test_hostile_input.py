"""Generated flags and configurations: a result or one clear error, and nothing else."""

import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import configs
from experiments.run import setup
from wiseale_jax import run_folder

FEW = 100
MANY = 10_000

COUNTS = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])

FIELDS = [field.name for field in dataclasses.fields(configs.Config)]
WORDS = ["sine", "mnist", "celeba", "wiseale", "ae", "wae_mmd", "relu", "learned", "batch", "all"]
WORDS += ["stochastic", "bfloat16", "jensen", "deterministic", "", "None", "True"]
TEXTS = st.one_of(
    st.sampled_from(WORDS),
    st.integers(-3, 70).map(str),
    st.sampled_from(["1e400", "-1e-3", "nan", "inf", "0x10", "1_0", str(2**31), str(10**30)]),
    st.floats().map(str),
    st.text(max_size=8),
)
VALUES = st.one_of(
    TEXTS, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(st.integers(), max_size=2)
)


def quickly(count):
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count, deadline=None, suppress_health_check=checks)


def is_clear(error):
    assert str(error) and len(str(error)) < 1000
    assert "Traceback" not in str(error)


def flags_are_read_or_refused(pairs):
    values = flags.FlagValues()
    configs.define_flags(flag_values=values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "FLAGS", values)
        try:
            values(["train", *(f"--{name}={value}" for name, value in pairs)])
            config = configs.config_from_flags()
        except (ValueError, flags.Error) as error:
            return is_clear(error)
    assert configs.read_stored(json.loads(json.dumps(dataclasses.asdict(config))), "run") == config
    setup.make_recipe(config, 100)


FLAG_PAIRS = st.lists(st.tuples(st.sampled_from([*FIELDS, "unknown"]), TEXTS), max_size=6)


@COUNTS
def test_flags(count):
    quickly(count)(given(FLAG_PAIRS)(flags_are_read_or_refused))()


CONFIG = dataclasses.asdict(configs.make_config({"dataset": "sine"}))


def config_is_read_or_refused(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / run_folder.CONFIG
        path.write_bytes(text)
        try:
            configs.read_stored(run_folder.read_config(folder), folder)
        except ValueError as error:
            is_clear(error)
        assert [path] == list(Path(folder).iterdir())


CHANGED = st.dictionaries(st.sampled_from([*FIELDS, "unknown"]), VALUES, max_size=3).map(
    lambda changes: json.dumps({"format": 2, "versions": {}, "config": {**CONFIG, **changes}})
)
LACKING = st.sampled_from(FIELDS).map(
    lambda name: json.dumps({"format": 2, "config": {k: v for k, v in CONFIG.items() if k != name}})
)
CONFIG_TEXTS = st.one_of(CHANGED, LACKING, st.text(max_size=30)).map(str.encode) | st.binary()


@COUNTS
def test_config_json(count):
    quickly(count)(given(CONFIG_TEXTS)(config_is_read_or_refused))()
