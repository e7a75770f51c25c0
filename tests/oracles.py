"""The references of the algorithms that torch does not have, with torch's conventions; only live comparisons use it.

Each is a class of a package on PyPI: the authors' own where there is one. ``pip install`` of the versions in
``pyproject.toml`` gives those that the trajectories were recorded with.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import lion_pytorch
import lion_pytorch.cautious_lion
import pytorch_optimizer
import torch


class Reference(torch.optim.Optimizer):
    """A package's optimizer as torch would have it.

    Every parameter is updated by an optimizer of its own, so that it has its own count of updates. The option
    ``maximize`` negates the gradient. A complex parameter is updated as its real and imaginary parts.
    """

    kind: ClassVar[Callable[..., torch.optim.Optimizer]]
    counted_in: ClassVar[str] = "state"  # where the package keeps its count: "state", "group", or "" if nowhere

    def __init__(self, params: Any, **options: Any) -> None:
        known = inspect.signature(type(self).kind).parameters
        defaults = {name: p.default for name, p in known.items() if p.default is not p.empty}
        super().__init__(params, {"maximize": False, **defaults, **options})

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the package's options for ours."""
        return options

    def viewed(self, tensor: Any) -> Any:
        """Return the view of a parameter, its gradient or a slot that the package gets."""
        return _real(tensor)

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
        options = {
            key: value
            for key, value in self.translated(group).items()
            if key in known and key not in ("params", "maximize")
        }
        view = self.viewed(param.detach())
        view.grad = self.viewed(-param.grad if group["maximize"] else param.grad).clone()
        inner, entry = type(self).kind([view], **options), self.state[param]
        if entry:
            inner.state[view] = {key: self.viewed(value) for key, value in entry.items() if key != "step"}
        count = int(entry.get("step", 0))
        if self.counted_in == "group":
            inner.param_groups[0]["step"] = count
        elif self.counted_in == "state" and entry:
            inner.state[view]["step"] = count
        inner.step()
        self.corrected(view, inner.state[view])
        after = {key: value for key, value in inner.state[view].items() if key != "step"}
        if param.is_complex():
            after = {key: torch.view_as_complex(value) for key, value in after.items()}
        elif view.shape != param.shape:
            after = {key: value.view(param.shape) for key, value in after.items()}
        counted = {"step": torch.tensor(float(count + 1))} if self.counted_in else {}
        self.state[param] = {**counted, **after}


def _real(tensor: Any) -> Any:
    is_complex = isinstance(tensor, torch.Tensor) and tensor.is_complex()
    return torch.view_as_real(tensor) if is_complex else tensor


class Lion(Reference):
    kind = lion_pytorch.Lion
    counted_in = ""

    def corrected(self, param: torch.Tensor, entry: dict[str, Any]) -> None:
        """torch's sign of NaN is 0, which would hide that the gradient or the momentum is NaN."""
        param[entry["exp_avg"].isnan()] = torch.nan


class Lerped(Reference):
    """torch's lerp makes NaN of an infinite average, which the authors' ``mul_`` and ``add_`` leave infinite."""

    def _update(self, param: torch.Tensor, group: dict[str, Any]) -> None:
        before = self.state[param].get("exp_avg", torch.zeros((), dtype=param.dtype)).clone()
        super()._update(param, group)
        average, finite = self.state[param]["exp_avg"], _real(param.grad).isfinite()
        _real(average).copy_(torch.where(_real(before).isinf() & finite, _real(before), _real(average)))


class Grams(Lerped):
    kind = pytorch_optimizer.Grams
    counted_in = "group"

    def _update(self, param: torch.Tensor, group: dict[str, Any]) -> None:
        """The package adds ``eps`` after it divides by the root of the bias correction, the authors before it."""
        step = int(self.state[param].get("step", 0)) + 1
        super()._update(param, {**group, "eps": group["eps"] / (1 - group["betas"][1] ** step) ** 0.5})


class _MARS(pytorch_optimizer.MARS):
    """The package adds 1e-15 to the second moments, which the authors' code does not."""

    @staticmethod
    def apply_ams_bound(*args: Any, **keywords: Any) -> Any:
        return pytorch_optimizer.MARS.apply_ams_bound(*args, **{**keywords, "exp_avg_sq_eps": 0.0})


class MARS(Lerped):
    kind = _MARS
    counted_in = "group"

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        """``lr_1d`` is the rate itself, and AMSGrad is ``ams_bound``."""
        names = {"lr_1d": options["lr"] * options.get("lr_1d_factor", 1.0), "ams_bound": options.get("amsgrad", False)}
        return {**options, **names, "foreach": False}

    def viewed(self, tensor: Any) -> Any:
        """The authors correct the gradients of matrices only, the package those of all larger arrays too."""
        return tensor.flatten() if isinstance(tensor, torch.Tensor) and tensor.ndim > 2 else tensor

    def _update(self, param: torch.Tensor, group: dict[str, Any]) -> None:
        """The package adds ``eps`` before it divides by the root of the bias correction, the authors behind it."""
        step = int(self.state[param].get("step", 0)) + 1
        corrected = group["optimize_1d"] or param.ndim == 2
        beta2 = group["betas" if corrected else "betas_1d"][1]
        if self.state[param]:
            self.state[param].setdefault("exp_avg_sq", torch.zeros_like(param))
        super()._update(param, {**group, "eps": group["eps"] * (1 - beta2**step) ** 0.5})
        if group["mars_type"] == "lion" and corrected:
            del self.state[param]["exp_avg_sq"]  # which nothing reads

    def corrected(self, param: torch.Tensor, entry: dict[str, Any]) -> None:
        """torch's sign of NaN is 0, which would hide that the average is NaN."""
        param[entry["exp_avg"].isnan()] = torch.nan


class CautiousLion(Reference):
    """The package takes the share's floor as 1e-5; with fewer than a thousand entries that is the authors' 1e-3."""

    kind = lion_pytorch.cautious_lion.Lion
    counted_in = ""


class CautiousLionOfThePaper(Reference):
    kind = functools.partial(pytorch_optimizer.Lion, cautious=True, foreach=False)
    counted_in = "group"


class CautiousAdamWOfThePaper(MARS):
    """AdamW as the package's MARS updates vectors, which it can do cautiously."""

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**super().translated(options), "cautious": True}

    def viewed(self, tensor: Any) -> Any:
        return tensor.flatten() if isinstance(tensor, torch.Tensor) else tensor
