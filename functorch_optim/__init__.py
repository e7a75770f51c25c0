"""The algorithms of torch.optim, with torch's numbers, as pure composable JAX."""

from functorch_optim import checkpoint, fusion, interop, rules, schedules, testing
from functorch_optim.algorithms.adadelta import AdadeltaState, adadelta
from functorch_optim.algorithms.adafactor import AdafactorState, adafactor
from functorch_optim.algorithms.adagrad import AdagradState, adagrad
from functorch_optim.algorithms.adam import AdamState, adam
from functorch_optim.algorithms.adamax import AdamaxState, adamax
from functorch_optim.algorithms.adamw import adamw
from functorch_optim.algorithms.asgd import ASGDState, asgd
from functorch_optim.algorithms.bfgs import BFGSState, bfgs
from functorch_optim.algorithms.lbfgs import LBFGSState, lbfgs
from functorch_optim.algorithms.muon import MuonState, muon
from functorch_optim.algorithms.muon_adamw import muon_adamw
from functorch_optim.algorithms.nadam import NAdamState, nadam
from functorch_optim.algorithms.radam import RAdamState, radam
from functorch_optim.algorithms.rmsprop import RMSpropState, rmsprop
from functorch_optim.algorithms.rprop import RpropState, rprop
from functorch_optim.algorithms.sgd import SGDState, sgd
from functorch_optim.algorithms.sparse_adam import SparseAdamState, sparse_adam
from functorch_optim.averaging.average import AverageState, averaged_params, swap_params, update_average
from functorch_optim.averaging.batch_norm import BatchStatistics, batch_statistics
from functorch_optim.averaging.ema import ema, ema_warmup
from functorch_optim.averaging.swa import swa
from functorch_optim.base import EmptyState, GradientTransformation, apply_updates, identity
from functorch_optim.combinators import ChainState, NamedStates, chain, current_hyperparams, find_state, named_chain
from functorch_optim.core.lift import lift
from functorch_optim.core.packing import ForeachState
from functorch_optim.core.rule import Rule
from functorch_optim.fusion import enable_cpu_fusion
from functorch_optim.hyperparams import Beta
from functorch_optim.monitoring.monitor import MonitorState, monitor
from functorch_optim.monitoring.report import report
from functorch_optim.norms import global_norm
from functorch_optim.selection import MaskedState, masked, partition
from functorch_optim.sparse_grad import value_and_sparse_grad
from functorch_optim.transforms.adaptive_clipping import (
    ClipByPercentileState,
    ClipByZscoreState,
    adaptive_grad_clip,
    clip_by_percentile,
    clip_by_zscore,
)
from functorch_optim.transforms.cleaning import AddNoiseState, ZeroNansState, add_noise, centralize, zero_nans
from functorch_optim.transforms.clipping import clip_by_block_rms, clip_by_global_norm, clip_by_norm, clip_by_value
from functorch_optim.transforms.conditional import AccumulateState, SkipNonfiniteState, accumulate, skip_nonfinite
from functorch_optim.transforms.conjugation import conjugate
from functorch_optim.transforms.constraints import keep_nonnegative, project_box, project_l2_ball, project_simplex
from functorch_optim.transforms.freezing import freeze, set_to_zero
from functorch_optim.transforms.normalizing import (
    normalize,
    scale_by_param_norm,
    scale_by_param_rms,
    scale_by_sign,
    scale_by_trust_ratio,
)
from functorch_optim.transforms.precision import (
    MasterWeightsState,
    StochasticRoundingState,
    master_weights,
    state_dtype,
    stochastic_rounding,
)
from functorch_optim.transforms.scaling import StepState, scale, scale_by_schedule
from functorch_optim.transforms.weight_decay import add_decayed_weights

__version__ = "0.1.0"

__all__ = [
    "ASGDState",
    "AccumulateState",
    "AdadeltaState",
    "AdafactorState",
    "AdagradState",
    "AdamState",
    "AdamaxState",
    "AddNoiseState",
    "AverageState",
    "BFGSState",
    "BatchStatistics",
    "Beta",
    "ChainState",
    "ClipByPercentileState",
    "ClipByZscoreState",
    "EmptyState",
    "ForeachState",
    "GradientTransformation",
    "LBFGSState",
    "MaskedState",
    "MasterWeightsState",
    "MonitorState",
    "MuonState",
    "NAdamState",
    "NamedStates",
    "RAdamState",
    "RMSpropState",
    "RpropState",
    "Rule",
    "SGDState",
    "SkipNonfiniteState",
    "SparseAdamState",
    "StepState",
    "StochasticRoundingState",
    "ZeroNansState",
    "accumulate",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "apply_updates",
    "asgd",
    "averaged_params",
    "batch_statistics",
    "bfgs",
    "centralize",
    "chain",
    "checkpoint",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_percentile",
    "clip_by_value",
    "clip_by_zscore",
    "conjugate",
    "current_hyperparams",
    "ema",
    "ema_warmup",
    "enable_cpu_fusion",
    "find_state",
    "freeze",
    "fusion",
    "global_norm",
    "identity",
    "interop",
    "keep_nonnegative",
    "lbfgs",
    "lift",
    "masked",
    "master_weights",
    "monitor",
    "muon",
    "muon_adamw",
    "nadam",
    "named_chain",
    "normalize",
    "partition",
    "project_box",
    "project_l2_ball",
    "project_simplex",
    "radam",
    "report",
    "rmsprop",
    "rprop",
    "rules",
    "scale",
    "scale_by_param_norm",
    "scale_by_param_rms",
    "scale_by_schedule",
    "scale_by_sign",
    "scale_by_trust_ratio",
    "schedules",
    "set_to_zero",
    "sgd",
    "skip_nonfinite",
    "sparse_adam",
    "state_dtype",
    "stochastic_rounding",
    "swa",
    "swap_params",
    "testing",
    "update_average",
    "value_and_sparse_grad",
    "zero_nans",
]
