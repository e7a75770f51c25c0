"""Measure saving and loading GPT-2 small's AdamW state (124 M parameters), against torch. ``make bench-checkpoint``

Both write and read the same tree; in each round all contenders take turns. Ours verifies checksums and waits until the
file is on disk, except in the contender that disables both; torch does neither. Peak memory is measured in a separate
process that saves or loads once: the increase divided by the size of the state (Linux only).
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import results, shapes
from benchmarks.timing import ratio, take_turns

COLUMNS = {
    "action": ("", ""),
    "contender": ("contender", ""),
    "seconds": ("s", ".2f"),
    "over_torch": ("over torch's", ".2f"),
    "peak": ("peak memory over the state's size", ".2f"),
}


def state() -> dict[str, Any]:
    """Return the state as NumPy arrays."""
    rng = np.random.default_rng(0)
    entries = {
        number: {
            "step": np.asarray(10, np.float32),
            "exp_avg": rng.standard_normal(shape, np.float32),
            "exp_avg_sq": rng.standard_normal(shape, np.float32),
        }
        for number, shape in enumerate(shapes.gpt2_small().values())
    }
    return {"state": entries, "param_groups": [{"lr": 1e-3, "params": list(range(len(entries)))}]}


def as_tensors(tree: Any) -> Any:
    import torch

    if isinstance(tree, dict):
        return {key: as_tensors(value) for key, value in tree.items()}
    return torch.from_numpy(tree) if isinstance(tree, np.ndarray) else tree


def saving(folder: str, who: str) -> Callable[[], Any]:
    """Return a function that saves the state, which is built beforehand."""
    path, tree = f"{folder}/{who}.pt", state()
    if who == "torch":
        import torch

        tensors = as_tensors(tree)
        return lambda: torch.save(tensors, path)
    from functorch_optim.checkpoint import save_torch

    return lambda: save_torch(tree, path, sync=who == "ours")


def loading(folder: str, who: str) -> Callable[[], Any]:
    path = f"{folder}/{who}.pt"
    if who == "torch":
        import torch

        return lambda: torch.load(path, weights_only=True)
    from functorch_optim.checkpoint import load_torch

    return lambda: load_torch(path, verify=who == "ours")


ACTIONS = {"save": saving, "load": loading}


def peak(folder: str, who: str, what: str) -> float:
    """Return the bytes of memory that one action adds in a separate process."""
    code = f"from benchmarks.checkpoint import measure_peak; measure_peak({folder!r}, {who!r}, {what!r})"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def measure_peak(folder: str, who: str, what: str) -> None:
    action = ACTIONS[what](folder, who)
    before = memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    kept = action()
    print(memory("VmHWM") - before)
    del kept


def memory(which: str) -> int:
    """Return an entry of Linux's status of this process, in bytes."""
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return 1024 * int(line.split()[1])


def main() -> None:
    options = results.arguments(__doc__, rounds=7).parse_args()
    contenders = ("ours", "ours, unsynced and unchecked", "torch")
    with tempfile.TemporaryDirectory() as folder:
        times = {
            what: take_turns({who: make(folder, who) for who in contenders}, options.rounds, warm_up=1)
            for what, make in ACTIONS.items()
        }
        size = os.path.getsize(f"{folder}/torch.pt")
        print(f"{size / 1e6:.0f} MB")
        rows = [
            (what, who, statistics.median(values), ratio(values, seconds["torch"]), peak(folder, who, what) / size)
            for what, seconds in times.items()
            for who, values in seconds.items()
        ]
    results.finish("checkpoint", {"gpt2": results.table("make bench-checkpoint", COLUMNS, rows)}, options.write)


if __name__ == "__main__":
    main()
