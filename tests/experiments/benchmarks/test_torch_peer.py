"""benchmarks/torch_peer.py is the same network: same parameters in, same numbers out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax import methods
from wiseale_jax.divergences import wiseale_kl
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.autoencoder import build_autoencoder
from wiseale_jax.models.networks import ARCHITECTURES

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[bench]'")
from experiments.benchmarks import torch_peer  # noqa: E402


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


def channels_first(kernel, shape):
    """The kernel of a Dense layer that flattens `shape`, for an input with its channels first."""
    *space, channels = shape
    by_place = np.asarray(kernel).reshape(*space, channels, -1)
    return np.moveaxis(by_place, len(space), 0).reshape(kernel.shape)


@pytest.mark.ci
@pytest.mark.parametrize(("name", "flattened"), [("sine", (8, 64)), ("mnist", (4, 4, 64))])
def test_same_network_and_loss(name, flattened):
    model = build_autoencoder(name, 4)
    likelihood = "bernoulli" if name == "mnist" else "gaussian"
    x = jax.random.uniform(jax.random.key(0), (3, *ARCHITECTURES[name].shape))
    params = model.init(jax.random.key(1), x, jax.random.key(2))["params"]
    peer = torch_peer.TorchAutoencoder(ARCHITECTURES[name], 4)
    count = sum(p.numel() for p in peer.parameters())
    assert count == sum(leaf.size for leaf in jax.tree.leaves(params))
    encoder = {**params["encoder_stack"]}
    encoder["Dense_0"] = {
        **encoder["Dense_0"],
        "kernel": channels_first(encoder["Dense_0"]["kernel"], flattened),
    }
    carry_over(peer.encoder, encoder)
    carry_over(peer.decoder, params["decoder_stack"])
    carry_over(peer.mean, {"Dense_0": params["mean_head"]})
    carry_over(peer.logvar, {"Dense_0": params["scale"]})

    want = model.apply({"params": params}, x, jax.random.key(3))
    given = torch.tensor(np.moveaxis(np.asarray(x), -1, 1).copy())
    noise = (want.z - want.mean) / jnp.exp(0.5 * want.logvar)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda mean: torch.tensor(np.asarray(noise)))
        mean, logvar, output = (a.detach().numpy() for a in peer(given))
        loss = float(torch_peer.loss_fn(peer, given, likelihood).detach())
    np.testing.assert_allclose(mean, want.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logvar, want.logvar, rtol=1e-4, atol=1e-5)
    output = np.moveaxis(output, 1, -1)
    np.testing.assert_allclose(output, want.reconstruction, rtol=1e-4, atol=1e-5)
    objective = methods.bind("wiseale", LIKELIHOODS[likelihood], {})
    constant = 0.0 if name == "mnist" else 0.5 * x[0].size * np.log(2 * np.pi)
    np.testing.assert_allclose(loss, objective(want, x, jax.random.key(4))[0] - constant, rtol=1e-4)


def test_same_bound():
    mean, logvar = jax.random.normal(jax.random.key(0), (2, 9, 3))
    got = torch_peer.wiseale_kl(*(torch.tensor(np.asarray(a)) for a in (mean, logvar)))
    np.testing.assert_allclose(got, wiseale_kl(jnp.asarray(mean), jnp.asarray(logvar)), rtol=1e-5)
