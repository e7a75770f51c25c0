"""The algorithms of torch.optim, with torch's numbers, as pure composable JAX."""

from functorch_optim import checkpoint, fusion, interop, rules, schedules, testing
from functorch_optim.algorithms.adabelief import AdaBeliefState, adabelief
from functorch_optim.algorithms.adadelta import AdadeltaState, adadelta
from functorch_optim.algorithms.adafactor import AdafactorState, adafactor
from functorch_optim.algorithms.adagrad import AdagradState, adagrad
from functorch_optim.algorithms.adam import AdamState, adam
from functorch_optim.algorithms.adamax import AdamaxState, adamax
from functorch_optim.algorithms.adamw import adamw
from functorch_optim.algorithms.adan import AdanState, adan
from functorch_optim.algorithms.ademamix import AdEMAMixState, ademamix
from functorch_optim.algorithms.adopt import ADOPTState, adopt
from functorch_optim.algorithms.asgd import ASGDState, asgd
from functorch_optim.algorithms.bfgs import BFGSState, bfgs
from functorch_optim.algorithms.dadapt_adam import DAdaptAdamState, dadapt_adam
from functorch_optim.algorithms.grams import GramsState, grams
from functorch_optim.algorithms.kron import KronState, kron, precond_update_prob_schedule
from functorch_optim.algorithms.lamb import LAMBState, lamb
from functorch_optim.algorithms.laprop import LaPropState, laprop
from functorch_optim.algorithms.lars import LARSState, lars
from functorch_optim.algorithms.lbfgs import LBFGSState, lbfgs
from functorch_optim.algorithms.lion import LionState, lion
from functorch_optim.algorithms.madgrad import MADGRADState, madgrad
from functorch_optim.algorithms.mars import ExactMARSState, MARSState, exact_mars, mars
from functorch_optim.algorithms.muon import MuonState, muon
from functorch_optim.algorithms.muon_adamw import muon_adamw
from functorch_optim.algorithms.nadam import NAdamState, nadam
from functorch_optim.algorithms.normuon import NorMuonState, normuon
from functorch_optim.algorithms.novograd import NovoGradState, novograd
from functorch_optim.algorithms.prodigy import ProdigyState, prodigy
from functorch_optim.algorithms.radam import RAdamState, radam
from functorch_optim.algorithms.rmsprop import RMSpropState, rmsprop
from functorch_optim.algorithms.rprop import RpropState, rprop
from functorch_optim.algorithms.schedule_free_adamw import ScheduleFreeAdamWState, schedule_free_adamw
from functorch_optim.algorithms.schedule_free_radam import schedule_free_radam
from functorch_optim.algorithms.schedule_free_sgd import ScheduleFreeSGDState, schedule_free_sgd
from functorch_optim.algorithms.sgd import SGDState, sgd
from functorch_optim.algorithms.signum import SignumState, signum
from functorch_optim.algorithms.sm3 import SM3State, sm3
from functorch_optim.algorithms.sparse_adam import SparseAdamState, sparse_adam
from functorch_optim.algorithms.yogi import YogiState, yogi
from functorch_optim.averaging.average import AverageState, averaged_params, swap_params, update_average
from functorch_optim.averaging.batch_norm import BatchStatistics, batch_statistics
from functorch_optim.averaging.ema import ema, ema_warmup
from functorch_optim.averaging.evaluation import eval_params, train_params
from functorch_optim.averaging.swa import swa
from functorch_optim.base import EmptyState, GradientTransformation, apply_updates, identity
from functorch_optim.combinators import ChainState, NamedStates, chain, current_hyperparams, find_state, named_chain
from functorch_optim.core.lift import lift
from functorch_optim.core.packing import ForeachState
from functorch_optim.core.rule import Rule
from functorch_optim.flat import FlatParams, flat_params, flatten_like, unflatten
from functorch_optim.fusion import enable_cpu_fusion
from functorch_optim.hyperparam_edits import set_hyperparams
from functorch_optim.hyperparams import Beta
from functorch_optim.injection import InjectState, inject
from functorch_optim.matrices import MatrixAxes
from functorch_optim.monitoring.monitor import MonitorState, monitor
from functorch_optim.monitoring.report import report
from functorch_optim.norms import global_norm
from functorch_optim.plan import Plan, plan
from functorch_optim.selection import MaskedState, masked, partition
from functorch_optim.sharded_state import abstract_state, init_sharded, state_shardings
from functorch_optim.sparse_grad import value_and_sparse_grad
from functorch_optim.transforms.accumulation import AccumulateState, CountedAccumulateState, accumulate
from functorch_optim.transforms.adagc import AdaGCState, clip_by_adagc
from functorch_optim.transforms.adaptive_clipping import (
    ClipByPercentileState,
    ClipByZscoreState,
    adaptive_grad_clip,
    clip_by_percentile,
    clip_by_zscore,
)
from functorch_optim.transforms.cautious import cautious
from functorch_optim.transforms.cleaning import AddNoiseState, ZeroNansState, add_noise, centralize, zero_nans
from functorch_optim.transforms.clipping import clip_by_block_rms, clip_by_global_norm, clip_by_norm, clip_by_value
from functorch_optim.transforms.conjugation import conjugate
from functorch_optim.transforms.constraints import keep_nonnegative, project_box, project_l2_ball, project_simplex
from functorch_optim.transforms.direction import scale_by
from functorch_optim.transforms.directions import (
    scale_by_adadelta,
    scale_by_adagrad,
    scale_by_momentum,
    scale_by_muon,
    scale_by_rms,
)
from functorch_optim.transforms.directions_of_adam import (
    scale_by_adam,
    scale_by_adamax,
    scale_by_nadam,
    scale_by_radam,
    scale_by_sparse_adam,
)
from functorch_optim.transforms.directions_with_rate import scale_by_adafactor, scale_by_asgd, scale_by_rprop
from functorch_optim.transforms.freezing import freeze, selective, set_to_zero
from functorch_optim.transforms.lookahead import LookaheadState, lookahead
from functorch_optim.transforms.master_weights import MasterWeightsState, master_weights
from functorch_optim.transforms.normalizing import (
    normalize,
    scale_by_param_norm,
    scale_by_param_rms,
    scale_by_sign,
    scale_by_trust_ratio,
)
from functorch_optim.transforms.offload import offload
from functorch_optim.transforms.path_scaling import layerwise_decay, scale_by_path
from functorch_optim.transforms.plateau import ReduceOnPlateauState, reduce_on_plateau
from functorch_optim.transforms.precision import StochasticRoundingState, state_dtype, stochastic_rounding
from functorch_optim.transforms.quantized import Quantized, Rounded, quantized, requantized
from functorch_optim.transforms.scaling import StepState, scale, scale_by_learning_rate, scale_by_schedule
from functorch_optim.transforms.sharpness import SAMState, sam
from functorch_optim.transforms.skipping import (
    SkipLargeUpdatesState,
    SkipNonfiniteState,
    SkipSpikesState,
    if_large,
    if_nonfinite,
    skip_large_updates,
    skip_nonfinite,
    skip_spikes,
)
from functorch_optim.transforms.weight_decay import add_decayed_weights
from functorch_optim.transforms.zero import zero

__version__ = "0.1.0"

__all__ = [
    "ADOPTState",
    "ASGDState",
    "AccumulateState",
    "AdEMAMixState",
    "AdaBeliefState",
    "AdaGCState",
    "AdadeltaState",
    "AdafactorState",
    "AdagradState",
    "AdamState",
    "AdamaxState",
    "AdanState",
    "AddNoiseState",
    "AverageState",
    "BFGSState",
    "BatchStatistics",
    "Beta",
    "ChainState",
    "ClipByPercentileState",
    "ClipByZscoreState",
    "CountedAccumulateState",
    "DAdaptAdamState",
    "EmptyState",
    "ExactMARSState",
    "FlatParams",
    "ForeachState",
    "GradientTransformation",
    "GramsState",
    "InjectState",
    "KronState",
    "LAMBState",
    "LARSState",
    "LBFGSState",
    "LaPropState",
    "LionState",
    "LookaheadState",
    "MADGRADState",
    "MARSState",
    "MaskedState",
    "MasterWeightsState",
    "MatrixAxes",
    "MonitorState",
    "MuonState",
    "NAdamState",
    "NamedStates",
    "NorMuonState",
    "NovoGradState",
    "Plan",
    "ProdigyState",
    "Quantized",
    "RAdamState",
    "RMSpropState",
    "ReduceOnPlateauState",
    "Rounded",
    "RpropState",
    "Rule",
    "SAMState",
    "SGDState",
    "SM3State",
    "ScheduleFreeAdamWState",
    "ScheduleFreeSGDState",
    "SignumState",
    "SkipLargeUpdatesState",
    "SkipNonfiniteState",
    "SkipSpikesState",
    "SparseAdamState",
    "StepState",
    "StochasticRoundingState",
    "YogiState",
    "ZeroNansState",
    "abstract_state",
    "accumulate",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "ademamix",
    "adopt",
    "apply_updates",
    "asgd",
    "averaged_params",
    "batch_statistics",
    "bfgs",
    "cautious",
    "centralize",
    "chain",
    "checkpoint",
    "clip_by_adagc",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_percentile",
    "clip_by_value",
    "clip_by_zscore",
    "conjugate",
    "current_hyperparams",
    "dadapt_adam",
    "ema",
    "ema_warmup",
    "enable_cpu_fusion",
    "eval_params",
    "exact_mars",
    "find_state",
    "flat_params",
    "flatten_like",
    "freeze",
    "fusion",
    "global_norm",
    "grams",
    "identity",
    "if_large",
    "if_nonfinite",
    "init_sharded",
    "inject",
    "interop",
    "keep_nonnegative",
    "kron",
    "lamb",
    "laprop",
    "lars",
    "layerwise_decay",
    "lbfgs",
    "lift",
    "lion",
    "lookahead",
    "madgrad",
    "mars",
    "masked",
    "master_weights",
    "monitor",
    "muon",
    "muon_adamw",
    "nadam",
    "named_chain",
    "normalize",
    "normuon",
    "novograd",
    "offload",
    "partition",
    "plan",
    "precond_update_prob_schedule",
    "prodigy",
    "project_box",
    "project_l2_ball",
    "project_simplex",
    "quantized",
    "radam",
    "reduce_on_plateau",
    "report",
    "requantized",
    "rmsprop",
    "rprop",
    "rules",
    "sam",
    "scale",
    "scale_by",
    "scale_by_adadelta",
    "scale_by_adafactor",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_asgd",
    "scale_by_learning_rate",
    "scale_by_momentum",
    "scale_by_muon",
    "scale_by_nadam",
    "scale_by_param_norm",
    "scale_by_param_rms",
    "scale_by_path",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_schedule",
    "scale_by_sign",
    "scale_by_sparse_adam",
    "scale_by_trust_ratio",
    "schedule_free_adamw",
    "schedule_free_radam",
    "schedule_free_sgd",
    "schedules",
    "selective",
    "set_hyperparams",
    "set_to_zero",
    "sgd",
    "signum",
    "skip_large_updates",
    "skip_nonfinite",
    "skip_spikes",
    "sm3",
    "sparse_adam",
    "state_dtype",
    "state_shardings",
    "stochastic_rounding",
    "swa",
    "swap_params",
    "testing",
    "train_params",
    "unflatten",
    "update_average",
    "value_and_sparse_grad",
    "yogi",
    "zero",
    "zero_nans",
]
