"""Run the code of a page of the documentation.

The ```python blocks of a page run in order, as one module. The ```py blocks are torch's side of a comparison: they run
in a module of their own, where torch is installed. A comment at the end of a top-level `print(...)` is what it prints,
or the start of that.
"""

import ast
import contextlib
import io
import linecache
import re
import sys
import tokenize
import types
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]


def blocks(page: str, language: str = "python") -> list[str]:
    """Return a page's blocks of a language, padded so that each line keeps its number in the page."""
    text = (ROOT / page).read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return ["\n" * text[: block.start(1)].count("\n") + block[1] for block in found]


def run(page: str, language: str = "python") -> types.SimpleNamespace:
    """Run a page's blocks and return the names that they leave."""
    name = "page_" + re.sub(r"\W", "_", page)
    module = sys.modules[name] = types.ModuleType(name)  # registered, so that classes of the page pickle
    try:
        for block in blocks(page, language):
            run_block(block, page, module)
    finally:
        del sys.modules[name]
    return types.SimpleNamespace(**vars(module))


def run_block(source: str, page: str, module: types.ModuleType) -> None:
    linecache.cache[page] = (len(source), None, source.splitlines(keepends=True), page)
    comments = dict(trailing_comments(source))
    for statement in ast.parse(source).body:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module([statement], []), page, "exec"), vars(module))
        if is_print(statement) and statement.end_lineno in comments:
            check(printed.getvalue(), comments[statement.end_lineno], f"{page}, line {statement.lineno}")


def is_print(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(ast.Call(ast.Name("print"))):
            return True
    return False


def trailing_comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
            yield token.start[0], token.string.lstrip("# ")


def check(printed: str, comment: str, place: str) -> None:
    """Compare with the comment, up to an ellipsis if it ends with one."""
    found = " ".join(printed.split())
    start = comment.removesuffix("...").rstrip()
    same = found.startswith(start) if comment.endswith("...") else found == start
    assert same, f"{place}: it prints {found!r}, and the page says {comment!r}"
