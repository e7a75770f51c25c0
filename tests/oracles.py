"""The references of the algorithms that torch does not have, with torch's conventions; only live comparisons use it.

Each is a class of a package on PyPI: the authors' own where there is one. ``pip install`` of the versions in
``pyproject.toml`` gives those that the trajectories were recorded with.
"""

import contextlib
import copy
import functools
import inspect
import io
from collections.abc import Callable, Generator
from typing import Any, ClassVar
from unittest import mock

import adabelief_pytorch
import dadaptation
import jax
import jax.numpy as jnp
import lion_pytorch
import lion_pytorch.cautious_lion
import madgrad
import numpy as np
import prodigyopt
import pytorch_optimizer
import schedulefree
import torch
import torch_optimizer

from functorch_optim import keys, kronecker


class Reference(torch.optim.Optimizer):
    """A package's optimizer as torch would have it.

    Every parameter is updated by an optimizer of its own, so that it has its own count of updates. The option
    ``maximize`` negates the gradient. A complex parameter is updated as its real and imaginary parts.
    """

    kind: ClassVar[Callable[..., torch.optim.Optimizer]]
    counted_in: ClassVar[str] = "state"  # where the package has a step: "state", "group", "k", or ""
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

    def viewed(self, tensor: Any) -> Any:
        """Return the view of a parameter, its gradient or a slot that the package gets."""
        return _real(tensor)

    def before(self, entry: dict[str, Any], param: torch.Tensor, options: dict[str, Any]) -> dict[str, Any]:
        """Return the package's state of a parameter for ours, which is empty before the first update."""
        return entry

    def into_group(self, group: dict[str, Any], entry: dict[str, Any]) -> None:
        """Write the scalars that the package keeps in its group, from the parameter's entry."""

    def from_group(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the scalars that the package keeps in its group, for the parameter's entry."""
        return {}

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
        options = {key: value for key, value in options.items() if key in known and key not in ("params", "maximize")}
        view = self.viewed(param.detach())
        view.grad = self.viewed(-param.grad if group["maximize"] else param.grad).clone()
        theirs = {ours: name for name, ours in self.renamed.items()}
        entry = {theirs.get(key, key): self.viewed(value) for key, value in entry.items() if key != "step"}
        entry = self.before(entry, view, options)
        inner = type(self).kind([view], **options)
        if entry:
            inner.state[view] = entry
        self.into_group(inner.param_groups[0], self.state[param])
        if self.counted_in == "group":
            inner.param_groups[0]["step"] = count
        elif self.counted_in == "state" and entry:
            inner.state[view]["step"] = count
        elif self.counted_in == "k":
            inner.state["k"] = torch.tensor([count])
        self.run(inner)
        self.corrected(view, inner.state[view])
        scalars = self.from_group(inner.param_groups[0])
        after = {key: value for key, value in inner.state[view].items() if key not in ("step", *scalars)}
        after = {self.renamed.get(key, key): value for key, value in after.items()}
        if param.is_complex():
            own = {key: value for key, value in after.items() if value.shape == view.shape}
            after |= {key: torch.view_as_complex(value) for key, value in own.items()}
        elif view.shape != param.shape:
            after = {key: value.view(param.shape) for key, value in after.items()}
        counted = {"step": torch.tensor(float(count + 1))} if self.counted_in else {}
        self.state[param] = {**counted, **scalars, **after}


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


class Adan(PytorchOptimizer):
    kind = pytorch_optimizer.Adan
    by_parts = True
    own: ClassVar = {"no_prox": False}
    renamed: ClassVar = {"previous_grad": "neg_pre_grad"}

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        return super().translated({**options, "weight_decouple": options["no_prox"]})


class Lion(Reference):
    kind = lion_pytorch.Lion
    counted_in = ""

    def corrected(self, param: torch.Tensor, entry: dict[str, Any]) -> None:
        """torch's sign of NaN is 0, which would hide that the gradient or the momentum is NaN."""
        param[entry["exp_avg"].isnan()] = torch.nan


class ScheduleFree(Reference):
    """The package's are told to train first, and keep their scalars in the group."""

    counted_in = "k"

    def viewed(self, tensor: Any) -> Any:
        """Return the view of a parameter, its gradient or a slot that the package gets."""
        return _real(tensor)

    def into_group(self, group: dict[str, Any], entry: dict[str, Any]) -> None:
        scalars = {name: float(entry[name]) for name in ("weight_sum", "lr_max") if name in entry}
        group.update(train_mode=True, k=int(entry.get("step", 0)), **scalars)

    def from_group(self, group: dict[str, Any]) -> dict[str, Any]:
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


class _Kron(torch.optim.Optimizer):
    """The authors' Kron of one parameter, with our random numbers.

    The package adds the damping noise to the momentum in place, so that it is preconditioned too, which the same
    author's ``distributed_kron`` avoids. It has no scalars, solves in float32, fits to gradients of zeros until its
    factors overflow, and takes squares that overflow.
    """

    def __init__(
        self, params: Any, lr: Any = 3e-4, b1: float = 0.9, weight_decay: float = 0.0,
        preconditioner_update_probability: Any = None, max_size_triangular: int = 8192, min_ndim_triangular: int = 2,
        memory_save_mode: Any = None, momentum_into_precond_update: bool = True, precond_lr: float = 0.1,
        precond_init_scale: float = 1.0, merge_dims: bool = True, balance_probability: float = 0.01, key: Any = 0,
    ) -> None:  # fmt: skip
        own = {name: value for name, value in locals().items() if name not in ("self", "params", "__class__")}
        super().__init__(params, own)

    def step(self) -> None:
        import kron_torch.kron as package

        (group,) = self.param_groups
        (param,), state = group["params"], self.state[group["params"][0]]
        options = {name: group[name] for name in inspect.signature(package.Kron).parameters if name in group}
        del options["params"]
        flat = param.view(1) if param.ndim == 0 else param
        flat.grad = param.grad.view_as(flat)
        double = param.dtype == torch.float64
        inner = package.Kron([flat], **options, precond_dtype=torch.float64 if double else torch.float32)
        count = int(state.get("step", 0))
        inner._prob_step.fill_(count)
        inner._update_counter.fill_(int(group.get("update_counter", 0)))
        if state:
            self._entry(package, inner, flat, group)
        with self._replaced(package, inner, group, count):
            inner.step()
        after = inner.state[flat]
        state.update({f"factor_{index}": factor for index, factor in enumerate(after["Q"])})
        state["momentum_buffer"] = after["momentum_buffer"].view_as(param)
        group["update_counter"] = float(inner._update_counter)

    def _entry(self, package: Any, inner: Any, flat: torch.Tensor, group: dict[str, Any]) -> None:
        """Give the package its state of the parameter."""
        state = self.state[group["params"][0]]
        shape = list(flat.shape)
        entry: dict[str, Any] = {"step": int(state["step"])}
        if flat.ndim > 2 and group["merge_dims"]:  # its rule comes to this one
            entry["merged_shape"] = shape = [int(np.prod(shape[:-1])), shape[-1]]
        factors = [state[f"factor_{index}"].clone() for index in range(len(shape))]
        names = ("precond_init_scale", "max_size_triangular", "min_ndim_triangular", "memory_save_mode")
        _, exprs = package._init_Q_exprs(flat.view(shape), *[group[name] for name in names], dtype=factors[0].dtype)
        buffer = state["momentum_buffer"].clone().view(shape)
        inner.state[flat] = {**entry, "momentum_buffer": buffer, "Q": factors, "exprs": exprs}

    @contextlib.contextmanager
    def _replaced(self, package: Any, inner: Any, group: dict[str, Any], count: int) -> Generator[None]:
        data, impl = keys.as_key(group["key"], "kron")
        with jax.enable_x64(True):
            key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(data, jnp.uint32), impl=impl), count + 1)
        before = package._calc_A_and_conjB, package._update_precond

        def drawn(array: torch.Tensor) -> tuple[float, torch.Tensor]:
            with jax.enable_x64(True):
                chance, probe = kronecker.draws(key, tuple(array.shape), str(array.dtype).removeprefix("torch."))
            return float(chance), torch.tensor(np.asarray(probe))

        def pair(expression: str, gradient: torch.Tensor, factors: list[torch.Tensor]) -> Any:
            a, b = before[0](expression, gradient.clone(), factors)
            down = _power_of_two(torch.maximum(a.abs().max(), b.abs().max()))
            return a * down, b * down

        def update(factors: list[torch.Tensor], exprs: Any, gradient: torch.Tensor, *more: Any) -> None:
            if gradient.any():
                before[1](factors, exprs, gradient, *more)

        def solve(array: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
            flat = array.reshape(-1, array.size(-1))
            return torch.linalg.solve_triangular(factor, flat, upper=True, left=False).reshape_as(array)

        def clip(update: torch.Tensor) -> None:
            down = _power_of_two(update.abs().max())
            size = (update * down).square().mean().sqrt()
            update.mul_(torch.clamp(1.1 * down / (size + down * 1e-12), max=1.0))

        inner.rng = mock.Mock()  # it balances where this is below 0.01
        below = drawn(torch.zeros(1))[0] < group["balance_probability"]
        inner.rng.random.return_value = 0.0 if below else 1.0
        with (
            mock.patch.multiple(
                package,
                _calc_A_and_conjB=pair,
                _update_precond=update,
                _solve_triangular_right=solve,
                _clip_update_rms=clip,
            ),
            mock.patch.object(torch, "randn_like", lambda array: drawn(array)[1]),
            contextlib.redirect_stdout(io.StringIO()),  # it prints the size of the state
            torch._dynamo.config.patch(disable=True),
        ):
            yield


def _power_of_two(largest: torch.Tensor) -> torch.Tensor:
    bound = 1020 if largest.dtype == torch.float64 else 124
    return torch.ldexp(torch.ones_like(largest), -torch.frexp(largest)[1].clamp(-bound, bound))


class Kron(Reference):
    kind = _Kron

    def before(self, entry: dict[str, Any], param: torch.Tensor, options: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entry.items() if key != "update_counter"}

    def into_group(self, group: dict[str, Any], entry: dict[str, Any]) -> None:
        group["update_counter"] = float(entry.get("update_counter", 0.0))

    def from_group(self, group: dict[str, Any]) -> dict[str, Any]:
        return {"update_counter": torch.tensor(group["update_counter"])}

    def _update(self, param: torch.Tensor, group: dict[str, Any]) -> None:
        """The package adds the decay to the update, so that an infinite entry becomes NaN, which stays with AdamW."""
        before = param.detach().clone()
        super()._update(param, group)
        if self.state[param]["momentum_buffer"].isfinite().all():
            param.copy_(torch.where(before.isinf(), before, param))


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


class AdaBelief(Reference):
    kind = adabelief_pytorch.AdaBelief
    own: ClassVar = {"decoupled_weight_decay": True}

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "weight_decouple": options["decoupled_weight_decay"], "print_change_log": False}

    def _update(self, param: torch.Tensor, group: dict[str, Any]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints its options
            super()._update(param, group)


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
