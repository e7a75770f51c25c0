"""The reference: the ``{names}`` blocks of docs/reference, and equations in docstrings as math.

A block has the module after its name and the module's names below. It becomes a table of their first sentences, then
the signature and docstring of each.
"""

from typing import Any

import equations
import public
from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
# Bases whose subclasses do the work: a reader looks for their methods, those that they inherit too.
WITH_INHERITED = ("functorch_optim.optim.Optimizer",)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("names", Names)
    app.connect("builder-inited", check)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", translate_equations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def check(app: Sphinx) -> None:
    for problem in public.problems():
        logger.warning("%s", problem)


def skip_fields(app: Sphinx, kind: str, name: str, value: object, skip: bool, options: object) -> bool | None:
    """Leave out what is no member to call: fields of NamedTuples, and functions that a class keeps as its data."""
    field = type(value).__name__ == "_tuplegetter"
    kept = kind == "class" and name == "constructor"
    return True if field or kept else None


def translate_equations(app: Sphinx, document: nodes.document) -> None:
    """Replace the equations in docstrings, which are literal blocks, by math."""
    for block in list(document.findall(nodes.literal_block)):
        if "language" in block or not _in_docstring(block) or equations.is_code(block.astext()):
            continue
        try:
            latex = equations.to_latex(block.astext())
        except ValueError as error:
            logger.warning("%s", error, location=block)
            continue
        block.replace_self(nodes.math_block(latex, latex, nowrap=False, number=None, label=None))


def _in_docstring(node: nodes.Node | None) -> bool:
    while node is not None and not isinstance(node, addnodes.desc_content):
        node = node.parent
    return node is not None


class Names(SphinxDirective):
    """The names of a module that belong together."""

    has_content = True
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        names = public.names_in(self.arguments[0], "\n".join(self.content))
        values = public.public_names()
        known = [(name, values[name]) for name in names if name in values]  # the check reports the others
        lines = [f".. py:currentmodule:: {self.arguments[0]}", "", *_table(known)]
        for name, value in known:
            lines += ["", *_entry(name, value)]
        # In Markdown a docstring would be parsed as Markdown, so the entries are reStructuredText within it.
        markdown = StringList(["``````{eval-rst}", *lines, "``````"], source=self.get_source_info()[0])
        found = nodes.Element()
        self.state.nested_parse(markdown, self.content_offset, found)
        return found.children


def _table(known: list[tuple[str, Any]]) -> list[str]:
    """Write the table of names with their first sentences."""
    lines = [".. list-table::", "   :class: names", "   :widths: auto", ""]
    for name, value in known:
        text = public.summary(public.text_of(name, value))
        lines += [f"   * - :py:obj:`{name.rpartition('.')[2]} <{name}>`", f"     - {text}"]
    return lines


def _entry(name: str, value: Any) -> list[str]:
    """Write the directive that documents a name."""
    if public.is_data(value):
        return [
            f".. py:data:: {name.rpartition('.')[2]}",
            "",
            *("   " + line for line in public.text_of(name, value).splitlines()),
        ]
    if not isinstance(value, type):
        return [f".. autofunction:: {name}"]
    if issubclass(value, Exception):
        return [f".. autoexception:: {name}"]
    inherited = ["   :inherited-members:"] if name in WITH_INHERITED else []
    return [f".. autoclass:: {name}", "   :members:", *inherited]
