"""No file that is read can run code: what could is nowhere in the tree."""

import json
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT

UNPICKLES = (
    r"\b(import|from) (c?[pP]ickle|cloudpickle|dill|joblib|marshal|shelve)\b"
    r"|torch\.load|yaml\.load|read_pickle|allow_pickle=True"
)
RUNS_TEXT = r"(?<![.\w])(eval|exec)\("


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
        # Tests run the code of notebooks, which is ours.
        pattern = UNPICKLES if "tests" in path.parts else f"{UNPICKLES}|{RUNS_TEXT}"
        for number, line in enumerate(text.splitlines(), start=1):
            if re.search(pattern, line):
                found.append(f"{path}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["import pickle", "torch.load(f)", "np.load(f, allow_pickle=True)", "eval(text)"],
)
def test_that_it_would_be_found(line):
    assert re.search(f"{UNPICKLES}|{RUNS_TEXT}", line)


def test_arrays_are_loaded_without_pickle():
    calls = 0
    for path, text in sources():
        for call in re.findall(r"np\.load\((?:[^()]|\([^()]*\))*\)", text):
            assert "allow_pickle=False" in call, f"{path}: {call}"
            calls += 1
    assert calls
