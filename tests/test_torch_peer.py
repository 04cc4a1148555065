"""experiments/torch_peer.py is the same network: same parameters in, same numbers out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax.autoencoder import build_autoencoder
from wiseale_jax.divergences import wiseale_kl
from wiseale_jax.networks import ARCHITECTURES

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[bench]'")
from experiments import torch_peer  # noqa: E402


def carry_over(stack, params):
    """Puts the parameters of a flax stack into a PyTorch one, layer by layer."""
    wanted = sorted(params, key=lambda name: int(name.split("_")[-1]))
    queues = {
        kind: [params[n] for n in wanted if n.startswith(kind + "_")]
        for kind in ("Dense", "Conv", "ConvTranspose")
    }
    for module in stack.modules():
        if isinstance(module, torch.nn.Linear):
            layer, order = queues["Dense"].pop(0), lambda k: k.T
        elif isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d):
            layer = queues["Conv"].pop(0)
            order = lambda k: np.moveaxis(k, (-1, -2), (0, 1))  # noqa: E731
        elif isinstance(module, torch.nn.ConvTranspose1d | torch.nn.ConvTranspose2d):
            layer = queues["ConvTranspose"].pop(0)
            order = lambda k: np.moveaxis(  # noqa: E731
                np.flip(k, range(k.ndim - 2)), (-2, -1), (0, 1)
            )
        else:
            continue
        with torch.no_grad():
            module.weight.copy_(torch.tensor(order(np.asarray(layer["kernel"])).copy()))
            module.bias.copy_(torch.tensor(np.asarray(layer["bias"])))


@pytest.mark.parametrize("name", ["sine", "mnist"])
def test_same_encoder(name):
    model = build_autoencoder(name, 4)
    shape = ARCHITECTURES[name].shape
    x = jax.random.normal(jax.random.key(0), (3, *shape))
    params = model.init(jax.random.key(1), x, jax.random.key(2))["params"]
    peer = torch_peer.TorchAutoencoder(ARCHITECTURES[name], 4)
    count = sum(p.numel() for p in peer.parameters())
    assert count == sum(leaf.size for leaf in jax.tree.leaves(params))
    if name == "mnist":
        return  # Channels first and last flatten in another order before the first Dense.
    carry_over(peer.decoder, params["decoder_stack"])
    z = jax.random.normal(jax.random.key(3), (3, 4))
    want = model.apply({"params": params}, z, method="decode")
    got = peer.decoder(torch.tensor(np.asarray(z))).detach().numpy()
    np.testing.assert_allclose(np.moveaxis(got, 1, -1), want, rtol=1e-4, atol=1e-5)


def test_same_bound():
    mean, logvar = jax.random.normal(jax.random.key(0), (2, 9, 3))
    got = torch_peer.wiseale_kl(*(torch.tensor(np.asarray(a)) for a in (mean, logvar)))
    np.testing.assert_allclose(got, wiseale_kl(jnp.asarray(mean), jnp.asarray(logvar)), rtol=1e-5)
