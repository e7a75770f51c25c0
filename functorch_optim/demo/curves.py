"""What a training records."""

from typing import NamedTuple

import numpy as np


class Curves(NamedTuple):
    """Loss and learning rate of every step, and the accuracy on the test set after every epoch, in float64."""

    loss: np.ndarray
    rate: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def empty(cls) -> "Curves":
        return cls(np.zeros(0), np.zeros(0), np.zeros(0))

    @property
    def epochs(self) -> int:
        return len(self.accuracy)

    @property
    def epoch_ends(self) -> np.ndarray:
        """Return how many steps had been made at the end of every epoch."""
        return np.arange(1, self.epochs + 1) * (len(self.loss) // max(self.epochs, 1))

    @property
    def mean_loss(self) -> np.ndarray:
        """Return every epoch's mean loss."""
        return self.loss.reshape(self.epochs, -1).mean(1) if self.epochs else self.loss

    def extended(self, loss: list[float], rate: list[float], accuracy: float) -> "Curves":
        """Append one epoch."""
        return Curves(*(np.append(old, new) for old, new in zip(self, (loss, rate, accuracy), strict=True)))


class Comparison(NamedTuple):
    """The curves of the torch face, and after each of its epochs the largest difference of a parameter from the
    functional face. On a resumed run they begin after epoch ``first``."""

    first: int
    mean_loss: np.ndarray
    accuracy: np.ndarray
    difference: np.ndarray
