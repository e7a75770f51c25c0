"""Measure the savings and the cost of narrower dtypes: AdamW on GPT-2 small's shapes. ``make bench-precision``"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from benchmarks import results, shapes
from benchmarks.timing import jax_step, optimizer_step, ratio, take_turns

COMMAND = "make bench-precision"
COLUMNS = {
    "step": ("AdamW on GPT-2 small", ""),
    "megabytes": ("parameters and state, MB", ".0f"),
    "ms": ("step, ms", ".0f"),
    "over": ("step over float32's", ".2f"),
}
WIDE, NARROW = jnp.float32, jnp.bfloat16
TXS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "float32": (WIDE, lambda: fo.adamw(lr=1e-3)),
    "float32, `exp_avg` in bfloat16": (WIDE, lambda: fo.state_dtype(fo.adamw(lr=1e-3), {"exp_avg": NARROW})),
    "bfloat16": (NARROW, lambda: fo.adamw(lr=1e-3)),
    "bfloat16, `stochastic_rounding`": (NARROW, lambda: fo.stochastic_rounding(fo.adamw(lr=1e-3), 0)),
    "bfloat16, `master_weights`": (NARROW, lambda: fo.master_weights(fo.adamw(lr=1e-3))),
}


def main() -> None:
    parser = results.arguments(__doc__, rounds=7)
    parser.add_argument("--fused", action="store_true", help="with fo.enable_cpu_fusion()")
    options = parser.parse_args()
    if options.fused:
        fo.enable_cpu_fusion()
    rng = np.random.default_rng(0)
    sizes = shapes.gpt2_small()
    contenders, held = {}, {}
    for name, (dtype, make) in TXS.items():
        tx = make()
        params = {key: jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for key, shape in sizes.items()}
        state = tx.init(params)
        held[name] = sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)))
        contenders[name], _, _ = jax_step(optimizer_step(tx, fo.apply_updates), params, state, params)
    times = take_turns(contenders, options.rounds)
    first = next(iter(times))
    rows = [
        (name, held[name] / 1e6, 1e3 * statistics.median(values), ratio(values, times[first]))
        for name, values in times.items()
    ]
    name, command = ("fused", f"{COMMAND} ARGS=--fused") if options.fused else ("plain", COMMAND)
    results.finish("precision", {name: results.table(command, COLUMNS, rows)}, options.write)


if __name__ == "__main__":
    main()
