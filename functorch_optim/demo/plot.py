"""The picture of a run."""

import pathlib

import numpy as np

import functorch_optim as fo
from functorch_optim.demo.curves import Comparison, Curves
from functorch_optim.demo.optimizers import WARMUP_EPOCHS
from functorch_optim.typing import PyTree

NAME = "curves.png"
# Okabe and Ito's colours, which colour-blind people tell apart
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#606060"
STYLE: PyTree = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.size": 11,
    "figure.titlesize": "x-large",
    "figure.titleweight": "bold",
    "grid.alpha": 0.3,
    "lines.linewidth": 2,
}


def plot(path: pathlib.Path, optimizer: str, curves: Curves, torch_face: Comparison | None) -> None:
    """Write the picture of a run."""
    import matplotlib

    with matplotlib.rc_context(STYLE), fo.checkpoint.atomic_write(path) as file:
        draw(optimizer, curves, torch_face).savefig(file, dpi=120, format="png")


def draw(optimizer: str, curves: Curves, torch_face: Comparison | None) -> PyTree:
    """Draw loss, test accuracy and learning rate of a run, and how far the torch face is from it, if that is known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.5), layout="constrained")
    (loss, accuracy), (rate, difference) = figure.subplots(2, 2, sharex=True)
    _plot_learning(loss, accuracy, curves, torch_face)
    _plot_rate(rate, curves)
    _plot_difference(difference, curves, torch_face)
    for axis in (rate, difference):
        axis.set(xlabel=f"step ({len(curves.loss) // curves.epochs} an epoch)", xlim=(0, None))
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(handles), frameon=False)
    figure.suptitle(f"Handwritten digits, {optimizer}", x=0.01, ha="left")
    return figure


def _plot_learning(loss: PyTree, accuracy: PyTree, curves: Curves, torch_face: Comparison | None) -> None:
    ends = curves.epoch_ends
    middles = ends - ends[0] / 2
    loss.plot(np.arange(len(curves.loss)) + 1, curves.loss, color=BLUE, alpha=0.25, linewidth=1, label="each step")
    functional = {"color": BLUE, "linewidth": 3, "marker": "o", "markersize": 5}
    loss.plot(middles, curves.mean_loss, **functional, label="functional face")
    accuracy.plot(ends, 100 * curves.accuracy, **functional)
    if torch_face is not None:
        first = torch_face.first
        same = {"color": ORANGE, "linestyle": (0, (2, 2)), "marker": ".", "markersize": 5}
        loss.plot(middles[first:], torch_face.mean_loss, **same, label="torch face")
        accuracy.plot(ends[first:], 100 * torch_face.accuracy, **same)
    loss.set(title="Training loss, and its mean over an epoch", ylabel="cross-entropy (nats)", yscale="log")
    last = f"{curves.accuracy[-1]:.2%} after epoch {curves.epochs}"
    accuracy.set(title=f"Test accuracy: {last}", ylabel="digits recognized (%)")


def _plot_rate(axis: PyTree, curves: Curves) -> None:
    """Plot the rate of every step, so that the warm-up shows."""
    axis.plot(np.arange(len(curves.rate)) + 1, curves.rate, color=GREEN)
    warm = WARMUP_EPOCHS * len(curves.rate) // curves.epochs
    axis.axvspan(0, warm, color=GREY, alpha=0.15, linewidth=0)
    axis.set(title=f"Learning rate (shaded: warm-up of {warm} steps)", ylabel="learning rate", ylim=(0, None))
    axis.ticklabel_format(axis="y", style="plain")


def _plot_difference(axis: PyTree, curves: Curves, torch_face: Comparison | None) -> None:
    axis.set(title="Difference between the faces", ylabel="largest difference of a parameter")
    if torch_face is None:
        axis.set_yticks([])
        axis.text(0.5, 0.5, "not measured yet", transform=axis.transAxes, ha="center", color=GREY)
        return
    difference, spacing = torch_face.difference, float(np.finfo(np.float32).eps)
    axis.plot(curves.epoch_ends[torch_face.first :], difference, color=PURPLE, marker="o", markersize=5)
    axis.axhline(spacing, color=GREY, linewidth=1.5, linestyle=":")
    place = {"xycoords": axis.get_yaxis_transform(), "textcoords": "offset points", "ha": "right", "va": "top"}
    axis.annotate("spacing of float32 at 1", (1, spacing), (0, -5), color=GREY, **place)
    seen = np.append(difference[difference > 0], spacing)
    axis.set(yscale="log", ylim=(seen.min() / 3, seen.max() * 3))
