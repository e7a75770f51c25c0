"""The step of an optimizer: check gradients, read groups, and make one compiled call, whole or not at all."""

import functools
import itertools
import operator
import threading
import types
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.profiler import TraceAnnotation

from functorch_optim import rows, trees, variables
from functorch_optim.optim.by_loss import by_closure
from functorch_optim.optim.clipping import clipped
from functorch_optim.optim.engine.assembly import Grads, leaves_of
from functorch_optim.optim.engine.none import NoAlgorithm
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.protocol import Engine
from functorch_optim.optim.hooks import EVERY_STEP, Hook, Hooked
from functorch_optim.optim.layout import Layout, check_groups
from functorch_optim.optim.loss_errors import aligned
from functorch_optim.optim.losses import CompiledLosses, is_closure, takes_parameters
from functorch_optim.optim.lost import check_alive
from functorch_optim.optim.options import is_constant, read_options
from functorch_optim.optim.ownership import own_beside
from functorch_optim.optim.transaction import Call, Transaction
from functorch_optim.optim.views import ParamGroups, Watched, unwatch_on_error
from functorch_optim.torch_tensors import as_array
from functorch_optim.tracing import OUTSIDE, TRACED, refuse_traced, trace_state
from functorch_optim.typing import Numeric, OptionValues, PyTree

_aval = operator.attrgetter("aval")
_running = threading.local()  # the optimizers whose step this thread is in


def _with_hooks(step: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Wrap a class's ``step``: run the hooks around it, and show it in JAX's profiler under torch's name."""

    @functools.wraps(step)
    def wrapped(self: Hooked, *args: object, **kwargs: object) -> PyTree:
        outer: tuple[PyTree, ...] = getattr(_running, "optimizers", ())
        if any(optimizer is self for optimizer in outer):  # a subclass's step that calls its base's
            return step(self, *args, **kwargs)
        try:
            _running.optimizers = (*outer, self)
            with TraceAnnotation(f"Optimizer.step#{type(self).__name__}.step"):
                args, kwargs = (self, *args), dict(kwargs)
                for hook in [*EVERY_STEP.step_pre.values(), *self._hooks.step_pre.values()]:
                    args, kwargs = _replaced(hook, hook(self, args, kwargs), args, kwargs)
                result = step(*args, **kwargs)
                for hook in [*self._hooks.step_post.values(), *EVERY_STEP.step_post.values()]:
                    hook(self, args, kwargs)
                return result
        finally:
            _running.optimizers = outer

    return wrapped


def _replaced(hook: Hook, result: PyTree, args: PyTree, kwargs: object) -> tuple[PyTree, PyTree]:
    if result is None:
        return args, kwargs
    if not (isinstance(result, tuple) and len(result) == 2):
        raise RuntimeError(f"{hook} must return None or a tuple of (new_args, new_kwargs), but got {result}.")
    return result


class GroupRead:
    """The record of a group, which is valid until someone writes into the group, or into a dict in it."""

    __slots__ = ("_dicts", "_keys", "_values", "record")

    def __init__(self, group: OptionValues, record: Any) -> None:
        self._keys, self._values = list(group), list(group.values())
        self._dicts = [(value, GroupRead(value, None)) for value in self._values if isinstance(value, dict)]
        self.record = record

    def holds(self, group: OptionValues) -> bool:
        """Whether the group has the same keys and the very same values."""
        same = list(group) == self._keys and all(map(operator.is_, group.values(), self._values))
        return same and all(read.holds(value) for value, read in self._dicts)


class Stepping(Hooked):
    """The part of an optimizer that steps. The other parts build on it."""

    defaults: dict[str, PyTree]
    param_groups: list[dict[str, PyTree]]
    _engine: Engine[Any]
    _layout: Layout
    _held: Leaves
    _grads: Grads | None
    _watched_params: list[Watched]  # trees of the parameters that the user may have written into
    _watched_grads: list[Watched]
    _checked: object  # the types of the gradients that last passed the checks
    _counts: list[int]  # the update count of each group
    _read: list[GroupRead]  # what the last step read of each group
    _losses: CompiledLosses
    _transaction: Transaction
    _lent: bool  # whether functional() gave the arrays away, until restore()
    _made_under: object  # the trace in which the optimizer was created
    _opt_called: bool
    _grad_norm: jax.Array | None

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if isinstance(vars(cls).get("step"), types.FunctionType):
            cls.step = _with_hooks(vars(cls)["step"])

    @_with_hooks
    def step(
        self,
        closure: Any = None,
        *args: PyTree,
        has_aux: bool = False,
        clip_norm: Numeric | None = None,
        batches: PyTree = None,
    ) -> PyTree:
        """Update the parameters.

        Args:
            closure: gradients in the parameters' structure, as :func:`jax.grad` returns them, with None to leave a
                parameter alone; or a function ``closure(params, *args)`` that returns the loss, to differentiate and
                compile together with the update (pass what changes as arguments); or a function without arguments, to
                call as torch does before using :attr:`grads`; or nothing, to use :attr:`grads`.
            *args: further arguments of the closure.
            has_aux: whether ``closure(params, *args)`` returns a pair of the loss and a tree of arrays.
            clip_norm: the largest norm of all gradients together, at least 0, those of frozen groups excepted: they are
                clipped as by :func:`functorch_optim.optim.utils.clip_grad_norm`, and :attr:`grad_norm` has the norm
                before that. :attr:`grads` stay unclipped.
            batches: arrays with an axis of micro-batches in front. The closure gets one micro-batch after ``args``, a
                plain tuple as several arguments. One update then uses the mean of all losses and gradients.

        Returns:
            The loss, if a closure was given; with ``has_aux`` the pair, of micro-batches with every second part.

        A parameter without a gradient is skipped entirely: its value, slots and step count stay. So is every parameter
        of a group whose option ``frozen`` is True. A closure that takes parameters leaves :attr:`grads` as they are.

        Raises:
            ValueError, TypeError: the gradients do not fit the parameters; the message names the parameter. A keyword
                is out of range, needs a closure that takes the parameters, or does not go with a transformation that
                evaluates the loss itself.
            RuntimeError: a gradient is sparse, or the call is inside a traced function.

        Example:
            >>> from functorch_optim import optim
            >>> optimizer = optim.SGD({"w": jnp.array([3.0, 4.0])}, lr=1.0)
            >>> loss = lambda params, x: x * jnp.sum(params["w"] ** 2) / 2
            >>> optimizer.step(loss, 1.0, clip_norm=1.0).item(), optimizer.grad_norm.item()
            (12.5, 5.0)
            >>> round(optimizer.step(loss, batches=jnp.array([1.0, 3.0])).item(), 4)
            16.0
        """
        more = bool(args) or batches is not None or has_aux
        loss = grads = None
        if closure is not None and self._is_closure(closure):
            if more or takes_parameters(closure):
                return by_closure(self, closure, args, batches, has_aux, clip_norm)
            loss = closure()
        elif more:
            raise TypeError(f"{type(self).__name__}.step: args, batches and has_aux go with a closure(params, ...)")
        elif closure is not None:
            grads = self._aligned(closure)
        self._step(grads, clip_norm)
        return loss

    def _need_engine(self) -> None:
        if isinstance(self._engine, NoAlgorithm):
            self._engine.refuse()

    def _frozen(self) -> frozenset[int]:
        """The leaves in frozen groups; none where ``frozen`` is an option of the transformation itself."""
        frozen = {index for index, group in enumerate(self.param_groups) if group.get("frozen")}
        if not frozen or "frozen" in self.defaults:
            return frozenset()
        return frozenset(leaf for leaf, group in enumerate(self._layout.group_of) if group in frozen)

    def _is_closure(self, given: object) -> bool:
        return callable(given) and is_closure(given, self._layout.structure)

    def _step(self, grads: Grads | None, clip_norm: Numeric | None = None) -> None:
        """Update with these gradients, or with the accumulated ones."""
        with self._transaction.change_lock:
            self._need_engine()
            self._settle()
            used = (self._grads or []) if grads is None else grads
            if frozen := self._frozen():
                used = [None if leaf in frozen else grad for leaf, grad in enumerate(leaves_of(used))]
            if clip_norm is not None:
                used = clipped(self, clip_norm, used)
            marks = used if isinstance(used, list) else used.marks()
            present = map(operator.is_not, marks, itertools.repeat(None))
            updated = set(itertools.compress(self._layout.group_of, present))
            if updated:
                self._refuse_tracing()
                self._change(functools.partial(self._call, used), updated)
            self._opt_called = True

    def _call(self, grads: Grads) -> Call:
        """Return the compiled call that updates with these gradients."""
        engine, records = self._engine, self._records()
        in_place = not self.defaults.get("differentiable")  # differentiation needs the old arrays
        if in_place and engine.warm is not None and engine.warm.serves(self._held, grads, records):
            return engine.warm.call(self._held, grads, records)
        return engine.step(self._layout, self._held, grads, records, in_place)

    def _change(self, make: Callable[[], Call], updated: Collection[int], careful: bool = True) -> PyTree:
        """Make a call as one change (:meth:`Transaction.run`), and count an update for the groups ``updated``."""
        with self._transaction.change_lock:
            self._settle()
            watched: list[Watched] = []
            try:
                compiled, arguments, commit = make()
                # Outdated from now on, unless the call fails. Nothing but the user may hold the arrays beside us.
                watched = [tree for tree in self._watched_params if tree.has_other_holders()]
                self._watched_params = []

                def commit_and_count(result: PyTree) -> None:
                    commit(result)
                    for group in updated:
                        self._counts[group] += 1
                    self._opt_called = True
                    watched.clear()

                return self._transaction.run(compiled, arguments, commit_and_count, careful)
            except (RuntimeError, ValueError):
                self._check_alive()
                raise
            finally:
                self._watched_params += watched

    def _records(self) -> list[Any]:
        """Return every group's record; rebuild them only after someone has written into a group."""
        groups, read = self.param_groups, self._read
        if len(read) == len(groups) and type(groups) is ParamGroups and all(map(GroupRead.holds, read, groups)):
            return [each.record for each in read]
        check_groups(self.param_groups, self)
        records, constant = [], True
        for index, (group, count) in enumerate(zip(self.param_groups, self._counts, strict=True)):
            options = self._read_options(group, count, index)
            records.append(self._engine.record(options, index))
            constant = constant and all(is_constant(group[name]) for name in options)
        self._read = list(map(GroupRead, self.param_groups, records)) if constant else []
        return records

    def _read_options(self, group: OptionValues, count: int, index: int) -> dict[str, PyTree]:
        """Return the options that the engine reads of a group, with numbers at this update count."""
        names, numbers = self._engine.reads(group)
        values = read_options(group, names, numbers, self._engine.strict, count, index)
        self._refuse_traced(list(values.values()))
        return values

    @property
    def _leaves(self) -> list[jax.Array]:
        """The current parameters in leaf order."""
        self._settle()
        return self._held.arrays()

    @property
    def _gradients(self) -> list[PyTree] | None:
        """The accumulated gradients in leaf order."""
        self._settle()
        return None if self._grads is None else leaves_of(self._grads)

    def _tree(self) -> PyTree:
        """Return the current parameters in their structure, without watching the tree."""
        with self._transaction.handoff_lock:
            return self._layout.structure.unflatten(self._leaves)

    def _settle(self) -> None:
        """Apply what the user has written into the trees that were handed out."""
        if not self._watched_params and not self._watched_grads:
            return
        with self._transaction.handoff_lock:
            for watched in tuple(self._watched_params):
                with unwatch_on_error(self._watched_params, watched):
                    leaves, whole = watched.written(self._layout.structure, self._held.arrays(), "parameters")
                    if whole is not None:
                        held = self._taken(self._layout.structure.unflatten(whole))
                        self._held, watched.leaves = held, leaves
            for watched in tuple(self._watched_grads):
                with unwatch_on_error(self._watched_grads, watched):
                    present = leaves_of(self._grads) or [None] * len(self._layout.group_of)
                    leaves, whole = watched.written(self._layout.structure, present, "gradients")
                    if whole is not None:
                        grads = self._aligned(self._layout.structure.unflatten(map(as_array, whole)))
                        self._grads, watched.leaves = grads, leaves

    def _taken(self, params: PyTree) -> Leaves:
        """Check and copy new values of the parameters."""
        self._refuse_tracing()
        models = self._held.arrays()
        present = self._layout.structure.unflatten(models)
        leaves = trees.align(present, variables.fitted(params, present), "new values")
        leaves = [leaf if leaf is model else as_array(leaf) for leaf, model in zip(leaves, models, strict=True)]
        self._refuse_traced(leaves)
        for name, leaf, model in zip(self._layout.labels, leaves, models, strict=True):
            trees.check_update(name, leaf, model, type(self).__name__, what="new value")
            if leaf is None or leaf.dtype != model.dtype:
                found = None if leaf is None else leaf.dtype
                raise TypeError(f"the parameter {trees.quote(name)} is {model.dtype}, the new value is {found}")
        pairs = zip(leaves, models, strict=True)
        return Leaves(leaf if leaf is model else own_beside(leaf, model) for leaf, model in pairs)

    def _aligned(self, grads: PyTree) -> list[PyTree]:
        """Check the gradients, and return them in leaf order."""
        try:
            leaves = self._layout.structure.treedef.flatten_up_to(grads)
        except ValueError:
            leaves = aligned(self._tree(), self._layout.names, grads)
        return self._checked_leaves(leaves)

    def _checked_leaves(self, leaves: list[PyTree]) -> list[PyTree]:
        """Check gradients that are in leaf order, and return them."""
        # What the checks depend on; an object() never equals one that passed them.
        kinds = set(map(type, leaves))
        dense = all(issubclass(kind, jax.Array) for kind in kinds)
        found = kinds, list(map(_aval if dense else rows.signature, leaves))
        if found != self._checked:
            self._refuse_traced(leaves)
            who = type(self).__name__
            rows_taken = [self._engine.takes_rows(group) for group in self.param_groups]
            params = self._held.arrays()
            pairs = zip(self._layout.labels, leaves, params, self._layout.group_of, strict=True)
            for name, leaf, param, group in pairs:
                trees.check_update(name, leaf, param, who, rows=rows_taken[group])
            self._checked = None if any(issubclass(kind, Tracer) for kind in kinds) else found
        return leaves

    def _refuse_tracing(self) -> None:
        """Raise if operations return tracers here, even for concrete arrays: the optimizer would keep them."""
        here = trace_state()
        if here == OUTSIDE or (self.defaults.get("differentiable") and here == self._made_under):
            return
        if isinstance(jnp.zeros(()), Tracer):  # false in transformations that execute, and in compile-time evaluation
            raise RuntimeError(TRACED)

    def _refuse_traced(self, leaves: list[PyTree]) -> None:
        if not self.defaults.get("differentiable") or trace_state() != self._made_under:
            refuse_traced(leaves)

    def _check_alive(self, wait: bool = True) -> None:
        """Raise a clear error if arrays are gone, instead of JAX's; with ``wait``, also if their computation failed."""
        params = dict(zip(self._layout.labels, self._held.loose, strict=True))
        check_alive(params, self._engine.arrays(), self._lent, wait)
