"""pythae's methods on our networks, with pythae's own trainers, as peers for benchmarks.

This needs `pip install pythae`, which is no dependency. The methods have pythae's own settings,
except the settings that a step's time depends on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from wiseale_jax.models.networks import Architecture


class Peer(NamedTuple):
    """A method of pythae.

    Attributes:
      model: the name of the method's class.
      config: the name of the class of the method's settings.
      trainer: the name of the trainer's class; with "Config" appended, of the trainer's settings.
      rates: the learning rates that the trainer takes.
      takes_loss: whether the settings take `reconstruction_loss`.
    """

    model: str
    config: str
    trainer: str = "BaseTrainer"
    rates: Sequence[str] = ("learning_rate",)
    takes_loss: bool = True


PEERS = {
    "aevb": Peer("VAE", "VAEConfig"),
    "beta_vae": Peer("BetaVAE", "BetaVAEConfig"),
    "wae_mmd": Peer("WAE_MMD", "WAE_MMD_Config", takes_loss=False),
    "aae": Peer(
        "Adversarial_AE",
        "Adversarial_AE_Config",
        "AdversarialTrainer",
        ("autoencoder_learning_rate", "discriminator_learning_rate"),
    ),
    "rae": Peer(
        "RAE_L2",
        "RAE_L2_Config",
        "CoupledOptimizerTrainer",
        ("encoder_learning_rate", "decoder_learning_rate"),
        takes_loss=False,
    ),
    "vampprior": Peer("VAMP", "VAMPConfig"),
    "beta_tcvae": Peer("BetaTCVAE", "BetaTCVAEConfig"),
    "info_vae": Peer("INFOVAE_MMD", "INFOVAE_MMD_Config"),
    "ae": Peer("AE", "AEConfig", takes_loss=False),
}
"""pythae's methods, by the names of ours."""


def contestant(
    method: str,
    architecture: Architecture,
    data: Float[np.ndarray, "size *shape"],
    *,
    latent_dim: int,
    batch_size: int,
    learning_rate: float,
    bernoulli: bool,
    **settings: Any,
) -> Callable[[int], None]:
    """A training by pythae, as a function of the number of steps.

    Args:
      method: a name in `PEERS`.
      architecture: the network, which `torch_peer` builds.
      data: the examples.
      latent_dim, batch_size, learning_rate: same as for our training.
      bernoulli: whether p(x|z) is Bernoulli; a method that takes only squared errors uses them.
      **settings: other settings of the model.
    """
    logging.disable(logging.INFO)
    import torch
    from pythae import models, trainers
    from pythae.data.datasets import BaseDataset
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    from experiments.benchmarks import torch_peer

    torch.manual_seed(0)
    peer = PEERS[method]
    net = torch_peer.TorchAutoencoder(architecture, latent_dim)

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.stack, self.mean, self.logvar = net.encoder, net.mean, net.logvar

        def forward(self, x):
            features = self.stack(x).flatten(1)
            return ModelOutput(embedding=self.mean(features), log_covariance=self.logvar(features))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.stack = net.decoder

        def forward(self, z):
            output = self.stack(z)
            return ModelOutput(reconstruction=output.sigmoid() if bernoulli else output)

    examples = torch.from_numpy(np.ascontiguousarray(np.moveaxis(data, -1, 1)))
    if peer.takes_loss:
        settings["reconstruction_loss"] = "bce" if bernoulli else "mse"
    config = getattr(models, peer.config)(tuple(examples.shape[1:]), latent_dim, **settings)
    model = getattr(models, peer.model)(config, encoder=Encoder(), decoder=Decoder())
    trainer, trainer_config = (getattr(trainers, peer.trainer + part) for part in ("", "Config"))
    prepared: dict[int, Any] = {}

    def train(steps: int) -> None:
        if steps not in prepared:  # The data set, one epoch, has `steps` batches.
            repeats = -(-steps * batch_size // len(examples))
            chosen = examples.repeat(repeats, *[1] * (examples.ndim - 1))[: steps * batch_size]
            prepared[steps] = trainer(
                model,
                train_dataset=BaseDataset(chosen, torch.zeros(len(chosen))),
                training_config=trainer_config(
                    output_dir=tempfile.mkdtemp(),
                    per_device_train_batch_size=batch_size,
                    **dict.fromkeys(peer.rates, learning_rate),
                ),
            )
            prepared[steps].prepare_training()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            prepared[steps].train_step(1)

    return train
