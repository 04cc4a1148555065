"""datasets/sine.py: the waves are those of Section 5.1, and the records hold them."""

import numpy as np
import pytest

from wiseale_jax.datasets import pipeline, sine


@pytest.fixture(scope="module")
def waves():
    return sine.generate(np.random.default_rng(0), 20_000)


def test_factors_are_uniform_in_their_ranges(waves):
    for name, high in (("amplitude", 2), ("frequency", 20), ("phase", 2 * np.pi)):
        values = waves[name]
        assert values.min() >= 0 and values.max() <= high * (1 + 1e-6)
        share = np.histogram(values, bins=10, range=(0, high))[0] / len(values)
        np.testing.assert_allclose(share, 0.1, atol=0.012)  # 5 standard errors


def test_waves_are_the_formula(waves):
    time = np.arange(256) / 256
    a, f, p = (np.float64(waves[n])[:100, None] for n in ("amplitude", "frequency", "phase"))
    want = a * np.sin(2 * np.pi * f * time + p)
    assert waves["clean"].shape == waves["wave"].shape == (20_000, 256, 1)
    np.testing.assert_allclose(waves["clean"][:100, :, 0], want, atol=5e-5)


def test_noise(waves):
    noise = np.float64(waves["wave"]) - waves["clean"]
    np.testing.assert_allclose(noise.std(), 0.05, rtol=2e-3)
    np.testing.assert_allclose(noise.mean(), 0, atol=1e-4)
    np.testing.assert_allclose(256 * noise.var(), 0.64, rtol=4e-3)


def test_records_hold_the_seeded_waves(data_dir):
    builder = pipeline.make_builder("sine", data_dir)
    for index, (split, size) in enumerate((("train", 640), ("test", 150))):
        want = sine.generate(np.random.default_rng([sine._SEED, index]), size)
        got = pipeline.load_arrays(builder, split, list(want))
        for name, values in want.items():
            np.testing.assert_array_equal(got[name], values)


def test_full_size_is_the_papers():
    assert sine.SPLITS == {"train": 200_000, "test": 10_000}
    assert "lin2019wiseale" in pipeline.make_builder("sine").info.citation


@pytest.mark.slow
def test_full_size_is_prepared(tmp_path):
    builder = pipeline.prepare("sine", tmp_path)
    assert pipeline.load_arrays(builder, "train", ["wave"])["wave"].shape == (200_000, 256, 1)
