"""Every transformation of the library, for the tests that apply to all of them."""

import re

import jax
import jax.numpy as jnp

import functorch_optim as fo
from functorch_optim.base import transformation
from functorch_optim.combinators import Wrapper
from tests.algorithms import ALGORITHMS, FULL, names
from tests.beyond_torch import BEYOND_TORCH


class Given(Wrapper):
    """A transformation that is given keywords which the tests of all do not pass."""

    keywords: tuple

    def init(self, params):
        return self.inner.init(params)

    def update(self, updates, state, params=None, **extra):
        return self.inner.update(updates, state, params, **{**extra, **dict(self.keywords)})

    def hyperparams(self, state):
        return fo.current_hyperparams(self.inner, state)


def given(inner, **keywords):
    return transformation(Given(inner, tuple(keywords.items())))


def slope(params):
    """A gradient as a function, for the point at which it is asked for."""
    return jax.tree.map(jnp.sin, params)


def bent(params, key):
    """A curvature as a function, also below zero."""
    del key
    return jax.tree.map(lambda x: jnp.cos(3 * x), params)


def row_mean(shape):
    return () if len(shape) < 2 else (1,)


def clipped(lr, max_norm):
    return fo.chain(fo.clip_by_global_norm(max_norm), fo.nadam(lr=lr))


TABLE = {
    "identity": fo.identity(),
    "conjugate": fo.conjugate(),
    "scale": fo.scale(0.5),
    "scale_by_schedule": fo.scale_by_schedule(fo.schedules.cosine_annealing(1.0, T_max=4)),
    "clip_by_global_norm": fo.clip_by_global_norm(1.0),
    "clip_by_value": fo.clip_by_value(0.5),
    "clip_by_norm": fo.clip_by_norm(1.0),
    "clip_by_block_rms": fo.clip_by_block_rms(0.5),
    "adaptive_grad_clip": fo.adaptive_grad_clip(0.1),
    "clip_by_zscore": fo.clip_by_zscore(z=0.1, warmup=2),
    "clip_by_adagc": fo.clip_by_adagc(warmup_steps=2),
    "clip_by_percentile": fo.clip_by_percentile(history=3),
    "zero_nans": fo.zero_nans(),
    "centralize": fo.centralize(),
    "add_noise": fo.add_noise(0),
    "normalize": fo.normalize(),
    "scale_by_sign": fo.scale_by_sign(),
    "scale_by_trust_ratio": fo.scale_by_trust_ratio(),
    "scale_by_param_norm": fo.scale_by_param_norm(),
    "scale_by_param_rms": fo.scale_by_param_rms(),
    "keep_nonnegative": fo.keep_nonnegative(),
    "project_box": fo.project_box(-0.5, 0.75),
    "project_simplex": fo.masked(fo.project_simplex(), lambda path: path.endswith("kernel")),
    "project_l2_ball": fo.project_l2_ball(1.0),
    "add_decayed_weights": fo.add_decayed_weights(0.1),
    **{name: getattr(fo, name)(**ALGORITHMS[name].typical) for name in names(takes_vectors=True)},
    "adadelta_decay": fo.adadelta(weight_decay=0.1),
    "adafactor_decay": fo.adafactor(lr=0.1, weight_decay=0.1),
    "adagrad_decay": fo.adagrad(lr=0.1, lr_decay=0.1, weight_decay=0.1),
    "sgd_plain": fo.sgd(lr=0.1),
    "sgd_dampened": fo.sgd(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.1),
    "adam_plain": fo.adam(lr=0.1),
    "adam_maximize": fo.adam(lr=0.1, weight_decay=0.1, amsgrad=True, maximize=True),
    "adamw_schedule": fo.adamw(lr=fo.schedules.warmup_cosine(0.1, 1, 8)),
    "adamw_decay_mask": fo.adamw(lr=0.1, weight_decay=0.1, decay_mask=lambda path: path.endswith("kernel")),
    "nadam_decoupled": fo.nadam(lr=0.1, weight_decay=0.1, decoupled_weight_decay=True),
    "radam_schedule": fo.radam(lr=fo.schedules.cosine_annealing(0.1, T_max=4)),
    "rmsprop_plain": fo.rmsprop(lr=0.1),
    "exact_mars": given(fo.exact_mars(fo.mars(lr=0.1)), grad_fn=slope),
    "muon_adamw": fo.muon_adamw({"lr": 0.1}, {"lr": 0.1}),
    "muon_normuon": fo.masked(fo.normuon(lr=0.1), lambda path: path.endswith("kernel")),
    "soap": fo.soap(lr=0.1, weight_decay=0.0, precondition_frequency=1),
    "soap_merged": fo.soap(
        lr=0.1,
        weight_decay=0.0,
        precondition_frequency=1,
        max_precond_dim=40,
        merge_dims=True,
        precondition_1d=True,
        normalize_grads=True,
    ),
    "chain": fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1), fo.scale(0.5)),
    "named_chain": fo.named_chain(("clip", fo.clip_by_value(1.0)), ("optimizer", fo.sgd(lr=0.1, momentum=0.9))),
    "adam_foreach": fo.adam(lr=0.1, weight_decay=0.1, foreach=True),
    "adam_foreach_decay_mask": fo.adam(
        lr=0.1, weight_decay=0.1, foreach=True, decay_mask=lambda path: path.endswith("kernel")
    ),
    "rmsprop_foreach": fo.rmsprop(lr=0.1, momentum=0.9, foreach=True),
    "partition": fo.partition(
        {"decay": fo.adamw(lr=0.1), "plain": fo.sgd(lr=0.1, momentum=0.9)},
        lambda path: "plain" if path.endswith("bias") else "decay",
    ),
    "partition_rules": fo.partition(
        {"decay": fo.adamw(lr=0.1), "plain": fo.sgd(lr=0.1)}, [("b", "plain"), ("", "decay")]
    ),
    "masked": fo.masked(fo.adam(lr=0.1), lambda path: path.endswith("kernel")),
    "freeze": fo.freeze(fo.adamw(lr=0.1), lambda path: path.endswith("bias")),
    "selective": fo.selective(fo.adamw(lr=0.1), re.compile("kernel$")),
    "set_to_zero": fo.set_to_zero(),
    "scale_by_learning_rate": fo.scale_by_learning_rate(0.1),
    "scale_by_path": fo.scale_by_path([("bias", 0.5), ("kernel", fo.schedules.cosine_annealing(1.0, T_max=4))], 2.0),
    "layerwise_decay": fo.layerwise_decay(0.5, [("kernel|bias", 0), ("", 1)]),
    "adam_direction": fo.scale_by_adam(amsgrad=True),
    "adam_direction_foreach": fo.scale_by_adam(foreach=True),
    "sgd_direction": fo.scale_by_momentum(0.9),
    "adafactor_direction": fo.scale_by_adafactor(lr=0.5),
    "rprop_direction": fo.scale_by_rprop(lr=0.1),
    "links": fo.chain(
        fo.scale_by_rms(),
        fo.add_decayed_weights(0.1, re.compile("kernel")),
        fo.scale_by_learning_rate(lambda step: 0.1),
    ),
    "state_dtype": fo.state_dtype(fo.adam(lr=0.1), {"exp_avg": "bfloat16"}),
    "stochastic_rounding": fo.stochastic_rounding(fo.adamw(lr=0.1), 0),
    "master_weights": fo.master_weights(fo.adamw(lr=0.1)),
    "master_weights_int8": fo.master_weights(fo.adamw(lr=0.1), "int8"),
    "quantized": fo.quantized(fo.adamw(lr=0.1), {"exp_avg": "dynamic8", "exp_avg_sq": "dynamic8"}, 16, 16),
    "quantized_stochastic": fo.quantized(fo.rmsprop(lr=0.1), {"square_avg": "bfloat16_stochastic"}, min_size=16),
    "accumulate": fo.accumulate(fo.adam(lr=0.1), every=2),
    "accumulate_schedule": fo.accumulate(fo.adam(lr=0.1), every=fo.schedules.step_decay(1.0, 1, gamma=2.0)),
    "accumulate_skip": fo.accumulate(fo.adam(lr=0.1), every=1, skip=fo.if_large(100.0)),
    "monitor": fo.monitor(fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1)), prefixes=["dense"]),
    "monitor_sometimes": fo.monitor(fo.adam(lr=fo.schedules.cosine_annealing(0.1, T_max=4)), every=3),
    "skip_nonfinite": fo.skip_nonfinite(fo.adam(lr=0.1), max_consecutive=2),
    "skip_large_updates": fo.skip_large_updates(fo.adam(lr=0.1), max_norm=100.0, max_consecutive=2),
    "skip_spikes": fo.skip_spikes(fo.adam(lr=0.1), window=4, of="norm"),
    "skip_spikes_both": given(fo.skip_spikes(fo.adam(lr=0.1), window=4, of="both"), value=1.0),
    "reduce_on_plateau": given(fo.chain(fo.adam(lr=0.1), fo.reduce_on_plateau(patience=0)), value=1.0),
    "inject": fo.inject(fo.asgd, lr=0.1, alpha=0.5),
    "inject_schedule": fo.inject(fo.adamw, lr=fo.schedules.warmup_cosine(0.1, 1, 8), betas=(0.9, 0.99)),
    "inject_factory": fo.inject(clipped, lr=0.1, max_norm=1.0),
    "lookahead": fo.lookahead(fo.adam(lr=0.1), every=2),
    "prodigy": fo.prodigy(weight_decay=0.1, d0=1e-3),
    "dadapt_adam": fo.dadapt_adam(weight_decay=0.1, d0=1e-3),
    "adahessian": given(fo.adahessian(lr=0.01, update_period=2, block_axes=row_mean), curvature_fn=bent),
    "sophia": given(fo.sophia(lr=0.1, update_period=2), curvature_fn=bent),
    "cautious": fo.cautious(fo.adamw(lr=0.1)),
    "cautious_direction": fo.chain(fo.cautious(fo.scale_by_adam(), plus_one=True), fo.scale_by_learning_rate(0.1)),
    "sam": given(fo.sam(fo.adam(lr=0.1), rho=0.1), grad_fn=slope),
    "sam_adaptive": given(fo.sam(fo.sgd(lr=0.1), rho=0.5, adaptive=True), grad_fn=slope),
}

# Forms of others: they have tests of their own, and pass the tests of all in `make test-all`.
FORMS = {
    "accumulate_schedule", "accumulate_skip", "adadelta_decay", "adam_plain", "nadam_decoupled",
    "adafactor_direction", "adagrad_decay",
    "cautious_direction",
    "adam_direction_foreach", "adam_foreach_decay_mask", "clip_by_block_rms", "inject_factory", "inject_schedule",
    "links", "monitor_sometimes", "partition_rules", "project_l2_ball", "radam_schedule", "rmsprop_foreach",
    "rmsprop_plain", "sam_adaptive", "scale_by_param_norm", "scale_by_param_rms", "selective", "skip_large_updates",
    "skip_spikes_both", "quantized_stochastic", "master_weights_int8",
    "adam_maximize", "sgd_plain", "sgd_dampened", "adafactor_decay", "rprop_direction",
    "scale_by_schedule", "freeze", "named_chain", "set_to_zero", "inject",
}  # fmt: skip
FORMS |= BEYOND_TORCH.keys() - {"lion", "lamb", "schedule_free_adamw"} | {"dadapt_adam", "sophia"}
if not FULL:
    TABLE = {name: tx for name, tx in TABLE.items() if name not in FORMS}
