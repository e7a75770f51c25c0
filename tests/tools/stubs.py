"""Write ``classes.pyi``, the torch classes as editors and type checkers see them: ``make stubs``."""

import inspect
import textwrap
from pathlib import Path

from functorch_optim.optim import classes
from functorch_optim.optim.param_groups import GroupRules
from functorch_optim.optim.signatures import Declared

_RULES = inspect.formatannotation(GroupRules)
STUB = Path(classes.__file__).with_suffix(".pyi")
_HEAD = '''\
"""Made of ``classes.py`` by ``make stubs``."""

from typing import Any

from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules
'''


def stub() -> str:
    """Return the text of the file."""
    kinds = [kind for kind in vars(classes).values() if inspect.isclass(kind) and kind.__module__ == classes.__name__]
    return "\n".join([_HEAD, *map(_of_class, kinds)])


def _of_class(kind: type[Declared]) -> str:
    """Return a class with its docstring and its constructor."""
    base = "Optimizer" if kind.__base__ is Declared else kind.__base__.__name__
    parameters = list(inspect.signature(kind.__init__).parameters.values())
    lines = [str(p).replace(_RULES, "GroupRules").replace("typing.", "") for p in parameters]
    lines.insert(next(index for index, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), "*")
    doc = f'"""{kind.__doc__}\n"""\n\n'
    init = "".join(["def __init__(\n", *(f"    {line},\n" for line in lines), ") -> None: ...\n"])
    return f"class {kind.__name__}({base}):\n" + textwrap.indent(doc + init, "    ")


if __name__ == "__main__":
    STUB.write_text(stub())
