"""The file from which a run resumes."""

import pathlib
import tempfile

import numpy as np

import functorch_optim as fo
from functorch_optim.demo.curves import Curves
from functorch_optim.demo.errors import DemoError, writing
from functorch_optim.typing import PyTree

NAME = "checkpoint.pt"
MEND = "delete it, or run without --resume, which replaces it"


def check_folder(out: pathlib.Path, names: tuple[str, ...]) -> None:
    """Make the folder, and raise if files with these names cannot be written there."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    for name in names:
        if (out / name).exists() and not (out / name).is_file():
            raise DemoError(f"cannot write {out / name}: it is not a file. Move it, or name another folder with --out")


def save(path: pathlib.Path, tree: PyTree, optimizer: str, lr: float, curves: Curves) -> None:
    """Write atomically: whenever the process dies, the old file or the new one is intact."""
    run = {"optimizer": optimizer, "lr": lr, "epoch": curves.epochs, "curves": curves._asdict()}
    with writing(path):
        fo.checkpoint.save_torch({"run": run, "arrays": fo.checkpoint.to_arrays(tree)}, path)


def load(path: pathlib.Path, like: PyTree, optimizer: str, lr: float) -> tuple[PyTree, Curves]:
    """Read what :func:`save` wrote: the tree, with the structure, shapes and dtypes of ``like``, and the curves."""
    try:
        saved = fo.checkpoint.load_torch(path)
        run = saved["run"]
        curves = _curves(run)
        if (run["optimizer"], run["lr"]) != (optimizer, lr):
            raise DemoError(
                f"{path} was written with --optimizer {run['optimizer']} --lr {run['lr']}, not --optimizer "
                f"{optimizer} --lr {lr}: pass what it was written with, or run without --resume"
            )
        return fo.checkpoint.from_arrays(saved["arrays"], like), curves
    except FileNotFoundError:
        raise DemoError(f"there is no checkpoint {path} to resume from: run without --resume first") from None
    except OSError as error:
        raise DemoError(f"cannot read {path}: {error.strerror or error}") from None
    except (fo.checkpoint.CheckpointError, IndexError, KeyError, TypeError) as error:
        # The library's message may end with advice to its callers: the demo has no such option.
        reason = " ".join(str(error).split()).partition(". verify=False")[0]
        raise DemoError(f"{path} is damaged, or not a checkpoint of this demo ({reason}): {MEND}") from None


def _curves(run: PyTree) -> Curves:
    """Check the facts of a run, and return its curves."""
    kinds = {"optimizer": str, "lr": float, "epoch": int, "curves": dict}
    if any(not isinstance(run[name], kind) for name, kind in kinds.items()):
        raise TypeError("the facts of the run have other types")
    curves = Curves(**run["curves"])
    if any(not isinstance(array, np.ndarray) or array.dtype != np.float64 or array.ndim != 1 for array in curves):
        raise TypeError("the curves of the run have other types")
    steps = len(curves.loss)
    if curves.epochs != run["epoch"] or len(curves.rate) != steps or steps % max(curves.epochs, 1):
        raise TypeError("the curves of the run have other lengths")
    return curves


def epochs_of(path: pathlib.Path) -> int | None:
    """Return how many epochs a checkpoint has; None if it cannot be read."""
    try:
        return _curves(fo.checkpoint.load_torch(path)["run"]).epochs
    except (fo.checkpoint.CheckpointError, OSError, IndexError, KeyError, TypeError):
        return None


def version(path: pathlib.Path) -> tuple[int, int] | None:
    """Return what changes whenever the file is replaced; None if there is no file."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns
