"""How trajectories are run here and compared with torch's; the tests and the parity table share it."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from functorch_optim import optim
from tests import cases

SCALARS = {"step", "eta", "mu", "mu_product"}
FOLDER = pathlib.Path(__file__).parent / "reference"


@functools.cache
def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def reference(case: cases.Case, dtype: str) -> dict[str, np.ndarray]:
    """torch's recorded parameters and slots, each of shape (steps + 1, entries)."""
    prefix = f"{cases.label(case)}/{dtype}/"
    found = {key.removeprefix(prefix): v for key, v in recorded(case[0]).items() if key.startswith(prefix)}
    assert found, f"no recorded trajectory {prefix}"
    return found


@functools.cache
def stepper(name: str, static: tuple[tuple[str, Any], ...]) -> Any:
    """One compiled step whose numbers come in as data; the betas as pairs, so that float32 keeps their digits."""

    @jax.jit
    def step(params: Any, state: Any, grads: Any, data: dict[str, Any]) -> Any:
        tx = getattr(fo, name)(**dict(static), **data)
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state, updates

    return step


def split(name: str, step: int, options: dict[str, Any]) -> tuple[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """The options that are static, and those that are data at ``step``, as arrays of JAX's default float dtype."""
    data = {key: value for key, value in options.items() if type(value) is float and value != 0.0}
    data |= cases.changing_options(name, step, options)
    static = tuple((key, value) for key, value in options.items() if key not in data)
    dtype = jnp.result_type(float)

    def array(value: float) -> jax.Array:
        return jnp.asarray(value, dtype)

    pairs = {"betas": tuple(fo.Beta(array(b), array(1 - b)) for b in data["betas"])} if "betas" in data else {}
    return static, {**{key: array(v) for key, v in data.items() if key != "betas"}, **pairs}


def initial(case: cases.Case, dtype: Any) -> tuple[Any, Any]:
    name, options = case
    params = jax.tree.map(jnp.asarray, cases.parameters(name, dtype))
    return params, getattr(fo, name)(**options).init(params)


def slots_of(state: Any) -> dict[str, Any]:
    """The slots that a state has: no scalars, and nothing that is None."""
    return {
        name: getattr(state, name) for name in state._fields if name not in SCALARS and getattr(state, name) is not None
    }


def state_at(algorithm: str, initial: Any, recorded: dict[str, np.ndarray], step: int) -> Any:
    """The state with torch's slots and scalars after ``step`` updates."""
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
    """The largest difference in an array over the array's largest magnitude; the worst array counts."""
    arrays = cases.unflatten(algorithm, expected, slot)
    return max(_relative(np.asarray(actual[name]), array) for name, array in arrays.items())


def _relative(actual: np.ndarray, expected: np.ndarray) -> float:
    difference, largest = (np.max(np.abs(array), initial=0) for array in (actual - expected, expected))
    return float(difference / largest) if largest else float(difference)


def trajectory_error(case: cases.Case, dtype: str) -> float:
    """The worst relative difference from torch's free-running trajectory, over all steps, parameters and slots."""
    name, options = case
    expected = reference(case, dtype)
    params, state = initial(case, np.dtype(dtype))
    assert set(slots_of(state)) == set(expected) - {"param", *SCALARS}
    worst = 0.0
    for step in range(len(expected["param"]) - 1):
        static, data = split(name, step, options)
        grads = jax.tree.map(jnp.asarray, cases.gradients(name, step, np.dtype(dtype)))
        params, state, _ = stepper(name, static)(params, state, grads, data)
        errors = [relative(name, params, expected["param"][step + 1])]
        errors += [relative(name, tree, expected[slot][step + 1], slot) for slot, tree in slots_of(state).items()]
        for scalar in cases.CARRIED.get(name, ()):
            assert getattr(state, scalar).dtype == jnp.float32
            errors.append(_relative(np.float64(getattr(state, scalar)), np.float64(expected[scalar][step + 1])))
        worst = max(worst, *errors)
    return worst


def synchronised_ulps(case: cases.Case, dtype: str = "float32") -> tuple[float, float]:
    """Each step from torch's state: how far parameters are off in ulp of max(|p|, |update|), entry by entry, and the
    slots in ulp of the array's largest magnitude before or after the step (a slot of one entry may cancel to almost
    nothing, and the rounding is that of what it was)."""
    name, options = case
    expected = reference(case, dtype)
    _, state = initial(case, np.float32)
    slots = {key: rows for key, rows in expected.items() if key != "param"}

    def narrow(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.asarray(x, x.dtype if x.dtype == jnp.int32 else dtype), tree)

    worst_param = worst_slot = 0.0
    for step in range(len(expected["param"]) - 1):
        before, after = expected["param"][step], expected["param"][step + 1]
        static, data = split(name, step, options)
        # Scalars of the state stay float32, whatever the arrays are.
        given = narrow(
            (cases.unflatten(name, before), state_at(name, state, slots, step), cases.gradients(name, step, np.float32))
        )
        kept = {name: getattr(state_at(name, state, slots, step), name) for name in cases.CARRIED.get(name, ())}
        given = (given[0], given[1]._replace(**kept), given[2])
        params, new, updates = stepper(name, static)(*given, data)
        size = np.maximum(np.abs(after), np.abs(cases.flatten(name, updates)))
        worst_param = max(worst_param, float(np.max(ulps(cases.flatten(name, params), after, size, dtype))))
        for slot, tree in slots_of(new).items():
            previous = cases.unflatten(name, slots[slot][step], slot)
            for key, array in cases.unflatten(name, slots[slot][step + 1], slot).items():
                largest = max(np.max(np.abs(values), initial=0) for values in (array, previous[key]))
                worst_slot = max(worst_slot, float(np.max(ulps(tree[key], array, largest, dtype), initial=0)))
    return worst_param, worst_slot


def ulps(actual: Any, expected: Any, size: Any, dtype: str) -> Any:
    """The difference in units in the last place of numbers as large as ``size``."""
    spacing = np.maximum(np.spacing(np.asarray(size, np.float32)).astype(np.float64), 2.0**-149)
    spacing = spacing * float(jnp.finfo(dtype).eps) / float(jnp.finfo(jnp.float32).eps)
    return np.abs(np.asarray(actual).astype(np.float64) - np.asarray(expected, np.float64)) / spacing


def optimizer_of(case: cases.Case, dtype: str) -> optim.Optimizer:
    """The stateful optimizer on a flat list of the parameters."""
    name, options = case
    start = cases.parameters(name, np.dtype(dtype))
    return getattr(optim, cases.ALGORITHMS[name][0])([jnp.asarray(start[key]) for key in cases.shapes(name)], **options)


def gradient_list(name: str, step: int, dtype: str, absent: Any = ()) -> list[Any]:
    grads = cases.gradients(name, step, np.dtype(dtype))
    return [None if key in absent else jnp.asarray(grads[key]) for key in cases.shapes(name)]


def tree_of(name: str, arrays: Any) -> dict[str, Any]:
    return dict(zip(cases.shapes(name), arrays, strict=True))


def slot_tree(name: str, optimizer: optim.Optimizer, slot: str) -> dict[str, Any]:
    """A slot of every parameter, NaN where there is none."""
    held = [optimizer.state.get(index, {}) for index in range(len(cases.shapes(name)))]
    shapes = cases.shapes(name, slot)
    return {
        key: entry.get(slot, np.full(shapes[key], np.nan))
        for key, entry in tree_of(name, held).items()
        if key in shapes
    }


def worst(algorithm: str, actual: dict[str, Any], expected: np.ndarray, slot: str = "param") -> float:
    """:func:`relative`, where an array may be NaN for "there is none"; then it must be NaN in both."""
    errors = [0.0]
    for name, right in cases.unflatten(algorithm, expected, slot).items():
        ours = np.asarray(actual[name])
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(right))
        if not np.any(np.isnan(right)):
            errors.append(_relative(ours, right))
    return max(errors)


def face_trajectory_error(case: cases.Case, kind: str, at_step: Any = None) -> float:
    """The stateful face's worst relative difference from a float64 run of torch with every option rewritten, at the
    steps that are recorded: "gaps" with missing gradients, "long" without. Step counts must be equal."""
    name, options = case
    expected, steps = reference(case, kind), cases.GAPS_AT if kind == "gaps" else cases.LONG_AT
    optimizer, errors = optimizer_of(case, "float64"), []
    for step in range(max(steps)):
        if at_step is not None:
            at_step(step)
        optimizer.param_groups[0].update(cases.rewritten_options(name, step, options))
        optimizer.step(gradient_list(name, step, "float64", cases.missing(step) if kind == "gaps" else ()))
        if step + 1 in steps:
            row = steps.index(step + 1)
            errors.append(worst(name, tree_of(name, optimizer.params), expected["param"][row]))
            filled = [key for key, shape in cases.shapes(name).items() if 0 not in shape]
            entries = [optimizer.state.get(index, {}) for index in range(len(cases.shapes(name)))]
            counts = [entry.get("step", -1) for entry in entries[: len(filled)]]
            assert counts == expected["step"][row].tolist()
            assert all(entry.get("step", step + 1) == step + 1 for entry in entries[len(filled) :])
            for scalar in cases.CARRIED.get(name, ()):
                held = [entry.get(scalar, np.nan) for entry in entries[: len(filled)]]
                np.testing.assert_array_equal(np.float32(held), expected[scalar][row])
            slots = set(expected) - {"param", *SCALARS}
            errors += [worst(name, slot_tree(name, optimizer, slot), expected[slot][row], slot) for slot in slots]
    return max(errors)


def face_synchronised_ulps(case: cases.Case) -> tuple[float, float]:
    """:func:`synchronised_ulps` with the stateful face, which loads torch's state as a state_dict before each step."""
    name, options = case
    expected = reference(case, "float32")
    slots = [slot for slot in expected if slot not in ("param", *SCALARS)]
    optimizer = optimizer_of(case, "float32")
    worst_param = worst_slot = 0.0
    for step in range(len(expected["param"]) - 1):
        if step:
            scalars = {} if name in cases.NO_STEP else {"step": np.float32(step)}
            scalars |= {scalar: expected[scalar][step] for scalar in cases.CARRIED.get(name, ())}
            held = {slot: cases.unflatten(name, expected[slot][step], slot) for slot in slots}
            entries = [{**scalars, **{s: held[s][key] for s in slots if key in held[s]}} for key in cases.shapes(name)]
            state = {index: entry for index, entry in enumerate(entries) if entry}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        optimizer.params = list(cases.unflatten(name, expected["param"][step]).values())
        optimizer.param_groups[0].update(cases.changing_options(name, step, options))
        optimizer.step(gradient_list(name, step, "float32"))
        before, after = expected["param"][step], expected["param"][step + 1]
        size = np.maximum(np.abs(after), np.abs(after - before))
        difference = ulps(cases.flatten(name, tree_of(name, optimizer.params)), after, size, "float32")
        worst_param = max(worst_param, float(np.max(difference)))
        for slot in slots:
            ours, previous = slot_tree(name, optimizer, slot), cases.unflatten(name, expected[slot][step], slot)
            for key, right in cases.unflatten(name, expected[slot][step + 1], slot).items():
                largest = max(np.max(np.abs(values), initial=0) for values in (right, previous[key]))
                worst_slot = max(worst_slot, float(np.max(ulps(ours[key], right, largest, "float32"), initial=0)))
    return worst_param, worst_slot
