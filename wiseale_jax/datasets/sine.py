"""Sine waves with known factors (Section 5.1 and Appendix D.1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

SAMPLES = 256
NOISE_STD = 0.05
MAX_AMPLITUDE = 2.0
MAX_FREQUENCY = 20.0
SPLITS = {"train": 200_000, "test": 10_000}
_SEED = 20190516
# Waves that are drawn at once.
_BLOCK = 10_000


def generate(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Draws waves x(t) = A sin(2 pi f t + phi) + noise, sampled at t = 0, 1/256, ... 255/256 s.

    Args:
      rng: source of randomness.
      size: how many.

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
    """Noise-free waves from their factors, each `[size]`: `[size, 256, 1]` float32."""
    time = np.arange(SAMPLES, dtype=np.float32) / np.float32(SAMPLES)
    angle = np.float32(2 * np.pi) * frequency[:, None] * time + phase[:, None]
    return (amplitude[:, None] * np.sin(angle))[..., None]


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
