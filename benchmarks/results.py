"""Tables of measurements: how a benchmark keeps them in ``benchmarks/results/``, and how the pages show them.

A file ``results/NAME.json`` has tables by name. A table says when, where and by which command it was measured, and has
columns and rows: ``{"date", "command", "machine", "columns": {key: [title, format]}, "rows": [{key: value}]}``. A
column whose format is empty has text; the texts of a row are its name.
"""

import argparse
import datetime
import importlib.metadata as metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

FOLDER = pathlib.Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "numpy", "optax", "scipy", "torch")
Table = dict[str, Any]
OVER = {"max": max, "min": min, "sum": sum}  # what a figure may take of a column, in place of a row


def arguments(description: str | None, **rounds: int) -> argparse.ArgumentParser:
    """Return a parser with ``--write``, and with ``--rounds`` if its default is given."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--write", action="store_true", help="into benchmarks/results/ and the pages")
    for name, default in rounds.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Return the processor, its cores, and the versions of Python and of the packages that are installed."""
    facts = pathlib.Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    installed = {package.name.lower() for package in metadata.distributions()}
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages if name in installed},
    }


def table(command: str, columns: Mapping[str, tuple[str, str]], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table measured now by ``command``; a row has one value, or None, for each column."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": command,
        "machine": machine(),
        "columns": {key: list(column) for key, column in columns.items()},
        "rows": [dict(zip(columns, row, strict=True)) for row in rows],
    }


def finish(name: str, tables: Mapping[str, Table], is_written: bool) -> None:
    """Print the tables; if ``is_written``, put them into ``results/NAME.json``, beside others, and into the pages."""
    for each in tables.values():
        print(f"\n{markdown(each)}")
    if is_written:
        from benchmarks import pages

        before = load(name) if (FOLDER / f"{name}.json").exists() else {}
        save(name, {**before, **tables})
        pages.rewrite()


def save(name: str, content: Any) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def tables(name: str) -> dict[str, Table]:
    """Return the tables of a file; those of the speed runs are formed from their cases."""
    if name == "speed":
        from benchmarks import speed_tables

        return speed_tables.tables(load(name))
    return load(name)


def markdown(table: Table) -> str:
    """Format a table without its empty columns, and say when, where and by which command it was measured."""
    rows = table["rows"]
    columns = {key: each for key, each in table["columns"].items() if any(row[key] is not None for row in rows)}
    lines = [[title for title, _ in columns.values()], ["---" for _ in columns]]
    lines += [[cell(row[key], form) for key, (_, form) in columns.items()] for row in rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", about(table)])


def about(table: Table) -> str:
    """Say when, where and by which command a table was measured, and which rows were measured elsewhere."""
    others = [f"{each['of']}: {_run(each)}" for each in table.get("also", [])]
    return "\n".join([_run(table), *others])


def _run(run: dict[str, Any]) -> str:
    where = run["machine"]
    versions = [f"{name} {version}" for name, version in where["versions"].items()]
    python = [f"Python {where['python']}"] if where["python"] else []
    place = ", ".join([where["processor"], f"{where['cores']} cores", *python, *versions])
    return f"{run['date']}, `{run['command']}`: {place}."


def cell(value: Any, form: str) -> str:
    if value is None:
        return ""
    return "0" if value == 0 and form.endswith("e") else format(value, form)


def figure(path: str) -> str:
    """Return what a path names, formatted as in its table.

    ``FILE.TABLE.ROW.COLUMN`` is a cell; a row's name is its texts, joined by ", ", without backquotes. In place of a
    row, "max", "min" and "sum" are those of the column. ``FILE.TABLE.date``, ``.command`` and ``.rows`` are the
    table's own.
    """
    name, title, rest = path.split(".", 2)
    found = tables(name)[title]
    if rest == "rows":
        return str(len(found["rows"]))
    if rest in ("date", "command"):
        return str(found[rest])
    row, _, column = rest.rpartition(".")
    form = found["columns"][column][1]
    if row in OVER:
        return cell(OVER[row](each[column] for each in found["rows"] if each[column] is not None), form)
    texts = [key for key, (_, each) in found["columns"].items() if not each]
    (only,) = [each for each in found["rows"] if ", ".join(each[key] for key in texts).replace("`", "") == row]
    return cell(only[column], form)
