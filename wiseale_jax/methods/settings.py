"""The settings of the methods: their types, ranges and defaults, and a line about each."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import typing
from collections.abc import Mapping
from typing import Any

from wiseale_jax import divergences
from wiseale_jax.methods import clustering, disentangling, regularized, transport


def field(
    help_: str,
    default: Any = dataclasses.MISSING,
    *,
    least: float | None = None,
    positive: bool = False,
    known: tuple[str, ...] | None = None,
    word: str | None = None,
) -> Any:
    """A field of a config.

    Args:
      help_: the help of the field's flag.
      default: the value if none is given.
      least: the smallest allowed number; None for no limit.
      positive: whether a number must be more than 0.
      known: the allowed words; None for any value.
      word: the word that is allowed in place of a number.
    """
    limits = {"least": least, "positive": positive, "known": known, "word": word}
    return dataclasses.field(default=default, metadata={"help": help_, **limits})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The settings of the losses and of the losses' own parameters, by the names used there.

    A method's own docstring says which values are published, and on which scale.
    """

    kl_weight: float | str = field(
        "wiseale: weight of the KL, a number or batch; 1, the paper's Eq. 27, is one KL per batch; "
        "batch is one KL per example",
        1.0,
        least=0,
        word="batch",
    )
    bound: str = field(
        f"wiseale: upper bound on the KL: {', '.join(divergences.BOUNDS)}",
        "jensen",
        known=divergences.BOUNDS,
    )
    spread: float | str = field(
        "wiseale: standard deviation of a blur of both sides of the KL, a number or auto; auto is "
        "(batch_size + memory)^(-1/latent_dim), at least 1/8; 0 is the paper's",
        0.0,
        least=0,
        word="auto",
    )
    memory: int | None = field(
        "wiseale: posteriors of earlier batches that the KL of the data set's aggregate is "
        "estimated with, at least a batch (default: none, the aggregate of the batch)",
        None,
        least=1,
    )
    aevb_kl_weight: float = field(
        "wiseale: weight of AEVB's KL, the mean over single posteriors, which is added to the loss "
        "and keeps posteriors wide; 0 is the paper's",
        0.0,
        least=0,
    )
    beta: float = field("beta_vae: weight of the KL", 4.0, least=0)
    mmd_weight: float = field("wae_mmd: weight of the MMD, lambda", 200.0, least=0)
    gan_weight: float = field(
        "wae_gan, aae: weight of the adversarial term, lambda", 200.0, least=0
    )
    log_prior_trick: bool = field("wae_gan: add log p(z) to the discriminator's logit", False)
    discriminator_width: int = field(
        "wae_gan, aae: units in each hidden layer of the discriminator", 512, least=1
    )
    discriminator_depth: int = field(
        "wae_gan, aae: number of hidden layers of the discriminator", 4, least=1
    )
    method_learning_rate: float | None = field(
        "wae_gan, aae: Adam's learning rate of the discriminator (default: 5e-4)",
        None,
        positive=True,
    )
    sinkhorn_weight: float = field("sinkhorn: weight of the transport cost, beta", 100.0, least=0)
    epsilon: float = field(
        "sinkhorn: weight of the transport plan's entropy, positive", 0.1, positive=True
    )
    iterations: int = field("sinkhorn: iterations of Sinkhorn's algorithm", 50, least=1)
    sinkhorn_cost: str = field(
        f"sinkhorn: kind of transport cost: {', '.join(transport.COSTS)}",
        "sharp",
        known=transport.COSTS,
    )
    rae_weight: float = field("rae: weight of |z|^2 / 2, beta", 0.0128, least=0)
    regularizer: str = field(
        f"rae: regularizer of the decoder: {', '.join(regularized.REGULARIZERS)}",
        "l2",
        known=regularized.REGULARIZERS,
    )
    regularizer_weight: float = field("rae: weight of the regularizer, lambda", 5e-5, least=0)
    clusters: int = field("gmvae: number of clusters, K", 10, least=1)
    w_dim: int | None = field("gmvae: dimensions of w (default: latent_dim)", None, least=1)
    gmvae_units: int = field("gmvae: units in each hidden layer of its own networks", 500, least=1)
    gmvae_version: str = field(
        f"gmvae: how clusters are assigned: {', '.join(clustering.VERSIONS)}",
        "bayes",
        known=clustering.VERSIONS,
    )
    w_draws: int = field("gmvae: draws of w for each example", 1, least=1)
    free_bits: float = field(
        "gmvae, bayes: lower limit of the clusters' KL in the loss, lambda, in nats", 0.5, least=0
    )
    cluster_weight: float = field("gmvae, softmax: weight of the clusters' KL, eta", 1.0, least=0)
    consistency_weight: float = field(
        "gmvae, softmax: weight of the entropy of p(c|z, w), alpha", 0.0, least=0
    )
    pseudo_inputs: int = field("vampprior: number of pseudo-inputs, K, at most 1,000", 500, least=1)
    learn_pseudo_inputs: bool = field(
        "vampprior: train the pseudo-inputs; otherwise they stay training examples", True
    )
    tc_weight: float = field("beta_tcvae: weight of the total correlation, beta", 6.0, least=0)
    tc_estimator: str = field(
        "beta_tcvae: estimator of the aggregate's density: "
        f"{', '.join(disentangling.TC_ESTIMATORS)}",
        "mws",
        known=disentangling.TC_ESTIMATORS,
    )
    info_alpha: float = field("info_vae: weight of the mutual information, alpha", 0.0)
    info_lambda: float = field("info_vae: weight of the aggregate's divergence, lambda", 1000.0)
    dip_weight: float = field(
        "dip_vae: weight of the squared covariances, lambda_od", 10.0, least=0
    )
    dip_version: str = field(
        f"dip_vae: version of the penalty: {', '.join(disentangling.DIP_VERSIONS)}",
        "i",
        known=disentangling.DIP_VERSIONS,
    )


@functools.cache
def _fields(owner: type) -> Mapping[str, tuple[dataclasses.Field, tuple[type, ...]]]:
    hints = typing.get_type_hints(owner)
    return {
        each.name: (each, typing.get_args(hints[each.name]) or (hints[each.name],))
        for each in dataclasses.fields(owner)
    }


def check(name: str, value: Any, owner: type = MethodSettings) -> None:
    """Checks a setting's type and range; a name that its owner does not have passes.

    Args:
      name: the setting.
      value: its value.
      owner: the dataclass whose fields, made by `field`, give the types and ranges.

    Raises:
      ValueError: the value has another type, is unknown or is out of range; the message names it.
    """
    if name not in _fields(owner):
        return
    each, kinds = _fields(owner)[name]
    least, known, word = (each.metadata[limit] for limit in ("least", "known", "word"))
    if value is None and type(None) in kinds:
        return
    if known is not None:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    elif bool in kinds:
        if value not in (True, False):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    elif int in kinds:
        if not _is(value, numbers.Integral) or not least <= value < 2**31:
            raise ValueError(f"{name} must be a whole number in {least}..2^31-1, got {value!r}")
    elif _is(value, numbers.Real):
        check_number(name, value, least, positive=each.metadata["positive"])
    elif word is None or not isinstance(value, str) or value != word:
        instead = "" if word is None else f" or {word!r}"
        raise ValueError(f"{name} must be a number{instead}, got {value!r}")


def check_number(
    name: str, value: float, least: float | None = 0, *, positive: bool = False
) -> None:
    """Checks that a number is finite and at least `least`, or positive.

    Raises:
      ValueError: it is not; the message names the number.
    """
    try:
        finite = math.isfinite(value)
    except OverflowError:  # An integer beyond every float.
        finite = False
    limit = "positive and " if positive else "" if least is None else f"at least {least} and "
    if not finite or (positive and value <= 0) or (least is not None and value < least):
        raise ValueError(f"{name} must be {limit}finite, got {value}")


def _is(value: Any, kind: type) -> bool:
    """Whether a value is a number of a kind, which NumPy's numbers may be and booleans may not."""
    return isinstance(value, kind) and not isinstance(value, bool)
