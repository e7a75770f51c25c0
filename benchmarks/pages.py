"""Write the measured numbers into the pages: ``make figures``, or ``--write`` of any benchmark.

A page is written by hand, except for what stands between these marks, which readers do not see:

- ``<!-- table: FILE.TABLE -->`` and ``<!-- /table -->``, each on its own line: a table of ``benchmarks/results/``;
- ``<!-- figure: FILE.TABLE.ROW.COLUMN -->`` and ``<!-- /figure -->``, in a line, but not at its start: one number.

``benchmarks/results.py`` says what the paths name. ``tests/test_figures.py`` fails if a page says anything else.
"""

import difflib
import pathlib
import re
import sys

from benchmarks import results

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TABLE = re.compile(r"^<!-- table: (.+?) -->\n.*?^<!-- /table -->$", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(r"<!-- figure: (.+?) -->[^<]*<!-- /figure -->")


def rewritten(text: str) -> str:
    """Return a page's text with the numbers that the results have now."""

    def table(found: re.Match[str]) -> str:
        name, _, title = found[1].partition(".")
        return f"<!-- table: {found[1]} -->\n\n{results.markdown(results.tables(name)[title])}\n\n<!-- /table -->"

    def figure(found: re.Match[str]) -> str:
        return f"<!-- figure: {found[1]} -->{results.figure(found[1])}<!-- /figure -->"

    return FIGURE.sub(figure, TABLE.sub(table, text))


def rewrite() -> None:
    """Write the numbers into all pages, and print what has changed."""
    for path in PAGES:
        before = path.read_text()
        after = rewritten(before)
        if after != before:
            name = str(path.relative_to(ROOT))
            path.write_text(after)
            sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), after.splitlines(True), name, name))


if __name__ == "__main__":
    rewrite()
