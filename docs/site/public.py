"""The public names of the library, and their places in the reference: pages list them in ``{names}`` blocks.

This module needs no Sphinx, so that `make test` checks the same as the build of the site.
"""

import ast
import functools
import importlib
import inspect
import itertools
import re
import types
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

REFERENCE = Path(__file__).parent.parent / "reference"
ROOTS = (
    "functorch_optim",
    "functorch_optim.optim",
    "functorch_optim.optim.optimizer",
    "functorch_optim.optim.schedule_free",
)
# Where the strings stand that describe data: Python attaches none to a value.
DATA_MODULES = ("functorch_optim.hyperparams", "functorch_optim.checkpoint.leaf_rules")


class Listed(NamedTuple):
    """A name in a ``{names}`` block."""

    page: str
    name: str


def public_names() -> dict[str, Any]:
    """Return every public name with what it stands for; of several names of one object the first and shortest."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for module in _modules():
        for name in module.__all__:
            value = getattr(module, name)
            if not isinstance(value, types.ModuleType) and id(value) not in seen:
                seen.add(id(value))
                found[f"{module.__name__}.{name}"] = value
    return found


def _modules() -> list[types.ModuleType]:
    """Return the public modules, those nearer to the top first."""
    found = {name: importlib.import_module(name) for name in ROOTS}
    queue = list(found.values())
    for module in queue:
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, types.ModuleType) and value.__name__ not in found:
                found[value.__name__] = value
                queue.append(value)
    return sorted(found.values(), key=lambda module: module.__name__.count("."))


def listed() -> list[Listed]:
    """Return the names in the blocks of all pages."""
    pages = [(path.name, path.read_text()) for path in sorted(REFERENCE.glob("*.md"))]
    blocks = [
        (page, block) for page, text in pages for block in re.findall(r"^```\{names\} (.*?)^```", text, re.M | re.S)
    ]
    return [Listed(page, name) for page, block in blocks for name in names_in(*block.partition("\n")[::2])]


def names_in(module: str, content: str) -> list[str]:
    """Return the full names in a block whose names belong to ``module``."""
    return [f"{module.strip()}.{name}" for name in content.split()]


def problems() -> list[str]:
    """Return what is wrong with the reference: names without a place, with several, without text or example."""
    public, counts = public_names(), Counter(each.name for each in listed())
    pages = {each.name: each.page for each in listed()}
    return [
        *(f"{name} is public, and no page of docs/reference lists it" for name in public if name not in counts),
        *(f"{pages[name]}: {name} is not public, or has a shorter name" for name in counts if name not in public),
        *(f"{pages[name]}: {name} is listed {count} times" for name, count in counts.items() if count > 1),
        *(f"{name} has no docstring" for name, value in public.items() if not text_of(name, value)),
        *(f"{name} has no example" for name, value in public.items() if _lacks_example(name, value)),
    ]


def text_of(name: str, value: Any) -> str:
    """Return the docstring of a name; of data, the string under its assignment, or what its mark says."""
    if not is_data(value):
        return (
            inspect.cleandoc(vars(value).get("__doc__") or "")
            if isinstance(value, type)
            else inspect.getdoc(value) or ""
        )
    if hasattr(value, "__metadata__"):
        option, *notes = value.__metadata__
        described = notes[0] if notes else "numbers" if option.length else "any number"
        return "Mark of an option: " + ", ".join(filter(None, [described, option.range])) + "."
    return _attribute_docs().get(name.rpartition(".")[2], "")


def summary(text: str) -> str:
    """Return the first sentence of a docstring.

    >>> summary("Clip it. As\\nin torch.")
    'Clip it.'
    """
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[^.]\.)\s", paragraph, maxsplit=1)[0].rstrip(":")


def is_data(value: Any) -> bool:
    """Whether a value is neither a class nor a function: a mark of options, a type for annotations, a constant."""
    return hasattr(value, "__metadata__") or not hasattr(value, "__name__")


def is_state(value: Any) -> bool:
    """Whether a class only holds values: it is a NamedTuple."""
    return isinstance(value, type) and issubclass(value, tuple)


def _lacks_example(name: str, value: Any) -> bool:
    """Whether an example is missing; states, errors and data need none, nor do bases that others extend."""
    error = isinstance(value, type) and issubclass(value, Exception)
    return not (is_state(value) or error or is_data(value) or ">>>" in text_of(name, value))


@functools.cache
def _attribute_docs() -> dict[str, str]:
    """Return the strings that stand under assignments of the modules that define public data."""
    found = {}
    for module in DATA_MODULES:
        body = ast.parse(inspect.getsource(importlib.import_module(module))).body
        for before, after in itertools.pairwise(body):
            match before, after:
                case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)), ast.Expr(
                    ast.Constant(str() as text)
                ):
                    found[name] = inspect.cleandoc(text)
    return found
