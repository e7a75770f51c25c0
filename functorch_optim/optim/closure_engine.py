"""Steps an algorithm that evaluates the loss itself: one state for all parameters, one compiled call a step."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import base, trees
from functorch_optim.algorithms.quasi_newton import QuasiNewton, flattened
from functorch_optim.base import GradientTransformation, Update
from functorch_optim.hyperparams import Named, as_count, data_options
from functorch_optim.optim.losses import CompiledLosses, takes_parameters
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.options import delayed
from functorch_optim.optim.ownership import exclusive, own
from functorch_optim.optim.packs import Leaves
from functorch_optim.optim.param_groups import Layout
from functorch_optim.optim.processes import check_same_everywhere
from functorch_optim.optim.state_dict import Loaded, Refused, kept
from functorch_optim.optim.transaction import Args
from functorch_optim.optim.transform_engine import matched
from functorch_optim.transforms.conjugation import conjugate_leaf

Entry = dict[str, Any]


class ClosureEngine:
    """One state for all parameters. A subclass says how torch's state_dict has it, on the first parameter."""

    strict = True  # every option of ``data_names`` must be a number
    one_by_one = False  # whether a parameter's state can be read without the others'
    together = True  # whether a state is one of all parameters
    scalars: tuple[str, ...] = ("t", "prev_loss")  # of torch's state

    def __init__(
        self, constructor: Callable[..., GradientTransformation], names: tuple[str, ...], defaults: Mapping[str, Any]
    ) -> None:
        self.constructor = constructor
        self.option_names = names
        self.data_names: set[str] = set()
        self.data_names = data_options(type(self.algorithm(defaults))).keys() & set(names)
        self.state: Any = None
        self._exported: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "state": jax.tree.map(lambda x: x, self.state)}  # a step overwrites the other's arrays

    def made(self, options: Mapping[str, Any]) -> GradientTransformation:
        return self.constructor(**{name: options[name] for name in self.option_names})

    def algorithm(self, options: Mapping[str, Any]) -> QuasiNewton:
        """The algorithm without its numbers, which are not checked again after the construction."""
        update = self.made({**options, **{name: Named(name) for name in self.data_names}}).update
        assert isinstance(update, Update) and isinstance(update.of, QuasiNewton)
        return update.of

    def reads(self, options: Mapping[str, Any]) -> tuple[tuple[str, ...], set[str]]:
        """The names of the options that a step reads, and those among them that are numbers."""
        del options
        return self.option_names, self.data_names

    def takes_rows(self, options: Mapping[str, Any]) -> bool:
        """Whether gradients may be row-sparse; there are none here."""
        del options
        return False

    def check(self, options: Mapping[str, Any], live: bool = False) -> None:
        """Raise unless the algorithm takes these options."""
        del live
        self.made(options)

    def start(self, layout: Layout, params: list[Any], settings: list[Any]) -> None:
        """The state before the first step."""
        self.state = self.made(settings[0]).init(layout.structure.unflatten(params))

    def step(
        self,
        layout: Layout,
        held: Leaves,
        losses: CompiledLosses,
        closure: Any,
        args: Any,
        settings: Any,
        run: Callable[..., Any],
    ) -> Any:
        """Update the parameters; the loss before."""
        options = settings[0]
        state = self.resized(self.state, options)
        algorithm = self.algorithm(options)  # its counts are Python ints, whatever stands in the group
        static = tuple((name, getattr(algorithm, name)) for name in self.option_names if name not in self.data_names)
        numbers = {name: np.float64(options[name]) for name in self.data_names}

        def make(loss: Callable[..., Any]) -> Callable[..., Any]:
            def optimizer_step(leaves: list[Any], state: Any, numbers: Any, args: Any) -> Any:
                def value_fn(params: Any) -> Any:
                    return loss(params, *args)

                params = layout.structure.unflatten(leaves)
                value, grads = jax.value_and_grad(value_fn)(params)
                descent, tx = jax.tree.map(conjugate_leaf, grads), self.constructor(**dict(static), **numbers)
                updates, state = tx.update(descent, state, params, value=value, value_fn=value_fn)
                return value, jax.tree.leaves(base.apply_updates(params, updates)), state

            return optimizer_step

        compiled = losses.compiled(closure, (type(self), static), make, donated=(0, 1))

        def arguments() -> Args:
            leaves, structure = jax.tree.flatten(state)
            return exclusive(held.arrays()), structure.unflatten(exclusive(leaves, 2)), numbers, args

        def commit(result: Any) -> None:
            _, leaves, after = result
            held.put_all(leaves)
            self.state, self._exported = after, None

        return run(compiled, arguments, commit)[0]

    def resized(self, state: Any, options: Mapping[str, Any]) -> Any:
        """The state as these options need it."""
        del options
        return state

    def entry(self, layout: Layout, state: Any) -> Entry:
        """What torch's ``state_dict`` has of the first parameter."""
        raise NotImplementedError(f"{type(self).__name__} does not define entry")  # abstract: every subclass does

    def from_entry(self, layout: Layout, params: list[Any], entry: Entry, fresh: Any) -> Any:
        """The state that an entry tells, ``fresh`` being the first."""
        raise NotImplementedError(f"{type(self).__name__} does not define from_entry")  # abstract: every subclass does

    def entries(self, layout: Layout) -> list[Entry]:
        """What torch's ``state_dict`` has of each parameter."""
        counts = {"func_evals": int(self.state.func_evals), "n_iter": int(self.state.n_iter)}
        started, rest = counts["func_evals"] > 0, [{} for _ in layout.group_of[1:]]
        if not started:
            return [{}, *rest]
        careful = {"careful": True} if bool(self.state.careful) else {}  # torch has no such key
        return [{**counts, **(self.entry(layout, self.state) if counts["n_iter"] else {}), **careful}, *rest]

    def read(
        self, layout: Layout, params: list[Any], loaded: Loaded, settings: list[Any], dtype: Any, refused: Refused
    ) -> Any:
        """The state that a state dict tells, for :meth:`commit`; where it does not fit, that which is here."""
        try:
            return self._read(layout, params, loaded, settings, dtype)
        except (KeyError, TypeError, ValueError) as error:
            refused[layout.labels[0]] = error
            return self.state

    def _read(self, layout: Layout, params: list[Any], loaded: Loaded, settings: list[Any], dtype: Any) -> Any:
        if loaded.missing or loaded.unexpected:
            raise ValueError("the state is one of all parameters together, and fits no others")
        found = [_permuted(entry, loaded.order, params) for entry in loaded.entries if entry]
        fresh = self.algorithm(settings[0]).init(layout.structure.unflatten(params))
        if not found:
            return fresh
        if len(found) > 1 or not {"func_evals", "n_iter"} <= found[0].keys():
            raise KeyError(
                f"the state is not one of {self.algorithm(settings[0])._call_name()}, which stands on one parameter "
                f"alone and has func_evals and n_iter; it has {', '.join(found[0])}"
            )
        counts = {key: jnp.asarray(int(found[0][key]), jnp.int32) for key in ("func_evals", "n_iter")}
        counts["careful"] = jnp.asarray(bool(found[0].get("careful", False)))
        entry = {key: value for key, value in found[0].items() if value is not None}
        if int(entry["n_iter"]) == 0 or "d" not in entry:
            return fresh._replace(**{**counts, "n_iter": fresh.n_iter})
        for key in self.scalars:
            if key not in entry or jnp.shape(entry[key]) != () or not jnp.isfinite(jnp.asarray(entry[key], float)):
                raise ValueError(f"{key} of the state must be a finite number, but it is {entry.get(key)!r:.100}")
        for key, value in entry.items():
            entry[key] = _mapped(lambda v, key=key: kept(v, _vector_dtype(fresh), dtype, f"{key} of the state"), value)
        return self.from_entry(layout, params, entry, fresh)._replace(**counts)

    def arrays(self) -> list[jax.Array]:
        """All arrays as they are kept."""
        return jax.tree.leaves(self.state)

    def commit(self, state: Any) -> None:
        """Go on from ``state``."""
        self.state, self._exported = state, None

    def functional(
        self, layout: Layout, params: list[Any], options: list[Any], settings: list[Any], counts: list[int]
    ) -> Any:
        """``(transformation, state)`` that continue from here."""
        del layout, params
        state = self.resized(self.state, settings[0])
        late = counts[0] - int(state.step)
        live = {
            name: delayed(value, late) if name in self.data_names else value
            for name, value in options[0].items()
            if name in self.option_names
        }
        self._exported = int(state.step)  # the state may be donated before it is restored
        return self.made(live), state

    def restored(
        self, layout: Layout, params: list[Any], state: Any, settings: list[Any], counts: list[int]
    ) -> tuple[Any, list[int]]:
        """The state for :meth:`commit` and the groups' counts, from a state as :meth:`functional` gives it."""
        del layout, params
        before = self.resized(self.state, settings[0])
        after = matched(before, state)
        done = int(after.step) - (int(before.step) if self._exported is None else self._exported)
        return after, [counts[0] + done]


def _permuted(entry: Entry, order: list[int | None], params: list[Any]) -> Entry:
    """An entry whose flat vectors have the parameters in their own order, not in the saved one."""
    if order == list(range(len(params))):
        return entry
    sizes = [param.size * (2 if jnp.iscomplexobj(param) else 1) for param in params]
    starts = np.cumsum([0, *[sizes[leaf] for leaf in order if leaf is not None]])
    start_of = dict(zip(order, starts, strict=False))
    places = np.concatenate([start_of[leaf] + np.arange(size) for leaf, size in enumerate(sizes)])

    def moved(value: Any) -> Any:
        for axis in range(value.ndim):
            if value.shape[axis] != len(places):
                raise ValueError(f"a vector of the state has {value.shape[axis]} entries, the parameters {len(places)}")
            value = np.take(np.asarray(value), places, axis)
        return value

    return {key: _mapped(moved, value) for key, value in entry.items()}


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """``function`` of an array that is no scalar, or of those in a list; anything else as it is."""
    if isinstance(value, list):
        return [_mapped(function, item) for item in value]
    return function(value) if getattr(value, "ndim", 0) else value


def _common_dtype(leaves: list[Any]) -> Any:
    """The real dtype of one vector that has all the leaves."""
    several = len({leaf.dtype for leaf in leaves}) > 1
    return jnp.finfo(trees.compute_dtype(*leaves) if several else leaves[0].dtype).dtype


def _vector_dtype(state: Any) -> Any:
    """The dtype of a state's vectors, as they are laid out in one."""
    return _common_dtype(jax.tree.leaves(state.d))


class ClosureOptimizer(Optimizer):
    """Base of the optimizers whose step needs the loss as a function."""

    engine_type: Any = ClosureEngine

    def __init__(self, params: Any, defaults: Mapping[str, Any]) -> None:
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError(f"{type(self).__name__} doesn't support per-parameter options (parameter groups)")

    def _make_engine(self) -> Any:
        assert type(self).constructor is not None
        return self.engine_type(type(self).constructor, tuple(self.defaults), self.defaults)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """There is one group: this raises ValueError."""
        raise ValueError(f"{type(self).__name__} doesn't support per-parameter options (parameter groups)")

    def step(self, closure: Any = None, *args: Any) -> Any:
        """Up to ``max_iter`` iterations, in one compiled call.

        Args:
            closure: a function ``closure(params, *args)`` that returns the loss, a real scalar. It is differentiated
                and compiled, as by :meth:`backward`: define it outside the loop, and pass what changes as arguments.
            *args: the further arguments of the closure.

        Returns:
            The loss before the step, as in torch.

        Raises:
            TypeError: there is no closure, or one that takes no parameters.
            ValueError: over several processes, the arguments differ from process to process.
        """
        name = type(self).__name__
        self._refuse_tracing()
        if closure is None:
            raise TypeError(f"{name}.step() missing 1 required positional argument: 'closure'")
        if not self._is_closure(closure):
            raise TypeError(f"{name}.step() evaluates the loss itself: give it closure(params, *args), not gradients")
        if not args and not takes_parameters(closure):
            raise TypeError(
                f"{name}.step() evaluates the loss at parameters of its own: it needs closure(params), which takes them"
            )
        check_same_everywhere(args, self._leaves, name)
        return self._change(
            lambda run: self._engine.step(self._layout, self._held, self._losses, closure, args, self._settings(), run),
            {0},
        )


def defaults(
    lr: Any, max_iter: Any, max_eval: Any, tolerances: tuple[Any, Any], maximize: bool, **own: Any
) -> dict[str, Any]:
    """The options of a group in torch's order; ``maximize``, which torch has not, only where it is given."""
    return {
        "lr": lr,
        "max_iter": max_iter,
        "max_eval": as_count("max_iter", max_iter, 0) * 5 // 4 if max_eval is None else max_eval,
        "tolerance_grad": tolerances[0],
        "tolerance_change": tolerances[1],
        **own,
        **({"maximize": True} if maximize else {}),
    }


def flat(tree: Any) -> jax.Array:
    """The leaves of a tree as torch lays them out: one vector, complex entries as pairs."""
    leaves = jax.tree.leaves(tree)
    return flattened(leaves, _common_dtype(leaves))


def unflat(vector: Any, like: Any, where: str) -> Any:
    """A vector of :func:`flat` as a tree with the shapes and dtypes of ``like``, placed as its leaves are."""
    leaves, treedef = jax.tree.flatten(like)
    vector, result, start = np.asarray(vector), [], 0
    sizes = [leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in leaves]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"{where} has shape {vector.shape}, but it should have {(sum(sizes),)}")
    for leaf, size in zip(leaves, sizes, strict=True):
        part = vector[start : start + size]
        start += size
        if jnp.iscomplexobj(leaf):
            part = part[0::2] + 1j * part[1::2]
        result.append(jax.device_put(own(part.reshape(leaf.shape).astype(leaf.dtype)), leaf.sharding))
    return treedef.unflatten(result)
