"""experiments/compare.py: runs grouped by what differs, damaged ones named, a page that is safe."""

import csv
import dataclasses
import html.parser
import json
import shlex

import pytest

from experiments import compare, configs
from experiments.report import run_summary
from experiments.report.page import Column, picture, table
from experiments.report.tables import Spread
from tests.helpers.browser import chromium, resize
from wiseale_jax import files, plots, run_folder
from wiseale_jax.plots.comparison import curves_by_label, metrics_by_label


def write_run(folder, seed=0, epochs=2, finished=True, kl=1.0, source=None, **fields):
    """A run folder as training leaves it, but for the checkpoints."""
    given = {"dataset": "sine", "epochs": epochs, "seed": seed, **fields}
    if source is not None:
        given |= {"dataset": "image_folder", "source": source}
    config = configs.make_config(given)
    folder.mkdir(parents=True)
    run_folder.write_config(folder, dataclasses.asdict(config))
    rows = [
        {"epoch": epoch, "step": epoch, "split": split, "skipped": 0, "examples_per_second": None}
        | {name: (kl if name == "aevb_kl" else 1.0 + seed) for name in plots.METRIC_LABELS}
        for epoch in range(1, epochs + (1 if finished else 0))
        for split in ("train", "test")
    ]
    run_folder.write_metrics(folder, rows)
    if finished:
        files.write_json(folder / run_folder.SUMMARY, rows[-1])
    figures = folder / run_folder.FIGURES
    figures.mkdir()
    (figures / "curves.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 10)
    return folder


def test_one_configuration_on_other_data_is_two_runs(tmp_path):
    write_run(tmp_path / "plain")
    write_run(tmp_path / "again")
    for name, sha256 in (("a", "1"), ("b", "2"), ("c", "2")):
        write_run(tmp_path / name)
        config = run_folder.read_config(tmp_path / name)
        data = {"sha256": {"training": sha256, "test": sha256}}
        run_folder.write_config(tmp_path / name, config, data=data)
    done, left_out = run_summary.read_all(tmp_path / n for n in ("a", "b", "c", "plain", "again"))
    assert len(done) == 3 and len(left_out) == 2
    assert all("the same run" in line for line in left_out)
    labels = run_summary.name_runs(done)
    assert len(set(labels)) == 3 and all(", data " in label for label in labels)
    assert run_summary.name_runs(done[:1]) == ["wiseale"]


class Page(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(output):
    return Page((output / "report.html").read_text())


def compare_all(workdirs, output):
    done, left_out = run_summary.read_all(run_summary.find([str(path) for path in workdirs])[0])
    output.mkdir(exist_ok=True)
    compare.write(done, left_out, output)
    return done, left_out


def test_seeds_are_one_row(tmp_path, capsys):
    runs = [write_run(tmp_path / f"a{seed}", seed) for seed in (0, 1, 2)]
    runs.append(write_run(tmp_path / "b", kl_weight="batch"))
    runs.append(write_run(tmp_path / "c", method="ae", kl=None))
    done, left_out = compare_all(runs, tmp_path / "out")
    assert run_summary.name_runs(done) == ["wiseale"] * 3 + ["wiseale, kl_weight batch", "ae"]
    assert not left_out
    assert "| wiseale | 3 | 2 ± 1 |" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert [row["loss"] for row in rows] == ["2", "1", "1"]
    assert rows[0]["loss_deviation"] == "1" and rows[2]["aevb_kl"] == ""
    for name in ("comparison.png", "comparison.pdf", "curves.png", "curves.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 5000
    text = "".join(page_of(tmp_path / "out").text)
    # The KL alone is the same with every seed; a single run has no deviation.
    assert "2 ± 1" in text and "none" in text and text.count("± 0") == 1


def test_numbers_that_one_run_lacks(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", kl_weight=2.0)
    stored = {"mig": 0.25, "mig_stderr": 0.1, "step": 20, "note": "x", "huge": float("inf")}
    (first / "evaluation.json").write_text(json.dumps(stored))
    done, _ = compare_all([first, second], tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert [row["mig"] for row in rows] == ["0.25", ""]
    assert rows[1]["mig_deviation"] == "" and len(rows[0]) == len(rows[1])
    assert not {"mig_stderr", "step", "note", "huge"} & set(done[0].numbers)
    assert "Evaluation" in page_of(tmp_path / "out").text


def test_evaluations_that_do_not_compare(tmp_path, capsys):
    runs = [write_run(tmp_path / name, seed) for seed, name in enumerate("ab")]
    for run, step, examples in zip(runs, (2, 1), (None, 100), strict=True):
        stored = {"step": step, "examples": examples, "mig": 0.5}
        files.write_json(run / "evaluation.json", stored)
    done, _ = compare_all(runs, tmp_path / "out")
    lines = [
        f"{runs[1]}: evaluated at step 1, and its last epoch ends at 2",
        "the runs were not evaluated alike: different examples",
    ]
    assert run_summary.doubts(done) == lines and run_summary.doubts(done[:1]) == []
    text, printed = "".join(page_of(tmp_path / "out").text), capsys.readouterr().out
    assert all(line in text and line in printed for line in lines)
    assert "Test examples: all or 100. For the log-likelihood: up to " in text


def test_trained_on_the_test_set_or_with_other_batches(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", split="all", batch_size=8)]
    done, _ = compare_all(runs, tmp_path / "out")
    seen, batches = run_summary.doubts(done)
    assert seen == "1 of 2 runs were trained on the test set, too (split all)"
    assert batches.startswith("wiseale_kl is of batches of different sizes")
    assert seen in "".join(page_of(tmp_path / "out").text)


def test_evaluated_first(tmp_path, monkeypatch):
    runs = [write_run(tmp_path / name, seed) for seed, name in enumerate("ab")]

    def evaluate_run(workdir, data_dir):
        if workdir == runs[1]:
            raise ValueError("no checkpoint")
        files.write_json(workdir / "evaluation.json", {"mig": 0.5})

    monkeypatch.setattr(compare.evaluate, "evaluate_run", evaluate_run)
    failed = compare.evaluate_all([run_summary.read_run(run) for run in runs], None)
    assert failed == [f"not evaluated: {runs[1]}: no checkpoint"]
    assert run_summary.read_run(runs[0]).numbers["mig"] == 0.5
    # Of the last step, or of one in mid-epoch after it, whatever it was made with: it stays.
    for step in (2, 3):
        stored = {"mig": 0.7, "fid": 9.0, "step": step}
        files.write_json(runs[0] / "evaluation.json", stored)
        assert compare.evaluate_all([run_summary.read_run(runs[0])], None) == []
        assert run_summary.read_run(runs[0]).numbers["fid"] == 9.0


def test_the_page_asks_for_nothing_and_says_what_made_it(tmp_path):
    compare_all([write_run(tmp_path / "a"), write_run(tmp_path / "b", 1)], tmp_path / "out")
    page = page_of(tmp_path / "out")
    for tag, attrs in page.tags:
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, name)
    assert len(page.all("script")) == 1 and len(page.all("img")) == 4
    assert all(image["alt"] for image in page.all("img"))
    buttons, headers = page.all("button"), [h for h in page.all("th") if "aria-sort" in h]
    assert len(buttons) == len(headers) == 2 + len(plots.METRIC_LABELS)
    assert any("width=device-width" in meta.get("content", "") for meta in page.all("meta"))
    text = "".join(page.text)
    assert f"--seed=1 --epochs=2 --workdir={tmp_path / 'b'}" in text
    assert "Nothing but the seed." in text


def test_what_a_run_says_is_not_run(tmp_path):
    hostile = "</script><script>alert('x')</script>\"><img src=x onerror=alert(1)>"
    bad = write_run(tmp_path / "<script>alert(1)<", source=f"/tmp/{hostile}")
    damaged = write_run(tmp_path / "<b>damaged<")
    (damaged / run_folder.CONFIG).write_text("{")
    compare_all([bad, damaged, write_run(tmp_path / "c")], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    assert len(page.all("script")) == 1 and not page.all("b")
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert hostile in "".join(page.text)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_the_command_makes_the_run_again(tmp_path):
    run = write_run(tmp_path / "it's here", 3, flip=True, source="/tmp/a b", image_size=32)
    done = run_summary.read_run(run)
    words = shlex.split(run_summary.command(done))
    assert words[:3] == ["python", "-m", "experiments.train"]
    given = dict(word.removeprefix("--").split("=", 1) for word in words[3:])
    assert given.pop("workdir") == str(run) and given["flip"] == "true"
    given |= {"flip": True, **{n: int(given[n]) for n in ("seed", "epochs", "image_size")}}
    assert configs.make_config(given) == done.config


def test_one_line_for_what_cannot_be_read(tmp_path):
    good = write_run(tmp_path / "good")
    row = json.dumps({"epoch": 1, "split": "test"} | dict.fromkeys(plots.METRIC_LABELS, 1.5))
    broken = {}
    for name, file, content in (
        ("config", run_folder.CONFIG, "{"),
        ("metrics", run_folder.METRICS, '{"epoch": 1, "spl'),
        ("row", run_folder.METRICS, row.replace("1.5", '"<b>"')),
        ("infinite", run_folder.METRICS, row.replace("1.5", "Infinity")),
        ("short", run_folder.METRICS, '{"epoch": 1, "split": "test", "loss": 1.5}\n'),
        ("empty", run_folder.METRICS, ""),
        ("evaluation", "evaluation.json", "[]"),
    ):
        broken[name] = write_run(tmp_path / name)
        (broken[name] / file).write_text(content)
    going = write_run(tmp_path / "going", 1, epochs=3, finished=False)
    (good / run_folder.CONFIG).unlink()
    done, left_out = run_summary.read_all([good, *broken.values(), going, tmp_path / "nowhere"])
    assert [run.workdir for run in done] == [going]
    assert done[0].state == "not finished: 2 of 3 epochs"
    for line, words in zip(
        left_out,
        (
            "is not a run folder",
            "config.json is damaged",
            "metrics.jsonl is damaged",
            "a line is no row of metrics",
            "a line is no row of metrics",
            "a line is no row of metrics",
            "has no finished epoch yet",
            "evaluation.json is damaged",
            "is not a run folder",
        ),
        strict=True,
    ):
        assert words in line and "\n" not in line


def test_the_same_run_twice(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    done, left_out = run_summary.read_all(runs)
    assert len(done) == 1 and "b is the same run as" in left_out[0]
    # The one that is further stays, wherever it stands.
    for name, fields in (("c", {"finished": False}), ("d", {}), ("e", {"skip_nonfinite": 3})):
        runs.append(write_run(tmp_path / name, 1, **fields))
    done, left_out = run_summary.read_all(runs[2:])
    assert [run.workdir for run in done] == [runs[3]]
    for line, name in zip(left_out, ("c", "e"), strict=True):
        assert f"{name} is the same run as {runs[3]}" in line


def test_an_unfinished_run_is_a_doubt(tmp_path):
    write_run(tmp_path / "whole"), write_run(tmp_path / "part", 1, epochs=3, finished=False)
    done, _ = run_summary.read_all([tmp_path / "whole", tmp_path / "part"])
    assert f"{tmp_path / 'part'}: not finished: 2 of 3 epochs" in run_summary.doubts(done)


def test_find(tmp_path):
    for name in ("a1", "a2", "[x]"):
        write_run(tmp_path / name)
    (tmp_path / "a3").mkdir()
    got, deeper = run_summary.find([f"{tmp_path}/a*", f"{tmp_path}/a1/", f"{tmp_path}/[x]"])
    assert [path.name for path in got] == ["a1", "a2", "[x]"] and not deeper
    (tmp_path / "section-b" / "methods" / "runs").mkdir(parents=True)
    write_run(tmp_path / "section-b" / "methods" / "runs" / "a")
    _, (line,) = run_summary.find([f"{tmp_path}/*"])
    assert line.endswith(f"--workdirs='{tmp_path}/section-b/methods/runs/*'")
    with pytest.raises(ValueError, match=r"no run folder matches .*section.*; left out: .*deeper"):
        run_summary.find([f"{tmp_path}/section*"])
    with pytest.raises(ValueError, match="no run folder matches"):
        run_summary.find([f"{tmp_path}/z*"])
    with pytest.raises(ValueError, match="--workdirs is needed"):
        run_summary.find([])


def test_pictures_that_are_none(tmp_path):
    (tmp_path / "a.png").write_text("<svg onload=alert(1)>")
    assert "it is no PNG" in picture(tmp_path / "a.png", "a")
    assert "cannot be read" in picture(tmp_path / "b.png", "b")


def test_metrics_by_label():
    figure = metrics_by_label({"loss": {"a": [1.0, 3.0], "b": [2.0]}, "kl": {"b": [1.0]}}, "t")
    loss = figure.axes[0]
    assert [text.get_text() for text in loss.get_yticklabels()] == ["a", "b"]
    assert loss.containers[0].lines[0].get_xdata().tolist() == [2.0]
    assert len(figure.axes[1].containers) == 1
    assert len(metrics_by_label({}, "nothing is finite").axes) == 1


def test_long_labels_and_dollars_are_drawn_as_text(tmp_path):
    label = "$x_{" + 100 * "long"
    figure = metrics_by_label({"loss": {label: [1.0]}}, "t")
    plots.save(figure, tmp_path / "a.png")
    shown = figure.axes[0].get_yticklabels()[0].get_text()
    assert shown.startswith(r"\$x_{") and len(shown) < 75


def test_cells_sort_by_their_number():
    text = table("t", [Column("x")], [[Spread(1.5, 0.5)], [None], [""], [2]])
    keys = [attrs["data-value"] for attrs in Page(text).all("td")]
    assert keys == ["1.5", "", "", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(tmp_path, scheme):
    hostile = "/tmp/<script>document.title='run'</script>" + "long" * 60
    covered = (
        "return [...document.querySelectorAll('.scroll th:first-child')].map("
        "cell => cell.offsetWidth / cell.closest('.scroll').clientWidth)"
    )
    runs = [write_run(tmp_path / f"a{seed}", seed) for seed in (0, 1)]
    runs += [write_run(tmp_path / "b", 4, method="aevb"), write_run(tmp_path / "c", source=hostile)]
    files.write_json(runs[0] / "evaluation.json", {f"metric_{i}": i for i in range(30)})
    compare_all(runs, tmp_path / "out")
    with chromium(tmp_path / "profile") as browser:
        for width in (1280, 390):
            resize(browser, width, 844, scheme)
            browser.get((tmp_path / "out" / "report.html").as_uri())
            browser.execute_script(
                "for (const d of document.querySelectorAll('details')) d.open = true"
            )
            widths = "const p = document.documentElement; return [p.scrollWidth, p.clientWidth]"
            assert len(set(browser.execute_script(widths))) == 1
            # What stays in view leaves room for what scrolls.
            assert 0 < max(browser.execute_script(covered)) < 0.6
            assert browser.title == "sine, image_folder: 4 runs"
            column = (
                "document.querySelectorAll('th button')[2].click();"
                "return [...document.querySelector('tbody').rows].map("
                "row => Number(row.cells[2].dataset.value))"
            )
            for order in (1, -1):
                values = browser.execute_script(column)
                assert values[::order] == sorted(values) and len(set(values)) > 1
            sort = browser.execute_script(
                "return document.querySelectorAll('th')[2].getAttribute('aria-sort')"
            )
            assert sort == "descending"
        assert browser.get_log("browser") == []
        requests = [
            message["params"]["request"]["url"]
            for entry in browser.get_log("performance")
            if (message := json.loads(entry["message"])["message"])["method"]
            == "Network.requestWillBeSent"
            and message["params"]["documentURL"].startswith("file:")
        ]
        assert requests and all(url.startswith(("file:", "data:")) for url in requests)


def test_a_step_far_astray_does_not_hide_the_others():
    names = ("reconstruction_error", "aevb_kl", "elbo")
    rows = [{"split": "train", **dict.fromkeys(names, 5.0 + 5 / n)} for n in range(1, 51)]
    calm = curves_by_label([("a", rows)], "t", "nats")
    assert [axes.get_title() for axes in calm.axes] == ["", "", ""]
    rows[7] = {**rows[7], "aevb_kl": 1e6, "elbo": None}
    error, kl, elbo = curves_by_label([("a", rows)], "t", "nats").axes
    assert kl.get_ylim()[1] < 20 and kl.get_title() == "1 of 50 values are beyond the axis"
    # Many of them, the last one too; and a beginning far from all that follows.
    for epoch in (10, 14, 15, 30, 40, 49):
        rows[epoch] = {**rows[epoch], "aevb_kl": 1e5 * epoch}
    rows[0] = {**rows[0], "aevb_kl": 300.0}
    rows[20] = {**rows[20], "reconstruction_error": 1e9}
    error, kl, elbo = curves_by_label([("a", rows)], "t", "nats").axes
    assert kl.get_ylim()[1] < 20 and kl.get_title() == "10 of 50 values are beyond the axis"
    assert error.get_yscale() == "log" and error.get_ylim()[1] < 20
    assert error.get_title() == "1 of 50 values are beyond the axis" and elbo.get_title() == ""
    # What a curve falls through at first is seen, where the rest is not too small beside it.
    falling = [{"split": "train", **dict.fromkeys(names, 5.0 + 15 / n)} for n in range(1, 51)]
    assert curves_by_label([("a", falling)], "t", "nats").axes[1].get_ylim()[1] > 20
