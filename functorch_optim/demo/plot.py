"""The picture of a run."""

import pathlib

import numpy as np

import functorch_optim as fo
from functorch_optim.demo.curves import Comparison, Curves
from functorch_optim.demo.optimizers import WARMUP_EPOCHS
from functorch_optim.typing import PyTree

NAME = "curves.png"
BLUE, ORANGE, GREEN, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#707070",
)  # Okabe and Ito's, told apart by the colour-blind
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.size": 11,
    "grid.alpha": 0.3,
    "lines.linewidth": 2,
}


def plot(path: pathlib.Path, optimizer: str, curves: Curves, torch_face: Comparison | None) -> None:
    """Plot loss, test accuracy and learning rate of a run, and how far the torch face is from it, if that is known."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(2, 2, figsize=(12, 7.5), sharex=True, layout="constrained")
        (loss, accuracy), (rate, difference) = axes
        _plot_learning(loss, accuracy, curves, torch_face)
        _plot_rate(rate, curves)
        _plot_difference(difference, curves, torch_face)
        for axis in (rate, difference):
            axis.set_xlabel(f"step ({len(curves.loss) // curves.epochs} an epoch)")
        handles, labels = loss.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), frameon=False)
        figure.suptitle(f"Handwritten digits, {optimizer}: {curves.accuracy[-1]:.2%} after {curves.epochs} epochs")
        with fo.checkpoint.atomic_write(path) as file:
            figure.savefig(file, dpi=120, format="png")
        pyplot.close(figure)


def _plot_learning(loss: PyTree, accuracy: PyTree, curves: Curves, torch_face: Comparison | None) -> None:
    ends = curves.epoch_ends
    loss.plot(np.arange(len(curves.loss)) + 1, curves.loss, color=BLUE, alpha=0.2, linewidth=1, label="each batch")
    functional = {"color": BLUE, "linewidth": 3, "marker": "o", "markersize": 5}
    loss.plot(ends, curves.mean_loss, **functional, label="functional face")
    accuracy.plot(ends, 100 * curves.accuracy, **functional)
    if torch_face is not None:
        ends = ends[torch_face.first :]
        same = {"color": ORANGE, "linestyle": (0, (3, 3)), "marker": ".", "markersize": 4}
        loss.plot(ends, torch_face.mean_loss, **same, label="torch face")
        accuracy.plot(ends, 100 * torch_face.accuracy, **same)
    loss.set(title="Training loss", ylabel="cross-entropy (nats)", yscale="log")
    accuracy.set(title="Test accuracy", ylabel="digits recognized (%)")


def _plot_rate(axis: PyTree, curves: Curves) -> None:
    """Plot the rate of every step, so that the warm-up shows."""
    steps = np.arange(len(curves.rate)) + 1
    axis.plot(steps, curves.rate, color=GREEN)
    warm = WARMUP_EPOCHS * len(curves.rate) // curves.epochs
    axis.axvspan(0, warm, color=GREY, alpha=0.15, linewidth=0)
    axis.annotate(f"warm-up: {warm} steps", (warm, 0), (8, 8), textcoords="offset points", color=GREY)
    axis.set(title="Learning rate", ylabel="rate of the step", ylim=(0, None))
    axis.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)


def _plot_difference(axis: PyTree, curves: Curves, torch_face: Comparison | None) -> None:
    axis.set(title="Difference between the faces", ylabel="largest difference of a parameter")
    if torch_face is None:
        axis.text(0.5, 0.5, "not measured yet", transform=axis.transAxes, ha="center", color=GREY)
        return
    axis.plot(curves.epoch_ends[torch_face.first :], torch_face.difference, color=GREY, marker="o", markersize=5)
    if np.any(torch_face.difference > 0):
        axis.set_yscale("log")
