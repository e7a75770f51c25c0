"""Save and load an optimizer's state, as torch's ``state_dict`` and by pickle."""

import copy
import warnings
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim.optim.edits import Edited
from functorch_optim.optim.engine.assembly import leaves_of
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.protocol import Reading
from functorch_optim.optim.hooks import Occasions
from functorch_optim.optim.layout import GroupParams, check_groups
from functorch_optim.optim.losses import CompiledLosses
from functorch_optim.optim.regrouping import LoadedGroups, Waiting
from functorch_optim.optim.state_dict import NotLoaded, Refused, check_strict, read_state_dict, reason, write_state_dict
from functorch_optim.optim.views import ParamGroups
from functorch_optim.tracing import trace_state
from functorch_optim.typing import PyTree

_BEYOND_TORCH = ("batched", "reshape", "frozen", "state_dtype")  # what a state dict of torch says nothing of stays


class Saved(Edited):
    """The part of an optimizer that is saved and loaded."""

    forced: ClassVar[Mapping[str, PyTree]] = {}  # options that stay as the class sets them, whatever you load
    _loaded: LoadedGroups | Waiting | None  # what a scheduler or the optimizer, loaded next, needs of the other

    def state_dict(self) -> dict[str, PyTree]:
        """The state in torch's layout: ``{"state": {number: slots}, "param_groups": [...]}``.

        Parameters are numbered through the groups in order; one that was never updated has no entry. Slots are JAX
        arrays, ``step`` is a float32 scalar of NumPy, and a group's options are Python numbers. A schedule in a group
        is stored as its value, together with the group's count of updates as ``schedule_step``.
        """
        self._hooks.state_dict_pre.call(self)
        with self._transaction.handoff_lock:
            self._settle()
            check_groups(self.param_groups, self)
            self._check_alive(wait=False)
            entries, numbers = self._engine.entries(self._layout), self._engine.data_names
            state = write_state_dict(self._layout, self.param_groups, numbers, self._counts, entries)
        return self._hooks.state_dict_post.replace(self, self._as_saved(state))

    def _as_saved(self, state_dict: dict[str, PyTree]) -> dict[str, PyTree]:
        """Return a state dict in the layout of a class; one that changes it undoes that in ``_load``."""
        return state_dict

    def load_state_dict(
        self,
        state_dict: Mapping[str, PyTree],
        match: str | None = None,
        strict: bool = True,
        dtype: DTypeLike | None = None,
        keep: Collection[str] = (),
    ) -> NotLoaded:
        """Load the state and the groups' options from a ``state_dict`` of torch or of this library.

        Args:
            state_dict: its arrays may be NumPy's, JAX's or torch's.
            match: ``"name"`` finds a parameter's state by its name, in any order and any grouping; ``"position"`` by
                its number in the groups, as torch does. The default is by name if both sides have names.
            strict: whether all parameters, and no others, must be there and fit. If False, what fits is loaded, and
                the other parameters keep their state.
            dtype: the dtype to cast floating slots to. By default a slot takes the wider of two dtypes, the saved one
                and the one that the optimizer would create, so that nothing saved is rounded. Where a group has the
                option ``state_dtype``, that one.
            keep: names of options whose current values stay in every group, for example ``["lr"]``.

        A group takes the options of the saved group that its parameters were in; if they were in several that differ
        in an option, it keeps its own, with a warning. A schedule in a group stays, and continues from the saved
        count. Names stay.

        Returns:
            Names of missing and of unexpected parameters, and why others do not fit; none of these was loaded.

        Raises:
            ValueError, KeyError, TypeError: the state does not fit (one message lists everything that does not);
                precision would be lost; the constructor refuses an option; no group has an option that ``keep`` names.
                The optimizer is left unchanged.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> source = optim.Adam({"body": jnp.ones(2), "old_head": jnp.ones(1)}, lr=0.5)
            >>> source.step({"body": jnp.ones(2), "old_head": jnp.ones(1)})
            >>> target = optim.Adam({"body": jnp.ones(2), "head": jnp.ones(3)})
            >>> target.load_state_dict(source.state_dict(), strict=False)
            NotLoaded(missing=['head'], unexpected=['old_head'], refused={})
            >>> target.param_groups[0]["lr"], list(target.state)
            (0.5, ['body'])
            >>> target.param_groups[0]["lr"] = 0.01
            >>> target.load_state_dict(source.state_dict(), strict=False, keep=["lr"]).missing
            ['head']
            >>> target.param_groups[0]["lr"]
            0.01
        """
        self._need_engine()
        if isinstance(state_dict, Mapping):
            state_dict = self._hooks.load_pre.replace(self, dict(state_dict))
        with self._transaction.change_lock:
            not_loaded = self._load(state_dict, match, strict, dtype, keep)
        self._hooks.load_post.call(self)
        return not_loaded

    def _load(
        self,
        state_dict: Mapping[str, PyTree],
        match: str | None,
        strict: bool = True,
        dtype: DTypeLike | None = None,
        keep: Collection[str] = (),
    ) -> NotLoaded:
        """:meth:`load_state_dict` without its hooks."""
        self._refuse_tracing()
        self._check_kept(keep)
        dtype = None if dtype is None else jnp.dtype(dtype)
        if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"dtype must be a floating one, but it is {dtype}")
        if dtype is not None and jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise TypeError(f"dtype is {dtype}, but 64-bit numbers are disabled (jax_enable_x64)")
        numbers = self._engine.data_names
        loaded = read_state_dict(self._layout, self.param_groups, self._counts, numbers, state_dict, match, strict)
        self._refuse_traced(jax.tree.leaves(loaded.entries))
        groups = []
        for live, group in zip(self.param_groups, loaded.groups, strict=True):
            defaults = self._defaults_of({**live, **group}).items()
            kept = {key: live.get(key, value) for key, value in defaults if key not in group}
            kept |= {key: live[key] for key in _BEYOND_TORCH if key in live and key not in group}
            kept |= {key: live[key] for key in keep if key in live}
            groups.append({**group, **kept, **self.forced})
        pairs = zip(groups, loaded.counts, strict=True)
        options = [self._read_options(group, count, index) for index, (group, count) in enumerate(pairs)]
        for index, group in enumerate(groups):
            self._check_options(group, index, live=True)
        records = [self._engine.record(one, index) for index, one in enumerate(options)]
        refused: Refused = {}
        state = self._engine.read(self._layout, Reading(self._leaves, loaded, dtype, refused), records)
        if strict:
            check_strict(loaded.missing, loaded.unexpected, refused)
        if loaded.warning:
            warnings.warn(loaded.warning, UserWarning, stacklevel=3)  # the caller of load_state_dict
        loaded_groups = [{"params": GroupParams(self, index), **group} for index, group in enumerate(groups)]

        def commit() -> None:
            self._engine.commit(state)
            waiting, self._loaded = self._loaded, LoadedGroups(groups, loaded.sources)
            self._counts = loaded.counts
            for live, group in zip(self.param_groups, loaded_groups, strict=True):
                live.clear()
                live.update(group)
            if isinstance(waiting, Waiting):
                waiting.regroup(loaded.sources)

        self._transaction.commit(commit)
        reasons = {name: reason(error) for name, error in refused.items()}
        return NotLoaded(loaded.missing, loaded.unexpected, reasons)

    def _check_kept(self, keep: Collection[str]) -> None:
        """Raise unless the groups have options with all these names."""
        if isinstance(keep, str):
            raise TypeError(f"keep must be a collection of names, but it is the string {keep!r}")
        known = {key for group in self.param_groups for key in group} - {"params", "param_names"}
        unknown = sorted(set(keep) - known)
        if unknown:
            raise ValueError(f"keep names {unknown}, which no parameter group has: the options are {sorted(known)}")

    def __getstate__(self) -> dict[str, object]:
        with self._transaction.handoff_lock:  # copy containers: another thread may be in a step
            self._settle()
            groups = [{key: value for key, value in group.items() if key != "params"} for group in self.param_groups]
            held, engine = Leaves(list(self._held.arrays())), copy.copy(self._engine)
            state: dict[str, object] = {**vars(self), "param_groups": groups, "_held": held, "_engine": engine}
        grads = None if self._grads is None else list(leaves_of(self._grads))
        state.update(
            _checked=None, _grads=grads, _watched_params=[], _watched_grads=[], _read=[], _counts=list(self._counts)
        )
        del state["_losses"], state["_hooks"], state["_given"], state["_made_under"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _losses=CompiledLosses(), _hooks=Occasions(), _given=[], _made_under=trace_state())
        groups = enumerate(state["param_groups"])
        self.param_groups = ParamGroups({"params": GroupParams(self, index), **group} for index, group in groups)
