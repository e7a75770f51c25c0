"""Every block of code in the README and in docs/ runs, and prints what the page says."""

import pytest

from tests import pages
from tests.algorithms import full

FIRST = ["README.md", "docs/index.md", "docs/from-torch.md"]
# `make docs` and `make test-all` run the others too.
WITH_CODE = [*FIRST, *full(*(page for page in pages.PAGES if pages.blocks(page) and page not in FIRST))]
WITH_TORCH = [page for page in pages.PAGES if pages.blocks(page, "py")]


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_blocks_of_a_page_run_in_order(page, standard_promotion):
    names = pages.run(page)
    for check in CHECKS.get(page, ()):
        check(names)


@pytest.mark.torch
@pytest.mark.parametrize("page", WITH_TORCH)
def test_the_blocks_of_torch_run(page):
    pytest.importorskip("torch")
    pages.run(page, "py")


def test_blocks_have_a_language_that_is_run_or_shown():
    """A block of Python that no test runs cannot hide behind another name."""
    for page in pages.PAGES:
        text = (pages.ROOT / page).read_text()
        fences = [line.lstrip("`") for line in text.splitlines() if line.startswith("```") and line != "```"]
        assert set(fences) <= {"python", "py", "text", "console"} | {f for f in fences if f.startswith("{")}, page


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("print(1)  # 2", "it prints '1', and the page says '2'"),
        ("print(1.25)  # 1.3...", "it prints '1.25'"),
        ("print(\n    1,\n    2,\n)  # 1 3", "it prints '1 2'"),
    ],
)
def test_a_wrong_comment_is_found(block, message):
    with pytest.raises(AssertionError, match=message):
        pages.run_block(block, "page", pages.types.ModuleType("page"))


def check_guide(names):
    lion = pages.blocks("docs/writing-an-algorithm.md")[0].partition("@rules")[2]
    assert len([line for line in lion.splitlines() if line]) <= 25
    assert names.report.checked[-2:] == ("packing", "rate") and not names.report.not_checked


def check_state_and_conditions(names):
    assert names.step._cache_size() == 1
    assert names.population.hyperparams["lr"].tolist() == pytest.approx([0.4, 0.4, 0.2])


CHECKS = {"docs/writing-an-algorithm.md": [check_guide], "docs/state-and-conditions.md": [check_state_and_conditions]}
