"""Sine waves with known factors (Section 5.1 and Appendix D.1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

SAMPLES = 256
NOISE_STD = 0.05
MAX_AMPLITUDE = 2.0
MAX_FREQUENCY = 20.0
SPLITS = {"train": 200_000, "test": 10_000}
_SEED = 20190516
# How many waves are drawn at once.
_BLOCK = 10_000
_TIME = np.arange(SAMPLES) / SAMPLES


def generate(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Draws waves x(t) = A sin(2 pi f t + phi) + noise, sampled at t = 0, 1/256, ... 255/256 s.

    Args:
      rng: source of randomness.
      size: how many waves to draw.

    Returns:
      float32 arrays: `wave` and `clean` (without noise), `[size, 256, 1]`; `amplitude` A in
      U(0, 2), `frequency` f in U(0, 20) Hz and `phase` phi in U(0, 2 pi) rad, `[size]`. The noise
      is N(0, 0.05^2).
    """
    factors = {
        "amplitude": rng.uniform(0, MAX_AMPLITUDE, size),
        "frequency": rng.uniform(0, MAX_FREQUENCY, size),
        "phase": rng.uniform(0, 2 * np.pi, size),
    }
    factors = {name: values.astype(np.float32) for name, values in factors.items()}
    clean = sine(**factors)
    noise = rng.standard_normal(clean.shape, np.float32) * np.float32(NOISE_STD)
    return {"wave": clean + noise, "clean": clean, **factors}


def sine(amplitude: np.ndarray, frequency: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Makes noise-free waves, `[size, 256, 1]` float32, from their factors, `[size]` each."""
    time = np.arange(SAMPLES, dtype=np.float32) / np.float32(SAMPLES)
    angle = np.float32(2 * np.pi) * frequency[:, None] * time + phase[:, None]
    return (amplitude[:, None] * np.sin(angle))[..., None]


class Fit(NamedTuple):
    """The noise-free wave that is nearest to each signal, see `nearest`; `[size]` each.

    Attributes:
      distance: squared distance, summed over the 256 samples; at least 0.
      amplitude: 0 to 2.
      frequency: in Hz, 0 to 20.
      phase: in rad, 0 to 2 pi.
    """

    distance: np.ndarray
    amplitude: np.ndarray
    frequency: np.ndarray
    phase: np.ndarray


def nearest(signals: np.ndarray) -> Fit:
    """Finds the wave A sin(2 pi f t + phi), in the data set's ranges, nearest to each signal.

    At a given frequency, the best A and phi solve a linear problem with two unknowns, with A at
    most 2. The frequency is the best on a grid, which is refined twice, to steps of 0.0005 Hz.

    Args:
      signals: `[size, 256, 1]`.
    """
    x = np.asarray(signals, np.float64).reshape(len(signals), SAMPLES)
    frequency = np.empty(len(x))
    grid = np.arange(0, MAX_FREQUENCY + 1e-9, 0.05)
    for start in range(0, len(x), _BLOCK // 10):
        some = slice(start, start + _BLOCK // 10)
        errors = np.stack([_fit_at(np.full(len(x[some]), f), x[some])[0] for f in grid])
        frequency[some] = grid[np.argmin(errors, axis=0)]
    for step in (0.005, 0.0005):
        offsets = step * np.arange(-10, 11)
        tried = np.clip(frequency + offsets[:, None], 0, MAX_FREQUENCY)
        errors = np.stack([_fit_at(row, x)[0] for row in tried])
        frequency = np.take_along_axis(tried, np.argmin(errors, axis=0)[None], axis=0)[0]
    distance, amplitude, phase = _fit_at(frequency, x)
    return Fit(distance, amplitude, frequency, phase)


def _fit_at(frequency: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each signal, the squared distance, A and phi of the nearest wave at its frequency."""
    same = np.ptp(frequency) == 0
    angle = 2 * np.pi * (frequency[:1] if same else frequency)[:, None] * _TIME
    sine, cosine = np.sin(angle), np.cos(angle)
    if same:
        right = x @ sine[0], x @ cosine[0]
    else:
        right = np.sum(x * sine, axis=1), np.sum(x * cosine, axis=1)
    entries = [np.sum(a * b, axis=1) for a, b in ((sine, sine), (sine, cosine), (cosine, cosine))]
    # The normal equations of x = a sin + b cos, in the basis where they are diagonal.
    half_gap, middle = (entries[0] - entries[2]) / 2, (entries[0] + entries[2]) / 2
    turn = 0.5 * np.arctan2(entries[1], half_gap)
    root = np.hypot(half_gap, entries[1])
    values = np.maximum(middle + root, 0), np.maximum(middle - root, 0)
    sides = (
        np.cos(turn) * right[0] + np.sin(turn) * right[1],
        np.cos(turn) * right[1] - np.sin(turn) * right[0],
    )
    values = [np.broadcast_to(value, sides[0].shape) for value in values]

    def solve(damping):
        return [s / np.maximum(v + damping, 1e-9) for s, v in zip(sides, values, strict=True)]

    # If A is too large, the best wave has the largest A: bisect the Lagrange multiplier for it.
    low, high = np.zeros(len(x)), np.hypot(*sides) / MAX_AMPLITUDE
    beyond = np.hypot(*solve(low)) > MAX_AMPLITUDE
    for _ in range(50 if np.any(beyond) else 0):
        tried = (low + high) / 2
        over = np.hypot(*solve(tried)) > MAX_AMPLITUDE
        low, high = np.where(over, tried, low), np.where(over, high, tried)
    first, second = solve(np.where(beyond, high, 0.0))
    quadratic = values[0] * first**2 + values[1] * second**2
    distance = np.sum(x**2, axis=1) - 2 * (sides[0] * first + sides[1] * second) + quadratic
    a = np.cos(turn) * first - np.sin(turn) * second
    b = np.sin(turn) * first + np.cos(turn) * second
    return np.maximum(distance, 0), np.hypot(a, b), np.arctan2(b, a) % (2 * np.pi)


class Sine(tfds.core.GeneratorBasedBuilder):
    """200,000 training and 10,000 test waves of one second, from a fixed seed."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        wave = tfds.features.Tensor(
            shape=(SAMPLES, 1), dtype=np.float32, encoding=tfds.features.Encoding.BYTES
        )
        scalar = tfds.features.Scalar(dtype=np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Sine waves A sin(2 pi f t + phi) with amplitude A in U(0, 2), frequency f in "
                "U(0, 20) Hz, phase phi in U(0, 2 pi) and noise N(0, 0.05^2); 256 samples over "
                "one second."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "wave": wave,
                    "clean": wave,
                    "amplitude": scalar,
                    "frequency": scalar,
                    "phase": scalar,
                }
            ),
            homepage="https://arxiv.org/abs/1902.06160",
            citation=(
                "@inproceedings{lin2019wiseale,\n"
                "  title={{WiSE-ALE}: Wide Sample Estimator for Aggregate Latent Embedding},\n"
                "  author={Lin, Shuyu and Clark, Ronald and Birke, Robert and Trigoni, Niki and "
                "Roberts, Stephen},\n"
                "  booktitle={ICLR Workshop on Deep Generative Models for Highly Structured "
                "Data},\n"
                "  year={2019}\n}"
            ),
            # The waves are independent draws: their order is random as it is.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        rng = np.random.default_rng([_SEED, list(SPLITS).index(split)])
        for start in range(0, SPLITS[split], _BLOCK):
            block = generate(rng, min(_BLOCK, SPLITS[split] - start))
            for i in range(len(block["wave"])):
                yield start + i, {name: values[i] for name, values in block.items()}
