"""The process that trains: ``python -m functorch_optim.demo.sharded.worker RUN``, with a :class:`Run` as JSON."""

import json
import pathlib
import sys

from functorch_optim.demo.errors import DemoError
from functorch_optim.demo.progress import Progress
from functorch_optim.demo.sharded.network import Config
from functorch_optim.demo.sharded.training import Run, held_out_losses, train
from functorch_optim.typing import PyTree


def as_text(run: Run) -> str:
    return json.dumps({**run._asdict(), "config": run.config._asdict()}, default=str)


def from_text(text: str) -> Run:
    told: PyTree = json.loads(text)
    told |= {name: told[name] and pathlib.Path(told[name]) for name in ("log", "checkpoint")}
    told |= {"mesh": tuple(told["mesh"]), "config": Config(**told["config"])}
    return Run(**told)


def main(text: str) -> int:
    run, progress = from_text(text), Progress()
    try:
        carry = train(run, progress)
        last, average = held_out_losses(run, carry)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the process that started this one says the rest
        return 130
    progress.say(f"loss on text that it has not seen: {last:.4f}, of the average of the parameters {average:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
