"""State that lives in the host's memory, and streams through a step."""

import jax

from functorch_optim import memory, trees
from functorch_optim.base import GradientTransformation, transformation, update_of
from functorch_optim.combinators import Wrapper
from functorch_optim.objectives import restricted
from functorch_optim.option_names import explains_names
from functorch_optim.streaming import streamed
from functorch_optim.typing import PyTree


class Offload(Wrapper):
    memory_kind: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_kind != memory.HOST_KIND:
            raise ValueError(
                f"offload: memory_kind must be {memory.HOST_KIND!r}, the host's memory that devices copy from by "
                f"themselves, but it is {self.memory_kind!r}"
            )

    def init(self, params: PyTree) -> PyTree:
        return jax.tree.map(_rested, self.inner.init(jax.tree.map(memory.to_device, params)))

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        trees.check_arrays(updates, params)
        inputs, treedef = jax.tree.flatten((updates, state, params))
        places: list[PyTree] = []

        def whole(*given: PyTree) -> tuple[list[PyTree], list[PyTree]]:
            own_updates, own_state, own_params = treedef.unflatten(given)
            keywords = restricted(extra, lambda tree: jax.tree.map(memory.to_device, tree), lambda tree: tree)
            new, after = update_of(self.inner, own_updates, own_state, own_params, keywords)
            after = jax.tree.map(_rested, after)
            flat = [jax.tree.flatten(tree) for tree in (new, after)]
            places.extend(structure for _, structure in flat)
            return flat[0][0], flat[1][0]

        results = streamed(whole, inputs)
        count = places[0].num_leaves
        return places[0].unflatten(results[:count]), places[1].unflatten(results[count:])

    def inner_state(self, state: PyTree) -> PyTree:
        return state


def _rested(leaf: PyTree) -> PyTree:
    """A leaf of the state in the host's memory; counts and other scalars stay where they are."""
    return memory.to_host(leaf) if isinstance(leaf, jax.Array) and leaf.ndim else leaf


@explains_names
def offload(inner: GradientTransformation, memory_kind: str = memory.HOST_KIND) -> GradientTransformation:
    """Keep the state in the host's memory, and bring it to the device leaf by leaf during a step.

    A state of Adam is twice as large as the parameters, and a step needs each number of it once. A step fetches a
    leaf's slots, updates them, sends them back, and computes the update; the fetch of a leaf waits for the update of
    the one two before it, so that the device holds the slots of a few leaves at a time. The time is that of two copies
    of the state over the bus, beside the computation.

    Parameters may be in the host's memory too: they come with their slots, and :func:`functorch_optim.apply_updates`
    leaves them where they are. For the loss move them yourself, ``jax.device_put(params, jax.memory.Space.Device)``.

    The numbers are those of ``inner``, which may be any transformation. What sees all of the state at once, such as a
    condition around it (:func:`functorch_optim.skip_nonfinite`, :func:`functorch_optim.lookahead`), fetches it at once:
    put it outside, ``fo.skip_nonfinite(fo.offload(...))`` keeps the state's place, but not the order. A derivative
    through several steps is not supported: the cotangents of the state are in two memories.

    Args:
        inner: the transformation.
        memory_kind: the kind of memory, ``"pinned_host"``.

    Returns:
        A transformation whose state is ``inner``'s, arrays in the host's memory and scalars not, so that a checkpoint
        fits both. Steps must be compiled to be quick. :func:`functorch_optim.init_sharded` makes the state in place.
        Donate it only together with the parameters, to a step that returns both in the same order, or with
        ``out_shardings``: else JAX may give its memory to a result on the device, which ends the program.

    Raises:
        TypeError: ``inner`` is no transformation. ValueError: there is no such kind of memory.

    Example:
        >>> import jax, functorch_optim as fo
        >>> tx, params = offload(fo.adam(lr=0.1)), {"w": jax.numpy.ones(2)}
        >>> state = jax.jit(tx.init)(params)
        >>> updates, state = jax.jit(tx.update)(params, state, params)
        >>> state.exp_avg["w"].sharding.memory_kind, state.step.sharding.memory_kind
        ('pinned_host', 'device')
    """
    return transformation(Offload(inner, memory_kind))
