"""A rule over a pytree: its state, the arguments of an update, and the combined updates of the leaves."""

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, rows, trees, variables
from functorch_optim.base import Transform
from functorch_optim.core.leaf import Joint, LeafUpdate, decayed_apart, is_joint, joint_updates, leaf_update
from functorch_optim.core.numerics import coefficient, next_step
from functorch_optim.core.rule import Rule, StepScalars, carried_dtype, step_scalars
from functorch_optim.effects import Effect, Effects, Kind, Leaves, for_each
from functorch_optim.labels import Labels, decaying, warn_of_empty
from functorch_optim.typing import Numeric, PyTree, TreeDef


class Aligned(NamedTuple):
    """The leaves of an update: gradients, parameters (None if not given), rows of slots, and whether each decays."""

    treedef: TreeDef
    grads: list[PyTree]
    params: list[PyTree]
    slots: list[PyTree]
    decays: list[bool]


class Lifted(Transform):
    """A :class:`Rule` over a pytree. The state is the rule's NamedTuple with a tree in each slot, and a single step."""

    rule: Rule
    decay_mask: Labels | None = None

    def __repr__(self) -> str:
        return self._repr()

    def _repr(self, more: str = "") -> str:
        mask = "" if self.decay_mask is None else f", decay_mask={self.decay_mask!r}"
        return f"{repr(self.rule)[:-1]}{mask}{more})"

    def init(self, params: PyTree) -> PyTree:
        variables.check_parameters(params)
        names, leaves, treedef = trees.named_leaves(params)
        for name, leaf in zip(names, leaves, strict=True):
            trees.check_parameter(name, leaf)
        algorithms = self.of_leaves(treedef, leaves)
        for name, leaf, algorithm in zip(names, leaves, algorithms, strict=True):
            algorithm.rule.check_parameter(name, leaf)
        self.decays(params)  # a mask of another structure raises at once
        if self.decay_mask is not None and self.rule.has_decay:
            warn_of_empty("decay_mask", self.decay_mask, params)
        # Read the options only if the rule needs them: a schedule may accept only a traced step.
        first = self.rule.at(jnp.zeros((), jnp.int32)) if self.rule.starts_from_options else self.rule.placeholder()
        carried = self.as_kept(self.rule.start(first))
        own = [algorithm.rule.init(leaf, first) for algorithm, leaf in zip(algorithms, leaves, strict=True)]
        return self.state_of(treedef, own, jnp.zeros((), jnp.int32), carried)

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del extra
        scalars, state = self.advanced(state)
        return self.update_with(scalars, updates, state, params)

    def update_apart(
        self, updates: PyTree, state: PyTree, params: PyTree, **extra: object
    ) -> tuple[PyTree, Callable[[PyTree], PyTree], PyTree]:
        """Return what :meth:`update` does, but the decoupled weight decay as a function that subtracts it."""
        del extra
        scalars, state = self.advanced(state)
        if scalars.decoupled_decay is None:
            deltas, state = self.update_with(scalars, updates, state, params)
            return deltas, lambda tree: tree, state
        if params is None:
            raise ValueError(f"{self.rule.title} with weight decay needs the parameters: update(grads, state, params)")
        deltas, state = self.update_with(scalars._replace(decoupled_decay=None), updates, state, params)

        def decayed(tree: PyTree) -> PyTree:
            leaves, moves, treedef = trees.pair(params, tree, self.rule.title, what="update")
            each = zip(leaves, moves, self.decays(params), strict=True)
            return treedef.unflatten(
                [self._decayed(scalars, p, move) if decays and move is not None else move for p, move, decays in each]
            )

        return deltas, decayed, state

    def _decayed(self, scalars: StepScalars, param: jax.Array, move: jax.Array) -> jax.Array:
        decay = scalars._replace(rule=None)
        own = jax.tree.map(lambda x: coefficient(x, move.dtype), decay)
        return decayed_apart(self.rule, own, move, param.astype(move.dtype))

    def advanced(self, state: PyTree) -> tuple[StepScalars, PyTree]:
        """Return the coefficients of the next step, and the state with that step's count and carried scalars."""
        step = next_step(state.step)
        before = {name: getattr(state, name) for name in self.rule.carried}
        scalars, carried = step_scalars(self.rule, step, self.rule.at(state.step), before)
        return scalars, state._replace(step=step, **self.as_kept(carried))

    def as_kept(self, carried: dict[str, Numeric]) -> dict[str, PyTree]:
        """Return carried scalars as arrays of the dtype in which a state has them."""
        dtype = jax.dtypes.canonicalize_dtype(carried_dtype(self.rule))
        return {name: jnp.asarray(value, dtype) for name, value in carried.items()}

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        return self.rule.hyperparams_at(state.step)

    def acts_by_leaf(self) -> bool:
        return not self.rule.elementwise or self.decay_mask is not None

    def effects(self, at: Leaves | None) -> list[Effects]:
        each = for_each(at, self.effects_as(Kind.STEPS, self.rule._call_name()))
        if at is None:
            return each
        _, leaves, treedef = trees.named_leaves(at.tree, none_is_leaf=True)
        own = self.rule.options_of(treedef.unflatten(range(len(leaves))))
        details = [self.rule.detail(leaf, options) for leaf, options in zip(leaves, own, strict=True)]
        return [
            tuple(effect._replace(detail=detail) for effect in effects) if detail else effects
            for effects, detail in zip(each, details, strict=True)
        ]

    def effects_as(self, kind: Kind, who: str) -> Effects:
        """The effects of a transformation ``who`` of this kind that is made of the rule."""
        rule = self.rule
        apart = [Effect(Kind.SHRINKS, who)] * (rule.has_decay and getattr(rule, "decoupled_weight_decay", False))
        ascends = [Effect(Kind.ASCENDS, who)] * getattr(rule, "maximize", False)
        remembers = [Effect(Kind.REMEMBERS, who)] * bool(self.slot_names)
        follows = [Effect(Kind.FOLLOWS, who)] * (rule.comes_last() and kind is Kind.STEPS)
        normalizes = [Effect(Kind.NORMALIZES, who)] * rule.normalizes
        return (*apart, *ascends, *remembers, *normalizes, Effect(kind, who), *follows)

    def update_with(self, scalars: StepScalars, grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        """Update with coefficients from elsewhere, for example from the host; ``state``'s own scalars stay."""
        aligned = self.aligned(scalars, grads, state, params)
        algorithms = self.of_leaves(aligned.treedef, aligned.grads)
        leaves = list(zip(algorithms, aligned.decays, aligned.grads, aligned.params, aligned.slots, strict=True))
        if is_joint(self.rule, aligned.grads):
            each = {True: scalars, False: scalars.without_decay()}
            results = joint_updates([Joint(own.rule, each[decays], *leaf) for own, decays, *leaf in leaves])
        else:
            updates = {id(algorithm): algorithm.leaf_updates(scalars, aligned.decays) for algorithm in algorithms}
            results = [updates[id(own)][decays](*leaf) for own, decays, *leaf in leaves]
        deltas = jax.tree.unflatten(aligned.treedef, [delta for delta, _ in results])
        carried = {name: getattr(state, name) for name in self.rule.carried}
        return deltas, self.state_of(aligned.treedef, [row for _, row in results], state.step, carried)

    def of_leaves(self, treedef: TreeDef, leaves: list[PyTree]) -> "list[Lifted]":
        """Return each leaf's algorithm: this one, or one that knows the leaf's own options and mesh axes."""
        options = vars(self.rule)
        if "axis_name" not in options:  # a rule that never looks beyond single entries
            return [self] * len(leaves)
        tree, title = treedef.unflatten(leaves), self.rule.title
        present = iter(axes.splits(options["axis_name"], tree, title, automatic=self.rule.joint))
        known: dict[Hashable, Lifted] = {}
        algorithms: list[Lifted] = []
        places = treedef.unflatten(range(len(leaves)))
        for leaf, own in zip(leaves, self.rule.options_of(places), strict=True):
            split = () if leaf is None else next(present)
            changes = {**own, **({"axis_name": split} if split else {})}
            key = tuple(changes.items())
            if key not in known:
                known[key] = Lifted(replace(self.rule, **changes)) if changes else self
            algorithms.append(known[key])
        return algorithms

    def aligned(self, scalars: StepScalars, grads: PyTree, state: PyTree, params: PyTree) -> "Aligned":
        """Check the arguments of an update, and align them leaf by leaf."""
        if params is None and (scalars.needs_params or self.rule.needs_params):
            why = "" if self.rule.needs_params else " with weight decay"
            raise ValueError(f"{self.rule.title}{why} needs the parameters: update(grads, state, params)")
        slots = {name: getattr(state, name) for name in self.slot_names}
        # Take the structure from a complete tree: the parameters, else a slot; gradients may contain None.
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
        if self.rule.takes_rows:  # other rules have already rejected sparse gradients
            for name, grad, decayed in zip(names, grad_leaves, decays, strict=True):
                self.check_gradient(name, grad, decayed and scalars.coupled_decay is not None)
        param_leaves = models if params is not None else [None] * len(models)
        slot_leaves = {name: trees.align(reference, tree, f"slots {name}") for name, tree in slots.items()}
        empty = self.rule.empty()
        slot_rows = [
            empty._replace(**{name: leaves[index] for name, leaves in slot_leaves.items()})
            for index in range(len(models))
        ]
        return Aligned(treedef, grad_leaves, param_leaves, slot_rows, decays)

    def decays(self, params: PyTree) -> list[bool]:
        """Whether each parameter decays, if the rule has a weight decay."""
        return decaying(self.decay_mask, params)

    @functools.cached_property
    def slot_names(self) -> list[str]:
        """The names of the slots that a parameter may have with these options."""
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.rule.samples()]
        held = [self.rule.shapes(shape) for shape in shapes]
        return [name for name in held[0]._fields if any(getattr(slots, name) is not None for slots in held)]

    def state_of(
        self, treedef: TreeDef | trees.Structure, own: list[PyTree], step: Numeric, carried: dict[str, PyTree]
    ) -> PyTree:
        """Build the state of a whole tree from the parameters' own states in leaf order (None for one without)."""
        slots = {name: treedef.unflatten([getattr(row, name, None) for row in own]) for name in self.slot_names}
        return self.rule.empty()._replace(step=step, **carried, **slots)

    def check_gradient(self, name: str, grad: PyTree, decayed: bool) -> None:
        """Raise if the rule takes no dense gradient, or with weight decay no row-sparse one."""
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
        """Return a :meth:`leaf_update` for each value in ``decays``: with weight decay for True, without for False."""
        return {own: self.leaf_update(scalars if own else scalars.without_decay()) for own in set(decays)}

    def updated(self, scalars: StepScalars, leaves: Sequence[tuple[PyTree, PyTree, PyTree]]) -> list[PyTree]:
        """Update leaves ``(grad, param, slots)`` that share a step's coefficients: ``(delta, slots)`` of each."""
        if is_joint(self.rule, [grad for grad, _, _ in leaves]):
            return joint_updates([Joint(self.rule, scalars, *leaf) for leaf in leaves])
        update = self.leaf_update(scalars)
        return [update(*leaf) for leaf in leaves]

    def leaf_update(self, scalars: StepScalars, decayed: PyTree = None) -> LeafUpdate:
        """Return the update of one parameter, the rule's :func:`functorch_optim.core.leaf.leaf_update`."""
        return leaf_update(self.rule, scalars, decayed)
