"""The page of a comparison: one HTML file that loads no other file.

Everything that comes from a run is escaped, and the page's own policy lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report.tables import Spread

_HERE = Path(__file__).parent
_LARGEST_PICTURE = 8 * 2**20
_PNG = b"\x89PNG\r\n\x1a\n"


class Column(NamedTuple):
    """One column of a table.

    Attributes:
      title: the heading of the column.
      unit: the unit and which way is better, shown below the title.
      description: shown when the pointer rests on the title.
      is_text: whether the column is sorted as text.
    """

    title: str
    unit: str = ""
    description: str = ""
    is_text: bool = False


def page(title: str, body: Sequence[str]) -> str:
    """The whole page; `body` is HTML."""
    script = (_HERE / "sort.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = string.Template((_HERE / "template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title), body="\n".join(body), script=script, script_hash=digest
    )


def heading(level: int, text: str) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the page's style."""
    return f'<p class="{kind}">{html.escape(text)}</p>' if kind else f"<p>{html.escape(text)}</p>"


def notes(lines: Sequence[str]) -> str:
    """A box of lines to read first; empty if there are no lines."""
    if not lines:
        return ""
    return f'<div class="notes">{"".join(paragraph(line) for line in lines)}</div>'


def command(text: str, name: str) -> str:
    """A command in a box that scrolls; `name` describes it to screen readers."""
    return _scroll(f"<pre><code>{html.escape(text)}</code></pre>", name)


def table(name: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> str:
    """A table that sorts, in a box that scrolls.

    Args:
      name: the name of the table.
      columns: the columns of the table.
      rows: rows of cells, which are text, numbers or `Spread`. None is a number that is infinite or
        does not exist.
    """
    head = "".join(_header(column) for column in columns)
    lines = []
    for row in rows:
        cells = [_cell(value, column) for value, column in zip(row, columns, strict=True)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    caption = html.escape(name)
    return _scroll(
        f'<table aria-label="{caption}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{chr(10).join(lines)}</tbody></table>",
        name,
    )


def _header(column: Column) -> str:
    unit = f"<small>{html.escape(column.unit)}</small>" if column.unit else ""
    kind = "text" if column.is_text else "number"
    hint = f' title="{html.escape(column.description)}"' if column.description else ""
    return (
        f'<th scope="col" aria-sort="none" data-kind="{kind}">'
        f'<button type="button"{hint}>{html.escape(column.title)}</button>{unit}</th>'
    )


def _cell(value: Any, column: Column) -> str:
    key, text = value, value
    if isinstance(value, Spread):
        key, text = value.mean, str(value)
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif value is None:
        key, text = "", "" if column.is_text else "none"
    return f'<td data-value="{html.escape(str(key))}">{html.escape(str(text))}</td>'


def plain_table(name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of text that does not sort; the first column holds headers."""
    first = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in head)
    lines = [
        f'<tr><th scope="row">{html.escape(str(row[0]))}</th>'
        + "".join(f"<td>{html.escape(str(value))}</td>" for value in row[1:])
        + "</tr>"
        for row in rows
    ]
    return _scroll(
        f'<table class="plain" aria-label="{html.escape(name)}"><thead><tr>{first}</tr></thead>'
        f"<tbody>{chr(10).join(lines)}</tbody></table>",
        name,
    )


def picture(path: Path, description: str) -> str:
    """A PNG as part of the page; a line of text if it is unreadable, not a PNG or very large."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _LARGEST_PICTURE else b""
    except OSError as error:
        return paragraph(f"{path.name} cannot be read: {error.strerror}", "quiet")
    if size > _LARGEST_PICTURE:
        return paragraph(f"{path.name} is left out: {size / 2**20:.0f} MiB", "quiet")
    if not data.startswith(_PNG):
        return paragraph(f"{path.name} is left out: it is no PNG", "quiet")
    text = html.escape(description)
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    image = _scroll(f'<img src="{source}" alt="{text}">', description)
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def details(summary: str, body: Sequence[str]) -> str:
    """A part that opens on a click; `body` is HTML."""
    return (
        f"<details><summary>{html.escape(summary)}</summary>\n" + "\n".join(body) + "\n</details>"
    )


def _scroll(body: str, name: str) -> str:
    # Focusable, as a box that scrolls must be reachable by keyboard.
    label = html.escape(name)
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{body}</div>'
