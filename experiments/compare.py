"""Compares trained runs: `python -m experiments.compare --workdirs=runs/a,runs/b,'runs/sine-*'`.

Runs that differ only in their seed share a row, with mean and standard deviation. Writes a table
(Markdown and CSV), pictures (PNG and PDF) and report.html, a page that loads no other file. An
unfinished run is compared at its last epoch. A run that cannot be read is left out, and a line says
so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import evaluate
from experiments.report import page, run_summary, tables
from experiments.report.page import Column
from experiments.report.run_summary import RunSummary
from experiments.run import cli, messages, setup
from wiseale_jax import files, plots, run_folder
from wiseale_jax.evaluation import catalogue
from wiseale_jax.plots import comparison as comparison_plots

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Compares the runs that the flags name."""
    del argv
    workdirs, left_out = run_summary.find(cli.listed("workdirs"))
    output = files.make_folder(FLAGS.output, "output")
    done, unread = run_summary.read_all(workdirs)
    left_out += unread
    if FLAGS.evaluate:
        left_out += evaluate_all(done, FLAGS.data_dir)
        done = [run_summary.read_run(run.workdir) for run in done]
    for line in left_out:
        print(line)
    if not done:
        raise ValueError("no run is left to compare")
    write(done, left_out, output)


def evaluate_all(done: Sequence[RunSummary], data_dir: str | None) -> list[str]:
    """Evaluates every run whose last step is not evaluated; returns a line for each failure.

    An evaluation of the last step is kept, whatever its settings.
    """
    failed = []
    to_do = [run for run in done if not (steps := run_summary.steps(run)) or steps[0] < steps[1]]
    for number, run in enumerate(to_do, 1):
        print(f"[{number}/{len(to_do)}] evaluating {run.workdir}")
        try:
            evaluate.evaluate_run(run.workdir, data_dir)
        except (ValueError, OSError) as error:
            failed.append(f"not evaluated: {run.workdir}: {error}")
    return failed


def tabulate(done: Sequence[RunSummary], labels: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each label; a number is "" if one of the label's runs lacks it."""
    order = list(dict.fromkeys([*plots.METRIC_LABELS, *(n for run in done for n in run.numbers)]))
    values = {name: [run.numbers.get(name) for run in done] for name in order}
    table = tables.tabulate(labels, values)
    for row in table:
        of_row = [run for run, label in zip(done, labels, strict=True) if label == row["run"]]
        row |= {name: "" for name in order if any(name not in run.numbers for run in of_row)}
    return table


def write(done: Sequence[RunSummary], left_out: Sequence[str], output: Path) -> None:
    """Writes the table, the pictures and the page."""
    doubts = run_summary.doubts(done)
    for line in doubts:
        print(line)
    labels = run_summary.name_runs(done)
    table = tabulate(done, labels)
    tables.write_tables(output, "table", table)
    few = [name for name in table[0] if name in ("run", "seeds", *plots.METRIC_LABELS)]
    print(tables.markdown(table, few))  # A terminal has no room for all.
    datasets = ", ".join(dict.fromkeys(run.config.dataset for run in done))
    title = f"{datasets}: {messages.count(len(done), 'run')}"
    unit = setup.error_unit(run.config for run in done)
    drawn = {
        description.format(unit=unit): by_label
        for name, description in plots.METRIC_LABELS.items()
        if (by_label := _finite(done, labels, name))
    }
    figures = {
        "comparison": comparison_plots.metrics_by_label(drawn, title),
        "curves": comparison_plots.curves_by_label(
            [(label, run.rows) for label, run in zip(labels, done, strict=True)],
            title,
            unit,
        ),
    }
    for name, figure in figures.items():
        comparison_plots.save_both(figure, output / name)
    html = _page(title, done, labels, table, [*left_out, *doubts], output)
    files.write_text(output / "report.html", html)
    print(
        f"written to {output}, with all {len(table[0]) - 2} numbers: see {output / 'report.html'}"
    )


def _finite(done: Sequence[RunSummary], labels: Sequence[str], name: str) -> dict[str, list[float]]:
    by_label: dict[str, list[float]] = {}
    for label, run in zip(labels, done, strict=True):
        value = run.numbers.get(name)
        if value is not None:
            by_label.setdefault(label, []).append(value)
    return by_label


def _page(
    title: str,
    done: Sequence[RunSummary],
    labels: Sequence[str],
    table: Sequence[dict[str, Any]],
    left_out: Sequence[str],
    output: Path,
) -> str:
    evaluated = [name for name in table[0] if name not in ("run", "seeds", *plots.METRIC_LABELS)]
    body = [
        page.heading(1, title),
        page.paragraph(
            "Numbers are of the test set, at the last epoch of each run: the mean over seeds, "
            "± their standard deviation. A heading sorts its table; ↑ higher is better, ↓ lower.",
            "quiet",
        ),
        page.notes(left_out),
        page.heading(2, "Test set"),
        _numbers("test set", table, list(plots.METRIC_LABELS)),
        page.picture(output / "comparison.png", "Test metrics of each label"),
        page.picture(output / "curves.png", "Training metrics by epoch, median and range"),
    ]
    if evaluated:
        known = [
            name for name in [*plots.METRIC_LABELS, *evaluated] if catalogue.place(name) is not None
        ]
        rows = [[name.replace("_", " "), catalogue.describe(name).description] for name in known]
        meanings = page.plain_table("what the numbers are", ["number", "meaning"], rows)
        body += [
            page.heading(2, "Evaluation"),
            page.paragraph(run_summary.evaluated_on(done), "quiet"),
            _numbers("evaluation", table, evaluated),
            page.details("What the numbers are", [meanings]),
        ]
    body += [page.heading(2, "What differs"), _differences(done, labels)]
    body += [page.heading(2, "Runs")]
    for label, run in zip(labels, done, strict=True):
        body.append(page.details(f"{label}, seed {run.config.seed}", _run(run)))
    return page.page(title, body)


def _numbers(name: str, table: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    head = [Column("run", is_text=True), Column("seeds")]
    for column in columns:
        unit, description = "", ""
        if catalogue.place(column) is not None:
            _, unit, better, description = catalogue.describe(column)
            unit = f"{catalogue.ARROWS[better]} {unit}".strip()
        head.append(Column(column.replace("_", " "), unit, description))
    rows = [[row[c] for c in ("run", "seeds", *columns)] for row in table]
    return page.table(name, head, rows)


def _differences(done: Sequence[RunSummary], labels: Sequence[str]) -> str:
    fields = run_summary.differing_fields(done)
    if not fields:
        return page.paragraph("Nothing but the seed.")
    # Runs of one label have the same values of these fields.
    by_label = dict(zip(labels, done, strict=True))
    rows = [
        [label, *("" if (v := getattr(run.config, f)) is None else v for f in fields)]
        for label, run in by_label.items()
    ]
    return page.plain_table("what differs", ["run", *fields], rows)


def _run(run: RunSummary) -> list[str]:
    body = [
        page.paragraph(f"{run.workdir}: {run.state}", "quiet"),
        page.command(run_summary.command(run), "the command that trains this run"),
    ]
    for path in sorted((run.workdir / run_folder.FIGURES).glob("*.png")):
        body.append(page.picture(path, path.stem.replace("-", " ")))
    body.append(page.heading(3, "Configuration"))
    fields = dataclasses.asdict(run.config).items()
    rows = [[name, "none" if value is None else value] for name, value in fields]
    body.append(page.plain_table("configuration", ["field", "value"], rows))
    return body


if __name__ == "__main__":
    cli.define_list("workdirs", None, "folders of trained runs, with * as a wildcard")
    flags.DEFINE_string("output", "runs/comparison", "folder of the table, pictures and page")
    flags.DEFINE_bool("evaluate", False, "first evaluate every run that is not evaluated yet")
    setup.define_data_dir()
    cli.run(main)
