"""Every method from `fit` to its files: trained, saved, trained on, evaluated and exported."""

import jax
import numpy as np
import pytest

from tests.helpers import skip_without_ott
from wiseale_jax import METHODS, fit, load

X = np.random.default_rng(0).standard_normal((256, 12)).astype(np.float32)
SMALL = {
    "gmvae": {"gmvae_units": 16, "clusters": 4},
    "vampprior": {"pseudo_inputs": 8},
    "wae_gan": {"discriminator_width": 16},
    "aae": {"discriminator_width": 16},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_from_fit_to_file(method, tmp_path):
    if method == "sinkhorn":
        skip_without_ott()
    model = fit(X, method=method, epochs=2, progress=False, **SMALL.get(method, {}))
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.reconstruct(X), model.reconstruct(X))

    # Trained on, a loaded model has the bits of one that was never saved.
    longer = [fit(X, method=method, init=m, epochs=1, progress=False) for m in (model, again)]
    assert longer[0].step == 12
    for name in ("all_variables", "own"):
        parts = [jax.tree.leaves(getattr(m, name)) for m in longer]
        jax.tree.map(np.testing.assert_array_equal, *parts)
    assert np.isfinite(longer[0].history[-1]["loss"])

    numbers = again.evaluate(X[:100], likelihood_examples=10, num_importance_samples=5)
    assert np.isfinite(numbers["reconstruction_error"])
    if METHODS[method].encoder == "deterministic":  # Points have no density.
        assert numbers["elbo"] is None
    else:
        assert np.isfinite(numbers["elbo"])

    draws = again.sample(jax.random.key(0), 7)
    assert draws.shape == (7, 12) and np.isfinite(draws).all()
    exported = {
        name: jax.export.deserialize(program.serialize())
        for name, program in again.export().items()
    }
    assert all(program.in_avals for program in exported.values())
    reconstructed = exported["reconstruct"].call(X)
    np.testing.assert_allclose(reconstructed, again.reconstruct(X), rtol=1e-4, atol=1e-5)
