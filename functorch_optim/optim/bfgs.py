"""BFGS with the interface of ``torch.optim.LBFGS``."""

import jax.numpy as jnp

from functorch_optim.algorithms.bfgs import BFGSState, bfgs
from functorch_optim.hyperparams import Hyperparameter
from functorch_optim.optim.engine.on_first import OnFirst
from functorch_optim.optim.engine.protocol import Entry
from functorch_optim.optim.minimizer import Minimizer, defaults
from functorch_optim.optim.ownership import own
from functorch_optim.option_names import explains_names
from functorch_optim.typing import PyTree

_ARRAYS = ("d", "H", "prev_flat_grad")
_NUMBERS = ("t", "prev_loss", "loss_weight", "loss_size")


class BFGSCodec(OnFirst):
    """Codec of BFGS, whose state's vectors are already flat."""

    name = "bfgs"

    def entry(self, state: BFGSState) -> Entry:
        numbers = {key: float(getattr(state, key)) for key in _NUMBERS}
        return {"d": state.d, "t": numbers.pop("t"), "H": state.H, "prev_flat_grad": state.prev_flat_grad, **numbers}

    def from_entry(self, params: PyTree, entry: Entry, fresh: BFGSState) -> BFGSState:
        del params
        missing = [key for key in (*_ARRAYS, "t", "prev_loss") if key not in entry]
        if missing:
            raise KeyError(f"the state of BFGS has no {', '.join(missing)}; it has {', '.join(entry)}")
        for key in _ARRAYS:
            if jnp.shape(entry[key]) != getattr(fresh, key).shape:
                raise ValueError(f"{key} has shape {jnp.shape(entry[key])}, not {getattr(fresh, key).shape}")
        arrays = {key: own(jnp.asarray(entry[key]).astype(getattr(fresh, key).dtype)) for key in _ARRAYS}
        numbers = {key: jnp.asarray(entry.get(key, 0.0), fresh.t.dtype) for key in _NUMBERS}
        return fresh._replace(**arrays, **numbers)


class BFGS(Minimizer):
    """BFGS with a dense inverse Hessian; the equations are in :func:`functorch_optim.bfgs`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes; one group.
        lr, max_iter, max_eval, tolerance_grad, tolerance_change, line_search_fn: as for :func:`functorch_optim.bfgs`;
            they may change in ``param_groups`` from step to step.
        maximize: whether to ascend.

    ``step(closure, *args)`` needs ``closure(params, *args)``, and runs up to ``max_iter`` iterations.

    Raises:
        ValueError: an option outside its range; several groups. RuntimeError: an unknown line search.

    Example:
        >>> optimizer = BFGS({"w": jnp.array([3.0, -2.0])}, line_search_fn="hager_zhang")
        >>> loss = lambda params: jnp.sum((params["w"] - 1.0) ** 2)
        >>> optimizer.step(loss).item()
        13.0
        >>> optimizer.params["w"].round(4).tolist()
        [1.0, 1.0]
    """

    constructor = staticmethod(bfgs)
    codec = BFGSCodec()

    @explains_names
    def __init__(
        self,
        params: PyTree,
        lr: Hyperparameter = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: Hyperparameter = 1e-7,
        tolerance_change: Hyperparameter = 1e-9,
        line_search_fn: str | None = None,
        *,
        maximize: bool = False,
    ) -> None:
        tolerances = (tolerance_grad, tolerance_change)
        super().__init__(params, defaults(lr, max_iter, max_eval, tolerances, maximize, line_search_fn=line_search_fn))
