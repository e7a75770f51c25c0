"""Clipping, against optax and the published formulas: by leaf, by unit, by z-score, by percentile."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functorch_optim as fo

SHAPES = {"scalar": (), "vector": (5,), "row": (1, 4), "matrix": (4, 3), "heads": (4, 2, 3), "kernel": (3, 3, 2, 4)}
SHAPES |= {"volume": (2, 2, 2, 3, 2)}


def tree(seed=0, dtype=jnp.float32, scale=1.0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def assert_like_optax(ours, theirs, dtype, rtol, seeds=range(3)):
    """Assert that updates agree for several steps, from gradients of different sizes."""
    params = tree(99, dtype)
    state, other = ours.init(params), theirs.init(params)
    for seed in seeds:
        grads = tree(seed, dtype, 10.0 ** (seed - 1))
        found, state = ours.update(grads, state, params)
        wanted, other = theirs.update(grads, other, params)
        chex.assert_trees_all_close(found, wanted, rtol=rtol, atol=0)


PAIRS = {
    "clip_by_block_rms": (fo.clip_by_block_rms(0.5), optax.clip_by_block_rms(0.5)),
    "adaptive_grad_clip": (fo.adaptive_grad_clip(0.1), optax.adaptive_grad_clip(0.1)),
    "adaptive_grad_clip_eps": (fo.adaptive_grad_clip(0.5, eps=2.0), optax.adaptive_grad_clip(0.5, eps=2.0)),
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)
def test_the_numbers_are_optaxs(ours, theirs):
    assert_like_optax(ours, theirs, jnp.float32, 1e-6)
    with jax.enable_x64(True):
        assert_like_optax(ours, theirs, jnp.float64, 1e-10)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("axis", [0, -1, (0, 1)])
def test_adaptive_grad_clip_over_other_axes_is_optaxs(axis):
    params, grads = ({"kernel": tree(seed)["kernel"]} for seed in (0, 1))
    ours, theirs = fo.adaptive_grad_clip(0.1, axis=axis), optax.adaptive_grad_clip(0.1, axis=axis)
    found, _ = ours.update(grads, ours.init(params), params)
    wanted, _ = theirs.update(grads, theirs.init(params), params)
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def outputs_first(shape):
    return tuple(range(1, len(shape))) or None


def test_adaptive_grad_clip_in_torchs_layout_is_that_of_the_transposed_arrays():
    names = ("scalar", "vector", "matrix", "kernel")
    params, grads = ({name: tree(seed)[name] for name in names} for seed in (0, 1))
    turned = lambda t: jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0) if x.ndim > 1 else x, t)  # noqa: E731
    tx, torch_tx = fo.adaptive_grad_clip(0.1), fo.adaptive_grad_clip(0.1, axis=outputs_first)
    found, _ = torch_tx.update(turned(grads), torch_tx.init(turned(params)), turned(params))
    chex.assert_trees_all_close(found, turned(tx.update(grads, tx.init(params), params)[0]), rtol=1e-6)


def test_adaptive_grad_clip_says_which_axes_it_needs():
    six = {"w": jnp.ones((1, 2, 1, 2, 1, 2))}
    with pytest.raises(ValueError, match=r"parameter 'w' has 6 dimensions: say with axis= which"):
        fo.adaptive_grad_clip(0.1).update(six, fo.EmptyState(), six)
    flat = {"w": jnp.ones((1, 1, 1, 1, 1, 2))}
    fo.adaptive_grad_clip(0.1).update(flat, fo.EmptyState(), flat)
    with pytest.raises(ValueError, match=r"the parameter 'w' has no dimension 1: its shape is \(2,\)"):
        fo.adaptive_grad_clip(0.1, axis=1).update({"w": jnp.ones(2)}, fo.EmptyState(), {"w": jnp.ones(2)})
    for axis in (1.5, "rows", (0, None), True):
        with pytest.raises(
            TypeError, match="adaptive_grad_clip: axis must be an integer, a tuple of integers or a fun"
        ):
            fo.adaptive_grad_clip(0.1, axis=axis)
    with pytest.raises(TypeError, match="axis must be an integer"):
        fo.adaptive_grad_clip(0.1, axis=lambda shape: "rows").update(six, fo.EmptyState(), six)
    with pytest.raises(ValueError, match=r"adaptive_grad_clip needs the parameters: update\(updates, state, params\)"):
        fo.adaptive_grad_clip(0.1).update(six, fo.EmptyState())
    assert repr(fo.adaptive_grad_clip(0.1, axis=-1)) == (
        "adaptive_grad_clip(clipping=0.1, eps=0.001, axis=(-1,), axis_name=None)"
    )


@pytest.mark.parametrize("max_norm", [0.0, 1.0, 100.0])
def test_clip_by_norm_is_torchs_formula_for_each_array(max_norm):
    tx, grads = fo.clip_by_norm(max_norm), tree()
    found, _ = tx.update(grads, tx.init(grads))
    for name, grad in grads.items():
        factor = min(1.0, max_norm / (np.linalg.norm(np.ravel(grad)) + 1e-6))
        np.testing.assert_allclose(found[name], factor * np.asarray(grad), rtol=1e-6)


def test_the_norms_of_parts_count_complex_numbers_once_and_add_up_in_float32():
    grads = {"complex": jnp.array([3 + 4j]), "half": jnp.ones(10_000, jnp.bfloat16), "none": None}
    found, _ = fo.clip_by_norm(1.0).update(grads, fo.EmptyState())
    np.testing.assert_allclose(found["complex"], np.array([0.6 + 0.8j]), rtol=1e-6)
    np.testing.assert_array_equal(found["half"], jnp.full(10_000, 0.01, jnp.bfloat16))
    assert found["none"] is None
    found, _ = fo.clip_by_block_rms(1.0).update(
        {"c": jnp.array([3 + 4j]), "nothing": jnp.zeros((0, 2))}, fo.EmptyState()
    )
    np.testing.assert_allclose(found["c"], np.array([0.6 + 0.8j]), rtol=1e-6)
    params = {"w": jnp.array([[1 + 0j], [0 + 1j]])}
    found, _ = fo.adaptive_grad_clip(1.0).update({"w": jnp.array([[3 + 4j], [0j]])}, fo.EmptyState(), params)
    np.testing.assert_allclose(found["w"], np.sqrt(2) * np.array([[0.6 + 0.8j], [0j]]), rtol=1e-6)


ZERO_SAFE = [fo.clip_by_norm(1.0), fo.clip_by_block_rms(0.0), fo.adaptive_grad_clip(0.0), fo.clip_by_block_rms(1.0)]


@pytest.mark.parametrize("tx", [*ZERO_SAFE, fo.clip_by_percentile(), fo.clip_by_zscore(warmup=2)])
def test_zeros_stay_zero(tx):
    zeros = {"a": jnp.zeros(3), "b": jnp.zeros(())}
    state = tx.init(zeros)
    for _ in range(4):
        found, state = tx.update(zeros, state, zeros)
    chex.assert_trees_all_equal(found, zeros)


RATIOS = {
    "adaptive_grad_clip": fo.adaptive_grad_clip(0.1),
    "adaptive_grad_clip_zero": fo.adaptive_grad_clip(0.0),
    "adaptive_grad_clip_two": fo.adaptive_grad_clip(2.0),
    "scale_by_trust_ratio": fo.scale_by_trust_ratio(),
    "scale_by_trust_ratio_zero": fo.scale_by_trust_ratio(trust_coefficient=0.0),
    "scale_by_trust_ratio_two": fo.scale_by_trust_ratio(trust_coefficient=2.0),
    "scale_by_param_norm": fo.scale_by_param_norm(),
    "scale_by_param_rms": fo.scale_by_param_rms(),
    "clip_by_global_norm": fo.clip_by_global_norm(1.0),
    "clip_by_norm": fo.clip_by_norm(1.0),
    "clip_by_block_rms": fo.clip_by_block_rms(1.0),
    "normalize": fo.normalize(),
}


@pytest.mark.parametrize("name", RATIOS)
def test_squares_that_overflow_make_no_nan_of_finite_numbers(name):
    grads = {"mixed": jnp.array([[0.0, 1.0], [1e-30, 1e-3]]), "zero": jnp.zeros((2, 2))}
    for grad in (0.0, 1e-30, 1.0, 1e30, -3e38):
        for param in (0.0, 1e-30, 1.0, 1e30, -3e38):
            own = {name: leaf.at[1, 1].set(grad) for name, leaf in grads.items()}
            params = jax.tree.map(lambda x, param=param: jnp.full_like(x, param), grads)
            found, _ = jax.jit(RATIOS[name].update)(own, fo.EmptyState(), params)
            assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(found)), (grad, param)


def test_a_gradient_whose_squares_overflow_becomes_zero_and_large_weights_clip_nothing():
    ones, large = jnp.ones(2), jnp.full(2, 1e30)
    for tx in (fo.adaptive_grad_clip(0.1), fo.scale_by_trust_ratio()):
        assert tx.update(large, fo.EmptyState(), ones)[0].tolist() == [0.0, 0.0]
    assert fo.adaptive_grad_clip(0.1).update(ones, fo.EmptyState(), large)[0].tolist() == [1.0, 1.0]
    for tx in (fo.clip_by_global_norm(1.0), fo.normalize()):
        assert tx.update(large, fo.EmptyState())[0].tolist() == [0.0, 0.0]
    found, _ = fo.clip_by_global_norm(1.0).update(jnp.array([1.0, jnp.inf]), fo.EmptyState())
    assert found[0] == 0.0 and np.isnan(found[1])


def test_nan_stays_in_its_unit():
    grads, params = jnp.array([[1.0, jnp.nan], [1.0, 1.0]]), jnp.ones((2, 2))
    found, _ = fo.adaptive_grad_clip(0.1).update(grads, fo.EmptyState(), params)
    assert np.isnan(found[:, 1]).all() and np.isfinite(found[:, 0]).all()
    found, _ = fo.scale_by_trust_ratio().update({"a": grads, "b": params}, fo.EmptyState(), {"a": params, "b": params})
    assert np.isnan(found["a"]).all() and np.isfinite(found["b"]).all()


def test_the_divisor_of_adaptive_grad_clip_is_at_least_1e_6_as_in_optax():
    tx, params = fo.adaptive_grad_clip(0.01, eps=1e-5), jnp.zeros(1)
    for grad, wanted in ((5e-7, 5e-8), (5e-6, 1e-7), (5e-8, 5e-8)):
        theirs, _ = optax.adaptive_grad_clip(0.01, 1e-5).update(jnp.array([grad]), optax.EmptyState(), params)
        found, _ = tx.update(jnp.array([grad]), fo.EmptyState(), params)
        np.testing.assert_allclose(found, theirs, rtol=1e-6)
        np.testing.assert_allclose(found, [wanted], rtol=1e-5)


# ----------------------------------------------------------------------------------------------- by the norms so far


def zscore_reference(norms, z=2.5, decay=0.97, warmup=25, eps=1e-6, least=0.01):
    """The norms that remain, as in the authors' code, which has ``least=0``."""
    first, left, mean, var = [], [], None, None
    for norm in norms:
        kept = norm
        if mean is None:
            first.append(norm)
            if len(first) == warmup:
                mean = sum(first) / warmup
                var = sum((n - mean) ** 2 for n in first) / warmup
        else:
            std = max(var**0.5, least * mean)
            score = (norm - mean) / (std + eps)
            if score > z:
                kept = mean + z * std / (score / z)
            mean = decay * mean + (1 - decay) * kept
            var = decay * var + (1 - decay) * (kept - mean) ** 2
        left.append(kept)
    return left, mean, var


def norms_with_spikes(count):
    norms = 1 + 0.2 * np.random.default_rng(0).random(count)
    norms[25::7] *= 5
    return norms


def norms_left(tx, norms, dtype):
    """Return the norms of updates from gradients with these norms, in two leaves, and the last state."""
    params = {"a": jnp.zeros(2, dtype), "b": jnp.zeros((), dtype)}

    def step(state, norm):
        grads = {"a": jnp.full(2, norm / 2, dtype), "b": (norm / jnp.sqrt(jnp.asarray(2.0, dtype))).astype(dtype)}
        updates, state = tx.update(grads, state, params)
        return state, fo.global_norm(updates)

    state, left = jax.lax.scan(step, tx.init(params), jnp.asarray(norms, dtype))
    return np.asarray(left), state


def test_clip_by_zscore_is_the_authors_rule():
    norms = norms_with_spikes(80)
    wanted, mean, var = zscore_reference(norms)
    assert np.sum(np.asarray(wanted) != norms) > 5 and zscore_reference(norms, least=0)[0] == wanted
    left, state = norms_left(fo.clip_by_zscore(), norms, jnp.float32)
    np.testing.assert_allclose(left, wanted, rtol=2e-5)
    assert (int(state.step), int(state.n_norms)) == (80, 80)
    with jax.enable_x64(True):
        left, state = norms_left(fo.clip_by_zscore(), norms, jnp.float64)
        np.testing.assert_allclose(left, wanted, rtol=1.1e-6)  # torch's coefficient has a 1e-6
        np.testing.assert_allclose([state.mean, state.variance], [mean, var], rtol=1e-10)
        options = {"z": 1.0, "decay": 0.5, "warmup": 3, "eps": 0.01}
        _, state = norms_left(fo.clip_by_zscore(**options), norms, jnp.float64)
        np.testing.assert_allclose([state.mean, state.variance], zscore_reference(norms, **options)[1:], rtol=1e-10)


@pytest.mark.parametrize("first", [1.0, 1e4])
def test_clip_by_zscore_follows_norms_that_grow_slowly_after_equal_ones(first):
    """In the authors' code every norm after equal ones is clipped to their mean."""
    norms = first * np.concatenate([np.ones(25), 1.001 ** np.arange(1, 500)])
    assert max(zscore_reference(norms, least=0)[0]) == pytest.approx(first)
    left, _ = norms_left(fo.clip_by_zscore(), norms, jnp.float32)
    np.testing.assert_allclose(left, norms, rtol=2e-5)
    for late in (False, True):  # a spike is clipped, right after equal norms too
        spiked = np.append(norms if late else norms[:25], 100 * norms[-1])
        left, _ = norms_left(fo.clip_by_zscore(), spiked, jnp.float32)
        assert left[-1] == pytest.approx(spiked[-2], rel=0.1)


def test_zero_gradients_at_the_start_tell_clip_by_zscore_nothing():
    norms = np.concatenate([np.zeros(25), 2 + 0.1 * np.random.default_rng(0).random(30), [100.0]])
    left, _ = norms_left(fo.clip_by_zscore(), norms, jnp.float32)
    np.testing.assert_allclose(left[:-1], norms[:-1], rtol=1e-6)
    assert left[-1] < 10


def test_ordinary_gradients_pass_clip_by_zscore_bit_for_bit():
    tx, params = fo.clip_by_zscore(z=20.0, warmup=2), {"w": jnp.zeros(3, jnp.bfloat16)}
    state = tx.init(params)
    assert state.mean.dtype == jnp.float32
    for seed in range(6):
        grads = {"w": jnp.asarray(np.random.default_rng(seed).standard_normal(3), jnp.bfloat16)}
        updates, state = tx.update(grads, state)
        chex.assert_trees_all_equal(updates, grads)
    grads = {"w": jnp.full(3, 1e4, jnp.bfloat16)}
    assert fo.global_norm(tx.update(grads, state)[0]) < 10


def percentile_reference(norms, percentile, history):
    thresholds = [np.percentile(norms[max(0, i + 1 - history) : i + 1], percentile) for i in range(len(norms))]
    return [norm * min(1.0, bound / (norm + 1e-6)) for norm, bound in zip(norms, thresholds, strict=True)]


@pytest.mark.parametrize(("percentile", "history"), [(10.0, 1000), (50.0, 7), (0.0, 3), (100.0, 5), (97.5, 1)])
def test_clip_by_percentile_is_numpys_percentile(percentile, history):
    norms = norms_with_spikes(40)
    wanted = percentile_reference(norms, percentile, history)
    with jax.enable_x64(True):
        left, _ = norms_left(fo.clip_by_percentile(percentile, history), norms, jnp.float64)
        np.testing.assert_allclose(left, wanted, rtol=1e-10)
    left, state = norms_left(fo.clip_by_percentile(percentile, history), norms, jnp.float32)
    np.testing.assert_allclose(left, wanted, rtol=1e-5)
    assert state.norms.shape == (history,) and int(state.n_norms) == 40


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("tx", [fo.clip_by_zscore(warmup=2), fo.clip_by_percentile(history=4)])
def test_a_non_finite_norm_passes_and_is_not_remembered(tx, bad):
    state = tx.init(jnp.zeros(2))
    first, state = tx.update(jnp.array([bad, 1.0]), state)
    np.testing.assert_array_equal(first, [bad, 1.0])
    for norm in (1.0, 1.1, 1.2):
        _, state = tx.update(jnp.array([norm, 0.0]), state)
    updates, after = tx.update(jnp.array([bad, 1.0]), state)
    np.testing.assert_array_equal(updates, [bad, 1.0])
    assert int(after.step) == 5 and int(after.n_norms) == 3
    chex.assert_trees_all_equal(after[1:], state[1:])


def test_the_bounds_may_be_schedules_and_are_reported():
    doubled = lambda step: 1.0 + step.astype(jnp.float32)  # noqa: E731 a schedule of one line
    params = {"w": jnp.full(4, 2.0)}
    for make, name in (
        (fo.clip_by_norm, "max_norm"),
        (fo.clip_by_block_rms, "threshold"),
        (fo.adaptive_grad_clip, "clipping"),
        (lambda z: fo.clip_by_zscore(z, warmup=2), "z"),
        (fo.clip_by_percentile, "percentile"),
    ):
        tx = make(doubled)
        state = tx.init(params)
        for step in range(3):
            assert float(fo.current_hyperparams(tx, state)[name]) == 1.0 + step
            _, state = jax.jit(tx.update)(params, state, params)
    assert fo.current_hyperparams(fo.clip_by_zscore(), fo.clip_by_zscore().init(None)) == {
        "z": 2.5,
        "decay": 0.97,
        "eps": 1e-6,
    }


def test_bounds_are_data(compilations):
    grads = tree()

    @jax.jit
    def step(bound):
        links = fo.chain(fo.clip_by_norm(bound), fo.clip_by_block_rms(bound), fo.clip_by_zscore(bound, warmup=2))
        return links.update(grads, links.init(grads))[0]

    step(1.0)
    compilations.clear()
    step(0.5)
    assert not compilations


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: fo.clip_by_norm(-1.0), ValueError, r"must not be negative: -1.0 \(option 'max_norm'\)"),
        (lambda: fo.clip_by_norm("1"), TypeError, "max_norm must be a number, an array of one element or a schedule"),
        (lambda: fo.clip_by_block_rms(-1.0), ValueError, r"\(option 'threshold'\)"),
        (lambda: fo.adaptive_grad_clip(0.1, eps=-1.0), ValueError, r"\(option 'eps'\)"),
        (lambda: fo.clip_by_zscore(-1.0), ValueError, r"\(option 'z'\)"),
        (lambda: fo.clip_by_zscore(decay=1.5), ValueError, r"\(option 'decay'\)"),
        (lambda: fo.clip_by_zscore(eps=0.0), ValueError, r"\(option 'eps'\)"),
        (lambda: fo.clip_by_zscore(warmup=1), ValueError, "clip_by_zscore: warmup must be an integer of at least 2"),
        (lambda: fo.clip_by_zscore(warmup=2.5), TypeError, "clip_by_zscore: warmup must be an integer of at least 2"),
        (lambda: fo.clip_by_percentile(101), ValueError, r"percentile should be in \[0, 100\] but is: 101.0"),
        (lambda: fo.clip_by_percentile(history=0), ValueError, "history must be an integer of at least 1"),
        (lambda: fo.clip_by_zscore(axis_name=3), TypeError, "clip_by_zscore: axis_name must be the name of an axis"),
    ],
)
def test_options_out_of_range(build, kind, message):
    with pytest.raises(kind, match=message):
        build()
