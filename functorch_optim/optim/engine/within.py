"""A transformation of one element of a list of trees."""

from collections.abc import Callable

from functorch_optim.base import GradientTransformation, Transform, conversion_of, needs_of, update_of
from functorch_optim.labels import part_of_a_tree
from functorch_optim.objectives import restricted
from functorch_optim.typing import PyTree


class Within(Transform):
    """A transformation of one element of a list of trees: it sees only that tree."""

    of: GradientTransformation
    element: int

    def init(self, params: PyTree) -> PyTree:
        with part_of_a_tree():
            return self.of.init(params[self.element])

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: PyTree) -> tuple[PyTree, PyTree]:
        own = None if params is None else params[self.element]
        if params is not None:
            extra = restricted(extra, lambda own: self._beside(own, params), lambda tree: tree[self.element])
        new, state = update_of(self.of, updates[self.element], state, own, extra)
        return self._beside(new, updates), state

    def needs(self) -> frozenset[str]:
        return needs_of(self.of)

    def conversion(self) -> Callable[[PyTree], PyTree] | None:
        convert = conversion_of(self.of)
        return None if convert is None else lambda grads: self._beside(convert(grads[self.element]), grads)

    def _beside(self, own: PyTree, all_trees: list[PyTree]) -> list[PyTree]:
        """The list with this in the element's place."""
        return [own if index == self.element else each for index, each in enumerate(all_trees)]
