"""Plot the losses of ``benchmarks.training``: a row for each optimizer, its mean as a mark and its seeds as a line."""

import pathlib
from typing import Any

from benchmarks.speed_plot import GRAY, save, settings

TITLES = {"quadratic": "noisy quadratic", "digits": "digits, test loss", "gpt": "char-GPT, held-out loss"}
COLOR = "#3d8bd4"


def draw(tables: dict[str, Any], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    most = max(len(table["rows"]) for table in tables.values())
    with pyplot.rc_context(settings("training")):
        figure, axes = pyplot.subplots(1, len(tables), figsize=(9.5, 0.24 * most + 1.2), layout="constrained")
        for axis, (name, table) in zip(axes, tables.items(), strict=True):
            for place, row in enumerate(table["rows"]):
                axis.plot([row["least"], row["most"]], [place, place], color=COLOR, linewidth=2)
                axis.plot(row["mean"], place, "o", color=COLOR, markersize=4)
            axis.set(xscale="log" if name != "gpt" else "linear", title=TITLES[name])
            axis.set_yticks(
                range(len(table["rows"])), [row["optimizer"].strip("`") for row in table["rows"]], fontsize=7
            )
            axis.grid(axis="x", color=GRAY, alpha=0.25)
            axis.invert_yaxis()
            axis.spines[["top", "right"]].set_visible(False)
        save(figure, path)
