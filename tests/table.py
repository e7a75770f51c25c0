"""Every transformation of the library, for the tests that apply to all of them."""

import re

import functorch_optim as fo
from tests.algorithms import ALGORITHMS, names

TABLE = {
    "identity": fo.identity(),
    "conjugate": fo.conjugate(),
    "scale": fo.scale(0.5),
    "scale_by_schedule": fo.scale_by_schedule(fo.schedules.cosine_annealing(1.0, T_max=4)),
    "clip_by_global_norm": fo.clip_by_global_norm(1.0),
    "clip_by_value": fo.clip_by_value(0.5),
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
    "muon_adamw": fo.muon_adamw({"lr": 0.1}, {"lr": 0.1}),
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
    "accumulate": fo.accumulate(fo.adam(lr=0.1), every=2),
    "skip_nonfinite": fo.skip_nonfinite(fo.adam(lr=0.1), max_consecutive=2),
}
