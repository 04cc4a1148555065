"""Every entry point starts, and refuses what is wrong in one line before it does anything."""

import pytest

from tests.helpers import in_ci
from tests.helpers.forks import call


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("sine", ["--seeds=x"], "seeds must be different numbers, got 'x'"),
        ("sine", ["--seeds=0", "--seeds=1, 0"], "seeds must be different numbers, got '0,1,0'"),
        ("mnist", ["--only=VAE"], "only must be labels of the table, got 'VAE'"),
        ("celeba", ["--image_size=32"], "image_size is for --image_folder"),
        ("teapot", ["--examples=1"], "examples must be at least 2, got 1"),
        ("prior_constraint", ["--tolerance=2"], "tolerance must be in (0, 1] nats, got 2"),
        ("compare", [], "--workdirs is needed"),
        ("tightness", ["--workdir=nowhere"], "nowhere is not a run folder"),
        ("tightness", ["--workdir=x", "--size=9"], "--size is for posteriors without a run"),
        ("fit_sampler", [], "--workdir is needed: the folder of a trained run"),
        ("fit_sampler", ["--workdir=nowhere"], "nowhere is not a run folder"),
        ("fit_sampler", ["--workdir=x", "--samplers=x"], "unknown sampler 'x'; known: aggregate"),
        ("train", ["--samplers=prior"], "unknown sampler 'prior'; known: aggregate, mixture"),
        ("spiral", ["--seeds=x"], "seeds must be different numbers, got 'x'"),
        ("spiral", ["--observation_noise=x"], "must be a number or learned, got 'x'"),
        ("vampprior", ["--only=x"], "only must be labels of the table, got 'x'"),
        ("samples", ["--output=a.txt"], ".webp, got 'a.txt'"),
        ("samples", ["--manual_dir=x"], "data set 'sine' is not downloaded and takes no --manual"),
        ("soak", ["--memory_epochs=8", "--kills=2"], "--kills is not for --memory_epochs"),
        ("soak", ["extra"], "unexpected argument 'extra'"),
        ("train", ["--epoch=1"], "Unknown command line flag 'epoch'. Did you mean: epochs ?"),
        ("train", ["--epochs=x"], "flag --epochs=x: "),
        ("features", ["--data_dir"], "Missing value for flag --data_dir"),
        ("benchmarks.kl", ["--sizes=x"], "sizes must be of the form MxD, such as 64x2, got 'x'"),
        ("benchmarks.train", ["--networks=x"], "unknown network 'x'; known: sine, mnist, celeba"),
        ("benchmarks.methods", ["--methods=x"], "unknown method 'x'; known: wiseale"),
        ("benchmarks.batch", ["extra"], "unexpected argument 'extra'"),
        ("benchmarks.feed", ["--dataset=x"], "unknown dataset 'x'; known: sine"),
    ],
)
def test_what_is_refused_is_one_line(name, arguments, words):
    done = call(name, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["kl", *map(in_ci, ("train", "batch", "feed"))])
def test_a_command_that_has_moved_works_by_its_old_name_and_says_the_new_one(name):
    old, new = call(f"benchmark_{name}", "extra"), call(f"benchmarks.{name}", "extra")
    assert old.stdout == f"note: this command is now python -m experiments.benchmarks.{name}\n"
    assert old.stderr == new.stderr and old.returncode == new.returncode == 2
    assert "unexpected argument 'extra'" in old.stderr


def test_help_shows_every_flag_with_its_default():
    done = call("train", "--help")
    assert done.returncode == 0
    shown = " ".join(done.stdout.split())  # However its lines are broken.
    for text in ("--dataset:", "--method:", "(default: wiseale)", "--workdir:", "--data_dir:"):
        assert text in shown
    assert "--learning_rate: Adam's learning rate (default: by data set)" in shown
