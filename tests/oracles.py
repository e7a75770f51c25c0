"""The references of the algorithms that torch does not have, with torch's conventions; only live comparisons use it.

Each is a class of a package on PyPI: the authors' own where there is one. ``pip install`` of the versions in
``pyproject.toml`` gives those that the trajectories were recorded with.
"""

import contextlib
import functools
import inspect
import io
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import adabelief_pytorch
import lion_pytorch
import madgrad
import pytorch_optimizer
import torch
import torch_optimizer


class Reference(torch.optim.Optimizer):
    """A package's optimizer as torch would have it.

    Every parameter is updated by an optimizer of its own, so that it has its own count of updates. The option
    ``maximize`` negates the gradient. A complex parameter is updated as its real and imaginary parts.
    """

    kind: ClassVar[Callable[..., torch.optim.Optimizer]]
    counted_in: ClassVar[str] = "state"  # where the package keeps its count: "state", "group", "k", or "" if nowhere
    own: ClassVar[dict[str, Any]] = {}  # our defaults of the options that the package lacks
    renamed: ClassVar[dict[str, str]] = {}  # the authors' names of the package's slots

    def __init__(self, params: Any, **options: Any) -> None:
        known = inspect.signature(type(self).kind).parameters
        defaults = {name: p.default for name, p in known.items() if p.default is not p.empty}
        defaults = {name: value for name, value in defaults.items() if not callable(value)}
        super().__init__(params, {"maximize": False, **defaults, **self.own, **options})

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the package's options for ours; ``options["count"]`` is the number of updates so far."""
        return options

    def before(self, entry: dict[str, Any], param: torch.Tensor, options: dict[str, Any]) -> dict[str, Any]:
        """Return the package's state of a parameter for ours, which is empty before the first update."""
        return entry

    def run(self, inner: torch.optim.Optimizer) -> None:
        """Let the package update its parameter."""
        inner.step()

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
        known, entry = inspect.signature(type(self).kind).parameters, self.state[param]
        count = int(entry.get("step", 0))
        options = self.translated({**group, "count": count})
        options = {key: value for key, value in options.items() if key in known and key != "params"}
        view = _real(param.detach())
        view.grad = _real(-param.grad if group["maximize"] else param.grad).clone()
        inner = type(self).kind([view], **options)
        theirs = {ours: name for name, ours in self.renamed.items()}
        entry = {theirs.get(key, key): _real(value) for key, value in entry.items() if key != "step"}
        entry = self.before(entry, view, options)
        if entry:
            inner.state[view] = entry
        if self.counted_in == "group":
            inner.param_groups[0]["step"] = count
        elif self.counted_in == "k":
            inner.state["k"] = torch.tensor([count])
        elif self.counted_in == "state" and entry:
            inner.state[view]["step"] = count
        self.run(inner)
        self.corrected(view, inner.state[view])
        after = {self.renamed.get(key, key): value for key, value in inner.state[view].items() if key != "step"}
        if param.is_complex():
            after = {key: torch.view_as_complex(value) if value.ndim else value for key, value in after.items()}
        counted = {"step": torch.tensor(float(count + 1))} if self.counted_in else {}
        self.state[param] = {**counted, **after}


def _real(tensor: Any) -> Any:
    is_complex = isinstance(tensor, torch.Tensor) and tensor.is_complex()
    return torch.view_as_real(tensor) if is_complex else tensor


class PytorchOptimizer(Reference):
    """A class of pytorch-optimizer."""

    counted_in = "group"
    by_parts: ClassVar[bool] = False  # whether the authors multiply and add where the package takes lerp

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "maximize": False, "foreach": False}

    def run(self, inner: torch.optim.Optimizer) -> None:
        replaced = mock.patch.object(torch.Tensor, "lerp_", _average) if self.by_parts else contextlib.nullcontext()
        with replaced:
            super().run(inner)


def _average(start: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    return start.mul_(1 - weight).add_(end, alpha=weight)


class ADOPT(PytorchOptimizer):
    """The package counts its first update as 1 for the bound, the authors as 0; they do not decay p at the first."""

    kind = pytorch_optimizer.ADOPT
    own: ClassVar = {"clip_exp": 0.25, "decoupled_weight_decay": False}

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        exponent, decouples = options["clip_exp"], options["decoupled_weight_decay"]
        changed = {"weight_decouple": decouples}
        changed["clip_lambda"] = None if exponent is None else lambda step: (step - 1) ** exponent
        if decouples and options["count"] == 0:
            changed["weight_decay"] = 0.0
        return super().translated({**options, **changed})


class AdEMAMix(PytorchOptimizer):
    """The package warms up beta3 by another formula here, and by the authors' in its simplified AdEMAMix."""

    kind = pytorch_optimizer.AdEMAMix
    by_parts = True
    own: ClassVar = {"alpha": 2.0, "beta3_warmup": None, "alpha_warmup": None}
    renamed: ClassVar = {"exp_avg": "exp_avg_fast"}

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        step, alpha, (beta1, beta2, beta3) = options["count"] + 1, options["alpha"], options["betas"]
        if options["beta3_warmup"]:
            warmed_up = pytorch_optimizer.SimplifiedAdEMAMix.linear_hl_warmup_scheduler
            beta3 = warmed_up(step, beta3, beta1, options["beta3_warmup"])
        if options["alpha_warmup"]:
            alpha = pytorch_optimizer.AdEMAMix.schedule_alpha(options["alpha_warmup"], step, alpha)
        changed = {"alpha": alpha, "betas": (beta1, beta2, beta3), "weight_decouple": True}
        return super().translated({**options, **changed})


class AdaBelief(Reference):
    kind = adabelief_pytorch.AdaBelief
    own: ClassVar = {"decoupled_weight_decay": True}

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "weight_decouple": options["decoupled_weight_decay"], "print_change_log": False}

    def _update(self, param: torch.Tensor, group: dict[str, Any]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints its options
            super()._update(param, group)


class Adan(PytorchOptimizer):
    kind = pytorch_optimizer.Adan
    by_parts = True
    own: ClassVar = {"no_prox": False}
    renamed: ClassVar = {"previous_grad": "neg_pre_grad"}

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        return super().translated({**options, "weight_decouple": options["no_prox"]})


class LaProp(PytorchOptimizer):
    """The package decays by lr, adds 1e-15 under the root and eps before the bias correction; the authors do not.

    They leave the largest variance alone before ``centered`` begins. The average of the rates is kept in float32.
    """

    kind = pytorch_optimizer.LaProp
    by_parts = True
    own: ClassVar = {"amsgrad": False}

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        later = options["count"] >= options["steps_before_using_centered"]
        changed = {"weight_decouple": True, "fixed_decay": True}
        changed["ams_bound"] = options["amsgrad"] and (later or not options["centered"])
        changed["eps"] = options["eps"] * (1 - options["betas"][1] ** (options["count"] + 1)) ** 0.5
        return super().translated({**options, **changed})

    def before(self, entry: dict[str, Any], param: torch.Tensor, options: dict[str, Any]) -> dict[str, Any]:
        slots = ["exp_avg", "exp_avg_sq", *(["exp_mean_avg_beta2"] if options["centered"] else [])]
        slots += ["max_exp_avg_sq"] if self.param_groups[0]["amsgrad"] else []
        rate = float(entry.get("exp_avg_lr_1", 0.0))
        return {**{slot: torch.zeros_like(param) for slot in slots}, **entry, "exp_avg_lr_1": rate, "exp_avg_lr_2": 0.0}

    def run(self, inner: torch.optim.Optimizer) -> None:
        bound = functools.partial(self.kind.apply_ams_bound, exp_avg_sq_eps=0.0)
        with mock.patch.object(self.kind, "apply_ams_bound", staticmethod(bound)):
            super().run(inner)

    def corrected(self, param: torch.Tensor, entry: dict[str, Any]) -> None:
        entry["exp_avg_lr_1"] = torch.tensor(entry["exp_avg_lr_1"], dtype=torch.float32)
        del entry["exp_avg_lr_2"]


class Lion(Reference):
    kind = lion_pytorch.Lion
    counted_in = ""

    def corrected(self, param: torch.Tensor, entry: dict[str, Any]) -> None:
        """torch's sign of NaN is 0, which would hide that the gradient or the momentum is NaN."""
        param[entry["exp_avg"].isnan()] = torch.nan


class MADGRAD(Reference):
    kind = madgrad.MADGRAD
    counted_in = "k"
    own: ClassVar = {"decoupled_weight_decay": False}

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "decouple_decay": options["decoupled_weight_decay"]}

    def run(self, inner: torch.optim.Optimizer) -> None:
        """Take exact cube roots, and leave an entry alone where decoupled decay would subtract infinity from infinity.

        Of a float32 array torch takes the power 1/3 of some entries with an exponent rounded to float32, 8 ulp away.
        """
        (group,) = inner.param_groups
        (param,) = group["params"]
        infinite, before = param.isinf() & group["decouple_decay"], param.clone()
        with mock.patch.object(torch.Tensor, "pow", _power):
            super().run(inner)
        param[infinite] = before[infinite]


def _power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    return (base.double() ** exponent).to(base.dtype)


class Yogi(Reference):
    """The package starts the first moment as the second, and adds eps after the bias correction."""

    kind = torch_optimizer.Yogi
    own: ClassVar = {"initial_accumulator_value": 1e-6}

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        correction = 1 - options["betas"][1] ** (options["count"] + 1)
        changed = {"eps": options["eps"] / correction**0.5}
        return {**options, **changed, "initial_accumulator": options["initial_accumulator_value"]}

    def before(self, entry: dict[str, Any], param: torch.Tensor, options: dict[str, Any]) -> dict[str, Any]:
        start = torch.full_like(param, options["initial_accumulator"])
        return entry or {"exp_avg": torch.zeros_like(param), "exp_avg_sq": start}
