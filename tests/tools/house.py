"""Print code metrics with their targets: ``python -m tests.tools.house``."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "functorch_optim"
CLASSES = {"sgd", "adam", "adadelta", "adafactor", "adagrad", "adamax", "asgd", "nadam", "radam", "rmsprop", "rprop"}
CLASSES |= {"sparse_adam", "classes"}


def modules() -> dict[str, ast.Module]:
    """Return every module of the package by dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


def calls_of_a_warm_step(leaves: int = 2) -> tuple[int, list[str]]:
    """Count the package's Python functions that ``AdamW.step(grads)`` calls, and list their files."""
    import jax.numpy as jnp

    from functorch_optim import optim

    optimizer = optim.AdamW([jnp.ones(3) for _ in range(leaves)], lr=0.1)
    grads = [jnp.ones(3) for _ in range(leaves)]
    for _ in range(3):
        optimizer.step(grads)
    calls, files = 0, set()

    def count(frame, event, _):
        nonlocal calls
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            calls += 1
            files.add(str(Path(frame.f_code.co_filename).relative_to(PACKAGE)))

    sys.setprofile(count)
    optimizer.step(grads)
    sys.setprofile(None)
    return calls, sorted(files)


def uses_of_any(tree: ast.Module) -> int:
    """Count the uses of the name ``Any`` in the module, except its import."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every function with its lines of code, not counting the docstring, blank lines and comments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            lines = {line for part in ast.walk(node) if (line := getattr(part, "lineno", None))}
            if ast.get_docstring(node):
                text = node.body[0]
                lines -= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
            yield node.name, len(lines)


def imports(name: str, tree: ast.Module, known: set[str]) -> set[str]:
    """Return the package's modules that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE.name):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & known or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
    return found & known - {name}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules that import each other in a cycle."""
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    found = []
    for name in graph:
        circle = {other for other in reach[name] if name in reach[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def lines_of_classes() -> int:
    """Count the lines of the files with torch's classes, including docstrings."""
    files = [path for path in (PACKAGE / "optim").glob("*.py") if path.stem in CLASSES]
    return sum(len(path.read_text().splitlines()) for path in files)


def main() -> None:
    known = modules()
    graph = {name: imports(name, tree, set(known)) for name, tree in known.items()}
    calls, files = calls_of_a_warm_step()
    sizes = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    large = sorted(str(path.relative_to(PACKAGE)) for path, size in sizes.items() if size > 350)
    long = sorted(f"{module}.{name}" for module, tree in known.items() for name, size in functions(tree) if size > 50)
    print(f"calls of a warm step of two leaves: {calls} (at most 70), in {len(files)} files (6): {', '.join(files)}")
    print(f"lines of the classes of torch: {lines_of_classes()} (300)")
    print(f"uses of Any: {sum(map(uses_of_any, known.values()))} (300)")
    print(f"circles of imports (0): {circles(graph) or 0}")
    print(f"files over 350 lines (0): {', '.join(large) or 0}")
    print(f"functions over 50 lines of code (0): {', '.join(long) or 0}")


if __name__ == "__main__":
    main()
