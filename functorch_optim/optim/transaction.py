"""Changes of an optimizer as transactions: whatever is raised, and whenever, a change happens whole or not at all.

A compiled step overwrites its arguments: from its start until the optimizer stores the results, nothing else has the
numbers. During this time signal handlers wait, and so do readers in other threads.
"""

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import jaxpr_as_fun

from functorch_optim.optim.ownership import own
from functorch_optim.tracing import refuse_traced
from functorch_optim.typing import PyTree

# The C functions below the public ones: a step reads the handlers of all signals, in 2 microseconds instead of 60.
_signal: Any = getattr(signal, "_signal", signal)
_SIGNALS = sorted(map(int, signal.valid_signals()))


# Defined here, since annotations of nested functions are evaluated at every step.
Args = tuple[PyTree, ...]
Arguments = Callable[[], Args]
Commit = Callable[[PyTree], None]


class CallsBackError(BaseException):
    """A function that should overwrite its arguments calls back to the host, where anything may be raised.

    Or it takes references to its arguments while it is traced. It is raised through the user's function, which must not
    catch it as an ordinary error.
    """


class Compiled:
    """A compiled function that overwrites the arguments at ``positions``.

    A function that calls back to the host, or has other effects, may fail halfway. So it keeps its arguments, and we
    wait for its results, so that it raises here. JAX's debugging modes, which look for NaN in the results, also raise
    here.
    """

    def __init__(self, function: Callable[..., PyTree], positions: tuple[int, ...] = ()) -> None:
        self.positions = positions
        self.calls_back = False
        self._quiet = jax.jit(_without_callbacks(function, bool(positions)), donate_argnums=positions)
        self._careful = jax.jit(function)

    def overwrites(self) -> bool:
        """Whether a call overwrites arguments, as far as known."""
        if not self.positions or self.calls_back:
            return False
        return not (jax.config.jax_debug_nans or jax.config.jax_debug_infs)  # pyright: ignore[reportAttributeAccessIssue] jax declares its flags at run time

    def in_place(self, *args: object) -> PyTree:
        """Call the function, and return the results; arguments may be gone.

        Raises:
            CallsBackError: it is raised during tracing, so all arguments are intact.
        """
        try:
            return self._called(self._quiet, args)
        except CallsBackError:
            self.calls_back = True
            raise

    def lower(self, *args: object) -> PyTree:
        """Lower the form that overwrites, like :func:`jax.jit`'s ``lower``."""
        return self._quiet.lower(*args)

    def traced(self, *args: object) -> PyTree:
        """Trace the form that is called, like :func:`jax.jit`'s ``trace``."""
        return (self._careful if self.calls_back else self._quiet).trace(*args)

    def __call__(self, *args: object) -> PyTree:
        """Call the function, and return the results; all arguments stay."""
        if not self.positions and not self.calls_back:
            with contextlib.suppress(CallsBackError):
                return self._finished(self.in_place(*args), args)
        result = self._finished(self._called(self._careful, args), args)
        return jax.block_until_ready(result) if self.calls_back else result

    def _finished(self, result: PyTree, args: tuple[PyTree, ...]) -> PyTree:
        self.finish(args)
        return result

    def _called(self, function: Callable[..., PyTree], args: tuple[PyTree, ...]) -> PyTree:
        return function(*args)

    def finish(self, args: tuple[PyTree, ...]) -> None:
        """Finish a call with ``args``; after :meth:`in_place`, call this once the results are stored."""


class Call(NamedTuple):
    """One compiled call: its arguments, and the function that stores its results; see :meth:`Transaction.run`."""

    compiled: Compiled
    arguments: Arguments
    commit: Commit


def _without_callbacks(function: Callable[..., PyTree], overwrites: bool) -> Callable[..., PyTree]:
    """Wrap ``function`` to raise :class:`CallsBackError` during tracing if it has effects besides its results.

    What overwrites its arguments must not capture a tracer either: the results would be traced, and not the arguments.
    """

    @functools.wraps(function)  # profiles show its name
    def checked(*args: object) -> PyTree:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        if closed.effects or _calls_back(closed.jaxpr):
            raise CallsBackError
        if overwrites:
            refuse_traced(closed.consts)
        leaves = jaxpr_as_fun(closed)(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return checked


def _calls_back(jaxpr: Any) -> bool:
    """Whether a traced function calls back to the host, directly or in a function that it calls."""
    for equation in jaxpr.eqns:
        if "callback" in equation.primitive.name:
            return True
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
        if any(_calls_back(getattr(each, "jaxpr", each)) for each in inner if _is_jaxpr(each)):
            return True
    return False


def _is_jaxpr(value: object) -> bool:
    return hasattr(value, "eqns")


def _references(tree: PyTree) -> list[int]:
    """Count the references to each leaf, the same way at import and later."""
    leaves = jax.tree.leaves(tree)
    return [sys.getrefcount(leaf) for leaf in leaves]


# What the counter itself and the container contribute, which differs between Python versions.
_ALONE = _references([(object(),)])[0]


def exclusive(tree: PyTree, holders: int = 1) -> PyTree:
    """Return ``tree``, with a copy of every array that something other than ``holders`` containers refers to.

    So an array that a user keeps, for example from ``params`` or ``state_dict``, survives when the tree is donated.
    """
    counts = _references(tree)
    alone = _ALONE + holders - 1
    if max(counts, default=0) <= alone:
        return tree
    count = iter(counts)
    return jax.tree.map(lambda leaf: own(leaf) if next(count) > alone else leaf, tree)


class Uninterrupted:
    """A block during which signal handlers wait; they are called at its end.

    Until something in :attr:`overwritten` is deleted, or :attr:`committing` is set, Python's own Ctrl-C handler runs at
    once: if it raises, nothing has changed yet, and it can interrupt a long compilation. Other handlers always wait:
    they may look at the optimizer and continue. Handlers run only in the main thread, so elsewhere there is nothing to
    do.
    """

    def __init__(self, committing: bool = True) -> None:
        self.committing = committing
        self.overwritten: Sequence[PyTree] = ()
        self._handlers: dict[int, Any] = {}
        self._waiting: list[tuple[int, Any]] = []
        self._over = False

    def __enter__(self) -> "Uninterrupted":
        if threading.get_ident() != threading.main_thread().ident:
            return self
        try:
            for number, handler in zip(_SIGNALS, map(_signal.getsignal, _SIGNALS), strict=True):
                if callable(handler):
                    self._handlers[number] = handler
                    _signal.signal(number, self._receive)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.committing = True
        self._restore()
        self._over = True
        self._deliver()

    def _receive(self, number: int, frame: object) -> None:
        handler = self._handlers[number]
        waits = self.committing or handler is not signal.default_int_handler or _any_deleted(self.overwritten)
        if waits and not self._over:
            self._waiting.append((number, frame))
        else:
            handler(number, frame)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            if _signal.getsignal(number) == self._receive:
                _signal.signal(number, handler)

    def _deliver(self) -> None:
        """Call all handlers that waited, whatever they raise."""
        if self._waiting:
            number, frame = self._waiting.pop(0)
            try:
                self._handlers[number](number, frame)
            finally:
                self._deliver()


def _any_deleted(arguments: Sequence[object]) -> bool:
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(arguments) if isinstance(leaf, jax.Array))


class HandoffLock:
    """A reentrant lock, except while a compiled call is made: a function that is traced then must take no arrays."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.in_call = False

    def __enter__(self) -> None:
        self._lock.acquire()
        if self.in_call:  # in the thread that makes the call
            self._lock.release()
            raise CallsBackError

    def __exit__(self, *error: object) -> None:
        self._lock.release()


class Transaction:
    """The changes of one optimizer; changes from several threads happen one after another.

    Hold ``change_lock`` throughout a change, and ``handoff_lock`` while buffers pass through a compiled call or someone
    takes references to them. Take the first before the second.
    """

    def __init__(self) -> None:
        self.change_lock = threading.RLock()
        self.handoff_lock = HandoffLock()

    def __reduce__(self) -> tuple[object, ...]:
        return Transaction, ()  # a copy is independent

    def commit(self, change: Callable[[], None]) -> None:
        """Run ``change()``, which raises nothing, without interruption."""
        with Uninterrupted(), self.handoff_lock:
            change()

    def run(self, compiled: Compiled, arguments: Arguments, commit: Commit, careful: bool = True) -> PyTree:
        """Run ``commit(compiled(*arguments()))`` without interruption, and return the results.

        ``arguments`` returns arrays that nothing else holds, if ``compiled`` overwrites them; ``commit``, which raises
        nothing, stores the results. A function that calls back keeps its arguments; without ``careful`` it is not
        called.

        Raises:
            CallsBackError: the function calls back, and ``careful`` is False.
        """
        if compiled.calls_back and not careful:
            raise CallsBackError
        if compiled.overwrites():
            try:
                args, result = self._in_place(compiled, arguments, commit)
            except CallsBackError:
                return self.run(compiled, arguments, commit, careful)  # it no longer overwrites
            compiled.finish(args)
            return result
        # Not under the lock: a callback may read the optimizer from another thread.
        result = compiled(*arguments())
        self.commit(lambda: commit(result))
        return result

    def _in_place(self, compiled: Compiled, arguments: Arguments, commit: Commit) -> tuple[Args, PyTree]:
        """Do :meth:`run` for overwritten arguments; return the arguments and the results."""
        # Handlers wait from the start: any array of arguments() that they took would be overwritten.
        with Uninterrupted(committing=False) as section, self.handoff_lock:
            args = arguments()
            section.overwritten = [args[position] for position in compiled.positions]
            try:
                self.handoff_lock.in_call = True
                result = compiled.in_place(*args)
            finally:
                self.handoff_lock.in_call = False
            section.committing = True
            commit(result)
        return args, result
