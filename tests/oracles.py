"""The references of the algorithms that torch does not have, with torch's conventions; only live comparisons use it.

Each is a class of a package on PyPI: the authors' own where there is one. ``pip install`` of the versions in
``pyproject.toml`` gives those that the trajectories were recorded with.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import lion_pytorch
import pytorch_optimizer
import torch
import torch_optimizer


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
        view = _real(param.detach())
        view.grad = _real(-param.grad if group["maximize"] else param.grad).clone()
        inner, entry = type(self).kind([view], **options), self.state[param]
        if entry:
            inner.state[view] = {key: _real(value) for key, value in entry.items() if key != "step"}
        count = int(entry.get("step", 0))
        if self.counted_in == "group":
            inner.param_groups[0]["step"] = count
        elif self.counted_in == "state" and entry:
            inner.state[view]["step"] = count
        inner.step()
        self.corrected(view, inner.state[view])
        after = {key: value for key, value in inner.state[view].items() if key != "step"}
        if param.is_complex():
            own = {key: value for key, value in after.items() if value.shape == view.shape}
            after |= {key: torch.view_as_complex(value) for key, value in own.items()}
        counted = {"step": torch.tensor(float(count + 1))} if self.counted_in else {}
        self.state[param] = {**counted, **after}


def _real(tensor: Any) -> Any:
    is_complex = isinstance(tensor, torch.Tensor) and tensor.is_complex()
    return torch.view_as_real(tensor) if is_complex else tensor


class _LAMB(torch_optimizer.Lamb):
    """The package's LAMB of one parameter, with options that it lacks, and without a limit of the parameter's norm.

    The update with bias correction is a factor times the one without, with another epsilon and weight decay; the trust
    ratio takes the factor away. A step with a trust ratio of 1 is the package's with ``adam=True``; in the authors'
    code it is 1 too if a norm is NaN, so that NaN stays in its entry.
    """

    def __init__(
        self, params: Any, lr: Any = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0,
        bias_correction: bool = False, trust_clip: bool = False, always_adapt: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, clamp_value=float("inf"))
        self.own = bias_correction, trust_clip, always_adapt

    def step(self) -> None:
        bias_correction, trust_clip, always_adapt = self.own
        (group,) = self.param_groups
        (param,), (beta1, beta2), factor = group["params"], group["betas"], 1.0
        if bias_correction:
            count = self.state[param].get("step", 0) + 1
            root = (1 - beta2**count) ** 0.5
            factor = root / (1 - beta1**count)
            group.update(eps=group["eps"] * root, weight_decay=group["weight_decay"] / factor)
        before = copy.deepcopy((param.detach(), dict(self.state[param])))
        super().step()
        state = self.state[param]
        adapts = always_adapt or group["weight_decay"] != 0
        adapts = adapts and not (state["weight_norm"].isnan() or state["adam_norm"].isnan())
        if not adapts or (trust_clip and state["trust_ratio"] > factor):
            param.copy_(before[0])
            self.state[param], self.adam, group["lr"] = before[1], True, group["lr"] * factor
            super().step()
        for key in ("weight_norm", "adam_norm", "trust_ratio"):
            del self.state[param][key]


class LAMB(Reference):
    kind = _LAMB


class _LARS(torch.optim.Optimizer):
    """The package's LARS of one parameter, which adapts parameters of any shape, with the rate inside the momentum.

    The package's buffer is that of the authors divided by the learning rate. It does not adapt vectors.
    """

    def __init__(
        self, params: Any, lr: Any = 1.0, momentum: float = 0.9, weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3, nesterov: bool = False, always_adapt: bool = True,
    ) -> None:  # fmt: skip
        own = {"weight_decay": weight_decay, "trust_coefficient": trust_coefficient, "nesterov": nesterov}
        super().__init__(params, {"lr": lr, "momentum": momentum, **own})
        self.always_adapt = always_adapt

    def step(self) -> None:
        (group,) = self.param_groups
        (param,), options = group["params"], {key: value for key, value in group.items() if key != "params"}
        adapts = self.always_adapt or group["weight_decay"] != 0
        flat = param.view(1, -1) if adapts else param.view(-1)
        flat.grad = param.grad.view_as(flat)
        inner, state = pytorch_optimizer.LARS([flat], **options, foreach=False), self.state[param]
        if state:
            inner.state[flat]["momentum_buffer"] = state["momentum_buffer"].view_as(flat) / group["lr"]
        inner.step()
        if group["momentum"] != 0:
            state["momentum_buffer"] = inner.state[flat]["momentum_buffer"].view_as(param) * group["lr"]


class LARS(Reference):
    kind = _LARS
    counted_in = ""


class Lion(Reference):
    kind = lion_pytorch.Lion
    counted_in = ""

    def corrected(self, param: torch.Tensor, entry: dict[str, Any]) -> None:
        """torch's sign of NaN is 0, which would hide that the gradient or the momentum is NaN."""
        param[entry["exp_avg"].isnan()] = torch.nan


class _NovoGrad(torch_optimizer.NovoGrad):
    """The package's NovoGrad of one parameter, whose second moment has the parameter's dtype, not always float32."""

    def __init__(
        self, params: Any, lr: Any = 1e-3, betas: Any = (0.95, 0.98), eps: float = 1e-8, weight_decay: float = 0,
        grad_averaging: bool = False, amsgrad: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, grad_averaging, amsgrad)

    def step(self) -> None:
        (group,) = self.param_groups
        (param,) = group["params"]
        if not self.state[param]:
            zeros = {
                "exp_avg_sq": param.new_zeros(()),
                **({"max_exp_avg_sq": param.new_zeros(())} if group["amsgrad"] else {}),
            }
            self.state[param].update(step=0, exp_avg=torch.zeros_like(param), **zeros)
        super().step()


class NovoGrad(Reference):
    kind = _NovoGrad


class _SM3(pytorch_optimizer.SM3):
    """The package's SM3 of one parameter, which without momentum keeps no buffer, as the authors'."""

    def __init__(self, params: Any, lr: Any = 0.1, momentum: float = 0.9, eps: float = 1e-30) -> None:
        super().__init__(params, lr, momentum, eps=eps, foreach=False)

    def step(self) -> None:
        super().step()
        (group,) = self.param_groups
        if group["momentum"] == 0:
            self.state[group["params"][0]].pop("momentum_buffer", None)


class SM3(Reference):
    kind = _SM3
    counted_in = ""


class Signum(Reference):
    kind = pytorch_optimizer.SignSGD
    counted_in = ""

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "weight_decouple": True, "foreach": False}

    def corrected(self, param: torch.Tensor, entry: dict[str, Any]) -> None:
        """torch's sign of NaN is 0, which would hide that the gradient or the momentum is NaN."""
        param[entry.get("momentum_buffer", param.grad).isnan()] = torch.nan
