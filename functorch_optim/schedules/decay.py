"""Schedules that scale a value: in steps, linearly, exponentially, along a polynomial, or by a function."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim.hyperparams import AnyNumber, NonNegative, as_count
from functorch_optim.schedules.schedule import Schedule, as_float, between, check_milestones, exact_power, number
from functorch_optim.typing import Numeric, PyTree, StepFunction


class step_decay(Schedule):
    """``lr * gamma ** (step // step_size)``.

    ``next(lr, step)`` multiplies by ``gamma`` if ``step`` is a multiple of ``step_size``.

    Args:
        lr: value at step 0.
        step_size: number of steps between changes, at least 1.
        gamma: the factor, at least 0.

    Source: torch's ``StepLR``.

    Example:
        >>> [step_decay(1.0, step_size=2, gamma=0.5)(step) for step in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    lr: AnyNumber
    step_size: int
    gamma: NonNegative = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        as_count("step_size", self.step_size, 1)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        return number(self.lr) * exact_power(number(self.gamma), step // self.step_size, xp)

    def next(self, lr: Numeric, step: int) -> Numeric:
        """Compute the value at ``step`` (at least 1) from the previous value."""
        return lr * number(self.gamma) if step % self.step_size == 0 else lr


class multi_step_decay(Schedule):
    """``lr * gamma ** n``, where n counts the milestones up to ``step``; a milestone listed twice counts twice.

    Args:
        lr: value before the first milestone.
        milestones: steps, integers in any order.
        gamma: the factor, at least 0.

    Source: torch's ``MultiStepLR``.

    Example:
        >>> [multi_step_decay(1.0, milestones=(2, 3), gamma=0.5)(step) for step in range(5)]
        [1.0, 1.0, 0.5, 0.25, 0.25]
    """

    lr: AnyNumber
    milestones: tuple[int, ...]
    gamma: NonNegative = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_milestones(self.milestones)
        object.__setattr__(self, "milestones", tuple(sorted(int(m) for m in self.milestones)))

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        return number(self.lr) * exact_power(number(self.gamma), reached(self.milestones, step, xp), xp)

    def next(self, lr: Numeric, step: int) -> Numeric:
        """Compute the value at ``step`` (at least 1) from the previous value."""
        return lr * number(self.gamma) ** self.milestones.count(step)


def reached(milestones: tuple[int, ...], step: Numeric, xp: ModuleType) -> Numeric:
    """Count the sorted milestones at or before ``step``."""
    if not milestones:
        return xp.zeros_like(step)
    whole = xp.asarray(step)
    if xp.issubdtype(whole.dtype, xp.floating):
        whole = xp.floor(whole).astype(int)
    return xp.searchsorted(xp.asarray(milestones), whole, side="right")


class constant_factor(Schedule):
    """``lr * factor`` before step ``total_iters``, then ``lr``.

    Args:
        lr: the final value.
        factor: fraction of it to use before that, from 0 to 1.
        total_iters: number of steps to apply the factor, at least 0.

    Source: torch's ``ConstantLR``, which with ``total_iters=0`` keeps the factor forever.

    Example:
        >>> [constant_factor(1.0, factor=0.5, total_iters=2)(step) for step in range(4)]
        [0.5, 0.5, 1.0, 1.0]
    """

    lr: AnyNumber
    factor: AnyNumber = 1 / 3
    total_iters: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        as_count("total_iters", self.total_iters, 0)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        return number(self.lr) * xp.where(step < self.total_iters, number(self.factor), 1.0)

    def next(self, lr: Numeric, step: int) -> Numeric:
        """Compute the value at ``step`` (at least 1) from the previous value."""
        return next_constant(lr, step, number(self.lr), number(self.factor), self.total_iters)


def next_constant(lr: PyTree, step: int, base: PyTree, factor: PyTree, total_iters: int) -> PyTree:
    """Compute the next value of a :class:`constant_factor` of ``base``."""
    if step != total_iters:
        return lr
    return lr * (1.0 / factor) if factor else base


class linear(Schedule):
    """``lr`` times a factor that moves linearly from ``start_factor`` to ``end_factor`` in ``total_iters`` steps.

    ``lr * (start_factor + (end_factor - start_factor) * min(step, total_iters) / total_iters)``

    Args:
        lr: the value to scale.
        start_factor, end_factor: the factors.
        total_iters: number of steps, at least 0.

    Source: torch's ``LinearLR``, which with ``total_iters=0`` keeps ``start_factor`` forever.

    Example:
        >>> [linear(1.0, start_factor=0.5, total_iters=2)(step) for step in range(4)]
        [0.5, 0.75, 1.0, 1.0]
    """

    lr: AnyNumber
    start_factor: AnyNumber = 1 / 3
    end_factor: AnyNumber = 1.0
    total_iters: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        as_count("total_iters", self.total_iters, 0)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        lr, start, end = number(self.lr), number(self.start_factor), number(self.end_factor)
        return between(lr * start, lr * end, step, self.total_iters, xp)

    def next(self, lr: Numeric, step: int) -> Numeric:
        """Compute the value at ``step`` (at least 1) from the previous value."""
        start, end = number(self.start_factor), number(self.end_factor)
        return next_linear(lr, step, number(self.lr), start, end, self.total_iters)


def next_linear(lr: PyTree, step: int, base: PyTree, start: PyTree, end: PyTree, total_iters: int) -> PyTree:
    """Compute the next value of :class:`linear` of ``base``; after zero it comes from the base."""
    if step > total_iters:
        return lr
    before = total_iters * start + (step - 1) * (end - start)
    return lr * (1.0 + (end - start) / before) if before else between(base * start, base * end, step, total_iters, np)


class exponential_decay(Schedule):
    """``lr * gamma ** step``.

    Args:
        lr: value at step 0.
        gamma: the factor per step, at least 0.

    Source: torch's ``ExponentialLR``.

    Example:
        >>> [exponential_decay(1.0, gamma=0.5)(step) for step in range(3)]
        [1.0, 0.5, 0.25]
    """

    lr: AnyNumber
    gamma: NonNegative

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        return number(self.lr) * exact_power(number(self.gamma), step, xp)

    def next(self, lr: Numeric, step: int) -> Numeric:
        """Compute the value at ``step`` (at least 1) from the previous value."""
        del step
        return lr * number(self.gamma)


class polynomial_decay(Schedule):
    """``lr * (1 - min(step, total_iters) / total_iters) ** power``, which falls to 0 in ``total_iters`` steps.

    Args:
        lr: value at step 0.
        total_iters: number of steps, at least 1.
        power: the exponent, at least 0; 1 for a straight line.

    Source: torch's ``PolynomialLR``.

    Example:
        >>> [polynomial_decay(1.0, total_iters=2, power=2.0)(step) for step in range(4)]
        [1.0, 0.25, 0.0, 0.0]
    """

    lr: AnyNumber
    total_iters: int = 5
    power: NonNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        as_count("total_iters", self.total_iters, 1)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        return number(self.lr) * xp.asarray(between(1.0, 0.0, step, self.total_iters, xp)) ** number(self.power)

    def next(self, lr: Numeric, step: int) -> Numeric:
        """Compute the value at ``step`` (at least 1) from the previous value."""
        return next_polynomial(lr, step, self.total_iters, number(self.power))


def next_polynomial(lr: PyTree, step: int, total_iters: int, power: PyTree) -> PyTree:
    """Compute the next value of a :class:`polynomial_decay`."""
    if step > total_iters:
        return lr
    return lr * ((1.0 - step / total_iters) / (1.0 - (step - 1) / total_iters)) ** power


class multiplicative(Schedule):
    """``lr * f(1) * f(2) * ... * f(step)``, computed in a loop, so the cost grows with the step.

    Args:
        lr: value at step 0.
        lr_lambda: the function f of the step; inside a compiled function it must be traceable.

    Raises:
        TypeError: ``lr_lambda`` is not a function.

    Source: torch's ``MultiplicativeLR``.

    Example:
        >>> [multiplicative(1.0, lambda step: 0.5)(step) for step in range(3)]
        [1.0, 0.5, 0.25]
    """

    lr: AnyNumber
    lr_lambda: StepFunction

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.lr_lambda):
            raise TypeError(f"lr_lambda should be a function, but got {type(self.lr_lambda).__name__}")

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        value = number(self.lr)
        if xp is np:
            for earlier in range(1, int(step) + 1):
                value = value * self.lr_lambda(earlier)
            return value

        def product(last: Numeric) -> PyTree:
            one = jnp.ones((), jnp.result_type(float))
            return jax.lax.fori_loop(1, last + 1, lambda k, p: p * jnp.asarray(self.lr_lambda(k), p.dtype), one)

        steps = jnp.floor(as_float(step, xp)).astype(jnp.int32)
        return value * jax.vmap(product)(steps.reshape(-1)).reshape(steps.shape)

    def next(self, lr: Numeric, step: int) -> Numeric:
        """Compute the value at ``step`` (at least 1) from the previous value."""
        return lr * self.lr_lambda(step)
