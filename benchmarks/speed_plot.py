"""Plot the speed of the algorithms on GPT-2 small: a row each, with a mark for each contender."""

import io
import pathlib
import re
from typing import Any

from benchmarks.speed_tables import FUSED

GRAY = "#808890"  # legible on white and on black; the background is transparent
MARKS = {  # what a contender's name ends with or starts with: its title, mark and color
    "optax": ("optax", "o", "#e0701a"),
    "fused": ("torch, fused", "D", "#3d8bd4"),
    "foreach": ("torch, foreach", "^", "#2aa876"),
    "for-loop": ("torch, for-loop", "s", "#b265c9"),
    "default": ("torch, default", "v", "#c9a227"),
}


def ratios(cases: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return our time over theirs by algorithm and kind of contender; ours is the one-pass form where there is one."""
    found: dict[str, dict[str, float]] = {}
    for case in cases:
        if case["shapes"] not in ("GPT-2 small", "GPT-2 matrices"):
            continue
        forms = [name for name in case["ratios"] if name.removeprefix(FUSED).startswith("fo ")]
        ours = next((name for name in forms if name.startswith(FUSED)), forms[0])
        row = found.setdefault(ours.removeprefix(FUSED).removeprefix("fo "), {})
        for other, value in case["ratios"][ours].items():
            kind = "optax" if other.startswith("optax") else other.rpartition(" ")[2]
            if other.startswith(("optax", "torch")):
                row[kind] = value
    return found


def settings(salt: str) -> dict[Any, Any]:
    """What matplotlib is told for all plots of the pages."""
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GRAY)
    return {"svg.hashsalt": salt, "font.size": 10, "svg.fonttype": "path", **colors}


def save(figure: Any, path: pathlib.Path) -> None:
    """Write a figure without what differs from run to run."""
    from matplotlib import pyplot

    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    path.write_text(re.sub(r"[ \t]+$", "", text.getvalue(), flags=re.MULTILINE))


def draw(cases: list[dict[str, Any]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    every = ratios(cases)
    with pyplot.rc_context(settings("speed")):
        figure, axis = pyplot.subplots(figsize=(7.5, 0.34 * len(every) + 1.5), layout="constrained")
        for kind, (title, mark, color) in MARKS.items():
            points = [(row[kind], index) for index, row in enumerate(every.values()) if kind in row]
            axis.plot(*zip(*points, strict=True), mark, color=color, label=title, linestyle="none", markersize=7)
        axis.axvline(1.0, color=GRAY, linewidth=1)
        axis.set(xscale="log", xlabel="our time / theirs; left of 1 this library is faster")
        axis.set_title("A step on the shapes of GPT-2 small", fontsize=11)
        axis.set_yticks(range(len(every)), list(every))
        ticks = [0.05, 0.1, 0.2, 0.5, 1, 2]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(axis="both", color=GRAY, alpha=0.25)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        save(figure, path)
