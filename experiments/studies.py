"""Shared code of the paper's sections: trains many runs, and collects their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from matplotlib.figure import Figure

from experiments import configs, evaluate
from experiments.report import tables
from experiments.run import cli, loop, messages, setup, together
from wiseale_jax import evaluation, files, run_folder
from wiseale_jax.evaluation import Settings
from wiseale_jax.models.trained import TrainedAutoencoder, load
from wiseale_jax.plots import comparison as comparison_plots

# The KL of the aggregate posterior and the KL of each posterior, both with a weight of 1/M and of 1
# per example: which effects come from the aggregate, and which from a weak prior? M = 64.
WEIGHTS = {
    "WiSE-ALE": {"method": "wiseale"},
    "beta-VAE, beta 1/64": {"method": "beta_vae", "beta": 1 / 64},
    "WiSE-ALE, kl_weight batch": {"method": "wiseale", "kl_weight": "batch"},
    "AEVB": {"method": "aevb"},
}

# Our additions, with one whole KL per example.
_WHOLE_KL = {"method": "wiseale", "kl_weight": "batch"}
SPREAD = {
    "WiSE-ALE, spread": {**_WHOLE_KL, "spread": "auto"},
    "WiSE-ALE, memory": {**_WHOLE_KL, "memory": 2048},
    "WiSE-ALE, spread and memory": {**_WHOLE_KL, "spread": "auto", "memory": 2048},
}

# The methods beside the paper's four, each as its authors have it.
RIVALS = {
    "WAE-GAN": {"method": "wae_gan"},
    "AAE": {"method": "aae"},
    "Sinkhorn": {"method": "sinkhorn"},
    "Sinkhorn, sphere": {"method": "sinkhorn", "encoder": "spherical"},
    "RAE": {"method": "rae"},
    "GM-VAE": {"method": "gmvae"},
    "VampPrior": {"method": "vampprior"},
    "beta-TCVAE": {"method": "beta_tcvae"},
    "InfoVAE": {"method": "info_vae"},
    "DIP-VAE": {"method": "dip_vae"},
}


class Run(NamedTuple):
    """One finished run of a section.

    Attributes:
      label: the run's name in tables and figures.
      config: the run's config.
      workdir: the run's folder.
      rows: the rows of metrics.jsonl.
    """

    label: str
    config: configs.Config
    workdir: Path
    rows: list[dict[str, Any]]

    @property
    def test(self) -> dict[str, Any]:
        """The last epoch's metrics on the test set."""
        return self.rows[-1]


def define_flags(output: str) -> None:
    """Defines the flags of a section."""
    cli.define_list("seeds", ["0", "1", "2"], "seeds of the runs")
    flags.DEFINE_multi_string(
        "only", [], "row of the table to train; repeat the flag for more rows (default: all)"
    )
    flags.DEFINE_integer("epochs", None, "passes over the training set (default: the data set's)")
    flags.DEFINE_integer(
        "train_examples", None, "train on only the first so many examples (default: all)"
    )
    flags.DEFINE_string("output", output, "folder of the runs, tables and figures")
    flags.DEFINE_integer(
        "together",
        1,
        "largest number of runs to train in one program; a GPU has room for several",
        lower_bound=1,
    )
    evaluate.define_flags(["examples", "likelihood_examples"])
    setup.define_data_dir()


def train_all(
    dataset: str,
    variants: Mapping[str, Mapping[str, Any]],
    output: Path,
    seeds: Iterable[int],
    given: Mapping[str, Any],
    data_dir: str | None,
    settings: Settings = evaluation.DEFAULTS,
    at_once: int = 1,
    **preparing: Any,
) -> list[Run]:
    """Trains every variant with every seed; finished runs are left as they are.

    A run that ends at a non-finite step is left out, with a line that says why.

    Args:
      dataset: a name in `DATASETS`.
      variants: the fields of `Config` that make each variant, by label.
      output: the folder in which `runs/` is made.
      seeds: the seeds of the runs.
      given: fields of `Config` for all runs; None is left out.
      data_dir: where prepared data sets are kept; None for tfds's default.
      settings: how thoroughly the runs are evaluated later.
      at_once: how many runs to train in one program, if they differ only in numbers.
      **preparing: how to prepare the data set, as in `setup.prepare`.

    Raises:
      ValueError, OSError: before anything is trained: a folder holds another run, a finished run
        lacks its metrics or its checkpoint, or the runs cannot be evaluated with the settings. Or
        as in `loop.train`.
      FloatingPointError: no run got to its end.
    """
    given = {name: value for name, value in given.items() if value is not None}
    seeds = list(seeds)
    planned = [
        (label, configs.make_config({"dataset": dataset, **given, **fields, "seed": seed}))
        for seed in seeds
        for label, fields in variants.items()
    ]
    folders = [output / "runs" / f"{_slug(label)}-seed{config.seed}" for label, config in planned]
    unfinished = []
    for place, (workdir, (_, config)) in enumerate(zip(folders, planned, strict=True)):
        if loop.check_workdir(config, workdir, "output"):
            _check_finished(workdir)
        else:
            unfinished.append(place)
    test = setup.load_test(planned[0][1], data_dir, **preparing).examples
    evaluation.check(settings, len(test))
    evaluation.load_networks(settings, test.shape[1:])
    faults: dict[Path, str] = {}
    if at_once > 1:
        left = [(planned[place][1], folders[place]) for place in unfinished]
        for group in together.groups(left, at_once):
            if len(group) > 1:
                faults |= together.train([left[i] for i in group], data_dir, **preparing)
    done = []
    for number, (workdir, (label, config)) in enumerate(zip(folders, planned, strict=True), 1):
        print(f"[{number}/{len(planned)}] {label}, seed {config.seed}")
        try:
            if workdir in faults:
                raise FloatingPointError(faults[workdir])
            loop.train(config, workdir, data_dir, **preparing)
        except FloatingPointError as error:
            print(f"left out: {label}, seed {config.seed}: {error}")
            continue
        done.append(Run(label, config, workdir, run_folder.read_metrics(workdir)))
    if not done:
        raise FloatingPointError("no run got to its end: see above")
    return done


def _check_finished(workdir: Path) -> None:
    missing = [] if run_folder.read_metrics(workdir) else [run_folder.METRICS]
    if not loop.has_checkpoint(workdir):
        missing.append("checkpoint")
    if missing:
        raise ValueError(
            f"{workdir} is finished and has no {' and no '.join(missing)} any more: bring it back, "
            "or remove summary.json to train it again"
        )


def run_section(
    dataset: str,
    variants: Mapping[str, Mapping[str, Any]],
    report: Callable[..., None],
    output: str | Path,
    given: Mapping[str, Any],
    **preparing: Any,
) -> None:
    """Trains the runs that the flags choose, and reports on them, as every section does.

    Args:
      dataset: a name in `DATASETS`.
      variants: the fields of `Config` that make each variant, by label.
      report: `(done, output, data_dir, settings, **preparing)`; it writes tables and figures.
      output: folder of the runs, tables and figures.
      given: fields of `Config` for all runs; None is left out.
      **preparing: how to prepare the data set, as in `setup.prepare`.

    Raises:
      ValueError, OSError: a flag is wrong, before anything is trained; or as in `train_all`.
    """
    values = flags.FLAGS
    seeds = parse_seeds(cli.listed("seeds"))
    chosen = choose(variants, values.only)
    settings = evaluate.settings_from_flags(name for name in Settings._fields if name in values)
    output = files.make_folder(output, "output")
    given = {"epochs": values.epochs, "train_examples": values.train_examples, **given}
    done = train_all(
        dataset,
        chosen,
        output,
        seeds,
        given,
        values.data_dir,
        settings,
        values.together,
        **preparing,
    )
    report(done, output, values.data_dir, settings, **preparing)
    if missing := len(seeds) * len(chosen) - len(done):
        print(f"without {missing} that ended at a non-finite step: see above")
    print(f"written to {output}")


def evaluate_all(
    done: Sequence[Run],
    settings: Settings,
    data_dir: str | None,
    **preparing: Any,
) -> dict[str, list[float | None]]:
    """The numbers of `evaluate.evaluate_run` for every run, by name, as for `tables.tabulate`.

    The standard errors are among them, as `<name>_stderr`.

    Args:
      done: the runs.
      settings: how thoroughly to evaluate.
      data_dir: where prepared data sets are kept; None for tfds's default.
      **preparing: how to prepare the data set, as in `setup.prepare`.

    Raises:
      ValueError, OSError: as in `evaluate.evaluate_run`.
    """
    found = []
    for number, run in enumerate(done, 1):
        print(f"[{number}/{len(done)}] evaluating {run.label}, seed {run.config.seed}")
        found.append(evaluate.evaluate_run(run.workdir, data_dir, settings, **preparing))
    names = dict.fromkeys(name for row in found for name in row if name not in evaluate.MADE_WITH)
    return {name: [row.get(name) for row in found] for name in names}


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in label.lower()).strip("-")


def choose(
    variants: Mapping[str, Mapping[str, Any]], only: Sequence[str], flag: str = "only"
) -> dict[str, Any]:
    """The variants with the given labels; all variants if no label is given.

    Args:
      variants: the variants by label.
      only: the labels to choose.
      flag: the flag that gives the labels, for the message.

    Raises:
      ValueError: a label is unknown; the message lists the known ones.
    """
    if unknown := [label for label in only if label not in variants]:
        known = "; ".join(variants)
        raise ValueError(f"{flag} must be labels of the table, got {unknown[0]!r}; known: {known}")
    return {label: variants[label] for label in variants if label in only or not only}


def parse_seeds(seeds: Sequence[str]) -> list[int]:
    """The seeds of a flag.

    Raises:
      ValueError: there is no seed, a seed is not a number, or a seed comes twice.
    """
    numbers = [int(seed) for seed in seeds if seed.isdecimal()]
    if not seeds or len(set(numbers)) < len(seeds):
        raise ValueError(f"seeds must be different numbers, got {','.join(seeds)!r}")
    return numbers


def write_numbers(
    done: Sequence[Run],
    output: Path,
    columns: Mapping[str, Sequence[float | None]],
    names: Iterable[str],
    settings: Settings,
    data_dir: str | None,
    **preparing: Any,
) -> dict[str, list[float | None]]:
    """Writes a table of metrics, a table of the evaluation, and runs.csv with all numbers by run.

    In runs.csv, `<name>` is the last epoch's number, and `evaluation_<name>` is the evaluation's
    number of the same name. The tables are printed, too.

    Args:
      done: the runs.
      output: the folder of the tables.
      columns: the columns of the table of metrics: a value for every run, by name.
      names: the numbers in the evaluation's table. A number that no run has, for lack of
        scikit-learn or of a network for FID, is left out.
      settings, data_dir, **preparing: as in `evaluate_all`.

    Returns:
      The evaluation, as `evaluate_all` gives it.
    """
    labels = [run.label for run in done]
    print(tables.write_tables(output, "table", tables.tabulate(labels, columns)))
    numbers = evaluate_all(done, settings, data_dir, **preparing)
    chosen = {name: numbers[name] for name in names if name in numbers}
    print(tables.write_tables(output, "evaluation", tables.tabulate(labels, chosen)))
    more = {  # The evaluation uses other draws, or fewer examples.
        f"evaluation_{name}" if name.removesuffix("_stderr") in columns else name: values
        for name, values in numbers.items()
    }
    columns = {**columns, **more}
    rows = [["run", "seed", *columns]]
    for i, run in enumerate(done):
        values = (values[i] for values in columns.values())
        rows.append(
            [run.label, run.config.seed, *("" if v is None else f"{v:.6g}" for v in values)]
        )
    tables.write_csv(output / "runs.csv", rows)
    return numbers


def load_first(done: Sequence[Run]) -> dict[str, TrainedAutoencoder]:
    """The trained models of `first_runs`, by label."""
    return {label: load(run.workdir) for label, run in first_runs(done).items()}


def first_runs(done: Sequence[Run]) -> dict[str, Run]:
    """Each label's first run, by label; the labels name the seed if the seeds differ."""
    first: dict[str, Run] = {}
    for run in done:
        first.setdefault(run.label, run)
    several = len({run.config.seed for run in first.values()}) > 1
    return {
        f"{label}, seed {run.config.seed}" if several else label: run
        for label, run in first.items()
    }


def title_of_first(done: Sequence[Run]) -> str:
    """The title of a picture of the runs of `first_runs`."""
    seeds = {run.config.seed for run in first_runs(done).values()}
    return title_of(done) + (f", seed {min(seeds)}" if len(seeds) == 1 else "")


def title_of(done: Sequence[Run]) -> str:
    """The title of a picture of runs: the data set and the epochs that they share."""
    return f"{done[0].config.dataset}, {messages.count(done[0].config.epochs, 'epoch')}"


def write_figures(done: Sequence[Run], output: Path, figures: Mapping[str, Figure]) -> None:
    """Writes the given figures, and a figure of the training by epoch, as "curves".

    Args:
      done: the runs.
      output: the folder of the figures.
      figures: the figures by name.
    """
    counts = sorted(Counter(run.label for run in done).values())
    seeds = messages.count(counts[-1], "seed")
    if counts[0] < counts[-1]:
        seeds = f"{counts[0]} to {seeds}"
    curves = comparison_plots.curves_by_label(
        [(run.label, run.rows) for run in done],
        f"{title_of(done)}, {seeds}",
        setup.error_unit([done[0].config]),
    )
    for name, figure in {**figures, "curves": curves}.items():
        comparison_plots.save_both(figure, output / name)


def last_metrics(done: Sequence[Run], *names: str) -> dict[str, list[float]]:
    """The last epoch's metrics on the test set, by name and for every run."""
    return {name: [run.test[name] for run in done] for name in names}
