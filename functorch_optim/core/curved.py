"""Rules that know the curvature: an estimate of it comes in at some steps, which no gradient contains."""

from collections.abc import Callable
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functorch_optim import axes, trees
from functorch_optim.alike import kept
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.numerics import coefficient, next_step
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import on_host
from functorch_optim.hyperparams import Hyperparameter, Option, as_count
from functorch_optim.objectives import with_arguments
from functorch_optim.typing import Array, Numeric, PyTree

Estimator = Callable[..., PyTree]
UpdatePeriod = Annotated[
    Hyperparameter,
    Option("Invalid update_period: {}", low=1.0),
    "how many steps an estimate of the curvature serves",
]


class CurvatureRule(Rule, abstract=True):
    """A rule whose slot ``hessian`` is refreshed from an estimate of the curvature, and only read by ``update``.

    The estimate of a parameter is an array like it, of the diagonal of the Hessian or of another matrix.
    """

    complex_hint: ClassVar[str]

    update_period: UpdatePeriod
    seed: Annotated[int, "the seed of the estimator's keys"]
    estimator: Estimator | None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seed", as_count("seed", self.seed, 0))
        if self.estimator is not None and not callable(self.estimator):
            raise TypeError(f"estimator must be a function f(params, key), but it is {self.estimator!r:.100}")

    def refresh_scalars(self, hyperparams: PyTree) -> PyTree:
        """Return the coefficients of :meth:`refreshed`."""
        del hyperparams
        return ()

    def refreshed(self, old: jax.Array, estimate: jax.Array, scalars: PyTree) -> jax.Array:
        """Return the next ``hessian`` of one parameter, in the dtype of the arguments."""
        raise NotImplementedError(f"{type(self).__name__} does not define refreshed")  # abstract: every subclass does

    def key_at(self, step: Numeric) -> jax.Array:
        """Return the key of the estimate for update number ``step``, from 1."""
        return jax.random.fold_in(jax.random.key(self.seed), jnp.asarray(step, jnp.int32))

    def is_due(self, done: Numeric, period: Numeric) -> jax.Array | bool:
        """Whether an estimate is due for the next update, after ``done``: for the first, and each period after it."""
        if on_host(done, period):
            return int(done) % int(period) == 0
        return jnp.asarray(done, jnp.int32) % jnp.asarray(period).astype(jnp.int32) == 0


def refreshed(rule: CurvatureRule, hyperparams: PyTree, old: Array, estimate: Array) -> jax.Array:
    """Return the next ``hessian`` of one parameter, in the dtype and in the place of the old one."""
    dtype = trees.compute_dtype(old, estimate)
    scalars = jax.tree.map(lambda x: coefficient(x, dtype), rule.refresh_scalars(hyperparams))
    here = kept(old, estimate.astype(dtype))
    return kept(old, rule.refreshed(old.astype(dtype), here, scalars).astype(old.dtype))


class Curved(Lifted):
    """A :class:`CurvatureRule` over a pytree: ``update`` takes ``curvature``, or calls ``curvature_fn`` when due."""

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        return super().update(updates, self._informed(updates, state, params, extra), params)

    def update_apart(
        self, updates: PyTree, state: PyTree, params: PyTree, **extra: object
    ) -> tuple[PyTree, Callable[[PyTree], PyTree], PyTree]:
        return super().update_apart(updates, self._informed(updates, state, params, extra), params)

    def needs(self) -> frozenset[str]:
        return frozenset() if self._rule.estimator else frozenset({"curvature_fn"})

    def acts_by_leaf(self) -> bool:
        return True

    @property
    def _rule(self) -> CurvatureRule:
        assert isinstance(self.rule, CurvatureRule)
        return self.rule

    def _informed(self, updates: PyTree, state: PyTree, params: PyTree, extra: dict[str, PyTree]) -> PyTree:
        """Return the state for this update, with a refreshed ``hessian`` if there is an estimate."""
        curvature = extra.get("curvature")
        if curvature is False:
            return state
        who = self._rule._call_name()
        reference = state.hessian if params is None else params
        _, grads, treedef = trees.pair(reference, updates, who)
        held = trees.align(reference, state.hessian, "slots hessian")
        if curvature is not None:
            return state._replace(hessian=treedef.unflatten(self._refreshed(state, grads, held, curvature)))
        function = extra.get("curvature_fn") or self._rule.estimator
        if params is None or not callable(function):
            missing = "the parameters" if params is None else "the curvature"
            raise ValueError(
                f"{who} needs {missing}: update(grads, state, params, curvature_fn=f) with f(params, key), such as "
                "functools.partial(fo.hutchinson, loss); or curvature= with the estimate itself, or False for none at "
                "this step. In the torch face call step(closure) or step(grads, curvature=...)"
            )
        estimate_at = with_arguments(function, extra, 2)
        key = self._rule.key_at(next_step(state.step))

        def refresh(params: PyTree, key: jax.Array, held: list[PyTree]) -> list[PyTree]:
            return self._refreshed(state, grads, held, estimate_at(params, key))

        period = self._rule.at(state.step).update_period
        if isinstance(period, float) and period < 2:
            return state._replace(hessian=treedef.unflatten(refresh(params, key, held)))
        due = self._rule.is_due(state.step, period)
        return state._replace(hessian=treedef.unflatten(_if(due, refresh, params, key, held)))

    def _refreshed(self, state: PyTree, grads: list[PyTree], held: list[PyTree], estimate: PyTree) -> list[PyTree]:
        """Return the ``hessian`` of each parameter; those without a gradient or an estimate keep theirs."""
        names, _, treedef = trees.named_leaves(state.hessian)
        found = trees.align(state.hessian, estimate, f"estimates of the curvature for {self._rule._call_name()}")
        hyperparams = self._rule.at(state.step)
        each = zip(names, self.of_leaves(treedef, held), grads, held, found, strict=True)
        return [self._next(name, own.rule, hyperparams, *leaf) for name, own, *leaf in each]

    def _next(
        self, name: str, rule: PyTree, hyperparams: PyTree, grad: PyTree, old: PyTree, estimate: PyTree
    ) -> jax.Array:
        if grad is None or trees.is_absent(estimate):
            return old
        trees.check_dense(name, estimate, rule.title)
        trees.check_like(name, estimate, old, "the curvature")
        return refreshed(rule, hyperparams, old, estimate)


def _if(
    due: jax.Array | bool, refresh: Callable[..., list[PyTree]], params: PyTree, key: PyTree, held: PyTree
) -> PyTree:
    """Return ``refresh(params, key, held)`` if it is due, else ``held``; both vary over the same manual axes."""
    if not isinstance(due, Tracer):
        return refresh(params, key, held) if due else held
    shapes = jax.eval_shape(refresh, params, key, held)

    def active(params: PyTree, key: PyTree, held: PyTree) -> PyTree:
        return jax.tree.map(axes.vary_as, refresh(params, key, held), held)

    def idle(params: PyTree, key: PyTree, held: PyTree) -> PyTree:
        del params, key
        return jax.tree.map(axes.vary_as, held, shapes)

    return jax.lax.cond(due, active, idle, params, key, held)
