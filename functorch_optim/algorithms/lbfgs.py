"""L-BFGS: quasi-Newton steps from the last few changes of the gradient."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim import axes
from functorch_optim.algorithms.quasi_newton import QuasiNewton
from functorch_optim.base import GradientTransformation, exportable, transformation
from functorch_optim.core.numerics import zeros_like
from functorch_optim.hyperparams import Hyperparameter, as_count
from functorch_optim.line_search.vectors import Vector
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Numeric, PyTree


@exportable
class LBFGSState(NamedTuple):
    """``old_dirs`` (changes of the gradient) and ``old_stps`` (steps) have pair k at index ``k % history_size``.

    ``n_pairs`` counts the pairs, and ``step`` the updates. ``careful`` says that a fixed step once led to a point
    without a finite value. The other fields are torch's; ``prev_loss`` has the sign of the minimized objective.
    """

    step: PyTree
    func_evals: PyTree
    n_iter: PyTree
    careful: PyTree
    n_pairs: PyTree
    d: PyTree
    t: PyTree
    old_dirs: PyTree
    old_stps: PyTree
    ro: PyTree
    H_diag: PyTree
    prev_flat_grad: PyTree
    prev_loss: PyTree


@exportable
class Pairs(NamedTuple):
    """The last changes y of the gradient and steps s, ``1 / y.s`` for each pair, and the scale of the curvature."""

    y: Vector
    s: Vector
    ro: jax.Array
    scale: jax.Array
    number: jax.Array


class LBFGS(QuasiNewton):
    entrywise: ClassVar[bool] = True  # all entries are one vector, whatever their order

    history_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "history_size", as_count("lbfgs: history_size", self.history_size, 1))

    @classmethod
    def _call_name(cls) -> str:
        return "lbfgs"

    def init(self, params: PyTree) -> LBFGSState:
        dtype = self.dtype_of(self.checked_leaves(params))

        def zeros() -> PyTree:
            return jax.tree.map(zeros_like, params)

        def history() -> PyTree:
            return jax.tree.map(lambda z: jax.lax.broadcast(z, (self.history_size,)), zeros())

        return LBFGSState(
            step=jnp.zeros((), jnp.int32),
            func_evals=jnp.zeros((), jnp.int32),
            n_iter=jnp.zeros((), jnp.int32),
            careful=jnp.zeros((), bool),
            n_pairs=jnp.zeros((), jnp.int32),
            d=zeros(),
            t=jnp.zeros((), dtype),
            old_dirs=history(),
            old_stps=history(),
            ro=jnp.zeros((self.history_size,), dtype),
            H_diag=jnp.ones((), dtype),
            prev_flat_grad=zeros(),
            prev_loss=jnp.zeros((), dtype),
        )

    def to_vector(self, tree: PyTree, dtype: DTypeLike) -> Vector:
        """The leaves, with real and imaginary parts separate."""
        pairs = [
            (jnp.real(leaf), jnp.imag(leaf)) if jnp.iscomplexobj(leaf) else (leaf,) for leaf in jax.tree.leaves(tree)
        ]
        parts = tuple(jnp.asarray(x, dtype) for pair in pairs for x in pair)
        if not self.placement:
            return Vector(parts)
        return Vector(parts, tuple(own for own, pair in zip(self.placement, pairs, strict=True) for _ in pair))

    def placement_of(self, tree: PyTree) -> tuple[PyTree, ...]:
        return tuple(axes.over(self.axis_name, tree, "lbfgs"))

    def from_vector(self, vector: Vector, like: PyTree) -> PyTree:
        leaves, treedef = jax.tree.flatten(like)
        parts = iter(vector.parts)
        joined = [
            jax.lax.complex(next(parts), next(parts)) if jnp.iscomplexobj(leaf) else next(parts) for leaf in leaves
        ]
        return treedef.unflatten([x.astype(leaf.dtype) for x, leaf in zip(joined, leaves, strict=True)])

    def memory_of(self, state: LBFGSState, dtype: DTypeLike) -> Pairs:
        y, s = (self.to_vector(tree, dtype) for tree in (state.old_dirs, state.old_stps))
        return Pairs(y, s, state.ro.astype(dtype), state.H_diag.astype(dtype), state.n_pairs)

    def stored(self, state: LBFGSState, memory: Pairs) -> LBFGSState:
        return state._replace(
            old_dirs=self.from_vector(memory.y, state.old_dirs),
            old_stps=self.from_vector(memory.s, state.old_stps),
            ro=memory.ro.astype(state.ro.dtype),
            H_diag=memory.scale.astype(state.H_diag.dtype),
            n_pairs=memory.number,
        )

    def advance(
        self, memory: Pairs, y: Vector, s: Vector, value: jax.Array, grad: Vector, first: jax.Array
    ) -> tuple[Pairs, Vector]:
        del value
        ys = y.dot(s)
        accepted = ~first & (ys > 1e-10)
        at = memory.number % memory.ro.shape[0]

        def put(rows: PyTree, new: PyTree) -> PyTree:
            kept = jnp.where(accepted, new, jax.lax.dynamic_index_in_dim(rows, at, keepdims=False))
            return jax.lax.dynamic_update_index_in_dim(rows, kept, at, 0)

        memory = Pairs(
            y=jax.tree.map(put, memory.y, y),
            s=jax.tree.map(put, memory.s, s),
            ro=put(memory.ro, 1 / jnp.where(accepted, ys, 1)),
            scale=jnp.where(accepted, ys / jnp.where(accepted, y.dot(y), 1), memory.scale),
            number=memory.number + accepted.astype(jnp.int32),
        )
        return memory, two_loop(memory, grad)


def two_loop(memory: Pairs, grad: Vector) -> Vector:
    """Minus the approximate inverse Hessian times the gradient, by the two-loop recursion.

    Source: Nocedal and Wright, "Numerical Optimization", 2006, algorithm 7.4.
    """
    size = memory.ro.shape[0]
    held = jnp.minimum(memory.number, size)

    def row(rows: Vector, index: Numeric) -> Vector:
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), rows)

    def backward(k: Numeric, carry: tuple[Vector, jax.Array]) -> tuple[Vector, jax.Array]:
        q, alphas = carry
        index = (memory.number - 1 - k) % size
        alpha = row(memory.s, index).dot(q) * memory.ro[index]
        return q - alpha * row(memory.y, index), alphas.at[index].set(alpha)

    def forward(k: Numeric, r: Vector) -> Vector:
        index = (memory.number - held + k) % size
        beta = row(memory.y, index).dot(r) * memory.ro[index]
        return r + (alphas[index] - beta) * row(memory.s, index)

    q, alphas = jax.lax.fori_loop(0, held, backward, (-grad, jnp.zeros_like(memory.ro)))
    return jax.lax.fori_loop(0, held, forward, memory.scale * q)


@explains_names
def lbfgs(
    lr: Hyperparameter = 1.0,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: Hyperparameter = 1e-7,
    tolerance_change: Hyperparameter = 1e-9,
    history_size: int = 100,
    line_search_fn: str | None = None,
    maximize: bool = False,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""L-BFGS, as in ``torch.optim.LBFGS``: one update runs up to ``max_iter`` iterations in one compiled loop.

    ``update(grads, state, params, value_fn=loss)`` needs the objective, ``loss(params)``. Further arguments of
    ``loss`` are keywords of ``update``: ``value_fn=loss, x=x, y=y`` calls ``loss(params, x=x, y=y)``. Pass the
    value at ``params`` as ``value``, or it is evaluated once more. In each iteration the direction d is minus the
    inverse Hessian times the gradient; the last ``history_size`` pairs ``s = t * d``, ``y = change of g`` with
    ``y.s > 1e-10`` describe this inverse Hessian (two-loop recursion, starting from ``y.s / y.y``), and::

        p <- p + t * d

    with ``t = lr`` (in the very first iteration ``lr * min(1, 1 / sum|g|)``), or what the line search finds from there.
    An update ends after ``max_iter`` iterations or ``max_eval`` evaluations, or when ``max|g| <= tolerance_grad``,
    ``max|t d| <= tolerance_change``, the objective changes by less than ``tolerance_change``, or the slope along d is
    above ``-tolerance_change``.

    Args:
        lr: the step, or where a line search starts, at least 0; a number, a scalar array or a schedule of the number
            of updates.
        max_iter: the maximum number of iterations per update.
        max_eval: the maximum number of evaluations of the objective, ``max_iter * 5 // 4`` by default; beyond it, a
            line search begins no evaluation except its first.
        tolerance_grad, tolerance_change: when to stop.
        history_size: how many pairs to keep; the state is twice that many times as large as the parameters.
        line_search_fn: None or ``"strong_wolfe"``.
        maximize: whether to ascend.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.
            ``value_fn`` gets this device's shards and returns the objective of all devices, the same on each
            (``jax.lax.psum``). Its gradient is only known with ``check_vma``.

    Returns:
        A transformation with the state :class:`LBFGSState`. It must get the gradient of the objective. So only
        :func:`functorch_optim.conjugate` may come before it in a chain, and ``accumulate`` around it is refused; put
        decay into the loss, and freeze parameters with ``fo.freeze(fo.lbfgs(), frozen)``. With one iteration of a fixed
        step other links may come first. A parameter whose gradient is None stays unchanged.
        The parameters stay a tree, and sharded ones sharded; complex ones count as pairs of reals.

    A point where objective or gradient is not finite is never kept: the line search steps back from it, and a fixed
    step is shortened tenfold until both are finite. Only the last fixed step of an update is taken without evaluating
    it, as in torch; if it leads to such a point, the next update starts by going back, and from then on every step is
    evaluated. With a line search no update ends higher than it started.

    Raises:
        ValueError: an option outside its range, with torch's message; ``update`` without ``params`` or ``value_fn``;
            inside ``shard_map`` without ``axis_name``, a gradient that varies or may vary over the mesh, or an
            objective that varies.
        RuntimeError: an unknown line search.

    Source: Nocedal and Wright, "Numerical Optimization", 2006, chapter 7; ``torch.optim.LBFGS``, which returns
    non-finite parameters where it meets them.

    Example:
        >>> import functorch_optim as fo
        >>> def rosenbrock(p):
        ...     return 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2
        >>> tx, p = lbfgs(max_iter=50, line_search_fn="strong_wolfe"), jnp.array([-1.2, 1.0])
        >>> updates, state = tx.update(jax.grad(rosenbrock)(p), tx.init(p), p, value_fn=rosenbrock)
        >>> fo.apply_updates(p, updates).round(3).tolist()
        [1.0, 1.0]
    """
    options = (lr, max_iter, max_eval, tolerance_grad, tolerance_change, line_search_fn, maximize)
    return transformation(LBFGS(*options, axes.as_axes(axis_name, "lbfgs"), history_size))
