"""Count what this library has of an installed torch's ``torch.optim``. ``make coverage``

Everything is read from torch: its classes and the arguments of their constructors with their defaults, the methods of
its base classes, the functions of its algorithms' modules, and the names of its other modules. Something counts as
covered if this library has it by the same name, an argument if it has the same default too.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch.optim import lr_scheduler, swa_utils

from benchmarks import results
from functorch_optim import optim

COMMAND = "make coverage"
Counted = tuple[list[str], list[str]]  # all that torch has, and what is missing here


def classes(module: ModuleType, base: type) -> list[str]:
    """Return the public classes of a module that derive from a base, without the base."""
    found = {name: value for name, value in vars(module).items() if inspect.isclass(value) and name[0] != "_"}
    return sorted(name for name, value in found.items() if issubclass(value, base) and value is not base)


def arguments(cls: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments of a constructor with their defaults."""
    every = inspect.signature(cls).parameters
    return {name: parameter.default for name, parameter in every.items()}


def has_argument(ours: dict[str, Any], name: str, default: Any) -> bool:
    return name in ours and (default is inspect.Parameter.empty or bool(ours[name] == default))


def of_names(names: Iterable[str], ours: Any) -> Counted:
    every = list(names)
    return every, [name for name in every if not hasattr(ours, name)]


def of_arguments(names: Iterable[str], theirs: ModuleType, ours: Any) -> Counted:
    """Count the arguments of the classes with these names."""
    every, missing = [], []
    for title in names:
        have = arguments(getattr(ours, title)) if hasattr(ours, title) else {}
        for name, default in arguments(getattr(theirs, title)).items():
            every.append(f"{title}({name})")
            if not has_argument(have, name, default):
                missing.append(every[-1])
    return every, missing


def methods(cls: type) -> list[str]:
    """Return the public methods that a class defines."""
    return [name for name, value in vars(cls).items() if name[0] != "_" and inspect.isfunction(value)]


def functions() -> list[str]:
    """Return the functions that torch's modules of algorithms export: ``adam`` of ``torch.optim.adam``, ..."""
    names = [module.name for module in pkgutil.iter_modules(torch.optim.__path__) if module.name[0] != "_"]
    return [name for name in names if name in getattr(importlib.import_module(f"torch.optim.{name}"), "__all__", ())]


def counts() -> dict[str, Counted]:
    algorithms = classes(torch.optim, torch.optim.Optimizer)
    schedulers = classes(lr_scheduler, lr_scheduler.LRScheduler)
    averages = [name for name in swa_utils.__all__ if inspect.isclass(getattr(swa_utils, name))]
    return {
        "names in `torch.optim`": of_names(torch.optim.__all__, optim),
        "algorithms": of_names(algorithms, optim),
        "their arguments": of_arguments(algorithms, torch.optim, optim),
        "methods of `Optimizer`": of_names(methods(torch.optim.Optimizer), optim.Optimizer),
        "schedulers": of_names(schedulers, optim.lr_scheduler),
        "arguments of schedulers": of_arguments(schedulers, lr_scheduler, optim.lr_scheduler),
        "methods of `LRScheduler`": of_names(methods(lr_scheduler.LRScheduler), optim.lr_scheduler.LRScheduler),
        "`swa_utils`": of_names(swa_utils.__all__, optim.swa_utils),
        "arguments of its classes": of_arguments(averages, swa_utils, optim.swa_utils),
        "functions of algorithms": of_names(functions(), optim.functional),
    }


def main() -> None:
    options = results.arguments(__doc__).parse_args()
    rows = []
    for name, (every, missing) in counts().items():
        rows.append((name, len(every), len(every) - len(missing), ", ".join(f"`{each}`" for each in missing) or "none"))
    columns = {
        "part": ("`torch.optim`", ""),
        "torch": ("torch has", "d"),
        "here": ("here", "d"),
        "missing": ("missing", "s"),
    }
    results.finish("coverage", {"names": results.table(COMMAND, columns, rows)}, options.write)


if __name__ == "__main__":
    main()
