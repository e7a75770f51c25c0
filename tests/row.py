"""A row of the table of the algorithms, and what rows are made of."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Options = dict[str, Any]
Shape = tuple[int, ...]
Case = tuple[str, Options]

B2 = 0.9990234375  # a beta2 that float32 represents exactly


def crossed(base: Options, *choices: Options, flags: tuple[str, ...] = ("maximize",), decay: bool = True) -> Any:
    """Cross every choice with weight decay on and off and with every combination of flags."""
    return tuple(
        {**base, **choice, **({"weight_decay": each} if decay else {}), **dict(zip(flags, values, strict=True))}
        for choice in choices or ({},)
        for each in ((0.0, 0.1) if decay else (0.0,))
        for values in itertools.product([False, True], repeat=len(flags))
    )


def negative(lr: str = "learning rate", weight_decay: str = "weight_decay value", **more: str) -> Any:
    """Return a negative number for each option, with torch's message."""
    words = {"lr": lr, "weight_decay": weight_decay, **more}
    return tuple(({name: -0.5}, f"Invalid {each}: -0.5") for name, each in words.items() if each)


BETAS = (
    ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
    ({"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
    ({"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
)
THREE_BETAS = (
    ({"betas": (1.0, 0.9, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
    ({"betas": (0.9, 0.9, -0.1)}, "Invalid beta parameter at index 2: -0.1"),
)
EPS = {"eps": "epsilon value"}


@dataclass(frozen=True)
class Algorithm:
    """What the tests know about an algorithm, besides the name of its function in the library.

    Attributes:
        title: the class in :mod:`functorch_optim.optim`, which is torch's.
        module: the module of the reference class, which has the same name.
        slots: the arrays in torch's ``state_dict``.
        cases: the options to compare with torch, with all combinations of its flags.
        typical: options that give it all of its slots, for tests of a single configuration.
        exact: all of its numeric options, with values that float32 represents exactly.
        resumed: options for runs that are saved midway, with branches before and after the save.
        learned: the options to differentiate steps by.
        long: options for runs of 1200 steps, which cover all of its branches.
        edges: options at the limits of what is allowed.
        by_hand: options, and the value of [1, -2] after four steps with them (float64).
        carried: the scalars in its state other than the step.
        carries_doubles: whether these are kept as doubles.
        has_step, has_betas: whether torch counts its steps, and whether it has betas.
        takes_complex, takes_empty, takes_rows, takes_vectors: which parameters and gradients it takes.
        packs: whether small parameters may be packed.
        smooth: whether the update has a nonzero derivative with respect to the slots.
        slot_shapes: for slots of other shapes than the parameter, theirs by the parameter's; None if it has none.
        copies: the temporary arrays of a parameter's size that a step needs.
        refused: options that the class rejects, and the start of torch's message.
        tolerance: the tolerance of a functional float64 trajectory.
    """

    title: str
    slots: tuple[str, ...]
    cases: tuple[Options, ...]
    typical: Options
    exact: Options | None
    resumed: Options = field(default_factory=lambda: {"lr": 0.1})
    learned: tuple[str, ...] = ()
    long: tuple[Options, ...] = ({},)
    edges: tuple[Options, ...] = ()
    by_hand: tuple[tuple[Options, list[float]], ...] = ()
    carried: tuple[str, ...] = ()
    carries_doubles: bool = False
    has_step: bool = True
    has_betas: bool = False
    takes_complex: bool = True
    takes_empty: bool = True  # if False, torch divides by the number of entries
    takes_rows: bool = False
    takes_vectors: bool = True
    packs: bool = True
    smooth: bool = True
    slot_shapes: dict[str, Callable[[Shape], Shape | None]] = field(default_factory=dict)
    copies: float = 0.0
    module: str = "torch.optim"
    refused: tuple[tuple[Options, str], ...] = ()
    tolerance: float = 1e-12

    @property
    def is_in_torch(self) -> bool:
        """Whether torch has it; if not, ``tests.oracles`` wraps another implementation."""
        return self.module == "torch.optim"

    @property
    def decays(self) -> bool:
        """Whether it has weight decay."""
        return any("weight_decay" in options for options in self.cases)
