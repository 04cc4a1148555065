"""notebooks/: what a reader on the web sees, and that each still runs from top to bottom."""

import ast
import os
import re
import shutil
import subprocess
import sys
import types

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import wiseale_jax
from experiments import link_notebooks
from tests.helpers import ROOT

NAMES = ["quickstart", "wiseale_kl", "latent_space", "aggregate"]
PUBLIC = {
    "wiseale_jax": {*wiseale_jax.__all__},
    "wiseale_jax.plots": {"images", "latents"},
    "experiments": {"configs", "train"},
}

every_notebook = pytest.mark.parametrize("name", NAMES)


def path_of(name):
    return ROOT / "notebooks" / f"{name}.ipynb"


def read(name):
    return nbformat.read(path_of(name), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def execute(notebook, folder, **variables):
    """Runs a notebook in a folder; its outputs replace the stored ones."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}})
    client.execute(env={k: v for k, v in environment.items() if v is not None})


def test_there_are_no_others():
    assert sorted(path.stem for path in (ROOT / "notebooks").iterdir()) == sorted(NAMES)


@every_notebook
def test_opens_with_a_badge_and_an_install_cell(name):
    first, second = read(name).cells[:2]
    assert first.cell_type == "markdown" and second.cell_type == "code"
    assert re.match(r'<a href="https://colab\.research\.google\.com/github/', first.source)
    assert "colab-badge.svg" in first.source.splitlines()[0]
    assert second.source == read(NAMES[0]).cells[1].source


@every_notebook
def test_what_is_stored_is_one_run_from_top_to_bottom(name):
    notebook = read(name)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds
        pictures = any("image/png" in output.get("data", {}) for output in cell.outputs)
        draws = ("plt.show()", "latent_plots.", "image_plots.")
        assert any(call in cell.source for call in draws) == pictures
        if "def " not in cell.source and re.search(r"\b(print|judge|train)\(", cell.source):
            assert "stream" in kinds
        # No warnings, no progress bars.
        assert all(output.get("name", "stdout") == "stdout" for output in cell.outputs)
    assert path_of(name).stat().st_size < 1_000_000


@every_notebook
def test_nothing_stored_names_a_machine(name):
    notebook = read(name)
    texts = [cell.source for cell in notebook.cells]
    for output in outputs_of(notebook):
        texts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    for text in texts:
        assert not re.search(r"(?<![\w.:/])(/[a-z]+){2}|[A-Z]:\\|localhost", text), text
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any("execution" in cell.metadata for cell in notebook.cells)


@every_notebook
def test_only_the_public_interface_is_used(name):
    imported = {}
    for cell in code_cells(read(name)):
        source = re.sub("(?m)^%.*", "", cell.source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                imported.setdefault(node.module, set()).update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("wiseale_jax") for alias in node.names)
    ours = {module for module in imported if module.split(".")[0] in PUBLIC}
    assert ours and all(imported[module] <= PUBLIC[module] for module in ours)


def install_cell():
    return read(NAMES[0]).cells[1].source


def test_the_install_cell_does_nothing_where_the_package_is(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec(install_cell(), {})


def test_the_install_cell_says_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "experiments.configs", None)
    with pytest.raises(SystemExit, match=r"pip install -e '\.\[notebooks\]'"):
        exec(install_cell(), {})
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    with pytest.raises(SystemExit, match="fill in REPOSITORY"):
        exec(install_cell(), {})


def test_the_install_cell_clones_and_installs_on_colab(tmp_path, monkeypatch):
    commands = []

    def run(command, check):
        commands.append(command)
        sys.modules.pop("experiments.configs", None)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "experiments.configs", None)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setenv("WISEALE_REPOSITORY", "https://example.org/wiseale_jax")
    exec(install_cell(), {})
    clone = str(tmp_path / "clone")
    assert commands[0][:2] == ["git", "clone"]
    assert commands[0][-2:] == ["https://example.org/wiseale_jax", clone]
    assert commands[1][1:4] == ["-m", "pip", "install"] and commands[1][-1] == f"{clone}[notebooks]"
    assert sys.path[0] == clone


def test_the_address_stands_in_one_place(tmp_path):
    def contents():
        return {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.ipynb")}

    for name in NAMES:
        shutil.copy(path_of(name), tmp_path)
    before = contents()
    assert link_notebooks.link(tmp_path, None, write=True) == []
    url = "https://github.com/someone/wiseale_jax"
    names = sorted(before)
    assert link_notebooks.link(tmp_path, url, write=False) == names and contents() == before
    assert link_notebooks.link(tmp_path, url, write=True) == names
    for name, text in contents().items():
        first, second = nbformat.reads(text, as_version=4).cells[:2]
        place = f"someone/wiseale_jax/blob/main/notebooks/{name}"
        assert first.source.startswith(
            f'<a href="https://colab.research.google.com/github/{place}"'
        )
        assert "found this notebook in" not in first.source
        assert f'get("WISEALE_REPOSITORY", "{url}")' in second.source
        assert "No address" not in second.source
    assert link_notebooks.link(tmp_path, url, write=True) == []
    # And back: nothing else has changed.
    assert link_notebooks.link(tmp_path, None, write=True) == names and contents() == before


def test_the_stored_notebooks_have_the_address_of_setup_cfg():
    url = link_notebooks.read_url(ROOT / "setup.cfg")
    assert link_notebooks.link(ROOT / "notebooks", url, write=False) == []


def test_an_address_that_colab_cannot_open(tmp_path):
    (tmp_path / "other.cfg").write_text("[metadata]\nurl = https://example.org/b\n")
    with pytest.raises(ValueError, match=r"must be https://github\.com/OWNER/NAME, got"):
        link_notebooks.read_url(tmp_path / "other.cfg")
    (tmp_path / "setup.cfg").write_text("[metadata]\nurl = https://github.com/a/b.git\n")
    assert link_notebooks.read_url(tmp_path / "setup.cfg") == "https://github.com/a/b"
    (tmp_path / "n.ipynb").write_text('{"cells": [{"source": ["no"]}, {"source": []}]}')
    with pytest.raises(ValueError, match=r"n\.ipynb has no badge"):
        link_notebooks.link(tmp_path, None, write=False)


def test_without_mnist_the_message_says_where_to_put_it(tmp_path):
    notebook = read("latent_space")
    last = next(i for i, c in enumerate(notebook.cells) if "load_examples(" in c.source)
    notebook.cells = notebook.cells[: last + 1]
    nowhere = "http://127.0.0.1:9"
    with pytest.raises(CellExecutionError) as raised:
        execute(
            notebook,
            tmp_path,
            WISEALE_DATA_DIR=None,
            TFDS_DATA_DIR=str(tmp_path / "data"),
            http_proxy=nowhere,
            https_proxy=nowhere,
        )
    assert raised.value.ename == "SystemExit"
    assert "cannot download mnist" in raised.value.evalue
    assert "train-images-idx3-ubyte.gz" in raised.value.evalue
    assert raised.value.evalue.endswith("In this notebook, that folder is SOURCE.")


@pytest.mark.slow
@every_notebook
def test_runs_from_top_to_bottom(name, tmp_path, request):
    variables = {"TFDS_DATA_DIR": str(tmp_path / "data")}
    if name in ("latent_space", "aggregate"):
        variables["WISEALE_DATA_DIR"] = str(request.getfixturevalue("real_data"))
    notebook, stored = read(name), read(name)
    execute(notebook, tmp_path, **variables)
    assert not any(output.output_type == "error" for output in outputs_of(notebook))
    for cell, before in zip(code_cells(notebook), code_cells(stored), strict=True):
        pictures = [
            [output for output in c.outputs if "image/png" in output.get("data", {})]
            for c in (cell, before)
        ]
        assert len(pictures[0]) == len(pictures[1])
