"""The rows and the columns of the matrix of meshes: every transformation, and the placements of its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim.base import Transform, transformation
from tests.algorithms import ALGORITHMS
from tests.table import TABLE, given, slope

SHAPES = {"dense": {"bias": (16,), "kernel": (16, 8)}, "scale": (), "odd": {"kernel": (5, 3)}}
PLACES = {
    "replicated": {},
    "first axis": {"dense.bias": P("x"), "dense.kernel": P("x")},
    "last axis": {"dense.kernel": P(None, "y")},
    "both axes": {"dense.bias": P(("x", "y")), "dense.kernel": P("x", "y")},
    "zero": {},  # replicated, and the slots split over "x"
    "fo.zero": {},  # replicated, and each transformation in fo.zero
    "fo.zero, last axis": {"dense.kernel": P(None, "y")},
}
STAGES = {"fo.zero": 1, "fo.zero, last axis": 2}

SEARCHES = {
    "lbfgs": {},
    "lbfgs_wolfe": {"line_search_fn": "strong_wolfe"},
    "bfgs": {},
    "bfgs_wolfe": {"line_search_fn": "strong_wolfe"},
    "bfgs_hager_zhang": {"line_search_fn": "hager_zhang"},
}
SPARSE = {
    "sparse_adam": fo.sparse_adam(lr=0.1),
    "sparse_sgd": fo.sgd(lr=0.1, momentum=0.9),
    "sparse_adagrad": fo.adagrad(lr=0.1),
}
FLAT = {"flat_adam": fo.adam(lr=0.1), "flat_chain": fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1))}
AVERAGES = {"ema": fo.ema(0.9), "swa": fo.swa()}

# What looks beyond single entries takes axis_name inside shard_map.
MANUAL = {
    "clip_by_global_norm": lambda axis: fo.clip_by_global_norm(1.0, axis_name=axis),
    "clip_by_norm": lambda axis: fo.clip_by_norm(1.0, axis_name=axis),
    "clip_by_block_rms": lambda axis: fo.clip_by_block_rms(0.5, axis_name=axis),
    "adaptive_grad_clip": lambda axis: fo.adaptive_grad_clip(0.1, axis_name=axis),
    "clip_by_zscore": lambda axis: fo.clip_by_zscore(z=0.1, warmup=2, axis_name=axis),
    "clip_by_adagc": lambda axis: fo.clip_by_adagc(warmup_steps=2, axis_name=axis),
    "clip_by_percentile": lambda axis: fo.clip_by_percentile(history=3, axis_name=axis),
    "zero_nans": lambda axis: fo.zero_nans(axis_name=axis),
    "centralize": lambda axis: fo.centralize(axis_name=axis),
    "normalize": lambda axis: fo.normalize(axis_name=axis),
    "scale_by_trust_ratio": lambda axis: fo.scale_by_trust_ratio(axis_name=axis),
    "scale_by_param_norm": lambda axis: fo.scale_by_param_norm(axis_name=axis),
    "scale_by_param_rms": lambda axis: fo.scale_by_param_rms(axis_name=axis),
    "project_simplex": lambda axis: fo.masked(fo.project_simplex(axis_name=axis), lambda path: path.endswith("kernel")),
    "project_l2_ball": lambda axis: fo.project_l2_ball(1.0, axis_name=axis),
    "adafactor": lambda axis: fo.adafactor(**ALGORITHMS["adafactor"].typical, axis_name=axis),
    "adafactor_decay": lambda axis: fo.adafactor(lr=0.1, weight_decay=0.1, axis_name=axis),
    "adafactor_direction": lambda axis: fo.scale_by_adafactor(lr=0.5, axis_name=axis),
    "lamb": lambda axis: fo.lamb(**ALGORITHMS["lamb"].typical, axis_name=axis),
    "lars": lambda axis: fo.lars(**ALGORITHMS["lars"].typical, axis_name=axis),
    "novograd": lambda axis: fo.novograd(**ALGORITHMS["novograd"].typical, axis_name=axis),
    "sm3": lambda axis: fo.sm3(**ALGORITHMS["sm3"].typical, axis_name=axis),
    "kron": lambda axis: fo.kron(**ALGORITHMS["kron"].typical, axis_name=axis),
    "mars": lambda axis: fo.mars(**ALGORITHMS["mars"].typical, axis_name=axis),
    "exact_mars": lambda axis: given(fo.exact_mars(fo.mars(lr=0.1, axis_name=axis)), grad_fn=slope),
    "muon_adamw": lambda axis: fo.muon_adamw({"lr": 0.1}, {"lr": 0.1}, axis_name=axis),
    "muon_normuon": lambda axis: fo.masked(fo.normuon(lr=0.1, axis_name=axis), lambda path: path.endswith("kernel")),
    "chain": lambda axis: fo.chain(fo.clip_by_global_norm(1.0, axis_name=axis), fo.adamw(lr=0.1), fo.scale(0.5)),
    "accumulate_skip": lambda axis: fo.accumulate(fo.adam(lr=0.1), every=1, skip=fo.if_large(100.0, axis_name=axis)),
    "skip_nonfinite": lambda axis: fo.skip_nonfinite(fo.adam(lr=0.1), max_consecutive=2, axis_name=axis),
    "skip_large_updates": lambda axis: fo.skip_large_updates(fo.adam(lr=0.1), 100.0, 2, axis_name=axis),
    "skip_spikes": lambda axis: fo.skip_spikes(fo.adam(lr=0.1), window=4, of="norm", axis_name=axis),
    "skip_spikes_both": lambda axis: given(
        fo.skip_spikes(fo.adam(lr=0.1), window=4, of="both", axis_name=axis), value=1.0
    ),
    "monitor": lambda axis: fo.monitor(
        fo.chain(fo.clip_by_global_norm(1.0, axis_name=axis), fo.adamw(lr=0.1)), prefixes=["dense"], axis_name=axis
    ),
    "monitor_sometimes": lambda axis: fo.monitor(
        fo.adam(lr=fo.schedules.cosine_annealing(0.1, T_max=4)), every=3, axis_name=axis
    ),
    "prodigy": lambda axis: fo.prodigy(weight_decay=0.1, d0=1e-3, axis_name=axis),
    "dadapt_adam": lambda axis: fo.dadapt_adam(weight_decay=0.1, d0=1e-3, axis_name=axis),
    "cautious": lambda axis: fo.cautious(fo.adamw(lr=0.1), axis_name=axis),
    "cautious_direction": lambda axis: fo.chain(
        fo.cautious(fo.scale_by_adam(), True, axis_name=axis), fo.scale_by_learning_rate(0.1)
    ),
    "sam": lambda axis: given(fo.sam(fo.adam(lr=0.1), rho=0.1, axis_name=axis), grad_fn=slope),
    "sam_adaptive": lambda axis: given(fo.sam(fo.sgd(lr=0.1), 0.5, True, axis_name=axis), grad_fn=slope),
}


class EveryOf(Transform):
    """Several transformations at once: compilation dominates."""

    of: tuple

    def init(self, params):
        return {name: tx.init(params) for name, tx in self.of}


def every_of(rows):
    return transformation(EveryOf(tuple(rows.items())))


def tree(seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731 one line
    return jax.tree.map(draw, SHAPES, is_leaf=lambda node: isinstance(node, tuple))


def specs_of(place):
    return specs_from(PLACES[place])


def specs_from(specs):
    """The specs by name as a tree; other leaves are replicated."""

    def spec(path, _):
        return specs.get(jax.tree_util.keystr(path, simple=True, separator="."), P())

    return jax.tree_util.tree_map_with_path(spec, SHAPES, is_leaf=lambda node: isinstance(node, tuple))


def rows_for(kind, place):
    """The transformations of a cell."""
    rows = {**TABLE, **AVERAGES}
    if kind == "shard_map":
        axis = specs_of(place)
        if place != "fo.zero":  # which tells all that is to know if parameters are whole
            rows |= {name: make(axis) for name, make in MANUAL.items() if name in rows}
    else:
        searches = {
            name: (fo.lbfgs if "lbfgs" in name else fo.bfgs)(max_iter=2, **options)
            for name, options in SEARCHES.items()
        }
        rows |= {**searches, **SPARSE, **FLAT}
    return {name: in_zero(name, tx, place) for name, tx in rows.items()} if place in STAGES else rows


def in_zero(name, tx, place):
    """A transformation in ``fo.zero``, which must know how its parameters are split."""
    specs = specs_of(place)
    specs = P() if name in FLAT else specs["dense"]["kernel"] if name in SPARSE else specs
    return fo.zero(tx, "x", STAGES[place], specs)
