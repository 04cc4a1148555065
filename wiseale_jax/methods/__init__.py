"""The methods, by name: what each minimises, and the parameters of its own that it trains.

A method's loss is a pure function `loss(outputs, x, key, *, likelihood, ...)` that returns
`(loss, metrics)`; `terms` says which metrics. To add a method, write the function and add its line
to `METHODS`. Its keyword arguments are its settings, but for these, which training passes to the
losses that name them:

* `own`: the method's own parameters, which its `init` has made.
* `encode` and `decode`: the network's functions, of x and of z.
* `decoder`: the decoder's parameters.
* `prior`: what z is compared with where the method has no prior of its own.
* `warmup`: what the prior's term is multiplied by; training may let it grow from 0 to 1.
* `dataset_size`: the number of training examples.
* `memory`: posteriors of earlier batches, where a run keeps them. The loss leaves the new memory
  among the metrics.

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

from wiseale_jax import priors
from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods import passed
from wiseale_jax.methods.adversarial import aae, init_discriminator, wae_gan
from wiseale_jax.methods.clustering import assign, gmvae, gmvae_prior, init_gmvae
from wiseale_jax.methods.disentangling import beta_tcvae, dip_vae, info_vae
from wiseale_jax.methods.regularized import rae
from wiseale_jax.methods.terms import Metrics
from wiseale_jax.methods.transport import sinkhorn
from wiseale_jax.methods.vamp import init_pseudo_inputs, vamp_prior, vampprior
from wiseale_jax.methods.variational import ae, aevb, beta_vae, wiseale
from wiseale_jax.methods.wasserstein import wae_mmd
from wiseale_jax.models.autoencoder import Autoencoder, Outputs

_NO_SETTINGS = (*passed.NAMES, "likelihood")


@dataclass(frozen=True)
class Method:
    """What is minimised. Hashable, and a function; `bind` gives one whose settings are bound.

    Attributes:
      loss: `(outputs, x, key, *, likelihood, ...) -> (loss, metrics)`.
      init: `(key, model, x) -> own`, a pytree of parameters of the method's own: they are trained
        with the network's, as `params["method"]`. x has up to 1,000 training examples. None if it
        has none.
      prior: its own p(z): a function of what it names of the above, and of `likelihood`, that gives
        one of `priors`; None for that of the encoder.
      clusters: `(own, mean, x) -> [batch, K]`, the probability of each cluster; None if there are
        none.
      needs_density: it cannot take a deterministic encoder, which has no density q(z|x).
      needs_pairs: it has no loss for a batch of one example.
      needs_likelihood: its loss depends on the noise of p(x|z), which it can learn.
      encoder: the encoder that it has where none is asked for.
      two_players: its own parameters have an optimiser of their own, as those of a discriminator.
      memory: it can use posteriors of earlier batches.
      sweep: the setting that weighs the prior against reconstruction, and five values or more of it
        from weak to strong, for batches of 64; None if it has none.
    """

    loss: Callable[..., tuple[Array, Metrics]]
    init: Callable[..., Any] | None = None
    prior: Callable[..., priors.Prior] | None = None
    clusters: Callable[..., Array] | None = None
    needs_density: bool = True
    needs_pairs: bool = False
    needs_likelihood: bool = True
    encoder: str = "gaussian"
    two_players: bool = False
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
          **passed: of `passed.NAMES`, as far as they are known; those that the loss does not name,
            and those that are None, are left out.
        """
        return self.loss(outputs, x, key, **_named(self.loss, passed))

    def prior_of(self, model: Autoencoder, variables: Mapping[str, Any]) -> priors.Prior:
        """p(z) of a model that is trained by the method.

        Args:
          model: the autoencoder.
          variables: its parameters, the method's own among them.
        """
        known = passed.at(model, variables)
        return known["prior"] if self.prior is None else self.prior(**_named(self.prior, known))


def _named(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What of the given a function names, but None."""
    names = inspect.signature(function).parameters
    return {k: v for k, v in given.items() if k in names and v is not None}


METHODS: dict[str, Method] = {
    "wiseale": Method(wiseale, memory=True, sweep=("kl_weight", (1, 4, 16, 64, 256))),
    "aevb": Method(aevb),
    "beta_vae": Method(beta_vae, sweep=("beta", (1 / 16, 1 / 4, 1, 4, 16))),
    "wae_mmd": Method(
        wae_mmd,
        needs_density=False,
        needs_pairs=True,
        needs_likelihood=False,
        sweep=("mmd_weight", (2, 10, 50, 200, 1000)),
    ),
    "ae": Method(ae, needs_density=False, encoder="deterministic"),
    "wae_gan": Method(
        wae_gan,
        init_discriminator,
        needs_density=False,
        needs_likelihood=False,
        two_players=True,
        sweep=("gan_weight", (2, 10, 50, 200, 1000)),
    ),
    "aae": Method(
        aae,
        init_discriminator,
        needs_density=False,
        needs_likelihood=False,
        encoder="deterministic",
        two_players=True,
    ),
    "sinkhorn": Method(
        sinkhorn,
        needs_density=False,
        needs_likelihood=False,
        encoder="deterministic",
        sweep=("sinkhorn_weight", (1, 3, 10, 30, 100)),
    ),
    "rae": Method(
        rae,
        needs_density=False,
        needs_likelihood=False,
        encoder="deterministic",
        sweep=("rae_weight", (0.001, 0.01, 0.1, 1, 10)),
    ),
    "gmvae": Method(gmvae, init_gmvae, gmvae_prior, assign),
    "vampprior": Method(vampprior, init_pseudo_inputs, vamp_prior),
    "beta_tcvae": Method(beta_tcvae, sweep=("tc_weight", (1 / 4, 1, 4, 6, 16))),
    "info_vae": Method(
        info_vae, needs_pairs=True, sweep=("info_lambda", (1, 10, 100, 1000, 10_000))
    ),
    "dip_vae": Method(dip_vae, sweep=("dip_weight", (0.1, 1, 10, 100, 1000))),
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
    """The names of a method's settings, those of its `init` and `clusters` included.

    Raises:
      ValueError: the method is unknown.
    """
    method = find(name)
    functions = (method.loss, method.init, method.clusters)
    return tuple(dict.fromkeys(name for function in functions for name in _keywords(function)))


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


def rebind(method: Method, values: Mapping[str, Any]) -> Method:
    """A bound method with other values of settings of its loss, which may be traced."""
    return replace(method, loss=functools.partial(method.loss, **values))


def numbers_of(name: str) -> tuple[str, ...]:
    """The settings of a method's loss that are real numbers: several runs of one program may
    differ in them. Raises as `find`.
    """
    loss = find(name).loss
    defaults = inspect.signature(loss).parameters
    return tuple(each for each in _keywords(loss) if isinstance(defaults[each].default, float))


def check_owner(setting: str, method: str) -> None:
    """Raises ValueError if a name is a setting of other methods, and not of this one."""
    having = [name for name in METHODS if setting in settings_of(name)]
    if having and method not in having:
        raise ValueError(f"{setting} is for method {', '.join(having)}, and not for {method!r}")


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
    init, clusters = (
        function and functools.partial(function, **chosen(function))
        for function in (method.init, method.clusters)
    )
    prior = method.prior
    if prior is not None and "likelihood" in inspect.signature(prior).parameters:
        prior = functools.partial(prior, likelihood=likelihood)
    return replace(method, loss=loss, init=init, clusters=clusters, prior=prior)


def _keywords(function: Callable[..., Any] | None) -> list[str]:
    """The settings among a function's keyword arguments."""
    parameters = inspect.signature(function).parameters.values() if function else ()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return [name for name in names if name not in _NO_SETTINGS]
