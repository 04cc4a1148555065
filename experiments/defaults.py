"""What a run's results depend on, and Appendix D's hyper-parameters, one value per data set."""

from __future__ import annotations

import dataclasses
from typing import Any

from wiseale_jax.datasets import BINARIZE, DATASETS
from wiseale_jax.methods import METHODS
from wiseale_jax.methods.settings import MethodSettings
from wiseale_jax.methods.settings import field as _field
from wiseale_jax.models import autoencoder, description


@dataclasses.dataclass(frozen=True)
class Config(MethodSettings):
    """Everything that a run's results depend on.

    The default of a new field must keep the behaviour from before the field existed. Older run
    folders lack the field, are read with its default, and can be continued.
    """

    dataset: str = _field("data set: " + ", ".join(DATASETS))
    method: str = _field("method: " + ", ".join(METHODS), "wiseale")
    seed: int = _field("seed of everything random", 0)
    epochs: int = _field("passes over the training set", 50)
    batch_size: int = _field("examples per step, M in the paper's mini-batch estimator", 64)
    learning_rate: float = _field("Adam's learning rate", 5e-4, positive=True)
    learning_rate_drop_epoch: int | None = _field("epoch after which the learning rate drops", None)
    learning_rate_drop_factor: float = _field(
        "factor of the learning rate after learning_rate_drop_epoch", 0.5, positive=True
    )
    clip_norm: float | None = _field(
        "largest norm of the gradient; a larger gradient is scaled down to it (default: none)",
        None,
        positive=True,
    )
    skip_nonfinite: int = _field(
        "how many non-finite steps to skip; training stops before the next one", 0
    )
    latent_dim: int = _field("dimensions of z", 4)
    encoder: str | None = _field(
        f"kind of encoder: {', '.join(autoencoder.ENCODERS)} (default: the method's)", None
    )
    scale_head: str = _field(
        "output of the encoder that gives the posterior's scale: logvar, or relu as in the paper",
        "logvar",
    )
    min_sigma: float = _field("floor of the standard deviation of a posterior", 0.0, least=0)
    observation_noise: float | str = _field(
        "standard deviation of a Gaussian p(x|z): a number, or learned",
        1.0,
        positive=True,
        word="learned",
    )
    warmup_epochs: int | None = _field(
        "epochs over which the weight of the prior's term, such as the KL or MMD, grows from 0 "
        "(default: none)",
        None,
    )
    precision: str = _field("precision of the layers' computation: float32 or bfloat16", "float32")
    microbatches: int = _field(
        "how many parts a batch is computed in, to save memory; the gradient is the same as for "
        "the whole batch, except that batch normalisation sees one part at a time",
        1,
    )
    train_examples: int | None = _field(
        "train on only the first so many examples (default: all)", None
    )
    split: str = _field("training examples: train, or all, which includes the test split", "train")
    binarize: str | None = _field(
        "mnist, fashion_mnist: how pixels are made binary: " + ", ".join(BINARIZE), None
    )
    flip: bool = _field("mirror each training image left to right with probability 1/2", False)
    image_size: int | str | None = _field(
        "image_folder: pixels along each side, a multiple of 8 from 16 to 256, or WIDTHxHEIGHT",
        None,
    )
    channels: int | None = _field(
        "image_folder: 3 for RGB, 1 for grey; if not given, 1 where every file is grey, else 3",
        None,
    )
    source: str | None = _field(
        "archive or folder of the data set's own files (image_folder: the folder of images; other "
        "data sets use it only until they are prepared)",
        None,
    )

    def describe_model(self) -> dict[str, Any]:
        """The model of a run, as `models.description.build` reads it."""
        return description.describe_run(dataclasses.asdict(self))


# Appendix D.1, D.2 and D.3. The weights of the MMD and of the discriminator come from Tolstikhin et
# al. (2017), whose code multiplies squared errors by 0.05. Their 10 for MNIST is 200 for a plain
# sum of squares; their 100 for CelebA, in -1 ... 1, is 500 for images in 0 ... 1. They give no
# weight for waves or teapots: 10 is ours. The weights of the Sinkhorn auto-encoder and of RAE on
# CelebA are their authors', on the same scale.
CONFIGS = {
    "sine": Config(
        "sine", epochs=50, batch_size=64, learning_rate=5e-4, latent_dim=4, mmd_weight=10.0
    ),
    "mnist": Config(
        "mnist",
        epochs=30,
        batch_size=64,
        learning_rate=1e-3,
        latent_dim=2,
        binarize="threshold",
    ),
    "celeba": Config(
        "celeba",
        epochs=50,
        batch_size=256,
        learning_rate=3e-4,
        learning_rate_drop_epoch=30,
        latent_dim=64,
        mmd_weight=500.0,
        gan_weight=500.0,
        log_prior_trick=True,
        sinkhorn_weight=10.0,
        rae_weight=0.0384,
        regularizer_weight=6.1e-4,
    ),
    # The paper gives no values. The ten latent variables follow Eastwood and Williams (2018), and
    # the other values are ours.
    "teapot": Config(
        "teapot", epochs=50, batch_size=64, learning_rate=1e-4, latent_dim=10, mmd_weight=10.0
    ),
}
# The paper has neither data set: each takes the values of the data set most like it.
CONFIGS["fashion_mnist"] = dataclasses.replace(CONFIGS["mnist"], dataset="fashion_mnist")
CONFIGS["image_folder"] = dataclasses.replace(
    CONFIGS["celeba"], dataset="image_folder", batch_size=64, image_size=64, channels=3
)
