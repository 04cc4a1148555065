"""Renderings of the Utah teapot with five known factors (Eastwood and Williams, 2018).

The paper's Appendix D names a Teapot data set without describing it. This data set follows "A
Framework for the Quantitative Evaluation of Disentangled Representations": it has the same factors,
distributions of the factors, image size and split sizes, and no scene. The camera, the light and
the black background are our own choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from wiseale_jax.datasets import teapot_render

FACTORS = {
    "azimuth": 2 * np.pi,
    "elevation": np.pi / 2,
    "red": 1.0,
    "green": 1.0,
    "blue": 1.0,
}
"""Each factor's upper end; all are uniform from 0."""

SPLITS = {"train": 160_000, "validation": 20_000, "test": 20_000}
_SEED = 20180430
_BLOCK = 2_000  # examples in memory at once: 25 MB
_SHAPE = (teapot_render.SIZE, teapot_render.SIZE, 3)


def generate(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Draws teapots of random pose and colour.

    Args:
      rng: source of randomness.
      size: how many teapots to draw.

    Returns:
      `image`, `[size, 64, 64, 3]` uint8; and float32 `[size]` factors: `azimuth` in U(0, 2 pi)
      and `elevation` in U(0, pi/2), in rad; `red`, `green` and `blue` in U(0, 1).
    """
    factors = {
        name: rng.uniform(0, high, size).astype(np.float32) for name, high in FACTORS.items()
    }
    color = np.stack([factors["red"], factors["green"], factors["blue"]], axis=1)
    # Rendered from the float32 factors, which are stored.
    image = teapot_render.render(factors["azimuth"], factors["elevation"], color)
    return {"image": image, **factors}


class Teapot(tfds.core.GeneratorBasedBuilder):
    """160,000 training, 20,000 validation and 20,000 test images, from a fixed seed."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        # tfds's Image feature would need TensorFlow. So would a split of more than 1 GB, which tfds
        # sorts on disk. The compression, to a sixth, is lossless.
        image = tfds.features.Tensor(
            shape=_SHAPE, dtype=np.uint8, encoding=tfds.features.Encoding.ZLIB
        )
        scalar = tfds.features.Scalar(dtype=np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Renderings of Newell's Utah teapot, 64x64 RGB on black, with five independent "
                "factors: azimuth in U(0, 2 pi), elevation in U(0, pi/2), and red, green and "
                "blue in U(0, 1)."
            ),
            features=tfds.features.FeaturesDict({"image": image, **dict.fromkeys(FACTORS, scalar)}),
            homepage="https://openreview.net/forum?id=By-7dz-AZ",
            citation=(
                "@inproceedings{eastwood2018framework,\n"
                "  title={A Framework for the Quantitative Evaluation of Disentangled "
                "Representations},\n"
                "  author={Eastwood, Cian and Williams, Christopher K. I.},\n"
                "  booktitle={International Conference on Learning Representations},\n"
                "  year={2018}\n}"
            ),
            # The images are independent draws: their order is random as it is.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        if not teapot_render.has_numba():
            minutes = sum(SPLITS.values()) / teapot_render.NUMPY_RATE / 60
            print(
                f"Rendering teapots without numba: about {minutes:.0f} minutes on two cores, "
                "several times as long as with it. To get it: pip install numba"
            )
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        rng = np.random.default_rng([_SEED, list(SPLITS).index(split)])
        for start in range(0, SPLITS[split], _BLOCK):
            size = min(_BLOCK, SPLITS[split] - start)
            block = generate(rng, size)
            for i in range(size):
                yield start + i, {name: values[i] for name, values in block.items()}
