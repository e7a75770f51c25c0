"""Losses and closures: compiled value-and-gradient functions, kept for as long as the loss itself lives."""

import dis
import functools
import inspect
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from functorch_optim.optim.transaction import Compiled
from functorch_optim.sparse_grad import Sparse, value_and_sparse_grad


class _Entry(NamedTuple):
    function: Compiled
    captured: tuple[Any, ...]


class CompiledLosses:
    """``value_and_grad`` of losses, compiled once a loss: looked up by equality, so that bound methods are found again.

    Inside a compiled function what it reads from the scopes around it is constant; so a function is compiled anew when
    a variable that it reads there itself (not through other functions) holds another object than before.
    """

    def __init__(self) -> None:
        self._entries: dict[Any, dict[Any, _Entry]] = {}
        self._compiles: dict[Any, int] = {}

    def value_and_grad(
        self, loss: Callable[..., Any], has_aux: bool, jit: bool, sparse: Sparse = ()
    ) -> Callable[..., Any]:
        if not jit:
            return differentiated(loss, has_aux, sparse)
        tables = sparse if callable(sparse) or isinstance(sparse, str) else tuple(sparse)
        make = functools.partial(differentiated, has_aux=has_aux, sparse=tables)
        return self.compiled(loss, (has_aux, tables), make)

    def compiled(
        self,
        loss: Callable[..., Any],
        kind: Any,
        make: Callable[[Any], Callable[..., Any]],
        donated: tuple[int, ...] = (),
    ) -> Compiled:
        """``make(loss)``, compiled; the same function as before for the same loss and an equal ``kind``."""
        captured = _captured(loss)
        kinds = self._entries.setdefault(self._reference(loss), {})
        entry = kinds.get(kind)
        unchanged = entry is not None and len(captured) == len(entry.captured)
        if entry is None or not unchanged or not all(map(_same, captured, entry.captured)):
            self._count(loss, kind, changed=entry is not None)
            entry = kinds[kind] = _Entry(_compile(loss, make, donated), captured)
        return entry.function

    def _reference(self, loss: Any) -> Any:
        """A key that does not keep the loss alive, and takes its entries along when it goes."""

        def forget(gone: Any) -> None:
            self._entries.pop(gone, None)

        try:
            make = weakref.WeakMethod if inspect.ismethod(loss) else weakref.ref
            reference = make(loss, forget)
            hash(reference)
        except TypeError:
            return self._by_identity(loss)
        return reference

    def _by_identity(self, loss: Any) -> Any:
        """The key of a loss without a hash: its owner's identity, for as long as the owner lives."""
        owner, function = (loss.__self__, loss.__func__) if inspect.ismethod(loss) else (loss, None)
        key = (id(owner), function)
        try:
            weakref.finalize(owner, lambda: self._entries.pop(key, None))
        except TypeError:  # no weak references: kept alive
            return _Identity(owner), function
        return key

    def _count(self, loss: Any, kind: Any, changed: bool) -> None:
        code = getattr(inspect.unwrap(loss), "__code__", None)
        if code is None:
            return
        self._compiles[code, kind] = self._compiles.get((code, kind), 0) + 1
        if self._compiles[code, kind] == 3:
            reason = "reads variables that change" if changed else "is defined anew for every step"
            warnings.warn(
                f"{code.co_qualname} was compiled for the third time because it {reason}: define it once, outside the "
                "loop, and pass what changes as arguments, step(closure, *args) or backward(loss, *args)",
                UserWarning,
                stacklevel=4,
            )


class _Identity:
    def __init__(self, of: Any) -> None:
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.of is self.of

    def __hash__(self) -> int:
        return id(self.of)


def differentiated(loss: Callable[..., Any], has_aux: bool, sparse: Sparse) -> Callable[..., Any]:
    """``value_and_grad``, with row-sparse gradients of the tables that ``sparse`` names."""
    if callable(sparse) or isinstance(sparse, str) or sparse:
        return value_and_sparse_grad(loss, sparse, has_aux)
    return jax.value_and_grad(loss, has_aux=has_aux)


def _compile(loss: Any, make: Callable[[Any], Callable[..., Any]], donated: tuple[int, ...]) -> Compiled:
    """The compiled function; it refers to the loss weakly, or the cache would keep every loss alive."""
    try:
        reference = weakref.WeakMethod(loss) if inspect.ismethod(loss) else weakref.ref(loss)
    except TypeError:
        return Compiled(make(loss), donated)

    def of_loss(*args: Any) -> Any:
        alive: Any = reference()  # the caller holds the loss while it is traced
        return make(alive)(*args)

    return Compiled(of_loss, donated)


def _captured(loss: Any) -> tuple[Any, ...]:
    """What a function reads from the scopes around it, functions, classes and modules left out (as None)."""
    function = inspect.unwrap(loss.__func__ if inspect.ismethod(loss) else loss)
    if not isinstance(function, types.FunctionType):
        return ()
    outer = [function.__globals__.get(name) for name in _global_names(function.__code__)]
    for cell in function.__closure__ or ():
        try:
            outer.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            outer.append(None)
    outer += [v for d in outer if isinstance(d, dict) for v in d.values() if isinstance(v, jax.Array | np.ndarray)]
    fixed = types.FunctionType | types.BuiltinFunctionType | types.MethodType | types.ModuleType | type
    return tuple(None if isinstance(value, fixed) else value for value in outer)


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    names = (i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return tuple(dict.fromkeys(names))


def _same(new: Any, old: Any) -> bool:
    return new is old or (type(new) is type(old) and isinstance(new, bool | int | float | str) and new == old)


def takes_parameters(closure: Callable[..., Any]) -> bool:
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
