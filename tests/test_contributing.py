"""The instructions for contributors hold: targets, paths and packages exist, and each tool is pinned once."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
REPOSITORIES = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]


def code(name):
    """Return a file's code spans, indented blocks and lines for the console, without its Python blocks."""
    text = re.sub(r"```python.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    console = "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).splitlines()
    text = re.sub(r"```console.*?```", "", text, flags=re.DOTALL)
    return console + [span or line for span, line in re.findall(r"`([^`]+)`|^ {4}(.*)$", text, re.MULTILINE)]


def targets(text):
    """Return the targets of ``make`` commands, skipping their variables."""
    return re.findall(r"""\bmake\s+(?:--\S+\s+|[A-Z]+=(?:"[^"]*"|\S*)\s+)*([a-z][a-z-]*)""", text)


def tool(requirement):
    """Return the name in a requirement."""
    return re.match(r"[\w-]+", requirement)[0].lower()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_target_that_is_named_is_in_the_makefile(name):
    named = {target for piece in code(name) for target in targets(piece)}
    assert {"test", "test-all"} <= named
    assert named <= TARGETS


def test_every_path_that_is_named_exists():
    own = re.compile(r"(functorch_optim|tests|benchmarks|\.ci)/[a-z_./]*")  # NAME is a placeholder for a new file
    named = {path for path in code("CONTRIBUTING.md") if own.fullmatch(path)}
    assert named
    assert not {path for path in named if not (ROOT / path).exists()}


def test_the_map_has_every_room():
    rooms = {f"functorch_optim/{init.parent.name}/" for init in ROOT.glob("functorch_optim/*/__init__.py")}
    assert rooms
    assert rooms <= set(code("CONTRIBUTING.md"))


def test_each_tool_is_pinned_and_only_once():
    pins = {tool(requirement): requirement for requirement in EXTRAS["lint"]}
    assert set(pins) == {"pre-commit", "pyright", "ruff"}
    assert all(re.fullmatch(r"[\w-]+(\[\w+\])?==[\d.]+", requirement) for requirement in pins.values())
    others = [tool(each) for name, extra in EXTRAS.items() if name != "lint" for each in extra]
    assert not pins.keys() & set(others)


def test_every_hook_is_a_target_with_the_pinned_tools():
    hooks = [hook for repository in REPOSITORIES for hook in repository["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff", "pyright"}
    for hook in hooks:
        assert targets(hook["entry"]) == [hook["id"]] and hook["id"] in TARGETS
        assert hook["language"] == "system" and "additional_dependencies" not in hook  # no version of its own
    assert [repository["repo"] for repository in REPOSITORIES] == ["local"]
