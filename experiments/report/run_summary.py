"""Summaries of trained runs, read from their folders: their numbers, labels and commands."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import configs, evaluate
from wiseale_jax import plots, run_folder

_NOT_METRICS = ("epoch", "step", "split", "skipped", "examples_per_second")
# Runs that differ only in these fields share a label.
_NOT_IN_LABEL = ("seed", "skip_nonfinite")
# The state of a run that went through all its epochs.
FINISHED = "finished"
# The fields that every command gives.
_GIVEN = ("dataset", "method", "source")


class RunSummary(NamedTuple):
    """One of the compared runs.

    Attributes:
      workdir: the run's folder.
      config: the stored config.
      rows: the rows of metrics.jsonl; at least one row is of the test set.
      evaluation: the numbers of evaluation.json; `{}` if there is no such file.
      made_with: the step and the settings of the evaluation.
      state: "finished", or how far the run is.
      data: a short checksum of the training and test examples; None if the folder has none.
    """

    workdir: Path
    config: configs.Config
    rows: list[dict[str, Any]]
    evaluation: dict[str, float | None]
    made_with: dict[str, Any]
    state: str
    data: str | None = None

    @property
    def numbers(self) -> dict[str, float | None]:
        """The evaluation's numbers, and the last epoch's numbers on the test set.

        A number that both have is the evaluation's number, or the last epoch's number if the
        evaluation is of an earlier step.
        """
        test = [row for row in self.rows if row["split"] == "test"][-1]
        last = {name: value for name, value in test.items() if name not in _NOT_METRICS}
        step, of_epoch = steps(self) or (0, 0)
        return {**last, **self.evaluation} if step == of_epoch else {**self.evaluation, **last}


def find(workdirs: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The run folders that a flag names, each once; `*` and `?` match as in the shell.

    Returns:
      The folders; and a line for each folder that a pattern matches and that only has runs in
      deeper folders, as a section's folder has.

    Raises:
      ValueError: no folder is given, or a pattern matches no run folder.
    """
    found: list[Path] = []
    deeper: list[str] = []
    for given in filter(None, workdirs):
        path = Path(given).expanduser()
        if not path.exists() and glob.has_magic(given):
            matches = [Path(match) for match in sorted(glob.glob(str(path)))]
            runs = [match for match in matches if (match / run_folder.CONFIG).exists()]
            lines = [line for match in matches if match not in runs for line in _deeper(match)]
            if not runs:
                raise ValueError("; ".join([f"no run folder matches {given!r}", *lines]))
            found += runs
            deeper += lines
        else:
            found.append(path)
    if not found:
        raise ValueError("--workdirs is needed: folders of trained runs, separated by commas")
    return list({path.resolve(): path for path in found}.values()), deeper


def _deeper(folder: Path) -> list[str]:
    """A line that names the runs of a section's folder; none if it has no runs."""
    runs = (run for depth in ("runs", "*/runs") for run in folder.glob(f"{depth}/*/"))
    first = next((run for run in runs if (run / run_folder.CONFIG).exists()), None)
    if first is None:
        return []
    return [f"left out: {folder} has its runs in a deeper folder: --workdirs='{first.parent}/*'"]


def read_all(workdirs: Iterable[Path]) -> tuple[list[RunSummary], list[str]]:
    """The runs that can be read, and a line for each folder that is left out.

    If several folders hold the same run, the folder that has trained furthest is kept.
    """
    left_out = []
    furthest: dict[tuple[configs.Config, str | None], RunSummary] = {}
    for workdir in workdirs:
        try:
            run = read_run(workdir)
        except (ValueError, OSError) as error:
            left_out.append(f"left out: {error}")
            continue
        # Another number of non-finite steps to skip does not make another run.
        key = dataclasses.replace(run.config, skip_nonfinite=0), run.data
        one, other = run, furthest.get(key)
        if other is not None:
            one, other = sorted((other, run), key=_how_far, reverse=True)
            left_out.append(f"left out: {other.workdir} is the same run as {one.workdir}")
        furthest[key] = one
    return list(furthest.values()), left_out


def _how_far(run: RunSummary) -> tuple[bool, int, bool]:
    return run.state == FINISHED, len(run.rows), bool(run.evaluation)


def read_run(workdir: Path) -> RunSummary:
    """Reads a run folder, without its checkpoints.

    Raises:
      ValueError: the folder is no run folder, is damaged, or has no epoch yet; the message names
        the folder.
      OSError: a file cannot be read.
    """
    stored = run_folder.read_config(workdir)
    if stored is None:
        raise ValueError(f"{workdir} is not a run folder: it has no {run_folder.CONFIG}")
    config = configs.read_stored(stored, workdir)
    rows = run_folder.read_metrics(workdir)
    if not all(map(_is_row, rows)):
        raise ValueError(f"{workdir / run_folder.METRICS} is damaged: a line is no row of metrics")
    tested = [row["epoch"] for row in rows if row["split"] == "test"]
    if not tested:
        raise ValueError(f"{workdir} has no finished epoch yet")
    state = FINISHED
    if not (workdir / run_folder.SUMMARY).exists():
        state = f"not finished: {tested[-1]} of {config.epochs} epochs"
    evaluation, made_with = _read_evaluation(workdir / evaluate.EVALUATION)
    checksums = run_folder.read_checksums(workdir)
    data = hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()[:8]
    return RunSummary(
        workdir, config, rows, evaluation, made_with, state, data if checksums else None
    )


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and row.get("split") in ("train", "test")
        and isinstance(row.get("epoch"), int)
        and row.keys() >= plots.METRIC_LABELS.keys()
        and all(name == "split" or _is_number(value) for name, value in row.items())
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        return False
    return value is None or abs(value) <= sys.float_info.max


def _read_evaluation(path: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
    if not path.exists():
        return {}, {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: value for name, value in stored.items() if _is_number(value)}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    evaluation = {
        name: value
        for name, value in numbers.items()
        if not name.endswith("_stderr") and name not in evaluate.MADE_WITH
    }
    return evaluation, {name: stored.get(name) for name in evaluate.MADE_WITH}


def steps(run: RunSummary) -> tuple[int, int] | None:
    """The steps of a run's evaluation and of its last epoch; None if one step is unknown."""
    step, last = run.made_with.get("step"), run.rows[-1].get("step")
    return (step, last) if isinstance(step, int) and isinstance(last, int) else None


def doubts(runs: Sequence[RunSummary]) -> list[str]:
    """A line for each reason why the runs' numbers may not be comparable."""
    evaluated = [run for run in runs if run.evaluation]
    lines = [f"{run.workdir}: {run.state}" for run in runs if run.state != FINISHED]
    for run in evaluated:
        step, last = steps(run) or (0, 0)
        if step != last:
            lines.append(
                f"{run.workdir}: evaluated at step {step:,}, and its last epoch ends at {last:,}"
            )
    # Each data set has its own test examples and its own classifier.
    own = ("features", "test_sha256")
    differ = [
        name
        for name in evaluate.MADE_WITH
        if name != "step" and _differs(evaluated, name, by_dataset=name in own)
    ]
    if differ:
        lines.append(f"the runs were not evaluated alike: different {', '.join(differ)}")
    if seen := sum(run.config.split == "all" for run in runs):
        lines.append(f"{seen} of {len(runs)} runs were trained on the test set, too (split all)")
    if len({run.config.batch_size for run in runs}) > 1:
        lines.append(
            "wiseale_kl is of batches of different sizes: of a larger one it is smaller, by up to "
            "the logarithm of the sizes' ratio"
        )
    return lines


def evaluated_on(runs: Sequence[RunSummary]) -> str:
    """How many test examples the evaluations of the runs used, as a sentence."""

    def counts(name: str) -> str:
        found = {run.made_with.get(name) for run in runs if run.evaluation}
        numbers = sorted(count for count in found if isinstance(count, int))
        return " or ".join(["all"] * (None in found) + [f"{count:,}" for count in numbers])

    return (
        f"Test examples: {counts('examples')}. For the log-likelihood: up to "
        f"{counts('likelihood_examples')}, with {counts('num_importance_samples')} draws each."
    )


def _differs(runs: Sequence[RunSummary], name: str, *, by_dataset: bool) -> bool:
    """Whether runs, or the runs of one data set, were evaluated with different values."""
    values = {(run.config.dataset * by_dataset, repr(run.made_with[name])) for run in runs}
    return len(values) > len({group for group, _ in values})


def name_runs(runs: Sequence[RunSummary]) -> list[str]:
    """A label for each run: its method, and the fields in which it differs from other runs.

    Fields with the default value are left out. Runs that differ only in seed or skip_nonfinite have
    the same label; all other runs have different labels. Runs of one configuration on different
    data are told apart by "data" and eight digits of a checksum.
    """
    groups = [dataclasses.replace(run.config, **dict.fromkeys(_NOT_IN_LABEL, 0)) for run in runs]
    different = differing_fields(runs)
    labels: dict[configs.Config, str] = {}
    for run, group in zip(runs, groups, strict=True):
        default = _default(run.config)
        own = {name: getattr(run.config, name) for name in different}
        parts = [run.config.dataset] if "dataset" in own else []
        parts.append(run.config.method)
        parts += [
            f"{name} {'none' if value is None else value}"
            for name, value in own.items()
            if name not in ("dataset", "method")
            and (name == "source" or value != getattr(default, name))
        ]
        labels[group] = ", ".join(parts)
    data: dict[configs.Config, set[str | None]] = {}
    for run, group in zip(runs, groups, strict=True):
        data.setdefault(group, set()).add(run.data)
    return [
        labels[group] + (f", data {run.data or 'unknown'}" if len(data[group]) > 1 else "")
        for run, group in zip(runs, groups, strict=True)
    ]


def differing_fields(runs: Sequence[RunSummary]) -> list[str]:
    """The fields of `Config`, except seed and skip_nonfinite, in which the runs differ."""
    return [
        field.name
        for field in dataclasses.fields(configs.Config)
        if field.name not in _NOT_IN_LABEL
        and len({getattr(run.config, field.name) for run in runs}) > 1
    ]


def _default(config: configs.Config) -> configs.Config:
    """The default config of a run's data set, method and source."""
    given = {name: getattr(config, name) for name in _GIVEN}
    return configs.make_config({name: v for name, v in given.items() if v is not None})


def command(run: RunSummary) -> str:
    """The command that trains a run again, from an empty folder."""
    default = dataclasses.asdict(_default(run.config))
    parts = ["python -m experiments.train"]
    for name, value in dataclasses.asdict(run.config).items():
        if (name in (*_GIVEN, "seed") or value != default[name]) and value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            parts.append(f"--{name}={shlex.quote(text)}")
    parts.append(f"--workdir={shlex.quote(str(run.workdir))}")
    return " ".join(parts)
