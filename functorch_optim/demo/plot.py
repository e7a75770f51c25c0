"""Plots of a run."""

import pathlib

import numpy as np

import functorch_optim as fo


def plot(path: pathlib.Path, history: np.ndarray) -> None:
    """Plot the curves of a history with rows (step, loss, learning rate, test accuracy)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.5))
    titles = ("training loss", "learning rate", "test accuracy")
    for axis, column, title in zip(axes, history.T[1:], titles, strict=True):
        axis.plot(history[:, 0], column)
        axis.set(title=title, xlabel="step")
    axes[0].set_yscale("log")
    figure.tight_layout()
    with fo.checkpoint.atomic_write(path) as file:
        figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)
