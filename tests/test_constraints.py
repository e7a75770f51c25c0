"""Constraints hold after apply_updates: exactly for boxes, as exactly as the dtype allows for sums and norms."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functorch_optim as fo

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
BOXES = [
    (-1.0, 1.0),
    (0.1, 0.3),
    (-0.1, 0.1),
    (0.0, math.inf),
    (-math.inf, -1e-3),
    (1 / 3, 1 / 3 + 1e-2),
    (-1e30, 1e30),
]


def moved(tx, params, updates):
    return fo.apply_updates(params, tx.update(updates, tx.init(params), params)[0])


def wide(array):
    return np.asarray(array, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("low", "high"), BOXES)
def test_the_result_is_in_the_box_exactly(low, high, dtype):
    """Compared in doubles, for parameters in the box and updates of all sizes, for several steps."""
    rng = np.random.default_rng(0)
    tx = fo.project_box(low, high)
    start = rng.uniform(max(low, -3.0), min(high, 3.0), 4000)
    params = moved(tx, jnp.asarray(start, dtype), jnp.zeros(4000))
    step = jax.jit(lambda params, updates: moved(tx, params, updates))
    for size in (1e-8, 1e-3, 0.1, 1.0, 30.0):
        updates = jnp.asarray(size * rng.standard_normal(4000), jnp.float32)
        params = step(params, updates)
        assert params.dtype == dtype
        assert np.all((wide(params) >= low) & (wide(params) <= high)), size


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_update_that_stays_inside_is_left_alone_and_the_others_reach_the_bound(dtype):
    params = jnp.asarray([0.5, 0.5, -0.75, 0.25], dtype)
    updates = jnp.asarray([0.25, 1.0, -0.5, 0.0], dtype)
    found, _ = fo.project_box(-1.0, 1.0).update(updates, fo.EmptyState(), params)
    assert found[0].item() == 0.25 and found[3].item() == 0.0
    assert fo.apply_updates(params, found).tolist() == [0.75, 1.0, -1.0, 0.25]


@pytest.mark.usefixtures("x64")
def test_boxes_of_doubles_are_exact_too():
    rng = np.random.default_rng(1)
    params, updates = jnp.asarray(rng.uniform(0.1, 0.3, 1000)), jnp.asarray(rng.standard_normal(1000))
    found = np.asarray(moved(fo.project_box(0.1, 0.3), params, updates))
    assert np.all((found >= 0.1) & (found <= 0.3)) and 0.1 in found and 0.3 in found


def test_parameters_outside_are_led_in():
    params, updates = jnp.array([-5.0, 7.0, 0.5]), jnp.zeros(3)
    assert moved(fo.project_box(-1.0, 1.0), params, updates).tolist() == [-1.0, 1.0, 0.5]
    assert moved(fo.keep_nonnegative(), params, updates).tolist() == [0.0, 7.0, 0.5]


@pytest.mark.parametrize("bound", [jnp.float32(0.1), lambda step: jnp.where(step < 1, 0.1, 0.2)])
def test_bounds_may_be_arrays_and_schedules(bound):
    tx = fo.project_box(-1.0, bound)
    params = jnp.zeros(2, jnp.bfloat16)
    state = tx.init(params)
    for high in (0.1, 0.2 if callable(bound) else 0.1):
        updates, state = jax.jit(tx.update)(jnp.ones(2), state, params)
        params = fo.apply_updates(params, updates)
        assert np.all(wide(params) <= np.float32(high)) and np.all(wide(params) > high - 1e-3)
    assert float(fo.current_hyperparams(tx, state)["low"]) == -1.0


def test_keep_nonnegative_is_optaxs_and_leaves_no_negative_number(standard_promotion):
    rng = np.random.default_rng(2)
    params, updates = (jnp.asarray(rng.standard_normal(500), jnp.float32) for _ in range(2))
    params = jnp.abs(params)
    found = moved(fo.keep_nonnegative(), params, updates)
    theirs = optax.keep_params_nonnegative()
    chex.assert_trees_all_equal(
        found, optax.apply_updates(params, theirs.update(updates, theirs.init(params), params)[0])
    )
    assert np.all(found >= 0) and np.any(found == 0)


def test_a_box_is_optaxs_projection(standard_promotion):
    rng = np.random.default_rng(3)
    params, updates = (jnp.asarray(rng.standard_normal((20, 3)), jnp.float32) for _ in range(2))
    wanted = optax.projections.projection_box(params + updates, -0.5, 0.25)
    np.testing.assert_allclose(moved(fo.project_box(-0.5, 0.25), params, updates), wanted, rtol=1e-6, atol=1e-7)


def simplex_reference(point, scale):
    """The projection found by bisection of the shift."""
    low, high = np.min(point) - scale, np.max(point)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.sum(np.maximum(point - middle, 0)) > scale else (low, middle)
    return np.maximum(point - low, 0)


@pytest.mark.usefixtures("x64", "standard_promotion")
@pytest.mark.parametrize(("axis", "scale"), [(-1, 1.0), (0, 2.5), (1, 0.1)])
def test_simplex_is_the_nearest_point(axis, scale):
    rng = np.random.default_rng(4)
    params, updates = (jnp.asarray(rng.standard_normal((5, 7))) for _ in range(2))
    found = moved(fo.project_simplex(scale, axis), params, updates)
    rows = np.moveaxis(np.asarray(params + updates), axis, -1)
    wanted = np.stack([simplex_reference(row, scale) for row in rows])
    np.testing.assert_allclose(np.moveaxis(np.asarray(found), axis, -1), wanted, atol=1e-12)
    theirs = np.stack([optax.projections.projection_simplex(jnp.asarray(row), scale) for row in rows])
    np.testing.assert_allclose(wanted, theirs, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_simplex_entries_are_nonnegative_exactly_and_their_sum_is_rounded_once_each(dtype):
    rng = np.random.default_rng(5)
    tx, params = fo.project_simplex(), jnp.full((50, 16), 1 / 16, dtype)
    for size in (1e-3, 0.1, 10.0):
        params = moved(tx, params, jnp.asarray(size * rng.standard_normal((50, 16)), jnp.float32))
        assert np.all(wide(params) >= 0)
        np.testing.assert_allclose(np.sum(wide(params), axis=-1), 1, atol=float(jnp.finfo(dtype).eps))


def test_a_point_of_the_simplex_stays():
    params = jnp.array([[0.25, 0.75, 0.0]])
    np.testing.assert_allclose(moved(fo.project_simplex(), params, jnp.zeros((1, 3))), params, atol=1e-7)
    assert moved(fo.project_simplex(), jnp.array([9.0]), jnp.array([1.0])).tolist() == [1.0]
    assert moved(fo.project_simplex(), jnp.zeros((3, 0)), jnp.zeros((3, 0))).shape == (3, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
def test_norms_are_at_most_the_radius(axis, dtype):
    rng = np.random.default_rng(6)
    tx, params = fo.project_l2_ball(0.7, axis), jnp.zeros((8, 5, 3), dtype)
    over = axis if axis is not None else (0, 1, 2)
    step = jax.jit(lambda params, updates: moved(tx, params, updates))
    for size in (0.01, 0.1, 3.0, 1e-3):
        params = step(params, jnp.asarray(size * rng.standard_normal((8, 5, 3)), jnp.float32))
        norms = np.sqrt(np.sum(wide(params) ** 2, axis=over))
        assert np.all(norms <= 0.7 * (1 + 3e-7))
        assert size < 1 or np.all(norms > 0.68)


@pytest.mark.parametrize("axis", [None, 0])
def test_a_sum_whose_squares_overflow_goes_to_the_middle_of_the_ball(axis):
    tx, params = fo.project_l2_ball(1.0, axis=axis), jnp.ones((2, 2))
    updates, _ = tx.update(jnp.full((2, 2), 1e30), fo.EmptyState(), params)
    assert not np.any(fo.apply_updates(params, updates))


@pytest.mark.usefixtures("x64", "standard_promotion")
def test_a_ball_is_optaxs_projection():
    rng = np.random.default_rng(7)
    params, updates = (jnp.asarray(rng.standard_normal((4, 3))) for _ in range(2))
    for radius in (0.0, 0.5, 100.0):
        wanted = optax.projections.projection_l2_ball(params + updates, radius) if radius else np.zeros((4, 3))
        np.testing.assert_allclose(moved(fo.project_l2_ball(radius), params, updates), wanted, rtol=1e-10, atol=1e-15)
        each = moved(fo.project_l2_ball(radius, axis=lambda shape: len(shape) - 1), params, updates)
        rows = np.asarray(params + updates)
        norms = np.linalg.norm(rows, axis=-1, keepdims=True)
        np.testing.assert_allclose(each, rows * np.minimum(1, radius / norms), rtol=1e-10, atol=1e-15)


def test_complex_parameters():
    params, updates = jnp.array([0.5 + 0.5j]), jnp.array([2 - 3j])
    assert moved(fo.project_box(0.0, 1.0), params, updates).tolist() == [1 + 0j]
    assert moved(fo.keep_nonnegative(), params, updates).tolist() == [2.5 + 0j]
    np.testing.assert_allclose(moved(fo.project_l2_ball(1.0), params * 0, jnp.array([3 + 4j])), [0.6 + 0.8j], rtol=1e-6)
    with pytest.raises(RuntimeError, match="project_simplex does not support complex parameters: the parameter 'w'"):
        fo.project_simplex().init({"w": params})


MAKERS = {
    "keep_nonnegative": fo.keep_nonnegative,
    "project_box": lambda: fo.project_box(0.0, 1.0),
    "project_simplex": fo.project_simplex,
    "project_l2_ball": lambda: fo.project_l2_ball(1.0),
}
each = pytest.mark.parametrize("name", MAKERS)


@each
def test_it_holds_during_a_run_with_an_algorithm(name):
    params = {"w": jnp.full((4, 3), 0.25), "frozen": jnp.array(-3.0)}
    tx = fo.chain(
        fo.clip_by_global_norm(1.0), fo.adamw(lr=0.3), fo.masked(MAKERS[name](), {"w": True, "frozen": False})
    )
    state = tx.init(params)
    step = jax.jit(tx.update)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        grads = jax.tree.map(lambda p, rng=rng: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params)
        updates, state = step(grads, state, params)
        params = fo.apply_updates(params, updates)
        w = wide(params["w"])
        assert np.all(w >= 0) or name == "project_l2_ball"
        assert np.all(w <= 1.0) or name == "keep_nonnegative"
        assert np.linalg.norm(w) <= 1 + 1e-6 or name != "project_l2_ball"
        assert name != "project_simplex" or np.allclose(w.sum(axis=-1), 1, atol=1e-6)


@each
def test_nan_passes_missing_updates_stay_and_parameters_are_needed(name):
    params = {"a": jnp.full(3, 0.5), "b": jnp.full(3, 9.0)}
    updates, _ = MAKERS[name]().update({"a": jnp.full(3, jnp.nan), "b": None}, fo.EmptyState(), params)
    assert np.all(np.isnan(updates["a"])) and updates["b"] is None
    with pytest.raises(ValueError, match=rf"{name} needs the parameters: update\(updates, state, params\)"):
        MAKERS[name]().update({"a": jnp.ones(3)}, fo.EmptyState())
    with pytest.raises(ValueError, match=r"the update of the parameter 'a' has shape \(4,\)"):
        MAKERS[name]().update({"a": jnp.ones(4), "b": None}, fo.EmptyState(), params)


@pytest.mark.parametrize(
    "after",
    [
        fo.sgd(lr=0.1),
        fo.scale(-1.0),
        fo.add_decayed_weights(0.1),
        fo.chain(fo.identity(), fo.adam()),
        fo.scale_by_learning_rate(0.5),
        fo.scale_by_adam(),
    ],
)
@each
def test_it_must_come_after_what_changes_the_updates(name, after):
    with pytest.raises(
        ValueError, match=rf"constraint of {name} would not hold: [\w()]+ comes after it .* last in the ch"
    ):
        fo.chain(MAKERS[name](), after)
    fo.chain(fo.sgd(lr=0.1), MAKERS[name](), fo.ema())


def test_where_a_mask_separates_them_the_order_is_free():
    rows = lambda path: path == "rows"  # noqa: E731 a mask
    tx = fo.chain(fo.masked(fo.project_box(0, 1), rows), fo.masked(fo.sgd(), lambda path: path != "rows"))
    tx.init({"rows": jnp.ones(2), "rest": jnp.ones(2)})
    wrong = fo.chain(fo.masked(fo.project_box(0, 1), rows), fo.masked(fo.sgd(), rows))
    with pytest.raises(ValueError, match="the constraint of project_box would not hold at the parameter 'rows'"):
        wrong.init({"rows": jnp.ones(2), "rest": jnp.ones(2)})


def test_derivatives_pass_through_where_the_update_does():
    def total(updates, tx):
        return jnp.sum(moved(tx, jnp.array([0.2, 0.8]), updates) * jnp.array([1.0, 3.0]))

    updates = jnp.array([0.1, 5.0])
    for tx, wanted in (
        (fo.project_box(0.0, 1.0), [1.0, 0.0]),
        (fo.keep_nonnegative(), [1.0, 3.0]),
        (fo.project_l2_ball(9.0), [1.0, 3.0]),
    ):
        np.testing.assert_allclose(jax.grad(total)(updates, tx), wanted, atol=1e-6)
    assert np.all(np.isfinite(jax.grad(total)(jnp.array([0.1, 0.2]), fo.project_simplex())))


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: fo.project_box(1.0, 0.0), ValueError, "low must not be above high, but they are 1.0 and 0.0"),
        (lambda: fo.project_box(math.nan, 0.0), ValueError, r"Invalid value: nan \(option 'low'\)"),
        (lambda: fo.project_box("0", 1.0), TypeError, "low must be a number"),
        (lambda: fo.project_simplex(0.0), ValueError, r"must be above 0: 0.0 \(option 'scale'\)"),
        (lambda: fo.project_simplex(axis=(0, 1)), TypeError, "axis must be one integer"),
        (lambda: fo.project_simplex(axis=None), TypeError, "axis must be one integer"),
        (lambda: fo.project_simplex(axis=1).init({"w": jnp.ones(2)}), ValueError, r"'w' has no dimension 1"),
        (lambda: fo.project_l2_ball(-1.0), ValueError, r"\(option 'radius'\)"),
        (lambda: fo.project_l2_ball(1.0, axis="rows"), TypeError, "project_l2_ball: axis must be an integer"),
        (lambda: moved(fo.project_l2_ball(1.0, 1), jnp.ones(2), jnp.ones(2)), ValueError, "has no dimension 1"),
    ],
)
def test_options_out_of_range(build, kind, message):
    with pytest.raises(kind, match=message):
        build()


def test_reprs_are_calls():
    assert repr(fo.keep_nonnegative()) == "keep_nonnegative()"
    assert repr(fo.project_box(0, math.inf)) == "project_box(low=0.0, high=inf)"
    assert repr(fo.project_l2_ball(1.0)) == "project_l2_ball(radius=1.0, axis=None, axis_name=None)"
    different = [fo.project_box(0, 1), fo.project_box(0, 2), fo.keep_nonnegative(), fo.project_simplex()]
    assert all(one != other for one, other in itertools.combinations(different, 2))
