"""The training step, many steps in one compiled call, and evaluation.

A step's random numbers come from `fold_in(key, step)`, and an epoch's order from
`fold_in(key, epoch)`, on separate branches of the run's key. The sums of the metrics are part of
the state. So training from a saved state gives the same bits as training without a break.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray

from wiseale_jax import memory
from wiseale_jax.methods import Metrics, passed
from wiseale_jax.methods.terms import without_memory
from wiseale_jax.models.parameters import METHOD, network_parameters
from wiseale_jax.training.gradients import apply_in_parts, gradient
from wiseale_jax.training.recipe import Branch, Recipe, branch, replicate, shard

# The name of the gradient's norm in `TrainState.fault`.
GRADIENT = "gradient"

# How many training examples a method's own parameters can be initialised from.
INIT_EXAMPLES = 1000

# LLVM takes 10 s to fully optimise the initialisation's random numbers, which are drawn only once.
QUICK = {"xla_backend_optimization_level": 1}


class TrainState(NamedTuple):
    """Everything that training changes, and the key it started from.

    Attributes:
      step: steps done, including skipped ones.
      key: `[2]`, the raw data of the run's random key.
      params: the network's parameters; the method's own parameters are under "method".
      batch_stats: batch normalisation's running statistics, `{}` where there are none.
      opt_state: the optimiser's state.
      metric_sums: each metric's sum over the current epoch's steps so far, except skipped ones.
      summed: the number of steps in `metric_sums`.
      skipped: how many steps of the whole run were skipped, as loss or gradient was non-finite.
      fault: metrics and gradient norm of the next step, if it is non-finite and may not be skipped;
        training then stops before it. Zeros otherwise.
      memory: posteriors of earlier batches, `{}` where none are kept.
    """

    step: Int[Array, ""]
    key: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    metric_sums: Metrics
    summed: Int[Array, ""]
    skipped: Int[Array, ""]
    fault: Metrics
    memory: Any = {}  # noqa: RUF012 (never changed)

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and running statistics."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def as_saved(state: TrainState) -> dict[str, Any]:
    """A state as checkpoints hold it: without an entry for the memory where none is kept."""
    return {name: part for name, part in state._asdict().items() if name != "memory" or part}


def from_saved(saved: Mapping[str, Any]) -> TrainState:
    """The state that a checkpoint holds."""
    return TrainState(**saved)


def create_state(recipe: Recipe, seed: int, examples: Array) -> TrainState:
    """The state before the first step.

    Args:
      recipe: the static half of the run.
      seed: the run's seed.
      examples: stored training examples, `[size, ...]`, at least one. The first example gives the
        shape. A method's own parameters may be initialised from the first 1,000.
    """
    some = jnp.asarray(first(recipe, examples))
    return replicate(recipe, _compiled_initial_state(recipe, jax.random.key(seed), some))


def abstract_state(recipe: Recipe, examples: Array) -> TrainState:
    """The shapes and types of the state of `create_state`, without computing it."""
    of_recipe = functools.partial(initial_state, recipe)
    return jax.eval_shape(of_recipe, jax.random.key(0), first(recipe, examples))


def first(recipe: Recipe, examples: Array) -> Array:
    """The examples that `initial_state` needs."""
    return examples[: 1 if recipe.method.init is None else INIT_EXAMPLES]


def initial_state(recipe: Recipe, key: PRNGKeyArray, examples: Array) -> TrainState:
    """`create_state` as a pure function of a random key and the examples from `first`."""
    init_key, sample_key, objective_key = jax.random.split(branch(key, Branch.INIT), 3)
    x = recipe.preprocess(examples[:1], sample_key)
    x = jnp.concatenate([x, x])  # The MMD needs two examples.
    outputs, variables = recipe.model.init_with_output(init_key, x, sample_key, train=False)
    params = variables["params"]
    if recipe.method.init is not None:
        # A key that the network's parameters do not use.
        own_key = jax.random.fold_in(objective_key, 1)
        some = recipe.preprocess(examples, own_key)
        params = {**params, METHOD: recipe.method.init(own_key, recipe.model, some)}

    def metrics_of(outputs, x):
        given = passed.at(recipe.model, {**variables, "params": params})
        return without_memory(recipe.method(outputs, x, objective_key, **given)[1])[0]

    shapes = jax.eval_shape(metrics_of, outputs, x)
    zeros = {name: jnp.zeros((), metric.dtype) for name, metric in shapes.items()}
    return TrainState(
        step=jnp.int32(0),
        key=jax.random.key_data(key),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=recipe.optimizer.init(params),
        metric_sums=zeros,
        summed=jnp.int32(0),
        skipped=jnp.int32(0),
        fault={**zeros, GRADIENT: jnp.zeros(())},
        memory=memory.empty(recipe.memory, recipe.model.latent_dim) if recipe.memory else {},
    )


# One program, instead of one for every parameter.
_compiled_initial_state = jax.jit(initial_state, static_argnums=0, compiler_options=QUICK)


def train_step(recipe: Recipe, state: TrainState, batch: Array) -> tuple[TrainState, Metrics]:
    """One step of gradient descent on one stored batch; pure, to be jitted by the caller.

    A step whose loss or gradient is non-finite changes no parameter. It is skipped as long as
    `recipe.skip_nonfinite` allows. After that the step counter stays, and the state gets a `fault`.
    """
    batch = shard(recipe, batch)
    key = jax.random.fold_in(_branch(state.key, Branch.STEPS), state.step)
    preprocess_key, sample_key, objective_key = jax.random.split(key, 3)
    x = recipe.preprocess(batch, preprocess_key)
    warmup = None
    if recipe.warmup_steps:
        warmup = optax.linear_schedule(0.0, 1.0, recipe.warmup_steps)(state.step)
    noise = jax.random.normal(sample_key, (x.shape[0], recipe.model.latent_dim))
    gradients, metrics, batch_stats = gradient(
        recipe,
        state.params,
        state.batch_stats,
        x,
        noise,
        objective_key,
        warmup,
        state.memory or None,
    )
    metrics, new_memory = without_memory(metrics)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    skip = ~finite & (state.skipped < recipe.skip_nonfinite)

    def keep_if(condition, new, old):
        return jax.tree.map(functools.partial(jnp.where, condition), new, old)

    with jax.named_scope("optimizer"):
        updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
        params = keep_if(finite, optax.apply_updates(state.params, updates), state.params)
        opt_state = keep_if(finite, opt_state, state.opt_state)
    zeros = jax.tree.map(jnp.zeros_like, state.fault)
    return TrainState(
        step=state.step + (finite | skip),
        key=state.key,
        params=params,
        batch_stats=keep_if(finite, batch_stats, state.batch_stats),
        opt_state=opt_state,
        metric_sums=keep_if(
            finite, jax.tree.map(jnp.add, state.metric_sums, metrics), state.metric_sums
        ),
        summed=state.summed + finite,
        skipped=state.skipped + skip,
        fault=keep_if(finite | skip, zeros, {**metrics, GRADIENT: norm}),
        memory=keep_if(finite, new_memory, state.memory) if recipe.memory else state.memory,
    ), metrics


def has_fault(state: TrainState) -> Array:
    """Whether the next step is non-finite and may not be skipped."""
    return ~jnp.isfinite(state.fault["loss"] + state.fault[GRADIENT])


def clear_fault(state: TrainState) -> TrainState:
    """The state without its fault, ready to try the step again."""
    return state._replace(fault=jax.tree.map(jnp.zeros_like, state.fault))


def _branch(key: Array, of: Branch) -> PRNGKeyArray:
    return branch(jax.random.wrap_key_data(key), of)


@functools.partial(jax.jit, static_argnames="size")
def epoch_order(key: Array, epoch: Int[Array, ""] | int, size: int) -> Int[Array, " size"]:
    """The order in which an epoch visits `size` examples, from the run's raw key and the epoch."""
    return jax.random.permutation(jax.random.fold_in(_branch(key, Branch.ORDER), epoch), size)


def run_steps(
    recipe: Recipe,
    state: TrainState,
    data: Array,
    order: Int[Array, " size"] | None,
    start: Int[Array, ""] | int,
    count: Int[Array, ""] | int,
) -> TrainState:
    """Runs `count` steps, or fewer if a step has a fault.

    It is pure; `train_steps` is its compiled form.

    Args:
      recipe: the static half of the run.
      state: the state to train from; `train_steps` donates it.
      data: `[size, ...]`, the examples as stored, on the device; or, without an order, the batches
        themselves, `[steps, batch, ...]`.
      order: this epoch's order, from `epoch_order`, or None.
      start: with an order, the first step's place in it, counted in steps; without, its row in
        `data`.
      count: how many steps; not past the end of `data`.
    """

    def body(carry):
        i, state = carry
        if order is None:
            batch = data[start + i]
        else:
            first = (start + i) * recipe.batch_size
            batch = data[lax.dynamic_slice_in_dim(order, first, recipe.batch_size)]
        # The batch's origin must not change how the step is compiled, to give the same bits.
        state, _ = train_step(recipe, state, lax.optimization_barrier(batch))
        if recipe.mesh is not None:
            state = lax.with_sharding_constraint(state, NamedSharding(recipe.mesh, P()))
        return i + 1, state

    def goes_on(carry):
        i, state = carry
        return (i < count) & ~has_fault(state)

    return lax.while_loop(goes_on, body, (jnp.int32(0), state))[1]


train_steps = jax.jit(run_steps, static_argnums=0, donate_argnums=1)


def finish_epoch(state: TrainState) -> tuple[TrainState, dict[str, float]]:
    """The state with its metric sums at 0, and the mean of each metric over an epoch's steps."""
    means = metric_means(state)
    return forget_metrics(state), means


def forget_metrics(state: TrainState) -> TrainState:
    """The state with its metric sums at 0."""
    zeros = jax.tree.map(jnp.zeros_like, state.metric_sums)
    return state._replace(metric_sums=zeros, summed=jnp.zeros_like(state.summed))


def metric_means(state: TrainState) -> dict[str, float]:
    """The mean of each metric over the current epoch's steps so far; nan if none counts."""
    sums, summed = jax.device_get(state.metric_sums), int(state.summed)
    return {name: float(value) / summed if summed else math.nan for name, value in sums.items()}


def evaluate(recipe: Recipe, variables: Any, data: Array, seed: int) -> dict[str, float]:
    """The objective's metrics over all of `data`, as means over examples.

    The WiSE-ALE bound is computed in batches of `recipe.batch_size`, as in training. A smaller last
    batch is weighted by its size. A last batch of a single example is left out, unless it is the
    only batch.

    Args:
      recipe: the static half of the run.
      variables: parameters and running statistics.
      data: `[size, ...]`, the examples as stored, on the device.
      seed: seed of the latent samples.
    """
    whole = spans(recipe, len(data))
    sums = [_sum_metrics(recipe, variables, data, seed, *span) for span in whole]
    size = whole[-1][1]
    return {name: sum(float(part[name]) for part in sums) / size for name in sums[0]}


def spans(recipe: Recipe, size: int) -> list[tuple[int, int, int]]:
    """The spans of `evaluate`, as `(start, stop, batch_size)`: all whole batches, then the rest."""
    whole = size - size % recipe.batch_size
    if whole and size - whole == 1:  # The MMD needs two examples: a single one joins no batch.
        size = whole
    both = (0, whole, recipe.batch_size), (whole, size, size - whole)
    return [span for span in both if span[0] < span[1]]


def sum_metrics(
    recipe: Recipe,
    variables: Any,
    data: Array,
    seed: Int[Array, ""] | int,
    start: int,
    stop: int,
    batch_size: int,
) -> dict[str, Float[Array, ""]]:
    """Each metric of `evaluate` times the batch size, summed over the batches of a span."""
    key = branch(jax.random.key(seed), Branch.TEST)
    if batch_size != recipe.batch_size:
        key = jax.random.fold_in(key, stop)
    network = {**variables, "params": network_parameters(variables["params"])}

    def one(index):
        # Sliced here, batch by batch, to avoid a copy of all batches in every epoch.
        batch = lax.dynamic_slice_in_dim(data, start + index * batch_size, batch_size)
        keys = jax.random.split(jax.random.fold_in(key, index), 3)
        x = recipe.preprocess(shard(recipe, batch), keys[0])
        noise = jax.random.normal(keys[1], (batch_size, recipe.model.latent_dim))
        outputs = apply_in_parts(recipe, network, x, noise)
        given = {**passed.at(recipe.model, variables), "dataset_size": recipe.dataset_size}
        return recipe.method(outputs, x, keys[2], **given)[1]

    metrics = lax.map(one, jnp.arange((stop - start) // batch_size))
    return jax.tree.map(lambda values: jnp.sum(values) * batch_size, metrics)


_sum_metrics = jax.jit(sum_metrics, static_argnums=(0, 4, 5, 6))
