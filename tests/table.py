"""Every transformation of the library, for the tests of what they all must do."""

import functorch_optim as fo

TABLE = {
    "identity": fo.identity(),
    "conjugate": fo.conjugate(),
    "scale": fo.scale(0.5),
    "scale_by_schedule": fo.scale_by_schedule(fo.schedules.cosine_annealing(1.0, T_max=4)),
    "clip_by_global_norm": fo.clip_by_global_norm(1.0),
    "clip_by_value": fo.clip_by_value(0.5),
    "add_decayed_weights": fo.add_decayed_weights(0.1),
    "sgd": fo.sgd(lr=0.1),
    "sgd_momentum": fo.sgd(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.1),
    "adam": fo.adam(lr=0.1),
    "adam_amsgrad": fo.adam(lr=0.1, weight_decay=0.1, amsgrad=True, maximize=True),
    "adamw": fo.adamw(lr=fo.schedules.warmup_cosine(0.1, 1, 8)),
    "chain": fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1), fo.scale(0.5)),
    "named_chain": fo.named_chain(("clip", fo.clip_by_value(1.0)), ("optimizer", fo.sgd(lr=0.1, momentum=0.9))),
    "partition": fo.partition(
        {"decay": fo.adamw(lr=0.1), "plain": fo.sgd(lr=0.1, momentum=0.9)},
        lambda path: "plain" if path.endswith("bias") else "decay",
    ),
    "masked": fo.masked(fo.adam(lr=0.1), lambda path: path.endswith("kernel")),
    "accumulate": fo.accumulate(fo.adam(lr=0.1), every=2),
    "skip_nonfinite": fo.skip_nonfinite(fo.adam(lr=0.1), max_consecutive=2),
}
