"""Prodigy and D-Adapt Adam in the torch face: state dicts that cross with the authors' packages."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import ClassVar

import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim.algorithms.distance import Distance
from functorch_optim.base import Update
from functorch_optim.core.options import data_options
from functorch_optim.optim.engine.joint_tree import JointTree
from functorch_optim.optim.engine.torch_habits import FUNCTIONAL_ONLY
from functorch_optim.optim.signatures import Declared
from functorch_optim.optim.state_dict import NotLoaded, has_form
from functorch_optim.torch_tensors import as_array
from functorch_optim.typing import PyTree


class DistanceOptimizer(Declared):
    """Base of the classes: all groups share the estimate d, so their ``lr`` is the same, or 0.

    A group whose ``lr`` is 0 stays where it is; in the authors' packages its momentum moves it on.
    """

    same: ClassVar[Mapping[str, PyTree]]  # what the authors' groups also have, with the only values known here
    ignored: ClassVar[tuple[str, ...]] = ("d_denom", "d_hat", "log_every")  # what is there to be read by people
    flat: ClassVar[tuple[str, ...]] = ()  # slots that the authors keep as vectors
    forgotten: ClassVar[Mapping[str, PyTree]] = MappingProxyType({})  # of the ignored, what the authors read

    def _make_engine(self) -> JointTree:
        make = type(self).constructor
        assert make is not None
        update = make(**{key: self.defaults[key] for key in self._names()}).update
        assert isinstance(update, Update) and isinstance(update.of, Distance)
        kind, names = type(update.of), self._names()
        numbers = {name for name, option in data_options(kind).items() if not option.optional}
        return JointTree(make, names, set(names) - numbers, kind)

    def _names(self) -> list[str]:
        """The options that the transformation takes."""
        return [name for name in self.defaults if name not in ("state_dtype", *FUNCTIONAL_ONLY)]

    def _as_saved(self, state_dict: dict[str, PyTree]) -> dict[str, PyTree]:
        """Move the scalars of the estimate and the count to the groups, where the authors have them."""
        names, estimate = self._joint.scalars, self._joint.state
        shared: dict[str, PyTree] = {name: float(getattr(estimate, name)) for name in names}
        for group in state_dict["param_groups"]:
            group.update(**shared, k=int(estimate.step), **self.same, **self.forgotten)
        for entry in state_dict["state"].values():
            for name in names:
                del entry[name]
            entry["step"] = int(entry["step"])
            entry.update({name: jnp.reshape(entry[name], -1) for name in self.flat if name in entry})
        return state_dict

    def _load(
        self,
        state_dict: Mapping[str, PyTree],
        match: str | None,
        strict: bool = True,
        dtype: DTypeLike | None = None,
        keep: Collection[str] = (),
    ) -> NotLoaded:
        """Load a state dict of this library or of the authors' package; raise if a group has an unknown option."""
        return super()._load(self._with_scalars(state_dict), match, strict, dtype, keep)

    @property
    def _joint(self) -> JointTree:
        assert isinstance(self._engine, JointTree)
        return self._engine

    def _with_scalars(self, state_dict: PyTree) -> PyTree:
        """Return a state dict whose entries have the scalars of their groups, and slots of the parameters' shapes."""
        if not has_form(state_dict):
            return state_dict
        entries, groups = dict(state_dict["state"]), []
        for index, group in enumerate(state_dict["param_groups"]):
            for name, value in self.same.items():
                if group.get(name, value) != value:
                    raise ValueError(f"{name} of group {index} is {group[name]!r}, and only {value!r} is known here")
            scalars = {name: group[name] for name in self._joint.scalars if name in group}
            scalars |= {"step": group["k"]} if "k" in group else {}
            if group.get("k") == 0 and "d" in group:  # D-Adaptation's groups have no d0
                group = {"d0": group["d"], **group}
            for number in group["params"]:
                entry = entries.get(number, {})
                if "exp_avg_sq" in entry:
                    shape = tuple(entry["exp_avg_sq"].shape)
                    flat = {name: entry[name] for name in self.flat if name in entry}
                    own = {name: _reshaped(value, shape) for name, value in flat.items()}
                    entries[number] = {**entry, **own, **scalars}
            gone = ("k", *self._joint.scalars, *self.same, *self.ignored)
            groups.append({key: value for key, value in group.items() if key not in gone})
        return {**state_dict, "state": entries, "param_groups": groups}


def _reshaped(value: PyTree, shape: tuple[int, ...]) -> PyTree:
    """Return a vector in the parameter's shape; the authors keep one zero for a parameter of zeros."""
    array = as_array(value)
    return jnp.zeros(shape, array.dtype) if array.ndim == 0 else jnp.reshape(jnp.asarray(array), shape)
