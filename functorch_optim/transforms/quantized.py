"""State in few bits: slots as 8-bit codes with a scale for each tile, or as bfloat16 numbers rounded at random."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.tree_util import GetAttrKey, tree_flatten_with_path

from functorch_optim import trees
from functorch_optim.base import GradientTransformation, exportable, transformation, update_of
from functorch_optim.combinators import Wrapper
from functorch_optim.core import tiles
from functorch_optim.core.dynamic_map import LOWEST, decode, encode
from functorch_optim.keys import hashed
from functorch_optim.labels import Labels, as_mask, warn_of_empty
from functorch_optim.option_names import explains_names
from functorch_optim.placement import whole
from functorch_optim.typing import PyTree

Path = tuple[PyTree, ...]

DYNAMIC8, STOCHASTIC = "dynamic8", "bfloat16_stochastic"


@exportable
class Quantized(NamedTuple):
    """A slot in 8 bits.

    ``codes`` are uint8, in the slot's shape. ``scales`` are in the slot's dtype, one for each tile: the magnitude that
    the map's 1 stands for, with a minus if the tile has the signed map; NaN if a number is not finite.
    """

    codes: PyTree
    scales: PyTree


@exportable
class Rounded(NamedTuple):
    """A slot of float32 numbers that are rounded to bfloat16 at random."""

    values: PyTree


def is_few_bits(node: PyTree) -> bool:
    """Whether a node of a state stands for an array, in few bits."""
    return isinstance(node, Quantized | Rounded)


class FewBits(Wrapper):
    entrywise: ClassVar[bool] = False  # tiles are those of one parameter

    formats: tuple[tuple[str, str], ...]
    block: int
    min_size: int
    keep: Labels | None
    seed: int

    @classmethod
    def _call_name(cls) -> str:
        return "quantized"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("block", 16), ("min_size", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"quantized: {name} must be an integer of at least {least}, but it is {value!r}")
        for slot, form in self.formats:
            if form not in (DYNAMIC8, STOCHASTIC):
                hint = "; fo.state_dtype rounds to nearest" if form == "bfloat16" else ""
                raise ValueError(
                    f"quantized: the format of {slot} must be {DYNAMIC8!r} or {STOCHASTIC!r}, but it is {form!r}{hint}"
                )

    def init(self, params: PyTree) -> PyTree:
        state = self.inner.init(params)
        leaves, treedef = tree_flatten_with_path(state, is_leaf=is_few_bits)
        known = _Parameters(params)
        inexact = [path for path, leaf in leaves if is_few_bits(leaf) or _is_a(jnp.inexact, leaf)]
        slots = dict.fromkeys(name for path in inexact for name in _fields_in(known.above(path)))
        missing = [slot for slot, _ in self.formats if slot not in slots]
        if missing and jax.tree.leaves(params):
            raise ValueError(f"quantized: the state has no slot {', '.join(missing)}; it has {', '.join(slots)}")
        if not _counts(state) and any(form == STOCHASTIC for _, form in self.formats) and jax.tree.leaves(params):
            raise ValueError(f"quantized: {STOCHASTIC!r} needs a count of steps, and the state has none")
        known.keep(self.keep, params)
        return treedef.unflatten([self._held(path, leaf, known) for path, leaf in leaves])

    def _held(self, path: Path, leaf: PyTree, known: "_Parameters") -> PyTree:
        """A new leaf of the state as it is held."""
        forms = dict(self.formats)
        own = [forms[name] for name in _fields_in(known.above(path)) if name in forms]
        if own and is_few_bits(leaf):
            raise ValueError(f"quantized: {trees.path_name(path)} is in few bits already, by another fo.quantized")
        is_large = _is_a(jnp.floating, leaf) and leaf.ndim > 0 and leaf.size >= max(self.min_size, 1)
        if not own or not is_large or known.has(path):
            return leaf
        if own[-1] == STOCHASTIC:
            return Rounded(leaf.astype(jnp.bfloat16))
        manual = bool(jax.sharding.get_abstract_mesh().manual_axes)  # where an array may be a shard without saying so
        leaf = jax.lax.optimization_barrier(leaf)  # else XLA computes the codes of zeros when it compiles, for minutes
        return _quantized(leaf, tiles.grid_of(leaf.shape, self.block, tiles.shards_of(leaf), manual))

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        held, treedef = jax.tree.flatten(state, is_leaf=is_few_bits)
        plain = treedef.unflatten([_plain(node) for node in held])
        new, after = update_of(self.inner, updates, plain, params, extra)
        counts = _counts(after)
        leaves = treedef.flatten_up_to(after)
        numbered = enumerate(zip(held, leaves, strict=True))
        return new, treedef.unflatten(
            [_as(node, leaf, (self.seed, number), counts) for number, (node, leaf) in numbered]
        )

    def inner_state(self, state: PyTree) -> PyTree:
        return state


class _Parameters:
    """The paths of the parameters, and which parameters' slots stay as they are."""

    def __init__(self, params: PyTree) -> None:
        paths = [path for path, _ in tree_flatten_with_path(params, is_leaf=trees.is_leaf)[0]]
        self._flags: dict[Path, bool] = dict.fromkeys(paths, False)

    def keep(self, keep: Labels | None, params: PyTree) -> None:
        if keep is not None:
            warn_of_empty("quantized", keep, params)
            names, _, _ = trees.named_leaves(params, none_is_leaf=True)
            self._flags = {path: bool(one) for path, one in zip(self._flags, keep.of(names, params), strict=True)}

    def _start(self, path: Path) -> int:
        """Where in the path of a leaf of the state that of its parameter starts; at its end if it has none."""
        return next((start for start in range(len(path) + 1) if path[start:] in self._flags), len(path))

    def above(self, path: Path) -> Path:
        """The path of a leaf of the state, without that of the parameter that it belongs to."""
        return path[: self._start(path)]

    def has(self, path: Path) -> bool:
        """Whether a leaf of the state belongs to a parameter whose slots stay."""
        return self._flags.get(path[self._start(path) :], False)


def _is_a(kind: type, leaf: PyTree) -> bool:
    return isinstance(leaf, jax.Array) and bool(jnp.issubdtype(leaf.dtype, kind))


def _fields_in(path: Path) -> Iterator[str]:
    return (key.name for key in path if isinstance(key, GetAttrKey))


def _counts(state: PyTree) -> list[jax.Array]:
    """The integers in a state, which count its steps."""
    return [leaf for leaf in jax.tree.leaves(state) if _is_a(jnp.integer, leaf) and leaf.ndim == 0]


def _quantized(array: jax.Array, grid: tiles.Shape) -> Quantized:
    """Quantize a real array, each tile by its own scale."""
    own = tiles.split(array.astype(trees.compute_dtype(array)), grid)
    lowest, highest = map(tiles.over_tiles, _extremes(own))
    signed, numbers = lowest < 0, jnp.finfo(own.dtype)
    # The signed map has no -1, so its lowest number stands for the lowest one here. That quotient is rounded so much
    # that decoding and encoding again gives the same one.
    quotient = jax.lax.reduce_precision(lowest / -LOWEST, numbers.nexp, numbers.nmant // 2)
    largest = jnp.maximum(-lowest, highest)
    scales = jnp.minimum(jnp.maximum(quotient, highest), jnp.asarray(jnp.finfo(array.dtype).max, own.dtype))
    scales = jnp.where(jnp.isfinite(largest), jnp.where(scales < numbers.tiny, 0, scales), jnp.nan)
    held = jnp.where(signed, -scales, scales).astype(array.dtype)
    scales = jnp.abs(held).astype(own.dtype)
    shrink = jnp.where(scales > 1, 1 / 16, 1).astype(own.dtype)  # or 1 / scale may be flushed to zero
    codes = encode((own * shrink / jnp.where(scales == 0, 1, scales * shrink)).astype(jnp.float32), signed)
    return Quantized(tiles.joined(codes, array.shape), tiles.without_tiles(held))


def _extremes(own: jax.Array) -> list[jax.Array]:
    """The lowest and the highest number of each tile, or NaN, in one pass.

    On the CPU the minimum alone may leave out a NaN, and takes a pass that writes the array once more.
    """
    ends = [jnp.asarray(end, own.dtype) for end in (jnp.inf, -jnp.inf)]

    def both(one: list[jax.Array], two: list[jax.Array]) -> list[jax.Array]:
        return [jax.lax.min(one[0], two[0]), jax.lax.max(one[1], two[1])]

    return jax.lax.reduce([own, own], ends, both, tuple(range(1, own.ndim, 2)))


def _dequantized(node: Quantized) -> jax.Array:
    scales = tiles.over_tiles(node.scales).astype(trees.compute_dtype(node.scales))
    numbers = decode(tiles.split(node.codes, node.scales.shape), scales < 0).astype(scales.dtype)
    return tiles.joined(numbers * jnp.abs(scales), node.codes.shape).astype(node.scales.dtype)


def _plain(node: PyTree) -> PyTree:
    """A leaf of the state as the transformation inside has it."""
    if isinstance(node, Quantized):
        return _dequantized(node)
    return node.values.astype(jnp.float32) if isinstance(node, Rounded) else node


def _as(node: PyTree, leaf: PyTree, seeds: tuple[int, ...], counts: list[jax.Array]) -> PyTree:
    """A new leaf in the form of an old one."""
    if isinstance(node, Quantized):
        return _quantized(leaf.astype(node.scales.dtype), node.scales.shape)
    return Rounded(_rounded(leaf, seeds, counts)) if isinstance(node, Rounded) else leaf


def _rounded(array: jax.Array, seeds: tuple[int, ...], counts: list[jax.Array]) -> jax.Array:
    """Round float32 numbers to one of the two bfloat16 numbers around them, the nearer one more often."""
    wide = array.astype(jnp.float32)
    key = jnp.uint32(0)
    for number in (*(jnp.uint32(seed % 2**32) for seed in seeds), *(count.astype(jnp.uint32) for count in counts)):
        key = hashed(key ^ number) + jnp.uint32(0x9E3779B9)
    places = jax.lax.iota(jnp.uint32, wide.size).reshape(wide.shape)
    noise = hashed(hashed(places + key) ^ hashed(key)) >> 16
    bits = (jax.lax.bitcast_convert_type(wide, jnp.uint32) + noise) & jnp.uint32(0xFFFF0000)
    chosen = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(jnp.isfinite(wide), chosen, wide).astype(jnp.bfloat16)


@explains_names
def requantized(state: PyTree, like: PyTree) -> PyTree:
    """Return a state in the form of another: with its slots in 8 bits, in bfloat16, or as plain arrays.

    It leads from a plain state to that of :func:`quantized`, back, and from one to another with other tiles. The way
    to 8 bits rounds to the nearest numbers.

    Args:
        state: the state that has the numbers.
        like: a state of the same transformation, or its shapes: ``jax.eval_shape(tx.init, params)``, or
            :func:`functorch_optim.abstract_state`, whose places the result has.

    Returns:
        The state; what is in the same form in both is that of ``state``.

    Raises:
        ValueError: the states are of different transformations, or parameters.

    Example:
        >>> import functorch_optim as fo
        >>> params, plain_tx = jnp.ones((64, 64)), fo.adam()
        >>> tx = fo.quantized(plain_tx, {"exp_avg": "dynamic8"})
        >>> state = fo.requantized(plain_tx.init(params), jax.eval_shape(tx.init, params))
        >>> state.exp_avg.codes.dtype.name, state.exp_avg.scales.shape
        ('uint8', (16, 1))
        >>> fo.requantized(state, jax.eval_shape(plain_tx.init, params)).exp_avg.dtype.name
        'float32'
    """
    held, treedef = jax.tree.flatten(state, is_leaf=is_few_bits)
    names, wanted, other = _named(like)
    if treedef != other:
        found = [name for name in _named(state)[0] if name not in names]
        lost = [name for name in names if name not in _named(state)[0]]
        raise ValueError(
            f"requantized: the states have different leaves: {', '.join(lost) or 'none'} is only in like, "
            f"{', '.join(found) or 'none'} only in the state"
        )
    return treedef.unflatten([_like(*each) for each in zip(names, held, wanted, strict=True)])


def _named(state: PyTree) -> tuple[list[str], list[PyTree], PyTree]:
    flat, treedef = tree_flatten_with_path(state, is_leaf=is_few_bits)
    return [trees.path_name(path) for path, _ in flat], [node for _, node in flat], treedef


def _like(name: str, node: PyTree, model: PyTree) -> PyTree:
    if not is_few_bits(node) and not is_few_bits(model):
        return node
    plain = _plain(node)
    shape = jax.tree.leaves(model)[0].shape
    if plain.shape != shape:
        raise ValueError(f"requantized: {trees.quote(name)} has shape {plain.shape}, but in like {shape}")
    if isinstance(model, Quantized):
        place = _place_of(model.codes)
        plain = whole(plain, range(plain.ndim)) if place is None else jax.device_put(plain, place)
        new = _quantized(plain.astype(model.scales.dtype), model.scales.shape)
    else:
        new = Rounded(plain.astype(jnp.bfloat16)) if isinstance(model, Rounded) else plain.astype(model.dtype)
    return jax.tree.map(_placed, new, model)


def _placed(array: jax.Array, model: PyTree) -> jax.Array:
    place = _place_of(model)
    return array if place is None else jax.device_put(array, place)


def _place_of(model: PyTree) -> PyTree:
    """Where an array, or its shape, says it is; None if it does not say it."""
    place = getattr(model, "sharding", None)
    return place if isinstance(place, NamedSharding) and isinstance(place.mesh, Mesh) else None


@explains_names
def quantized(
    inner: GradientTransformation,
    formats: Mapping[str, str],
    block: int = 256,
    min_size: int = 4096,
    keep: PyTree = None,
    seed: int = 0,
) -> GradientTransformation:
    """Keep slots of any transformation in few bits; a step decodes them, and encodes the new ones.

    With ``"dynamic8"`` each number of a tile of about ``block`` entries becomes the nearest one of ``scale * map``. The
    map has 256 numbers, in seven decades below 1, more in the higher ones. The scale maps the tile's largest magnitude
    to the map's. A tile without negative numbers has the unsigned map, which has twice as many positive numbers. A
    code takes a byte, and a scale as many as a number of the slot: together at most 1.02 bytes an entry of a float32
    slot, instead of 4. Zeros stay zeros. A number that is not finite makes all of its tile NaN.

    With ``"bfloat16_stochastic"`` a float32 number is rounded to one of the bfloat16 numbers around it, the nearer one
    more often, so that on average nothing is lost: to nearest, a second moment with ``beta2=0.999`` stands still. The
    random bits depend on the seed, the counts in the state, and the place in the array.

    Args:
        inner: the transformation, usually the algorithm alone, or the whole chain.
        formats: slot -> format: ``{"exp_avg": "dynamic8", "exp_avg_sq": "dynamic8"}``.
        block: about how many entries have one scale. A tile has 0.8 to 1.6 times as many, and lies in one shard.
        min_size: slots with fewer entries stay as they are, and so do scalars, and complex and integer ones.
        keep: which parameters' slots stay as they are, such as those of embeddings: a mask as
            :func:`functorch_optim.masked` takes it.
        seed: for the random bits.

    Returns:
        A transformation with the state of ``inner``, where a slot in few bits is a :class:`Quantized` or a
        :class:`Rounded`. Inside :func:`functorch_optim.zero` and :func:`functorch_optim.offload` it is split and
        moved as any state. :func:`requantized` leads to a plain state and back.

    Raises:
        TypeError: ``inner`` is no transformation, or ``formats`` no mapping. ValueError: there is no such format, or
            from ``init`` no such slot; ``block``, ``min_size`` or ``seed`` is out of range.

    Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022.

    Example:
        >>> import functorch_optim as fo
        >>> tx = fo.quantized(fo.adamw(lr=0.1), {"exp_avg": "dynamic8", "exp_avg_sq": "dynamic8"})
        >>> params = {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)}
        >>> updates, state = jax.jit(tx.update)(params, tx.init(params), params)
        >>> state.exp_avg["kernel"].codes.shape, state.exp_avg["kernel"].scales.shape, state.exp_avg["bias"].dtype.name
        ((64, 64), (16, 1), 'float32')
    """
    if not isinstance(formats, Mapping):
        raise TypeError(f'quantized: formats must be a dict, {{"exp_avg": "dynamic8"}}, but it is {formats!r}')
    pairs = tuple((str(slot), str(form)) for slot, form in formats.items())
    return transformation(
        FewBits(inner, pairs, block, min_size, None if keep is None else as_mask("quantized", keep), seed)
    )
