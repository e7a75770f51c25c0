"""The engine of an optimizer without an algorithm: it has no state, and makes no step."""

from collections.abc import Sequence
from typing import NoReturn

from functorch_optim.optim.engine.assembly import Grads
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.protocol import Entry, Group, Reading
from functorch_optim.optim.layout import Layout
from functorch_optim.typing import PyTree


class NoAlgorithm:
    """The engine of :class:`functorch_optim.optim.Optimizer` itself, as opposed to its subclasses."""

    strict = False
    one_by_one = True
    together = False
    warm = None

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.data_names: set[str] = set()

    def refuse(self) -> NoReturn:
        """Raise, because the caller needs an algorithm."""
        raise NotImplementedError(f"{self.owner} does not define transformation(self, **options)")

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """Return no options."""
        del options
        return (), set()

    def record(self, options: Group, group: int) -> None:
        """Return None: nothing is read."""

    def check(self, options: Group, live: bool = False) -> None:
        """Accept any options."""

    def takes_rows(self, options: Group) -> bool:
        """Return True: gradients may be anything."""
        del options
        return True

    def start(self, layout: Layout, params: list[PyTree], records: Sequence[None]) -> None:
        """Do nothing."""

    def extend(self, layout: Layout, params: list[PyTree], records: Sequence[None]) -> NoReturn:
        """Raise."""
        self.refuse()

    def step(
        self, layout: Layout, held: Leaves, grads: Grads, records: Sequence[None], in_place: bool = True
    ) -> NoReturn:
        """Raise."""
        self.refuse()

    def packed(self, layout: Layout, held: Leaves, records: object) -> None:
        """Return None: nothing is packed."""
        del layout, held, records

    def evaluates(self, groups: Sequence[Group]) -> bool:
        """Return False."""
        del groups
        return False

    def step_by_loss(self, *arguments: object) -> NoReturn:
        """Raise."""
        self.refuse()

    def entries(self, layout: Layout) -> list[Entry]:
        """Return an empty entry for each parameter."""
        return [{} for _ in layout.group_of]

    def read(self, layout: Layout, reading: Reading, records: Sequence[None]) -> NoReturn:
        """Raise."""
        self.refuse()

    def commit(self, state: PyTree) -> None:
        """Do nothing."""

    def arrays(self) -> list[PyTree]:
        """Return no arrays."""
        return []

    def functional(
        self,
        layout: Layout,
        params: list[PyTree],
        options: Sequence[Group],
        records: Sequence[None],
        counts: list[int],
    ) -> NoReturn:
        """Raise."""
        self.refuse()

    def restore(
        self, layout: Layout, params: list[PyTree], state: PyTree, records: Sequence[None], counts: list[int]
    ) -> NoReturn:
        """Raise."""
        self.refuse()
