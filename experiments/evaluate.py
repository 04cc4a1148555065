"""Evaluates a trained run: `python -m experiments.evaluate --workdir=runs/...`.

Computes every number of `wiseale_jax.evaluation.catalogue` on the test set, with standard errors.
Prints them as a table by group, and writes them to evaluation.json in the run folder. This file is
one flat object. It also holds the checkpoint's step and the settings that the numbers were made
with.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from absl import flags

import wiseale_jax
from experiments import configs
from experiments.run import cli, setup
from wiseale_jax import evaluation, files, run_folder, samplers
from wiseale_jax.datasets import DATASETS, pipeline
from wiseale_jax.datasets.load import Preprocessed
from wiseale_jax.evaluation import Settings, catalogue, representation
from wiseale_jax.evaluation.features import fingerprint, load_classifier
from wiseale_jax.training import steps
from wiseale_jax.version import __version__

FLAGS = flags.FLAGS

EVALUATION = "evaluation.json"

# The other entries of evaluation.json, which say how its numbers were made.
MADE_WITH = (
    "step",
    "version",
    *Settings._fields,  # `features` as the fingerprint of the classifier.
    "scikit_learn",  # Whether it was installed.
    "source",  # The folder of the images, if not the run's own.
    "test_sha256",  # The SHA-256 of the test examples.
    "samplers",  # The fingerprint of samplers.npz.
)

_FLAGS = {
    "examples": (
        flags.DEFINE_integer,
        "evaluate on only the first so many test examples (default: all)",
    ),
    "likelihood_examples": (
        flags.DEFINE_integer,
        "how many test examples log p(x) is estimated on; their mean gap to the ELBO is added to "
        "the mean ELBO of all test examples",
    ),
    "num_importance_samples": (
        flags.DEFINE_integer,
        "draws of z for the log-likelihood of each example",
    ),
    "num_samples": (
        flags.DEFINE_integer,
        "draws of z for the aggregate posterior's KL and overlap",
    ),
    "seed": (
        flags.DEFINE_integer,
        "seed of the draws; loss, wiseale_kl and a method's own metrics use the run's seed instead",
    ),
    "inception": (flags.DEFINE_string, "ONNX file of an Inception network, for FID"),
    "features": (
        flags.DEFINE_string,
        "file of a classifier from experiments.features, for Fréchet distances, precision and "
        "recall (default: the file beside the data set, if there is one)",
    ),
}


def main(argv: list[str]) -> None:
    """Evaluates the run that the flags name."""
    del argv
    if FLAGS.workdir is None:
        raise ValueError("--workdir is needed: the folder of a trained run")
    workdir = Path(FLAGS.workdir).expanduser()
    preparing = setup.preparing_from_flags()
    result = evaluate_run(workdir, FLAGS.data_dir, settings_from_flags(), **preparing)
    seen = configs.read_stored(run_folder.read_config(workdir), workdir).split == "all"
    print(f"{workdir}: test set{', which it was trained on, too (split all)' if seen else ''}\n")
    print(table(result))


def define_flags(names: Iterable[str] = Settings._fields) -> None:
    """Defines a flag for every setting, or for the named settings."""
    for name in names:
        define, text = _FLAGS[name]
        define(name, getattr(evaluation.DEFAULTS, name), text)


def settings_from_flags(names: Iterable[str] = Settings._fields) -> Settings:
    """The settings of the flags that `define_flags` has defined for the same names.

    Raises:
      ValueError: a setting is out of range.
    """
    settings = Settings(**{name: FLAGS[name].value for name in names})
    evaluation.check(settings)
    return settings


def evaluate_run(
    workdir: Path,
    data_dir: str | None = None,
    settings: Settings = evaluation.DEFAULTS,
    *,
    progress: bool = True,
    **preparing: Any,
) -> dict[str, float | None]:
    """Computes every number about a run's newest checkpoint on the test set, in evaluation.json.

    If everything in `MADE_WITH` is the same, evaluation.json, or a copy beside it, is returned as
    it is. The test examples are compared only if the data set is there. If evaluation.json has the
    same step and version but other settings, a copy of it is kept, under a name that is printed.

    Args:
      workdir: the run's folder.
      data_dir: where prepared data sets are kept; None for tfds's default.
      settings: how thoroughly to evaluate.
      progress: whether to show bars, where the output is a terminal.
      **preparing: how to prepare the data set, as in `setup.prepare`.

    Returns:
      Numbers by name; None for a number that does not exist. They are the numbers of
      `evaluation.evaluate`, the objective's `loss` and `wiseale_kl` as in metrics.jsonl, and the
      entries of `MADE_WITH`.

    Raises:
      ValueError: the folder is not a run's, or holds no checkpoint; or as in `evaluation.evaluate`.
      OSError: evaluation.json cannot be written.
    """
    workdir = Path(workdir).expanduser()
    trained = wiseale_jax.load(workdir)
    config = configs.read_stored(trained.config, workdir)
    depends = "source" in DATASETS[config.dataset].settings
    source = None
    if depends and "source" in preparing:
        given = str(Path(preparing["source"]).expanduser().resolve())
        source = given if given != config.source else None
    settings = _with_features(settings, config.dataset, data_dir)
    checksum = setup.test_checksum(config, data_dir, **preparing)
    if checksum is not None and checksum == run_folder.read_checksums(workdir).get("test"):
        source = None  # Its own images, wherever they are now.
    fitted = workdir / samplers.FILE
    values = (
        trained.step,
        __version__,
        *settings,
        representation.HAS_SCIKIT_LEARN,
        source,
        checksum,
        fingerprint(fitted) if fitted.exists() else None,
    )
    header = dict(zip(MADE_WITH, values, strict=True))
    if settings.features is not None:  # The file's place does not matter.
        header["features"] = fingerprint(settings.features)
    stored = _read(workdir / EVALUATION)
    for known in (stored, *map(_read, workdir.glob(f"{Path(EVALUATION).stem}-*.json"))):
        same = (known.get(n) == v for n, v in header.items() if n != "test_sha256" or v is not None)
        if known and all(same):
            return known
    test, factors = setup.load_test(config, data_dir, **preparing)
    evaluation.check(settings, len(test))
    if header["test_sha256"] is None:  # The data set has only now been prepared.
        header["test_sha256"] = pipeline.checksum(test)
    if stored.get("test_sha256", header["test_sha256"]) != header["test_sha256"]:
        print(f"note: {workdir / EVALUATION} is of another test set than the one here")
    # The number of steps in an epoch does not matter here: no step is taken.
    recipe = setup.make_recipe(config, run_folder.read_train_size(workdir) or config.batch_size)
    some = jnp.asarray(test[: settings.examples])
    found = steps.evaluate(recipe, trained.all_variables, some, config.seed)
    x = Preprocessed(test, recipe.preprocess, evaluation.data_key(settings))
    dataset = DATASETS[config.dataset]
    codes_of = None
    if settings.features is not None or config.dataset == "sine":
        some = setup.load_train(config, data_dir, **preparing)[: len(test)]
        codes_of = Preprocessed(some, recipe.preprocess, evaluation.data_key(settings))
    # Prefer the evaluation's numbers, which have standard errors.
    found |= evaluation.evaluate(
        trained,
        x,
        factors,
        settings,
        train=codes_of,
        circular=dataset.circular,
        progress=progress,
    )
    if config.dataset == "sine":
        from experiments.waves import generated_waves  # Here, as SciPy's tests take a second.

        found |= generated_waves(trained, test[: settings.examples], codes_of, settings.seed)
    result = files.finite({**header, **{name: found[name] for name in sorted(found, key=_place)}})
    if all(stored.get(name) == header[name] for name in ("step", "version")):
        _keep(workdir / EVALUATION)
    files.write_json(workdir / EVALUATION, result)
    return result


def _with_features(settings: Settings, dataset: str, data_dir: str | None) -> Settings:
    """The settings, with the classifier beside the data set if they name none."""
    if settings.features is not None:
        load_classifier(settings.features)
        return settings
    beside = setup.classifier_path(dataset, data_dir)
    if beside is None or not beside.exists():
        return settings
    return settings._replace(features=str(beside))


def _place(name: str) -> int:
    """A number's place in the table; a metric of a method's own comes last."""
    place = catalogue.place(name)
    return len(catalogue.METRICS) if place is None else place


def _keep(path: Path) -> None:
    places = (path.with_stem(f"{path.stem}-{n}") for n in itertools.count(1))
    place = next(place for place in places if not place.exists())
    with files.replacing(place) as partial:
        shutil.copy2(path, partial)
    print(f"the evaluation with other settings that was there is kept as {place}")


def _read(path: Path) -> dict[str, Any]:
    """A stored evaluation; empty if there is none, or it is damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def table(result: Mapping[str, Any]) -> str:
    """The result of `evaluate_run` as text: a line for each number, by group."""
    names = [n for n in result if n not in MADE_WITH and not n.endswith("_stderr")]
    width = max(map(len, names))
    lines, group = [], None
    for name in sorted(names, key=_place):
        known = catalogue.place(name) is not None
        metric = catalogue.describe(name) if known else catalogue.Metric("others", "", "", "")
        if metric.group != group:
            group = metric.group
            lines += ["", group]
        number = _number(result[name], result.get(f"{name}_stderr"))
        unit = f" ({metric.unit})" if metric.unit else ""
        arrow = catalogue.ARROWS[metric.better]
        lines.append(f"  {name:<{width}}  {number:<20} {arrow} {metric.description}{unit}")
    return "\n".join([*lines[1:], "", *_notes(result, names)])


def _number(value: float | None, stderr: float | None) -> str:
    if value is None:
        return f"{'none':>10}"
    return f"{value:10.5g}" + ("" if stderr is None else f" ± {stderr:.2g}")


def _notes(result: Mapping[str, Any], names: list[str]) -> list[str]:
    examples = "all" if result["examples"] is None else f"the first {result['examples']:,}"
    notes = [
        f"Checkpoint of step {result['step']:,}; {examples} test examples, up to "
        f"{result['likelihood_examples']:,} of them for the log-likelihood.",
        "↑ higher is better, ↓ lower; ± one standard error over examples or draws, of this run.",
    ]
    missing = {name for name in names if result[name] is None}
    if missing and missing == {*catalogue.NEEDS_DENSITY} & {*names}:
        notes.append("none: the encoder is deterministic: a point has no density q(z|x).")
    elif missing:
        notes.append(
            "none: infinite, or not a number. The training may have diverged; metrics.jsonl says "
            "when, and --learning_rate, --clip_norm or another --seed usually helps."
        )
    if "knn_accuracy" in result and result["features"] is None:
        notes.append(
            "Fréchet distances, precision and recall need a classifier of the data set, which "
            "python -m experiments.features makes in a minute."
        )
    if not result["scikit_learn"]:
        notes.append(
            "Labels and factors are left out: pip install 'wiseale_jax[eval]' for scikit-learn."
        )
    return notes


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "run folder")
    define_flags()
    setup.define_data_dir()
    flags.DEFINE_string("source", None, "the data set's own files, while it is not prepared")
    setup.define_preparing()
    cli.run(main)
