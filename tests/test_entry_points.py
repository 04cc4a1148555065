"""Every entry point starts, and refuses what is wrong in one line before it does anything."""

import pytest

from tests.forks import call


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("sine", ["--seeds=x"], "seeds must be different numbers, got 'x'"),
        ("mnist", ["--only=VAE"], "only must be labels of the table, got 'VAE'"),
        ("celeba", ["--image_size=32"], "image_size is for --image_folder"),
        ("teapot", ["--examples=1"], "examples must be in 2"),
        ("prior_constraint", ["--tolerance=2"], "tolerance must be in (0, 1] nats, got 2"),
        ("compare", [], "--workdirs is needed"),
        ("tightness", ["--workdir=nowhere"], "nowhere is not a run folder"),
        ("soak", ["extra"], "unexpected argument 'extra'"),
        ("benchmark_kl", ["--sizes=x"], "sizes must be of the form MxD, such as 64x2, got 'x'"),
        ("benchmark_train", ["--networks=x"], "unknown network 'x'; known: sine, mnist, celeba"),
        ("benchmark_batch", ["extra"], "unexpected argument 'extra'"),
        ("benchmark_feed", ["--dataset=x"], "unknown dataset 'x'; known: sine"),
    ],
)
def test_one_line(name, arguments, words):
    done = call(name, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert len(done.stderr.splitlines()) == 1
