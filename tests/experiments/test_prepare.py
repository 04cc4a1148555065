"""experiments/prepare.py and samples.py: the commands, and what they say when they cannot."""

import errno
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.forks import call
from tests.helpers.image_files import write_archive
from tests.wiseale_jax.datasets.test_mnist import write_mnist
from wiseale_jax.datasets import celeba, downloads, mnist, pipeline


def command(module, *arguments, before=""):
    """Runs an entry point, in a shell that has run `before` if need be."""
    if not before:
        return call(module, *arguments)
    line = shlex.join([sys.executable, "-m", f"experiments.{module}", *map(str, arguments)])
    return subprocess.run(f"{before} exec {line}", shell=True, capture_output=True, text=True)


@pytest.mark.ci
def test_prepare_mnist_and_draw_it(tmp_path):
    write_mnist(tmp_path / "files", train=80)
    flags = ["--dataset=mnist", f"--data_dir={tmp_path}"]
    done = command("prepare", *flags, f"--source={tmp_path / 'files'}")
    assert done.returncode == 0, done.stderr
    assert f"mnist is ready in {tmp_path}/mnist/1.0.0: train 80, test 12" in done.stdout
    # Ready: neither the files nor the network are needed again.
    picture = tmp_path / "samples.png"
    done = command("samples", *flags, f"--output={picture}", "--binarize=none")
    assert done.returncode == 0, done.stderr
    assert f"drawn: {picture}" in done.stdout
    with Image.open(picture) as image:
        assert min(image.size) > 500


@pytest.mark.ci
def test_errors_are_one_line(tmp_path):
    # Nothing is prepared there, whatever is on this machine.
    data_dir = f"--data_dir={tmp_path}"
    flags = ["--dataset=image_folder", data_dir]
    digits = ["--dataset=mnist", data_dir]
    for arguments, words in (
        (flags, "error: dataset 'image_folder' needs --source: a folder of images"),
        ([*flags, f"--source={tmp_path}"], f"error: --source={tmp_path} holds no images"),
        (
            ["--dataset=sine", data_dir, f"--source={tmp_path}"],
            "error: data set 'sine' takes no --source",
        ),
        ([*digits, "--skip_damaged"], "error: data set 'mnist' takes no --skip_damaged"),
        ([*digits, "--manual_dir=/none"], "error: --manual_dir=/none is not a folder"),
        (["--dataset=faces"], "error: unknown dataset 'faces'; known: sine"),
        (["--dataset=sine", "--data_dir=/dev/null/x"], "error: cannot write to data_dir"),
    ):
        done = command("prepare", *arguments)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(words)
        assert "Traceback" not in done.stderr


LIMIT = "ulimit -f 1000;"  # Blocks of 512 bytes, or in some shells of 1,024.


@pytest.mark.ci
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the full disk: both make writing fail."""
    archive = write_archive(tmp_path / "a.zip", 120)
    flags = ["--dataset=celeba", f"--data_dir={tmp_path / 'data'}", f"--source={archive}"]
    done = command("prepare", *flags, before=LIMIT)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: cannot write" in done.stderr and "File too large" in done.stderr
    assert not list((tmp_path / "data" / "celeba").glob("[!.]*"))
    # The records fit, but not the array that training reads.
    done = command("prepare", *flags)
    assert done.returncode == 0
    arrays = tmp_path / "data" / "celeba" / "arrays-1.0.0"
    (arrays / "train-image.npy").unlink()
    done = command("prepare", *flags, before=LIMIT)
    assert done.returncode == 2 and "File too large" in done.stderr.splitlines()[-1]
    assert sorted(path.name for path in arrays.iterdir()) == [
        "test-image.json",
        "test-image.npy",
        "train-image.json",
    ]


def test_no_write_permission(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:  # Root may write anywhere: refused as anyone else is.

        def refuse(self, *args, **kwargs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "touch", refuse)
    words = f"cannot write to data_dir {tmp_path}: Permission denied"
    with pytest.raises(OSError, match=re.escape(words)):
        pipeline.prepare("sine", tmp_path)
    assert not list(tmp_path.iterdir())


def test_prepared_data_may_be_read_only(tmp_path, monkeypatch):
    write_mnist(tmp_path / "files")
    builder = pipeline.prepare("mnist", tmp_path / "data", source=tmp_path / "files")
    pipeline.load_arrays(builder, "train", ["image"])
    monkeypatch.setattr(pipeline, "_alone", None)
    monkeypatch.setattr(pipeline.files, "make_folder", None)
    again = pipeline.prepare("mnist", tmp_path / "data")
    assert len(pipeline.load_arrays(again, "train", ["image"])["image"]) == 30


def test_two_at_once_prepare_once(tmp_path, monkeypatch):
    write_mnist(tmp_path / "files")
    made = []
    generate = mnist.Mnist._split_generators

    def slow(self, dl_manager):
        made.append(self)
        time.sleep(0.5)
        return generate(self, dl_manager)

    monkeypatch.setattr(mnist.Mnist, "_split_generators", slow)
    counts = []

    def work():
        builder = pipeline.prepare("mnist", tmp_path / "data", source=tmp_path / "files")
        counts.append(builder.info.splits["train"].num_examples)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and counts == [30, 30]


def test_what_was_killed_is_cleaned_up(tmp_path):
    write_mnist(tmp_path / "files")
    left = tmp_path / "data" / "mnist" / "incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    (left / "mnist-train.array_record-00000-of-00001").write_bytes(b"half")
    builder = pipeline.prepare("mnist", tmp_path / "data", source=tmp_path / "files")
    assert not left.exists() and builder.info.splits["train"].num_examples == 30


def test_no_answer_is_found_out_in_seconds(monkeypatch):
    released = threading.Event()

    def hang(request, timeout):
        released.wait()
        raise TimeoutError

    monkeypatch.setattr(downloads.urllib.request, "urlopen", hang)
    with pytest.raises(OSError, match=r"no connection to example.org \(no answer in 0.2 s\)"):
        downloads.check_connection("https://example.org/file", seconds=0.2)
    released.set()


@pytest.mark.parametrize("answer", [io.BytesIO(), 404, OSError("refused")])
def test_whatever_a_host_answers_is_a_connection(answer, monkeypatch):
    def urlopen(request, timeout):
        assert request.full_url == "https://example.org/" and request.method == "HEAD"
        if isinstance(answer, int):
            raise urllib.error.HTTPError(request.full_url, answer, "no", {}, None)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(downloads.urllib.request, "urlopen", urlopen)
    if isinstance(answer, OSError):
        with pytest.raises(OSError, match=r"no connection to example.org \(refused\)"):
            downloads.check_connection("https://example.org/file")
    else:
        downloads.check_connection("https://example.org/file")


def test_checksums_are_registered_for_every_download():
    urls = {celeba.URL}
    for builder in (mnist.Mnist, mnist.FashionMnist):
        urls |= {f"{builder.URL}{name}.gz" for pair in mnist.FILES.values() for name in pair}
    for url, info in celeba.Celeba.url_infos.items():
        assert url in urls and info.size > 0 and len(info.checksum) == 64 and info.filename
    assert len(celeba.Celeba.url_infos) == len(urls) == 9


def test_prepared_anew_from_other_files(tmp_path, capsys):
    write_mnist(tmp_path / "one", seed=1)
    other = write_mnist(tmp_path / "other", seed=2)
    for source in ("one", "other"):
        builder = pipeline.prepare("mnist", tmp_path / "data", source=tmp_path / source)
        pipeline.load_arrays(builder, "train", ["image"])
    said = f"and --source is not needed; to prepare it anew, remove {builder.data_path}"
    assert said in capsys.readouterr().out
    shutil.rmtree(builder.data_path)
    builder = pipeline.prepare("mnist", tmp_path / "data", source=tmp_path / "other")
    images = pipeline.load_arrays(builder, "train", ["image"])["image"]
    np.testing.assert_array_equal(images[..., 0], other["train"][0])
