"""What :class:`functorch_optim.optim.Optimizer` requires of the engine, which holds the state and makes the steps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import jax
from jax.typing import DTypeLike

from functorch_optim.core.packing import Assembly
from functorch_optim.optim.engine.assembly import Grads
from functorch_optim.optim.engine.closures import Task
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.losses import CompiledLosses
from functorch_optim.optim.state_dict import Loaded, Refused
from functorch_optim.optim.transaction import Call
from functorch_optim.typing import OptionValues, PyTree

Entry = dict[str, PyTree]  # one parameter's entry in torch's state_dict
Group = OptionValues  # the options of a parameter group
R = TypeVar("R")  # a record: what an engine's step reads of a group, in its own form
R_contra = TypeVar("R_contra", contravariant=True)


class Reading(NamedTuple):
    """The sources to read the state of ``params`` from, and the ``dtype`` to cast floating slots to.

    Errors of entries that do not fit go into ``refused``, by the parameter's label.
    """

    params: list[PyTree]
    loaded: Loaded
    dtype: DTypeLike | None
    refused: Refused


class Codec(Protocol):
    """How to lay a state of all parameters out in torch's ``state_dict``, and what else to know about such a state.

    ``several`` says whether the state is a partition's, with one state per group.
    """

    @property
    def together(self) -> bool:
        """Whether the state can only be reset as a whole."""
        ...

    def entries(self, layout: Layout, state: PyTree, several: bool) -> list[Entry]:
        """Return the state by parameter."""
        ...

    def read(self, layout: Layout, reading: Reading, fresh: PyTree, present: PyTree, several: bool) -> PyTree:
        """Return the state that the entries describe, in the form of ``fresh``, a new one; see :meth:`Engine.read`."""
        ...

    def resized(self, state: PyTree, options: Group) -> PyTree:
        """Return the state resized for these options, or None if it fits already."""
        ...

    def counters(self, state: PyTree) -> list[int]:
        """Return the numbers that each update increases by one."""
        ...

    def behind(self, state: PyTree, counts: list[int]) -> int:
        """Return by how many updates the transformation's own step lags behind the groups' counts."""
        ...


class Warm(Protocol[R_contra]):
    """A step that can be repeated with other gradients and numbers."""

    def serves(self, held: Leaves, grads: Grads, records: Sequence[R_contra], /) -> bool:
        """Whether these gradients and records need the same step."""
        ...

    def call(self, held: Leaves, grads: Grads, records: Sequence[R_contra], /) -> Call:
        """Return the compiled call that makes the step."""
        ...


class Engine(Protocol[R]):
    """The state of the parameters, and the step.

    A step reads a record of each group, which :meth:`record` builds from the group's options. Each engine has its own
    form of state: :meth:`extend`, :meth:`read` and :meth:`restore` return one without changing anything, and
    :meth:`commit` continues from it and raises nothing.
    """

    data_names: set[str]  # numeric options, which a step takes as data
    strict: bool  # whether every option of data_names must be a number
    one_by_one: bool  # whether a parameter's state can be read independently of the others'
    together: bool  # whether all parameters share one state, which is reset as a whole

    @property
    def warm(self) -> Warm[R] | None:
        """The last step, if the next one may repeat it."""
        ...

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """Return the names of the options that a step reads, and which of them are numbers."""
        ...

    def record(self, options: Group, group: int) -> R:
        """Build the record of group number ``group`` from its options, which are numbers by now."""
        ...

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the algorithm accepts these options; ``live`` ones are already in a group."""
        ...

    def takes_rows(self, options: Group) -> bool:
        """Whether the gradients of a group may be row-sparse."""
        ...

    def start(self, layout: Layout, params: list[PyTree], records: Sequence[R]) -> None:
        """Start with parameters that have no state."""
        ...

    def extend(self, layout: Layout, params: list[PyTree], records: Sequence[R]) -> PyTree:
        """Return the state extended to the new parameters in ``layout``."""
        ...

    def step(self, layout: Layout, held: Leaves, grads: Grads, records: Sequence[R], in_place: bool = True) -> Call:
        """Return the call that updates the parameters ``held`` by one gradient each, which may be None.

        Without ``in_place``, the call keeps the old arrays.
        """
        ...

    def packed(
        self, layout: Layout, held: Leaves, records: Callable[[], Sequence[R]]
    ) -> tuple[Assembly, list[PyTree]] | None:
        """Return the parameters in the form in which they are stored, if some of them are packed.

        Before the step that packs them, this is the form that it will store, if all parameters have gradients.
        """
        ...

    def evaluates(self, groups: Sequence[Group]) -> bool:
        """Whether :meth:`step_by_loss` works with these groups' options."""
        ...

    def step_by_loss(
        self,
        layout: Layout,
        held: Leaves,
        losses: CompiledLosses,
        task: Task,
        records: Sequence[R],
        /,
    ) -> Call:
        """Return the call that updates the parameters by the gradients of ``closure``, which it forms itself.

        The results begin with the :class:`Outcome`.
        """
        ...

    def entries(self, layout: Layout) -> list[Entry]:
        """Return each parameter's entry in torch's ``state_dict``; it is empty before the first update."""
        ...

    def read(self, layout: Layout, reading: Reading, records: Sequence[R]) -> PyTree:
        """Return the state that a ``state_dict`` describes.

        A parameter keeps its state if its entry is None or does not fit.
        """
        ...

    def commit(self, state: PyTree) -> None:
        """Continue from ``state``."""
        ...

    def arrays(self) -> list[jax.Array]:
        """Return all arrays as they are stored."""
        ...

    def functional(
        self, layout: Layout, params: list[PyTree], options: Sequence[Group], records: Sequence[R], counts: list[int]
    ) -> tuple[PyTree, PyTree]:
        """Return a transformation and its state that continue from here."""
        ...

    def restore(
        self, layout: Layout, params: list[PyTree], state: PyTree, records: Sequence[R], counts: list[int]
    ) -> tuple[PyTree, list[int]]:
        """Return the state that a functional loop ended with, and the groups' update counts."""
        ...
