"""The text: sources of Python's standard library, character by character. A token is an ASCII code."""

import os
import pathlib

import numpy as np

VOCABULARY = 128  # ASCII; a power of two, so that every mesh splits it
MODULES = ("argparse", "ast", "difflib", "inspect", "pydoc", "tarfile", "typing")
HELD_OUT = ("subprocess",)


def load_tokens(modules: tuple[str, ...]) -> np.ndarray:
    """Read modules of the standard library; four spaces become a tab."""
    library = pathlib.Path(os.__file__).parent
    text = "".join((library / f"{module}.py").read_text(encoding="utf-8") for module in modules)
    return np.frombuffer(text.replace("    ", "\t").encode("ascii", "ignore"), np.uint8).astype(np.int32)


def batch_of(step: int, tokens: np.ndarray, size: int, length: int) -> np.ndarray:
    """Draw the batch of a step, (size, length + 1). It depends on the step alone: a resumed run needs no more."""
    starts = np.random.default_rng((0, step)).integers(0, len(tokens) - length, size)
    return tokens[starts[:, None] + np.arange(length + 1)]
