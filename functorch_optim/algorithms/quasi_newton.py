"""The common part of L-BFGS and BFGS: one step of up to ``max_iter`` iterations, in one compiled loop."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim import axes, trees, variables
from functorch_optim.alike import kept
from functorch_optim.base import Transform
from functorch_optim.core.numerics import next_step
from functorch_optim.core.options import Options
from functorch_optim.effects import Effect, Effects, Kind, Leaves, for_each
from functorch_optim.hyperparams import AnyNumber, LearningRate, as_count
from functorch_optim.line_search.fixed_step import FixedStep
from functorch_optim.line_search.search import LineSearch, Objective, Trial, search_along
from functorch_optim.line_search.strong_wolfe import StrongWolfe
from functorch_optim.line_search.vectors import Vector, select
from functorch_optim.objectives import as_value, with_arguments
from functorch_optim.traced_reads import explaining
from functorch_optim.typing import Array, PyTree


class Progress(NamedTuple):
    """The state of a step; ``memory`` is the algorithm's model of the curvature."""

    x: Vector
    value: jax.Array
    grad: Vector
    d: Vector
    t: jax.Array
    memory: PyTree
    prev_grad: Vector
    prev_value: jax.Array
    evaluations: jax.Array
    careful: jax.Array  # whether a step once led to a point without a finite value
    iteration: jax.Array  # of this step
    n_iter: jax.Array  # of all steps
    done: jax.Array


class QuasiNewton(Options, Transform):
    """Base of the algorithms that build up a model of the curvature and search along a line.

    A subclass defines how parameters become vectors, and how its memory gives a direction.
    """

    lr: LearningRate
    max_iter: int
    max_eval: int | None
    tolerance_grad: AnyNumber
    tolerance_change: AnyNumber
    line_search_fn: str | None
    maximize: bool
    axis_name: PyTree  # as given, or :attr:`placement`

    def __post_init__(self) -> None:
        super().__post_init__()
        name = self._call_name()
        object.__setattr__(self, "max_iter", as_count(f"{name}: max_iter", self.max_iter, 0))
        if self.max_eval is not None:
            object.__setattr__(self, "max_eval", as_count(f"{name}: max_eval", self.max_eval, 0))
        if self.line_search_fn not in (None, *self.searches()):
            names, verb = " and ".join(map(repr, self.searches())), "are" if len(self.searches()) > 1 else "is"
            raise RuntimeError(f"only {names} {verb} supported, not {self.line_search_fn!r}")

    def effects(self, at: Leaves | None) -> list[Effects]:
        kinds = [Kind.EVALUATES] * self._follows_objective() + [Kind.STEPS]
        return for_each(at, tuple(Effect(kind, self._call_name()) for kind in kinds))

    def _follows_objective(self) -> bool:
        """Whether gradients or values beyond the given ones decide the update.

        A single iteration with a fixed step only checks that they are finite.
        """
        return self.line_search_fn is not None or (self.max_iter > 1 and self.budget > 2)

    def needs(self) -> frozenset[str]:
        return frozenset({"value_fn"})

    @property
    def budget(self) -> int:
        """The maximum number of evaluations per step."""
        return self.max_iter * 5 // 4 if self.max_eval is None else self.max_eval

    def searches(self) -> tuple[str, ...]:
        """The names of the line searches."""
        return ("strong_wolfe",)

    @property
    def placement(self) -> tuple[PyTree, ...]:
        """How each leaf is spread over a mesh inside ``shard_map``; () if none is."""
        return self.axis_name if isinstance(self.axis_name, tuple) else ()

    def placement_of(self, tree: PyTree) -> tuple[PyTree, ...]:
        """:attr:`placement` for the leaves of ``tree``."""
        raise NotImplementedError(f"{type(self).__name__} does not define placement_of")  # abstract: subclasses do

    def for_placement_of(self, tree: PyTree) -> PyTree:
        """This algorithm with the placement of the leaves of ``tree``."""
        placement = self.placement_of(tree)
        return replace(self, axis_name=placement) if any(placement) else self

    def to_vector(self, tree: PyTree, dtype: DTypeLike) -> Vector:
        """Convert a tree of parameters or gradients to a vector of this real dtype."""
        raise NotImplementedError(f"{type(self).__name__} does not define to_vector")  # abstract: subclasses do

    def from_vector(self, vector: Vector, like: PyTree) -> PyTree:
        """Convert a vector to a tree with the structure, shapes and dtypes of ``like``."""
        raise NotImplementedError(f"{type(self).__name__} does not define from_vector")  # abstract: subclasses do

    def vector_of(self, stored: PyTree, dtype: DTypeLike) -> Vector:
        """Convert a vector from the state's form to this dtype."""
        return self.to_vector(stored, dtype)

    def stored_vector(self, vector: Vector, stored: PyTree) -> PyTree:
        """Convert a vector to the state's form, to replace ``stored``."""
        return self.from_vector(vector, stored)

    def memory_of(self, state: PyTree, dtype: DTypeLike) -> PyTree:
        """Read the model of the curvature from a state."""
        raise NotImplementedError(f"{type(self).__name__} does not define memory_of")  # abstract: subclasses do

    def advance(
        self, memory: PyTree, y: Vector, s: Vector, value: jax.Array, grad: Vector, first: jax.Array
    ) -> tuple[PyTree, Vector]:
        """Add the step ``s``, which changed the gradient by ``y``, to the memory; also return the next direction.

        In the very ``first`` iteration there is no step, and the direction is minus the gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define advance")  # abstract: subclasses do

    def stored(self, state: PyTree, memory: PyTree) -> PyTree:
        """``state`` with this memory."""
        raise NotImplementedError(f"{type(self).__name__} does not define stored")  # abstract: subclasses do

    def line_search(self, memory: PyTree, tolerance_change: jax.Array) -> LineSearch:
        """The line search; torch's strong Wolfe search has its own tolerance."""
        del memory, tolerance_change
        return FixedStep() if self.line_search_fn is None else StrongWolfe()

    def checked_leaves(self, params: PyTree) -> list[PyTree]:
        """Check the parameters, and return their leaves."""
        variables.check_parameters(params)
        names, leaves, _ = trees.named_leaves(params)
        for name, leaf in zip(names, leaves, strict=True):
            trees.check_parameter(name, leaf)
        return leaves

    def dtype_of(self, leaves: list[PyTree]) -> DTypeLike:
        """The real dtype to compute in."""
        return jnp.finfo(trees.compute_dtype(*leaves)).dtype if leaves else jnp.dtype(jnp.float32)

    def update(  # pyright: ignore[reportIncompatibleMethodOverride] it needs the objective
        self,
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        value: Any = None,
        value_fn: Callable[..., PyTree] | None = None,
        **extra: object,
    ) -> tuple[PyTree, PyTree]:
        name = self._call_name()
        if params is None or value_fn is None:
            missing = "the parameters" if params is None else "the objective"
            raise ValueError(
                f"{name} needs {missing}: update(grads, state, params, value_fn=loss) with loss(params) -> scalar. In "
                "optax.chain wrap it with fo.interop.to_optax, which passes the keyword on; in the torch face use "
                f"optim.{name.upper()}"
            )
        models, grads, _ = trees.pair(params, updates, name, rows=True)
        if not models:
            return updates, state
        if all(grad is None for grad in grads):
            raise ValueError(f"{name} needs a gradient of at least one parameter")
        filled, objective = _filled(updates, params), explaining(name, with_arguments(value_fn, extra))
        if value is None:
            value = objective(params)
        value = as_value(name, value)
        _check_shared(name, value, filled, self.for_placement_of(filled).placement)
        return self.for_placement_of(filled)._update(filled, updates, state, params, value, objective)

    def _update(
        self,
        filled: PyTree,
        updates: PyTree,
        state: PyTree,
        params: PyTree,
        value: object,
        value_fn: Callable[[PyTree], PyTree],
    ) -> tuple[PyTree, PyTree]:
        dtype = self.dtype_of(jax.tree.leaves(params))
        sign = -1 if self.maximize else 1
        slots = self.vector_of(state.d, dtype)  # all vectors are split as these, which may be split more than params

        def objective(x: Vector) -> tuple[jax.Array, Vector]:
            point = jax.tree.map(kept, params, self.from_vector(x, params))
            found, grad = jax.value_and_grad(value_fn)(point)
            descent = jax.tree.map(lambda g, given: None if given is None else jnp.conj(g), grad, updates)
            return sign * jnp.asarray(found, dtype), descend(_filled(descent, params))

        def descend(filled: PyTree) -> Vector:
            return jax.tree.map(kept, slots, sign * self.to_vector(filled, dtype))

        x, grad = jax.tree.map(kept, slots, self.to_vector(params, dtype)), descend(filled)
        new, state = self._step(objective, x, sign * jnp.asarray(value, dtype), grad, state, dtype)
        update = self.from_vector(new - x, jax.tree.map(lambda p: _wide(p, dtype), params))
        return jax.tree.map(kept, params, update), state

    def _step(
        self, objective: Objective, x: Vector, value: jax.Array, grad: Vector, state: PyTree, dtype: DTypeLike
    ) -> tuple[Vector, PyTree]:
        """Run one step; return the new point and the state."""
        options = jax.tree.map(lambda option: jnp.asarray(option, dtype), self._numbers(state))
        d, prev_grad = (self.vector_of(stored, dtype) for stored in (state.d, state.prev_flat_grad))
        t, prev_value = state.t.astype(dtype), state.prev_loss.astype(dtype)
        # If the last step led to a point without a finite value, this one starts by going back.
        astray = ~jnp.isfinite(value) | ~jnp.isfinite(grad.largest())
        back = astray & (state.n_iter > 0)
        careful = state.careful | back
        p = Progress(
            x=select(back, x - t * d, x),
            value=jnp.where(back, prev_value, value),
            grad=select(back, prev_grad, grad),
            d=d,
            t=t,
            memory=self.memory_of(state, dtype),
            prev_grad=prev_grad,
            prev_value=prev_value,
            evaluations=jnp.asarray(1, jnp.int32),
            careful=careful,
            iteration=jnp.asarray(0, jnp.int32),
            n_iter=state.n_iter,
            done=jnp.where(astray, ~back, grad.largest() <= options["tolerance_grad"]),
        )
        alone = axes.varying((x, grad, value)) - axes.named(self.placement)  # axes whose devices minimize independently
        p = jax.tree.map(lambda leaf: axes.vary_over(leaf, alone), p)
        last = jax.lax.while_loop(
            lambda p: ~p.done & (p.iteration < self.max_iter), lambda p: self._iterate(objective, p, options), p
        )
        state = self.stored(state, last.memory)
        return last.x, state._replace(
            step=next_step(state.step),
            func_evals=state.func_evals + last.evaluations,
            n_iter=last.n_iter,
            careful=last.careful,
            d=self.stored_vector(last.d, state.d),
            t=last.t.astype(state.t.dtype),
            prev_flat_grad=self.stored_vector(last.prev_grad, state.prev_flat_grad),
            prev_loss=last.prev_value.astype(state.prev_loss.dtype),
        )

    def _numbers(self, state: PyTree) -> dict[str, PyTree]:
        return self.hyperparams_at(state.step)

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        return self._numbers(state)

    def _iterate(self, objective: Objective, p: Progress, options: dict[str, PyTree]) -> Progress:
        n_iter, iteration = p.n_iter + 1, p.iteration + 1
        first = n_iter == 1
        memory, d = self.advance(p.memory, p.grad - p.prev_grad, p.t * p.d, p.value, p.grad, first)
        t = jnp.where(first, jnp.minimum(1, 1 / p.grad.magnitude()), 1) * options["lr"]
        start = Trial(jnp.zeros_like(t), p.value, p.grad.dot(d))
        # If the slope shows that there is nothing to gain, the search stays. The last fixed step is taken without
        # evaluating it, as in torch, until one has led astray.
        ended = ~(start.slope <= -options["tolerance_change"])
        unseen = ~ended & ~p.careful & (iteration == self.max_iter) & (self.line_search_fn is None)

        search, size = self.line_search(memory, options["tolerance_change"]), d.largest()
        state = search.init(start, t, size, self.budget - p.evaluations, skip=ended | unseen)
        found = search_along(search, objective, p.x, d, state, p.grad)
        t, value, grad = jnp.where(unseen, t, found.trial.t), found.trial.value, found.grad
        evaluations = p.evaluations + found.evaluations
        done = (
            ended
            | (evaluations >= self.budget)
            | (grad.largest() <= options["tolerance_grad"])
            | (jnp.abs(t) * size <= options["tolerance_change"])
            | (jnp.abs(value - p.value) < options["tolerance_change"])
        )
        return Progress(
            x=p.x + t * d,
            value=value,
            grad=grad,
            d=d,
            t=t,
            memory=memory,
            prev_grad=p.grad,
            prev_value=p.value,
            evaluations=evaluations,
            careful=p.careful,
            iteration=iteration,
            n_iter=n_iter,
            done=done,
        )


def flattened(leaves: list[PyTree], dtype: DTypeLike) -> jax.Array:
    """Flatten all leaves to one vector in torch's layout: complex entries as pairs of real and imaginary part."""
    parts = [jnp.stack([jnp.real(x), jnp.imag(x)], -1) if jnp.iscomplexobj(x) else x for x in leaves]
    return jnp.concatenate([jnp.asarray(part, dtype).reshape(-1) for part in parts])


def _check_shared(name: str, value: object, grads: PyTree, placement: PyTree) -> None:
    """Raise if devices that share one step see different objectives, or if its gradient is not known."""
    together = axes.named(placement)
    apart = axes.varying(value) - (axes.varying(grads) - together)
    if apart:
        raise ValueError(
            f"{name}: the objective varies over the axis {', '.join(map(repr, sorted(apart)))} of shard_map, but it "
            "must be that of all devices: return jax.lax.psum or jax.lax.pmean of it"
        )
    axes.check_known(together, f"{name}: the gradient of an objective that all devices share")


def _filled(grads: PyTree, params: PyTree) -> PyTree:
    """The gradients with zeros where there are none, so that those parameters stay."""

    def dense(param: PyTree, grad: PyTree) -> PyTree:
        return jnp.zeros_like(param) if grad is None else grad.todense() if trees.is_sparse(grad) else grad

    return jax.tree.map(dense, params, grads)


def _wide(param: Array, dtype: DTypeLike) -> PyTree:
    """A placeholder with a parameter's shape and its update's dtype."""
    kind = jax.lax.complex(*[jnp.zeros((), dtype)] * 2).dtype if jnp.iscomplexobj(param) else dtype
    return jax.ShapeDtypeStruct(param.shape, kind)
