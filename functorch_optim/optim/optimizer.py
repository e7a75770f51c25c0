"""The stateful face of torch.optim over the functional core."""

import copy
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.profiler import TraceAnnotation

from functorch_optim import rows, trees
from functorch_optim.base import GradientTransformation
from functorch_optim.optim import options as group_options
from functorch_optim.optim import state_dict as torch_layout
from functorch_optim.optim import utils
from functorch_optim.optim.edits import Edited
from functorch_optim.optim.engine.by_parameter import ByParameter
from functorch_optim.optim.engine.by_tree import ByTree
from functorch_optim.optim.engine.kinds import Algorithms
from functorch_optim.optim.engine.none import NoAlgorithm
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.protocol import Engine
from functorch_optim.optim.hooks import (
    Hooked,
    Occasions,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from functorch_optim.optim.losses import CompiledLosses, takes_parameters
from functorch_optim.optim.ownership import exclusive, own, own_beside
from functorch_optim.optim.param_groups import GroupParams, GroupRules, Layout, check_dense, extended, parse
from functorch_optim.optim.tracing import OUTSIDE, TRACED, refuse_traced, trace_state
from functorch_optim.optim.transaction import Arguments, Commit, Compiled, Transaction
from functorch_optim.optim.views import REFUSED, Handed, ParamGroups, added, forgotten_if_refused, handed_tree
from functorch_optim.sparse_grad import Sparse, named
from functorch_optim.torch_tensors import as_array

__all__ = ["Optimizer", "register_optimizer_step_post_hook", "register_optimizer_step_pre_hook"]


class Optimizer(Edited, Hooked):
    """Base of the optimizers: parameters in groups, their state, and a step that updates them in place.

    Args:
        params: the parameters: a pytree of arrays; an iterable of arrays; an iterable of ``(name, array)`` pairs; or a
            list of group dicts, each with ``params`` in one of these forms and options of its own. A module of flax
            nnx means the state of its ``nnx.Param`` variables, which :attr:`params` and gradients then are.
        defaults: the options of a group that says nothing else.
        group_rules: ``(regular expression, options)`` pairs, which make groups out of one tree by the parameters'
            dotted paths: the first that is found in a path decides, what none matches forms the last group. In the
            place of a regular expression there may be a function of the path and the array.

    An optimizer is made by one of the subclasses, by :meth:`from_transform`, or by a subclass of one's own that
    defines ``transformation(self, **options)`` and returns a functional transformation.

    ``differentiable=True``, where an algorithm has it, lets parameters, gradients and options be traced: an optimizer
    that is made inside a function steps there, and :func:`jax.grad` goes through. Every step is one
    compiled call, in which ``foreach`` packs small parameters (None: 256 and more of them); ``fused`` and
    ``capturable`` change nothing.

    The arrays that went in are copied once. An array that came out (``params``, ``state``, ``state_dict()``) stays as
    it is for as long as somebody holds it: the step copies it first. What nobody holds is overwritten in place.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD({"w": jnp.array([1.0, 2.0])}, lr=0.5)
        >>> optimizer.step({"w": jnp.array([2.0, 2.0])})
        >>> optimizer.params["w"].tolist()
        [0.0, 1.0]
        >>> optimizer.param_groups[0]["lr"] = 0.25
        >>> optimizer.backward(lambda params: jnp.sum(params["w"] ** 2)).item()
        1.0
        >>> optimizer.step()
        >>> optimizer.params["w"].tolist()
        [0.0, 0.5]
    """

    constructor: ClassVar[Callable[..., GradientTransformation] | None] = None
    forced: ClassVar[Mapping[str, Any]] = {}  # options that stay as the class sets them, whatever is loaded

    def __init__(self, params: Any, defaults: Mapping[str, Any], *, group_rules: GroupRules = ()) -> None:
        super().__init__()
        self.defaults: dict[str, Any] = dict(defaults)
        group_options.check_flags(self.defaults)
        self._engine: Engine = self._make_engine()
        self._engine.check(self.defaults)
        parsed = parse(params, group_rules, self._known_options())
        check_dense(parsed, type(self).__name__)
        self._layout = parsed.layout
        self._held = Leaves(own(leaf) for leaf in parsed.leaves)
        self._given = [_weak(leaf) for leaf in parsed.leaves]
        self._counts = [0] * len(parsed.options)
        self._grads: list[Any] | None = None
        self._handed: list[Handed] = []  # trees of the parameters that may be written into
        self._handed_grads: list[Handed] = []
        self._checked: Any = None
        self._losses = CompiledLosses()
        self._transaction = Transaction()
        self._opt_called = False
        self._lent = False  # whether functional() gave the arrays away, until restore()
        self._loaded_groups: list[dict[str, Any]] | None = None  # as they were loaded, for a scheduler that is next
        self._made_under = trace_state()
        groups = [self._new_group(self._layout, index, given) for index, given in enumerate(parsed.options)]
        self.param_groups: list[dict[str, Any]] = ParamGroups(groups)
        self._engine.start(self._layout, self._leaves, self._settings())

    @classmethod
    def from_transform(
        cls,
        make: Callable[..., GradientTransformation],
        params: Any,
        defaults: Mapping[str, Any],
        static: Collection[str] = (),
        *,
        group_rules: GroupRules = (),
    ) -> "Optimizer":
        """An optimizer over any transformation, this library's or optax's.

        Args:
            make: called with the options of a group as keywords; returns the transformation.
            params: as for every optimizer.
            defaults: the options and their values. Numbers, also in tuples, reach ``make`` as traced scalars, so that
                writing them into a group compiles nothing; of a :class:`functorch_optim.Beta` both halves do.
            static: names of options that are handed to ``make`` as they are, integer counts say.
            group_rules: as for every optimizer.

        The step count is the transformation's own, one for all parameters of a group; a gradient of None reaches the
        transformation as None.

        Example:
            >>> import jax.numpy as jnp
            >>> import functorch_optim as fo
            >>> from functorch_optim import optim
            >>> make = lambda lr, max_norm: fo.chain(fo.clip_by_global_norm(max_norm), fo.sgd(lr=lr))
            >>> optimizer = optim.Optimizer.from_transform(make, [jnp.array([1.0])], dict(lr=0.5, max_norm=1.0))
            >>> optimizer.step([jnp.array([8.0])])
            >>> [round(x, 4) for x in optimizer.params[0].tolist()]
            [0.5]
        """
        return _Composed(make, params, defaults, static, group_rules)

    def transformation(self, **options: Any) -> GradientTransformation:
        """What a group's options make; a subclass defines this and calls ``super().__init__(params, defaults)``."""
        raise NotImplementedError(f"{type(self).__name__} does not define transformation(self, **options)")

    def _need_engine(self) -> None:
        if isinstance(self._engine, NoAlgorithm):
            self._engine.refuse()

    def _make_engine(self) -> Engine:
        constructor = type(self).constructor
        if constructor is not None:
            return ByParameter(Algorithms({None: constructor}, {None: self.defaults}))
        if type(self).transformation is not Optimizer.transformation:
            return ByTree(self.transformation, list(self.defaults), ())
        return NoAlgorithm(type(self).__name__)

    def _new_group(self, layout: Layout, index: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """A group's dict in torch's order: the user's keys, the names, the defaults that are left; checked."""
        group: dict[str, Any] = {"params": GroupParams(self, index), **given}
        if layout.names is not None:
            names = zip(layout.names, layout.group_of, strict=True)
            group["param_names"] = [name for name, own_group in names if own_group == index]
        group = {**group, **{key: value for key, value in self._defaults_of(given).items() if key not in group}}
        self._check_options(group, index)
        return group

    def _check_options(self, group: Mapping[str, Any], index: int, live: bool = False) -> None:
        """Raise unless the engine takes the options of a group, which is named; ``live`` ones each by itself."""
        try:
            self._engine.check(group, live)
        except (TypeError, ValueError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{error}, in parameter group {index}") from error

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Take more parameters in, as a group of their own.

        Args:
            param_group: a dict with ``params``, in any form that a group has at construction, and options of its own.

        :attr:`params` becomes a list of the trees, the new one last, if it was not a list of groups before. What is
        known of the other parameters stays. The dict is not changed, other than in torch.

        Raises:
            TypeError, ValueError, KeyError: no dict, no ``params``, parameters that are here already or share a name,
                an option outside its range. Nothing has changed then.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.SGD({"head": jnp.zeros(1)}, lr=0.1)
            >>> optimizer.add_param_group({"params": {"backbone": jnp.ones(2)}, "lr": 0.01})
            >>> [(group["param_names"], group["lr"]) for group in optimizer.param_groups]
            [(['head'], 0.1), (['backbone'], 0.01)]
            >>> [sorted(tree) for tree in optimizer.params]
            [['head'], ['backbone']]
        """
        with self._transaction.changing:
            self._need_engine()
            self._refuse_tracing()
            index = len(self.param_groups)
            whole = extended(self._layout, index, param_group, self._known_options())
            check_dense(whole, type(self).__name__)
            self._refuse_traced(whole.leaves)
            self._check_new(index, whole.leaves)
            group = self._new_group(whole.layout, index, whole.options[0])
            leaves = [*self._leaves, *map(own, whole.leaves)]
            state = self._engine.extended(whole.layout, leaves, [*self._settings(), self._numbers(group, 0, index)])
            held, given = Leaves(leaves), [*self._given, *map(_weak, whole.leaves)]
            grads = None if self._gradients is None else [*self._gradients, *[None] * len(whole.leaves)]

            def commit() -> None:
                self._engine.commit(state)
                self._layout, self._held, self._given, self._grads = whole.layout, held, given, grads
                self._checked, self._handed, self._handed_grads = None, [], []
                self._counts.append(0)
                added(self.param_groups, group)

            self._transaction.commit(commit)

    def _check_new(self, index: int, leaves: Sequence[Any]) -> None:
        """Raise if an array of group ``index`` is one that the optimizer has."""
        held = {id(leaf): name for name, leaf in zip(self._layout.labels, self._leaves, strict=True)}
        given = zip(self._layout.labels, self._given, strict=False)  # a copy has none
        held |= {id(leaf): name for name, reference in given if (leaf := reference()) is not None}
        for leaf in leaves:
            if id(leaf) in held:
                raise ValueError(
                    "some parameters appear in more than one parameter group: group "
                    f"{index} has the parameter {trees.quote(held[id(leaf)])} of another"
                )

    def _known_options(self) -> Collection[str]:
        """The names of all options that a group may have."""
        return self.defaults.keys()

    def _defaults_of(self, group: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options that a group has where it says nothing else."""
        del group
        return self.defaults

    def _settings(self) -> list[dict[str, Any]]:
        """The options of every group as they stand now."""
        self._check_groups()
        pairs = zip(self.param_groups, self._counts, strict=True)
        return [self._numbers(group, count, index) for index, (group, count) in enumerate(pairs)]

    def _check_groups(self) -> None:
        """Raise if the groups are not those that the optimizer made."""
        if type(self.param_groups) is not ParamGroups:
            raise TypeError(f"param_groups was replaced by {type(self.param_groups).__name__}: {REFUSED}")
        for index, group in enumerate(self.param_groups):
            if not (isinstance(params := group.get("params"), GroupParams) and params.is_of(self, index)):
                raise TypeError(f"'params' of parameter group {index} was written to: {REFUSED}")

    def _numbers(self, group: Mapping[str, Any], count: int, index: int) -> dict[str, Any]:
        """The options of one group that the engine reads."""
        engine = self._engine
        names, numbers = engine.reads(group)
        values = group_options.read(group, names, numbers, engine.strict, count, index)
        self._refuse_traced(list(values.values()))
        return values

    @property
    def _leaves(self) -> list[jax.Array]:
        """The current parameters, one by one."""
        self._settle()
        return self._held.arrays()

    @property
    def _gradients(self) -> list[Any] | None:
        """The accumulated gradients, one by one."""
        self._settle()
        return self._grads

    def _settle(self) -> None:
        """Take over what was written into the trees that were handed out."""
        if not self._handed and not self._handed_grads:
            return
        with self._transaction.handing:
            for handed in tuple(self._handed):
                with forgotten_if_refused(self._handed, handed):
                    leaves, whole = handed.written(self._layout.structure, self._held.arrays(), "parameters")
                    if whole is not None:
                        held = self._taken(self._layout.structure.unflatten(whole))
                        self._held, handed.leaves = held, leaves
            for handed in tuple(self._handed_grads):
                with forgotten_if_refused(self._handed_grads, handed):
                    present = self._grads if self._grads is not None else [None] * len(self._layout.group_of)
                    leaves, whole = handed.written(self._layout.structure, present, "gradients")
                    if whole is not None:
                        grads = self._aligned(self._layout.structure.unflatten(map(as_array, whole)))
                        self._grads, handed.leaves = grads, leaves

    @property
    def params(self) -> Any:
        """The current parameters in the structure they were given in.

        An iterable is given back as a list; with group dicts it is the list of the groups' trees. What is written into
        the tree is taken over, with the checks of an assignment, at the next use of the optimizer. After a step the
        tree is one of the past: take it anew.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.1)
            >>> optimizer.params["w"] = jnp.zeros(2)
            >>> optimizer.params["w"].tolist()
            [0.0, 0.0]
        """
        with self._transaction.handing:
            return handed_tree(self._handed, self._layout.structure, self._leaves)

    def _tree(self) -> Any:
        """The current parameters in their structure, not watched."""
        with self._transaction.handing:
            return self._layout.structure.unflatten(self._leaves)

    @params.setter
    def params(self, params: Any) -> None:
        with self._transaction.changing:
            self._settle()
            held = self._taken(params)
            with self._transaction.handing:
                self._held, self._handed = held, []

    def _taken(self, params: Any) -> Leaves:
        """New values of the parameters, checked and copied."""
        self._refuse_tracing()
        models = self._held.arrays()
        leaves = trees.align(self._layout.structure.unflatten(models), params, "new values")
        leaves = [leaf if leaf is model else as_array(leaf) for leaf, model in zip(leaves, models, strict=True)]
        self._refuse_traced(leaves)
        for name, leaf, model in zip(self._layout.labels, leaves, models, strict=True):
            trees.check_update(name, leaf, model, type(self).__name__, what="new value")
            if leaf is None or leaf.dtype != model.dtype:
                found = None if leaf is None else leaf.dtype
                raise TypeError(f"the parameter {trees.quote(name)} is {model.dtype}, the new value is {found}")
        pairs = zip(leaves, models, strict=True)
        return Leaves(leaf if leaf is model else own_beside(leaf, model) for leaf, model in pairs)

    @property
    def grads(self) -> Any:
        """The accumulated gradients as :func:`jax.grad` gives them, in the parameters' structure; None without any.

        What is written into the tree is taken over, with the checks of an assignment, at the next use of the optimizer:
        ``optimizer.grads["w"] = None`` leaves ``w`` alone.
        """
        with self._transaction.handing:
            leaves = self._gradients
            return None if leaves is None else handed_tree(self._handed_grads, self._layout.structure, leaves)

    @grads.setter
    def grads(self, grads: Any) -> None:
        with self._transaction.changing:
            self._settle()
            new = None if grads is None else self._aligned(grads)
            self._grads, self._handed_grads = new, []

    def _refuse_tracing(self) -> None:
        """Raise where an operation would make tracers, of concrete arrays too: here they would be kept."""
        here = trace_state()
        if here == OUTSIDE or (self.defaults.get("differentiable") and here == self._made_under):
            return
        if isinstance(jnp.zeros(()), Tracer):  # no transformation that executes, and no compile-time evaluation
            raise RuntimeError(TRACED)

    def _refuse_traced(self, leaves: list[Any]) -> None:
        if not self.defaults.get("differentiable") or trace_state() != self._made_under:
            refuse_traced(leaves)

    def _aligned(self, grads: Any) -> list[Any]:
        """The gradients in the order of the leaves, checked."""
        try:
            leaves = self._layout.structure.treedef.flatten_up_to(grads)
        except ValueError:
            leaves = trees.align(self._layout.structure.unflatten(self._held.arrays()), grads, "gradients")
        self._refuse_traced(leaves)
        # What has passed the checks is known by the types of its arrays; an object() is what never passed.
        signature = [_signature(leaf) for leaf in leaves]
        if signature != self._checked:
            who = type(self).__name__
            rows_taken = [self._engine.takes_rows(group) for group in self.param_groups]
            params = self._held.arrays()
            pairs = zip(self._layout.labels, leaves, params, self._layout.group_of, strict=True)
            for name, leaf, param, group in pairs:
                trees.check_update(name, leaf, param, who, rows=rows_taken[group])
            self._checked = signature
        return leaves

    def step(self, closure: Any = None, *args: Any) -> Any:
        """Update the parameters.

        Args:
            closure: gradients in the parameters' structure, as :func:`jax.grad` gives them, None where a parameter is
                to be left alone; or a function ``closure(params, *args)`` that returns the loss, which is
                differentiated (and compiled: pass what changes as arguments); or a function without arguments, called
                as torch calls it, after which :attr:`grads` are used; or nothing, and :attr:`grads` are used.
            *args: the further arguments of the closure.

        Returns:
            The loss, where a closure was given.

        A parameter without a gradient is skipped whole: value, slots and count of steps stay.

        Raises:
            ValueError, TypeError: the gradients do not fit the parameters; the message names the parameter.
            RuntimeError: a sparse gradient; called inside a traced function.
        """
        loss = None
        grads = None  # the accumulated ones
        if closure is None:
            pass
        elif self._is_closure(closure):
            if not args and not takes_parameters(closure):
                loss = closure()
            else:
                loss, tree = self._evaluate(self._losses.value_and_grad(closure, False, True), args)
                grads = self._aligned(tree)
        else:
            grads = self._aligned(closure)
        self._step(grads)
        return loss

    def _is_closure(self, given: Any) -> bool:
        """Whether this is a function and not gradients; a module of functions is a tree, and may be either."""
        if not callable(given) or type(given) is type(self._tree()):
            return False
        if jax.tree_util.all_leaves([given]):
            return True
        try:
            self._layout.structure.treedef.flatten_up_to(given)
        except ValueError:
            return True
        return False

    def _step(self, grads: list[Any] | None) -> None:
        """Update with these gradients, or with the accumulated ones."""
        with self._transaction.changing:
            self._need_engine()
            used = (self._gradients or []) if grads is None else grads
            updated = {group for group, grad in zip(self._layout.group_of, used, strict=False) if grad is not None}
            if updated:
                self._refuse_tracing()
                in_place = not self.defaults.get("differentiable")  # what is differentiated through must live on
                engine, settings = self._engine, self._settings()
                self._change(lambda run: engine.step(self._layout, self._held, used, settings, run, in_place), updated)
            self._opt_called = True

    def _change(self, step: Callable[..., Any], updated: Collection[int]) -> Any:
        """``step(run)`` as one change of the optimizer, in which the groups ``updated`` count an update."""

        def run(compiled: Compiled, arguments: Arguments, commit: Commit) -> Any:
            def commit_and_count(result: Any) -> None:
                commit(result)
                for group in updated:
                    self._counts[group] += 1
                self._opt_called = True

            return self._transaction.run(compiled, arguments, commit_and_count)

        with self._transaction.changing:
            self._settle()
            self._handed = []  # trees of the past from now on; nobody else may hold the arrays
            try:
                return step(run)
            except (RuntimeError, ValueError):
                self._check_alive()
                raise

    def _evaluate(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            return function(self._tree(), *args)
        except (RuntimeError, ValueError):
            self._check_alive()
            raise

    def _check_alive(self, wait: bool = True) -> None:
        """Say so where arrays are gone, in the place of what jax says of them; with ``wait`` also where they failed."""
        kept: list[Any] = [*self._held.kept(), *self._engine.arrays()]
        arrays = [array for array in kept if isinstance(array, jax.Array) and not isinstance(array, Tracer)]
        error = None
        gone = any(array.is_deleted() for array in arrays)
        if wait and not gone:
            try:
                jax.block_until_ready(arrays)
            except RuntimeError as failure:
                error = failure
        if gone and self._lent:
            raise RuntimeError(
                f"{self._gone()} was donated to another function after functional(): "
                "give the optimizer what came of it with restore(params, state)"
            )
        if gone or error:
            raise RuntimeError(
                f"the optimizer is lost: the device failed in the middle of a step, and {self._gone()} is gone. Make a "
                "new optimizer of saved parameters, and give it the saved state by load_state_dict()"
            ) from error

    def _gone(self) -> str:
        """The first parameter whose array is deleted, in words."""
        for name, array in zip(self._layout.labels, self._held.kept(), strict=True):
            if isinstance(array, jax.Array) and not isinstance(array, Tracer) and array.is_deleted():
                return f"the parameter {trees.quote(name)}"
        return "the state"

    def backward(
        self,
        loss_fn: Callable[..., Any],
        *args: Any,
        has_aux: bool = False,
        jit: bool = True,
        sparse: Sparse = (),
    ) -> Any:
        """The loss ``loss_fn(params, *args)``, whose gradients are added to :attr:`grads`.

        Args:
            loss_fn: returns a real scalar, or with ``has_aux`` a pair of it and anything.
            *args: what changes from call to call. What ``loss_fn`` reads from around it is a constant of the compiled
                function. Its variables and attributes (``self.batch``), also those that its own methods and functions
                read, are watched: when one is another than before, the function is compiled anew, which costs far
                more than a step. Arrays of NumPy changed in place are NOT seen, nor what is read where nothing can be
                watched (an iterator, a file; a captured array of such an origin gives a warning): pass them here.
            has_aux: whether ``loss_fn`` returns something beside the loss.
            sparse: the names of the tables whose gradients are to be row-sparse, as for
                :func:`functorch_optim.value_and_sparse_grad`.
            jit: whether to compile. A function is compiled once for as long as it lives: define it outside the loop.

        Returns:
            What ``loss_fn`` returned.
        """
        tables = named(self._paths(sparse), self._tree())
        value, tree = self._evaluate(self._losses.value_and_grad(loss_fn, has_aux, jit, tables), args)
        grads = self._aligned(tree)
        del tree
        with self._transaction.changing:
            self._accumulate(grads)
        return value

    def _accumulate(self, grads: list[Any]) -> None:
        self._settle()
        self._handed_grads = []
        if self._grads is None:
            self._grads = grads
            return
        grown = any(map(rows.is_rows, [*grads, *self._grads]))  # a sum of row-sparse gradients has another shape
        if grown or self.defaults.get("differentiable"):
            self._grads = _add(self._grads, grads)
            return

        def commit(total: list[Any]) -> None:
            self._grads = total

        self._transaction.run(_add_dense, lambda: (exclusive(self._grads), grads), commit)

    def _paths(self, sparse: Sparse) -> Sparse:
        """Names of parameters as the paths in :attr:`params` that they stand for."""
        if self._layout.names is None or callable(sparse):
            return sparse
        paths = dict(zip(self._layout.names, trees.named_leaves(self._tree())[0], strict=True))
        if isinstance(sparse, str):
            return paths.get(sparse, sparse)
        return tuple(paths.get(name, name) for name in sparse)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the accumulated gradients; with ``set_to_none=False`` set those that are there to zero."""
        with TraceAnnotation(f"Optimizer.zero_grad#{type(self).__name__}.zero_grad"), self._transaction.changing:
            new = None
            if not set_to_none and (grads := self._gradients) is not None:
                self._refuse_tracing()
                new = [leaf if leaf is None else rows.zeros_like(leaf) for leaf in grads]
            self._grads, self._handed_grads = new, []

    def clip_grad_norm(self, max_norm: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> jax.Array:
        """:func:`functorch_optim.optim.utils.clip_grad_norm` on :attr:`grads`; returns the total norm."""
        return self._clipped(lambda grads: utils.clip_grad_norm(grads, max_norm, norm_type, error_if_nonfinite))

    def clip_grad_value(self, clip_value: Any) -> None:
        """:func:`functorch_optim.optim.utils.clip_grad_value` on :attr:`grads`."""
        self._clipped(lambda grads: (utils.clip_grad_value(grads, clip_value), None))

    def _clipped(self, clip: Callable[[Any], tuple[Any, Any]]) -> Any:
        """Put what ``clip`` makes of the gradients in their place; the second thing that it returns."""
        with self._transaction.changing:
            self._refuse_tracing()
            grads, result = clip(self._gradients)
            self._refuse_traced(jax.tree.leaves(grads))
            self._grads, self._handed_grads = grads, []
            return result

    def state_dict(self) -> dict[str, Any]:
        """The state as torch lays it out: ``{"state": {number: slots}, "param_groups": [...]}``.

        Parameters are numbered through the groups in order; one that was never updated has no entry. Slots are arrays
        of JAX, ``step`` a float32 scalar of NumPy, the options of a group Python numbers. A schedule in a group is
        stored as its value, and the group's count of updates beside it as ``schedule_step``.
        """
        self._hooks.state_dict_pre.call(self)
        with self._transaction.handing:
            self._settle()
            self._check_groups()
            self._check_alive(wait=False)
            entries, numbers = self._engine.entries(self._layout), self._engine.data_names
            state = torch_layout.write(self._layout, self.param_groups, numbers, self._counts, entries)
        return self._hooks.state_dict_post.replace(self, state)

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        match: str | None = None,
        strict: bool = True,
        dtype: Any = None,
        keep: Collection[str] = (),
    ) -> torch_layout.NotLoaded:
        """Take over the state and the groups' options of a ``state_dict``, of torch's or of this library's.

        Args:
            state_dict: its arrays may be NumPy's, JAX's or torch's.
            match: ``"name"`` finds a parameter's state by its name, in any order and any grouping; ``"position"`` by
                its number in the groups, as torch does. By default by name where both sides have names.
            strict: whether all parameters, and no others, must be there and fit. Otherwise what fits is loaded, and
                the other parameters keep the state they have.
            dtype: what floating slots are cast to. By default a slot takes the wider of two dtypes, the saved one and
                the one that the optimizer would make, so that nothing saved is rounded.
            keep: names of options whose present values stay in every group, ``["lr"]`` say.

        A group takes the options of the saved group that its parameters were in; where they were in several that
        differ in an option, it keeps its own, with a warning. A schedule that stands in a group stays, and continues
        at the count that was saved. Names stay.

        Returns:
            What was not loaded: names of parameters that are missing and that are unexpected, and why others do not
            fit.

        Raises:
            ValueError, KeyError, TypeError: the state does not fit, all of what does not in one message; precision
                would be lost; the constructor refuses an option; no group has an option of a name in ``keep``. The
                optimizer is left as it was.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> source = optim.Adam({"body": jnp.ones(2), "old_head": jnp.ones(1)}, lr=0.5)
            >>> source.step({"body": jnp.ones(2), "old_head": jnp.ones(1)})
            >>> target = optim.Adam({"body": jnp.ones(2), "head": jnp.ones(3)})
            >>> target.load_state_dict(source.state_dict(), strict=False)
            NotLoaded(missing=['head'], unexpected=['old_head'], refused={})
            >>> target.param_groups[0]["lr"], list(target.state)
            (0.5, ['body'])
            >>> target.param_groups[0]["lr"] = 0.01
            >>> target.load_state_dict(source.state_dict(), strict=False, keep=["lr"]).missing
            ['head']
            >>> target.param_groups[0]["lr"]
            0.01
        """
        self._need_engine()
        if isinstance(state_dict, Mapping):
            state_dict = self._hooks.load_pre.replace(self, dict(state_dict))
        with self._transaction.changing:
            not_loaded = self._load(state_dict, match, strict, dtype, keep)
        self._hooks.load_post.call(self)
        return not_loaded

    def _load(
        self,
        state_dict: Mapping[str, Any],
        match: str | None,
        strict: bool = True,
        dtype: Any = None,
        keep: Collection[str] = (),
    ) -> torch_layout.NotLoaded:
        """:meth:`load_state_dict` without its hooks."""
        self._refuse_tracing()
        self._check_kept(keep)
        dtype = None if dtype is None else jnp.dtype(dtype)
        if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"dtype must be a floating one, but it is {dtype}")
        if dtype is not None and jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise TypeError(f"dtype is {dtype}, but 64-bit numbers are disabled (jax_enable_x64)")
        numbers = self._engine.data_names
        loaded = torch_layout.read(self._layout, self.param_groups, self._counts, numbers, state_dict, match, strict)
        self._refuse_traced(jax.tree.leaves(loaded.entries))
        groups = []
        for live, group in zip(self.param_groups, loaded.groups, strict=True):
            options = self._defaults_of({**live, **group}).items()
            kept = {key: live.get(key, value) for key, value in options if key not in group}
            kept |= {key: live[key] for key in keep if key in live}
            groups.append({**group, **kept, **self.forced})
        pairs = zip(groups, loaded.counts, strict=True)
        settings = [self._numbers(group, count, index) for index, (group, count) in enumerate(pairs)]
        for index, group in enumerate(groups):
            self._check_options(group, index, live=True)
        refused: torch_layout.Refused = {}
        state = self._engine.read(self._layout, self._leaves, loaded, settings, dtype, refused)
        if strict:
            torch_layout.check_strict(loaded.missing, loaded.unexpected, refused)
        if loaded.warning:
            warnings.warn(loaded.warning, UserWarning, stacklevel=3)  # the caller of load_state_dict
        loaded_groups = [{"params": GroupParams(self, index), **group} for index, group in enumerate(groups)]

        def commit() -> None:
            self._engine.commit(state)
            self._counts, self._loaded_groups = loaded.counts, groups
            for live, group in zip(self.param_groups, loaded_groups, strict=True):
                live.clear()
                live.update(group)

        self._transaction.commit(commit)
        reasons = {name: torch_layout.reason(error) for name, error in refused.items()}
        return torch_layout.NotLoaded(loaded.missing, loaded.unexpected, reasons)

    def _check_kept(self, keep: Collection[str]) -> None:
        """Raise unless the groups have options of all these names."""
        if isinstance(keep, str):
            raise TypeError(f"keep must be a collection of names, but it is the string {keep!r}")
        known = {key for group in self.param_groups for key in group} - {"params", "param_names"}
        unknown = sorted(set(keep) - known)
        if unknown:
            raise ValueError(f"keep names {unknown}, which no parameter group has: the options are {sorted(known)}")

    def functional(self) -> tuple[GradientTransformation, Any, Any]:
        """``(tx, params, state)`` to go on with in a compiled loop; :meth:`restore` takes back what comes of it.

        Several groups become a :func:`functorch_optim.partition`, also parameters of one group whose numbers of
        updates differ. Schedules go along, numbers are as they stand. The arrays may be donated; then the optimizer
        must be given others by :meth:`restore` before its next step.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.Adam([jnp.array([1.0])], lr=0.1)
            >>> tx, params, state = optimizer.functional()
            >>> updates, state = tx.update([jnp.array([2.0])], state, params)
            >>> params = jax.tree.map(jnp.add, params, updates)
            >>> optimizer.restore(params, state)
            >>> optimizer.state[0]["step"].item()
            1.0
        """
        with self._transaction.changing, self._transaction.handing:
            self._need_engine()
            self._lent = True
            settings = self._settings()
            tx, state = self._engine.functional(self._layout, self._leaves, self.param_groups, settings, self._counts)
            return tx, self._tree(), state

    def restore(self, params: Any, state: Any) -> None:
        """Take parameters and state from a functional loop that :meth:`functional` began.

        Raises:
            ValueError, TypeError: they do not have the structure, shapes and dtypes of the optimizer's.
        """
        with self._transaction.changing:
            self._need_engine()
            self._refuse_tracing()
            self._refuse_traced(jax.tree.leaves((params, state)))
            settings = self._settings()
            engine_state, counts = self._engine.restored(self._layout, self._leaves, state, settings, self._counts)
            held = self._taken(params)

            def commit() -> None:
                self._engine.commit(engine_state)
                self._held, self._counts, self._lent, self._handed = held, counts, False, []

            self._transaction.commit(commit)

    def __getstate__(self) -> dict[str, Any]:
        with self._transaction.handing:  # and with containers of its own: another thread may be in a step
            self._settle()
            groups = [{key: value for key, value in group.items() if key != "params"} for group in self.param_groups]
            held, engine = Leaves(list(self._held.arrays())), copy.copy(self._engine)
            state = {**vars(self), "param_groups": groups, "_held": held, "_engine": engine}
        state.update(_checked=None, _handed=[], _handed_grads=[])
        del state["_losses"], state["_hooks"], state["_given"], state["_made_under"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _losses=CompiledLosses(), _hooks=Occasions(), _given=[], _made_under=trace_state())
        groups = enumerate(state["param_groups"])
        self.param_groups = ParamGroups({"params": GroupParams(self, index), **group} for index, group in groups)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


def _weak(leaf: Any) -> Callable[[], Any]:
    """A reference that does not keep the array that was given."""
    try:
        return weakref.ref(leaf)
    except TypeError:  # a scalar of NumPy
        return lambda: None


def _signature(leaf: Any) -> Any:
    """What the checks of a gradient depend on; equal to nothing else where that is not known."""
    if rows.is_rows(leaf):
        return leaf.shape, leaf.dtype, leaf.n_sparse, leaf.n_batch
    return leaf if leaf is None else getattr(leaf, "aval", object())


def _add(held: list[Any], grads: list[Any]) -> list[Any]:
    """The sums; where one of the two is None, the other."""
    pairs = zip(held, grads, strict=True)
    return [new if old is None else old if new is None else rows.add(old, new) for old, new in pairs]


_add_dense = Compiled(_add, (0,))


class _Composed(Optimizer):
    """What :meth:`Optimizer.from_transform` makes."""

    def __init__(
        self,
        make: Callable[..., GradientTransformation],
        params: Any,
        defaults: Mapping[str, Any],
        static: Collection[str],
        group_rules: GroupRules,
    ) -> None:
        self._make = make
        self._static = tuple(static)
        super().__init__(params, defaults, group_rules=group_rules)

    def _make_engine(self) -> ByTree:
        return ByTree(self._make, list(self.defaults), self._static)
