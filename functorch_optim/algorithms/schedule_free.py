"""What the Schedule-Free methods share: the average that takes the place of a schedule, and reading it out."""

from typing import Annotated, NamedTuple

import jax

from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, maximum, minimum, power, ratio
from functorch_optim.hyperparams import AnyNumber, Beta, LearningRate, Maximize, NonNegative, WeightDecay
from functorch_optim.typing import Numeric, PyTree

WarmupSteps = Annotated[NonNegative, "number of updates over which the learning rate rises linearly"]
AverageDecay = Annotated[WeightDecay, "coefficient of the decay, which acts at y"]
R = Annotated[AnyNumber, "power of the update's number in its weight in the average"]
WeightLrPower = Annotated[AnyNumber, "power of the largest learning rate so far in the weight"]

CARRIED = ("weight_sum", "lr_max", "momentum")


class Moves(NamedTuple):
    """How y and z move: the share of the next z in the average, the rate of z, and that of y beside its way to z."""

    share: Numeric
    rate: Numeric
    rate_of_y: Numeric


class ScheduleFree(Rule, abstract=True):
    """Base of the Schedule-Free methods: the parameters are y, the slot z has what the averages are of.

    With the direction d, the momentum beta, the learning rate ``lr``, the weight w of the update and the sum W of all::

        c = w / W
        y <- (1 - c) * y + c * z + lr * (beta * (1 - c) - 1) * d
        z <- z - lr * d
    """

    elementwise = True
    needs_params = True
    copies = ("z",)
    rate_is_factor = False
    decays_direction = True
    carried = CARRIED
    carries_doubles = True

    lr: LearningRate
    weight_decay: AverageDecay
    r: R
    weight_lr_power: WeightLrPower
    maximize: Maximize

    def comes_last(self) -> bool:
        return True

    @classmethod
    def _call_name(cls) -> str:
        return f"schedule_free_{cls.title.removesuffix('ScheduleFree').lower()}"

    def start(self, hyperparams: PyTree) -> dict[str, PyTree]:
        return {"weight_sum": 0.0, "lr_max": -1.0, "momentum": 1.0}

    def averaging(
        self, step: Numeric, lr: Numeric, momentum: Beta, hyperparams: PyTree, carried: dict[str, PyTree]
    ) -> tuple[Moves, dict[str, PyTree]]:
        """Return how the parameters move with this rate, and the scalars of the next update."""
        rate, beta = as_float(lr), as_float(momentum.value)
        lr_max = maximum(rate, as_float(carried["lr_max"]))
        weight = power(as_float(step), hyperparams.r) * power(lr_max, hyperparams.weight_lr_power)
        weight_sum = as_float(carried["weight_sum"]) + weight
        share = ratio(weight, weight_sum, 0.0)
        moves = Moves(share, rate, rate * (beta * (1 - share) - 1))
        return moves, {"weight_sum": weight_sum, "lr_max": lr_max, "momentum": beta}


def moved(moves: Moves, direction: jax.Array, y: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return what to add to y, and the next z.

    Example:
        >>> import jax.numpy as jnp
        >>> moves = Moves(share=1.0, rate=0.5, rate_of_y=-0.5)
        >>> [x.tolist() for x in moved(moves, jnp.array([2.0]), jnp.array([1.0]), jnp.array([1.0]))]
        [[-1.0], [0.0]]
    """
    return moves.share * (z - y) + moves.rate_of_y * direction, z - moves.rate * direction


def warmed_up(lr: Numeric, step: Numeric, warmup_steps: Numeric) -> Numeric:
    """Return the learning rate of update number ``step``, which rises linearly in the first ``warmup_steps``.

    Example:
        >>> warmed_up(0.5, 1, 4.0), warmed_up(0.5, 9, 4.0), warmed_up(0.5, 1, 0.0)
        (0.125, 0.5, 0.5)
    """
    share = as_float(step) / maximum(warmup_steps, 1.0)
    return lr * minimum(share, 1.0)
