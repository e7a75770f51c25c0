"""Muon for matrices and AdamW for the rest, as one transformation."""

from collections.abc import Callable, Mapping

from functorch_optim.algorithms.adamw import adamw
from functorch_optim.algorithms.muon import muon
from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.labels import ByLeaf, Labels
from functorch_optim.matrices import HasMatrices, as_matrix_axes
from functorch_optim.option_names import explains_names
from functorch_optim.selection import Partition
from functorch_optim.typing import Array, PyTree


def is_matrix(name: str, array: Array) -> bool:
    """Whether a parameter has two dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> is_matrix("dense.kernel", jnp.zeros((2, 3))), is_matrix("dense.bias", jnp.zeros(3))
        (True, False)
    """
    del name
    return array.ndim == 2


def has_matrices(name: str, array: Array) -> bool:
    """Whether a parameter has two dimensions or more.

    Example:
        >>> import jax.numpy as jnp
        >>> has_matrices("conv.kernel", jnp.zeros((3, 3, 8, 16)))
        True
    """
    del name
    return array.ndim >= 2


def matrices_for(options: Mapping[str, PyTree]) -> Callable[[str, PyTree], bool]:
    """What Muon takes by default with these options: matrices, and larger arrays if an option says what they are."""
    if options.get("matrix_axes") is not None:
        return HasMatrices(as_matrix_axes(options["matrix_axes"]))
    return has_matrices if options.get("batched") or options.get("reshape") is not None else is_matrix


class Routing(ByLeaf):
    """``"muon"`` if ``function`` says so, else ``"adamw"``."""

    def label(self, name: str, leaf: PyTree) -> str:
        return "muon" if self.function(name, leaf) else "adamw"


@explains_names
def muon_adamw(
    muon_options: Mapping[str, PyTree] | None = None,
    adamw_options: Mapping[str, PyTree] | None = None,
    use_muon: Callable[[str, PyTree], bool] | None = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    """Muon for the matrices and AdamW for all other parameters.

    Args:
        muon_options: the options of :func:`functorch_optim.muon`, by name.
        adamw_options: the options of :func:`functorch_optim.adamw`, by name.
        use_muon: a function of a parameter's dotted path and array (it may use shape and dtype) that says whether Muon
            updates it. By default every matrix, with ``batched`` or ``reshape`` among the options every array of two or
            more dimensions, and with ``matrix_axes`` what it names. :func:`functorch_optim.plan` shows the result.
            Embeddings and output layers are matrices, but do better with AdamW:
            ``use_muon=lambda name, array: array.ndim == 2 and "embed" not in name``.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, as for
            :func:`functorch_optim.muon`.

    Returns:
        A :func:`functorch_optim.partition` with the labels ``"muon"`` and ``"adamw"``.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.

    Example:
        >>> import functorch_optim as fo, jax.numpy as jnp
        >>> tx = muon_adamw({"lr": 0.02}, {"lr": 3e-4})
        >>> state = tx.init({"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)})
        >>> fo.find_state(state, fo.MuonState).momentum_buffer["bias"] is None
        True
    """
    options = {**(muon_options or {}), **({} if axis_name is None else {"axis_name": axis_name})}
    routing = Routing(use_muon or matrices_for(options))
    members = (adamw(**dict(adamw_options or {})), muon(**options))
    return transformation(Partition(Labels(routing), ("adamw", "muon"), members))
