"""The command line of the demo."""

import argparse
import importlib
import pathlib
import shlex
import shutil
import sys
import time

from functorch_optim.demo import checkpoint, plot
from functorch_optim.demo.errors import DemoError, NothingLeftError, exit_status
from functorch_optim.demo.optimizers import DEFAULT_LR
from functorch_optim.demo.parser import Parser
from functorch_optim.demo.training import Result, train

EPOCHS, OPTIMIZER, OUT = 30, "adamw", pathlib.Path("runs/demo")
GROWN = 1e-4  # a difference that needs an explanation
MORE = 10  # how many more epochs to propose when a run has all of its own


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the options, and raise the demo's error for bad ones."""
    rates = ", ".join(f"{lr:g} with {name}" for name, lr in DEFAULT_LR.items())
    parser = Parser(
        prog="python -m functorch_optim.demo",
        description="Train a small network on handwritten digits with both faces of functorch_optim, and compare them.",
    )
    add = parser.add_argument
    add("--optimizer", default=OPTIMIZER, help=f"one of {', '.join(DEFAULT_LR)} (default: {OPTIMIZER})")
    add("--epochs", type=int, default=EPOCHS, help=f"how many epochs in all (default: {EPOCHS})")
    add("--lr", type=float, help=f"learning rate at its peak (default: {rates})")
    add("--resume", action="store_true", help="continue from the checkpoint in --out (default: start anew)")
    add("--out", type=pathlib.Path, default=OUT, help=f"folder for the files that it writes (default: {OUT})")
    options = parser.parse_args(arguments)
    if options.optimizer not in DEFAULT_LR:
        raise DemoError(f"unknown optimizer {options.optimizer!r}: choose one of {', '.join(DEFAULT_LR)}")
    if options.epochs < 1:
        raise DemoError(f"--epochs must be at least 1, but it is {options.epochs}")
    if options.lr is None:
        options.lr = DEFAULT_LR[options.optimizer]
    if not 0 <= options.lr < float("inf"):
        raise DemoError(f"Invalid learning rate: {options.lr}. --lr must be finite and at least 0")
    return options


def command_to_resume(options: argparse.Namespace, epochs: int) -> str:
    """Return the command line that continues this run to so many epochs."""
    interpreter = pathlib.Path(sys.executable)
    if interpreter.is_relative_to(pathlib.Path.cwd()):
        interpreter = interpreter.relative_to(pathlib.Path.cwd())
    elif shutil.which("python") == sys.executable:
        interpreter = pathlib.Path("python")
    words = [str(interpreter), "-m", "functorch_optim.demo", "--resume", "--epochs", str(epochs)]
    words += ["--optimizer", options.optimizer] if options.optimizer != OPTIMIZER else []
    words += ["--lr", str(options.lr)] if options.lr != DEFAULT_LR[options.optimizer] else []
    words += ["--out", str(options.out)] if options.out != OUT else []
    return shlex.join(words)


def tell_result(result: Result, options: argparse.Namespace, seconds: float) -> None:
    """Print the summary."""
    first, last = options.epochs - len(result.differences) + 1, options.epochs
    early, late = result.differences[[0, -1]]
    print(f"\ntest accuracy {result.accuracy:.2%} after epoch {last}, in {seconds:.0f} s")
    print(f"largest difference of a parameter between the faces: {early:.1e} after epoch {first}", end="")
    print(f", {late:.1e} after epoch {last}" if last > first else "")
    if late > GROWN:
        print(
            "rounding errors grow at the kinks of ReLU and max pooling: so they do from a start changed in its last bit"
        )
    print(f"wrote {options.out / plot.NAME} and {options.out / checkpoint.NAME}")
    print(f"to train on: {command_to_resume(options, last + MORE)}")


def tell_state(options: argparse.Namespace, before: tuple[int, int] | None) -> str:
    """Say what an interrupted run has left, and how to continue.

    ``before`` is the version of the file with the name of its checkpoint at the start.
    """
    path = options.out / checkpoint.NAME
    epochs = checkpoint.epochs_of(path)
    if checkpoint.version(path) == before and not options.resume:
        earlier = f"; {path} is an earlier run's" if before else ""
        return f"no epoch has ended, so there is no checkpoint of this run{earlier}"
    if epochs is None:
        return f"{path} is no checkpoint of this demo"
    if epochs < options.epochs:
        return (
            f"{path} has {epochs} of {options.epochs} epochs. To continue: {command_to_resume(options, options.epochs)}"
        )
    return f"{path} has all {epochs} epochs. To train on: {command_to_resume(options, epochs + MORE)}"


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    return exit_status(lambda: run(parse(arguments)))


def run(options: argparse.Namespace) -> int:
    """Train with these options, and return the exit status."""
    path = options.out / checkpoint.NAME
    before = checkpoint.version(path)
    start = time.perf_counter()
    try:
        for library in ("sklearn", "matplotlib", "tqdm"):
            importlib.import_module(library)
        result = train(options.optimizer, options.lr, options.epochs, options.resume, options.out)
    except KeyboardInterrupt:
        print("\n" if sys.stdout.isatty() else "", end="", flush=True)  # a terminal is in the middle of a bar's line
        print(f"interrupted: {tell_state(options, before)}", file=sys.stderr)
        return 130
    except NothingLeftError as error:
        print(f"nothing left to do: {path} has {error.epochs} epochs, and --epochs is {options.epochs}", end=". ")
        print(f"To train on: {command_to_resume(options, error.epochs + MORE)}")
        return 0
    tell_result(result, options, time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
