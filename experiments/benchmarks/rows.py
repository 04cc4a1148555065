"""Shows results as lines and as tables: a row names a measurement, and has figures or a note."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def line(row: Row) -> str:
    """A result on one line."""
    figures = (f"{k} {_figure(v)}" for k, v in row.items() if k not in ("part", "what"))
    return f"{row['part']}: {row['what']}: {', '.join(figures)}"


def _figure(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def report(title: str, rows: list[Row]) -> str:
    """The results as Markdown: a table for every part, with columns in the order of appearance."""
    lines = [f"# {title}", ""]
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        columns = list(dict.fromkeys(k for row in own for k in row if k not in ("part", "what")))
        lines += [f"## {part}", "", "| " + " | ".join(["what", *columns]) + " |"]
        lines.append("| --- |" + " ---: |" * len(columns))
        for row in own:
            cells = (_figure(row[k]) if k in row else "" for k in columns)
            lines.append("| " + " | ".join([row["what"], *cells]) + " |")
        lines.append("")
    return "\n".join(lines)
