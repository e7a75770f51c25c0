"""A rule says how one parameter is updated; `lift` makes a transformation over any pytree of it.

What the algorithms share stands here once: maximize, weight decay, None gradients, complex parameters, dtypes, names
in errors. A rule's file holds the state, the scalars of a step, and the equations of one array.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from functorch_optim import axes, rows, trees, variables
from functorch_optim.base import Frozen, GradientTransformation, Transform, transformation
from functorch_optim.combinators import Labels, as_mask, flags_of
from functorch_optim.effects import Effect, Effects, Kind, Leaves, for_each
from functorch_optim.fusion import one_pass
from functorch_optim.hyperparams import Beta, Options, is_zero

FUNCTIONAL_ONLY = ("foreach", "decay_mask", "axis_name")  # arguments of an algorithm's function that no group has


class Rule(Options):
    """How one parameter is updated. A subclass declares its options as fields, and its state as a NamedTuple.

    The fields of ``state`` are named as in torch's state_dict: ``step``, then the scalars in ``carried``, then slots,
    the arrays that a parameter owns. ``maximize``, ``weight_decay`` and ``decoupled_weight_decay``, where a rule
    declares them, are applied by the lift; of ``axis_name`` each parameter's rule has what it says of that parameter,
    :attr:`split`. A rule that says ``elementwise = True`` may be packed, and is compiled
    to one pass over memory where the compiler can.
    """

    title: ClassVar[str]
    state: ClassVar[Callable[..., Any]]
    carried: ClassVar[tuple[str, ...]] = ()  # scalars that go from step to step, float32 as torch keeps them
    sparse_hint: ClassVar[str] = ""
    takes_rows: ClassVar[bool] = False  # whether gradients may be row-sparse
    needs_rows: ClassVar[str] = ""  # what to do with dense gradients instead, if they must be row-sparse
    integer_step: ClassVar[bool] = False  # whether torch's step is a Python int
    complex_hint: ClassVar[str] = ""  # why there are no complex parameters, if there are none
    needs_params: ClassVar[bool] = False  # whether the update reads the parameter, weight decay apart
    counts_steps: ClassVar[bool] = True  # whether torch keeps a step; if not, only the first update is special
    starts_from_options: ClassVar[bool] = False  # whether init and start read numbers among the options
    starts_whole: ClassVar[bool] = False  # whether torch makes the state at construction, not at the first update
    idle_flags: ClassVar[Mapping[str, str]] = {}  # flag -> the number without which it means nothing
    elementwise: ClassVar[bool] = False  # whether every entry of a parameter is updated for itself alone
    static_zeros: ClassVar[tuple[str, ...]] = ()  # the options for which the number 0 means another set of slots

    @classmethod
    def _call_name(cls) -> str:
        return getattr(cls, "title", cls.__name__).lower()

    @classmethod
    def empty(cls) -> Any:
        """A state with nothing in it."""
        fields: tuple[str, ...] = cls.state._fields  # pyright: ignore[reportFunctionMemberAccess] a NamedTuple
        return cls.state(**dict.fromkeys(fields))

    def check_parameter(self, name: str, param: Any) -> None:
        """Raise unless the algorithm can update such a parameter."""
        if self.complex_hint and jnp.issubdtype(param.dtype, jnp.complexfloating):
            raise RuntimeError(f"{self.complex_hint}: the parameter {trees.quote(name)}")

    @property
    def split(self) -> axes.Split:
        """Inside ``shard_map``, the axes over which each dimension of the parameter is split; () where none is."""
        own = vars(self).get("axis_name")
        return own if isinstance(own, tuple) else ()

    def init(self, param: Any, hyperparams: Any) -> Any:
        """The slots of one parameter before its first update; None are the step, what is carried, and other slots."""
        raise NotImplementedError(f"{type(self).__name__} does not define init")  # abstract: every subclass does

    def shapes(self, param: Any) -> Any:
        """What :meth:`init` gives, as shapes and dtypes."""
        return jax.eval_shape(lambda p: self.init(p, self.placeholder()), param)

    def is_linear(self) -> bool:
        """Whether the update is linear in the gradient and touches no slots, so that duplicate rows need no sum."""
        return False

    def moves_all_rows(self) -> bool:
        """Whether rows move that a row-sparse gradient does not name; then it is made dense."""
        return False

    def start(self, hyperparams: Any) -> dict[str, Any]:
        """The scalars in ``carried`` before the first update."""
        del hyperparams
        return {}

    def scalars(self, step: Any, hyperparams: Any) -> Any:
        """The coefficients of update number ``step`` (the first is 1), a pytree of scalars, once for all parameters."""
        raise NotImplementedError(f"{type(self).__name__} does not define scalars")  # abstract: every subclass does

    def carry(self, step: Any, hyperparams: Any, carried: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """:meth:`scalars` of a rule that carries scalars from step to step, and what the next step gets."""
        return self.scalars(step, hyperparams), carried

    def at_dtype(self, scalars: Any, dtype: Any) -> Any:
        """The coefficients for a parameter of this dtype."""
        del dtype
        return scalars

    def update(self, grad: jax.Array, param: Any, slots: Any, scalars: Any) -> tuple[jax.Array, Any]:
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

    def without_decay(self) -> "StepScalars":
        """The coefficients for parameters that do not decay."""
        return StepScalars(self.rule)


def step_scalars(
    rule: Rule, step: Any, hyperparams: Any, carried: dict[str, Any] | None = None
) -> tuple[StepScalars, dict[str, Any]]:
    """The coefficients of update number ``step``, in doubles where all is Python numbers, else traced; and the scalars
    that the next update gets."""
    own, carried = rule.carry(step, hyperparams, carried or {})
    if is_zero(getattr(rule, "weight_decay", 0.0)):
        return StepScalars(own), carried
    decay = hyperparams.weight_decay
    if getattr(rule, "decoupled_weight_decay", False):
        return StepScalars(own, decoupled_decay=hyperparams.lr * decay), carried
    return StepScalars(own, coupled_decay=decay), carried


jax.tree_util.register_dataclass(StepScalars, ["rule", "coupled_decay", "decoupled_decay"], [])


def lift(rule: Rule, foreach: bool = False, decay_mask: Any = None) -> GradientTransformation:
    """The transformation that applies ``rule`` to every leaf of a pytree.

    With ``decay_mask``, a tree of booleans or a function of the dotted path as in :func:`functorch_optim.masked`, the
    rule's weight decay acts only where it is True.

    With ``foreach`` the state of small leaves is packed in flat buffers, one for a slot and dtype, and they are updated
    together: a step of a thousand small leaves then costs less than half. The state is a
    :class:`functorch_optim.ForeachState`, and ``update`` needs ``params``.

    Raises:
        ValueError: ``foreach`` for a rule that is not ``elementwise``, ``decay_mask`` for one without weight decay.
        TypeError: the mask holds something else than booleans. The first time that a class of rules from outside of
            this library comes here, its slips raise too: what it does not define, updates of another form, and, as a
            ValueError, ``elementwise`` claimed wrongly.
    """
    if not type(rule).__module__.startswith("functorch_optim."):  # the library's own are checked by its tests
        from functorch_optim.rule_checks import check_once  # it is about rules

        check_once(rule)
    if foreach and not rule.elementwise:
        raise ValueError(f"foreach=True joins parameters, and {rule.title} does not update every entry for itself")
    if decay_mask is not None and not hasattr(rule, "weight_decay"):
        raise ValueError(f"decay_mask says where weights decay, but {rule.title} has no weight_decay")
    mask = None if decay_mask is None else as_mask("decay_mask", decay_mask)
    if foreach:
        from functorch_optim.packing import Packed  # it is made of Lifted

        return transformation(Packed(rule, mask))
    return transformation(Lifted(rule, mask))


LeafUpdate = Callable[[Any, Any, Any], tuple[Any, Any]]


class Aligned(NamedTuple):
    """The leaves of an update: gradients, parameters (None where they were not given), rows of slots, and whether the
    parameter decays."""

    treedef: Any
    grads: list[Any]
    params: list[Any]
    slots: list[Any]
    decays: list[bool]


class Lifted(Transform):
    """A :class:`Rule` over a pytree. The state is the rule's NamedTuple with a tree in every slot, and one step."""

    rule: Rule
    decay_mask: Labels | None = None

    def __repr__(self) -> str:
        return self._repr()

    def _repr(self, more: str = "") -> str:
        mask = "" if self.decay_mask is None else f", decay_mask={self.decay_mask!r}"
        return f"{repr(self.rule)[:-1]}{mask}{more})"

    def init(self, params: Any) -> Any:
        variables.check_parameters(params)
        names, leaves, treedef = trees.named_leaves(params)
        for name, leaf in zip(names, leaves, strict=True):
            trees.check_parameter(name, leaf)
            self.rule.check_parameter(name, leaf)
        self.decays(params)  # a mask of another structure raises at once
        # Only what needs them reads the options here: a schedule may be one that takes nothing but a traced step.
        first = self.rule.at(jnp.zeros((), jnp.int32)) if self.rule.starts_from_options else self.rule.placeholder()
        carried = {name: jnp.asarray(value, jnp.float32) for name, value in self.rule.start(first).items()}
        own = [
            algorithm.rule.init(leaf, first)
            for algorithm, leaf in zip(self.of_leaves(treedef, leaves), leaves, strict=True)
        ]
        return self.state_of(treedef, own, jnp.zeros((), jnp.int32), carried)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del extra
        scalars, state = self.advanced(state)
        return self.update_with(scalars, updates, state, params)

    def advanced(self, state: Any) -> tuple[StepScalars, Any]:
        """The coefficients of the next step, and the state with that step's count and scalars."""
        step = next_step(state.step)
        before = {name: getattr(state, name) for name in self.rule.carried}
        scalars, carried = step_scalars(self.rule, step, self.rule.at(state.step), before)
        return scalars, state._replace(step=step, **carried)

    def hyperparams(self, state: Any) -> dict[str, Any]:
        return self.rule.hyperparams_at(state.step)

    def effects(self, at: Leaves | None) -> list[Effects]:
        return for_each(at, (Effect(Kind.STEPS, self.rule._call_name()),))

    def update_with(self, scalars: StepScalars, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """The update with coefficients made elsewhere (on the host, say); ``state``'s own scalars stay as they are."""
        aligned = self.aligned(scalars, grads, state, params)
        algorithms = self.of_leaves(aligned.treedef, aligned.grads)
        updates = {id(algorithm): algorithm.leaf_updates(scalars, aligned.decays) for algorithm in algorithms}
        leaves = zip(algorithms, aligned.grads, aligned.params, aligned.slots, aligned.decays, strict=True)
        results = [updates[id(own)][decays](grad, param, row) for own, grad, param, row, decays in leaves]
        deltas = jax.tree.unflatten(aligned.treedef, [delta for delta, _ in results])
        carried = {name: getattr(state, name) for name in self.rule.carried}
        return deltas, self.state_of(aligned.treedef, [row for _, row in results], state.step, carried)

    def of_leaves(self, treedef: Any, leaves: list[Any]) -> "list[Lifted]":
        """The algorithm of each leaf: this one, or where the leaf is split over axes of a mesh, one that knows how."""
        options = vars(self.rule)
        if "axis_name" not in options:  # a rule that does not look beyond single entries
            return [self] * len(leaves)
        those_there = iter(axes.splits(options["axis_name"], treedef.unflatten(leaves), self.rule.title))
        splits = [() if leaf is None else next(those_there) for leaf in leaves]
        known = {split: Lifted(replace(self.rule, axis_name=split)) if split else self for split in splits}
        return [known[split] for split in splits]

    def aligned(self, scalars: StepScalars, grads: Any, state: Any, params: Any) -> "Aligned":
        """What an update is given, leaf by leaf, checked."""
        if params is None and (scalars.needs_params or self.rule.needs_params):
            why = "" if self.rule.needs_params else " with weight decay"
            raise ValueError(f"{self.rule.title}{why} needs the parameters: update(grads, state, params)")
        slots = {name: getattr(state, name) for name in self.slot_names}
        # The structure comes from what is known to be whole: the parameters, else a slot; gradients may hold None.
        reference = next((tree for tree in (params, *slots.values()) if tree is not None), None)
        if reference is None:
            names, grad_leaves, treedef = trees.named_leaves(grads, none_is_leaf=True)
            models = grad_leaves = [None if trees.is_absent(grad) else grad for grad in grad_leaves]
            for name, grad in zip(names, grad_leaves, strict=True):
                trees.check_update(name, grad, grad, self.rule.title, self.rule.sparse_hint, rows=self.rule.takes_rows)
        else:
            models, grad_leaves, treedef = trees.pair(
                reference, grads, self.rule.title, self.rule.sparse_hint, rows=self.rule.takes_rows
            )
            names = trees.named_leaves(reference)[0] if self.rule.takes_rows else []
        decays = self.decays(params) if scalars.needs_params else [False] * len(models)
        if self.rule.takes_rows:  # the others have refused by now what is not dense
            for name, grad, decayed in zip(names, grad_leaves, decays, strict=True):
                self.check_gradient(name, grad, decayed and scalars.coupled_decay is not None)
        param_leaves = models if params is not None else [None] * len(models)
        slot_leaves = {name: trees.align(reference, tree, f"slots {name}") for name, tree in slots.items()}
        empty = self.rule.empty()
        held = [
            empty._replace(**{name: leaves[index] for name, leaves in slot_leaves.items()})
            for index in range(len(models))
        ]
        return Aligned(treedef, grad_leaves, param_leaves, held, decays)

    def decays(self, params: Any) -> list[bool]:
        """Whether each parameter decays, where the rule has a weight decay."""
        if self.decay_mask is None:
            return [True] * len(jax.tree.leaves(params))
        return flags_of("decay_mask", self.decay_mask, params)

    @functools.cached_property
    def slot_names(self) -> list[str]:
        """The slots that some parameter has with these options."""
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((), (1, 1))]
        one, other = (self.rule.shapes(shape) for shape in shapes)
        return [name for name in one._fields if getattr(one, name) is not None or getattr(other, name) is not None]

    def state_of(self, treedef: Any, own: list[Any], step: Any, carried: dict[str, Any]) -> Any:
        """The state of a whole tree, of the parameters' own states in the order of its leaves (None without one)."""
        slots = {name: treedef.unflatten([getattr(row, name, None) for row in own]) for name in self.slot_names}
        return self.rule.empty()._replace(step=step, **carried, **slots)

    def check_gradient(self, name: str, grad: Any, decayed: bool) -> None:
        """Raise if the algorithm has no update for a dense gradient, or with weight decay for a row-sparse one."""
        if grad is not None and self.rule.needs_rows and not rows.is_rows(grad):
            raise RuntimeError(
                f"{self.rule.title} does not support dense gradients, {self.rule.needs_rows}: the parameter "
                f"{trees.quote(name)}"
            )
        if decayed and rows.is_rows(grad):
            raise RuntimeError(
                f"weight_decay option is not compatible with sparse gradients: the parameter {trees.quote(name)}"
            )

    def leaf_updates(self, scalars: StepScalars, decays: Iterable[bool]) -> dict[bool, LeafUpdate]:
        """:meth:`leaf_update` for parameters that decay and for those that do not, as far as there are any."""
        return {own: self.leaf_update(scalars if own else scalars.without_decay()) for own in set(decays)}

    def leaf_update(self, scalars: StepScalars, decayed: Any = None) -> LeafUpdate:
        """``(grad, param, slots) -> (delta, slots)`` of one parameter; without a gradient None and the slots as they
        are. Where it is traced, it is once for all parameters of a shape and dtype. An array ``decayed`` says which
        entries decay, all by default."""
        plain = functools.partial(self._update_leaf, scalars=scalars, decayed=decayed)
        compiled = jax.jit(functools.partial(_in_one_pass, plain) if self.rule.elementwise and one_pass() else plain)

        def update(grad: Any, param: Any, slots: Any) -> tuple[Any, Any]:
            if grad is None:
                return None, slots
            if rows.is_rows(grad):
                return self._update_rows(grad, param, slots, scalars)
            traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((grad, param, slots)))
            return (compiled if traced else plain)(grad, param, slots)

        return update

    def _update_leaf(
        self, grad: Any, param: Any, slots: Any, scalars: StepScalars, one: Any = None, decayed: Any = None
    ) -> tuple[Any, Any]:
        """The update of one parameter by a dense gradient; all that goes in is multiplied by ``one``."""
        if jnp.issubdtype(grad.dtype, jnp.complexfloating):
            both = [jax.tree.map(part, (grad, param, slots)) for part in (jnp.real, jnp.imag)]
            real, imag = (self._update_leaf(g, p, s, scalars, one, decayed) for g, p, s in both)
            return jax.tree.map(jax.lax.complex, real, imag)
        dtype = trees.compute_dtype(grad, param, *jax.tree.leaves(slots))
        g, p, wide = jax.tree.map(lambda x: jnp.asarray(x, dtype), (grad, param, slots))
        if one is not None:
            g, p, wide = jax.tree.map(lambda x: x * one.astype(dtype), (g, p, wide))
        own = self.rule.at_dtype(scalars.rule, dtype if param is None else param.dtype)
        s = jax.tree.map(lambda x: coefficient(x, dtype), replace(scalars, rule=own))
        if getattr(self.rule, "maximize", False):
            g = -g
        if s.coupled_decay is not None:
            g = _where(decayed, g + s.coupled_decay * p, g)
        delta, new = self.rule.update(g, p, wide, s.rule)
        if s.decoupled_decay is not None:
            delta = _where(decayed, delta - decay_of(s.decoupled_decay, p), delta)
        return delta, jax.tree.map(lambda x, old: x.astype(old.dtype), new, slots)

    def _update_rows(self, grad: Any, param: Any, slots: Any, scalars: StepScalars) -> tuple[Any, Any]:
        """:meth:`_update_leaf` on the rows that the gradient names; the update is row-sparse too."""
        dtype = trees.compute_dtype(grad)
        wide = rows.map_values(lambda x: x.astype(dtype), grad)
        if self.rule.moves_all_rows():
            return self._update_leaf(wide.todense(), param, slots, scalars)
        once = wide if self.rule.is_linear() else rows.summed(wide)
        touched = rows.indices_of(once)
        row_param, row_slots = jax.tree.map(lambda x: rows.take(x, touched), (param, slots))
        delta, new = self._update_leaf(once.data, row_param, row_slots, scalars)
        moved = rows.make(delta, touched, grad.shape, unique=once.unique_indices, ordered=once.indices_sorted)
        return moved, jax.tree.map(lambda x, part: rows.put(x, touched, part), slots, new)


def _where(decayed: Any, with_decay: jax.Array, without: jax.Array) -> jax.Array:
    return with_decay if decayed is None else jnp.where(decayed, with_decay, without)


def _in_one_pass(update: Callable[..., Any], grad: Any, param: Any, slots: Any) -> tuple[Any, Any]:
    """The update once for every result, of which only that one is taken: so none depends on another, and the compiler
    writes all of them in one pass over memory. Each begins with a product by a one that the compiler does not know,
    which keeps it from seeing that the updates are the same. (A barrier around the arrays would keep passes apart.)"""
    delta, _ = update(grad, param, slots)
    one, new = jnp.ones((), jnp.float32), {}
    for name in [name for name, slot in slots._asdict().items() if slot is not None]:
        one = jax.lax.optimization_barrier(one)
        new[name] = getattr(update(grad, param, slots, one=one)[1], name)
    return delta, slots._replace(**new)


def coefficient(value: Any, dtype: Any) -> Any:
    """A real coefficient rounded once to the precision of the calculation: a constant where it is known."""
    real = jnp.finfo(dtype).dtype
    return (jnp.asarray(value, real) if isinstance(value, jax.Array) else real.type(value)).astype(dtype)


def next_step(step: jax.Array) -> jax.Array:
    """``step + 1``, staying at int32's largest value instead of wrapping."""
    return jnp.where(step < np.iinfo(np.int32).max, step + 1, step)


def zeros_like(param: Any) -> jax.Array | None:
    """A slot: zeros in a buffer of its own, with the parameter's shape and sharding, never weakly typed.

    Its dtype is that of :func:`functorch_optim.trees.slot_dtype`: the parameter's, but for float16 float32.
    """
    return None if param is None else jnp.zeros_like(param, dtype=trees.slot_dtype(param))


def full_like(param: Any, value: Any) -> jax.Array | None:
    """A slot filled with ``value``, in a complex one with ``value + value * 1j``."""
    if param is None:
        return None
    if jnp.issubdtype(param.dtype, jnp.complexfloating):
        part = jnp.full_like(param, value, dtype=jnp.finfo(param.dtype).dtype)
        return jax.lax.complex(part, part)
    return jnp.full_like(param, value, dtype=trees.slot_dtype(param))


def decay_of(decay: jax.Array, param: jax.Array) -> jax.Array:
    """``decay * param``, which is to be subtracted. An infinite entry stays: ``inf - inf`` would make it NaN."""
    return decay * jnp.where(jnp.isfinite(param), param, 0)


def lerp(start: jax.Array, end: jax.Array, beta: Beta) -> jax.Array:
    """``beta * start + (1 - beta) * end`` as torch's lerp with weight ``1 - beta`` forms it."""
    weight = beta.complement
    return jnp.where(weight < 0.5, start + weight * (end - start), end - (end - start) * beta.value)


def average_of_squares(start: jax.Array, end: jax.Array, beta: Beta) -> jax.Array:
    """``beta * start + (1 - beta) * end**2``; the square's product is the one a fused multiply-add leaves unrounded."""
    return beta.complement * end * end + beta.value * start


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
