"""What other libraries call the options: optax, keras, transformers, SciPy and habit, with what to write here."""

from collections.abc import Collection
from typing import NamedTuple

from functorch_optim.pages import Page


class Meaning(NamedTuple):
    """What a foreign name means to a function that has all the options ``needs``, or to any other if that is empty.

    ``write`` is what to write instead: the first of ``needs``, or an expression that starts with it; if it is neither,
    the option has no counterpart, and ``write`` is advice.
    """

    needs: str
    write: str
    page: Page

    @property
    def option(self) -> str:
        """The option that is the same thing; empty if there is none."""
        option = self.needs.partition(" ")[0]
        return option if option and (self.write == option or self.write.startswith(f"{option}=")) else ""


def _rows(page: Page, table: dict[str, list[tuple[str, str]]]) -> dict[str, list[Meaning]]:
    return {
        name: [Meaning(needs, write or needs, page) for needs, write in meanings]
        for names, meanings in table.items()
        for name in names.split()
    }


# "params" marks the constructors of the torch face, "optimizer" those of its schedulers.
_CLIP = [
    ("params", "clip with optimizer.clip_grad_norm(max_norm) before step(), or by step(closure, clip_norm=max_norm)"),
    ("", "clip with a link of its own, fo.chain(fo.clip_by_global_norm(max_norm), ...)"),
]
_EMA = [
    ("params", "average with optim.swa_utils.AveragedModel and get_ema_multi_avg_fn(decay)"),
    ("", "average with a link of its own, fo.chain(..., fo.ema(decay))"),
]
_ACCUMULATE = [
    ("params", "call backward() several times before step(), or pass step(closure, batches=...)"),
    ("", "accumulate with fo.accumulate(tx, every=n)"),
]
_BETAS = [("betas", "betas=(b1, b2)")]
_SCHEDULE = "a schedule is a value of the learning rate, lr=fo.schedules...."
_TORCH_ADAFACTOR = "this is torch's Adafactor, which always scales by the parameter and clips its update"

_NAMES: dict[str, list[Meaning]] = {
    **_rows(
        "from-optax",
        {
            "learning_rate": [("lr", ""), ("max_lr", ""), ("peak", "")],
            "b1": [*_BETAS, ("momentum", "")],
            "b2": _BETAS,
            "eps_root": [("betas", "leave it out: eps stays outside the root, as in torch")],
            "mu_dtype": [
                ("state_dtype betas", 'state_dtype={"exp_avg": dtype}'),
                ("state_dtype", "state_dtype=dtype"),
                ("betas", 'wrap the result, fo.state_dtype(tx, {"exp_avg": dtype})'),
                ("", "wrap the result, fo.state_dtype(tx, dtype)"),
            ],
            "accumulator_dtype": [
                ("state_dtype momentum", 'state_dtype={"momentum_buffer": dtype}'),
                ("momentum", 'wrap the result, fo.state_dtype(tx, {"momentum_buffer": dtype})'),
            ],
            "initial_scale initial_accumulator": [("initial_accumulator_value", "")],
            "decay": [("alpha momentum", "alpha"), ("rho", "")],
            "decay_rate": [
                ("beta2_decay", "beta2_decay=-decay_rate"),
                ("gamma", "gamma=decay_rate ** (1 / transition_steps)"),
            ],
            "nesterov": [("betas", "use nadam, which is Adam with Nesterov's momentum")],
            "clipping_threshold clip_threshold": [("d", ""), *_CLIP],
            "multiply_by_parameter_scale min_dim_size_to_factor factored": [("beta2_decay", _TORCH_ADAFACTOR)],
            "memory_size": [("history_size", "")],
            "linesearch line_search": [("line_search_fn", 'line_search_fn="strong_wolfe"')],
            "eta_plus eta_minus": [("etas", "etas=(eta_minus, eta_plus)")],
            "min_step_size max_step_size": [("step_sizes", "step_sizes=(min_step_size, max_step_size)")],
            "init_value": [
                ("lr", ""),
                ("peak", "leave it out: the warm-up starts at 0"),
            ],
            "peak_value": [("peak", ""), ("max_lr", "")],
            "end_value": [("end", ""), ("eta_min", ""), ("end_factor", "end_factor=end_value / lr")],
            "decay_steps": [("total_steps", ""), ("T_max", ""), ("total_iters", ""), ("step_size", "")],
            "transition_steps": [
                ("total_steps", ""),
                ("total_iters", ""),
                ("step_size", ""),
                ("gamma", "gamma=decay_rate ** (1 / transition_steps)"),
            ],
            "transition_begin": [("", "put a constant schedule before it, with fo.schedules.sequential")],
            "staircase": [("gamma", "for steps use step_decay(lr, step_size, gamma)")],
            "boundaries boundaries_and_scales": [("milestones", "")],
            "exponent": [("power", ""), ("T_max", "leave it out: the cosine has no exponent")],
            "rtol atol": [("threshold", "")],
        },
    ),
    **_rows(
        "groups-and-masks",
        {
            "mask weight_decay_mask": [
                ("decay_mask", ""),
                ("group_rules", 'group_rules=[("bias|norm", {"weight_decay": 0.0})]'),
            ],
            "decay_mask": [
                ("group_rules", 'group_rules=[("bias|norm", {"weight_decay": 0.0})]'),
                ("", "leave it out: nothing decays here"),
            ],
            "group_rules": [("", "give each part its own transformation, fo.partition({...}, labels)")],
            "requires_grad": [("frozen", "frozen=not requires_grad")],
            "trainable": [("frozen", "frozen=not trainable")],
            "freeze": [
                ("frozen", ""),
                ("params", 'freeze a group, group_rules=[("body", {"frozen": True})]'),
                ("lr", "wrap the result, fo.freeze(tx, lambda path: ...)"),
            ],
        },
    ),
    **_rows("clipping-and-constraints", {"clipnorm clipvalue global_clipnorm": _CLIP}),
    **_rows("clipping-and-constraints", {"clip_norm max_grad_norm max_norm grad_clip gradient_clip_val": _CLIP}),
    **_rows(
        "from-torch",
        {
            "params": [("lr", "a transformation gets the parameters later, state = tx.init(params)")],
            "state_dtype": [("", "wrap the result, fo.state_dtype(tx, dtype)")],
            "fused capturable": [("lr", "leave it out: your jax.jit decides what is compiled together")],
            "differentiable": [
                ("max_iter", "leave it out: the loop of L-BFGS and BFGS has no derivative in reverse mode"),
                ("lr", "leave it out: every update is differentiable"),
            ],
            "foreach": [("lr", "leave it out: this one does not pack parameters")],
            "axis_name": [("params", "leave it out: it belongs to functions inside shard_map")],
            "verbose": [("optimizer", "leave it out, as in torch 2.7 and newer: print scheduler.get_last_lr()")],
        },
    ),
    **_rows(
        "faq",
        {
            "beta1 beta_1 adam_beta1": [*_BETAS, ("momentum", "")],
            "beta2 beta_2 adam_beta2": _BETAS,
            "beta": [("momentum", ""), *_BETAS],
            "momentum": [("betas", "the first of betas is the momentum")],
            "rho": [("alpha momentum", "alpha")],
            "epsilon adam_epsilon": [("eps", "")],
            "wd l2 l2_penalty weight_decay_rate decay_coefficient": [
                ("weight_decay", ""),
                ("lr", "decay with a link of its own, fo.add_decayed_weights(weight_decay)"),
            ],
            "learning_rate_fn lr_schedule lr_scheduler schedule schedule_fn": [("lr", _SCHEDULE)],
            "initial_learning_rate init_lr initial_lr base_learning_rate": [("lr", ""), ("peak", ""), ("max_lr", "")],
            "use_ema ema_momentum ema_decay ema_overwrite_frequency": _EMA,
            "gradient_accumulation_steps accumulate_grad_batches": _ACCUMULATE,
            "scale_parameter relative_step warmup_init": [("beta2_decay", _TORCH_ADAFACTOR)],
            "use_nesterov": [("nesterov", "")],
            "maxiter max_iterations num_iterations": [("max_iter", "")],
            "maxfun maxls": [("max_eval", "")],
            "gtol tol": [("tolerance_grad", "")],
            "ftol": [("tolerance_change", "")],
            "maxcor m": [("history_size", "")],
            "peak_lr": [("peak", ""), ("max_lr", "")],
            "end_lr final_lr min_learning_rate": [("end", ""), ("eta_min", ""), ("min_lr", "")],
            "min_lr": [("eta_min", ""), ("end", "")],
            "num_warmup_steps warmup warmup_epochs warmup_iters warmup_steps": [
                ("warmup_steps", ""),
                ("schedule steps", "steps"),
                ("total_iters", ""),
            ],
            "num_training_steps max_steps num_steps epochs": [
                ("total_steps", ""),
                ("T_max", ""),
                ("total_iters", ""),
            ],
            "first_decay_steps": [("T_0", "")],
            "t_mul": [("T_mult", "")],
        },
    ),
}


def meaning_of(name: str, options: Collection[str]) -> Meaning | None:
    """Return what a foreign name means to a function with these options; None if it is not known.

    Example:
        >>> meaning_of("b1", ["lr", "betas"]).write, meaning_of("b1", ["lr"])
        ('betas=(b1, b2)', None)
    """
    for meaning in _NAMES.get(name.lower(), ()):
        if all(option in options for option in meaning.needs.split()):
            return meaning
    return None
