"""Watch a run: a wrapper that keeps in its state what people log."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functorch_optim import axes, rows, trees
from functorch_optim.base import (
    GradientTransformation,
    add_update,
    clips_of,
    exportable,
    norm_after_of,
    transformation,
    update_of,
)
from functorch_optim.combinators import Wrapper, current_hyperparams
from functorch_optim.core.numerics import next_step
from functorch_optim.hyperparams import as_integer
from functorch_optim.norms import norm_dtype, norms_of_groups
from functorch_optim.option_names import explains_names
from functorch_optim.typing import PyTree

Groups = Sequence[Callable[[str], bool]]
Moves = list[list[PyTree]]  # norms of the updates, and of the parameters after them: of all, then of each group


@exportable
class Norms(NamedTuple):
    """Norms of the gradient and of the update, and of the parameters after it; None where they are not measured."""

    grad: PyTree
    update: PyTree
    param: PyTree


@exportable
class MonitorState(NamedTuple):
    """What a monitor has seen.

    ``step`` counts updates, ``clipped`` those whose gradient was clipped (None where that is not known); ``lr`` has the
    learning rates of the last update by name, ``norms`` its norms, ``parts`` those of each prefix.
    """

    step: PyTree
    clipped: PyTree
    lr: dict[str, PyTree]
    norms: Norms
    parts: dict[str, Norms]
    inner: PyTree


class Monitor(Wrapper):
    every: int | None
    prefixes: int | tuple[str, ...] | None
    axis_name: axes.Labels | None

    hands_on: ClassVar[bool] = True

    def acts_by_leaf(self) -> bool:
        return self.prefixes is not None

    def init(self, params: PyTree) -> MonitorState:
        inner, dtype = self.inner.init(params), norm_dtype(params)

        def norms() -> Norms:
            moved = (None if self.every is None else jnp.zeros((), dtype) for _ in range(2))
            return Norms(jnp.zeros((), dtype), *moved)

        rates: list[str] = []
        jax.eval_shape(lambda state: rates.extend(_rates(self.inner, state)), inner)
        seen = jax.eval_shape(lambda state, norm: clips_of(self.inner, state, norm, state), inner, jnp.zeros((), dtype))
        return MonitorState(
            jnp.zeros((), jnp.int32),
            None if seen is None else jnp.zeros((), jnp.int32),
            {name: jnp.zeros((), jnp.result_type(float)) for name in rates},
            norms(),
            {name: norms() for name in self._names(params)},
            inner,
        )

    def update(
        self, updates: PyTree, state: MonitorState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, MonitorState]:
        if params is None and self.every is not None:
            raise ValueError(
                "monitor needs the parameters: update(grads, state, params); with every=None it measures neither their "
                "norms nor those of the updates"
            )
        trees.check_arrays(updates, params)
        groups = [self._group(name) for name in state.parts]
        before = norms_of_groups(_dense(updates), groups, self.axis_name, "monitor")
        lr = {**state.lr, **_rates(self.inner, state.inner)}
        old = [[one.update for one in _all(state)], [one.param for one in _all(state)]]
        if self.every is None or self.every == 1:
            new, inner = update_of(self.inner, updates, state.inner, params, extra)
            after = old if self.every is None else self._moves(new, params, groups, old)
        else:
            after, inner, params = self._sometimes(updates, state, params, extra, groups, old)
            new, inner = update_of(self.inner, updates, inner, params, extra)
        clipped = clips_of(self.inner, state.inner, before[0], inner)
        kept = [x.astype(one.grad.dtype) for x, one in zip(before, _all(state), strict=True)]
        norms, *parts = (Norms(*each) for each in zip(kept, *after, strict=True))
        return new, MonitorState(
            next_step(state.step),
            state.clipped if clipped is None else jnp.where(clipped, next_step(state.clipped), state.clipped),
            {name: jnp.asarray(lr[name], held.dtype) for name, held in state.lr.items()},
            norms,
            dict(zip(state.parts, parts, strict=True)),
            inner,
        )

    def norm_after(self, state: MonitorState, norm: jax.Array) -> jax.Array | None:
        return norm_after_of(self.inner, state.inner, norm)

    def _moves(self, updates: PyTree, params: PyTree, groups: Groups, old: Moves) -> Moves:
        """Measure the norms of the updates, and of the parameters after them, in the dtypes of ``old``.

        The new parameters are formed as :func:`functorch_optim.apply_updates` does, which the compiler does once.
        """
        leaves, moves, treedef = trees.pair(params, updates, "monitor", what="update", rows=True)
        pairs = zip(leaves, moves, strict=True)
        new = [add_update(p, u) if jnp.issubdtype(p.dtype, jnp.inexact) else None for p, u in pairs]
        both = (_dense(treedef.unflatten(moves)), treedef.unflatten(new))
        found = [norms_of_groups(tree, groups, self.axis_name, "monitor") for tree in both]
        return jax.tree.map(lambda x, held: axes.vary_as(x.astype(held.dtype), held), found, old)

    def _sometimes(
        self,
        updates: PyTree,
        state: MonitorState,
        params: PyTree,
        extra: dict[str, PyTree],
        groups: Groups,
        old: PyTree,
    ) -> tuple[Moves, PyTree, PyTree]:
        """:meth:`_moves` if it is due, else ``old``; and the inner state and the parameters for the update.

        The updates are formed a second time where they are measured. If the same ones were measured and returned, the
        compiler would have to write them to memory at every step. For the same reason what is returned depends, in
        form only, on what was measured: otherwise the compiler, which may do either first, would copy what the update
        overwrites.
        """

        def measure(updates: PyTree, inner: PyTree, params: PyTree, old: Moves) -> Moves:
            new, _ = update_of(self.inner, updates, inner, params, extra)
            return self._moves(new, params, groups, old)

        arguments = updates, state.inner, params, old
        is_manual = bool(jax.sharding.get_abstract_mesh().manual_axes)
        model = jax.eval_shape(measure, *arguments) if is_manual else old  # both branches vary over the same axes

        def keep(updates: PyTree, inner: PyTree, params: PyTree, old: Moves) -> Moves:
            del updates, inner, params
            return jax.tree.map(axes.vary_as, old, model)

        after = jax.lax.cond(state.step % self.every == 0, measure, keep, *arguments)
        return after, *_after(after[0][0], (state.inner, params))

    def _names(self, params: PyTree) -> list[str]:
        """The prefixes; those of a depth come from the parameters."""
        if isinstance(self.prefixes, int):
            names, _, _ = trees.named_leaves(params)
            return sorted({_first(name, self.prefixes) for name in names} - {""})
        return list(self.prefixes or ())

    def _group(self, prefix: str) -> Callable[[str], bool]:
        """Check whether a parameter's name belongs to a prefix."""
        depth = self.prefixes
        if isinstance(depth, int):
            return lambda name: _first(name, depth) == prefix
        return lambda name: re.match(prefix, name) is not None


def _first(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _all(state: MonitorState) -> list[Norms]:
    return [state.norms, *state.parts.values()]


def _dense(tree: PyTree) -> PyTree:
    """The tree with the entries of row-sparse arrays in their place, whose norms are the same."""

    def each(name: str, leaf: PyTree) -> PyTree:
        trees.check_update(name, leaf, leaf, "monitor", rows=True)
        return rows.entries(leaf) if rows.is_rows(leaf) else leaf

    return trees.map_updates(each, "monitor", tree)


def _after(measured: jax.Array, tree: PyTree) -> PyTree:
    """The same arrays, but formally after ``measured``, a norm: the compiler does not know that none is negative."""
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        return tree

    def each(leaf: PyTree) -> PyTree:
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)):
            return leaf
        return jnp.where(measured < 0, jnp.zeros_like(leaf), leaf)

    return jax.tree.map(each, tree)


def _rates(tx: GradientTransformation, state: PyTree) -> dict[str, PyTree]:
    """Find the learning rates of the next update by name: ``lr``, or with the names of links or labels ``lr/decay``."""

    def found(values: PyTree, where: tuple[str, ...]) -> Iterator[tuple[str, PyTree]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from found(value, (*where, str(name)))
            elif str(name).split(".")[-1] == "lr":
                yield "/".join(("lr", *where, *str(name).split(".")[:-1])), value

    return dict(found(current_hyperparams(tx, state), ()))


@explains_names
def monitor(
    inner: GradientTransformation, every: int | None = 1, prefixes: PyTree = None, axis_name: PyTree = None
) -> GradientTransformation:
    """Keep in the state what people log of a run; :func:`functorch_optim.report` reads it.

    The updates are those of ``inner``. At every update the monitor records the learning rates, the norm of the gradient
    as ``inner`` gets it, and whether it was clipped. At updates 1, 1 + ``every``, ... it also records the norm of the
    updates that ``inner`` returns, and of the parameters after them.

    Clipping is counted where the gradient itself, scaled by nothing before, gets to
    :func:`functorch_optim.clip_by_global_norm`, :func:`functorch_optim.clip_by_zscore` or
    :func:`functorch_optim.clip_by_percentile`. So wrap what begins with the clipping: the whole chain, but inside
    :func:`functorch_optim.accumulate`, :func:`functorch_optim.masked` or a link that scales.

    The norm of the gradient costs nothing if ``inner`` calculates it too, inside the same compiled function. With
    ``every`` above 1 the updates are formed twice where they are measured, so a loss ``value_fn`` is evaluated twice.

    Args:
        inner: a transformation, usually the whole chain.
        every: how often to measure updates and parameters; None for never.
        prefixes: of which parts of the tree to measure norms separately: a depth (1 groups ``encoder.0.kernel`` with
            all that begins with ``encoder.``, 2 with ``encoder.0.``), or a list of regular expressions, which match the
            beginning of the parameters' dotted paths.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Returns:
        A transformation with the state :class:`MonitorState`.

    Raises:
        TypeError, ValueError: ``every`` is no positive integer, ``prefixes`` neither a depth nor regular expressions;
            ValueError, from ``update``: there are no ``params``; inside ``shard_map`` without ``axis_name``, an array
            varies or may vary over the mesh.

    Example:
        >>> import functorch_optim as fo
        >>> tx = monitor(fo.chain(fo.clip_by_global_norm(1.0), fo.sgd(lr=0.5)))
        >>> params = {"w": jnp.array([3.0, 4.0])}
        >>> _, state = tx.update({"w": jnp.array([0.0, 2.0])}, tx.init(params), params)
        >>> {name: round(value, 3) for name, value in fo.report(state).items()}  # doctest: +NORMALIZE_WHITESPACE
        {'step': 1, 'lr': 0.5, 'grad_norm': 2.0, 'update_norm': 0.5, 'param_norm': 4.61, 'update_ratio': 0.108,
         'clipped_share': 1.0}
    """
    count = None if every is None else as_integer(every)
    if every is not None and (count is None or count < 1):
        kind = TypeError if count is None else ValueError
        raise kind(f"monitor: every must be a positive integer, or None, but it is {every!r}")
    return transformation(Monitor(inner, count, _as_prefixes(prefixes), axes.as_axes(axis_name, "monitor")))


def _as_prefixes(prefixes: PyTree) -> int | tuple[str, ...] | None:
    depth = as_integer(prefixes)
    if prefixes is None or (depth is not None and depth > 0):
        return depth
    if not isinstance(prefixes, list | tuple) or not all(isinstance(one, str) for one in prefixes):
        raise TypeError(f"monitor: prefixes must be a depth of at least 1, or a list of regexes, not {prefixes!r}")
    for one in prefixes:
        try:
            re.compile(one)
        except re.error as error:
            raise ValueError(f"monitor: the prefix {one!r} is no regular expression: {error}") from error
    return tuple(prefixes)
