"""Losses and closures: compiled value-and-gradient functions, kept for as long as the loss itself lives."""

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax

from functorch_optim import trees
from functorch_optim.callers import warn_caller
from functorch_optim.optim.dependence import misread
from functorch_optim.optim.engine.list_checks import is_array
from functorch_optim.optim.places import Watch
from functorch_optim.optim.transaction import Compiled
from functorch_optim.optim.watch import Closed, captured_arrays, watch
from functorch_optim.sparse_grad import Sparse, value_and_sparse_grad
from functorch_optim.tracing import refuse_traced
from functorch_optim.typing import PyTree

_MODES = ("deterministic", "use_running_average")  # what flax's train() and eval() set
_INSTEAD = "pass what changes as arguments, step(closure, *args) or backward(loss, *args)"


class CompiledLosses(Closed):
    """Caches compiled functions of losses, such as ``value_and_grad``; equal losses, like bound methods, share one.

    What a compiled function reads from its surroundings is constant inside it, so we recompile it when a variable or
    attribute that it reads has changed.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, dict[Hashable, _OfLoss]] = {}
        self._compiles: dict[Hashable, int] = {}
        self.compared: set[tuple[bool, ...]] = set()  # which arguments were each process's own, and the same in all
        self._useless: set[Hashable] = set()  # the code of losses that were found not to use the parameters

    def value_and_grad(
        self,
        loss: Callable[..., PyTree],
        has_aux: bool,
        jit: bool,
        sparse: Sparse = (),
        dropped: frozenset[int] = frozenset(),
    ) -> Callable[..., PyTree]:
        if not jit:
            return differentiated(loss, has_aux, sparse, dropped)
        tables = sparse if callable(sparse) or isinstance(sparse, str) else tuple(sparse)
        make = functools.partial(differentiated, has_aux=has_aux, sparse=tables, dropped=dropped)
        return self.compiled(loss, (has_aux, tables, dropped), make)

    def compiled(
        self,
        loss: Callable[..., PyTree],
        kind: Any,
        make: Callable[[PyTree], Callable[..., PyTree]],
        donated: tuple[int, ...] = (),
    ) -> Compiled:
        """``make(loss)``, compiled; returns the same function for the same loss and an equal ``kind``."""
        kinds = self._entries.setdefault(self._reference(loss), {})
        entry = kinds.get(kind)
        if entry is None or not entry.holds(loss):
            self._count(loss, kind, entry)
            entry = kinds[kind] = _OfLoss(loss, make, donated, self._useless)
        return entry

    def _reference(self, loss: Any) -> Any:
        """A key that does not keep the loss alive, and removes its entries when the loss dies."""

        def forget(gone: object) -> None:
            with contextlib.suppress(TypeError):  # a WeakMethod has no == any more when the interpreter ends
                self._entries.pop(gone, None)

        try:
            make = weakref.WeakMethod if inspect.ismethod(loss) else weakref.ref
            reference = make(loss, forget)
            hash(reference)
        except TypeError:
            return self._by_identity(loss)
        return reference

    def _by_identity(self, loss: Any) -> Any:
        """The key of a loss without a hash: its owner's identity, as long as the owner lives."""
        owner, function = (loss.__self__, loss.__func__) if inspect.ismethod(loss) else (loss, None)
        key = (id(owner), function)
        try:
            weakref.finalize(owner, lambda: self._entries.pop(key, None))
        except TypeError:  # no weak references: kept alive
            return _Identity(owner), function
        return key

    def _count(self, loss: PyTree, kind: Hashable, before: "_OfLoss | None") -> None:
        code = _code(loss)
        if code is None:
            return
        self._compiles[code, kind] = self._compiles.get((code, kind), 0) + 1
        if self._compiles[code, kind] == 3:
            warn_caller(f"{code.co_qualname} was compiled for the third time because it {_reason(loss, before)}")


def _reason(loss: PyTree, before: "_OfLoss | None") -> str:
    """Why a loss is compiled again, and what to write instead."""
    if before is None:
        return f"is defined anew: define it once, outside the loop, and {_INSTEAD}"
    changed, code = before.watch.changed(loss), _code(loss)
    if changed is None:
        return f"reads variables that change: define it once, outside the loop, and {_INSTEAD}"
    name = changed.name
    if name.rpartition(".")[2] in _MODES:
        return (
            f"reads the mode of a module that changes, here {name}: split the module outside of the loss, once after "
            "model.train(), and once after model.eval() for a loss of its own"
        )
    if not changed.direct or not _may_be_passed(changed.value) or not code.co_name.isidentifier():
        return f"reads variables that change, here {name}: {_INSTEAD}"
    bound = inspect.ismethod(loss)
    function = f"{name.partition('.')[0]}.{code.co_name}" if bound else code.co_name
    others = "..., " if code.co_argcount > 1 + bound else ""
    stars = "*" if isinstance(changed.value, tuple | list) else ""
    call = f"({function}, {others}{stars}{name})"
    return f"reads variables that change, here {name}: pass it as an argument, backward{call} or step{call}"


def _may_be_passed(value: object) -> bool:
    """Whether a value can be an argument of a compiled function that computes with it."""
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(is_array(leaf) or type(leaf) in (int, float, complex) for leaf in leaves)


class _Identity:
    def __init__(self, of: object) -> None:
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.of is self.of

    def __hash__(self) -> int:
        return id(self.of)


def differentiated(
    loss: Callable[..., PyTree], has_aux: bool, sparse: Sparse, dropped: frozenset[int] = frozenset()
) -> Callable[..., PyTree]:
    """``value_and_grad``, with row-sparse gradients of the tables that ``sparse`` names, and None in the place of the
    gradients that are dropped: what nobody takes, a compiled function does not compute."""
    whole = jax.value_and_grad(loss, has_aux=has_aux)
    if callable(sparse) or isinstance(sparse, str) or sparse:
        whole = value_and_sparse_grad(loss, sparse, has_aux)
    if not dropped:
        return whole

    def of_the_others(*args: PyTree) -> tuple[PyTree, PyTree]:
        value, grads = whole(*args)
        leaves, treedef = jax.tree.flatten(grads, is_leaf=trees.is_sparse)
        return value, treedef.unflatten([None if leaf in dropped else grad for leaf, grad in enumerate(leaves)])

    return of_the_others


class _OfLoss(Compiled):
    """A compiled function of a loss, and what it read from its surroundings when it was traced.

    It refers to the loss weakly, or the cache would keep every loss alive; the caller holds the loss during the call.
    """

    def __init__(
        self,
        loss: Any,
        make: Callable[[PyTree], Callable[..., PyTree]],
        donated: tuple[int, ...],
        useless: set[Hashable],
    ) -> None:
        self._useless = useless
        self.watch = Watch([], "")
        self._traced = False
        self._captured: list[PyTree] = []
        try:
            self._loss: Callable[[], Any] = weakref.WeakMethod(loss) if inspect.ismethod(loss) else weakref.ref(loss)
        except TypeError:
            self._loss = lambda: loss
        self._make = make
        super().__init__(self._run, donated)

    def _run(self, *args: PyTree) -> PyTree:
        self._traced = True
        return self._make(self._loss())(*args)

    def _called(self, function: Any, args: tuple[PyTree, ...]) -> PyTree:
        try:
            result = function(*args)
            if self.positions:
                refuse_traced(result)  # tracers overwrite nothing
        except BaseException as error:
            self._traced = False  # after a failed trace, trace again
            if isinstance(error, TypeError):
                _check_arguments(args, error)
            raise
        return result

    def finish(self, args: tuple[PyTree, ...]) -> None:
        """If the function was traced in this call, for the first time or a new shape, find what it read."""
        if self._traced:
            self._look_around(args)
            self._traced = False

    def holds(self, loss: object) -> bool:
        """Whether the function is still valid for the loss; not if interrupted before it could find what it read."""
        return not self._traced and self.watch.holds(loss)

    def _look_around(self, args: PyTree) -> None:
        loss, unseen = self._loss(), self.watch.unseen
        traced = self.traced(*args).jaxpr  # does not trace again
        self._captured += captured_arrays(traced)
        self.watch = watch(loss, self._captured)
        code = _code(loss)
        if code is not None and code not in self._useless:
            told = misread(code.co_qualname, traced, args, self.watch.passed(loss), self._captured)
            if told:
                self._useless.add(code)
                warn_caller(told)
        if self.watch.unseen and not unseen and code is not None:
            warn_caller(
                f"{code.co_qualname} was compiled, and {self.watch.unseen}: they are constants of the compiled "
                f"function; {_INSTEAD}"
            )


def _check_arguments(args: PyTree, error: TypeError) -> None:
    """Raise if what a loss gets is not all arrays and numbers, which is what the error comes from."""
    for leaf in jax.tree.leaves(args):
        if not is_array(leaf) and not isinstance(leaf, complex | float | int):
            raise TypeError(
                f"the loss gets {leaf!r:.100} of the class {type(leaf).__name__}, which is no array: bind it to the "
                "loss before the loop, with functools.partial"
            ) from error


def _code(loss: Any) -> Any:
    """The code of a function, a method, or an object that calls one."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    loss = inspect.unwrap(loss)
    return getattr(loss, "__code__", None) or getattr(type(loss).__call__, "__code__", None)


def is_closure(given: object, structure: trees.Structure) -> bool:
    """Whether what can be called is a function, not gradients; a module of functions is a tree, and may be either."""
    if jax.tree_util.all_leaves([given]):
        return True
    numbered = structure.unflatten(range(structure.treedef.num_leaves))
    if type(given) is type(numbered):
        return False
    try:
        structure.treedef.flatten_up_to(given)
    except ValueError:
        return True
    return False


def takes_parameters(closure: Callable[..., PyTree]) -> bool:
    """Whether a closure needs an argument: ``closure(params)``, not torch's ``closure()``."""
    try:
        signature = inspect.signature(closure)
    except (TypeError, ValueError):
        return True
    needed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(
        p.kind is inspect.Parameter.VAR_POSITIONAL or (p.kind in needed and p.default is inspect.Parameter.empty)
        for p in signature.parameters.values()
    )
