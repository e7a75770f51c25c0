"""The references of the algorithms that torch does not have, with torch's conventions; only live comparisons use it.

Each is a class of a package on PyPI: the authors' own where there is one. ``pip install`` of the versions in
``pyproject.toml`` gives those that the trajectories were recorded with.
"""

import contextlib
import inspect
import io
from collections.abc import Callable
from typing import Any, ClassVar

import dadaptation
import lion_pytorch
import prodigyopt
import schedulefree
import torch


class Reference(torch.optim.Optimizer):
    """A package's optimizer as torch would have it.

    Every parameter is updated by an optimizer of its own, so that it has its own count of updates. The option
    ``maximize`` negates the gradient. A complex parameter is updated as its real and imaginary parts.
    """

    kind: ClassVar[Callable[..., torch.optim.Optimizer]]
    counted_in: ClassVar[str] = "state"  # where the package has a step: "state", "group", or ""

    def __init__(self, params: Any, **options: Any) -> None:
        known = inspect.signature(type(self).kind).parameters
        defaults = {name: p.default for name, p in known.items() if p.default is not p.empty}
        super().__init__(params, {"maximize": False, **defaults, **options})

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the package's options for ours."""
        return options

    def before(self, group: dict[str, Any], entry: dict[str, Any]) -> None:
        """Write the scalars that the package keeps in its group, from the parameter's entry."""

    def after(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the scalars that the package keeps in its group, for the parameter's entry."""
        return {}

    def corrected(self, param: torch.Tensor, entry: dict[str, Any]) -> None:
        """Undo what the package does wrong after an update, in place."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert closure is None
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)

    def _update(self, param: torch.Tensor, group: dict[str, Any]) -> None:
        known = inspect.signature(type(self).kind).parameters
        options = {key: value for key, value in self.translated(group).items() if key in known and key != "params"}
        view = _real(param.detach())
        view.grad = _real(-param.grad if group["maximize"] else param.grad).clone()
        inner, entry = type(self).kind([view], **options), self.state[param]
        if entry:
            inner.state[view] = {key: _real(value) for key, value in entry.items() if key != "step"}
        count = int(entry.get("step", 0))
        self.before(inner.param_groups[0], entry)
        if self.counted_in == "group":
            inner.param_groups[0]["step"] = count
        elif self.counted_in == "state" and entry:
            inner.state[view]["step"] = count
        inner.step()
        self.corrected(view, inner.state[view])
        scalars = self.after(inner.param_groups[0])
        after = {key: value for key, value in inner.state[view].items() if key not in ("step", *scalars)}
        if param.is_complex():
            after = {key: torch.view_as_complex(value) for key, value in after.items()}
        counted = {"step": torch.tensor(float(count + 1))} if self.counted_in else {}
        self.state[param] = {**counted, **scalars, **after}


def _real(tensor: Any) -> Any:
    is_complex = isinstance(tensor, torch.Tensor) and tensor.is_complex()
    return torch.view_as_real(tensor) if is_complex else tensor


class Lion(Reference):
    kind = lion_pytorch.Lion
    counted_in = ""

    def before(self, group: dict[str, Any], entry: dict[str, Any]) -> None:
        """Write the scalars that the package keeps in its group, from the parameter's entry."""

    def after(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the scalars that the package keeps in its group, for the parameter's entry."""
        return {}

    def corrected(self, param: torch.Tensor, entry: dict[str, Any]) -> None:
        """torch's sign of NaN is 0, which would hide that the gradient or the momentum is NaN."""
        param[entry["exp_avg"].isnan()] = torch.nan


class ScheduleFree(Reference):
    """The package's are told to train first, and keep their scalars in the group."""

    counted_in = "k"

    def before(self, group: dict[str, Any], entry: dict[str, Any]) -> None:
        scalars = {name: float(entry[name]) for name in ("weight_sum", "lr_max") if name in entry}
        group.update(train_mode=True, k=int(entry.get("step", 0)), **scalars)

    def after(self, group: dict[str, Any]) -> dict[str, Any]:
        momentum = group["momentum"] if "momentum" in group else group["betas"][0]
        scalars = {"weight_sum": group["weight_sum"], "lr_max": group["lr_max"], "momentum": momentum}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in scalars.items()}


class SGDScheduleFree(ScheduleFree):
    kind = schedulefree.SGDScheduleFree


class AdamWScheduleFree(ScheduleFree):
    kind = schedulefree.AdamWScheduleFree


class RAdamScheduleFree(ScheduleFree):
    kind = schedulefree.RAdamScheduleFree


class Negated:
    """The packages of one estimate for all parameters, with the option ``maximize``."""

    def __init__(self, params: Any, maximize: bool = False, **options: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how the weights decay
            super().__init__(params, **options)
        self.maximize = maximize

    def step(self, closure: Any = None) -> None:
        assert closure is None
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.grad = -param.grad if self.maximize else param.grad.clone()  # the packages write into it
        super().step()


class Prodigy(Negated, prodigyopt.Prodigy):
    pass


class DAdaptAdam(Negated, dadaptation.DAdaptAdam):
    pass
