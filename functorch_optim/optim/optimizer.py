"""The stateful face of torch.optim over the functional core."""

from collections.abc import Callable, Collection
from typing import Any, ClassVar

import jax

from functorch_optim.base import GradientTransformation
from functorch_optim.monitoring.report import report
from functorch_optim.optim.engine.by_parameter import ByParameter
from functorch_optim.optim.engine.by_tree import ByTree
from functorch_optim.optim.engine.kinds import Algorithms
from functorch_optim.optim.engine.none import NoAlgorithm
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.protocol import Engine
from functorch_optim.optim.groups import weak
from functorch_optim.optim.hooks import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from functorch_optim.optim.losses import CompiledLosses
from functorch_optim.optim.options import check_flags
from functorch_optim.optim.ownership import own
from functorch_optim.optim.param_groups import GroupRules, check_dense, parse
from functorch_optim.optim.saved import Saved
from functorch_optim.optim.tracing import trace_state
from functorch_optim.optim.transaction import Transaction
from functorch_optim.optim.views import ParamGroups
from functorch_optim.typing import OptionValues, PyTree

__all__ = ["Optimizer", "register_optimizer_step_post_hook", "register_optimizer_step_pre_hook"]


class Optimizer(Saved):
    """Base of the optimizers: parameters in groups, their state, and a step that updates them in place.

    Args:
        params: the parameters: a pytree of arrays; an iterable of arrays; an iterable of ``(name, array)`` pairs; or a
            list of group dicts, each with ``params`` in one of these forms and options of its own. A module of flax
            nnx means the state of its ``nnx.Param`` variables, which :attr:`params` and gradients then are.
        defaults: the options of a group that says nothing else.
        group_rules: ``(regular expression, options)`` pairs, which make groups out of one tree by the parameters'
            dotted paths: the first that is found in a path decides, what none matches forms the last group. In the
            place of a regular expression there may be a function of the path and the array.

    An optimizer is made by one of the subclasses, by :meth:`from_transform`, or by a subclass of one's own that
    defines ``transformation(self, **options)`` and returns a functional transformation.

    ``differentiable=True``, where an algorithm has it, lets parameters, gradients and options be traced: an optimizer
    that is made inside a function steps there, and :func:`jax.grad` goes through. Every step is one
    compiled call, in which ``foreach`` packs small parameters (None: 64 and more of them); ``fused`` and
    ``capturable`` change nothing.

    The arrays that went in are copied once. An array that came out (``params``, ``state``, ``state_dict()``) stays as
    it is for as long as somebody holds it: the step copies it first. What nobody holds is overwritten in place.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD({"w": jnp.array([1.0, 2.0])}, lr=0.5)
        >>> optimizer.step({"w": jnp.array([2.0, 2.0])})
        >>> optimizer.params["w"].tolist()
        [0.0, 1.0]
        >>> optimizer.param_groups[0]["lr"] = 0.25
        >>> optimizer.backward(lambda params: jnp.sum(params["w"] ** 2)).item()
        1.0
        >>> optimizer.step()
        >>> optimizer.params["w"].tolist()
        [0.0, 0.5]
    """

    constructor: ClassVar[Callable[..., GradientTransformation] | None] = None

    def __init__(self, params: PyTree, defaults: OptionValues, *, group_rules: GroupRules = ()) -> None:
        super().__init__()
        self.defaults = dict(defaults)
        check_flags(self.defaults)
        self._engine = self._make_engine()
        self._engine.check(self.defaults)
        parsed = parse(params, group_rules, self._known_options())
        check_dense(parsed, type(self).__name__)
        self._layout = parsed.layout
        self._held = Leaves(own(leaf) for leaf in parsed.leaves)
        self._given = [weak(leaf) for leaf in parsed.leaves]
        self._counts = [0] * len(parsed.options)
        self._grads, self._checked, self._read = None, None, []
        self._handed, self._handed_grads = [], []
        self._losses = CompiledLosses()
        self._transaction = Transaction()
        self._opt_called = False
        self._lent = False
        self._loaded_groups = None
        self._made_under = trace_state()
        groups = [self._new_group(self._layout, index, given) for index, given in enumerate(parsed.options)]
        self.param_groups = ParamGroups(groups)
        self._engine.start(self._layout, self._leaves, self._records())

    @classmethod
    def from_transform(
        cls,
        make: Callable[..., GradientTransformation],
        params: PyTree,
        defaults: OptionValues,
        static: Collection[str] = (),
        *,
        group_rules: GroupRules = (),
    ) -> "Optimizer":
        """An optimizer over any transformation, this library's or optax's.

        Args:
            make: called with the options of a group as keywords; returns the transformation.
            params: as for every optimizer.
            defaults: the options and their values. Numbers, also in tuples, reach ``make`` as traced scalars, so that
                writing them into a group compiles nothing; of a :class:`functorch_optim.Beta` both halves do.
            static: names of options that are handed to ``make`` as they are, integer counts say.
            group_rules: as for every optimizer.

        The step count is the transformation's own, one for all parameters of a group; a gradient of None reaches the
        transformation as None.

        Example:
            >>> import jax.numpy as jnp
            >>> import functorch_optim as fo
            >>> from functorch_optim import optim
            >>> make = lambda lr, max_norm: fo.chain(fo.clip_by_global_norm(max_norm), fo.sgd(lr=lr))
            >>> optimizer = optim.Optimizer.from_transform(make, [jnp.array([1.0])], dict(lr=0.5, max_norm=1.0))
            >>> optimizer.step([jnp.array([8.0])])
            >>> [round(x, 4) for x in optimizer.params[0].tolist()]
            [0.5]
        """
        return _Composed(make, params, defaults, static, group_rules)

    def transformation(self, **options: object) -> GradientTransformation:
        """What a group's options make; a subclass defines this and calls ``super().__init__(params, defaults)``."""
        NoAlgorithm(type(self).__name__).refuse()

    def _make_engine(self) -> Engine[Any]:
        constructor = type(self).constructor
        if constructor is not None:
            return ByParameter(Algorithms({None: constructor}, {None: self.defaults}))
        if type(self).transformation is not Optimizer.transformation:
            return ByTree(self.transformation, list(self.defaults), ())
        return NoAlgorithm(type(self).__name__)

    def report(self) -> dict[str, PyTree]:
        """What the :func:`functorch_optim.monitor` in the transformation has seen: :func:`functorch_optim.report`.

        Of several groups each name begins with the group: ``group0/grad_norm``.

        Raises:
            KeyError: the optimizer was not made by :meth:`from_transform` of a transformation with a monitor.

        Example:
            >>> import jax.numpy as jnp
            >>> import functorch_optim as fo
            >>> from functorch_optim import optim
            >>> make = lambda lr: fo.monitor(fo.sgd(lr=lr))
            >>> optimizer = optim.Optimizer.from_transform(make, {"w": jnp.ones(1)}, {"lr": 0.5})
            >>> optimizer.step({"w": jnp.ones(1)})
            >>> optimizer.report()["update_norm"]
            0.5
        """
        with self._transaction.handing:
            return report(self._engine.state if isinstance(self._engine, ByTree) else ())

    def functional(self) -> tuple[GradientTransformation, PyTree, PyTree]:
        """``(tx, params, state)`` to go on with in a compiled loop; :meth:`restore` takes back what comes of it.

        Several groups become a :func:`functorch_optim.partition`, also parameters of one group whose numbers of
        updates differ. Schedules go along, numbers are as they stand. The arrays may be donated; then the optimizer
        must be given others by :meth:`restore` before its next step.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.Adam([jnp.array([1.0])], lr=0.1)
            >>> tx, params, state = optimizer.functional()
            >>> updates, state = tx.update([jnp.array([2.0])], state, params)
            >>> params = jax.tree.map(jnp.add, params, updates)
            >>> optimizer.restore(params, state)
            >>> optimizer.state[0]["step"].item()
            1.0
        """
        with self._transaction.changing, self._transaction.handing:
            self._need_engine()
            self._lent = True
            records = self._records()
            tx, state = self._engine.functional(self._layout, self._leaves, self.param_groups, records, self._counts)
            return tx, self._tree(), state

    def restore(self, params: PyTree, state: PyTree) -> None:
        """Take parameters and state from a functional loop that :meth:`functional` began.

        Raises:
            ValueError, TypeError: they do not have the structure, shapes and dtypes of the optimizer's.
        """
        with self._transaction.changing:
            self._need_engine()
            self._refuse_tracing()
            self._refuse_traced(jax.tree.leaves((params, state)))
            records = self._records()
            engine_state, counts = self._engine.restored(self._layout, self._leaves, state, records, self._counts)
            held = self._taken(params)

            def commit() -> None:
                self._engine.commit(engine_state)
                self._held, self._counts, self._lent, self._handed = held, counts, False, []

            self._transaction.commit(commit)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


class _Composed(Optimizer):
    """What :meth:`Optimizer.from_transform` makes."""

    def __init__(
        self,
        make: Callable[..., GradientTransformation],
        params: PyTree,
        defaults: OptionValues,
        static: Collection[str],
        group_rules: GroupRules,
    ) -> None:
        self._make = make
        self._static = tuple(static)
        super().__init__(params, defaults, group_rules=group_rules)

    def _make_engine(self) -> ByTree:
        return ByTree(self._make, list(self.defaults), self._static)
