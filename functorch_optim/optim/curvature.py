"""AdaHessian and Sophia in the torch face: a step takes the curvature, or a function that estimates it."""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax

from functorch_optim import trees
from functorch_optim.core.curved import CurvatureRule, refreshed
from functorch_optim.curvature import hutchinson
from functorch_optim.optim.losses import takes_parameters
from functorch_optim.optim.signatures import Declared
from functorch_optim.torch_tensors import arrays_in
from functorch_optim.typing import Numeric, PyTree

__all__ = ["CurvatureOptimizer"]


class CurvatureOptimizer(Declared):
    """Base of the optimizers that need the curvature: AdaHessian and Sophia.

    A parameter's estimate is due at its first update, and at each ``update_period``-th after that.

    Example:
        >>> from functorch_optim import optim
        >>> issubclass(optim.AdaHessian, CurvatureOptimizer)
        True
    """

    by_loss: ClassVar[bool] = False  # whether the closure's Hessian is the curvature, if nothing else is given

    def step(
        self,
        closure: PyTree = None,
        *args: PyTree,
        has_aux: bool = False,
        clip_norm: Numeric | None = None,
        batches: PyTree = None,
        curvature: PyTree = None,
    ) -> PyTree:
        """Update the parameters, as :meth:`functorch_optim.optim.Optimizer.step` does, and the curvature before that.

        Args:
            closure, *args, has_aux, clip_norm, batches: as there.
            curvature: a function ``f(params, key, *args)``, which is compiled, and called if the estimate of a
                parameter is due; or the estimates themselves in the parameters' structure, with None to leave one as
                it is; or False to leave all. None means :func:`functorch_optim.hutchinson` of the closure for
                AdaHessian, and for others that no estimate is due. The key is that of the first group's ``seed``, and
                of the number of the update, the largest if parameters differ.

        Raises:
            ValueError: an estimate is due, and nothing gives one; a function is given beside ``batches``; the
                estimates do not fit the parameters. Others as there.

        Example:
            >>> import functools
            >>> import jax.numpy as jnp
            >>> import functorch_optim as fo
            >>> from functorch_optim import optim
            >>> optimizer = optim.AdaHessian({"w": jnp.array([1.0, 1.0])}, lr=0.1, eps=0.0)
            >>> loss = lambda params, scale: jnp.sum(scale * params["w"] ** 2) / 2
            >>> optimizer.step(loss, jnp.array([1.0, 100.0])).item()
            50.5
            >>> optimizer.params["w"]
            Array([0.9, 0.9], dtype=float32)
        """
        keywords = {"has_aux": has_aux, "clip_norm": clip_norm, "batches": batches}
        with self._transaction.change_lock:
            loss = None
            if closure is not None and self._is_closure(closure) and not (args or takes_parameters(closure)):
                loss, closure = closure(), None  # it sets the gradients, as in torch
            before = self._inform(closure, args, curvature, has_aux, batches)
            try:
                found = super().step(closure, *args, **keywords)
            except BaseException:
                self._set_curvature(before)
                raise
            return found if loss is None else loss

    def _inform(
        self, closure: PyTree, args: tuple[PyTree, ...], curvature: PyTree, has_aux: bool, batches: PyTree
    ) -> dict[int, PyTree]:
        """Refresh the curvature of the parameters for this step; return what it was."""
        self._need_engine()
        self._refuse_tracing()
        by_closure = closure is not None and self._is_closure(closure)
        grads = None if by_closure else self._gradients if closure is None else self._aligned(closure)
        frozen, count = self._frozen(), len(self._layout.group_of)
        present = range(count) if by_closure else [i for i, grad in enumerate(grads or ()) if grad is not None]
        active = [index for index in present if index not in frozen]
        if curvature is False or not active:
            return {}
        given = curvature is not None and not callable(curvature)
        entries, records = self._entries(), self._records()
        done = {index: int(entries[index]["step"]) for index in active}
        due = active if given else [i for i in active if self._is_due(records[self._layout.group_of[i]], done[i])]
        if not due:
            return {}
        if not given:
            curvature = self._estimate(closure if by_closure else None, args, curvature, has_aux, batches, done)
        estimates = self._layout.structure.treedef.flatten_up_to(arrays_in(curvature))
        before, after = {}, {}
        for index in due:
            if estimates[index] is not None:
                old, record = entries[index]["hessian"], records[self._layout.group_of[index]]
                trees.check_like(self._layout.labels[index], estimates[index], old, "the curvature")
                before[index] = old
                after[index] = refreshed(_rule_of(record), record.numbers, old, estimates[index])
        del entries
        self._set_curvature(after)
        return before

    def _is_due(self, record: PyTree, done: int) -> bool:
        return bool(_rule_of(record).is_due(done, record.numbers.update_period))

    def _estimate(
        self,
        closure: Callable[..., PyTree] | None,
        args: tuple[PyTree, ...],
        function: Callable[..., PyTree] | None,
        has_aux: bool,
        batches: PyTree,
        done: dict[int, int],
    ) -> PyTree:
        """Evaluate the estimator at the parameters, in one compiled call."""
        who = f"{type(self).__name__}.step"
        if batches is not None:
            raise ValueError(
                f"{who}: an estimate of the curvature is due, and batches do not go with a function that gives it: "
                "pass the estimates themselves, curvature=estimates"
            )
        estimator = function if function is not None or not self.by_loss else closure
        if estimator is None:
            hint = "closure, or curvature=" if self.by_loss else "curvature="
            raise ValueError(
                f"{who}: an estimate of the curvature is due: pass {hint}f with f(params, key, *args), such as "
                "functools.partial(fo.hutchinson, loss) or functools.partial(fo.gauss_newton_bartlett, logits_fn); or "
                "the estimates themselves; or False for none at this step"
            )
        records = self._records()
        key = _rule_of(records[0]).key_at(max(done.values()) + 1)
        make = functools.partial(_estimates_of, function is None, has_aux)
        compiled = self._losses.compiled(estimator, ("curvature", function is None, has_aux), make)
        return self._evaluate(estimator, lambda: compiled((self._tree(), key), arrays_in(args)))

    def _set_curvature(self, slots: dict[int, PyTree]) -> None:
        """Replace the curvature of these parameters."""
        if slots:
            entries = self._entries()
            self._rewrite({index: {**entries[index], "hessian": array} for index, array in slots.items()})


def _rule_of(record: PyTree) -> CurvatureRule:
    rule = record.algorithm.rule
    assert isinstance(rule, CurvatureRule)
    return rule


def _estimates_of(by_loss: bool, has_aux: bool, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Return the estimator as a function of a pair of parameters and key, and of a tuple of arguments."""

    def estimates(at: tuple[PyTree, jax.Array], args: tuple[PyTree, ...]) -> PyTree:
        params, key = at
        if not by_loss:
            return function(params, key, *args)
        loss = (lambda *given: function(*given)[0]) if has_aux else function
        return hutchinson(loss, params, key, *args)

    return estimates
