"""The picture of the sharded demo."""

import pathlib

import functorch_optim as fo
from functorch_optim.demo.plot import BLUE, GREY, ORANGE, PURPLE, STYLE
from functorch_optim.demo.sharded.losses import Losses
from functorch_optim.typing import PyTree

NAME = "losses.png"
FLOOR = 1e-9  # a difference of zero is drawn here


def plot(path: pathlib.Path, whole: Losses, killed: Losses, resumed: Losses, tolerance: float) -> None:
    """Write the picture of the three runs."""
    import matplotlib

    with matplotlib.rc_context(STYLE), fo.checkpoint.atomic_write(path) as file:
        draw(whole, killed, resumed, tolerance).savefig(file, dpi=120, format="png")


def draw(whole: Losses, killed: Losses, resumed: Losses, tolerance: float) -> PyTree:
    """Draw the losses, and how far those of the killed and of the resumed run are from the uninterrupted one's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    loss, difference = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    loss.plot(list(whole), list(whole.values()), color=GREY, alpha=0.4, linewidth=6, label="uninterrupted")
    for losses, color, label in ((killed, BLUE, "killed"), (resumed, ORANGE, "resumed")):
        loss.plot(list(losses), list(losses.values()), color=color, label=label)
        far = {step: max(abs(value - whole[step]), FLOOR) for step, value in losses.items()}
        difference.plot(list(far), list(far.values()), color=color)
    for axis in (loss, difference):
        axis.axvline(max(killed), color=PURPLE, linestyle=":")
    loss.annotate("SIGKILL", (max(killed), max(whole.values())), (4, 0), textcoords="offset points", color=PURPLE)
    loss.set(title="Training loss", ylabel="cross-entropy (nats)")
    difference.axhline(tolerance, color=GREY, linestyle="--", linewidth=1.5)
    difference.annotate("allowed", (min(whole), tolerance), (0, -14), textcoords="offset points", color=GREY)
    title = f"Difference from the uninterrupted run (none is drawn as {FLOOR:g})"
    difference.set(title=title, ylabel="nats", xlabel="step", yscale="log")
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    figure.suptitle("A transformer on eight devices", x=0.01, ha="left")
    return figure
