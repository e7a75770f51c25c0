"""The command line of the demo."""

import argparse
import pathlib
import sys
import time
from typing import NoReturn

from functorch_optim.demo.errors import DemoError
from functorch_optim.demo.optimizers import DEFAULT_LR
from functorch_optim.demo.training import train


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DemoError(message)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m functorch_optim.demo", description="Train a small network on handwritten digits.")
    parser.add_argument("--optimizer", default="adamw", help=f"one of {', '.join(DEFAULT_LR)} (default adamw)")
    parser.add_argument("--epochs", type=int, default=30, help="how many epochs in all (default 30)")
    parser.add_argument("--lr", type=float, help="peak learning rate (default: one that suits the optimizer)")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/demo"), help="default runs/demo")
    options = parser.parse_args(arguments)
    if options.optimizer not in DEFAULT_LR:
        raise DemoError(f"unknown optimizer {options.optimizer!r}: choose one of {', '.join(DEFAULT_LR)}")
    if options.epochs < 1:
        raise DemoError(f"--epochs must be at least 1, but it is {options.epochs}")
    if options.lr is None:
        options.lr = DEFAULT_LR[options.optimizer]
    if not 0 <= options.lr < float("inf"):
        raise DemoError(f"Invalid learning rate: {options.lr}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    try:
        options = parse(arguments)
        start = time.perf_counter()
        result = train(options.optimizer, options.lr, options.epochs, options.resume, options.out)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: the demo needs {error.name}: pip install 'functorch-optim[demo]'", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - start
    print(f"test accuracy {result.accuracy:.2%} after {seconds:.0f} s; wrote {options.out}/curves.png, checkpoint.pt")
    early, late = result.differences
    print(f"largest difference of a parameter from the torch face: {early:.1e} after one epoch, {late:.1e} at the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
