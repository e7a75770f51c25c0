"""The optimizer. It says nothing of a mesh."""

import re

import functorch_optim as fo

PEAK, WARMUP = 3e-3, 0.1  # the highest rate, and the part of the steps until it


def make_optimizer(steps: int) -> fo.GradientTransformation:
    """Return clipping, AdamW with a warm-up and a cosine, and an average of the parameters."""
    rate = fo.schedules.warmup_cosine(PEAK, max(1, round(WARMUP * steps)), steps, end=PEAK / 10)
    return fo.chain(
        fo.clip_by_global_norm(1.0),
        fo.adamw(lr=rate, betas=(0.9, 0.95), weight_decay=0.1, decay_mask=re.compile(r"kernel$")),
        fo.ema(0.95),
    )
