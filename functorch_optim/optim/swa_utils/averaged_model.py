"""The average of a model's parameters over training: SWA, EMA, or a custom function."""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import trees
from functorch_optim.optim.swa_utils.averaging_functions import Averaging, AvgFn, MultiAvgFn, get_swa_avg_fn
from functorch_optim.optim.swa_utils.count import Count
from functorch_optim.optim.swa_utils.models import Module, Parts, Tree, is_array, on_device, owned, wrapped
from functorch_optim.optim.swa_utils.wide_averages import is_narrow, recalled, roundings
from functorch_optim.optim.transaction import Compiled, Transaction, exclusive
from functorch_optim.torch_tensors import arrays_in, as_array
from functorch_optim.typing import Numeric, PyTree


class AveragedModel:
    """Holds the averages of a model's parameters; ``update_parameters`` adds the next ones.

    The first update copies the parameters. By default all updates have equal weight (SWA).

    Args:
        model: a tree of parameters, a flax nnx module, or a callable tree such as an equinox module.
        device: where to put the averages: a device, its platform's name, or a sharding; by default where the
            parameters are.
        avg_fn: ``avg_fn(averaged, current, num_averaged)`` returns the new average of one array.
        multi_avg_fn: the same for lists of arrays of one dtype; returns the new list.
        use_buffers: whether to average the buffers too; otherwise every update copies the model's.
        buffers: for a tree of parameters, a tree of what is not a parameter, such as batch statistics.
        apply_fn: for a tree, what a call of the average calls: ``apply_fn(params, *inputs)``, with buffers
            ``apply_fn(params, buffers, *inputs)``.

    ``num_averaged`` and ``n_averaged`` are Python ints. A custom function is called as it is, once per array or
    list; to compile it, pass ``jax.jit(function)``.

    Averages are at least float32: in bfloat16 a share of 0.001 of the next parameters would be rounded away (torch's
    averages of bfloat16 parameters stall). Functions see float32, and :meth:`state_dict` has it; :attr:`module`,
    :attr:`params` and a call have the average rounded to the parameters' own dtypes, ready to run. A number written
    into an nnx :attr:`module` becomes the average there.

    Integer arrays, such as counts, are copied from the model instead of averaged (torch raises or truncates). Random
    keys and intermediate values of a module are neither averaged nor saved.

    Raises:
        AssertionError: both functions are given; TypeError: there is nothing to average.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018.

    Example:
        >>> averaged = AveragedModel({"w": jnp.zeros(2)}, apply_fn=lambda params, x: params["w"] * x)
        >>> for value in (1.0, 2.0, 6.0):
        ...     averaged.update_parameters({"w": jnp.full(2, value)})
        >>> averaged.params["w"].tolist(), averaged.n_averaged, averaged(2.0).tolist()
        ([3.0, 3.0], 3, [6.0, 6.0])
        >>> list(averaged.state_dict())
        ['n_averaged', 'module.w']
    """

    def __init__(
        self,
        model: PyTree,
        device: PyTree = None,
        avg_fn: AvgFn | None = None,
        multi_avg_fn: MultiAvgFn | None = None,
        use_buffers: bool = False,
        *,
        buffers: PyTree = None,
        apply_fn: Callable[..., PyTree] | None = None,
    ) -> None:
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers
        self._n_averaged = 0
        self._transaction = Transaction()
        self._model: Tree | Module = wrapped(model, buffers, apply_fn)
        parts = self._model.read()
        repeated = sorted({name for name in parts.names if parts.names.count(name) > 1})
        if repeated:
            raise ValueError(f"parameters and buffers share the names {', '.join(map(trees.quote, repeated))}")
        self._wide: dict[int, jax.Array] = {}  # float32 averages by the index of the model's narrow leaf
        self._model.write([owned(on_device(leaf, device)) for leaf in parts.leaves])

    def _averages(self, parts: Parts) -> list[PyTree]:
        """Return the model's leaves, with float32 averages instead of averaged float16 and bfloat16 ones."""
        leaves, count = list(parts.leaves), len(parts.leaves) if self.use_buffers else parts.count
        places = [i for i in range(count) if is_narrow(leaves[i])]
        wide = recalled([self._wide.get(i) for i in places], [leaves[i] for i in places]) if places else []
        for i, average in zip(places, wide, strict=True):
            leaves[i] = average
        return leaves

    def _write(self, parts: Parts, averages: list[PyTree], count: int) -> None:
        """Store new averages and their count, and write them into the model in its dtypes."""
        pairs = enumerate(zip(averages, parts.leaves, strict=True))
        wide = {i: average for i, (average, held) in pairs if is_narrow(held) and average.dtype != held.dtype}
        if wide:
            dtypes = tuple(parts.leaves[i].dtype for i in wide)
            rounded = dict(zip(wide, roundings(list(wide.values()), dtypes), strict=True))
            averages = [rounded.get(i, average) for i, average in enumerate(averages)]

        def commit() -> None:
            self._model.write(averages)
            self._wide, self._n_averaged = wide, count

        self._transaction.commit(commit)

    @property
    def n_averaged(self) -> int:
        """The number of updates in the averages; write it to start over, ``averaged.n_averaged = 0``."""
        return Count(self._n_averaged)

    @n_averaged.setter
    def n_averaged(self, count: int) -> None:
        self._n_averaged = int(count)

    @property
    def module(self) -> PyTree:
        """The nnx module with the averaged parameters, or their tree."""
        with self._transaction.handoff_lock:
            return self._model.module

    @property
    def params(self) -> PyTree:
        """The averaged parameters in the model's structure."""
        return self._trees()[0]

    @property
    def buffers(self) -> PyTree:
        """The buffers in the model's structure."""
        return self._trees()[1]

    def _trees(self) -> tuple[PyTree, PyTree]:
        with self._transaction.handoff_lock:
            parts = self._model.read()
            return parts.trees(parts.leaves)

    def __call__(self, *inputs: object, **options: object) -> PyTree:
        """Call the model with the averaged parameters; torch's tensors become arrays."""
        with self._transaction.handoff_lock:
            model = self._model.snapshot()
        return model(*arrays_in(inputs), **arrays_in(options))

    def train(self, mode: bool = True) -> "AveragedModel":
        """Set the mode of a flax nnx module; a tree has no mode."""
        if isinstance(self._model, Module):
            (self._model.module.train if mode else self._model.module.eval)()
        return self

    def eval(self) -> "AveragedModel":
        """Set a flax nnx module to evaluation; a tree has no mode."""
        return self.train(False)

    def update_parameters(self, model: PyTree, buffers: PyTree = None) -> None:
        """Add the parameters of ``model`` to the averages.

        Args:
            model: as passed to the constructor; instead of an nnx module, also its parameters alone.
            buffers: the model's buffers, for a tree. Without them the buffers stay as they are.

        Raises:
            ValueError: the structure or an array's shape differs; TypeError: a function does not return an array.
                Nothing changes then.
        """
        with self._transaction.change_lock:
            self._update(model, buffers)

    def _update(self, model: PyTree, buffers: PyTree) -> None:
        parts = self._model.read()
        current = parts.aligned(*self._model.split(model, buffers))
        _check_shapes(parts, current)
        last = 0 if self._n_averaged == 0 else len(current) if self.use_buffers else parts.count
        mixed = [i for i in range(last) if current[i] is not None and _is_inexact(parts.leaves[i])]
        leaves, copied = self._averages(parts), set(range(len(current))) - set(mixed)
        for i in copied:
            if current[i] is not None:
                leaves[i] = owned(_beside(current[i], leaves[i]))
        names, taken = [parts.names[i] for i in mixed], [_beside(current[i], leaves[i]) for i in mixed]
        held = [leaves[i] for i in mixed]

        def commit(averages: list[PyTree]) -> None:
            for i, average in zip(mixed, averages, strict=True):
                leaves[i] = average
            self._write(parts, leaves, self._n_averaged + 1)

        # In place, unless a module's variables hold the averages too, or narrow averages are rounded at the end.
        alone = isinstance(self._model, Tree) and not any(is_narrow(parts.leaves[i]) for i in mixed)
        if mixed and alone and isinstance(self._function, Averaging):
            compiled = _compiled(self._apply, self._function, in_place=True)
            self._transaction.run(compiled, lambda: (exclusive(held, 3), taken, self._n_averaged), commit)
        else:
            commit(self._averaged(names, held, taken) if mixed else [])

    @property
    def _function(self) -> Callable[..., PyTree]:
        return self.avg_fn or self.multi_avg_fn or get_swa_avg_fn()

    @property
    def _apply(self) -> Callable[..., PyTree]:
        return _together if self._function is self.multi_avg_fn else _one_by_one

    def _averaged(self, names: list[str], averages: list[PyTree], current: list[object]) -> list[PyTree]:
        """Compute the new averages, one group of equal dtypes at a time."""
        function, apply = self._function, self._apply
        if isinstance(function, Averaging):
            return _compiled(apply, function, in_place=False)(averages, current, self._n_averaged)
        groups: dict[Hashable, list[int]] = {}
        for index, average in enumerate(averages):
            groups.setdefault(average.dtype, []).append(index)
        result = list(averages)
        for indices in groups.values():
            held, taken = [averages[i] for i in indices], [current[i] for i in indices]
            new = apply(function, held, taken, self._n_averaged)
            if not isinstance(new, list | tuple) or len(new) != len(held):
                raise TypeError(
                    "multi_avg_fn must return the list of the new averages: JAX arrays cannot be changed in place; "
                    f"it returned {type(new).__name__}"
                )
            for i, average in zip(indices, new, strict=True):
                result[i] = _as_average(names[i], average, averages[i])
                if result[i] is current[i]:
                    result[i] = owned(average)
        return result

    def _replace_buffers(self, buffers: PyTree) -> None:
        with self._transaction.change_lock:
            parts = self._model.read()
            averages = self._averages(parts)
            new = [*averages[: parts.count], *parts.aligned(self.params, buffers)[parts.count :]]
            beside = [_beside(leaf, average) for leaf, average in zip(new, averages, strict=True)]
            self._write(parts, beside, self._n_averaged)

    def state_dict(self) -> dict[str, PyTree]:
        """Return ``n_averaged``, and every array as torch names it, ``module.<dotted path>``; averages in float32."""
        with self._transaction.handoff_lock:
            parts = self._model.read()
            pairs = list(zip(parts.names, self._averages(parts), strict=True))
        arrays = {_key(name): leaf for name, leaf in pairs if is_array(leaf)}
        return {"n_averaged": np.asarray(self._n_averaged, np.int64), **arrays}

    def load_state_dict(self, state_dict: Mapping[str, PyTree], strict: bool = True) -> None:
        """Load the arrays of a ``state_dict`` of this library or of torch; averages become at least float32.

        With ``strict=False`` keys may be missing, and unexpected ones are ignored.

        Raises:
            RuntimeError: keys are missing or unexpected, or shapes differ; it lists all, and nothing changes.
        """
        with self._transaction.change_lock:
            self._load(state_dict, strict)

    def _load(self, state_dict: Mapping[str, PyTree], strict: bool) -> None:
        parts = self._model.read()
        own_keys = {_key(name): i for i, name in enumerate(parts.names) if is_array(parts.leaves[i])}
        wanted = ["n_averaged", *own_keys]
        found = {key: value if is_array(value) else jnp.asarray(value) for key, value in _arrays(state_dict).items()}
        problems = []
        for label, keys in (
            ("Missing", [key for key in wanted if key not in found]),
            ("Unexpected", [key for key in found if key not in wanted]),
        ):
            if keys and strict:
                problems.append(f"{label} key(s) in state_dict: {', '.join(map(repr, keys))}.")
        for key, i in own_keys.items():
            shape = jnp.shape(parts.leaves[i])
            if key in found and jnp.shape(found[key]) != shape:
                problems.append(
                    f"size mismatch for {key}: copying a param with shape {jnp.shape(found[key])} from checkpoint, the "
                    f"shape in current model is {shape}."
                )
        count = found.get("n_averaged", np.asarray(self._n_averaged))
        if count.shape != () or not jnp.issubdtype(count.dtype, jnp.integer):
            problems.append("n_averaged must be one integer.")
        if problems:
            raise RuntimeError("\n\t".join([f"Error(s) in loading state_dict for {type(self).__name__}:", *problems]))
        leaves = self._averages(parts)
        for key in own_keys.keys() & found.keys():
            i = own_keys[key]
            leaves[i] = owned(_beside(found[key], leaves[i]))
        self._write(parts, leaves, int(count))


def _check_shapes(parts: Parts, current: list[PyTree]) -> None:
    for name, held, leaf in zip(parts.names, parts.leaves, current, strict=True):
        if is_array(leaf) and is_array(held) and leaf.shape != held.shape:
            raise ValueError(
                f"the model's {trees.quote(name)} has shape {leaf.shape}, its average has shape {held.shape}"
            )


def _as_average(name: str, new: PyTree, average: PyTree) -> jax.Array:
    """Check and cast what an averaging function returned for one array."""
    if not is_array(new):
        raise TypeError(
            f"the averaging function must return the new average of {trees.quote(name)}, but it returned "
            f"{type(new).__name__}: JAX arrays cannot be changed in place"
        )
    if new.shape != average.shape:
        raise ValueError(
            f"the averaging function returned shape {new.shape} for {trees.quote(name)}, which has shape "
            f"{average.shape}"
        )
    return new if new.dtype == average.dtype else jnp.asarray(new).astype(average.dtype)


def _key(name: str) -> str:
    return f"module.{name}" if name else "module"


def _arrays(state_dict: Mapping[str, PyTree]) -> dict[str, PyTree]:
    return {key: as_array(value) for key, value in state_dict.items() if value is not None}


def _is_inexact(leaf: PyTree) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _beside(leaf: PyTree, average: PyTree) -> PyTree:
    """Convert ``leaf`` to the dtype and sharding of its average."""
    if not is_array(average) or not is_array(leaf):
        return leaf
    if leaf.dtype != average.dtype:
        leaf = jnp.asarray(leaf).astype(average.dtype)
    same = isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(average.sharding, leaf.ndim)
    return leaf if same else jax.device_put(leaf, average.sharding)


def _one_by_one(function: Any, averages: list[PyTree], current: list[PyTree], count: Any) -> list[PyTree]:
    return [function(average, leaf, count) for average, leaf in zip(averages, current, strict=True)]


def _together(function: Any, averages: list[PyTree], current: list[PyTree], count: Any) -> PyTree:
    return function(averages, current, count)


@functools.lru_cache(maxsize=64)
def _compiled(apply: Callable[..., PyTree], function: Averaging, in_place: bool) -> Compiled:
    """``(averages, current, count) -> averages``."""

    def average(averages: list[PyTree], current: list[object], count: Numeric) -> list[PyTree]:
        return apply(function, averages, current, count)

    return Compiled(average, (0,) if in_place else ())
