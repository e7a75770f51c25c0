"""Everything needed to write an algorithm: ``fo.rules``. The guide is ``docs/writing-an-algorithm.md``.

A rule is a subclass of :class:`functorch_optim.Rule` whose options are annotated with marks such as
:data:`LearningRate`; :func:`functorch_optim.lift` turns it into a transformation, and
:func:`functorch_optim.testing.check_rule` tests it.
"""

from functorch_optim.base import exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, average_of_squares, decay_of, full_like, lerp, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import (
    as_float,
    maximum,
    minimum,
    on_host,
    one_minus_power,
    power,
    scalar_sqrt,
    single,
)
from functorch_optim.hyperparams import (
    Alpha,
    AnyNumber,
    AnyPair,
    Beta,
    BetaOption,
    Betas,
    Epsilon,
    Hyperparameter,
    LearningRate,
    LearningRateDecay,
    Momentum,
    MomentumDecay,
    NonNegative,
    Option,
    PositiveEpsilon,
    PositiveLearningRate,
    Rho,
    WeightDecay,
    as_count,
    is_static_zero,
)

__all__ = [
    "Alpha",
    "AnyNumber",
    "AnyPair",
    "Beta",
    "BetaOption",
    "Betas",
    "Epsilon",
    "Hyperparameter",
    "LearningRate",
    "LearningRateDecay",
    "Momentum",
    "MomentumDecay",
    "NonNegative",
    "Option",
    "PositiveEpsilon",
    "PositiveLearningRate",
    "Rho",
    "Rule",
    "WeightDecay",
    "as_count",
    "as_float",
    "average",
    "average_of_squares",
    "decay_of",
    "exportable",
    "full_like",
    "is_static_zero",
    "lerp",
    "lift",
    "maximum",
    "minimum",
    "on_host",
    "one_minus_power",
    "power",
    "scalar_sqrt",
    "single",
    "sqrt",
    "zeros_like",
]
