"""The digits, and the batches of an epoch."""

from typing import NamedTuple

import numpy as np

BATCH = 32


class Digits(NamedTuple):
    """Images (n, 8, 8, 1) in [0, 1] and labels (n,), to train on and to test on."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits() -> Digits:
    from sklearn.datasets import load_digits as load

    pixels, labels = map(np.asarray, load(return_X_y=True))
    images = (pixels / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:360], order[360:]
    labels = labels.astype(np.int32)
    return Digits(images[train], labels[train], images[test], labels[test])


def steps_per_epoch(digits: Digits) -> int:
    return len(digits.train_images) // BATCH


def batches(epoch: int, digits: Digits) -> np.ndarray:
    """Return the indices of an epoch's batches, shuffled anew for every epoch."""
    order = np.random.default_rng((1, epoch)).permutation(len(digits.train_images))
    return order[: steps_per_epoch(digits) * BATCH].reshape(-1, BATCH)
