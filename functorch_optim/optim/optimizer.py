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
from functorch_optim.optim.transaction import Transaction
from functorch_optim.optim.views import ParamGroups
from functorch_optim.tracing import trace_state
from functorch_optim.typing import OptionValues, PyTree

__all__ = ["Optimizer", "register_optimizer_step_post_hook", "register_optimizer_step_pre_hook"]


class Optimizer(Saved):
    """Base of the optimizers: parameters in groups, their state, and a step that updates them in place.

    Args:
        params: the parameters: a pytree of arrays; an iterable of arrays; an iterable of ``(name, array)`` pairs; or a
            list of group dicts, each with ``params`` in one of these forms and its own options. A flax nnx module
            stands for the state of its ``nnx.Param`` variables; :attr:`params` and the gradients are then such states.
        defaults: the options that a group has by default.
        group_rules: ``(regular expression, options)`` pairs, which split one tree into groups by the parameters'
            dotted paths: the first expression found in a path decides, and unmatched parameters form the last group.
            Instead of a regular expression, you may pass a function of the path and the array.

    Attributes:
        param_groups: the groups, a list of dicts with ``params`` and the options; what you write acts at the next step.
        defaults: the options that a group has by default.

    Create an optimizer with one of the subclasses, with :meth:`from_transform`, or with your own subclass whose method
    ``transformation(self, **options)`` returns a functional transformation.

    ``differentiable=True``, if an algorithm has it, allows traced parameters, gradients and options: an optimizer that
    is created inside a function steps there, and :func:`jax.grad` differentiates through it. Every step is one compiled
    call, in which ``foreach`` packs small parameters (None: if there are 64 or more); ``fused`` and ``capturable``
    change nothing.

    Input arrays are copied once. An array that you read (``params``, ``state``, ``state_dict()``) stays the same for as
    long as you hold it: the step copies it first. Arrays that nobody holds are overwritten in place.

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
        self._watched_params, self._watched_grads = [], []
        self._losses = CompiledLosses()
        self._transaction = Transaction()
        self._opt_called = False
        self._grad_norm = None
        self._lent = False
        self._loaded = None
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
        """Create an optimizer over any transformation, this library's or optax's.

        Args:
            make: called with a group's options as keywords; returns the transformation.
            params: as for every optimizer.
            defaults: the options and their values. Numbers, also in tuples, reach ``make`` as traced scalars, so that
                writing them into a group does not recompile; so do both halves of a :class:`functorch_optim.Beta`.
            static: names of options to pass to ``make`` as they are, for example integer counts.
            group_rules: as for every optimizer.

        Raises:
            ValueError: the updates would ascend: nothing negates a direction such as
                :func:`functorch_optim.scale_by_adam`'s.

        The transformation counts the steps, once for all parameters of a group; a gradient of None reaches it as None.

        A transformation that must be given the loss (:func:`functorch_optim.sam`, or
        :func:`functorch_optim.reduce_on_plateau`, say) steps by ``step(closure, *args)`` with
        ``closure(params, *args)``.

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
        """Return the transformation of a group's options.

        A subclass defines this, and calls ``super().__init__(params, defaults)``.
        """
        NoAlgorithm(type(self).__name__).refuse()

    def _make_engine(self) -> Engine[Any]:
        constructor = type(self).constructor
        if constructor is not None:
            return ByParameter(Algorithms({None: constructor}, {None: self.defaults}, type(self).__name__))
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
        with self._transaction.handoff_lock:
            return report(self._engine.state if isinstance(self._engine, ByTree) else ())

    def functional(self) -> tuple[GradientTransformation, PyTree, PyTree]:
        """Return ``(tx, params, state)`` to continue with in a compiled loop; :meth:`restore` takes the results back.

        Several groups become a :func:`functorch_optim.partition`, and so do parameters of one group whose update counts
        differ. Schedules stay schedules; numbers have their current values. You may donate the arrays; then you must
        call :meth:`restore` with new ones before the optimizer's next step.

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
        with self._transaction.change_lock, self._transaction.handoff_lock:
            self._need_engine()
            self._lent = True
            records = self._records()
            tx, state = self._engine.functional(self._layout, self._leaves, self.param_groups, records, self._counts)
            return tx, self._tree(), state

    def restore(self, params: PyTree, state: PyTree) -> None:
        """Take parameters and state from a functional loop that started with :meth:`functional`.

        Raises:
            ValueError, TypeError: they do not have the optimizer's structure, shapes and dtypes.
        """
        with self._transaction.change_lock:
            self._need_engine()
            self._refuse_tracing()
            self._refuse_traced(jax.tree.leaves((params, state)))
            records = self._records()
            engine_state, counts = self._engine.restore(self._layout, self._leaves, state, records, self._counts)
            held = self._taken(params)

            def commit() -> None:
                self._engine.commit(engine_state)
                self._held, self._counts, self._lent, self._watched_params = held, counts, False, []

            self._transaction.commit(commit)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


class _Composed(Optimizer):
    """The optimizer that :meth:`Optimizer.from_transform` creates."""

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


_Composed.__name__ = Optimizer.__name__  # what messages and print show
