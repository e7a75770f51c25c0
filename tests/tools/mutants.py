"""Check that the tests catch bugs: each mutant in ``mutants.toml`` plants one in a copy of the checkout.

``python -m tests.tools.mutants cover`` runs the tests once and records which tests run which line (it needs
``coverage``). ``python -m tests.tools.mutants run`` creates the mutants one by one and runs the tests that run the
mutated line, until one fails. Arguments after ``--`` go to pytest. Repeat ``cover`` when the library or the tests have
changed, because the record refers to line numbers.

Only the first test that traces a function runs its lines; later tests find it compiled. So another test may still catch
a mutant that survives: check that before you write a new one.
"""

import argparse
import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

TOOLS = Path(__file__).parent
PACKAGE = "functorch_optim"
COPIED = (PACKAGE, "tests", "pyproject.toml", "README.md", "Makefile", "notebooks", "docs", "benchmarks")
CAUGHT, SURVIVED, UNTESTED, ERROR, TIMEOUT = "caught", "SURVIVED", "no test runs this line", "error", "timeout"
TESTS_FAILED, NO_TESTS = 1, 5  # exit statuses of pytest


class Mutant(NamedTuple):
    """One bug: in ``file`` of the package, ``new`` replaces ``old``.

    If the mutated line runs only at import, ``at`` is text from the line whose tests run instead.
    """

    id: str
    file: str
    kind: str
    old: str
    new: str
    at: str = ""


class Result(NamedTuple):
    """A mutant's outcome: one of the constants above, the first failed test or what went wrong, and seconds."""

    mutant: Mutant
    verdict: str
    detail: str
    seconds: float
    tests: int

    def __str__(self) -> str:
        told = f"{self.verdict} by {self.detail}" if self.verdict == CAUGHT else f"{self.verdict} {self.detail}".strip()
        return f"{self.mutant.id} ({self.mutant.kind}): {told}, {self.seconds:.0f} s, {self.tests} tests chosen"


class Record:
    """Which tests run which lines, as the plugin ``contexts`` recorded it in a folder."""

    def __init__(self, folder: Path) -> None:
        from coverage import CoverageData

        files = sorted(folder.glob("coverage.*"))
        if not files:
            raise SystemExit(f"{folder} has no record of the tests: make it by python -m tests.tools.mutants cover")
        self.lines: dict[str, dict[int, set[str]]] = {}
        self.size: Counter[str] = Counter()  # how many lines each test runs
        for data in map(CoverageData, map(str, files)):
            data.read()
            for path in data.measured_files():
                own = self.lines.setdefault(path.rpartition(f"/{PACKAGE}/")[2], {})
                for line, tests in data.contexts_by_lineno(path).items():
                    found = {test for test in tests if test}
                    own.setdefault(line, set()).update(found)
                    self.size.update(found)

    def tests_of(self, file: str, lines: Iterable[int]) -> list[str]:
        """Return the tests that run one of the lines, file by file; those that run little else come first."""
        own = self.lines.get(file, {})
        tests = set().union(*(own.get(line, set()) for line in lines))
        sizes: dict[str, list[int]] = {}
        for test in tests:
            sizes.setdefault(test.partition("::")[0], []).append(self.size[test])
        means = {module: sum(each) / len(each) for module, each in sizes.items()}

        def place(test: str) -> tuple[float, str, int, str]:
            module = test.partition("::")[0]
            return means[module], module, self.size[test], test

        return sorted(tests, key=place)


def load() -> tuple[list[Mutant], list[str]]:
    """Return the mutants, and the ids of those that ``--sample`` chooses."""
    held = tomllib.loads((TOOLS / "mutants.toml").read_text())
    mutants = [Mutant(**each) for each in held["mutant"]]
    ids = [mutant.id for mutant in mutants]
    if len(set(ids)) < len(ids):
        raise SystemExit("mutants.toml has two mutants with one id")
    return mutants, random.Random(held["seed"]).sample(ids, held["sample"])


def place_of(source: str, text: str) -> int:
    """Return the number of the line that contains a text.

    Raises:
        ValueError: the text does not occur exactly once.
    """
    if source.count(text) != 1:
        raise ValueError(f"{text!r} occurs {source.count(text)} times, not once")
    return source[: source.index(text)].count("\n") + 1


def statement(source: str, line: int) -> range:
    """Return the lines of the innermost statement that contains a line; if it has a body, those before the body.

    Example:
        >>> statement("if a:\\n    b = (\\n        1\\n    )\\n", 3), statement("if a:\\n    b\\n", 1)
        (range(2, 5), range(1, 2))
    """
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):  # outer ones first
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or line):
            body = getattr(node, "body", None)
            stop = body[0].lineno if body else (node.end_lineno or line) + 1
            found = range(node.lineno, max(stop, node.lineno + 1)) if line < stop else range(line, line + 1)
    return found


def copy_checkout(root: Path, to: Path) -> None:
    """Copy the files that the tests need."""
    junk = shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, ignore=junk)
        elif (root / name).exists():
            shutil.copy2(root / name, to / name)


def start(command: Sequence[str], folder: Path, limit: float) -> tuple[int | None, str]:
    """Run a Python command on the package in a folder; return its exit status (None: timed out) and output."""
    environment = {"CI": "1", **os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, ""
    return process.returncode, output


def run_tests(folder: Path, tests: Sequence[str], options: Sequence[str], limit: float) -> tuple[str, str]:
    """Run tests until one fails; return the verdict, and the failed test or what went wrong."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(tests))
        file.flush()
        command = ["-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *options, f"@{file.name}"]
        status, output = start(command, folder, limit)
    if status is None:
        return TIMEOUT, f"after {limit:.0f} s"
    if status == 0:
        return SURVIVED, ""
    if status == NO_TESTS:
        return UNTESTED, ""
    told = output.splitlines()
    failed = [line.removeprefix("FAILED ") for line in told if line.startswith("FAILED ")]
    if status == TESTS_FAILED and failed:
        return CAUGHT, max((test for test in tests if failed[0].startswith(test)), key=len, default=failed[0])
    reasons = [line for line in told if line.startswith(("ERROR", "E  "))]
    return ERROR, f"pytest ended with {status}: {(reasons or told or ['no output'])[-1][:200]}"


def check_import(folder: Path) -> None:
    """Raise unless Python imports the package from the folder, wherever it starts."""
    with tempfile.TemporaryDirectory() as elsewhere:
        told = subprocess.run(
            [sys.executable, "-c", f"import importlib.util as u; print(u.find_spec({PACKAGE!r}).origin)"],
            cwd=elsewhere, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    if not Path(told.strip()).is_relative_to(folder):
        raise SystemExit(f"the tests would import {told.strip()}, not the copy in {folder}")


def try_mutant(mutant: Mutant, record: Record, pristine: Path, options: Sequence[str], limit: float) -> Result:
    """Create one mutant in its own copy, and run the tests that run its line.

    If a test also fails without the mutant, it proves nothing, and the verdict is an error.
    """
    begin = time.monotonic()
    tests: list[str] = []

    def result(verdict: str, detail: str = "") -> Result:
        return Result(mutant, verdict, detail, time.monotonic() - begin, len(tests))

    with tempfile.TemporaryDirectory(prefix=f"{mutant.id}.") as made:
        folder = Path(made).resolve()
        copy_checkout(pristine, folder)
        path = folder / PACKAGE / mutant.file
        try:
            source = path.read_text()
            place_of(source, mutant.old)
            line = place_of(source, mutant.at or mutant.old)
        except (OSError, ValueError) as error:
            return result(ERROR, str(error))
        tests += record.tests_of(mutant.file, statement(source, line))
        if not tests:
            return result(UNTESTED)
        path.write_text(source.replace(mutant.old, mutant.new))
        verdict, detail = run_tests(folder, tests, options, limit)
    if verdict == CAUGHT:
        without, why = run_tests(pristine, [detail], options, limit)
        if without != SURVIVED:
            return result(ERROR, f"{detail} does not pass without the mutant: {without} {why}")
    return result(verdict, detail)


def cover(root: Path, data: Path, workers: int, options: Sequence[str]) -> int:
    """Run the tests and record which lines each of them runs."""
    data.mkdir(parents=True, exist_ok=True)
    for old in data.glob("coverage.*"):
        old.unlink()
    spread = ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
    environment = {**os.environ, "MUTANTS_DATA": str(data.resolve()), "PYTHONPATH": f"{root}{os.pathsep}{TOOLS}"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "contexts", "-p", "no:cacheprovider", *spread, *options]
    return subprocess.run(command, cwd=root, env=environment).returncode


def run(root: Path, data: Path, chosen: Sequence[Mutant], workers: int, options: Sequence[str], limit: float) -> int:
    """Try mutants, report each, and print a table at the end; return 0 if all were caught."""
    record = Record(data)
    with tempfile.TemporaryDirectory(prefix="pristine.") as made, ThreadPoolExecutor(workers) as pool:
        pristine = Path(made).resolve()
        copy_checkout(root, pristine)
        check_import(pristine)
        results = []
        for result in pool.map(lambda mutant: try_mutant(mutant, record, pristine, options, limit), chosen):
            print(result, flush=True)
            results.append(result)
    print(f"\n{table(results)}")
    return int(any(result.verdict != CAUGHT for result in results))


def table(results: Sequence[Result]) -> str:
    """Format the results as a Markdown table, with totals."""
    head = ["| mutant | kind | verdict | by | seconds |", "|---|---|---|---|---|"]
    rows = [f"| {r.mutant.id} | {r.mutant.kind} | {r.verdict} | {r.detail} | {r.seconds:.0f} |" for r in results]
    counts = Counter(result.verdict for result in results)
    totals = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return "\n".join([*head, *rows, "", f"{len(results)} mutants in {sum(r.seconds for r in results):.0f} s: {totals}"])


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    own, options = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(prog="python -m tests.tools.mutants", description=__doc__)
    commands: Any = parser.add_subparsers(dest="command", required=True)
    for name, told in (("cover", "record which test runs which line"), ("run", "try mutants")):
        command = commands.add_parser(name, help=f"{told}; what follows -- goes to pytest")
        command.add_argument("--root", type=Path, default=TOOLS.parents[1], help="the checkout")
        command.add_argument("--data", type=Path, default=Path(".mutants"), help="the folder of the record")
        command.add_argument("--workers", type=int, default=2, help="how many processes test")
    command.add_argument("--sample", action="store_true", help="only the mutants that the seed chooses")
    command.add_argument("--limit", type=float, default=900, help="seconds for one mutant")
    command.add_argument("ids", nargs="*", help="only these mutants")
    given = parser.parse_args(own)
    if given.command == "cover":
        return cover(given.root.resolve(), given.data, given.workers, options)
    mutants, sample = load()
    unknown = sorted(set(given.ids) - {mutant.id for mutant in mutants})
    if unknown:
        parser.error(f"no mutants {', '.join(unknown)}")
    wanted = {*given.ids, *(sample if given.sample else ())} or {mutant.id for mutant in mutants}
    chosen = [mutant for mutant in mutants if mutant.id in wanted]
    return run(given.root.resolve(), given.data, chosen, given.workers, options, given.limit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
