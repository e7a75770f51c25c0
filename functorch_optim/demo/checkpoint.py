"""The file from which a run resumes."""

import pathlib

import numpy as np

import functorch_optim as fo
from functorch_optim.demo.errors import DemoError
from functorch_optim.typing import PyTree

RUN = {"optimizer": str, "lr": float, "epoch": int, "history": np.ndarray}  # the facts of a run in its checkpoint


def save(path: pathlib.Path, tree: PyTree, run: dict[str, PyTree]) -> None:
    """Write atomically: whenever the process dies, the old file or the new one is intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fo.checkpoint.save_torch({"run": run, "arrays": fo.checkpoint.to_arrays(tree)}, path)


def load(path: pathlib.Path, like: PyTree, optimizer: str, lr: float) -> tuple[PyTree, dict[str, PyTree]]:
    """Read what :func:`save` wrote: the tree, with the structure, shapes and dtypes of ``like``, and the run."""
    try:
        saved = fo.checkpoint.load_torch(path)
        run = saved["run"]
        if any(not isinstance(run[name], kind) for name, kind in RUN.items()):
            raise TypeError("the facts of the run have other types")
        if run["epoch"] < 0 or run["history"].dtype != np.float64 or run["history"].shape[1:] != (4,):
            raise TypeError("the history of the run is not valid")
        if (run["optimizer"], run["lr"]) != (optimizer, lr):
            raise DemoError(
                f"{path} was written with --optimizer {run['optimizer']} --lr {run['lr']}, "
                f"not --optimizer {optimizer} --lr {lr}"
            )
        return fo.checkpoint.from_arrays(saved["arrays"], like), run
    except FileNotFoundError:
        raise DemoError(f"there is no checkpoint {path} to resume from") from None
    except (fo.checkpoint.CheckpointError, OSError, IndexError, KeyError, TypeError) as error:
        message = " ".join(str(error).split())
        raise DemoError(f"{path} is damaged, or not a checkpoint of this demo: {message}") from None
