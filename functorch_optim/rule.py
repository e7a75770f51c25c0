"""A rule says how one parameter is updated; `lift` makes a transformation over any pytree of it.

What the algorithms share stands here once: maximize, weight decay, None gradients, complex parameters, dtypes, names
in errors. A rule's file holds the state, the scalars of a step, and the equations of one array.
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import trees
from functorch_optim.base import Frozen, GradientTransformation, Transform, transformation
from functorch_optim.hyperparams import Beta, Options, is_zero


class Rule(Options):
    """How one parameter is updated. A subclass declares its options as fields, and its state as a NamedTuple.

    The state's first field is ``step``, the others are slots: arrays a parameter owns, named as in torch's state_dict.
    ``maximize``, ``weight_decay`` and ``decoupled_weight_decay``, where a rule declares them, are applied by the lift.
    """

    title: ClassVar[str]
    sparse_hint: ClassVar[str] = ""
    counts_steps: ClassVar[bool] = True  # whether torch keeps a step; if not, only the first update is special
    static_zeros: ClassVar[tuple[str, ...]] = ()  # the options for which the number 0 means another set of slots

    @classmethod
    def _call_name(cls) -> str:
        return cls.title.lower()

    def init(self, param: Any) -> Any:
        """The state of one parameter; ``step`` and the slots that the options do not need are None."""
        raise NotImplementedError(f"{type(self).__name__} does not define init")  # abstract: every subclass does

    def scalars(self, step: Any, hyperparams: Any) -> Any:
        """The coefficients of update number ``step`` (the first is 1), a pytree of scalars, once for all parameters."""
        raise NotImplementedError(f"{type(self).__name__} does not define scalars")  # abstract: every subclass does

    def update(self, grad: jax.Array, param: jax.Array | None, slots: Any, scalars: Any) -> tuple[jax.Array, Any]:
        """What to add to the parameter, and its next slots: array math in one real dtype."""
        raise NotImplementedError(f"{type(self).__name__} does not define update")  # abstract: every subclass does


class StepScalars(Frozen):
    """A step's coefficients: the rule's own, and those of the weight decay (None where there is none)."""

    rule: Any
    coupled_decay: Any = None
    decoupled_decay: Any = None

    @property
    def needs_params(self) -> bool:
        return self.coupled_decay is not None or self.decoupled_decay is not None


def step_scalars(rule: Rule, step: Any, hyperparams: Any) -> StepScalars:
    """The coefficients of update number ``step``, in doubles where all is Python numbers, else traced."""
    own = rule.scalars(step, hyperparams)
    if is_zero(getattr(rule, "weight_decay", 0.0)):
        return StepScalars(own)
    decay = hyperparams.weight_decay
    if getattr(rule, "decoupled_weight_decay", False):
        return StepScalars(own, decoupled_decay=hyperparams.lr * decay)
    return StepScalars(own, coupled_decay=decay)


jax.tree_util.register_dataclass(StepScalars, ["rule", "coupled_decay", "decoupled_decay"], [])


def lift(rule: Rule) -> GradientTransformation:
    """The transformation that applies ``rule`` to every leaf of a pytree."""
    return transformation(Lifted(rule))


class Lifted(Transform):
    """A :class:`Rule` over a pytree. The state is the rule's NamedTuple with a tree in every slot, and one step."""

    rule: Rule

    def __repr__(self) -> str:
        return repr(self.rule)

    def init(self, params: Any) -> Any:
        names, leaves, treedef = trees.named_leaves(params)
        for name, leaf in zip(names, leaves, strict=True):
            trees.check_parameter(name, leaf)
        return self.state_of(treedef, [self.rule.init(leaf) for leaf in leaves], jnp.zeros((), jnp.int32))

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del extra
        step = next_step(state.step)
        scalars = step_scalars(self.rule, step, self.rule.at(state.step))
        return self.update_with(scalars, updates, state._replace(step=step), params)

    def hyperparams(self, state: Any) -> dict[str, Any]:
        return self.rule.hyperparams_at(state.step)

    def update_with(self, scalars: StepScalars, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """The update with coefficients made elsewhere (on the host, say); ``state.step`` is kept as it is."""
        if params is None and scalars.needs_params:
            raise ValueError(f"{self.rule.title} with weight decay needs the parameters: update(grads, state, params)")
        slots = {name: getattr(state, name) for name in self.slot_names}
        # The structure comes from what is known to be whole: the parameters, else a slot; gradients may hold None.
        reference = next((tree for tree in (params, *slots.values()) if tree is not None), None)
        if reference is None:
            names, grad_leaves, treedef = trees.named_leaves(grads, none_is_leaf=True)
            models = grad_leaves
            for name, grad in zip(names, grad_leaves, strict=True):
                trees.check_update(name, grad, grad, self.rule.title, self.rule.sparse_hint)
        else:
            models, grad_leaves, treedef = trees.pair(reference, grads, self.rule.title, self.rule.sparse_hint)
        param_leaves = models if params is not None else [None] * len(models)
        slot_leaves = {name: trees.align(reference, tree, f"slots {name}") for name, tree in slots.items()}
        empty = self.rule.init(None)
        rows = [
            empty._replace(**{name: leaves[index] for name, leaves in slot_leaves.items()})
            for index in range(len(models))
        ]
        results = [
            self.update_leaf(grad, param, row, scalars)
            for grad, param, row in zip(grad_leaves, param_leaves, rows, strict=True)
        ]
        deltas = jax.tree.unflatten(treedef, [delta for delta, _ in results])
        return deltas, self.state_of(treedef, [row for _, row in results], state.step)

    @functools.cached_property
    def slot_names(self) -> list[str]:
        one = self.rule.init(jax.ShapeDtypeStruct((), jnp.float32))
        return [name for name in one._fields if getattr(one, name) is not None]

    def state_of(self, treedef: Any, rows: list[Any], step: Any) -> Any:
        """The state of a whole tree, of the parameters' own states in the order of its leaves (None without one)."""
        slots = {name: treedef.unflatten([getattr(row, name, None) for row in rows]) for name in self.slot_names}
        return self.rule.init(None)._replace(step=step, **slots)

    def update_leaf(self, grad: Any, param: Any, slots: Any, scalars: StepScalars) -> tuple[Any, Any]:
        """What to add to one parameter and its next slots; without a gradient None and the slots as they are."""
        if grad is None:
            return None, slots
        if jnp.issubdtype(grad.dtype, jnp.complexfloating):
            real, imag = (
                self.update_leaf(part(grad), jax.tree.map(part, param), jax.tree.map(part, slots), scalars)
                for part in (jnp.real, jnp.imag)
            )
            return jax.tree.map(jax.lax.complex, real, imag)
        dtype = trees.compute_dtype(grad, param, *jax.tree.leaves(slots))
        g, p, wide = jax.tree.map(lambda x: jnp.asarray(x, dtype), (grad, param, slots))
        s = jax.tree.map(lambda x: coefficient(x, dtype), scalars)
        if getattr(self.rule, "maximize", False):
            g = -g
        if s.coupled_decay is not None:
            g = g + s.coupled_decay * p
        delta, new = self.rule.update(g, p, wide, s.rule)
        if s.decoupled_decay is not None:
            delta = delta - s.decoupled_decay * p
        return delta, jax.tree.map(lambda x, old: x.astype(old.dtype), new, slots)


def coefficient(value: Any, dtype: Any) -> Any:
    """A real coefficient rounded once to the precision of the calculation: a constant where it is known."""
    real = jnp.finfo(dtype).dtype
    return (jnp.asarray(value, real) if isinstance(value, jax.Array) else real.type(value)).astype(dtype)


def next_step(step: jax.Array) -> jax.Array:
    """``step + 1``, staying at int32's largest value instead of wrapping."""
    return jnp.where(step < np.iinfo(np.int32).max, step + 1, step)


def zeros_like(param: Any) -> jax.Array | None:
    """A slot: zeros in a buffer of its own, with the parameter's shape, dtype and sharding, never weakly typed."""
    return None if param is None else jnp.zeros_like(param, dtype=param.dtype)


def lerp(start: jax.Array, end: jax.Array, beta: Beta) -> jax.Array:
    """``beta * start + (1 - beta) * end`` as torch's lerp with weight ``1 - beta`` forms it."""
    weight = beta.complement
    return jnp.where(weight < 0.5, start + weight * (end - start), end - (end - start) * beta.value)


@jax.custom_jvp
def sqrt(x: jax.Array) -> jax.Array:
    """The square root, whose derivative at zero is taken as zero so that a zero gradient does not give NaN."""
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    root = jnp.sqrt(x)
    positive = root > 0
    return root, jnp.where(positive, dx / (2 * jnp.where(positive, root, 1)), 0)
