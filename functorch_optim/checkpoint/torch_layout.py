"""How torch names and lays out the parameters of a JAX tree."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from functorch_optim import trees
from functorch_optim.checkpoint import scheduler_layout, state_layout
from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.checkpoint.leaf_rules import TORCH_NAMES, LeafRule, Search
from functorch_optim.checkpoint.pieces import Leaf, Piece, parts_of
from functorch_optim.placement import place
from functorch_optim.torch_tensors import as_array
from functorch_optim.typing import PyTree

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_STATISTICS = (
    "In flax give the statistics too: nnx.state(model, (nnx.Param, nnx.BatchStat)), or all of linen's variables. "
)
_UNMAPPED = re.compile(r"(.*\.)?num_batches_tracked")  # torch counts, flax and equinox do not


class TorchLayout:
    """Maps a torch module's parameters to those of its JAX twin and back: names, axes, and what is cut or joined.

    It converts parameters and an optimizer's state, in both directions.

    Args:
        params: the JAX tree (an ``nnx.State``, linen's variables or parameters, an equinox module, a dict) of arrays
            or :class:`jax.ShapeDtypeStruct`. Leaves that are not floating arrays (activation functions, random keys)
            and that torch does not have are left alone.
        torch_params: torch's ``module.state_dict()``: arrays or tensors by name, in torch's order.
        rules: names and layouts of leaves, tried before :data:`TORCH_NAMES`. The first rule that leads to one of
            torch's names with a shape that fits decides.
        rename: ``(regular expression, replacement)`` pairs, applied one after the other, that turn the tree's paths
            into paths of torch's modules: ``[(r"^Dense_0\\.", "fc1.")]``.
        stacked: layers that the tree stacks along the first axis of every leaf, for a scan, and torch keeps one by
            one: ``{"layers": "encoder.layers"}`` builds ``layers.<rest>`` from ``encoder.layers.0.<rest>``, ....
            Here, too, paths are without linen's ``params.`` and ``batch_stats.``.
        tied: torch's names of parameters that are the same as others: ``{"head.weight": "embed.weight"}``.
        ignore: regular expressions for torch's names that the tree may lack.

    Raises:
        CheckpointError: something does not map: a leaf that torch lacks, a parameter or buffer of torch that the tree
            lacks (except ``num_batches_tracked``), or a shape that does not fit; or no rule in ``rules`` says whether
            a dense kernel behind a convolution takes a flattened image, although its size permits it. One error lists
            everything.

    Example:
        >>> import numpy as np
        >>> params = {"fc1": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}}
        >>> weights = {"fc1.weight": np.arange(6.0).reshape(2, 3), "fc1.bias": np.ones(2)}
        >>> layout = TorchLayout(params, weights)
        >>> layout.params_from_torch(weights)["fc1"]["kernel"].tolist()
        [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """

    def __init__(
        self,
        params: PyTree,
        torch_params: Mapping[str, PyTree],
        *,
        rules: Sequence[LeafRule] = (),
        rename: Iterable[tuple[str, str]] = (),
        stacked: Mapping[str, str] | None = None,
        tied: Mapping[str, str] | None = None,
        ignore: Iterable[str] = (),
    ) -> None:
        self._tree = params
        own_rules = [rule for rule in rules if rule not in TORCH_NAMES]
        self._ignore = [_UNMAPPED, *map(re.compile, ignore)]
        self._tied = dict(tied or {})
        unknown = [name for pair in self._tied.items() for name in pair if name not in torch_params]
        if unknown:
            raise CheckpointError(f"tied= names what torch does not have: {', '.join(map(repr, unknown))}")
        self.torch_shapes: dict[str, tuple[int, ...]] = {}
        self.trained: list[str] = []  # possible parameters, in torch's order
        for given, value in torch_params.items():
            name = self._tied.get(given, given)
            if name not in self.torch_shapes and _is_floating(value) and name.rpartition(".")[2] not in _BUFFERS:
                self.trained.append(name)
            self.torch_shapes[name] = tuple(torch_params[name].shape)
        search = Search(self.torch_shapes, own_rules, list(rename), dict(stacked or {}))
        names, models, _ = trees.named_leaves(params)
        found = [search.leaf(name, model) for name, model in zip(names, models, strict=True)]
        self.leaves = [leaf for leaf in found if isinstance(leaf, Leaf)]
        problems = [problem for problem in found if isinstance(problem, str)]
        problems += self._incomplete() + search.questions(self.leaves)
        if problems:
            lacking = any(
                _is_statistic(name) and not (self.has(name) or self.ignores(name)) for name in self.torch_shapes
            )
            raise CheckpointError(
                "the parameters of torch and of the tree do not map:\n  " + "\n  ".join(problems) + "\n"
                f"{_STATISTICS if lacking else ''}rename= turns paths of the tree into torch's, "
                "rules=[LeafRule(path, name, layout)] maps single leaves, ignore= lists torch's names that may be "
                "left out"
            )

    def _incomplete(self) -> list[str]:
        """List torch's parameters that the tree lacks, or has twice."""
        used: dict[str, list[Piece]] = {}
        for leaf in self.leaves:
            for piece in leaf.pieces:
                used.setdefault(piece.name, []).append(piece)
        problems = []
        for name, shape in self.torch_shapes.items():
            parts = [piece.part or (0, 1) for piece in used.get(name, ())]
            if not parts and not any(pattern.fullmatch(name) for pattern in self._ignore):
                problems.append(f"torch's {name!r} {shape} has no leaf in the tree; ignore= lists what may be left out")
            elif parts and sorted(parts) != [(i, parts[0][1]) for i in range(parts[0][1])]:
                problems.append(f"torch's {name!r} {shape} has too few or too many leaves in the tree")
        return problems

    def __getitem__(self, key: str) -> "TorchLayout":
        """The layout of a subtree, with paths relative to it: ``layout["params"]`` of linen's variables."""
        part = object.__new__(TorchLayout)
        part._tree, part._ignore, part._tied = self._tree[key], [], {}
        inside = [leaf for leaf in self.leaves if leaf.name.startswith(f"{key}.")]
        part.leaves = [leaf._replace(name=leaf.name[len(key) + 1 :]) for leaf in inside]
        torch_names = {piece.name for leaf in part.leaves for piece in leaf.pieces}
        part.torch_shapes = {name: shape for name, shape in self.torch_shapes.items() if name in torch_names}
        part.trained = [name for name in self.trained if name in torch_names]
        return part

    def ignores(self, name: str) -> bool:
        """Whether the tree may lack this parameter of torch."""
        return any(pattern.fullmatch(name) for pattern in self._ignore)

    def has(self, name: str) -> bool:
        """Whether a parameter of torch has a leaf in the tree."""
        return bool(parts_of(name, self.leaves))

    def params_from_torch(self, torch_params: Mapping[str, PyTree]) -> PyTree:
        """Return the tree with torch's values and dtypes, each leaf placed as in the tree the layout was built with.

        Raises:
            CheckpointError: a parameter is missing or has another shape.
        """
        arrays = {name: np.asarray(as_array(value)) for name, value in torch_params.items()}
        for name, shape in self.torch_shapes.items():
            found = arrays[name].shape if name in arrays else None
            if found != shape and not self.ignores(name):
                raise CheckpointError(f"torch's {name!r} should have shape {shape}, but it has {found or 'none'}")
        made = {
            leaf.name: leaf.join([piece.to_jax(arrays[piece.name]) for piece in leaf.pieces]) for leaf in self.leaves
        }
        names, models, treedef = trees.named_leaves(self._tree)
        pairs = zip(names, models, strict=True)
        return treedef.unflatten([place(made[n], model) if n in made else model for n, model in pairs])

    def params_to_torch(self, params: PyTree) -> dict[str, np.ndarray]:
        """Return torch's state dict, in NumPy arrays, from a tree like the one the layout was built with.

        :func:`functorch_optim.checkpoint.save_torch` writes it for ``torch.load`` and ``model.load_state_dict``.

        Raises:
            CheckpointError: the tree has another structure or other shapes.
        """
        names, values, _ = trees.named_leaves(params)
        held = dict(zip(names, values, strict=True))
        result = {}
        for name, shape in self.torch_shapes.items():
            pieces = parts_of(name, self.leaves)
            for leaf, _ in pieces:
                found = np.shape(held[leaf.name]) if leaf.name in held else None
                if found is None and _is_statistic(name):
                    raise CheckpointError(
                        f"the tree has no leaf {leaf.name!r}, torch's {name!r}. {_STATISTICS.rstrip()}"
                    )
                if found != leaf.shape:
                    raise CheckpointError(
                        f"the leaf {leaf.name!r} should have shape {leaf.shape}, but it has {found or 'none'}"
                    )
            if pieces:
                parts = [leaf.pieces[i].to_torch(leaf.split(np.asarray(held[leaf.name]))[i]) for leaf, i in pieces]
                result[name] = np.concatenate(parts) if len(parts) > 1 else np.array(parts[0].reshape(shape), order="C")
        return result | {name: result[of] for name, of in self._tied.items() if of in result}

    def state_from_torch(
        self, state_dict: Mapping[str, PyTree], names: Sequence[str] | None = None
    ) -> dict[str, PyTree]:
        """Convert the ``state_dict`` of a torch optimizer for this library's optimizer over the tree.

        Every slot is laid out like its parameter; Adafactor's row and column statistics trade places, L-BFGS's flat
        history is permuted, and a Muon group over transposed matrices gets ``reshape="out_last"``.

        Args:
            state_dict: the torch optimizer's.
            names: torch's names of the parameters, in the order of their numbers. By default the state dict's own; if
                it has none (an optimizer built with ``model.parameters()``) and one group, those of the layout.

        Raises:
            CheckpointError: the names are unknown or not the layout's; a slot does not fit its parameter, or cannot
                be mapped (Adafactor's statistics of a convolution run over other axes in torch).
        """
        return state_layout.from_torch(self, state_dict, names)

    def state_to_torch(self, state_dict: Mapping[str, PyTree], names: Sequence[str] | None = None) -> dict[str, PyTree]:
        """Convert the ``state_dict`` of this library's optimizer over the tree for the torch optimizer.

        It gets torch's names. Torch matches by position: the groups keep their order, and each has its parameters in
        the order of torch's module.

        Args:
            state_dict: the optimizer's.
            names: torch's names in the torch optimizer's order, if its parameters or groups are in another order.

        Raises:
            CheckpointError: the state dict has no names, or not the tree's; parts of one parameter differ in what they
                share; a slot cannot be mapped.
        """
        return state_layout.to_torch(self, state_dict, names)

    def scheduler_to_torch(
        self, state_dict: Mapping[str, PyTree], optimizer: Mapping[str, PyTree]
    ) -> dict[str, PyTree]:
        """Convert the ``state_dict`` of a scheduler of this library: what it has per group gets torch's order.

        The other way needs no conversion: ``scheduler.load_state_dict`` follows the optimizer's groups.

        Args:
            state_dict: the scheduler's.
            optimizer: what :meth:`state_to_torch` returned for its optimizer.

        Raises:
            CheckpointError: the groups of the two differ.
        """
        return scheduler_layout.to_torch(self, state_dict, optimizer)


def _is_statistic(name: str) -> bool:
    """Whether this is torch's name of a running statistic."""
    return name.endswith(("running_mean", "running_var"))


def _is_floating(value: PyTree) -> bool:
    """Whether torch trains arrays or tensors of this dtype."""
    kind = str(value.dtype)
    return any(word in kind for word in ("float", "complex", "half", "double"))
