"""`fit`, which takes arrays and returns a trained model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped
from tqdm import tqdm

from wiseale_jax import methods
from wiseale_jax.datasets import as_stored, scale_uint8
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.methods import transport
from wiseale_jax.models import description
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.networks import Architecture
from wiseale_jax.models.parameters import network_parameters, own_parameters
from wiseale_jax.models.trained import TrainedAutoencoder
from wiseale_jax.pytrees import in_structure_of
from wiseale_jax.training import arguments, batches, optimizers, steps, together
from wiseale_jax.training.arguments import Examples
from wiseale_jax.training.epochs import explain_fault, make_test_row
from wiseale_jax.training.epochs import train as train_epoch
from wiseale_jax.training.recipe import Recipe


def fit(
    x: Shaped[Array, "size *shape"],
    *,
    method: str = "wiseale",
    network: str | Architecture | tuple[Any, Any] | None = None,
    latent_dim: int = 2,
    likelihood: str | None = None,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    test: Shaped[Array, "other *shape"] | None = None,
    progress: bool = True,
    encoder: str | None = None,
    observation_noise: float | str | None = None,
    min_sigma: float = 0.0,
    warmup_epochs: int = 0,
    clip_norm: float | None = None,
    memory: int = 0,
    init: TrainedAutoencoder | None = None,
    seeds: Sequence[int] | None = None,
    sweep: Mapping[str, Sequence[float]] | None = None,
    **settings: Any,
) -> TrainedAutoencoder | list[TrainedAutoencoder]:
    """Trains an auto-encoder on arrays, or several auto-encoders together in one program.

    Args:
      x: `[size, d]` vectors, `[size, t, c]` signals or `[size, h, w, c]` images; floats, or uint8
        images, which are divided by 255.
      method: a name in `METHODS`.
      network: a name in `networks.ARCHITECTURES`; an `Architecture`; a pair `(encoder, decoder)` of
        Flax modules, Linen or NNX, as in `Modules`; or None for `networks.default_architecture` of
        the examples' shape.
      latent_dim: dimensions of z.
      likelihood: "bernoulli", for values in 0..1, or "gaussian"; None for "bernoulli" if all values
        of x are in 0..1, else "gaussian".
      epochs: passes over x; with `init`, further passes.
      batch_size: examples per step, M; an epoch's last, partial batch is dropped.
      learning_rate: Adam's learning rate.
      seed: seed of all random numbers.
      test: other examples like x; their metrics after each epoch are in the history, too.
      progress: whether to print the chosen setup, and to show a bar where the output is a terminal.
      encoder: "gaussian", "deterministic", or "spherical" for points on the unit sphere; None for
        the method's default.
      observation_noise: standard deviation of a Gaussian p(x|z), or "learned"; None for the
        standard deviation of x.
      min_sigma: floor of the standard deviation of a "gaussian" encoder's q(z|x): its square is
        added to the variance.
      warmup_epochs: epochs over which the weight of the prior's term grows from 0.
      clip_norm: the gradient is scaled down to this norm where it is larger; None for no limit.
      memory: with method "wiseale", how many posteriors of earlier batches help to estimate the KL
        of the data set's aggregate; 0 for the aggregate of the batch.
      init: a model to train further; its network, likelihood, noise, floor, method and settings
        are kept. With as many examples and the same batch_size as before, training continues as if
        it had never stopped.
      seeds: several seeds instead of `seed`: one model for each.
      sweep: values of real-valued settings, as `{"beta": [1, 4], ...}`: one model for each
        combination and seed. All are trained in one compiled program, split over the devices where
        there are several. Each model equals the one that `fit` alone gives, up to rounding.
      **settings: the method's settings, such as `kl_weight` and `bound` of "wiseale".

    Returns:
      The trained model. Its `history` has a row of metrics for each epoch, and its `config` has the
      chosen settings. With seeds or sweep, a list of models: the combinations in the order of
      `itertools.product`, each with all the seeds. A model whose training met a non-finite step is
      returned as it was before that step, with a warning.

    Raises:
      ValueError: an argument is unknown, out of range or does not fit the others; x has non-finite
        values, never varies, or has a shape that the network does not take.
      FloatingPointError: the loss or its gradient is non-finite; the message says what helps. With
        seeds or sweep, only if this happens to every model.
    """
    data = Examples.of(x, "x")
    test_data = None if test is None else Examples.of(test, "test", like=data)
    parameters = inspect.signature(fit).parameters
    arguments.check_settings(method, settings, [name for name in parameters if name != "settings"])
    many = seeds is not None or sweep is not None
    if many and init is not None:
        raise ValueError("seeds and sweep begin anew: leave init out")
    runs = arguments.plan_runs(method, settings, seed, seeds, sweep)
    if init is None:
        likelihood = likelihood or ("bernoulli" if data.in_unit_range else "gaussian")
    else:
        given = {"network": network, "likelihood": likelihood, "encoder": encoder}
        given |= {"observation_noise": observation_noise, "min_sigma": min_sigma or None}
        if latent_dim not in (parameters["latent_dim"].default, init.model.latent_dim):
            given["latent_dim"] = latent_dim
        arguments.check_init(init, method, given)
        likelihood = description.name_of(init.likelihood)
        known = methods.settings_of(method)
        settings = {k: v for k, v in init.config.items() if k in known} | settings
        memory = memory or init.config.get("memory") or 0
    arguments.check_likelihood(data, test_data, method, likelihood, observation_noise)
    for seed, _ in runs:
        arguments.check_numbers(
            data, method, epochs, batch_size, learning_rate, seed, warmup_epochs, clip_norm
        )
    arguments.check_sizes(data, settings, method, batch_size)
    bound_name = settings.get("bound", "jensen")
    arguments.check_memory(memory, method, len(data.array), batch_size, bound_name)
    if observation_noise is None:
        observation_noise = data.deviation if likelihood == "gaussian" else 1.0
    model = (
        init.model
        if init
        else arguments.build(
            network, data, latent_dim, method, encoder, observation_noise, min_sigma
        )
    )
    if model.architecture.shape != data.array.shape[1:]:
        raise ValueError(
            f"the network is for examples of shape {model.architecture.shape}, and x has "
            f"{data.array.shape[1:]}"
        )
    swept = runs[0][1]
    bound = methods.bind(method, LIKELIHOODS[likelihood], {**settings, **swept})
    per_epoch = len(data.array) // batch_size
    recipe = Recipe(
        model=model,
        method=bound,
        optimizer=optimizers.adam(
            learning_rate, clip_norm=clip_norm, two_players=bound.two_players
        ),
        preprocess=scale_uint8 if data.is_uint8 else as_stored,
        batch_size=batch_size,
        warmup_steps=warmup_epochs * per_epoch,
        memory=memory,
        dataset_size=len(data.array),
    )
    config = {
        "method": method,
        "examples": len(data.array),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "warmup_epochs": warmup_epochs,
        "clip_norm": clip_norm,
        "memory": memory,
        **settings,
    }
    history: list[dict[str, Any]] = []
    if many:
        together_runs = together.plan(recipe, *zip(*runs, strict=True), data.array)
        state = steps.abstract_state(recipe, data.array)
        if progress:
            print(_said(config, model, likelihood, data, state) + _said_of_runs(runs, sweep))
        done = _train_together(together_runs, data, test_data, epochs, progress)
    else:
        state, goes_on = _start(recipe, data, seed, init)
        history = init.history if goes_on else []
        if progress:
            print(_said(config, model, likelihood, data, state, goes_on))
        done = [_train(recipe, state, data, test_data, epochs, seed, progress)]
    models = []
    for (seed, swept), (state, rows) in zip(runs, done, strict=True):
        if warning := transport.unfinished(rows[-1] if rows else {}):
            warnings.warn(warning, stacklevel=2)
        config |= {"seed": seed, **swept, "epochs": int(state.step) // per_epoch}
        trained = TrainedAutoencoder(
            model,
            {"params": network_parameters(state.params), "batch_stats": state.batch_stats},
            LIKELIHOODS[likelihood],
            {k: v.item() if isinstance(v, np.generic) else v for k, v in config.items()},
            int(state.step),
            own=own_parameters(state.params),
            history=[*history, *rows],
            state=steps.as_saved(state),
            scales_uint8=data.is_uint8,
        )
        models.append(trained)
    return models if many else models[0]


def _start(
    recipe: Recipe, data: Examples, seed: int, init: TrainedAutoencoder | None
) -> tuple[steps.TrainState, bool]:
    """The state to start from, and whether it continues the training of `init`."""
    state = steps.create_state(recipe, seed, data.array)
    if init is None:
        return state, False
    same = init.config.get("examples"), init.config.get("batch_size")
    if same == (len(data.array), recipe.batch_size):
        restored = _like(steps.as_saved(state), init.state)
        if restored is not None:
            return steps.from_saved(restored), True
    params = _like(state.params, init.all_variables["params"])
    if params is None:
        raise ValueError("init is of another network than what is to be trained")
    stats = _like(state.batch_stats, init.variables.get("batch_stats", {}))
    return state._replace(params=params, batch_stats=stats), False


def _like(tree: Any, other: Any) -> Any:
    """A copy of `other` in the structure of `tree`; None if their paths or shapes differ."""
    found = in_structure_of(tree, other)
    # A copy, because the compiled steps donate their arguments.
    return None if found is None else jax.tree.map(jnp.array, found)


def _said(
    config: dict[str, Any],
    model: Autoencoder,
    likelihood: str,
    data: Examples,
    state: steps.TrainState,
    goes_on: bool = False,
) -> str:
    """A line about the chosen setup."""
    described = description.describe(model, LIKELIHOODS[likelihood])["network"]
    network = described if isinstance(described, str) else "own" if described is None else "default"
    if likelihood == "gaussian":
        noise = model.observation_noise
        likelihood += " of learned noise" if noise == "learned" else f" of noise {noise:.3g}"
    *space, values = data.array.shape[1:]
    kind = ("vectors", "signals", "images")[len(space)]
    channels = f" and {values} channel{'s' * (values != 1)}" if space else ""
    if space and values > 4:
        channels += " (channels are the last axis; grey images have 1)"
    examples = f"{kind} of {'x'.join(map(str, space or [values]))}{channels}"
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    own = (*methods.settings_of(config["method"]), "memory")
    given = ", ".join(f"{name} {config[name]}" for name in own if config.get(name))
    floor = f" with a sigma of at least {model.min_sigma:g}" if model.min_sigma else ""
    return (
        f"{config['method']}{' with ' * bool(given)}{given}, z in {model.latent_dim} "
        f"dimension{'s' * (model.latent_dim != 1)}{floor}, "
        f"on {len(data.array):,} {examples}: network {network}, {count:,} parameters; "
        f"p(x|z) {likelihood}; {config['epochs']} epoch{'s' * (config['epochs'] != 1)} of "
        f"batches of {config['batch_size']}"
        + (f", from step {int(state.step)} on" if goes_on else "")
    )


def _said_of_runs(runs: list[tuple[int, dict[str, float]]], sweep: Mapping[str, Any] | None) -> str:
    seeds = dict.fromkeys(seed for seed, _ in runs)
    values = [f"{name} {', '.join(f'{v:g}' for v in sweep[name])}" for name in sweep or ()]
    words = "; ".join([*values, f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"])
    return f"; {len(runs)} runs together: {words}"


def _train(
    recipe: Recipe,
    state: steps.TrainState,
    data: Examples,
    test: Examples | None,
    count: int,
    seed: int,
    progress: bool,
) -> tuple[steps.TrainState, list[dict[str, Any]]]:
    """Trains for some epochs, with a bar; raises `FloatingPointError` at a non-finite step."""
    feed = batches.choose("auto", data.array)
    train_data = jnp.asarray(data.array) if feed == "resident" else data.array
    test_data = None if test is None else jnp.asarray(test.array)
    first = int(state.step) // (len(data.array) // recipe.batch_size) + 1
    last = first + count - 1
    rows: list[dict[str, Any]] = []
    with tqdm(total=count, unit=" epochs", disable=None if progress else True) as bar:
        for epoch in range(first, last + 1):
            state, row = train_epoch(recipe, state, train_data, epoch, last, progress=progress)
            if row is None:
                raise FloatingPointError(explain_fault(state, epoch))
            rows.append(row)
            if test_data is not None:
                variables = state.variables
                found = steps.evaluate(recipe, variables, test_data, seed)
                rows.append(make_test_row(row, found))
            bar.set_postfix(loss=f"{rows[-1]['loss']:.4g}", refresh=False)
            bar.update()
    return state, rows


def _train_together(
    runs: together.Runs, data: Examples, test: Examples | None, count: int, progress: bool
) -> list[tuple[steps.TrainState, list[dict[str, Any]]]]:
    """Trains many runs, with a bar; warns of runs that end at a non-finite step."""
    if batches.choose("auto", data.array) != "resident":
        raise ValueError(
            "x is too large to be held on the device, as seeds and sweep need it: train one model "
            "after the other"
        )
    states = together.create_states(runs, data.array)
    train_data = jnp.asarray(data.array)
    test_data = None if test is None else jnp.asarray(test.array)
    rows: list[list[dict[str, Any]]] = [[] for _ in runs.seeds]
    faults: dict[int, str] = {}
    with tqdm(total=count, unit=" epochs", disable=None if progress else True) as bar:
        for epoch in range(1, count + 1):
            states, found = together.train(
                runs, states, train_data, epoch, count, progress=progress
            )
            tested = test_data is not None and together.evaluate(runs, states.variables, test_data)
            for run, row in enumerate(found):
                if run in faults:
                    continue
                if row is None:
                    faults[run] = explain_fault(together.separate(runs, states)[run], epoch)
                    continue
                rows[run].append(row)
                if tested:
                    rows[run].append(make_test_row(row, tested[run]))
            if len(faults) == len(found):
                raise FloatingPointError(_which(runs, 0) + faults[0])
            bar.update()
    for run, fault in faults.items():
        warnings.warn(f"{_which(runs, run)}{fault}; its model is that before it", stacklevel=3)
    separated = together.separate(runs, states)
    return [(steps.clear_fault(state), rows[run]) for run, state in enumerate(separated)]


def _which(runs: together.Runs, run: int) -> str:
    """The start of a message about one of the runs."""
    values = {**runs.swept[run], "seed": runs.seeds[run]}
    return "the run of " + ", ".join(f"{name} {value:g}" for name, value in values.items()) + ": "
