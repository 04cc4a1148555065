"""report/tables.py: spreads over seeds, and tables of them."""

import csv

from experiments.report import tables


def test_spread():
    assert str(tables.spread([1.0, 2.0, 3.0])) == "2 ± 1"
    assert tables.spread([1.0]) == (1.0, None) and str(tables.spread([1.0])) == "1"
    assert str(tables.spread([1.0, 1.0])) == "1 ± 0"
    assert tables.spread([1.0, None]) is None and tables.spread([]) is None
    assert tables.spread([float("inf"), 1.0]) is None and tables.spread([float("nan")]) is None


def test_tables(tmp_path):
    table = tables.tabulate("aabb", {"loss": [1.0, 3.0, 5.0, 5.0], "kl": [1.0, 1.0, None, None]})
    markdown = tables.write_tables(tmp_path, "t", table)
    assert markdown == (tmp_path / "t.md").read_text()
    assert "| a | 2 | 2 ± 1.4 | 1 ± 0 |" in markdown and "| b | 2 | 5 ± 0 | none |" in markdown
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert rows[0] == {
        "run": "a",
        "seeds": "2",
        "loss": "2",
        "loss_deviation": "1.41421",
        "kl": "1",
        "kl_deviation": "0",
    }
    assert rows[1]["kl"] == rows[1]["kl_deviation"] == ""
    tables.write_tables(tmp_path, "one", tables.tabulate(["a"], {"loss": [1.0]}))
    assert (tmp_path / "one.csv").read_text() == "run,seeds,loss,loss_deviation\na,1,1,\n"
    assert "| a | 1 | 1 |" in (tmp_path / "one.md").read_text()
