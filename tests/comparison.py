"""Run trajectories and compare them with torch's; shared by the tests and the parity table.

One compiled call steps all cases of an algorithm together, because compilation dominates the cost.
"""

import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from functorch_optim import optim
from tests import cases, equality
from tests.algorithms import ALGORITHMS, Case, label

# What the tests allow: relative in float64 (the functional face's stand in ALGORITHMS), and of one float32 step the
# units in the last place of parameters and of slots.
FACE_TOLERANCE, SPARSE_TOLERANCE = 1e-12, 1e-12
ULPS, FACE_ULPS = (8, 8), (5, 8)
SCALARS = {"step", "eta", "mu", "mu_product", "exp_avg_lr_1"}
FOLDER = pathlib.Path(__file__).parent / "reference"
Static = tuple[tuple[str, Any], ...]


@functools.cache
def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def recorded_run(case: Case, kind: str, file: str = "") -> dict[str, np.ndarray]:
    """Return torch's recorded parameters and slots for a case."""
    prefix = f"{label(case)}/{kind}/"
    found = {
        key.removeprefix(prefix): rows for key, rows in recorded(file or case[0]).items() if key.startswith(prefix)
    }
    if not found:
        raise KeyError(f"no recorded trajectory {prefix}")
    return found


def reference(case: Case, dtype: str) -> dict[str, np.ndarray]:
    """Return torch's trajectory of this run's parameters; its rows have shape (steps + 1, entries)."""
    return {slot: _of_this_run(case[0], slot, rows) for slot, rows in recorded_run(case, dtype).items()}


def _of_this_run(name: str, slot: str, rows: np.ndarray) -> np.ndarray:
    """Drop the parameters that this run leaves out; a scalar has one column for each nonempty parameter."""
    if rows.ndim == 1:
        return rows
    if slot in SCALARS:
        sizes = {key: int(0 not in shape) for key, shape in cases.every_shape(name).items()}
        return cases.of_this_run(rows, sizes, cases.shapes(name))
    sizes = {key: int(np.prod(shape)) for key, shape in cases.every_shape(name, slot).items()}
    return cases.of_this_run(rows, sizes, cases.shapes(name, slot))


@functools.cache
def stepper(name: str, statics: tuple[Static, ...]) -> Any:
    """Return one compiled step of several cases that takes their numbers as data."""

    @jax.jit
    def step(runs: Any, grads: Any, data: Any) -> Any:
        results = []
        for static, (params, state), numbers in zip(statics, runs, data, strict=True):
            tx = getattr(fo, name)(**dict(static), **numbers)
            updates, state = tx.update(grads, state, params)
            results.append((fo.apply_updates(params, updates), state, updates))
        return results

    return step


def stepped(many: Sequence[Case], step: int, runs: Any, grads: Any) -> Any:
    """Step all cases from their (parameters, state); return each one's (parameters, state, updates)."""
    statics, data = zip(*(split(name, step, options) for name, options in many), strict=True)
    return stepper(many[0][0], statics)(list(runs), grads, list(data))


def split(name: str, step: int, options: dict[str, Any]) -> tuple[Static, dict[str, Any]]:
    """Split options into static ones and those that are data at ``step``."""
    data = {key: value for key, value in options.items() if type(value) is float and value != 0.0}
    data |= cases.changing_options(name, step, options)
    return tuple((key, value) for key, value in options.items() if key not in data), arrays(data)


def arrays(numbers: dict[str, Any]) -> dict[str, Any]:
    """Convert options to arrays of JAX's default float dtype; betas become pairs, so float32 keeps their digits."""

    def array(value: float) -> jax.Array:
        return jnp.asarray(value, jnp.result_type(float))

    pairs = {"betas": tuple(fo.Beta(array(b), array(1 - b)) for b in numbers["betas"])} if "betas" in numbers else {}
    return {**{key: array(value) for key, value in numbers.items() if key != "betas"}, **pairs}


def initial(case: Case, dtype: Any) -> tuple[Any, Any]:
    name, options = case
    params = jax.tree.map(jnp.asarray, cases.parameters(name, dtype))
    return params, getattr(fo, name)(**options).init(params)


def slots_of(state: Any) -> dict[str, Any]:
    """Return the slots of a state, without scalars and None."""
    return {
        name: getattr(state, name) for name in state._fields if name not in SCALARS and getattr(state, name) is not None
    }


def state_at(algorithm: str, initial: Any, recorded: dict[str, np.ndarray], step: int) -> Any:
    """Return the state with torch's slots and scalars after ``step`` updates."""
    if step == 0:
        return initial
    scalars = {name: jnp.asarray(rows[step]) for name, rows in recorded.items() if name in SCALARS}
    slots = {
        name: {
            **dict.fromkeys(cases.shapes(algorithm)),
            **jax.tree.map(jnp.asarray, cases.unflatten(algorithm, rows[step], name)),
        }
        for name, rows in recorded.items()
        if name not in SCALARS
    }
    return initial._replace(step=jnp.asarray(step, jnp.int32), **scalars, **slots)


def relative(algorithm: str, actual: dict[str, Any], expected: np.ndarray, slot: str = "param") -> float:
    """Return the worst array's largest difference, relative to that array's largest magnitude."""
    arrays = cases.unflatten(algorithm, expected, slot)
    return largest(equality.relative(actual[name], array) for name, array in arrays.items())


def largest(values: Iterable[float]) -> float:
    """Return the maximum; unlike max(), NaN if any value is."""
    return float(np.max([0.0, *values]))


def trajectory_errors(many: Sequence[Case], dtype: str) -> dict[str, float]:
    """Return, by case, the worst relative difference from torch's free-running trajectory, over all steps, parameters
    and slots; infinite if the state's slots differ from torch's, or a scalar is not float32."""
    name = many[0][0]
    expected = [reference(case, dtype) for case in many]
    runs, errors = [initial(case, np.dtype(dtype)) for case in many], [[] for _ in many]
    for step in range(len(expected[0]["param"]) - 1):
        grads = jax.tree.map(jnp.asarray, cases.gradients(name, step, np.dtype(dtype)))
        runs = [(params, state) for params, state, _ in stepped(many, step, runs, grads)]
        for (params, state), rows, found in zip(runs, expected, errors, strict=True):
            found.append(_error(name, params, state, {key: values[step + 1] for key, values in rows.items()}))
    return {label(case): largest(found) for case, found in zip(many, errors, strict=True)}


def _error(name: str, params: Any, state: Any, expected: dict[str, np.ndarray]) -> float:
    """Return the worst relative difference of parameters, slots and carried scalars."""
    slots, scalars = slots_of(state), {key: getattr(state, key) for key in ALGORITHMS[name].carried}
    if set(slots) != set(expected) - {"param", *SCALARS} or any(v.dtype != jnp.float32 for v in scalars.values()):
        return float("inf")
    errors = [relative(name, params, expected["param"])]
    errors += [relative(name, tree, expected[slot], slot) for slot, tree in slots.items()]
    errors += [equality.relative(np.float64(value), np.float64(expected[key])) for key, value in scalars.items()]
    return largest(errors)


def synchronised_ulps(many: Sequence[Case], dtype: str = "float32") -> dict[str, tuple[float, float]]:
    """Take each step from torch's state; return, by case, the errors of parameters and slots in ulp.

    Parameters are measured entry by entry in ulp of max(|p|, |update|), slots in ulp of the array's largest magnitude
    before or after the step (a slot of one entry may cancel to almost nothing, but keeps its former rounding error).
    """
    name = many[0][0]
    expected = [reference(case, dtype) for case in many]
    fresh = [initial(case, np.float32)[1] for case in many]
    worst = [(0.0, 0.0)] * len(many)
    for step in range(len(expected[0]["param"]) - 1):
        runs = [_synchronised(name, state, rows, step, dtype) for state, rows in zip(fresh, expected, strict=True)]
        grads = _narrow(cases.gradients(name, step, np.float32), dtype)
        for index, (params, new, updates) in enumerate(stepped(many, step, runs, grads)):
            before, after = ({key: rows[at] for key, rows in expected[index].items()} for at in (step, step + 1))
            size = np.maximum(np.abs(after["param"]), np.abs(cases.flatten(name, updates)))
            off = float(np.max(ulps(cases.flatten(name, params), after["param"], size, dtype)))
            slots = [_slot_ulps(name, tree, slot, before, after, dtype) for slot, tree in slots_of(new).items()]
            worst[index] = largest([worst[index][0], off]), largest([worst[index][1], *slots])
    return {label(case): found for case, found in zip(many, worst, strict=True)}


def _synchronised(name: str, fresh: Any, rows: dict[str, np.ndarray], step: int, dtype: str) -> tuple[Any, Any]:
    """Return torch's parameters and state after ``step`` updates in ``dtype``; the state's scalars stay float32."""
    state = state_at(name, fresh, {key: values for key, values in rows.items() if key != "param"}, step)
    kept = {key: getattr(state, key) for key in ALGORITHMS[name].carried}
    params, narrow = _narrow((cases.unflatten(name, rows["param"][step]), state), dtype)
    return params, narrow._replace(**kept)


def _narrow(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, x.dtype if x.dtype == jnp.int32 else dtype), tree)


def _slot_ulps(name: str, tree: Any, slot: str, before: Any, after: Any, dtype: str) -> float:
    """Return a slot's error in ulp of the array's largest magnitude before or after the step."""
    previous, found = cases.unflatten(name, before[slot], slot), []
    for key, array in cases.unflatten(name, after[slot], slot).items():
        size = max(np.max(np.abs(values), initial=0) for values in (array, previous[key]))
        found.append(float(np.max(ulps(tree[key], array, size, dtype), initial=0)))
    return largest(found)


def ulps(actual: Any, expected: Any, size: Any, dtype: str) -> Any:
    """Return the difference in units in the last place of numbers as large as ``size``."""
    spacing = np.maximum(np.spacing(np.asarray(size, np.float32)).astype(np.float64), 2.0**-149)
    spacing = spacing * float(jnp.finfo(dtype).eps) / float(jnp.finfo(jnp.float32).eps)
    return np.abs(np.asarray(actual).astype(np.float64) - np.asarray(expected, np.float64)) / spacing


class Face:
    """The torch face's optimizer with one group per case."""

    def __init__(self, many: Sequence[Case], dtype: str, start: dict[str, np.ndarray] | None = None) -> None:
        self.many, self.name = many, many[0][0]
        start = cases.parameters(self.name, np.dtype(dtype)) if start is None else start
        self.keys = list(start)
        groups = [{"params": [jnp.asarray(array) for array in start.values()], **options} for _, options in many]
        self.optimizer: optim.Optimizer = getattr(optim, ALGORITHMS[self.name].title)(groups)

    def set_options(self, of: Callable[[str, int, dict[str, Any]], dict[str, Any]], step: int) -> None:
        for group, (name, options) in zip(self.optimizer.param_groups, self.many, strict=True):
            group.update(of(name, step, options))

    def step(self, grads: dict[str, Any]) -> None:
        """Step every group with the same gradients; None for a missing one."""
        self.optimizer.step([[grads[key] for key in self.keys] for _ in self.many])

    def params(self) -> list[dict[str, Any]]:
        """Return the parameters of each case by key."""
        return [dict(zip(self.keys, group, strict=True)) for group in self.optimizer.params]

    def entries(self) -> list[dict[str, dict[str, Any]]]:
        """Return the state of each case: the parameters' entries by key."""
        state, size = self.optimizer.state_dict()["state"], len(self.keys)
        flat = [state.get(index, {}) for index in range(size * len(self.many))]
        return [dict(zip(self.keys, flat[i : i + size], strict=True)) for i in range(0, len(flat), size)]

    def load(self, entries: Sequence[dict[str, dict[str, Any]]]) -> None:
        """Load a state_dict with these entries; the inverse of :meth:`entries`."""
        flat = enumerate(entry for case in entries for entry in case.values())
        state = {index: entry for index, entry in flat if entry}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def gradients(name: str, step: int, dtype: str, absent: Any = ()) -> dict[str, Any]:
    grads = cases.gradients(name, step, np.dtype(dtype))
    return {key: None if key in absent else jnp.asarray(grad) for key, grad in grads.items()}


def slot_tree(name: str, entries: dict[str, dict[str, Any]], slot: str) -> dict[str, Any]:
    """Return a slot of every parameter, NaN if it is missing."""
    return {key: entries[key].get(slot, np.full(shape, np.nan)) for key, shape in cases.shapes(name, slot).items()}


def worst(algorithm: str, actual: dict[str, Any], expected: np.ndarray, slot: str = "param") -> float:
    """Like :func:`relative`, but a NaN array means a missing slot; infinite if only one side has it."""
    errors = []
    for name, right in cases.unflatten(algorithm, expected, slot).items():
        ours = np.asarray(actual[name])
        if not np.array_equal(np.isnan(ours), np.isnan(right)):
            return float("inf")
        if not np.any(np.isnan(right)):
            errors.append(equality.relative(ours, right))
    return largest(errors)


def face_trajectory_errors(
    many: Sequence[Case], kind: str, at_step: Callable[[int], None] = lambda step: None
) -> dict[str, float]:
    """Return, by case, the torch face's worst relative difference from a float64 run of torch with every option
    rewritten, at the recorded steps: "gaps" with missing gradients, "long" without; infinite if a step count or a
    carried scalar differs."""
    name, steps = many[0][0], cases.GAPS_AT if kind == "gaps" else cases.LONG_AT
    expected = [reference(case, kind) for case in many]
    face, errors = Face(many, "float64"), [[] for _ in many]
    for step in range(max(steps)):
        at_step(step)
        face.set_options(cases.rewritten_options, step)
        face.step(gradients(name, step, "float64", cases.missing(step) if kind == "gaps" else ()))
        if step + 1 in steps:
            row = steps.index(step + 1)
            for found, rows, params, entries in zip(errors, expected, face.params(), face.entries(), strict=True):
                right = {key: values[row] for key, values in rows.items()}
                found.append(_face_error(name, params, entries, right, step + 1))
    return {label(case): largest(found) for case, found in zip(many, errors, strict=True)}


def _face_error(name: str, params: Any, entries: Any, right: dict[str, np.ndarray], steps: int) -> float:
    """Return the worst relative difference of parameters and slots; infinite unless counts and scalars are torch's."""
    shapes = cases.shapes(name)
    filled = [entries[key] for key in shapes if 0 not in shapes[key]]
    empty = [entries[key] for key in shapes if 0 in shapes[key]]
    counts = [float(entry.get("step", -1)) for entry in filled]
    same = counts == right["step"].tolist() and all(entry.get("step", steps) == steps for entry in empty)
    for scalar in ALGORITHMS[name].carried:
        held = np.float32([entry.get(scalar, np.nan) for entry in filled])
        same = same and np.array_equal(held, right[scalar], equal_nan=True)
    if not same:
        return float("inf")
    slots = set(right) - {"param", *SCALARS}
    errors = [worst(name, slot_tree(name, entries, slot), right[slot], slot) for slot in slots]
    return largest([worst(name, params, right["param"]), *errors])


def face_synchronised_ulps(many: Sequence[Case]) -> dict[str, tuple[float, float]]:
    """Like :func:`synchronised_ulps` for the torch face, which loads torch's state_dict before each step."""
    name = many[0][0]
    expected = [reference(case, "float32") for case in many]
    face, found = Face(many, "float32"), [(0.0, 0.0)] * len(many)
    for step in range(len(expected[0]["param"]) - 1):
        if step:
            face.load([_entries_at(name, rows, step) for rows in expected])
        face.optimizer.params = [list(cases.unflatten(name, rows["param"][step]).values()) for rows in expected]
        face.set_options(cases.changing_options, step)
        face.step(gradients(name, step, "float32"))
        for index, (params, entries) in enumerate(zip(face.params(), face.entries(), strict=True)):
            before, after = ({key: rows[at] for key, rows in expected[index].items()} for at in (step, step + 1))
            size = np.maximum(np.abs(after["param"]), np.abs(after["param"] - before["param"]))
            off = float(np.max(ulps(cases.flatten(name, params), after["param"], size, "float32")))
            slots = [slot for slot in after if slot not in ("param", *SCALARS)]
            trees = {slot: slot_tree(name, entries, slot) for slot in slots}
            slot_off = [_slot_ulps(name, tree, slot, before, after, "float32") for slot, tree in trees.items()]
            found[index] = largest([found[index][0], off]), largest([found[index][1], *slot_off])
    return {label(case): each for case, each in zip(many, found, strict=True)}


def _entries_at(name: str, rows: dict[str, np.ndarray], step: int) -> dict[str, dict[str, Any]]:
    """Return torch's state after ``step`` updates, by parameter."""
    row = ALGORITHMS[name]
    scalars = {"step": np.float32(step)} if row.has_step else {}
    scalars |= {scalar: rows[scalar][step] for scalar in row.carried}
    slots = [slot for slot in rows if slot not in ("param", *SCALARS)]
    held = {slot: cases.unflatten(name, rows[slot][step], slot) for slot in slots}
    return {
        key: {**scalars, **{slot: held[slot][key] for slot in slots if key in held[slot]}} for key in cases.shapes(name)
    }


def above(found: dict[str, Any], *limits: float) -> dict[str, Any]:
    """Return the cases whose errors are above the limits or NaN."""
    return {
        name: errors
        for name, errors in found.items()
        if not all(error <= limit for error, limit in zip(np.atleast_1d(errors), limits, strict=True))
    }
