"""The command line of the sharded demo."""

import argparse
import importlib
import sys
import time

from functorch_optim.demo import checkpoint
from functorch_optim.demo.errors import DemoError, exit_status, writing
from functorch_optim.demo.sharded import losses, picture, text
from functorch_optim.demo.sharded.network import Config
from functorch_optim.demo.sharded.options import SIZE, parse
from functorch_optim.demo.sharded.processes import finish, kill_after
from functorch_optim.demo.sharded.training import CHECKPOINT, Run

TOLERANCE = 1e-5  # nats; on another mesh float32 sums are formed in another order
LOGS = ("uninterrupted.txt", "killed.txt", "resumed.txt")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    try:
        return exit_status(lambda: run(parse(arguments)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """Train three times with these options, and return the exit status."""
    start = time.perf_counter()
    for library in ("matplotlib", "tqdm"):
        importlib.import_module(library)
    checkpoint.check_folder(options.out, (CHECKPOINT, picture.NAME, *LOGS))
    for name in (CHECKPOINT, *LOGS):
        (options.out / name).unlink(missing_ok=True)
    say(f"{len(text.load_tokens(text.MODULES)):,} characters of Python's standard library")
    whole, killed, resumed = train_three_times(options)
    with writing(options.out / picture.NAME):
        picture.plot(options.out / picture.NAME, whole, killed, resumed, TOLERANCE)
    difference = losses.largest_difference(whole, resumed)
    same = losses.largest_difference(whole, killed)
    say(f"\nlargest difference from the uninterrupted run's loss: {same:.1e} until the kill, on the same mesh")
    say(f"{difference:.1e} after it, on {options.then[0]} x {options.then[1]} devices; {TOLERANCE:.0e} is allowed")
    say(f"wrote {options.out / picture.NAME} and {options.out / CHECKPOINT} in {time.perf_counter() - start:.0f} s")
    if not difference <= TOLERANCE:
        raise DemoError(f"the losses do not continue: they differ by {difference:.1e}, more than {TOLERANCE:.0e}")
    return 0


def train_three_times(options: argparse.Namespace) -> tuple[losses.Losses, losses.Losses, losses.Losses]:
    """Return the losses of a run that nobody interrupts, of one that is killed, and of one that goes on for it."""
    config = Config(width=options.width, layers=options.layers)
    every = max(1, options.steps // 6)
    first, second, third = (options.out / name for name in LOGS)
    saved = options.out / CHECKPOINT
    whole = Run(options.mesh, config, options.steps, every, SIZE, first, None, False)
    say("\nuninterrupted", end=" ")
    finish(whole)
    say("\nthe same again", end=" ")
    last = kill_after(whole._replace(log=second, checkpoint=saved), options.steps // 2 + every // 2)
    say("", end="\n" if sys.stdout.isatty() else "")  # a terminal is in the middle of a bar's line
    say(f"killed after step {last} (SIGKILL)")
    say("\nresumed", end=" ")
    finish(whole._replace(mesh=options.then, log=third, checkpoint=saved, is_resumed=True))
    return losses.read(first), losses.read(second), losses.read(third)


def say(line: str, end: str = "\n") -> None:
    print(line, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
