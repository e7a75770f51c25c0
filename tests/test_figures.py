"""Every measured number in the pages is the one in ``benchmarks/results/``."""

import re

import pytest

from benchmarks import pages, results, speed_plot
from tests.algorithms import ALGORITHMS

MARKED = [path for path in pages.PAGES if "<!-- table:" in path.read_text() or "<!-- figure:" in path.read_text()]
TABLE = {
    "date": "2026-01-02",
    "command": "make bench-x",
    "machine": {"processor": "P", "cores": 2, "python": "3.11.7", "versions": {"jax": "1.0"}},
    "columns": {"shapes": ["shapes", ""], "step": ["step", ""], "ms": ["ms", ".1f"], "over": ["over", ".2f"]},
    "rows": [
        {"shapes": "a", "step": "one.two, x", "ms": 12.34, "over": 1.0},
        {"shapes": "b", "step": "three", "ms": None, "over": 0.256},
    ],
}


@pytest.fixture
def one_table(monkeypatch):
    monkeypatch.setattr(results, "tables", lambda name: {"x": {"t": TABLE}}[name])


@pytest.mark.parametrize("path", MARKED, ids=lambda path: path.name)
def test_a_page_has_the_numbers_of_the_results(path):
    text = path.read_text()
    assert text == pages.rewritten(text), "write them: make figures"


@pytest.mark.parametrize("path", MARKED, ids=lambda path: path.name)
def test_every_mark_is_whole_and_none_starts_a_line(path):
    """A comment at the start of a line is a block of its own, which would cut the paragraph in two."""
    text = path.read_text()
    assert len(re.findall("<!-- /?figure", text)) == 2 * len(pages.FIGURE.findall(text))
    assert len(re.findall("<!-- /?table", text)) == 2 * len(pages.TABLE.findall(text))
    assert not re.search("^ *<!-- /?figure", text, re.MULTILINE)


def test_the_pages_of_parity_and_speed_show_results():
    assert {"parity.md", "speed.md"} <= {path.name for path in MARKED}


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("x.t.a, one.two, x.ms", "12.3"),
        ("x.t.b, three.over", "0.26"),
        ("x.t.b, three.ms", ""),
        ("x.t.max.ms", "12.3"),
        ("x.t.min.over", "0.26"),
        ("x.t.sum.over", "1.26"),
        ("x.t.date", "2026-01-02"),
        ("x.t.command", "make bench-x"),
        ("x.t.rows", "2"),
    ],
)
def test_a_path_names_a_number(path, shown, one_table):
    assert results.figure(path) == shown


@pytest.mark.parametrize("path", ["x.t.c, three.ms", "x.t.b, three.speed", "x.u.rows", "y.t.rows"])
def test_a_path_that_names_nothing_raises(path, one_table):
    with pytest.raises((KeyError, ValueError)):
        results.figure(path)


def test_empty_columns_are_not_shown():
    empty = TABLE | {"rows": [row | {"ms": None} for row in TABLE["rows"]]}
    assert results.markdown(empty).startswith(
        "| shapes | step | over |\n| --- | --- | --- |\n| a | one.two, x | 1.00 |"
    )


def test_a_relative_zero_is_a_zero():
    assert (results.cell(0.0, ".1e"), results.cell(0.0, ".1f"), results.cell(1.2e-9, ".1e")) == ("0", "0.0", "1.2e-09")


def test_rows_that_were_measured_elsewhere_say_so():
    elsewhere = {"of": "b", "date": "2026-01-03", "command": "make bench-x", "machine": TABLE["machine"]}
    lines = results.markdown(TABLE | {"also": [elsewhere]}).splitlines()
    assert lines[-2].startswith("2026-01-02, `make bench-x`: P, ")
    assert lines[-1].startswith("b: 2026-01-03, `make bench-x`: P, ")


def test_the_plot_shows_the_ratios_of_the_results(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot needs it")
    cases = results.load("speed")["cases"]
    ratios = speed_plot.ratios(cases)
    shown = results.tables("speed")["dense"]["rows"]
    row = next(row for row in shown if (row["ours"], row["theirs"]) == ("fo adam, one pass", "torch Adam fused"))
    assert ratios["adam"]["fused"] == row["ratio"] and len(ratios) == 13
    speed_plot.draw(cases, tmp_path / "speed.svg")
    assert (tmp_path / "speed.svg").read_text().count('id="line2d') > sum(map(len, ratios.values()))


def test_the_comparison_has_every_optimizer_that_takes_single_batches(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot needs it")
    from benchmarks import training, training_plot

    tables = results.load("training")
    names = {problem: [row["optimizer"].strip("`") for row in table["rows"]] for problem, table in tables.items()}
    for problem in ("quadratic", "digits"):
        assert set(names[problem]) == set(training.CONTENDERS) > set(ALGORITHMS) - {"rprop"}  # for full batches
    assert len(names["gpt"]) == 6 and "adamw" in names["gpt"]
    training_plot.draw(tables, tmp_path / "training.svg")
    assert (tmp_path / "training.svg").read_text().count('id="line2d') > 2 * sum(map(len, names.values()))


@pytest.mark.torch
def test_the_recorded_coverage_is_that_of_an_installed_torch():
    pytest.importorskip("torch", reason="counts what a live torch has")
    from benchmarks import coverage

    counts = coverage.counts()
    rows = results.tables("coverage")["names"]["rows"]
    assert {row["part"]: (row["torch"], row["here"]) for row in rows} == {
        part: (len(every), len(every) - len(missing)) for part, (every, missing) in counts.items()
    }
    assert counts["algorithms"][0][:2] == ["ASGD", "Adadelta"] and "Adam(lr)" in counts["their arguments"][0]


@pytest.mark.torch
def test_something_that_is_missing_is_counted():
    pytest.importorskip("torch", reason="counts what a live torch has")
    from benchmarks import coverage

    class Less:
        class Adam:
            def __init__(self, params, lr=0.5):
                """Another default, and nothing else."""

    every, missing = coverage.of_arguments(["Adam", "SGD"], coverage.torch.optim, Less)
    assert set(every) - set(missing) == {"Adam(params)"}
    assert coverage.of_names(["Adam", "SGD"], Less) == (["Adam", "SGD"], ["SGD"])


def test_marks_are_filled(one_table):
    page = "It is <!-- figure: x.t.max.over -->9<!-- /figure -->.\n\n<!-- table: x.t -->\nold\n<!-- /table -->\nend\n"
    filled = pages.rewritten(page)
    assert filled.startswith("It is <!-- figure: x.t.max.over -->1.00<!-- /figure -->.\n")
    assert "old" not in filled and "| a | one.two, x | 12.3 | 1.00 |\n| b | three |  | 0.26 |\n" in filled
    assert "\n2026-01-02, `make bench-x`: P, 2 cores, Python 3.11.7, jax 1.0.\n" in filled
    assert filled.endswith("<!-- /table -->\nend\n") and pages.rewritten(filled) == filled


def test_written_tables_join_those_of_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(pages, "rewrite", lambda: None)
    fresh = results.table("make bench-x", {"step": ("step", ""), "ms": ("ms", ".1f")}, [("one", 1.25)])
    results.finish("x", {"t": TABLE}, is_written=True)
    results.finish("x", {"u": fresh}, is_written=True)
    results.finish("x", {"v": fresh}, is_written=False)
    assert results.tables("x") == {"t": TABLE, "u": fresh}
    assert "| one | 1.2 |" in capsys.readouterr().out and fresh["machine"]["versions"]["jax"]
