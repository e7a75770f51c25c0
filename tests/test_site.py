"""The site's own code: equations of docstrings become LaTeX, and every public name has one place in the reference."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site():
    """Return the modules of docs/site that need no Sphinx."""
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        yield {name: importlib.import_module(name) for name in ("equations", "public")}
    finally:
        sys.path.remove(str(ROOT / "docs" / "site"))


@pytest.mark.parametrize(
    ("line", "latex"),
    [
        ("m <- beta1 * m + (1 - beta1) * g", r"m \leftarrow \beta_{1} \, m + \left(1 - \beta_{1}\right) \, g"),
        (
            "V = R * C / max(mean(R), eps1)",
            r"V = \frac{R \, C}{\max\left(\operatorname{mean}\left(R\right), \varepsilon_{1}\right)}",
        ),
        ("a - (b - c)", r"a - \left(b - c\right)"),
        ("a - b - c", "a - b - c"),
        ("a + (b + c)", "a + b + c"),
        ("a - -(b + c)", r"a - \left(-\left(b + c\right)\right)"),
        ("a / b / c * d", r"\frac{a}{b \, c} \, d"),
        ("a / b * c * d / x", r"\frac{a}{b} \, \frac{c \, d}{x}"),
        ("a / (b / c)", r"\frac{a}{\frac{b}{c}}"),
        ("a * (b / c)", r"a \, \frac{b}{c}"),
        ("(a / b)**2", r"\left(\frac{a}{b}\right)^{2}"),
        ("a**-b", "a^{-b}"),
        ("(a**b)**c", r"\left(a^{b}\right)^{c}"),
        ("a**(b + 1)", "a^{b + 1}"),
        ("sqrt(v)**2", r"\left(\sqrt{v}\right)^{2}"),
        ("norm(abs(p) * g)", r"\left\lVert \left|p\right| \, g\right\rVert "),
        ("lr * weight_decay * p", r"\text{lr} \cdot \text{weight\_decay} \cdot p"),
        ("a * 2", r"a \cdot 2"),
        ("mu(t+1) + 1e-10", r"\mu\left(t + 1\right) + 10^{-10}"),
        ("2.5e-3 * a", r"0.0025 \, a"),
        ("s @ y.T / y.s", r"\frac{s \, y^{\top}}{y^{\top} s}"),
        ("(a + b).s", r"\left(a + b\right)^{\top} s"),
        ("a <= b", r"a \le b"),
        ("s <- a;  g <- 0", r"s \leftarrow a,\quad g \leftarrow 0"),
        (
            "g_last <- g    if g * g_last < 0",
            r"g_{\text{last}} \leftarrow g \qquad \text{if } g \, g_{\text{last}} < 0",
        ),
        ("b    if nesterov, else a", r"b \qquad \text{if nesterov, else a}"),
        ("b    for the next; lr_decay at the first", r"b \qquad \text{for the next; lr\_decay at the first}"),
    ],
)
def test_an_equation_becomes_latex(site, line, latex):
    assert site["equations"].to_latex(line) == latex


def test_lines_are_aligned_at_their_arrows(site):
    block = "p  <- p - d     if rho > 5\n\nmu = 1\nmu * d"
    assert site["equations"].to_latex(block) == (
        r"\begin{align*} p &\leftarrow p - d && \text{if } \rho > 5 \\ \mu &= 1 \\  &\mu \, d \end{align*}"
    )


@pytest.mark.parametrize(
    "line", ["s y' / y.s", "p <- inner gets p", "a // b", "x if a else b", "f(x, y=1)", "'a' + b", "True"]
)
def test_what_is_no_equation_is_refused_by_name(site, line):
    with pytest.raises(ValueError, match=re.escape(repr(line))):
        site["equations"].to_latex("a <- b\n" + line)


def docstrings():
    """Yield the docstrings of the library with their names."""
    for path in sorted((ROOT / "functorch_optim").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                yield f"{path.stem}.{node.name}", text


def test_every_literal_block_in_a_docstring_is_code_or_equations(site):
    equations, translated = site["equations"], set()
    for name, text in docstrings():
        for block in re.findall(r"::\n\n((?: +\S.*\n|\n)+)", text + "\n"):
            if not equations.is_code(block):
                assert equations.to_latex(block), name
                translated.add(name)
    assert {"adam.adam", "bfgs.bfgs", "sharpness.sam", "directions.scale_by_rms"} <= translated


def test_every_public_name_has_one_place_text_and_example(site):
    assert not site["public"].problems()


def test_a_fault_of_the_reference_is_found(site, tmp_path, monkeypatch):
    public = site["public"]
    (tmp_path / "a.md").write_text("```{names} functorch_optim\nadam AdamState\nadam nothing\n```\n")
    monkeypatch.setattr(public, "REFERENCE", tmp_path)
    found = public.problems()
    assert "a.md: functorch_optim.adam is listed 2 times" in found
    assert "a.md: functorch_optim.nothing is not public, or has a shorter name" in found
    assert "functorch_optim.adamw is public, and no page of docs/reference lists it" in found


def test_a_name_without_text_or_example_is_found(site, monkeypatch):
    def bare():
        """Do it."""

    def silent(): ...

    monkeypatch.setattr(site["public"], "public_names", lambda: {"a.bare": bare, "a.silent": silent})
    monkeypatch.setattr(site["public"], "listed", list)
    assert {"a.bare has no example", "a.silent has no docstring", "a.silent has no example"} <= set(
        site["public"].problems()
    )


def test_aliases_stand_under_their_shortest_name(site):
    names = site["public"].public_names()
    assert "functorch_optim.Beta" in names and "functorch_optim.rules.Beta" not in names
    assert "functorch_optim.optim.Optimizer" in names and "functorch_optim.optim.functional.adam" in names


def test_every_page_of_the_reference_is_in_its_table(site):
    index = (ROOT / "docs" / "reference" / "index.md").read_text()
    pages = {path.name for path in (ROOT / "docs" / "reference").glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\]\(([a-z_-]+\.md)\)", index)) == pages
