"""The notebooks of the gallery are committed as they ran: whole, in order, and fit to be read on the site.

`make notebooks` runs them again.
"""

import json
import re

import pytest

from tests.pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def texts(output):
    """Return what an output shows as text."""
    data = output.get("data", {})
    return "".join(output.get("text", [])) + "".join(
        "".join(data.get(kind, [])) for kind in ("text/plain", "text/html")
    )


@each_notebook
def test_it_ran_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_it_ends_with_assertions(path):
    assert re.search(r"^\s*(assert |np\.testing\.assert_)", "".join(cells(path, "code")[-1]["source"]), re.MULTILINE)


@each_notebook
def test_its_outputs_are_results(path):
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    assert outputs
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", texts(output)
        assert not re.search(r"(/tmp/|/home/|/work/|/root/|Warning|\r|\x1b)", texts(output)), texts(output)


@each_notebook
def test_it_shows_a_picture_and_stays_small(path):
    images = [
        output for cell in cells(path, "code") for output in cell["outputs"] if "image/png" in output.get("data", {})
    ]
    assert images
    assert path.stat().st_size < 400_000


@each_notebook
def test_it_starts_with_a_title_and_says_what_it_shows(path):
    first = "".join(cells(path, "markdown")[0]["source"])
    title, *rest = first.split("\n", 1)
    assert title.startswith("# ") and rest


def test_the_gallery_has_every_notebook():
    named = set(re.findall(r"\.\./notebooks/(\w+)\.ipynb", (ROOT / "docs" / "gallery.md").read_text()))
    assert named == {path.stem for path in NOTEBOOKS}
