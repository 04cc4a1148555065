"""experiments/train.py: what happens to a run, and what it makes of it.

Every fault is tried on real, if few, waves, and the run is compared with one that met no fault.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

import wiseale_jax
from experiments import configs, train
from experiments.run import lock, setup, signals
from tests.experiments.test_train import FLAGS, GIVEN, ROOT, assert_same, command
from tests.helpers.forks import call
from wiseale_jax import checkpoints, run_folder
from wiseale_jax.training import batches, steps

# orbax leaves coroutines behind when it fails.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]
STEPS = 20  # An epoch's.


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    run(workdir, data_dir)
    return workdir


@pytest.fixture
def short(tmp_path, finished):
    """A copy of it that lacks the last epoch."""
    workdir = tmp_path / "short"
    shutil.copytree(finished, workdir)
    (workdir / run_folder.SUMMARY).unlink()
    shutil.rmtree(workdir / run_folder.CHECKPOINTS / str(3 * STEPS))
    return workdir


def run(workdir, data_dir, **given):
    train.train(configs.make_config({**GIVEN, **given}), workdir, str(data_dir))


def step_by_step(monkeypatch, act):
    """Makes training take one step a call, and call `act` with the steps done after each."""
    monkeypatch.setattr(batches, "_CALL_SECONDS", 0)
    original = steps.train_steps

    def train_steps(recipe, state, data, order, start, count):
        state = original(recipe, state, data, order, start, count)
        if count:
            act(int(state.step))
        return state

    train_steps.lower = original.lower  # What the cost of a step is told by.
    monkeypatch.setattr(steps, "train_steps", train_steps)


def wait_for_checkpoint(workdir, step):
    """Until it is committed, as it is written in the background."""
    while not (workdir / run_folder.CHECKPOINTS / str(step)).exists():
        time.sleep(0.01)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("number", "stop"),
    [
        (signal.SIGTERM, STEPS + 4),
        pytest.param(signal.SIGINT, 2 * STEPS, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    number, stop, finished, tmp_path, data_dir, monkeypatch, capsys
):

    def ask(step):
        if step == stop:
            os.kill(os.getpid(), number)
            time.sleep(1)  # The thread that is told of it may have to wait for a busy machine.

    with monkeypatch.context() as patch:
        step_by_step(patch, ask)
        with pytest.raises(signals.Stopped, match=r"stopped at step \d+, epoch \d, and saved"):
            run(tmp_path / "run", data_dir)
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == stop
    run(tmp_path / "run", data_dir)
    beyond = f" and {saved % STEPS} of the next one's {STEPS} steps" if saved % STEPS else ""
    assert f"resuming after epoch {saved // STEPS}{beyond}\n" in capsys.readouterr().out
    assert_same(tmp_path / "run", finished)


@pytest.mark.slow
def test_exit_code_and_line(tmp_path, data_dir):
    arguments = command("train", *FLAGS, "--epochs=1000", f"--data_dir={data_dir}")
    arguments.append(f"--workdir={tmp_path / 'run'}")
    with subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "the same command goes on from there (exit code 75)" in out
    assert "Traceback" not in err
    assert wiseale_jax.load(tmp_path / "run")


@pytest.mark.ci
def test_a_damaged_checkpoint_is_set_aside(finished, short, data_dir, capsys):
    newest = short / run_folder.CHECKPOINTS / str(2 * STEPS)
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"checkpoint 40 of .* is damaged .*: 20 is used"):
        wiseale_jax.load(short)
    run(short, data_dir)
    printed = capsys.readouterr().out
    assert "checkpoint 40 is damaged" in printed and "resuming after epoch 1\n" in printed
    assert (short / run_folder.CHECKPOINTS / "damaged-40-0").is_dir()
    assert_same(short, finished)


@pytest.mark.slow
def test_all_checkpoints_damaged(short, data_dir):
    for path in (short / run_folder.CHECKPOINTS).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    for use in (wiseale_jax.load, lambda workdir: run(workdir, data_dir)):
        with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
            use(short)


@pytest.mark.slow
def test_damaged_metrics_are_written_again(finished, short, data_dir):
    (short / run_folder.METRICS).write_text('{"epoch": 1, "split"')
    run(short, data_dir)
    assert_same(short, finished)


@pytest.mark.slow
def test_a_folder_in_use_is_refused_and_its_user_undisturbed(short, data_dir):
    before = {path: path.stat().st_mtime_ns for path in short.rglob("*") if path.is_file()}
    with lock.lock(short):
        with pytest.raises(ValueError, match=f"is in use: process {os.getpid()} on "):
            run(short, data_dir)
        (short / lock.NAME).unlink()
    assert before == {path: path.stat().st_mtime_ns for path in short.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_checkpoint_of_another_run(short, data_dir):
    config = run_folder.read_config(short)
    with checkpoints.open_checkpoints(short / run_folder.CHECKPOINTS) as saved:
        restored = checkpoints.restore(saved, config)
        record = {**restored.record, "config": {**config, "latent_dim": 3}}
        checkpoints.save(saved, 2 * STEPS + 1, restored.state, record)
    words = "checkpoint 41 .* was written by another configuration: latent_dim is 3 there, 4 here"
    for use in (wiseale_jax.load, lambda workdir: run(workdir, data_dir)):
        with pytest.raises(ValueError, match=words):
            use(short)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b%41?#\u00e9\n$'", "link"])
def test_a_workdir_of_a_strange_name_or_behind_a_link(name, finished, tmp_path, data_dir):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run(tmp_path / name, data_dir, epochs=1)
    run(tmp_path / name, data_dir)
    assert_same(tmp_path / name, finished)


@pytest.mark.slow
@pytest.mark.parametrize("name", [run_folder.METRICS, run_folder.CHECKPOINTS])
def test_a_workdir_with_something_else_in_a_files_place(name, short, data_dir):
    path = short / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("")
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(OSError, match=rf"cannot write .*{name}"):
        run(short, data_dir)


@pytest.mark.slow
def test_damaged_compiled_programs(finished, tmp_path, data_dir):
    """They are compiled again."""
    cache = tmp_path / "cache"
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    for name in ("first", "second"):
        arguments = command("train", *FLAGS, f"--data_dir={data_dir}")
        arguments.append(f"--workdir={tmp_path / name}")
        subprocess.run(arguments, cwd=ROOT, env=environment, check=True)
        entries = [path for path in cache.rglob("*") if path.is_file()]
        assert entries
        for path, size in zip(entries, itertools.cycle([0, 100, -9]), strict=False):
            path.write_bytes(path.read_bytes()[:size])
    assert_same(tmp_path / "second", finished)


@pytest.mark.slow
def test_more_memory_than_there_is(tmp_path, data_dir):
    flags = ["--latent_dim=2000000000", f"--workdir={tmp_path / 'run'}", f"--data_dir={data_dir}"]
    done = call("train", *FLAGS, *flags)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: not enough memory (RESOURCE_EXHAUSTED")


@pytest.mark.slow
def test_a_workdir_that_is_removed(tmp_path, data_dir, monkeypatch):
    workdir = tmp_path / "run"

    def remove(step):
        if step == STEPS + 4:
            wait_for_checkpoint(workdir, STEPS)
            shutil.rmtree(workdir)

    with monkeypatch.context() as patch:
        step_by_step(patch, remove)
        with pytest.raises(OSError, match=r"cannot write .*metrics\.jsonl: No such file"):
            run(workdir, data_dir)
    assert not workdir.exists()


def poison(monkeypatch):
    """Puts an example of NaNs among the training examples."""
    load_data = setup.load_data

    def poisoned(*arguments, **options):
        data = load_data(*arguments, **options)
        examples = np.array(data.train)
        examples[7] = np.nan
        return data._replace(train=examples)

    monkeypatch.setattr(setup, "load_data", poisoned)


@pytest.mark.slow
def test_a_batch_of_nan_stops_the_run_where_it_was_good(finished, tmp_path, data_dir, monkeypatch):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        poison(patch)
        with pytest.raises(FloatingPointError) as error:
            run(workdir, data_dir)
    words = re.search(r"step (\d+), in epoch 1, is non-finite: .*loss nan", str(error.value))
    assert "reconstruction_error nan" in str(error.value) and "gradient nan" in str(error.value)
    for flag in ("--learning_rate", "--clip_norm", "--skip_nonfinite"):
        assert flag in str(error.value)
    saved = [int(path.name) for path in (workdir / run_folder.CHECKPOINTS).iterdir()]
    assert saved == [int(words.group(1))]
    run(workdir, data_dir)
    assert_same(workdir, finished)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--learning_rate=1e6", "--learning_rate=1e30"])
def test_a_learning_rate_too_large(flag, tmp_path, data_dir):
    arguments = [*FLAGS, flag, f"--workdir={tmp_path / 'run'}", f"--data_dir={data_dir}"]
    done = call("train", *arguments)
    assert done.returncode == 2, done.stdout
    assert re.search(r"error: step \d+, in epoch 1, is non-finite: ", done.stderr)
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    variables = wiseale_jax.load(tmp_path / "run").variables
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.slow
def test_steps_are_skipped_and_counted(tmp_path, data_dir, monkeypatch):
    poison(monkeypatch)
    with pytest.raises(FloatingPointError, match=r"in epoch 3, .*2 so far"):
        run(tmp_path / "run", data_dir, skip_nonfinite=2)
    run(tmp_path / "run", data_dir, skip_nonfinite=3)
    rows = run_folder.read_metrics(tmp_path / "run")
    assert [row["skipped"] for row in rows] == [1, 1, 2, 2, 3, 3]
    assert all(np.isfinite(row["loss"]) for row in rows)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "what"), [(0, r"metrics\.jsonl"), (100_000, r"checkpoint 40 in .*checkpoints")]
)
def test_a_full_disk(left, what, finished, small_disk, data_dir, monkeypatch):
    filler, workdir = small_disk / "filler", small_disk / "run"

    def fill(step):
        if step == STEPS + 4:
            wait_for_checkpoint(workdir, STEPS)
            free = shutil.disk_usage(small_disk).free
            filler.write_bytes(bytes(free - left))

    with monkeypatch.context() as patch:
        step_by_step(patch, fill)
        with pytest.raises(OSError, match=f"cannot write .*{what}: No space left on device"):
            run(workdir, data_dir)
    assert wiseale_jax.load(workdir)
    filler.unlink()
    run(workdir, data_dir)
    assert_same(workdir, finished)


@pytest.mark.slow
def test_a_workdir_that_cannot_be_written(finished, small_disk, data_dir):
    workdir = small_disk / "run"
    shutil.copytree(finished, workdir)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"cannot write to workdir .*: Read-only file system"):
        run(workdir, data_dir, epochs=4)
    run(workdir, data_dir)  # It is finished, and says so.
    assert wiseale_jax.load(workdir)
