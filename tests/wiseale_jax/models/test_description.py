"""models/description.py: a model's description as JSON, and the model that is built from it."""

import dataclasses
import json

from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.autoencoder import Autoencoder, build_autoencoder
from wiseale_jax.models.description import SETTINGS, build, describe, describe_run


def test_a_description_has_every_setting():
    fields = {field.name for field in dataclasses.fields(Autoencoder)}
    assert fields - {"architecture", "axis_name", "parent", "name"} == set(SETTINGS)
    chosen = {"scale_head": "relu", "precision": "bfloat16", "min_sigma": 0.1}
    model = build_autoencoder("mnist", 3, **chosen)
    described = json.loads(json.dumps(describe(model, LIKELIHOODS["bernoulli"])))
    assert build(described) == (model, LIKELIHOODS["bernoulli"])
    del described["min_sigma"]  # As in a folder of an older release.
    assert build(described)[0] == dataclasses.replace(model, min_sigma=0.0)


def test_a_run_from_before_a_setting_has_its_default():
    config = {name: getattr(build_autoencoder("sine", 4), name) for name in SETTINGS}
    older = {name: value for name, value in config.items() if name != "min_sigma"}
    assert describe_run({"dataset": "sine", **older}) == describe_run({"dataset": "sine", **config})
