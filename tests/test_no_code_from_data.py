"""No file that is read can run code: what could is nowhere in the tree."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = r"pickle|dill|joblib|marshal|shelve|torch\.load|yaml\.load|read_pickle|\beval\(|\bexec\("


def sources():
    """The text of every module and of every notebook's code, by path."""
    for folder in ("wiseale_jax", "experiments", "notebooks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != Path(__file__):
                yield path, path.read_text(encoding="utf-8")
        for path in (ROOT / folder).rglob("*.ipynb"):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            yield path, "\n".join("".join(cell["source"]) for cell in cells)


def test_no_pickle():
    found = []
    for path, text in sources():
        for number, line in enumerate(text.splitlines(), start=1):
            if re.search(NAMES, line.replace("allow_pickle=False", "")):
                found.append(f"{path}:{number}: {line.strip()}")
    assert found == []


def test_arrays_are_loaded_without_pickle():
    calls = 0
    for path, text in sources():
        for call in re.findall(r"np\.load\((?:[^()]|\([^()]*\))*\)", text):
            assert "allow_pickle=False" in call, f"{path}: {call}"
            calls += 1
    assert calls
