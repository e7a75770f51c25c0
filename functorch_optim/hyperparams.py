"""Options: the marks of their types and ranges, their stored form, and their values at a step.

An option is a Python number, an array of one element (which may be traced), or a schedule ``step -> value``. Numbers
stay Python doubles until a step's scalars are computed, so every coefficient is rounded once.
"""

import math
import operator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from functorch_optim.typing import Numeric, PyTree, StepFunction


class Beta(NamedTuple):
    """A decay rate together with one minus it, so that neither loses digits in float32.

    At 0.999, ``1 - beta`` computed in float32 has only half of its digits. A Python number needs no help; pass
    ``Beta.of(0.999)`` if the rate must enter a compiled function as data.

    Example:
        >>> Beta.of(0.75)
        Beta(value=0.75, complement=0.25)
    """

    value: Any
    complement: Any

    @classmethod
    def of(cls, value: Any) -> "Beta":
        """Return the pair for a number or an array; its complement is computed in the precision of ``value``."""
        return value if isinstance(value, Beta) else cls(value, 1 - value)


Schedule = StepFunction
Hyperparameter = float | jax.Array | Schedule
"""The type of an option: a Python number, an array of one element, or a schedule."""
BetaOption = Hyperparameter | Beta
"""The type of a decay rate: as every option, or a :class:`functorch_optim.Beta`."""


@dataclass(frozen=True)
class Option:
    """Marks a field as data, with its range and torch's message for a number outside it.

    Example:
        >>> betas = Option("Invalid beta at index {index}: {}", low=0.0, high=1.0, open_high=True, length=2)
        >>> betas.range
        'each in [0, 1)'
        >>> betas.check("betas", 1.5, index=0)
        Traceback (most recent call last):
        ValueError: Invalid beta at index 0: 1.5 (option 'betas')
    """

    message: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    beta: bool = False
    length: int = 0
    optional: bool = False

    def check(self, name: str, value: object, index: int = 0) -> None:
        number = known(value)
        if number is None:
            return
        above = self.low < number if self.open_low else self.low <= number
        if above and (number < self.high if self.open_high else number <= self.high):
            return
        raise ValueError(self.message.format(number, index=index, number=index + 1) + f" (option {name!r})")

    @property
    def range(self) -> str:
        """The range in words; empty if there is none.

        Example:
            >>> Option("", low=0.0).range, Option("", low=0.0, high=1.0, open_high=True, length=2).range
            ('at least 0', 'each in [0, 1)')
        """
        if math.isinf(self.high):
            return "" if math.isinf(self.low) else f"{'above' if self.open_low else 'at least'} {self.low:g}"
        if math.isinf(self.low):
            return f"{'below' if self.open_high else 'at most'} {self.high:g}"
        each, left, right = "each " * bool(self.length), "[("[self.open_low], "])"[self.open_high]
        return f"{each}in {left}{self.low:g}, {self.high:g}{right}"


# The options: each has a type, a range, and the start of its line in docstrings.
LearningRate = Annotated[Hyperparameter, Option("Invalid learning rate: {}", low=0.0), "learning rate"]
PositiveLearningRate = Annotated[
    Hyperparameter, Option("Invalid learning rate: {}", low=0.0, open_low=True), "learning rate"
]
NonNegativeLearningRate = Annotated[
    Hyperparameter, Option("Learning rate should be >= 0 but is: {}", low=0.0), "learning rate"
]
LearningRateDecay = Annotated[
    Hyperparameter, Option("Invalid lr_decay value: {}", low=0.0), "how fast the learning rate falls"
]
Epsilon = Annotated[
    Hyperparameter, Option("Invalid epsilon value: {}", low=0.0), "added to the denominator outside the root"
]
PositiveEpsilon = Annotated[
    Hyperparameter, Option("Invalid epsilon value: {}", low=0.0, open_low=True), "added to the denominator"
]
Epsilons = Annotated[
    tuple[Hyperparameter | None, Hyperparameter],
    Option("epsilon{number} should be >= 0 but is: {}", low=0.0, length=2, optional=True),
    "(eps1, eps2)",
]
WeightDecay = Annotated[
    Hyperparameter, Option("Invalid weight_decay value: {}", low=0.0), "coefficient of the L2 penalty"
]
NonNegativeWeightDecay = Annotated[
    Hyperparameter, Option("weight_decay should be >= 0 but is: {}", low=0.0), "coefficient of the decoupled decay"
]
MuonWeightDecay = Annotated[
    Hyperparameter, Option("weight decay should be >= 0 but is: {}", low=0.0), "coefficient of the decoupled decay"
]
DecoupledWeightDecay = Annotated[bool, "whether the decay acts on the parameter instead of the gradient"]
Betas = Annotated[
    tuple[BetaOption, BetaOption],
    Option("Invalid beta parameter at index {index}: {}", low=0.0, high=1.0, open_high=True, beta=True, length=2),
    "decay rates of the two moments",
]
ThreeBetas = Annotated[
    tuple[BetaOption, BetaOption, BetaOption],
    Option("Invalid beta parameter at index {index}: {}", low=0.0, high=1.0, open_high=True, beta=True, length=3),
]
Rho = Annotated[
    BetaOption, Option("Invalid rho value: {}", low=0.0, high=1.0, beta=True), "decay rate of both averages"
]
Alpha = Annotated[BetaOption, Option("Invalid alpha value: {}", low=0.0, beta=True), "decay rate of the averages"]
Decay = Annotated[
    BetaOption,
    Option("Invalid decay value {} provided. Please provide a value in [0,1] range.", low=0.0, high=1.0, beta=True),
]
Momentum = Annotated[Hyperparameter, Option("Invalid momentum value: {}", low=0.0), "factor of the buffer"]
TrustCoefficient = Annotated[
    Hyperparameter, Option("Invalid trust_coefficient value: {}", low=0.0), "factor of the trust ratio"
]
MomentumRate = Annotated[
    BetaOption,
    Option("Invalid momentum value: {}", low=0.0, high=1.0, open_high=True, beta=True),
    "decay rate of the average of the gradients",
]
MuonMomentum = Annotated[
    BetaOption,
    Option("momentum should be >= 0 but is: {}", low=0.0, beta=True),
    "decay rate of the average of the gradients",
]
MomentumDecay = Annotated[
    Hyperparameter, Option("Invalid momentum_decay value: {}", low=0.0), "how fast mu rises to beta1"
]
InitialAccumulatorValue = Annotated[
    Hyperparameter, Option("Invalid initial_accumulator_value value: {}", low=0.0), "initial value of s"
]
Etas = Annotated[
    tuple[Hyperparameter, Hyperparameter],
    Option("Invalid eta values: {}", length=2),
    "(eta_minus, eta_plus), 0 < eta_minus < 1 < eta_plus",
]
Coefficients = Annotated[
    tuple[Hyperparameter, Hyperparameter, Hyperparameter],
    Option("Invalid value: {}", length=3),
    "the three coefficients of the Newton-Schulz polynomial",
]
Beta2Decay = Annotated[
    Hyperparameter, Option("beta2_decay should be <= 0 but is: {}", high=0.0), "exponent of the step"
]
ClippingThreshold = Annotated[
    Hyperparameter,
    Option("Clipping threshold d should be >= 1 but is: {}", low=1.0),
    "the threshold of the update's root mean square",
]
Maximize = Annotated[bool, "whether to ascend"]
AnyNumber = Annotated[Hyperparameter, Option("Invalid value: {}")]
AnyPair = Annotated[tuple[Hyperparameter, Hyperparameter], Option("Invalid value: {}", length=2)]
NonNegative = Annotated[Hyperparameter, Option("Invalid value, it must not be negative: {}", low=0.0)]


class Scalar:
    """An array option, compared by dtype and value if it is concrete, by identity if it is traced."""

    def __init__(self, array: jax.Array) -> None:
        self.array = array

    def _key(self) -> object:
        if isinstance(self.array, Tracer):
            return id(self.array)
        return (self.array.dtype, self.array.shape, np.asarray(self.array).tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scalar) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return repr(self.array)


def is_schedule(value: object) -> bool:
    """Whether a value can be a schedule: a callable that is no class, such as a dtype of JAX."""
    return callable(value) and not isinstance(value, type)


def is_real(value: Any) -> bool:
    """Whether a value is a real number, or an array of them; a boolean is none, nor is a dtype."""
    if isinstance(value, type):  # those of JAX and NumPy have a dtype
        return False
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return type(value) in (int, float)
    return bool(jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating))


def as_integer(value: Any) -> int | None:
    """Convert an integer of Python, NumPy or JAX to an int; return None for anything else, also for True and False."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def as_count(name: str, value: object, least: int) -> int:
    """Convert an option that is a count to an int.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is below ``least``.

    Example:
        >>> as_count("every", np.int32(4), least=1)
        4
        >>> as_count("every", 0, least=1)
        Traceback (most recent call last):
        ValueError: every must be an integer of at least 1, but it is 0
    """
    count = as_integer(value)
    if count is None or count < least:
        kind = TypeError if count is None else ValueError
        raise kind(f"{name} must be an integer of at least {least}, but it is {value!r}")
    return count


def known(value: Any) -> float | None:
    """Return the number that an option is, or None if there is none yet (None itself, a schedule, a tracer)."""
    value = value.value if isinstance(value, Beta) else value
    array = value.array if isinstance(value, Scalar) else value
    if array is None or is_schedule(array) or isinstance(array, Tracer):
        return None
    return float(array)


def normalize(name: str, value: Any) -> Any:
    """Convert an option to its stored form: a float, a :class:`Scalar`, a :class:`Beta` of these, or a schedule."""
    if isinstance(value, Beta):
        return Beta(normalize(name, value.value), normalize(name, value.complement))
    if isinstance(value, Scalar) or is_schedule(value):
        return value
    if isinstance(value, jax.Array):
        if value.size != 1:
            raise ValueError(f"Tensor {name} must be 1-element, but it has shape {value.shape}")
        if not jnp.issubdtype(value.dtype, jnp.floating) and not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(f"{name} must be real, but it has dtype {value.dtype}")
        return Scalar(value.reshape(()))
    if isinstance(value, bool | str | bytes | type) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, an array of one element or a schedule, but it is {value!r}")
    shape = tuple(getattr(value, "shape", ()))  # torch's tensors have it too; their size is a method
    if math.prod(shape) != 1:
        raise ValueError(f"Tensor {name} must be 1-element, but it has shape {shape}")
    return float(value.item() if hasattr(value, "item") else value)


def resolve(name: str, value: Any, step: Numeric, beta: bool = False) -> PyTree:
    """Return an option's value at ``step``: a Python float, or a scalar of JAX's default float dtype."""
    if value is None:
        return None
    if isinstance(value, Beta):
        return Beta(resolve(name, value.value, step), resolve(name, value.complement, step))
    value = value.array if isinstance(value, Scalar) else value
    if is_schedule(value):
        value = _scheduled(name, value, step)
    if isinstance(value, Beta):
        return value
    if isinstance(value, jax.Array):
        if value.shape != ():
            raise ValueError(f"the schedule of {name} must return a scalar, but it returned shape {value.shape}")
        value = value.astype(jnp.result_type(float))
    else:
        value = float(value)
    return Beta.of(value) if beta else value


def _scheduled(name: str, schedule: Schedule, step: Numeric) -> Any:
    """Return a schedule's value at ``step``.

    Raises:
        TypeError: it is not a number.
    """
    value = schedule(step)
    if not isinstance(value, Beta | jax.Array) and not hasattr(value, "__float__"):
        raise TypeError(f"the schedule of {name} must return a number, but it returned {value!r:.100}")
    return value


def is_static_zero(value: object) -> bool:
    """Whether an option is the Python number zero, which is known during tracing; data never is.

    Example:
        >>> is_static_zero(0.0), is_static_zero(jnp.zeros(()))
        (True, False)
    """
    return isinstance(value, float) and value == 0.0
