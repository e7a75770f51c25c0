"""The 1cycle policy: the learning rate rises once, then falls for long; the momentum does the reverse."""

from types import ModuleType

from functorch_optim.hyperparams import AnyNumber, as_integer, known
from functorch_optim.schedules.schedule import Schedule, as_float, between, number
from functorch_optim.typing import Numeric, PyTree


def _check(total_steps: Numeric, pct_start: Numeric, anneal_strategy: object) -> None:
    if (as_integer(total_steps) or 0) < 1:
        raise ValueError(f"Expected positive integer total_steps, but got {total_steps}")
    if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
        raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
    if anneal_strategy not in ("cos", "linear"):
        raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")


def phase_ends(total_steps: int, pct_start: float, three_phase: bool) -> tuple[float, ...]:
    """Return the steps at which the phases end, as torch counts them."""
    rise = float(pct_start * total_steps) - 1
    if three_phase:
        return rise, float(2 * pct_start * total_steps) - 2, float(total_steps - 1)
    return rise, float(total_steps - 1)


def through_phases(
    values: tuple[object, ...], ends: tuple[float, ...], step: Numeric, strategy: str, xp: ModuleType
) -> PyTree:
    """Anneal from ``values[k]`` to ``values[k + 1]`` in phase k, and stay at the last value."""
    step = as_float(step, xp)
    result, start = values[-1], 0.0
    pieces = []
    for first, last, end in zip(values[:-1], values[1:], ends, strict=True):
        pieces.append((end, between(first, last, step - start, end - start, xp, strategy)))
        start = end
    for end, piece in reversed(pieces):
        result = xp.where(step <= end, piece, result)
    return result


class one_cycle(Schedule):
    """Rises from ``max_lr / div_factor`` to ``max_lr``, then falls to ``max_lr / div_factor / final_div_factor``.

    The rise ends at step ``pct_start * total_steps - 1``, the fall at ``total_steps - 1``; then the value stays. Both
    follow half a cosine or a straight line. With ``three_phase`` the value first falls back to its start in as many
    steps as it rose, then to its final value in the remaining steps.

    Args:
        max_lr: the highest value.
        total_steps: number of steps.
        pct_start: the fraction of steps spent rising, a float from 0 to 1.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        div_factor, final_div_factor: see above; positive.
        three_phase: see above.

    Raises:
        TypeError: a value is not a number. ValueError: an option is out of range, with torch's message if torch rejects
            it too.

    Source: Smith and Topin, "Super-Convergence", 2018; torch's ``OneCycleLR``, which continues past the last step.

    Example:
        >>> schedule = one_cycle(1.0, total_steps=10, anneal_strategy="linear", div_factor=10.0, final_div_factor=10.0)
        >>> [round(schedule(step), 4) for step in (0, 1, 2, 9, 20)]
        [0.1, 0.55, 1.0, 0.01, 0.01]
    """

    max_lr: AnyNumber
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    div_factor: AnyNumber = 25.0
    final_div_factor: AnyNumber = 1e4
    three_phase: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.total_steps, self.pct_start, self.anneal_strategy)
        for name in ("div_factor", "final_div_factor"):
            divisor = known(getattr(self, name))
            if divisor is not None and not divisor > 0:
                raise ValueError(f"{name} divides a learning rate, so it must be above 0, but it is {divisor}")

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        high = number(self.max_lr)
        start = high / number(self.div_factor)
        last = start / number(self.final_div_factor)
        values = (start, high, start, last) if self.three_phase else (start, high, last)
        ends = phase_ends(self.total_steps, self.pct_start, self.three_phase)
        return through_phases(values, ends, step, self.anneal_strategy, xp)


class one_cycle_momentum(Schedule):
    """Falls from ``max_momentum`` to ``base_momentum`` while a :class:`one_cycle` learning rate rises, then returns.

    Args:
        total_steps: number of steps.
        base_momentum, max_momentum: the two values.
        pct_start, anneal_strategy, three_phase: as for :class:`one_cycle`.

    Raises:
        TypeError: a value is not a number. ValueError: an option is out of range, with torch's message.

    Source: torch's ``OneCycleLR``.

    Example:
        >>> schedule = one_cycle_momentum(total_steps=10, anneal_strategy="linear")
        >>> [round(schedule(step), 4) for step in (0, 1, 2, 9, 20)]
        [0.95, 0.9, 0.85, 0.95, 0.95]
    """

    total_steps: int
    base_momentum: AnyNumber = 0.85
    max_momentum: AnyNumber = 0.95
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    three_phase: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.total_steps, self.pct_start, self.anneal_strategy)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        low, high = number(self.base_momentum), number(self.max_momentum)
        values = (high, low, high, high) if self.three_phase else (high, low, high)
        ends = phase_ends(self.total_steps, self.pct_start, self.three_phase)
        return through_phases(values, ends, step, self.anneal_strategy, xp)


class swa_annealing(Schedule):
    """Moves from ``lr`` to ``swa_lr`` in ``anneal_epochs`` steps along half a cosine or a straight line, then stays.

    Args:
        lr: value at step 0.
        swa_lr: value from ``anneal_epochs`` on.
        anneal_epochs: number of steps, at least 0.
        anneal_strategy: ``"cos"`` or ``"linear"``.

    Raises:
        TypeError: a value is not a number. ValueError: an option is out of range, with torch's message.

    Source: torch's ``SWALR``.

    Example:
        >>> [swa_annealing(1.0, 0.5, anneal_epochs=2, anneal_strategy="linear")(step) for step in range(4)]
        [1.0, 0.75, 0.5, 0.5]
    """

    lr: AnyNumber
    swa_lr: AnyNumber
    anneal_epochs: int = 10
    anneal_strategy: str = "cos"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {self.anneal_strategy}")
        epochs = as_integer(self.anneal_epochs)
        if epochs is None or epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {self.anneal_epochs}")

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        return between(number(self.lr), number(self.swa_lr), step, self.anneal_epochs, xp, self.anneal_strategy)
