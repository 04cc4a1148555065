"""The methods, by name: what each minimises, and the parameters of its own that it trains.

A method's loss is a pure function `loss(outputs, x, key, *, likelihood, ...)` that returns
`(loss, metrics)`; `terms` says which metrics. To add a method, write the function and add its line
to `METHODS`. Its keyword arguments are its settings, but for these, which training passes to the
losses that name them:

* `own`: the method's own parameters, which its `init` has made.
* `warmup`: what the prior's term is multiplied by; training may let it grow from 0 to 1.
* `memory` and `dataset_size`: posteriors of earlier batches, and the number of training examples,
  where a run keeps a memory. The loss leaves the new memory among the metrics.

Two players are one loss: each of its terms stops the gradient where it is not its own.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods.adversarial import init_discriminator, wae_gan
from wiseale_jax.methods.terms import Metrics
from wiseale_jax.methods.variational import ae, aevb, beta_vae, wiseale
from wiseale_jax.methods.wasserstein import wae_mmd
from wiseale_jax.models.autoencoder import Outputs

_PASSED = ("own", "warmup", "memory", "dataset_size")
_NO_SETTINGS = (*_PASSED, "likelihood")


@dataclass(frozen=True)
class Method:
    """What is minimised. Hashable, and a function; `bind` gives one whose settings are bound.

    Attributes:
      loss: `(outputs, x, key, *, likelihood, ...) -> (loss, metrics)`.
      init: `(key, model, x) -> own`, a pytree of parameters of the method's own: they are trained
        with the network's, as `params["method"]`. None if it has none.
      needs_density: it cannot take a deterministic encoder, which has no density q(z|x).
      needs_pairs: it has no loss for a batch of one example.
      memory: it can use posteriors of earlier batches.
      sweep: the setting that weighs the prior against reconstruction, and five values or more of it
        from weak to strong, for batches of 64; None if it has none.
    """

    loss: Callable[..., tuple[Array, Metrics]]
    init: Callable[..., Any] | None = None
    needs_density: bool = True
    needs_pairs: bool = False
    memory: bool = False
    sweep: tuple[str, tuple[float, ...]] | None = None

    def __call__(
        self, outputs: Outputs, x: Array, key: PRNGKeyArray, **passed: Any
    ) -> tuple[Array, Metrics]:
        """The loss and the metrics.

        Args:
          outputs: of the model, for the whole batch.
          x: `[batch, *shape]`, what was encoded.
          key: for what the loss draws.
          **passed: `own`, `warmup`, `memory` and `dataset_size`, as far as they are known; those
            that the loss does not name, and those that are None, are left out.
        """
        named = inspect.signature(self.loss).parameters
        given = {k: v for k, v in passed.items() if k in named and v is not None}
        return self.loss(outputs, x, key, **given)


METHODS: dict[str, Method] = {
    "wiseale": Method(wiseale, memory=True, sweep=("kl_weight", (1, 4, 16, 64, 256))),
    "aevb": Method(aevb),
    "beta_vae": Method(beta_vae, sweep=("beta", (1 / 16, 1 / 4, 1, 4, 16))),
    "wae_mmd": Method(
        wae_mmd, needs_density=False, needs_pairs=True, sweep=("mmd_weight", (2, 10, 50, 200, 1000))
    ),
    "ae": Method(ae, needs_density=False),
    "wae_gan": Method(
        wae_gan,
        init_discriminator,
        needs_density=False,
        sweep=("gan_weight", (2, 10, 50, 200, 1000)),
    ),
}
"""The methods by the names that `--method` and `fit` take."""


def find(name: str) -> Method:
    """The method of a name.

    Raises:
      ValueError: there is none; the message lists the known ones.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def settings_of(name: str) -> tuple[str, ...]:
    """The names of a method's settings, those of its `init` included.

    Raises:
      ValueError: the method is unknown.
    """
    method = find(name)
    return tuple(dict.fromkeys([*_keywords(method.loss), *_keywords(method.init)]))


def takes_warmup(name: str) -> bool:
    """Whether a method has a prior whose weight may grow; raises as `find`."""
    return "warmup" in inspect.signature(find(name).loss).parameters


def bind(name: str, likelihood: Likelihood, settings: Mapping[str, Any]) -> Method:
    """A method with all its settings bound.

    Args:
      name: in `METHODS`.
      likelihood: the observation model.
      settings: values by name; the others keep their defaults.

    Raises:
      ValueError: the method is unknown, or a setting is none of its own; the message lists the
        known ones, the nearest first.
    """
    known = settings_of(name)
    if unknown := [setting for setting in settings if setting not in known]:
        raise ValueError(unknown_setting(unknown[0], known, f"method {name!r}"))
    return _bind(METHODS[name], likelihood, tuple(settings.items()))


def unknown_setting(given: str, known: Iterable[str], of: str) -> str:
    """The words for a setting that is none, with the nearest known one.

    Args:
      given: its name.
      known: the names that there are.
      of: what has the settings.
    """
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{of} has no setting {given!r}{hint} (known: {', '.join(known) or 'none'})"


@functools.lru_cache  # One method for the same arguments: what is compiled is found again.
def _bind(method: Method, likelihood: Likelihood, settings: tuple[tuple[str, Any], ...]) -> Method:
    def chosen(function: Callable[..., Any]) -> dict[str, Any]:
        return {name: value for name, value in settings if name in _keywords(function)}

    loss = functools.partial(method.loss, likelihood=likelihood, **chosen(method.loss))
    init = method.init and functools.partial(method.init, **chosen(method.init))
    return replace(method, loss=loss, init=init)


def _keywords(function: Callable[..., Any] | None) -> list[str]:
    """The settings among a function's keyword arguments."""
    parameters = inspect.signature(function).parameters.values() if function else ()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return [name for name in names if name not in _NO_SETTINGS]
