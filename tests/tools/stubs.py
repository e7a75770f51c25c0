"""Write the files that are derived from the classes and functions of the torch face: ``make stubs``.

The stubs, ``.pyi``, are for editors and type checkers; ``tests/signatures.txt`` is a record that shows every change.
"""

import inspect
import textwrap
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp

from functorch_optim import optim
from functorch_optim.optim import beyond_torch, classes, functional
from functorch_optim.optim.param_groups import GroupRules
from functorch_optim.optim.signatures import Declared

SIGNATURES = Path(__file__).parents[1] / "signatures.txt"
_RULES = inspect.formatannotation(GroupRules)
STUBS = {Path(module.__file__).with_suffix(".pyi"): module for module in (classes, beyond_torch)}
FUNCTIONS = Path(functional.__file__).with_suffix(".pyi")
_HEAD = '''\
"""Generated from ``{}.py`` by ``make stubs``."""

from typing import Any

{}
'''
_IMPORTS = (
    "from functorch_optim.optim.optimizer import Optimizer",
    "from functorch_optim.optim.param_groups import GroupRules",
)


def stub(module: ModuleType) -> str:
    """Return the text of the stub of a module of classes."""
    names = "".join(f'    "{name}",\n' for name in module.__all__)
    kinds = [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__]
    bases = {kind.__base__ for kind in kinds} - {Declared, *kinds}
    imports = sorted([*_IMPORTS, *[f"from {base.__module__} import {base.__name__}" for base in bases]])
    head = _HEAD.format(module.__name__.rpartition(".")[2], "\n".join(imports))
    return "\n".join([head, f"__all__ = [\n{names}]\n", *map(_of_class, kinds)])


def _of_class(kind: type[Declared]) -> str:
    """Return the stub of a class: its docstring and its constructor."""
    base = "Optimizer" if kind.__base__ is Declared else kind.__base__.__name__
    parameters = list(inspect.signature(kind.__init__).parameters.values())
    lines = [
        str(p).replace(_RULES, "GroupRules").replace("typing.", "").replace("= inf", '= float("inf")').replace("'", '"')
        for p in parameters
    ]
    lines.insert(next(index for index, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), "*")
    doc = f'"""{kind.__doc__}\n"""\n\n'
    init = "".join(["def __init__(\n", *(f"    {line},\n" for line in lines), ") -> None: ...\n"])
    return f"class {kind.__name__}({base}):\n" + textwrap.indent(doc + init, "    ")


def functions() -> str:
    """Return the text of the stub of ``torch.optim.functional``'s functions and of what they return."""
    head = '"""Made of ``functional.py`` by ``make stubs``."""\n\nfrom collections.abc import Sequence\n'
    head += "from typing import Any, NamedTuple\n"
    names = "".join(f'    "{name}",\n' for name in functional.__all__)
    return "\n".join([head, f"__all__ = [\n{names}]\n", *map(_of_function, functional.__all__)])


def _of_function(name: str) -> str:
    """Return a function with its docstring, after the type that it returns."""
    function = getattr(functional, name)
    result = function.__annotations__["return"]
    fields = "".join(f"    {field}: list[Any]\n" for field in result._fields)
    parameters = list(inspect.signature(function).parameters.values())
    lines = [str(p).replace("collections.abc.", "").replace("typing.", "") for p in parameters]
    lines.insert(next(index for index, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), "*")
    doc = textwrap.indent(f'"""{function.__doc__}\n"""', "    ")
    head = f'class {result.__name__}(NamedTuple):\n    """{result.__doc__}"""\n\n{fields}\n'
    return "".join([head, f"def {name}(\n", *(f"    {line},\n" for line in lines), f") -> {result.__name__}:\n{doc}\n"])


def bare(kind: type) -> inspect.Signature:
    """Return a class's signature without its types."""
    own = inspect.signature(kind)
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in own.parameters.values()]
    return own.replace(parameters=parameters, return_annotation=own.empty)


def signatures() -> str:
    """Return two lines per class: its signature, and the keys of its groups except ``params``."""
    titles = [name for name in optim.__all__ if inspect.isclass(getattr(optim, name)) and name != "Optimizer"]
    lines = []
    for title in sorted(titles, key=lambda name: (not name.isupper(), name)):
        kind = getattr(optim, title)
        keys = list(kind([jnp.ones((2, 2))]).param_groups[0])
        lines += [f"{title}{bare(kind)}", f"    {' '.join(key for key in keys if key != 'params')}"]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    for path, module in STUBS.items():
        path.write_text(stub(module))
    FUNCTIONS.write_text(functions())
    SIGNATURES.write_text(signatures())
