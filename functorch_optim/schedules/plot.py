"""Plots of schedules."""

from collections.abc import Mapping
from typing import Any

from functorch_optim.typing import StepFunction


def plot(schedule: StepFunction | Mapping[str, StepFunction], steps: int, ax: Any = None) -> Any:
    """Plot one schedule, or several by name, over steps 0 to ``steps - 1``.

    Args:
        schedule: a schedule or function of the step, or a mapping from names to these.
        steps: number of steps.
        ax: the matplotlib axes to draw into; new ones by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> import functorch_optim as fo
        >>> axes = plot({"cosine": fo.schedules.cosine_annealing(1.0, T_max=10)}, steps=20)
        >>> len(axes.lines)
        1
    """
    from matplotlib.figure import Figure

    if ax is None:
        ax = Figure(layout="constrained").subplots()
    named = schedule if isinstance(schedule, Mapping) else {"": schedule}
    for name, one in named.items():
        ax.plot(range(steps), [float(one(step)) for step in range(steps)], label=name or None)
    if any(named):
        ax.legend()
    ax.set_xlabel("step")
    return ax
