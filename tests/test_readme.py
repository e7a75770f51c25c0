"""The code in the README and in the pages of docs/ runs unchanged."""

import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_python_blocks_run_in_order(standard_promotion):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["optimizer"].state["w"]["step"] == 3
    assert int(namespace["state"].step) == 2
    assert namespace["tuned_step"]._cache_size() == 1


@pytest.mark.parametrize("page", ["chains-and-selection", "fast-loop"])
def test_the_blocks_of_a_page_run_in_order(page, standard_promotion):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    assert len(blocks) >= 2


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        ("clipping-and-constraints", ["0.899", "[0.0996094 -0.0996094]"]),
        (
            "watching-a-run",
            ["21 0.09 0.02", "['grad_norm', 'grad_norm/.*kernel$', 'grad_norm/encoder']", "0.0"],
        ),
    ],
)
def test_the_pages_run_and_print_what_they_say(page, lines, standard_promotion, capsys):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, f"{page}.md", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(lines)
    for found, line in zip(printed, lines, strict=True):
        assert found.startswith(line) and f"# {line}" in text


def test_the_guide_to_an_algorithm_of_ones_own_runs(tmp_path, monkeypatch, standard_promotion, capsys):
    """It runs as a module, so that its rule can be pickled."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "writing-an-algorithm.md").read_text(), re.DOTALL)
    lion = blocks[0].partition("@rules")[2]
    assert len([line for line in lion.splitlines() if line]) <= 25
    (tmp_path / "written_by_the_guide.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)
    guide = importlib.import_module("written_by_the_guide")
    assert guide.params["w"].tolist() == pytest.approx([0.85, -1.8])
    assert guide.report.checked[-2:] == ("packing", "rate") and not guide.report.not_checked
    printed = capsys.readouterr().out
    assert "Slip.momentum is a number" in printed and "[ 0.85 -1.8 ] [ 0.03" in printed


def test_the_page_of_state_and_conditions_runs(standard_promotion, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "state-and-conditions.md").read_text(), re.DOTALL)
    assert len(blocks) >= 10
    namespace = {}
    for block in blocks:
        exec(compile(block, "state-and-conditions.md", "exec"), namespace)
    assert namespace["step"]._cache_size() == 1
    assert namespace["population"].hyperparams["lr"].tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert capsys.readouterr().out.split() == ["1e-04", "1", "1.0", "True"]
