"""Muon for matrices, together with AdamW for other parameters."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping

from functorch_optim.algorithms.adamw import adamw
from functorch_optim.algorithms.muon import muon
from functorch_optim.algorithms.muon_adamw import matrices_for
from functorch_optim.optim.engine.by_parameter import ByParameter
from functorch_optim.optim.engine.kinds import Algorithms
from functorch_optim.optim.engine.torch_habits import FUNCTIONAL_ONLY
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules
from functorch_optim.option_names import explains_names, meant
from functorch_optim.typing import OptionValues, PyTree


def _defaults(constructor: Callable[..., PyTree], only_if_given: Collection[str] = ()) -> dict[str, PyTree]:
    parameters = inspect.signature(constructor).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in only_if_given}


_ONLY_IF_GIVEN = ("batched", "reshape", "state_dtype")
_MUON, _ADAMW = _defaults(muon, (*_ONLY_IF_GIVEN, *FUNCTIONAL_ONLY)), _defaults(adamw, FUNCTIONAL_ONLY)


class MuonAdamW(Optimizer):
    """Muon for matrices and AdamW for all other parameters, in one optimizer.

    A group has the options of its algorithm, and ``algorithm``, which is ``"muon"`` or ``"adamw"``.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes; each group dict must
            have an ``algorithm``.
        muon_options, adamw_options: the options of :class:`Muon` and :class:`AdamW`, by name.
        use_muon: which parameters Muon updates, as for :func:`functorch_optim.muon_adamw`: a function of a parameter's
            name (its number, if there are no names) and the array. They form the first group.

    Raises:
        ValueError, TypeError: an option outside its range or unknown, or parameters that no optimizer takes.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        >>> optimizer = MuonAdamW(params, {"lr": 0.02}, {"lr": 3e-4})
        >>> [(group["algorithm"], group["lr"], group["param_names"]) for group in optimizer.param_groups]
        [('muon', 0.02, ['kernel']), ('adamw', 0.0003, ['bias'])]
        >>> optimizer.step({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
        >>> sorted(optimizer.state["kernel"]), sorted(optimizer.state["bias"])
        (['momentum_buffer'], ['exp_avg', 'exp_avg_sq', 'step'])
    """

    @explains_names
    def __init__(
        self,
        params: PyTree,
        muon_options: OptionValues | None = None,
        adamw_options: OptionValues | None = None,
        use_muon: Callable[[str, PyTree], bool] | None = None,
    ) -> None:
        own = dict(muon_options or {})
        self._options: dict[str | None, dict[str, PyTree]] = {
            "muon": _filled("muon", _MUON, own, _ONLY_IF_GIVEN),
            "adamw": _filled("adamw", _ADAMW, dict(adamw_options or {}), ("state_dtype",)),
        }
        rules: GroupRules = [(use_muon or matrices_for(own), {"algorithm": "muon"})]
        if (
            isinstance(params, list | tuple)
            and params
            and all(isinstance(g, Mapping) and "params" in g for g in params)
        ):
            rules = ()
            for index, group in enumerate(params):
                _check_algorithm(index, group)
        super().__init__(params, self._options["adamw"], group_rules=rules)

    def add_param_group(self, param_group: OptionValues) -> None:
        """Add parameters as for every optimizer; the group must have an ``algorithm``."""
        if isinstance(param_group, Mapping):
            _check_algorithm(len(self.param_groups), param_group)
        super().add_param_group(param_group)

    def _make_engine(self) -> ByParameter:
        makers: dict[str | None, Callable[..., PyTree]] = {
            "muon": functools.partial(muon, batched=False),
            "adamw": adamw,
        }
        return ByParameter(Algorithms(makers, self._options, type(self).__name__))

    def _known_options(self) -> Collection[str]:
        return {"frozen", "state_dtype", *(key for options in self._options.values() for key in options)}

    def _defaults_of(self, group: OptionValues) -> OptionValues:
        return self._options.get(group.get("algorithm"), self._options["adamw"])


def _check_algorithm(index: int, group: OptionValues) -> None:
    if "algorithm" not in group:
        raise ValueError(f"parameter group {index} must say its algorithm, 'muon' or 'adamw'")


def _filled(algorithm: str, defaults: OptionValues, given: OptionValues, more: Collection[str]) -> dict[str, PyTree]:
    options = [*defaults, *more]
    unknown = [key for key in given if key not in options]
    if unknown:
        raise TypeError(
            f"{algorithm} has no option {', '.join(unknown)}; its options are {', '.join(options)}"
            f"{meant(unknown, options)}"
        )
    return {"algorithm": algorithm, **defaults, **given}
