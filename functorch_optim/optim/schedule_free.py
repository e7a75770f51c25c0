"""The Schedule-Free methods in the torch face: ``train``, ``eval``, and state dicts that cross with the authors'."""

from collections.abc import Callable, Collection, Mapping

from jax.typing import DTypeLike

from functorch_optim.algorithms.schedule_free import CARRIED
from functorch_optim.averaging.evaluation import mixed, to_average, to_trained
from functorch_optim.base import GradientTransformation
from functorch_optim.optim.signatures import Declared
from functorch_optim.optim.state_dict import NotLoaded, has_form
from functorch_optim.typing import Numeric, PyTree

__all__ = ["ScheduleFreeOptimizer"]

_OF_A_GROUP = ("k", "train_mode", "weight_sum", "lr_max", "scheduled_lr")  # what the authors keep in a group
_NOT_TRAINING = (
    "Optimizer was not in train mode when {} is called. Please insert .train() and .eval() calls on the optimizer: "
    "the parameters are the average, which eval() has set them to; call train() before the next step"
)


class ScheduleFreeOptimizer(Declared):
    """Base of the Schedule-Free classes: it knows at which point the parameters are.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> isinstance(optim.AdamWScheduleFree([jnp.ones(2)]), ScheduleFreeOptimizer)
        True
    """

    _trains: bool = True  # at the start both points are the same

    def train(self) -> None:
        """Set the parameters to those that are trained, after :meth:`eval`. In train mode it does nothing.

        A new optimizer is in train mode, where the authors' is not: before the first step both points are the same.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.SGDScheduleFree({"w": jnp.array([1.0])}, lr=0.5)
            >>> optimizer.step({"w": jnp.array([1.0])})
            >>> optimizer.eval()
            >>> optimizer.train()
            >>> optimizer.params["w"].tolist()
            [0.5]
        """
        if not self._trains:
            self._move(to_trained, trains=True)

    def eval(self) -> None:
        """Set the parameters to their average, which is to be evaluated, and saved. In eval mode it does nothing.

        Raises:
            ValueError: ``betas[0]`` was 0: then the average is lost.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.SGDScheduleFree({"w": jnp.array([1.0])}, lr=0.5)
            >>> for _ in range(2):
            ...     optimizer.step({"w": jnp.array([1.0])})
            >>> optimizer.eval()
            >>> optimizer.params["w"].round(4).tolist()
            [0.25]
        """
        if self._trains:
            self._move(to_average, trains=False)

    def _move(self, share: Callable[[PyTree], PyTree], trains: bool) -> None:
        """Mix each parameter that has a z with it, as one change."""
        with self._transaction.change_lock:
            pairs = zip(self._leaves, self._entries(), strict=True)
            leaves = [
                mixed(leaf, entry["z"], share(entry["momentum"])) if "z" in entry else leaf for leaf, entry in pairs
            ]
            self.params = self._layout.structure.unflatten(leaves)
            self._trains = trains

    def step(
        self,
        closure: PyTree = None,
        *args: PyTree,
        has_aux: bool = False,
        clip_norm: Numeric | None = None,
        batches: PyTree = None,
    ) -> PyTree:
        """Update the parameters, as :meth:`functorch_optim.optim.Optimizer.step` does.

        Raises:
            RuntimeError: the optimizer is not in train mode.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.AdamWScheduleFree({"w": jnp.array([1.0])})
            >>> optimizer.eval()
            >>> optimizer.step({"w": jnp.array([1.0])})
            Traceback (most recent call last):
            RuntimeError: Optimizer was not in train mode when step is called. Please insert .train() and .eval() ...
        """
        self._need_training("step")
        return super().step(closure, *args, has_aux=has_aux, clip_norm=clip_norm, batches=batches)

    def functional(self) -> tuple[GradientTransformation, PyTree, PyTree]:
        """Return ``(tx, params, state)``, as :meth:`functorch_optim.optim.Optimizer.functional` does.

        :func:`functorch_optim.eval_params` evaluates there.

        Raises:
            RuntimeError: the optimizer is not in train mode.

        Example:
            >>> import jax.numpy as jnp
            >>> import functorch_optim as fo
            >>> from functorch_optim import optim
            >>> optimizer = optim.AdamWScheduleFree({"w": jnp.array([1.0])})
            >>> tx, params, state = optimizer.functional()
            >>> fo.eval_params(state, params)["w"].tolist()
            [1.0]
        """
        self._need_training("functional")
        return super().functional()

    def _need_training(self, method: str) -> None:
        if not self._trains:
            raise RuntimeError(_NOT_TRAINING.format(method))

    def restore(self, params: PyTree, state: PyTree) -> None:
        """Take parameters and state from a functional loop; the optimizer is then in train mode.

        Errors are those of :meth:`functorch_optim.optim.Optimizer.restore`.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.AdamWScheduleFree({"w": jnp.array([1.0])})
            >>> _, params, state = optimizer.functional()
            >>> optimizer.restore(params, state)
        """
        with self._transaction.change_lock:
            super().restore(params, state)
            self._trains = True

    def _as_saved(self, state_dict: dict[str, PyTree]) -> dict[str, PyTree]:
        """Add what the authors keep in the groups: the mode, and the scalars of the parameter with most updates."""
        for group in state_dict["param_groups"]:
            entries = [state_dict["state"][number] for number in group["params"] if number in state_dict["state"]]
            last = max(entries, key=lambda entry: entry["step"], default={"step": 0, "weight_sum": 0.0, "lr_max": -1.0})
            scalars = {"k": int(last["step"]), "weight_sum": float(last["weight_sum"]), "lr_max": float(last["lr_max"])}
            group.update(train_mode=self._trains, **scalars)
        return state_dict

    def _load(
        self,
        state_dict: Mapping[str, PyTree],
        match: str | None,
        strict: bool = True,
        dtype: DTypeLike | None = None,
        keep: Collection[str] = (),
    ) -> NotLoaded:
        """Load a state dict of this library or of the authors' package, and its mode."""
        modes, own = _split(state_dict)
        not_loaded = super()._load(own, match, strict, dtype, keep)
        self._trains = modes[0] if modes else self._trains
        return not_loaded


def _split(state_dict: PyTree) -> tuple[list[bool], PyTree]:
    """Split a state dict into its groups' modes and the rest, with the authors' scalars of a group in its entries."""
    if not has_form(state_dict):
        return [], state_dict
    entries, groups, modes = dict(state_dict["state"]), [], []
    for group in state_dict["param_groups"]:
        scalars = {"step": group.get("k"), "momentum": group.get("momentum", group.get("betas", (None,))[0])}
        scalars |= {name: group.get(name) for name in CARRIED if name != "momentum"}
        for number in group["params"]:
            if "z" in entries.get(number, ()):
                entries[number] = {**scalars, **entries[number]}
        modes += [bool(group["train_mode"])] if "train_mode" in group else []
        groups.append({key: value for key, value in group.items() if key not in _OF_A_GROUP})
    return modes, {**state_dict, "state": entries, "param_groups": groups}
