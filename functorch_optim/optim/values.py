"""The parameters of an optimizer and their gradients: handed out, taken back, checked."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.profiler import TraceAnnotation

from functorch_optim import rows, trees
from functorch_optim.optim import utils
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.protocol import Engine
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.losses import CompiledLosses
from functorch_optim.optim.ownership import exclusive, own_beside
from functorch_optim.optim.tracing import OUTSIDE, TRACED, refuse_traced, trace_state
from functorch_optim.optim.transaction import Compiled, Transaction
from functorch_optim.optim.views import Handed, forgotten_if_refused, handed_tree
from functorch_optim.sparse_grad import Sparse, named
from functorch_optim.torch_tensors import as_array
from functorch_optim.typing import Numeric, PyTree


class Values:
    """The part of an optimizer that has the parameters and their gradients."""

    defaults: dict[str, PyTree]
    param_groups: list[dict[str, PyTree]]
    _engine: Engine
    _layout: Layout
    _held: Leaves
    _grads: list[PyTree] | None
    _handed: list[Handed]  # trees of the parameters that may be written into
    _handed_grads: list[Handed]
    _checked: object  # the types of the gradients that have passed the checks
    _losses: CompiledLosses
    _transaction: Transaction
    _lent: bool  # whether functional() gave the arrays away, until restore()
    _made_under: object

    @property
    def _leaves(self) -> list[jax.Array]:
        """The current parameters, one by one."""
        self._settle()
        return self._held.arrays()

    @property
    def _gradients(self) -> list[PyTree] | None:
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
    def params(self) -> PyTree:
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

    def _tree(self) -> PyTree:
        """The current parameters in their structure, not watched."""
        with self._transaction.handing:
            return self._layout.structure.unflatten(self._leaves)

    @params.setter
    def params(self, params: PyTree) -> None:
        with self._transaction.changing:
            self._settle()
            held = self._taken(params)
            with self._transaction.handing:
                self._held, self._handed = held, []

    def _taken(self, params: PyTree) -> Leaves:
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
    def grads(self) -> PyTree:
        """The accumulated gradients as :func:`jax.grad` gives them, in the parameters' structure; None without any.

        What is written into the tree is taken over, with the checks of an assignment, at the next use of the optimizer:
        ``optimizer.grads["w"] = None`` leaves ``w`` alone.
        """
        with self._transaction.handing:
            leaves = self._gradients
            return None if leaves is None else handed_tree(self._handed_grads, self._layout.structure, leaves)

    @grads.setter
    def grads(self, grads: PyTree) -> None:
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

    def _refuse_traced(self, leaves: list[PyTree]) -> None:
        if not self.defaults.get("differentiable") or trace_state() != self._made_under:
            refuse_traced(leaves)

    def _aligned(self, grads: PyTree) -> list[PyTree]:
        """The gradients in the order of the leaves, checked."""
        try:
            leaves = self._layout.structure.treedef.flatten_up_to(grads)
        except ValueError:
            leaves = trees.align(self._layout.structure.unflatten(self._held.arrays()), grads, "gradients")
        self._refuse_traced(leaves)
        # What has passed the checks is known by the types of its arrays; an object() is what never passed.
        signature = [leaf.aval if isinstance(leaf, jax.Array) else _signature(leaf) for leaf in leaves]
        if signature != self._checked:
            who = type(self).__name__
            rows_taken = [self._engine.takes_rows(group) for group in self.param_groups]
            params = self._held.arrays()
            pairs = zip(self._layout.labels, leaves, params, self._layout.group_of, strict=True)
            for name, leaf, param, group in pairs:
                trees.check_update(name, leaf, param, who, rows=rows_taken[group])
            self._checked = signature
        return leaves

    def backward(
        self,
        loss_fn: Callable[..., PyTree],
        *args: object,
        has_aux: bool = False,
        jit: bool = True,
        sparse: Sparse = (),
    ) -> PyTree:
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

    def _evaluate(self, function: Callable[..., PyTree], args: tuple[PyTree, ...]) -> PyTree:
        try:
            return function(self._tree(), *args)
        except (RuntimeError, ValueError):
            self._check_alive()
            raise

    def _accumulate(self, grads: list[PyTree]) -> None:
        self._settle()
        self._handed_grads = []
        if self._grads is None:
            self._grads = grads
            return
        grown = any(map(rows.is_rows, [*grads, *self._grads]))  # a sum of row-sparse gradients has another shape
        if grown or self.defaults.get("differentiable"):
            self._grads = _add(self._grads, grads)
            return

        def commit(total: list[PyTree]) -> None:
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

    def clip_grad_norm(self, max_norm: Numeric, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> jax.Array:
        """:func:`functorch_optim.optim.utils.clip_grad_norm` on :attr:`grads`; returns the total norm."""
        return self._clipped(lambda grads: utils.clip_grad_norm(grads, max_norm, norm_type, error_if_nonfinite))

    def clip_grad_value(self, clip_value: Numeric) -> None:
        """:func:`functorch_optim.optim.utils.clip_grad_value` on :attr:`grads`."""
        self._clipped(lambda grads: (utils.clip_grad_value(grads, clip_value), None))

    def _clipped(self, clip: Callable[[PyTree], tuple[PyTree, PyTree]]) -> PyTree:
        """Put what ``clip`` makes of the gradients in their place; the second thing that it returns."""
        with self._transaction.changing:
            self._refuse_tracing()
            grads, result = clip(self._gradients)
            self._refuse_traced(jax.tree.leaves(grads))
            self._grads, self._handed_grads = grads, []
            return result

    def _check_alive(self, wait: bool = True) -> None:
        """Say so where arrays are gone, in the place of what jax says of them; with ``wait`` also where they failed."""
        kept: list[PyTree] = [*self._held.kept(), *self._engine.arrays()]
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


def _signature(leaf: PyTree) -> PyTree:
    """What the checks of a gradient depend on; equal to nothing else where that is not known."""
    if rows.is_rows(leaf):
        return leaf.shape, leaf.dtype, leaf.n_sparse, leaf.n_batch
    return leaf if leaf is None else getattr(leaf, "aval", object())


def _add(held: list[PyTree], grads: list[PyTree]) -> list[PyTree]:
    """The sums; where one of the two is None, the other."""
    pairs = zip(held, grads, strict=True)
    return [new if old is None else old if new is None else rows.add(old, new) for old, new in pairs]


_add_dense = Compiled(_add, (0,))
