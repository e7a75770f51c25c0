"""Scale updates by the parameters' paths: with rules, or by the depth of layers."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax.numpy as jnp

from functorch_optim import rows, trees
from functorch_optim.base import EmptyState, Frozen, GradientTransformation, Transform, transformation
from functorch_optim.core.numerics import next_step
from functorch_optim.core.options import checked
from functorch_optim.core.scalar_math import power
from functorch_optim.effects import Effects, Kind, Leaves, common
from functorch_optim.hyperparams import Hyperparameter, Option, as_integer, resolve
from functorch_optim.option_names import explains_names
from functorch_optim.paths import PathRules, Regex, as_rules, is_regex, is_rules
from functorch_optim.transforms.scaling import Scheduled, StepState, effects_of_factor, multiply
from functorch_optim.typing import Numeric, PyTree


class ScaleByPath(Transform):
    rules: PathRules
    default: PyTree

    def __repr__(self) -> str:
        return f"scale_by_path({self.rules!r}, default={self.default!r})"

    @property
    def factors(self) -> tuple[PyTree, ...]:
        """The rules' factors as they are stored, and the default."""
        return (*[factor for _, factor in self.rules.pairs], self.default)

    def init(self, params: PyTree) -> PyTree:
        self.rules.check(trees.named_leaves(params, none_is_leaf=True)[0])
        return StepState(jnp.zeros((), jnp.int32)) if any(map(callable, self.factors)) else EmptyState()

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del params, extra
        values = self._values(state)

        def each(name: str, leaf: PyTree) -> PyTree:
            return rows.map_values(lambda x: multiply(x, values[self._place(name)]), leaf)

        new = StepState(next_step(state.step)) if isinstance(state, StepState) else state
        return trees.map_updates(each, "scale_by_path", updates), new

    def _place(self, name: str) -> int:
        """Find the index of a parameter's factor."""
        match = self.rules.match(name)
        return -1 if match is None else match[0]

    def _values(self, state: PyTree) -> list[PyTree]:
        step = state.step if isinstance(state, StepState) else 0
        return [resolve("factor", factor, step) for factor in self.factors]

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        names = [pattern if isinstance(pattern, str) else pattern.pattern for pattern, _ in self.rules.pairs]
        return dict(zip([*names, "default"], self._values(state), strict=True))

    def effects(self, at: Leaves | None) -> list[Effects]:
        each = [_effects_of(factor) for factor in self.factors]
        if at is not None:
            return [each[self._place(name)] for name in at.names]
        shared = common(each)
        return [effects_of_factor(None, "scale_by_path") if shared is None else shared]


def _effects_of(factor: Any) -> Effects:
    """The effects of a factor for some parameters: it multiplies their learning rates; 0 stops them anywhere."""
    effects = effects_of_factor(factor, "scale_by_path")
    return tuple(effect._replace(kind=Kind.FACTORS) if effect.kind is Kind.SCALES else effect for effect in effects)


@explains_names
def scale_by_path(
    rules: Sequence[tuple[Regex, Hyperparameter]], default: Hyperparameter = 1.0
) -> GradientTransformation:
    """Multiply the update of each parameter by a factor that its path determines.

    Put it after an algorithm, or after a direction such as :func:`functorch_optim.scale_by_adam`: then the factors
    multiply learning rates. Before an algorithm that normalizes each parameter's gradient they would have no effect.

    Args:
        rules: pairs (regular expression, factor). The first expression that is found in a parameter's dotted path
            (``"layers.0.weight"``) decides. A factor is a number, a scalar array or a schedule.
        default: the factor of all other parameters.

    Raises:
        TypeError: a rule is not a pair, or a factor is not a number. ValueError: a regular expression is invalid; from
            ``init``, it is found in no path.

    Example:
        >>> tx = scale_by_path([("embed", 0.1), ("head", 2.0)])
        >>> grads = {"embed": jnp.ones(1), "block": jnp.ones(1), "head": jnp.ones(1)}
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> [round(updates[name].item(), 6) for name in grads]
        [0.1, 1.0, 2.0]
    """
    given = as_rules("scale_by_path", rules, "factor")
    option = Option("Invalid factor: {}")
    pairs = tuple((pattern, checked(f"the factor of {pattern!r}", option, factor)) for pattern, factor in given.pairs)
    return transformation(ScaleByPath(PathRules(pairs, given.who), checked("default", option, default)))


class Depths(Frozen):
    """Depths of parameters, from a function of the path or from rules."""

    how: Callable[[str], Any] | PathRules

    def __repr__(self) -> str:
        return repr(self.how)

    def of(self, names: Sequence[str], leaves: Sequence[PyTree]) -> list[int]:
        """Return the depth of each parameter; -1 for a missing leaf that no rule covers.

        Raises:
            TypeError, ValueError: a parameter has no depth; the message names it.
        """
        if isinstance(self.how, PathRules):
            self.how.values(names, leaves)
            return [self._by_rules(self.how, name) for name in names]
        return [_parameter_depth(name, self.how(name)) for name in names]

    def _by_rules(self, rules: PathRules, name: str) -> int:
        match = rules.match(name)
        if match is None:
            return -1  # a missing leaf: values() rejects any other
        index, found = match
        offset = rules.pairs[index][1]
        return offset + _parameter_depth(name, _integer(found[1])) if found.re.groups else offset


def _integer(text: str | None) -> object:
    """Read the integer in a regular expression's group; return the text if it is not an integer."""
    return int(text) if text is not None and text.isdecimal() else text


def _parameter_depth(name: str, value: object) -> int:
    return _as_depth(f"the parameter {trees.quote(name)}", value)


def _as_depth(of: str, value: object) -> int:
    depth = as_integer(value)
    if depth is None or depth < 0:
        raise TypeError(f"layerwise_decay: the depth of {of} must be an integer of at least 0, but it is {value!r}")
    return depth


LayerDecay = Annotated[
    Hyperparameter,
    Option("layerwise_decay: the decay must be in (0, 1], but it is {}", low=0.0, high=1.0, open_low=True),
]


class LayerwiseDecay(Scheduled):
    decay: LayerDecay
    depth: Depths

    def init(self, params: PyTree) -> PyTree:
        self._levels(params)
        return super().init(params)

    def _levels(self, tree: PyTree) -> dict[str, int]:
        """Count the levels from each parameter up to the top."""
        names, leaves, _ = trees.named_leaves(tree, none_is_leaf=True)
        depths = self.depth.of(names, leaves)
        return {name: max(depths) - depth for name, depth in zip(names, depths, strict=True)}

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        levels = self._levels(updates if params is None else params)
        factors: dict[int, Numeric] = {level: power(values.decay, level) for level in {*levels.values()}}

        def each(name: str, leaf: PyTree) -> PyTree:
            return rows.map_values(lambda x: multiply(x, factors[levels[name]]), leaf)

        return trees.map_updates(each, "layerwise_decay", updates)

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effect(Kind.FACTORS, at)


@explains_names
def layerwise_decay(
    decay: Hyperparameter, depth: Callable[[str], int] | Regex | Sequence[tuple[Regex, int]]
) -> GradientTransformation:
    r"""Multiply the update of each parameter by ``decay**(max_depth - depth)``: lower layers learn more slowly.

    ``max_depth`` is the largest depth of all parameters; the factor there is 1. Put it after an algorithm, or after a
    direction such as :func:`functorch_optim.scale_by_adam`: it then multiplies learning rates, those of weight decay
    too. Before an algorithm that normalizes its gradients it would have no effect, so :func:`functorch_optim.chain`
    rejects that order.

    Args:
        decay: the factor of one layer, above 0 and at most 1; a number, a scalar array or a schedule.
        depth: the depth of a parameter, an integer of at least 0, in one of these forms: a function of its dotted path
            (``"layers.0.weight"``); a regular expression with one group, which holds the depth; or a list of rules
            ``(regular expression, offset)``. The first rule found in the path decides: the depth is its offset, plus
            the group if there is one.

    Raises:
        ValueError: the decay is out of range, or a regular expression has several groups, or is given alone and has
            none. From ``init``: no depth is found for a parameter, or a rule is found in no path.
        TypeError: a depth is not an integer of at least 0.

    Source: Clark et al., "ELECTRA", 2020; Bao, Dong, Piao and Wei, "BEiT: BERT Pre-Training of Image Transformers",
    2022.

    Example:
        >>> tx = layerwise_decay(0.5, [("embed", 0), (r"blocks\.(\d+)", 1), ("head", 3)])
        >>> grads = {"blocks": [jnp.ones(1), jnp.ones(1)], "embed": jnp.ones(1), "head": jnp.ones(1)}
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> updates["embed"].item(), [x.item() for x in updates["blocks"]], updates["head"].item()
        (0.125, [0.25, 0.5], 1.0)
    """
    return transformation(LayerwiseDecay(decay, _as_depths(depth)))


def _as_depths(depth: object) -> Depths:
    if callable(depth):
        return Depths(depth)
    if is_regex(depth):
        rules = as_rules("layerwise_decay", [(depth, 0)], "depth")
    elif is_rules(depth):
        depths = [(pattern, _as_depth(f"the rule {pattern!r}", offset)) for pattern, offset in depth]
        rules = as_rules("layerwise_decay", depths, "depth")
    else:
        raise TypeError(
            "layerwise_decay: depth is a function of the path, a regular expression with one group, or a list of pairs "
            f"(regular expression, depth), but it is {depth!r}"
        )
    for pattern, _ in rules.pairs:
        groups = re.compile(pattern).groups
        if groups > 1 or (is_regex(depth) and groups != 1):
            raise ValueError(
                f"layerwise_decay: {pattern!r} must have one group, which holds the depth, but it has {groups}; "
                "write others as (?:...)"
            )
    return Depths(rules)
