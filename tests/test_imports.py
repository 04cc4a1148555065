"""The code follows the data: arrays, recipe, batches, steps, trained model, evaluation, report.

No file imports one that stands later on that way. Files and checkpoints lie below, for everyone.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

# From the first to the last. A name stands for a file, or for all files of a folder.
WAY = [
    "wiseale_jax.version",
    "wiseale_jax.backend",
    "wiseale_jax.files",
    "wiseale_jax.pytrees",
    "wiseale_jax.run_folder",
    "wiseale_jax.checkpoints",
    "wiseale_jax.pair_terms",
    "wiseale_jax.pairwise",
    "wiseale_jax.spread",
    "wiseale_jax.memory",
    "wiseale_jax.divergences",
    "wiseale_jax.priors",
    "wiseale_jax.likelihoods",
    "wiseale_jax.datasets",
    "wiseale_jax.models.bilinear",
    "wiseale_jax.models.winograd",
    "wiseale_jax.models.convolutions",
    "wiseale_jax.models.native_convolutions",
    "wiseale_jax.models.layers",
    "wiseale_jax.models.networks",
    "wiseale_jax.models.modules",
    "wiseale_jax.models.autoencoder",
    "wiseale_jax.models.chunks",
    "wiseale_jax.models.parameters",
    "wiseale_jax.models.description",
    "wiseale_jax.methods",
    "wiseale_jax.methods.settings",
    "wiseale_jax.samplers",
    "wiseale_jax.training.recipe",
    "wiseale_jax.training.optimizers",
    "wiseale_jax.training.batches",
    "wiseale_jax.training.gradients",
    "wiseale_jax.training.steps",
    "wiseale_jax.training.staleness",
    "wiseale_jax.training.epochs",
    "wiseale_jax.training.together",
    "wiseale_jax.models.trained",
    "wiseale_jax.training.arguments",
    "wiseale_jax.training.fit",
    "wiseale_jax.training.fit_samplers",
    "wiseale_jax.evaluation",
    "wiseale_jax.plots",
    "experiments.defaults",
    "experiments.config_checks",
    "experiments.configs",
    "experiments.run.signals",
    "experiments.run.lock",
    "experiments.run.processes",
    "experiments.run.cli",
    "experiments.run.moved",
    "experiments.run.profiling",
    "experiments.run.messages",
    "experiments.run.setup",
    "experiments.run.resume",
    "experiments.run.finish",
    "experiments.run.loop",
    "experiments.run.together",
    "experiments.waves",
    "experiments.evaluate",
    "experiments.report",
    "experiments.studies",
    "experiments.image_study",
    "experiments.benchmarks",
    # The commands: whoever starts one has come to the end.
    "experiments",
]

# `model.evaluate(x)` is a shorthand on the model for what comes after it.
EXCEPTIONS = {("wiseale_jax.models.trained", "wiseale_jax.evaluation")}

# The face, which shows everything.
PUBLIC = {"wiseale_jax", "experiments"}


def place(module):
    """Where a module stands on the way: by the longest name on it that the module begins with."""
    known = [name for name in WAY if module == name or module.startswith(f"{name}.")]
    assert known, f"{module} has no place on the way: give it one"
    return WAY.index(max(known, key=len))


def modules():
    for folder in ("wiseale_jax", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, names):
    """The project's modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in names else node.module for name in whole]
        else:
            continue
        yield from (name for name in found if name.split(".")[0] in ("wiseale_jax", "experiments"))


def against_the_way(path, module, names):
    """The imports of a file that stand later than it does."""
    return [
        name
        for name in imported(path, names)
        if name not in PUBLIC and place(name) > place(module) and (module, name) not in EXCEPTIONS
    ]


def test_no_file_imports_one_that_stands_later():
    known = list(modules())
    names = {module for _, module in known}
    against = {
        module: found
        for path, module in known
        if module not in PUBLIC and (found := against_the_way(path, module, names))
    }
    assert against == {}


def test_the_library_knows_no_experiment():
    names = {module for _, module in modules()}
    for path, module in modules():
        if module.startswith("wiseale_jax"):
            assert not any(name.startswith("experiments") for name in imported(path, names)), path


def test_that_a_wrong_import_would_be_found(tmp_path):
    names = {module for _, module in modules()}
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from wiseale_jax.training import steps\n")
    assert against_the_way(wrong, "wiseale_jax.methods.terms", names) == [
        "wiseale_jax.training.steps"
    ]
    assert against_the_way(wrong, "wiseale_jax.training.epochs", names) == []


@pytest.mark.parametrize("module", ["wiseale_jax", "wiseale_jax.training.fit"])
def test_importing_the_library_loads_nothing_heavy(module):
    heavy = ["tensorflow_datasets", "orbax", "matplotlib", "sklearn", "array_record", "absl.app"]
    script = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_tests_mirror_the_tree():
    """Every folder of the code that has files to test is a folder of the tests."""
    for top in ("wiseale_jax", "experiments"):
        for path, module in modules():
            if module.split(".")[0] == top:
                folder = Path(*module.split(".")[:-1]) if path.name != "__init__.py" else Path(top)
                assert (ROOT / "tests" / folder).is_dir(), folder
