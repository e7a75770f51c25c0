"""Cautious optimizers: leave out the entries of an update that go against the gradient."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, Update, effects_of, transformation, update_of
from functorch_optim.combinators import Wrapper
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.packing import Packed
from functorch_optim.effects import Effects, Kind, Leaves, check_within, descends
from functorch_optim.option_names import explains_names
from functorch_optim.typing import PyTree


class Cautious(Wrapper):
    entrywise: ClassVar[bool] = False
    hands_on: ClassVar[bool] = True

    plus_one: bool
    axis_name: axes.Labels | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(effects_of(self.inner, None)[0])

    def inner_state(self, state: PyTree) -> PyTree:
        return state

    def init(self, params: PyTree) -> PyTree:
        names, leaves, _ = trees.named_leaves(params, none_is_leaf=True)
        for name, leaf, effects in zip(names, leaves, effects_of(self.inner, Leaves(names, params)), strict=True):
            if leaf is not None:
                self._check(effects, f" at the parameter {trees.quote(name)}")
        return self.inner.init(params)

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        algorithm = self._algorithm()
        if algorithm is None:
            moves, state = update_of(self.inner, updates, state, params, extra)
            return self._masked(moves, updates, descends(effects_of(self.inner, None)[0])), state
        moves, decayed, state = algorithm.update_apart(updates, state, params, **extra)
        return decayed(self._masked(moves, updates, not getattr(algorithm.rule, "maximize", False))), state

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effects_and(Kind.CHANGES, at)

    def _algorithm(self) -> Lifted | None:
        """The algorithm directly inside, whose weight decay can be told from the rest of its update."""
        of = self.inner.update.of if isinstance(self.inner.update, Update) else None
        return of if isinstance(of, Lifted) and not isinstance(of, Packed) else None

    def _check(self, effects: Effects, where: str = "") -> None:
        """Raise if something in ``inner`` hides the sign of its update, or adds a decay to it."""
        check_within("cautious", effects, where)
        direct = self._algorithm() is not None
        directed = False
        for one in effects:
            directed = directed or one.kind is Kind.DIRECTS
            decays = (one.kind is Kind.SHRINKS and not direct) or (one.kind is Kind.DECAYS and directed)
            if decays:
                raise ValueError(
                    f"cautious would mask the weight decay of {one.who} too{where}. Put cautious right around the "
                    "algorithm, without foreach: fo.chain(..., fo.cautious(fo.adamw())); of a direction, put the decay "
                    "behind it: fo.chain(fo.cautious(fo.scale_by_adam()), fo.add_decayed_weights(weight_decay), "
                    "fo.scale_by_learning_rate(lr))"
                )
            if one.kind is Kind.ASCENDS and not direct:
                raise ValueError(
                    f"cautious does not see that {one.who} ascends{where}. Put cautious right around it, without "
                    "foreach, or leave maximize out and put fo.scale(-1.0) first"
                )
            if one.kind is Kind.CONJUGATES:
                raise ValueError(
                    f"cautious would compare an update with the conjugate of its gradient{where}. Put {one.who} before "
                    f"it: fo.chain(fo.{one.who}(), fo.cautious(...))"
                )

    def _masked(self, moves: PyTree, grads: PyTree, descends: bool) -> PyTree:
        """Keep the entries of a tree that go the gradient's way, and make them larger by their share."""
        way, kept, sizes = -1 if descends else 1, [], []

        def keep(move: jax.Array, grad: jax.Array) -> jax.Array:
            mask = _by_parts(
                lambda u, g: (jnp.sign(u) * jnp.sign(g).astype(u.dtype) * way > 0).astype(u.dtype), move, grad
            )
            total = jnp.sum(mask.astype(trees.compute_dtype(mask)))
            kept.append(total.real + total.imag)
            sizes.append(mask.size * (2 if jnp.iscomplexobj(mask) else 1))
            return mask

        masks = trees.map_dense(keep, "cautious", moves, grads)
        over = axes.over(self.axis_name, moves, "cautious")
        totals = axes.totals(kept, over, trees.compute_dtype(*kept))
        whole = [size * axes.shards(own) for size, own in zip(sizes, over, strict=True)]
        factors = iter([self._factor(total, size) for total, size in zip(totals, whole, strict=True)])

        def scale(move: jax.Array, mask: jax.Array) -> jax.Array:
            factor = next(factors)
            return _by_parts(lambda u, a: u * (a * factor.astype(u.dtype)), move, mask)

        return trees.map_dense(scale, "cautious", moves, masks)

    def _factor(self, kept: jax.Array, size: int) -> jax.Array:
        if self.plus_one:
            return size / (kept + 1)
        return 1 / jnp.maximum(kept / max(size, 1), 1e-3)


def _by_parts(function: Callable[..., jax.Array], move: jax.Array, other: jax.Array) -> jax.Array:
    """Apply a function of real arrays to the arrays, or to their real and to their imaginary parts."""
    if jnp.iscomplexobj(move):
        return jax.lax.complex(function(move.real, other.real), function(move.imag, other.imag))
    return function(move, other)


@explains_names
def cautious(inner: GradientTransformation, plus_one: bool = False, axis_name: PyTree = None) -> GradientTransformation:
    """Leave out the entries of ``inner``'s update whose sign disagrees with the gradient, and enlarge the others.

    With g the gradient that comes in, u the update that ``inner`` subtracts, and each parameter by itself::

        a = max(sign(u * g), 0)
        u <- u * a / max(mean(a), 0.001)
        u <- u * a * size(a) / (sum(a) + 1)             if plus_one

    The decoupled weight decay of an algorithm is not masked, as in the authors' code: wrap the algorithm itself,
    ``fo.cautious(fo.adamw())``, and put what clips gradients before it, ``fo.chain(fo.clip_by_value(1.0),
    fo.cautious(...))``. Coupled decay is part of u, and not of g.

    Args:
        inner: the algorithm, or a direction such as :func:`functorch_optim.scale_by_adam`.
        plus_one: whether to count one entry more, as in the paper and in the authors' ``c_lion.py``. Their newer
            ``c_adamw.py`` is the default.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Returns:
        A transformation whose state is that of ``inner``. Updates are dense; a parameter whose gradient is None has
        none. The real and the imaginary part of a complex parameter are masked by themselves, and counted together.

    Raises:
        ValueError: ``inner`` has a decoupled weight decay or ``maximize`` deeper inside, or conjugates gradients;
            inside ``shard_map`` without ``axis_name``, an array that varies or may vary over the mesh.

    Source: Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024. The authors' AdamW adds
    ``eps`` before the bias correction; torch's and so this library's adds it after it.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = cautious(fo.sgd(lr=0.1, momentum=0.9)), jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([1.0, 1.0]), tx.init(params), params)
        >>> updates, state = tx.update(jnp.array([1.0, -0.5]), state, params)  # the second momentum is 0.4
        >>> [round(abs(x), 4) for x in updates.tolist()]
        [0.38, 0.0]
    """
    return transformation(Cautious(inner, plus_one, axes.as_axes(axis_name, "cautious")))
