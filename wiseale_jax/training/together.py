"""Many runs of one recipe in one compiled program, with different seeds and setting values.

Parameters, keys, orders of the examples and the settings' values have a leading axis of runs, over
which the steps of one run are mapped. Several devices share the runs among them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from wiseale_jax import backend, methods
from wiseale_jax.training import batches, steps
from wiseale_jax.training.epochs import make_row
from wiseale_jax.training.recipe import Recipe

Values = dict[str, Float[Array, " runs"]]

# The name of the mesh axis over which devices share the runs.
_RUNS = "runs"


class Runs(NamedTuple):
    """Runs that are trained together.

    Attributes:
      recipe: the recipe that all runs share.
      seeds: each run's seed.
      swept: each run's values of the swept settings; all runs have the same settings here.
      metrics: the names of each run's metrics, which may depend on a setting's value.
    """

    recipe: Recipe
    seeds: Sequence[int]
    swept: Sequence[Mapping[str, float]]
    metrics: Sequence[set[str]]

    @property
    def values(self) -> Values:
        """The swept values, with an axis of runs."""
        return {
            name: jnp.asarray([values[name] for values in self.swept], jnp.float32)
            for name in self.swept[0]
        }


def _with(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with the given values of the method's settings, which may be traced."""
    return recipe._replace(method=methods.rebind(recipe.method, values))


def plan(
    recipe: Recipe, seeds: Sequence[int], swept: Sequence[Mapping[str, float]], examples: Array
) -> Runs:
    """Checks the runs and finds their metrics.

    Args:
      recipe, seeds, swept: see `Runs`.
      examples: stored training examples, `[size, ...]`.

    Raises:
      ValueError: a value is out of the method's range.
    """
    found = {}
    for values in swept:
        if (key := tuple(values.items())) not in found:
            state = steps.abstract_state(_with(recipe, values), examples)
            found[key] = set(state.metric_sums)
    return Runs(recipe, seeds, swept, [found[tuple(values.items())] for values in swept])


def create_states(runs: Runs, examples: Array) -> steps.TrainState:
    """The states before the first step, as in `steps.create_state`, with a leading axis of runs."""
    keys = jnp.stack([jax.random.key(seed) for seed in runs.seeds])
    return _create(runs.recipe, keys, runs.values, steps.first(runs.recipe, examples))


@functools.partial(jax.jit, static_argnums=0, compiler_options=steps.QUICK)
def _create(recipe: Recipe, keys: Array, values: Values, examples: Array) -> steps.TrainState:
    def one(key, values, examples):
        return steps.initial_state(_with(recipe, values), key, examples)

    return _mapped(one, whole=(2,))(keys, values, examples)


def separate(runs: Runs, states: steps.TrainState) -> list[steps.TrainState]:
    """Each run's state, with only the run's own metrics."""
    # From the host, as the runs' states may be on different devices.
    on_host = jax.device_get(states)

    def one(run: int, names: set[str]) -> steps.TrainState:
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf[run]), on_host)
        kept = {name: value for name, value in state.metric_sums.items() if name in names}
        fault = {k: v for k, v in state.fault.items() if k in names or k == steps.GRADIENT}
        return state._replace(metric_sums=kept, fault=fault)

    return [one(run, names) for run, names in enumerate(runs.metrics)]


def join(states: steps.TrainState, separated: Sequence[steps.TrainState]) -> steps.TrainState:
    """Joins the states of single runs, the inverse of `separate`.

    Args:
      states: states of all runs, as from `create_states`; only the names of its metrics are used.
      separated: each run's state.
    """
    zeros = {name: jnp.zeros(()) for name in states.metric_sums}

    def whole(state: steps.TrainState) -> steps.TrainState:
        sums, fault = zeros | state.metric_sums, zeros | state.fault
        return state._replace(metric_sums=sums, fault=fault)

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(whole, separated))


def _mapped(function: Callable[..., Any], whole: Sequence[int]) -> Callable[..., Any]:
    """Maps a function of one run over all runs, on the largest number of devices that divides them.

    An accelerator computes all its runs at once. A CPU computes one after the other, which is
    faster there.

    Args:
      function: the function of one run.
      whole: the positions of the arguments that are the same for all runs.
    """

    def mapped(*args: Any) -> Any:
        per_run = _in_turn if backend.on_cpu() else _at_once
        per_run = functools.partial(per_run, function, whole)
        runs = len(jax.tree.leaves(args[0])[0])
        count = max(n for n in range(1, jax.local_device_count() + 1) if runs % n == 0)
        if count == 1:
            return per_run(*args)
        specs = tuple(P() if i in whole else P(_RUNS) for i in range(len(args)))
        mesh = Mesh(np.array(jax.local_devices()[:count]), (_RUNS,))
        # No check: a loop's initial values may vary over no axis, while its carries do.
        shared = jax.shard_map(
            per_run, mesh=mesh, in_specs=specs, out_specs=P(_RUNS), check_vma=False
        )
        return shared(*args)

    return mapped


def _at_once(function: Callable[..., Any], whole: Sequence[int], *args: Any) -> Any:
    return jax.vmap(function, [None if i in whole else 0 for i in range(len(args))])(*args)


def _in_turn(function: Callable[..., Any], whole: Sequence[int], *args: Any) -> Any:
    of_runs = {i: arg for i, arg in enumerate(args) if i not in whole}

    def one(of_run: dict[int, Any]) -> Any:
        return function(*(of_run.get(i, arg) for i, arg in enumerate(args)))

    return lax.map(one, of_runs)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_steps(
    recipe: Recipe,
    states: steps.TrainState,
    values: Values,
    data: Array,
    orders: Int[Array, "runs size"],
    start: Int[Array, ""] | int,
    count: Int[Array, ""] | int,
) -> steps.TrainState:
    """Runs `count` steps of every run in one compiled call; a run with a fault stops there.

    Args:
      recipe: the recipe that all runs share.
      states: the states, with a leading axis of runs; donated.
      values: each run's values of the swept settings.
      data: `[size, ...]`, the examples as stored, on the device.
      orders: each run's order of the epoch.
      start: the first step's place in the orders, counted in steps.
      count: how many steps.
    """

    def one(state, values, order, data, start, count):
        return steps.run_steps(_with(recipe, values), state, data, order, start, count)

    return _mapped(one, whole=(3, 4, 5))(states, values, orders, data, start, count)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _evaluate(
    recipe: Recipe, variables: Any, values: Values, seeds: Array, span: tuple[int, int, int], data
) -> dict[str, Float[Array, " runs"]]:
    def one(variables, values, seed, data):
        return steps.sum_metrics(_with(recipe, values), variables, data, seed, *span)

    return _mapped(one, whole=(3,))(variables, values, seeds, data)


def evaluate(runs: Runs, variables: Any, data: Array) -> list[dict[str, float]]:
    """`steps.evaluate` of every run."""
    whole = steps.spans(runs.recipe, len(data))
    seeds, values = jnp.asarray(runs.seeds, jnp.int32), runs.values
    sums = [_evaluate(runs.recipe, variables, values, seeds, span, data) for span in whole]
    size = whole[-1][1]
    return [
        {
            name: sum(float(part[name][run]) for part in sums) / size
            for name in sums[0]
            if name in own
        }
        for run, own in enumerate(runs.metrics)
    ]


def train(
    runs: Runs,
    states: steps.TrainState,
    data: Array,
    epoch: int,
    epochs: int,
    asked_to_stop: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> tuple[steps.TrainState, list[dict[str, Any] | None]]:
    """Trains every run to the end of an epoch, with one progress bar.

    Args:
      runs: the runs.
      states: the states, with a leading axis of runs; donated. All are at one step, anywhere in the
        epoch, except those with a fault.
      data: `[size, ...]`, the examples as stored, on the device.
      epoch: the epoch's number, from 1.
      epochs: the number of epochs, for the bar.
      asked_to_stop: returns whether to stop before the end.
      progress: whether to show the bar, where the output is a terminal.

    Returns:
      The states, and each run's row of metrics, as in `epochs.train`. A row is None if the run's
      next step has a fault. All rows are None if training was asked to stop before the end.
    """
    recipe, count = runs.recipe, len(runs.seeds)
    values = runs.values
    per_epoch = len(data) // recipe.batch_size
    done = already = int(max(states.step)) - (epoch - 1) * per_epoch
    orders = jnp.stack([steps.epoch_order(key, epoch, len(data)) for key in states.key])
    # No steps, only compiling: so the measured speed does not include it.
    states = train_steps(recipe, states, values, data, orders, 0, 0)
    jax.block_until_ready(states)
    begun = time.perf_counter()
    with tqdm(
        total=per_epoch * recipe.batch_size * count,
        initial=already * recipe.batch_size * count,
        desc=f"epoch {epoch}/{epochs} of {count} runs",
        unit=" examples",
        unit_scale=True,
        leave=False,
        disable=None if progress else True,
    ) as bar:
        for part in batches.resident(data, orders[0], recipe.batch_size, already):
            states = train_steps(recipe, states, values, data, orders, part.start, part.count)
            done += part.count
            losses = [steps.metric_means(state)["loss"] for state in _counts(states)]
            bar.set_postfix(loss=f"{min(losses):.4g} to {max(losses):.4g}", refresh=False)
            bar.update(part.count * recipe.batch_size * count)
            if done < per_epoch and asked_to_stop():
                return states, [None] * count
    rate = (per_epoch - already) * recipe.batch_size / (time.perf_counter() - begun)
    rows: list[dict[str, Any] | None] = []
    for state, own in zip(_counts(states), runs.metrics, strict=True):
        means = {name: mean for name, mean in steps.metric_means(state).items() if name in own}
        rows.append(None if steps.has_fault(state) else make_row(epoch, state, means, rate))
    return steps.forget_metrics(states), rows


def _counts(states: steps.TrainState) -> Iterator[steps.TrainState]:
    """Each run's counts and metrics, on the host; the parameters stay where they are."""
    small = states._replace(params={}, batch_stats={}, opt_state={}, memory={})
    small = jax.device_get(small)
    for run in range(len(small.step)):
        yield jax.tree.map(lambda leaf, run=run: leaf[run], small)
