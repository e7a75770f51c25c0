"""Optimizers that evaluate the loss themselves: a step runs many iterations in one compiled call."""

from typing import Any, ClassVar

from functorch_optim.algorithms.quasi_newton import QuasiNewton
from functorch_optim.base import Update
from functorch_optim.core.options import data_options
from functorch_optim.hyperparams import Hyperparameter, as_count
from functorch_optim.optim.by_loss import by_closure
from functorch_optim.optim.engine.by_tree import ByTree
from functorch_optim.optim.engine.on_first import OnFirst
from functorch_optim.optim.losses import takes_parameters
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.pages import see
from functorch_optim.typing import OptionValues, PyTree


class Minimizer(Optimizer):
    """Base of the optimizers whose step needs the loss as a function."""

    codec: ClassVar[OnFirst]

    def __init__(self, params: PyTree, defaults: OptionValues) -> None:
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError(f"{type(self).__name__} doesn't support per-parameter options (parameter groups)")

    def _make_engine(self) -> ByTree:
        make, names = type(self).constructor, tuple(self.defaults)
        assert make is not None
        update = make(**self.defaults).update
        assert isinstance(update, Update) and isinstance(update.of, QuasiNewton)
        return ByTree(make, names, set(names) - data_options(type(update.of)).keys(), self.codec, strict=True)

    def add_param_group(self, param_group: OptionValues) -> None:
        """Raise ValueError: there is only one group."""
        raise ValueError(f"{type(self).__name__} doesn't support per-parameter options (parameter groups)")

    def step(self, closure: Any = None, *args: PyTree, **refused: object) -> PyTree:
        """Run up to ``max_iter`` iterations in one compiled call.

        Args:
            closure: a function ``closure(params, *args)`` that returns the loss, a real scalar. It is differentiated
                and compiled, as by :meth:`backward`: define it outside the loop, and pass what changes as arguments.
            *args: further arguments of the closure.

        Returns:
            The loss before the step, as in torch. If the group is frozen, nothing else happens.

        Raises:
            TypeError: the closure is missing, or takes no parameters; a keyword was passed: the step evaluates the
                loss itself, at many points.
            ValueError: the arguments differ between processes.
        """
        name = type(self).__name__
        self._refuse_tracing()
        given = [key for key, value in refused.items() if value is not None and value is not False]
        if given:
            raise TypeError(f"{name}.step() evaluates the loss itself, and takes no {', '.join(given)}")
        if closure is None:
            raise TypeError(
                f"{name}.step() missing 1 required positional argument: 'closure', the loss closure(params, *args) "
                f"({see('from-torch')})"
            )
        if not self._is_closure(closure):
            raise TypeError(
                f"{name}.step() evaluates the loss itself: pass it closure(params, *args), not gradients nor a value "
                f"({see('from-torch')})"
            )
        if not args and not takes_parameters(closure):
            raise TypeError(
                f"{name}.step() evaluates the loss at its own parameters: it needs closure(params), which takes them "
                f"({see('from-torch')})"
            )
        return by_closure(self, closure, args)


def defaults(
    lr: Hyperparameter,
    max_iter: object,
    max_eval: object,
    tolerances: tuple[object, object],
    maximize: bool,
    **own: object,
) -> dict[str, PyTree]:
    """The options of a group in the order of torch 2.15."""
    return {
        "lr": lr,
        "max_iter": max_iter,
        "max_eval": as_count("max_iter", max_iter, 0) * 5 // 4 if max_eval is None else max_eval,
        "tolerance_grad": tolerances[0],
        "tolerance_change": tolerances[1],
        **own,
        "maximize": maximize,
    }
