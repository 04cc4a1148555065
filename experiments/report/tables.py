"""Numbers of many runs as tables: the spread over seeds, in Markdown and in CSV."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wiseale_jax import files


def _rounded(value: float, digits: int) -> str:
    """A number to significant digits, without a power of ten from 0.0001 to a million."""
    return f"{float(f'{value:.{digits}g}'):g}"


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; one seed has no deviation."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        mean = _rounded(self.mean, 4)
        return mean if self.deviation is None else f"{mean} ± {_rounded(self.deviation, 2)}"


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and standard deviation; None if a value is missing or non-finite."""
    if not values or any(value is None or not math.isfinite(value) for value in values):
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def tabulate(
    labels: Sequence[str], columns: Mapping[str, Sequence[float | None]]
) -> list[dict[str, Any]]:
    """One row per label, with the spread over its runs.

    Args:
      labels: the label of every run.
      columns: a value for every run, by name.
    """
    return [
        {
            "run": label,
            "seeds": labels.count(label),
            **{
                name: spread([v for v, of in zip(values, labels, strict=True) if of == label])
                for name, values in columns.items()
            },
        }
        for label in dict.fromkeys(labels)
    ]


def write_tables(folder: Path, name: str, table: Sequence[Mapping[str, Any]]) -> str:
    """Writes a table as Markdown and as CSV, and returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(table[0])
    text = markdown(table, columns)
    files.write_text(folder / f"{name}.md", text)

    rows = [[c for column in columns for c in _csv_columns(column, table)]]
    for row in table:
        rows.append([v for column in columns for v in _csv_values(row[column], column, table)])
    write_csv(folder / f"{name}.csv", rows)
    return text


def markdown(table: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Some columns of a table as Markdown.

    None is a number that is infinite or does not exist, and "" is a number that was not asked for.
    """
    lines = ["| " + " | ".join(columns) + " |"]
    lines.append("| --- |" + " ---: |" * (len(columns) - 1))
    for row in table:
        cells = ["none" if row[c] is None else str(row[c]) for c in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows of cells; the first row holds the names of the columns."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    files.write_text(path, buffer.getvalue())


def _csv_columns(column: str, table: Sequence[Mapping[str, Any]]) -> list[str]:
    has_spread = any(isinstance(row[column], Spread | None) for row in table)
    return [column, f"{column}_deviation"] if has_spread else [column]


def _csv_values(value: Any, column: str, table: Sequence[Mapping[str, Any]]) -> list[Any]:
    if isinstance(value, Spread):
        return [f"{value.mean:.6g}", "" if value.deviation is None else f"{value.deviation:.6g}"]
    empty = value is None or value == ""
    return [""] * len(_csv_columns(column, table)) if empty else [value]
