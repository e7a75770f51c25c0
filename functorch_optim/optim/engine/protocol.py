"""What :class:`functorch_optim.optim.Optimizer` asks of the engine that holds the state and makes the steps."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import jax
from jax.typing import DTypeLike

from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.state_dict import Loaded, Refused
from functorch_optim.optim.transaction import Call
from functorch_optim.typing import OptionValues, PyTree

Entry = dict[str, PyTree]  # what torch's state_dict has of one parameter
Group = OptionValues  # the options of a parameter group
R = TypeVar("R")  # what an engine's step reads of a group, in a form of its own: a record
R_contra = TypeVar("R_contra", contravariant=True)


class Reading(NamedTuple):
    """What the state of ``params`` is read from; ``dtype`` is what floating slots are cast to.

    What does not fit is put into ``refused``, by the parameter's label.
    """

    params: list[PyTree]
    loaded: Loaded
    dtype: DTypeLike | None
    refused: Refused


class Codec(Protocol):
    """How torch's ``state_dict`` has a state of all parameters, and what else must be known of such a state.

    ``several`` says whether the state is a partition's, one state for each group.
    """

    @property
    def together(self) -> bool:
        """Whether the state begins anew as a whole only."""
        ...

    def entries(self, layout: Layout, state: PyTree, several: bool) -> list[Entry]:
        """The state by parameter."""
        ...

    def read(self, layout: Layout, reading: Reading, fresh: PyTree, present: PyTree, several: bool) -> PyTree:
        """The state that entries tell, in the form of ``fresh``, the first state; see :meth:`Engine.read`."""
        ...

    def resized(self, state: PyTree, options: Group) -> PyTree:
        """The state as these options need it, where that is another; else None."""
        ...

    def counters(self, state: PyTree) -> list[int]:
        """Numbers that each update raises by one."""
        ...

    def behind(self, state: PyTree, counts: list[int]) -> int:
        """How far the step that the transformation counts is behind the groups' counts."""
        ...


class Warm(Protocol[R_contra]):
    """A step that was made, and may be made again by other gradients and numbers."""

    def serves(self, held: Leaves, grads: list[PyTree], records: Sequence[R_contra], /) -> bool:
        """Whether the step by these gradients and records is this one."""
        ...

    def call(self, held: Leaves, grads: list[PyTree], records: Sequence[R_contra], /) -> Call:
        """The compiled call that makes it."""
        ...


class Engine(Protocol[R]):
    """The state of the parameters, and the step.

    What a step reads of each group is a record, made by :meth:`record` of its options. A state passes through an
    engine's hands in a form of its own: :meth:`extended`, :meth:`read` and :meth:`restored` return one without changing
    anything, and :meth:`commit` continues from it and raises nothing.
    """

    data_names: set[str]  # options that are numbers, which a step takes as data
    strict: bool  # whether every option of data_names must be a number
    one_by_one: bool  # whether a parameter's state can be read without the others'
    together: bool  # whether all parameters share one state, which begins anew as a whole

    @property
    def warm(self) -> Warm[R] | None:
        """The last step, if the next may be like it."""
        ...

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """The names of the options that a step reads, and those among them that are numbers."""
        ...

    def record(self, options: Group, group: int) -> R:
        """The record of group number ``group``, whose options are numbers by now."""
        ...

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the algorithm takes these options; ``live`` ones stand in a group already."""
        ...

    def takes_rows(self, options: Group) -> bool:
        """Whether the gradients of a group may be row-sparse."""
        ...

    def start(self, layout: Layout, params: list[PyTree], records: Sequence[R]) -> None:
        """Begin with parameters that have no state."""
        ...

    def extended(self, layout: Layout, params: list[PyTree], records: Sequence[R]) -> PyTree:
        """The state with the parameters that ``layout`` has beyond the known ones."""
        ...

    def step(
        self, layout: Layout, held: Leaves, grads: list[PyTree], records: Sequence[R], in_place: bool = True
    ) -> Call:
        """The call that updates the parameters ``held`` by one gradient each, None where there is none.

        Without ``in_place`` the arrays before live on.
        """
        ...

    def entries(self, layout: Layout) -> list[Entry]:
        """The state of each parameter as torch's ``state_dict`` has it; empty before its first update."""
        ...

    def read(self, layout: Layout, reading: Reading, records: Sequence[R]) -> PyTree:
        """The state that a ``state_dict`` describes.

        A parameter keeps its state if its entry is None or does not fit.
        """
        ...

    def commit(self, state: PyTree) -> None:
        """Continue from ``state``."""
        ...

    def arrays(self) -> list[jax.Array]:
        """All arrays as they are stored."""
        ...

    def functional(
        self, layout: Layout, params: list[PyTree], options: Sequence[Group], records: Sequence[R], counts: list[int]
    ) -> tuple[PyTree, PyTree]:
        """A transformation and its state, which continue from here."""
        ...

    def restored(
        self, layout: Layout, params: list[PyTree], state: PyTree, records: Sequence[R], counts: list[int]
    ) -> tuple[PyTree, list[int]]:
        """The state that a functional loop ended with, and the groups' counts of updates."""
        ...
