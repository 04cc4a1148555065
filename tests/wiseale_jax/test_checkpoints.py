"""checkpoints.py: what is saved is what is restored, or else it is not used."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from wiseale_jax import checkpoints, run_folder
from wiseale_jax.training.steps import TrainState


def state(value):
    params = {"layer": {"kernel": jnp.full((2, 3), value), "bias": jnp.arange(3.0)}}
    return TrainState(
        step=jnp.int32(value),
        key=jax.random.key_data(jax.random.key(3)),
        params=params,
        batch_stats={"mean": jnp.full(2, -value)},
        opt_state=(jnp.float32(value), None),
        metric_sums={"loss": jnp.float32(0)},
        summed=jnp.int32(0),
        skipped=jnp.int32(0),
        fault={"loss": jnp.float32(0)},
    )


# orbax leaves coroutines behind when it fails.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]

CONFIG = {"latent_dim": 3, "epochs": 5}


def save(folder, *steps):
    with checkpoints.open_checkpoints(folder) as saved:
        for step in steps:
            record = {**run_folder.describe(CONFIG), "metrics": [{"loss": float(step)}]}
            checkpoints.save(saved, step, state(float(step)), record)


def restore(folder, config=CONFIG, like=None):
    with checkpoints.open_checkpoints(folder, read_only=True) as saved:
        return checkpoints.restore(saved, config, like)


def assert_restored(restored, step):
    assert restored.step == step and restored.record["metrics"] == [{"loss": step}]
    want = state(float(step))
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, restored.state[name], getattr(want, name))


@pytest.mark.parametrize("then", [False, True])
def test_other_number_types_are_named_and_not_called_damage(then, tmp_path):
    with jax.enable_x64(then):
        wide = {"params": {"bias": jnp.arange(3.0)}}
        assert wide["params"]["bias"].dtype == ("float64" if then else "float32")
        with checkpoints.open_checkpoints(tmp_path) as saved:
            checkpoints.save(saved, 1, wide, run_folder.describe(CONFIG))
    words = "was set when" if then else "was not set when"
    with jax.enable_x64(not then):
        like = {"params": {"bias": jnp.arange(3.0)}}
        with pytest.raises(ValueError, match=f"params/bias in float.*JAX_ENABLE_X64 .*{words}"):
            restore(tmp_path, like=like)
    if not then:
        # Without a pytree to restore to, narrow numbers are restored as they are.
        with jax.enable_x64(True):
            assert restore(tmp_path).state["params"]["bias"].dtype == "float32"


def test_newest_is_restored(tmp_path):
    save(tmp_path, 1, 2, 3)
    restored = restore(tmp_path, {**CONFIG, "epochs": 9}, state(0.0))
    assert restored.step == 3 and not restored.damaged
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(3.0))
    assert_restored(restore(tmp_path), 3)


def test_that_of_a_step(tmp_path):
    save(tmp_path, 1, 2, 3)
    with checkpoints.open_checkpoints(tmp_path, read_only=True) as saved:
        restored = checkpoints.restore(saved, CONFIG, step=2)
        assert_restored(restored, 2)
        with pytest.raises(ValueError, match="has no checkpoint of step 4, but 1, 2, 3"):
            checkpoints.restore(saved, CONFIG, step=4)
    # Damaged, it is not another one.
    for file in (tmp_path / "2").rglob("*"):
        if file.is_file() and "record" not in file.parts:
            file.write_bytes(file.read_bytes()[:-1])
    with (
        checkpoints.open_checkpoints(tmp_path, read_only=True) as saved,
        pytest.raises(ValueError, match=r"the checkpoint asked for in .* is damaged \(2: "),
    ):
        checkpoints.restore(saved, CONFIG, step=2)


def test_newest_and_best_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    with checkpoints.open_checkpoints(tmp_path) as saved:
        checkpoints.save(saved, 5, state(5.0), run_folder.describe(CONFIG))
        checkpoints.prune(saved, keep=3, best=1)
        assert sorted(saved.all_steps()) == [1, 3, 4, 5]
        checkpoints.prune(saved, keep=2, best=4)
        assert sorted(saved.all_steps()) == [4, 5]


def test_a_write_that_fails_in_the_background(tmp_path, monkeypatch):
    save(tmp_path, 1)
    write = ocp.StandardCheckpointHandler.finalize

    def full(self, directory):
        raise OSError(28, "No space left on device")

    for use in (checkpoints.wait, lambda saved: checkpoints.prune(saved, 1), lambda saved: None):
        monkeypatch.setattr(ocp.StandardCheckpointHandler, "finalize", full)
        with pytest.raises(OSError, match=r"cannot write a checkpoint in .*: No space left on dev"):
            with checkpoints.open_checkpoints(tmp_path) as saved:
                checkpoints.save(saved, 2, state(2.0), run_folder.describe(CONFIG))
                use(saved)
        assert_restored(restore(tmp_path), 1)
    monkeypatch.setattr(ocp.StandardCheckpointHandler, "finalize", write)
    save(tmp_path, 2)
    assert_restored(restore(tmp_path), 2)


def test_what_is_saved_is_of_the_moment(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    # Large enough to be still under way when its memory is given away.
    now = step({"params": jnp.zeros(1_000_000), "batch_stats": jnp.ones(3)})
    with checkpoints.open_checkpoints(tmp_path) as saved:
        checkpoints.save(saved, 1, now, run_folder.describe(CONFIG))
        for _ in range(100):
            now = step(now)
    restored = restore(tmp_path)
    assert not restored.damaged and (restored.state["params"] == 1).all()


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def truncate(folder):
    for path in files(folder):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    for path in files(folder):
        path.write_bytes(b"")


def remove(folder):
    for path in list(folder.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_record(folder):
    shutil.rmtree(folder / "record")


def flip_the_record(folder):
    path = folder / "record" / "metadata"
    path.write_text(path.read_text().replace('"latent_dim": 3', '"latent_dim": 2'))


@pytest.mark.parametrize("damage", [truncate, empty, remove, remove_record, flip_the_record])
def test_the_one_before_a_damaged_one_is_restored(tmp_path, damage):
    save(tmp_path, 1, 2)
    damage(tmp_path / "2")
    restored = restore(tmp_path)
    assert_restored(restored, 1)
    assert list(restored.damaged) == [2]
    assert len(restored.damaged[2].splitlines()) == 1
    with checkpoints.open_checkpoints(tmp_path) as saved:
        aside = checkpoints.set_aside(saved, 2)
        assert aside.is_dir() and list(saved.all_steps()) == [1]
    save(tmp_path, 2)
    assert_restored(restore(tmp_path), 2)


@pytest.mark.ci
def test_a_flipped_bit_anywhere_is_noticed_or_without_effect(tmp_path):
    save(tmp_path, 1, 2)
    noticed = 0
    for path in files(tmp_path / "2"):
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 4)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            restored = restore(tmp_path)
            assert_restored(restored, restored.step)
            noticed += restored.step == 1
        path.write_bytes(whole)
    assert noticed > 10
    assert_restored(restore(tmp_path), 2)


def test_all_damaged_is_one_error(tmp_path):
    save(tmp_path, 1, 2)
    empty(tmp_path / "1")
    truncate(tmp_path / "2")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged \(2: .*; 1: "):
        restore(tmp_path)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), PermissionError("no"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")],
)
def test_what_cannot_be_read_just_now_is_not_damaged(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    save(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_restore_state", fail)
        with pytest.raises(type(error)):
            restore(tmp_path)
    assert_restored(restore(tmp_path), 2)


def test_one_that_is_deleted_while_it_is_read_is_not_damaged(tmp_path, monkeypatch):
    save(tmp_path, 1)
    read = checkpoints._restore_record

    def replaced_meanwhile(saved, step):
        if step == 1:
            save(tmp_path, 2)
            shutil.rmtree(tmp_path / "1" / "record")  # On its way to be deleted as a whole.
        return read(saved, step)

    monkeypatch.setattr(checkpoints, "_restore_record", replaced_meanwhile)
    restored = restore(tmp_path)
    assert_restored(restored, 2)
    assert not restored.damaged


def test_none_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        restore(tmp_path)


def test_another_configuration_or_format_is_no_damage(tmp_path, monkeypatch):
    save(tmp_path, 1)
    words = "checkpoint 1 in .* was written by another configuration: latent_dim is 3 there, 4 here"
    with pytest.raises(ValueError, match=words):
        restore(tmp_path, {**CONFIG, "latent_dim": 4})
    monkeypatch.setattr(run_folder, "FORMAT", 99)
    with pytest.raises(ValueError, match="has format 2; this release reads format 99"):
        restore(tmp_path)


def test_a_state_with_other_metrics_is_no_damage(tmp_path):
    save(tmp_path, 1)
    like = state(0.0)._replace(metric_sums={"loss": jnp.float32(0), "new": jnp.float32(0)})
    words = (
        "checkpoint 1 in .* is of another release: not both it and this one have metric_sums/new"
    )
    with pytest.raises(ValueError, match=words):
        restore(tmp_path, like=like)


def test_an_interrupted_save_is_named_and_removed(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    assert checkpoints.interrupted(tmp_path) == ["2"]
    save(tmp_path, 2)
    assert checkpoints.interrupted(tmp_path) == []
    assert_restored(restore(tmp_path), 2)


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    with checkpoints.open_checkpoints(folder) as saved:
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(OSError, match=r"cannot write checkpoint 1: .* is gone"):
            checkpoints.save(saved, 1, state(1.0), run_folder.describe(CONFIG))
    assert not folder.exists()


def test_links_and_foreign_files(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "checkpoints"
    save(folder, 3, 4)
    shutil.copytree(folder / "4", outside)
    before = {path: path.read_bytes() for path in files(outside)}
    for name in ("notes", "7"):
        (folder / name).write_text("")
    for name in ("abc", "-3", "1e5"):
        (folder / name).mkdir()
    for name in ("2", "9", "5.orbax-checkpoint-tmp"):
        (folder / name).symlink_to(outside)
    (folder / "3" / "link").symlink_to(outside)
    with checkpoints.open_checkpoints(folder) as saved:
        # A link to a good checkpoint is as good as it.
        assert checkpoints.restore(saved, CONFIG).step == 9
        with pytest.raises(OSError, match=r"cannot delete checkpoint 2 in .*link"):
            checkpoints.prune(saved, keep=1)
        (folder / "2").unlink()
        saved.reload()
        checkpoints.prune(saved, keep=1)
        checkpoints.set_aside(saved, 9)
    assert not (folder / "3").exists()
    assert before == {path: path.read_bytes() for path in files(outside)}
