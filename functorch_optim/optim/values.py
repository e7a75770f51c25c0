"""An optimizer's parameters and gradients: hand them out, take them back, check them."""

import functools
from collections.abc import Callable

import jax
from jax.profiler import TraceAnnotation

from functorch_optim import rows, trees
from functorch_optim.optim import utils
from functorch_optim.optim.clipping import by_name
from functorch_optim.optim.engine.assembly import ONE, Grads, PackedGrads, differentiated_packed, leaves_of, shared
from functorch_optim.optim.loss_errors import check_loss, explained
from functorch_optim.optim.processes import check_first_arguments
from functorch_optim.optim.stepping import Stepping
from functorch_optim.optim.transaction import Compiled, exclusive
from functorch_optim.optim.views import watch
from functorch_optim.sparse_grad import Sparse, named
from functorch_optim.torch_tensors import arrays_in
from functorch_optim.typing import Numeric, PyTree


class Values(Stepping):
    """The part of an optimizer that holds the parameters and their gradients."""

    @property
    def params(self) -> PyTree:
        """The current parameters, in the structure in which they were passed.

        An iterable becomes a list, and group dicts become the list of the groups' trees. You may write into the tree:
        the optimizer applies the changes at its next use, with the checks of an assignment. After a step the tree is
        outdated: read it again.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.1)
            >>> optimizer.params["w"] = jnp.zeros(2)
            >>> optimizer.params["w"].tolist()
            [0.0, 0.0]
        """
        with self._transaction.handoff_lock:
            return watch(self._watched_params, self._layout.structure, self._leaves)

    @params.setter
    def params(self, params: PyTree) -> None:
        with self._transaction.change_lock:
            self._settle()
            held = self._taken(params)
            with self._transaction.handoff_lock:
                self._held, self._watched_params = held, []

    @property
    def grads(self) -> PyTree:
        """The accumulated gradients in the parameters' structure, as from :func:`jax.grad`; None if there are none.

        You may write into the tree: the optimizer applies this at its next use, with the checks of an assignment.
        ``optimizer.grads["w"] = None`` leaves ``w`` alone.
        """
        with self._transaction.handoff_lock:
            leaves = self._gradients
            return None if leaves is None else watch(self._watched_grads, self._layout.structure, leaves)

    @grads.setter
    def grads(self, grads: PyTree) -> None:
        with self._transaction.change_lock:
            self._settle()
            new = None if grads is None else self._aligned(grads)
            self._grads, self._watched_grads = new, []

    @property
    def grad_norm(self) -> jax.Array | None:
        """The norm of all gradients before the last ``step(..., clip_norm=...)`` clipped them; None if none did."""
        return self._grad_norm

    def backward(
        self,
        loss_fn: Callable[..., PyTree],
        *args: object,
        has_aux: bool = False,
        jit: bool = True,
        sparse: Sparse = (),
    ) -> PyTree:
        """Compute the loss ``loss_fn(params, *args)``, and add its gradients to :attr:`grads`.

        Args:
            loss_fn: returns a real scalar, or with ``has_aux`` a pair of it and anything.
            *args: what changes from call to call. Anything else that ``loss_fn`` reads is a constant of the compiled
                function. Its variables and attributes (``self.batch``), and those that its own methods and functions
                read, are watched: if one changes, the function is recompiled, which costs far more than a step. NumPy
                arrays changed in place are NOT seen, nor is anything read from a source that cannot be watched (an
                iterator, a file; a captured array from one gives a warning): pass these here. torch's tensors, and
                what else has ``__array__``, become arrays.
            has_aux: whether ``loss_fn`` returns something besides the loss.
            sparse: the names of the tables that get row-sparse gradients, as for
                :func:`functorch_optim.value_and_sparse_grad`.
            jit: whether to compile. A function is compiled once in its lifetime: define it outside the loop.

        The gradients of frozen groups are None, and a compiled function does not compute them.

        Returns:
            What ``loss_fn`` returned.

        Raises:
            TypeError: ``loss_fn`` is no function, or returns no scalar.
            jax.errors.ConcretizationTypeError: it reads a value while it is traced.
        """
        check_loss(loss_fn)
        args = arrays_in(args)
        check_first_arguments(args, self, f"{type(self).__name__}.backward")
        if not jit or sparse:
            value, grads = self._by_leaf(loss_fn, args, has_aux, jit, sparse)
        else:
            value, grads = self._as_stored(loss_fn, args, has_aux)
        with self._transaction.change_lock:
            self._accumulate(grads)
        return value

    def _by_leaf(
        self, loss_fn: Callable[..., PyTree], args: tuple[object, ...], has_aux: bool, jit: bool, sparse: Sparse
    ) -> tuple[PyTree, list[PyTree]]:
        """Return what the loss returns, and its gradients with respect to the tree."""
        tables = named(self._paths(sparse), self._tree()) if sparse else ()
        function = self._losses.value_and_grad(loss_fn, has_aux, jit, tables, self._frozen())
        value, tree = self._evaluate(loss_fn, lambda: function(self._tree(), *args), compiled=jit)
        return value, self._aligned(tree)

    def _as_stored(
        self, loss_fn: Callable[..., PyTree], args: tuple[object, ...], has_aux: bool
    ) -> tuple[PyTree, Grads]:
        """Return what the loss returns, and its gradients with respect to the arrays that hold the parameters."""
        with self._transaction.handoff_lock:
            self._settle()
            by_leaf = self._frozen() or self.defaults.get("differentiable")
            packed = None if by_leaf else self._engine.packed(self._layout, self._held, self._records)
        if packed is None:
            return self._by_leaf(loss_fn, args, has_aux, True, ())
        assembly, arrays = packed
        make = functools.partial(differentiated_packed, assembly, has_aux)
        function = self._losses.compiled(loss_fn, ("packed", shared(assembly), has_aux), make)
        value, grads = self._evaluate(loss_fn, lambda: function(arrays, ONE, *args))
        self._refuse_traced(grads)
        return value, PackedGrads(assembly, grads)

    def _evaluate(self, loss: object, call: Callable[[], PyTree], compiled: bool = True) -> PyTree:
        try:
            return call()
        except Exception as error:  # a loss may raise anything
            if isinstance(error, RuntimeError | ValueError):
                self._check_alive()
            told = explained(error, loss, self._tree(), compiled)
            if told is error:
                raise
            raise told from error

    def _accumulate(self, grads: Grads) -> None:
        self._settle()
        self._watched_grads = []
        held = self._grads
        if held is None:
            self._grads = grads
            return
        if jax.tree.structure(held) != jax.tree.structure(grads):
            held, grads = leaves_of(held), leaves_of(grads)
        # A sum of row-sparse gradients has another shape. Keep no list of the leaves here: it would have them copied.
        grown = any(
            rows.is_rows(leaf) for tree in (held, grads) for leaf in jax.tree.leaves(tree, is_leaf=rows.is_rows)
        )
        if grown or self.defaults.get("differentiable"):
            self._grads = _add(leaves_of(held), leaves_of(grads))
            return
        self._grads = held

        def commit(total: Grads) -> None:
            self._grads = total

        self._transaction.run(_add_dense, lambda: (exclusive(self._grads), grads), commit)

    def _paths(self, sparse: Sparse) -> Sparse:
        """Convert names of parameters to their paths in :attr:`params`."""
        if self._layout.names is None or callable(sparse):
            return sparse
        paths = dict(zip(self._layout.names, trees.named_leaves(self._tree())[0], strict=True))
        if isinstance(sparse, str):
            return paths.get(sparse, sparse)
        return tuple(paths.get(name, name) for name in sparse)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the accumulated gradients; with ``set_to_none=False``, set existing ones to zero."""
        with TraceAnnotation(f"Optimizer.zero_grad#{type(self).__name__}.zero_grad"), self._transaction.change_lock:
            new = None
            self._settle()
            if not set_to_none and self._grads is not None:
                self._refuse_tracing()
                new = jax.tree.map(rows.zeros_like, self._grads, is_leaf=rows.is_rows)
            self._grads, self._watched_grads = new, []

    def clip_grad_norm(self, max_norm: Numeric, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> jax.Array:
        """Apply :func:`functorch_optim.optim.utils.clip_grad_norm` to :attr:`grads`, and return the total norm."""

        def clip(grads: Grads | None) -> tuple[PyTree, jax.Array]:
            each = leaves_of(grads) if norm_type == 0 and grads is not None else grads  # it counts arrays
            one = functools.partial(
                utils.clip_grad_norm, max_norm=max_norm, norm_type=norm_type, error_if_nonfinite=error_if_nonfinite
            )
            return by_name(one, self._layout.labels, each)

        return self._clipped(clip)

    def clip_grad_value(self, clip_value: Numeric) -> None:
        """Apply :func:`functorch_optim.optim.utils.clip_grad_value` to :attr:`grads`."""
        names = self._layout.labels
        self._clipped(lambda grads: by_name(lambda tree: (utils.clip_grad_value(tree, clip_value), None), names, grads))

    def _clipped(self, clip: Callable[[PyTree], tuple[PyTree, PyTree]]) -> PyTree:
        """Replace the gradients with the first result of ``clip``, and return the second."""
        with self._transaction.change_lock:
            self._refuse_tracing()
            self._settle()
            grads, result = clip(self._grads)
            self._refuse_traced(jax.tree.leaves(grads))
            self._grads, self._watched_grads = grads, []
            return result


def _add(held: list[PyTree], grads: list[PyTree]) -> list[PyTree]:
    """Add gradients leaf by leaf; if one of two is None, take the other."""
    pairs = zip(held, grads, strict=True)
    return [new if old is None else old if new is None else rows.add(old, new) for old, new in pairs]


def _add_alike(held: Grads, grads: Grads) -> Grads:
    if isinstance(held, PackedGrads) and isinstance(grads, PackedGrads):
        return PackedGrads(held.assembly, _add(held.arrays, grads.arrays))
    return _add(leaves_of(held), leaves_of(grads))


_add_dense = Compiled(_add_alike, (0,))
