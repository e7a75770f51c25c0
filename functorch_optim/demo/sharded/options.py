"""The options of the sharded demo."""

import argparse
import pathlib
import re

from functorch_optim.demo.errors import DemoError
from functorch_optim.demo.parser import Parser
from functorch_optim.demo.sharded.network import Config
from functorch_optim.demo.sharded.processes import DEVICES

MESH, THEN, STEPS, OUT = "4x2", "2x4", 72, pathlib.Path("runs/sharded")
SIZE = 16  # sequences of a batch
LEAST = 24  # steps: the run is to be killed between two checkpoints, and to have some left


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the options, and raise the demo's error for bad ones."""
    parser = Parser(
        prog="python -m functorch_optim.demo.sharded",
        description="Train a transformer on eight devices, kill it, resume on another mesh, and compare the losses.",
    )
    default, add = Config(), parser.add_argument
    add("--steps", type=int, default=STEPS, help=f"how many steps in all (default: {STEPS})")
    add("--mesh", default=MESH, help=f"devices for the batch x devices for the layers (default: {MESH})")
    add("--then", default=THEN, help=f"the mesh after the kill (default: {THEN})")
    add("--width", type=int, default=default.width, help=f"width of the layers (default: {default.width})")
    add("--layers", type=int, default=default.layers, help=f"how many layers (default: {default.layers})")
    add("--out", type=pathlib.Path, default=OUT, help=f"folder for the files that it writes (default: {OUT})")
    options = parser.parse_args(arguments)
    options.mesh, options.then = _mesh("--mesh", options.mesh), _mesh("--then", options.then)
    if options.steps < LEAST:
        raise DemoError(f"--steps must be at least {LEAST}, but it is {options.steps}")
    if options.width < 1 or options.width % default.heads:
        raise DemoError(f"--width must be a multiple of the {default.heads} heads, but it is {options.width}")
    if options.layers < 1:
        raise DemoError(f"--layers must be at least 1, but it is {options.layers}")
    return options


def _mesh(option: str, text: str) -> tuple[int, int]:
    """Read a mesh; all of eight devices fit the batch, the heads and the vocabulary."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    shape = (int(found[1]), int(found[2])) if found else (0, 0)
    if shape[0] * shape[1] != DEVICES:
        raise DemoError(f"{option} must be a mesh of {DEVICES} devices, such as {MESH}, but it is {text!r}")
    return shape
