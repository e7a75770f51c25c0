"""L-BFGS with the interface of ``torch.optim.LBFGS``."""

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functorch_optim.algorithms.lbfgs import LBFGSState, lbfgs
from functorch_optim.hyperparams import Hyperparameter
from functorch_optim.optim.engine.on_first import OnFirst, flat, unflat
from functorch_optim.optim.engine.protocol import Entry
from functorch_optim.optim.minimizer import Minimizer, defaults
from functorch_optim.option_names import explains_names
from functorch_optim.placement import place
from functorch_optim.typing import OptionValues, PyTree


class LBFGSCodec(OnFirst):
    """Codec of L-BFGS: torch's state has the pairs as lists of flat vectors, oldest first."""

    name = "lbfgs"
    scalars = ("t", "prev_loss", "H_diag")

    def resized(self, state: LBFGSState, options: OptionValues) -> LBFGSState | None:
        """The state with room for ``history_size`` pairs; None if it already has that."""
        if options["history_size"] == state.ro.shape[0]:
            return None
        changes, steps, products = self._pairs(state)
        return _with_pairs(state, changes, steps, products, int(options["history_size"]))

    def _pairs(self, state: LBFGSState) -> tuple[list[PyTree], list[PyTree], list[PyTree]]:
        """The changes of the gradient, the steps and the products, each as a list, oldest first."""
        pairs = state.old_dirs, state.old_stps, state.ro
        one = [jax.tree.map(lambda x, i=i: x[i], pairs) for i in _order(state)]
        return [y for y, _, _ in one], [s for _, s, _ in one], [r for _, _, r in one]

    def entry(self, state: LBFGSState) -> Entry:
        (d, gradient), (changes, steps) = flat([state.d, state.prev_flat_grad], [state.old_dirs, state.old_stps])
        order = _order(state)
        return {
            "d": d,
            "t": float(state.t),
            "old_dirs": [changes[i] for i in order],
            "old_stps": [steps[i] for i in order],
            "ro": [state.ro[i] for i in order],
            "H_diag": state.H_diag,
            "prev_flat_grad": gradient,
            "prev_loss": float(state.prev_loss),
            "al": [None] * state.ro.shape[0],
        }

    def from_entry(self, params: PyTree, entry: Entry, fresh: LBFGSState) -> LBFGSState:
        missing = [key for key in ("old_dirs", "old_stps", "ro", "prev_flat_grad") if key not in entry]
        if missing:
            raise KeyError(f"the state of LBFGS has no {', '.join(missing)}; it has {', '.join(entry)}")
        if not len(entry["old_dirs"]) == len(entry["old_stps"]) == len(entry["ro"]):
            raise ValueError("old_dirs, old_stps and ro of the state of LBFGS have different lengths")
        dtype = fresh.t.dtype
        scalars = {key: jnp.asarray(entry[key], dtype) for key in ("t", "H_diag", "prev_loss")}
        changes, steps = ([unflat(row, params, key) for row in entry[key]] for key in ("old_dirs", "old_stps"))
        vectors = {key: unflat(entry[key], params, key) for key in ("d", "prev_flat_grad")}
        products = [jnp.asarray(product, dtype) for product in entry["ro"]]
        return _with_pairs(fresh._replace(**scalars, **vectors), changes, steps, products, fresh.ro.shape[0])


def _order(state: LBFGSState) -> list[int]:
    """The places of the pairs, oldest first."""
    size, number = state.ro.shape[0], int(state.n_pairs)
    return [index % size for index in range(max(number - size, 0), number)]


def _with_pairs(
    state: LBFGSState, changes: list[object], steps: list[object], products: list[PyTree], size: int
) -> LBFGSState:
    """The state with the last ``size`` of these pairs."""
    held = min(len(products), size)

    def stacked(rows: list[PyTree], like: PyTree) -> PyTree:
        def one(model: PyTree, *parts: PyTree) -> PyTree:
            empty = jnp.zeros((size - held, *model.shape[1:]), model.dtype)
            whole = jnp.concatenate([jnp.stack(parts), empty]) if parts else empty
            return whole if isinstance(whole, Tracer) else place(whole, model)

        return jax.tree.map(one, like, *rows[len(rows) - held :])

    return state._replace(
        n_pairs=jnp.asarray(held, jnp.int32),
        old_dirs=stacked(changes, state.old_dirs),
        old_stps=stacked(steps, state.old_stps),
        ro=stacked(products, state.ro),
    )


class LBFGS(Minimizer):
    """L-BFGS; the equations are in :func:`functorch_optim.lbfgs`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes; one group.
        lr, max_iter, max_eval, tolerance_grad, tolerance_change, history_size, line_search_fn: as for
            :func:`functorch_optim.lbfgs`; they may change in ``param_groups`` from step to step.
        maximize: whether to ascend, as in torch 2.15.

    ``step(closure, *args)`` needs ``closure(params, *args)``, and runs up to ``max_iter`` iterations. The state belongs
    to the first parameter, as in torch. Parameters without entries are never moved: a step then evaluates the closure
    once, and returns the loss.

    Raises:
        ValueError: an option outside its range, with torch's message; several groups.
        RuntimeError: an unknown line search.

    Example:
        >>> optimizer = LBFGS({"w": jnp.array([3.0, -2.0])}, line_search_fn="strong_wolfe")
        >>> loss = lambda params: jnp.sum((params["w"] - 1.0) ** 4)
        >>> optimizer.step(loss).item()
        97.0
        >>> optimizer.params["w"].round(1).tolist()
        [1.0, 1.0]
    """

    constructor = staticmethod(lbfgs)
    codec = LBFGSCodec()

    @explains_names
    def __init__(
        self,
        params: PyTree,
        lr: Hyperparameter = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: Hyperparameter = 1e-7,
        tolerance_change: Hyperparameter = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        maximize: bool = False,
    ) -> None:
        own = {"history_size": history_size, "line_search_fn": line_search_fn}
        super().__init__(params, defaults(lr, max_iter, max_eval, (tolerance_grad, tolerance_change), maximize, **own))
