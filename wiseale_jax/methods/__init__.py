"""The methods by name, each with its loss and its own trained parameters.

A method's loss is a pure function `loss(outputs, x, key, *, likelihood, ...)` that returns
`(loss, metrics)`; `terms` says which metrics. To add a method, write the function and add its line
to `METHODS`. The function's keyword arguments are the method's settings, except for `likelihood`
and the following arguments. Training passes these to every loss that names them:

* `own`: the method's own parameters, made by its `init`.
* `encode` and `decode`: the network's functions, of x and of z.
* `decoder`: the decoder's parameters.
* `prior`: the prior that z is compared with, for methods without their own prior.
* `warmup`: a factor of the prior's term; training may let it grow from 0 to 1.
* `dataset_size`: the number of training examples.
* `memory`: posteriors of earlier batches, where a run keeps them. The loss puts the new memory
  among the metrics.
* `mesh`: the devices that share the batch, where there are several. All of them have every latent.

A method with two players has one loss: each player's term stops the other player's gradient.
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
    """A method: its loss, and its requirements. Hashable and callable; `bind` binds its settings.

    Attributes:
      loss: `(outputs, x, key, *, likelihood, ...) -> (loss, metrics)`.
      init: `(key, model, x) -> own`, a pytree of the method's own parameters. They are trained with
        the network's parameters, as `params["method"]`. x has up to 1,000 training examples. None
        if the method has no parameters of its own.
      prior: a function that returns the method's own p(z), a `priors.Prior`. It may name
        `likelihood` and the arguments of `passed.at`. None for the encoder's default prior.
      clusters: `(own, mean, x) -> [batch, K]`, the probability of each cluster; None if the method
        has no clusters.
      needs_density: the method cannot use an encoder without a density q(z|x).
      needs_pairs: the method has no loss for a batch of one example.
      needs_likelihood: the loss depends on the noise of p(x|z), so that the noise can be learned.
      encoder: the encoder that is used where none is asked for.
      two_players: the method's own parameters have a separate optimiser, as for a discriminator.
      memory: the method can use posteriors of earlier batches.
      sweep: the setting that weighs the prior against reconstruction, and five or more of its
        values from weak to strong, for batches of 64; None if there is no such setting.
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
          outputs: the model's outputs for the whole batch.
          x: `[batch, *shape]`, the encoded examples.
          key: for the loss's random draws.
          **passed: values for names in `passed.NAMES`. Names that the loss does not have, and
            values that are None, are left out.
        """
        return self.loss(outputs, x, key, **_named(self.loss, passed))

    def prior_of(self, model: Autoencoder, variables: Mapping[str, Any]) -> priors.Prior:
        """p(z) of a model that was trained by the method.

        Args:
          model: the autoencoder.
          variables: the model's parameters, including the method's own.
        """
        known = passed.at(model, variables)
        return known["prior"] if self.prior is None else self.prior(**_named(self.prior, known))


def _named(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values that the function has a parameter for, without None."""
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
    """The method with a given name.

    Raises:
      ValueError: there is no such method; the message lists the known methods.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def settings_of(name: str) -> tuple[str, ...]:
    """The names of a method's settings, including the settings of its `init` and `clusters`.

    Raises:
      ValueError: the method is unknown.
    """
    method = find(name)
    functions = (method.loss, method.init, method.clusters)
    return tuple(dict.fromkeys(name for function in functions for name in _keywords(function)))


def takes_warmup(name: str) -> bool:
    """Whether a method's loss has a prior term whose weight can grow.

    Raises:
      ValueError: the method is unknown.
    """
    return "warmup" in inspect.signature(find(name).loss).parameters


def bind(name: str, likelihood: Likelihood, settings: Mapping[str, Any]) -> Method:
    """A method with all its settings bound.

    Args:
      name: a name in `METHODS`.
      likelihood: the observation model.
      settings: values by name; all other settings keep their defaults.

    Raises:
      ValueError: the method is unknown, or has no such setting; the message lists the known names.
    """
    known = settings_of(name)
    if unknown := [setting for setting in settings if setting not in known]:
        raise ValueError(unknown_setting(unknown[0], known, f"method {name!r}"))
    return _bind(METHODS[name], likelihood, tuple(settings.items()))


def rebind(method: Method, values: Mapping[str, Any]) -> Method:
    """A bound method with new values for settings of its loss; the values may be traced."""
    return replace(method, loss=functools.partial(method.loss, **values))


def numbers_of(name: str) -> tuple[str, ...]:
    """The real-valued settings of a method's loss, in which runs of one program may differ.

    Raises:
      ValueError: the method is unknown.
    """
    loss = find(name).loss
    defaults = inspect.signature(loss).parameters
    return tuple(each for each in _keywords(loss) if isinstance(defaults[each].default, float))


def check_owner(setting: str, method: str) -> None:
    """Raises ValueError if a setting belongs to other methods and not to the given method."""
    having = [name for name in METHODS if setting in settings_of(name)]
    if having and method not in having:
        raise ValueError(f"{setting} is for method {', '.join(having)}, and not for {method!r}")


def unknown_setting(given: str, known: Iterable[str], of: str) -> str:
    """The message for an unknown setting, with the nearest known name, or that of its initials.

    Args:
      given: the unknown name.
      known: the known names.
      of: the owner of the settings, as the message names it.
    """
    known = sorted(known)
    initials = [name for name in known if given == "".join(part[0] for part in name.split("_"))]
    near = initials or difflib.get_close_matches(given, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{of} has no setting {given!r}{hint} (known: {', '.join(known) or 'none'})"


@functools.lru_cache  # The same object for the same arguments, so that compiled code is reused.
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
