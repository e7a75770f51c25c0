"""What cleans and scales gradients, against optax: NaN to zero, means, noise, norms, signs, trust ratios."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import functorch_optim as fo

SHAPES = {"scalar": (), "vector": (5,), "matrix": (4, 3), "kernel": (3, 3, 2, 4)}


def tree(seed=0, dtype=jnp.float32, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}


PAIRS = {
    "zero_nans": (fo.zero_nans(), optax.zero_nans()),
    "centralize": (fo.centralize(), optax.centralize()),
    "normalize": (fo.normalize(), optax.normalize_by_update_norm()),
    "normalize_eps": (fo.normalize(0.5), optax.normalize_by_update_norm(eps=0.5)),
    "normalize_exactly": (fo.normalize(0.0), optax.contrib.normalize()),
    "scale_by_sign": (fo.scale_by_sign(), optax.scale_by_sign()),
    "scale_by_trust_ratio": (fo.scale_by_trust_ratio(), optax.scale_by_trust_ratio()),
    "scale_by_trust_ratio_all": (fo.scale_by_trust_ratio(0.5, 0.1, 0.01), optax.scale_by_trust_ratio(0.5, 0.1, 0.01)),
    "scale_by_param_norm": (fo.scale_by_param_norm(), optax.scale_by_param_block_norm()),
    "scale_by_param_norm_least": (fo.scale_by_param_norm(3.0), optax.scale_by_param_block_norm(3.0)),
    "scale_by_param_rms": (fo.scale_by_param_rms(), optax.scale_by_param_block_rms()),
    "scale_by_param_rms_least": (fo.scale_by_param_rms(0.9), optax.scale_by_param_block_rms(0.9)),
}


def assert_like_optax(ours, theirs, dtype, rtol):
    params = tree(99, dtype) | {"zero": jnp.zeros(3, dtype)}
    state, other = ours.init(params), theirs.init(params)
    for seed in range(3):
        grads = tree(seed, dtype, 10.0 ** (seed - 1)) | {"zero": jnp.ones(3, dtype)}
        found, state = ours.update(grads, state, params)
        wanted, other = theirs.update(grads, other, params)
        chex.assert_trees_all_close(found, wanted, rtol=rtol, atol=rtol / 10)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)
def test_the_numbers_are_optaxs(ours, theirs):
    assert_like_optax(ours, theirs, jnp.float32, 1e-6)
    with jax.enable_x64(True):
        assert_like_optax(ours, theirs, jnp.float64, 1e-10)


def test_zero_nans_keeps_the_rest_and_counts_updates():
    tx = fo.zero_nans()
    state = tx.init(None)
    grads = {"a": jnp.array([jnp.nan, jnp.inf, -0.0]), "b": jnp.array([complex(jnp.nan, 1), 1j]), "c": None}
    updates, state = tx.update(grads, state)
    assert updates["a"].tolist() == [0.0, np.inf, 0.0] and np.signbit(updates["a"][2])
    assert updates["b"].tolist() == [0j, 1j] and updates["c"] is None
    updates, state = tx.update({"a": jnp.ones(2)}, state)
    assert int(state.total) == 1
    _, state = tx.update({"a": jnp.full(2, jnp.nan, jnp.bfloat16), "b": jnp.full(3, jnp.nan)}, state)
    assert int(state.total) == 2


def test_centralize_over_other_axes():
    grads = tree()
    found, _ = fo.centralize(axis=lambda shape: tuple(range(len(shape) - 1))).update(grads, fo.EmptyState())
    for name, grad in grads.items():
        whole = np.asarray(grad)
        axes = tuple(range(whole.ndim - 1))
        wanted = whole - whole.mean(axes, keepdims=True) if axes else whole
        np.testing.assert_allclose(found[name], wanted, atol=1e-6)
    found, _ = fo.centralize(-1).update({"w": grads["matrix"]}, fo.EmptyState())
    np.testing.assert_allclose(np.mean(found["w"], axis=-1), np.zeros(4), atol=1e-6)
    with pytest.raises(ValueError, match=r"centralize: the parameter 'w' has no dimension 2: its shape is \(4, 3\)"):
        fo.centralize(2).update({"w": grads["matrix"]}, fo.EmptyState())
    with pytest.raises(TypeError, match="centralize: axis must be an integer"):
        fo.centralize("rows")


def test_centralize_calculates_means_in_float32():
    grads = jnp.tile(jnp.array([[256.0, 257.0]], jnp.bfloat16), (1, 300))
    found, _ = fo.centralize().update(grads, fo.EmptyState())
    wanted = np.asarray(grads, np.float32) - np.mean(np.asarray(grads, np.float32))
    np.testing.assert_array_equal(np.asarray(found, np.float32), wanted)


def noise_of(tx, steps, like):
    state, drawn = tx.init(like), []
    for _ in range(steps):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, like), state)
        drawn.append(updates)
    return drawn, state


def test_noise_has_the_variance_of_the_paper():
    like = {"a": jnp.zeros(20_000), "b": jnp.zeros(20_000)}
    drawn, _ = noise_of(fo.add_noise(3, eta=0.5, gamma=2.0), 3, like)
    for step, noise in enumerate(drawn):
        for leaf in noise.values():
            np.testing.assert_allclose(np.std(leaf), np.sqrt(0.5 / (1 + step) ** 2), rtol=0.03)
            assert abs(np.mean(leaf)) < 0.03
        assert abs(np.corrcoef(noise["a"], noise["b"])[0, 1]) < 0.03  # each leaf has its own
    assert abs(np.corrcoef(drawn[0]["a"], drawn[1]["a"])[0, 1]) < 0.03  # and each step


def test_noise_depends_on_the_key_the_step_and_the_place_alone():
    like = {"a": jnp.zeros(4), "b": jnp.zeros(4)}
    tx = fo.add_noise(jax.random.key(7))
    assert tx == fo.add_noise(7) == fo.add_noise(jax.random.key_data(jax.random.key(7)))
    assert tx != fo.add_noise(8)
    drawn, state = noise_of(tx, 3, like)
    again, _ = noise_of(tx, 3, like)
    chex.assert_trees_all_equal(drawn, again)
    resumed, _ = tx.update(jax.tree.map(jnp.zeros_like, like), state)
    chex.assert_trees_all_equal(resumed, noise_of(tx, 4, like)[0][-1])
    alone, _ = tx.update({"a": None, "b": jnp.zeros(4)}, tx.init(like))
    chex.assert_trees_all_equal(alone["b"], drawn[0]["b"])
    other = fo.add_noise(jax.random.key(7, impl="rbg"))
    assert not np.array_equal(noise_of(other, 1, like)[0][0]["a"], drawn[0]["a"])
    assert state.key.tolist() == jax.random.key_data(jax.random.key(7)).tolist() and int(state.step) == 3


def test_noise_of_narrow_and_complex_gradients():
    like = {"half": jnp.zeros(1000, jnp.bfloat16), "complex": jnp.zeros(20_000, jnp.complex64)}
    [noise], _ = noise_of(fo.add_noise(0, eta=1.0), 1, like)
    assert noise["half"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.std(noise["complex"]), 1, rtol=0.03)
    np.testing.assert_allclose(np.std(noise["complex"].imag), np.sqrt(0.5), rtol=0.03)
    grads = {"half": jnp.full(1000, 256.0, jnp.bfloat16), "complex": None}
    updates, _ = fo.add_noise(0, eta=1.0).update(grads, fo.add_noise(0).init(like))
    wide = np.asarray(jax.random.normal(place_key(1), (1000,)), np.float32) + np.float32(256)
    np.testing.assert_array_equal(updates["half"], jnp.asarray(wide, jnp.bfloat16))


def place_key(place):
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), place)


@pytest.mark.parametrize("check_vma", [True, False])
def test_noise_of_shards_is_their_own_and_that_of_replicas_the_same(check_vma):
    specs = {"split": P("x"), "whole": P()}
    tx = fo.add_noise(0, axis_name=specs)
    grads = {"split": jnp.zeros(8), "whole": jnp.zeros(4)}

    def step(grads):
        updates, _ = tx.update(grads, tx.init(grads))
        return updates["split"], updates["whole"].reshape(1, -1)

    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    out = (P("x"), P() if check_vma else P("x"))
    run = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(specs,), out_specs=out, check_vma=check_vma))
    split, whole = run(grads)
    assert not np.any(split[:4] == split[4:])
    np.testing.assert_array_equal(whole[0], whole[-1])


def test_sizes_of_nothing_and_zero_norms():
    nothing = {"w": jnp.zeros((0, 3))}
    for tx in (fo.centralize(), fo.scale_by_param_rms(), fo.scale_by_trust_ratio(), fo.normalize(0.0), fo.add_noise(0)):
        assert tx.update(nothing, tx.init(nothing), nothing)[0]["w"].shape == (0, 3)
    zeros = {"w": jnp.zeros(3)}
    for tx in (fo.normalize(0.0), fo.scale_by_sign(), fo.scale_by_trust_ratio(), fo.scale_by_param_norm()):
        chex.assert_trees_all_equal(tx.update(zeros, tx.init(zeros), zeros)[0], zeros)


def test_complex_updates_are_scaled_by_real_norms():
    params, grads = jnp.array([3 + 4j]), jnp.array([2j])
    for tx, wanted in (
        (fo.scale_by_trust_ratio(), 5j),
        (fo.scale_by_param_norm(), 10j),
        (fo.scale_by_param_rms(), 10j),
        (fo.normalize(0.0), 1j),
        (fo.scale_by_sign(), 1j),
    ):
        np.testing.assert_allclose(tx.update(grads, tx.init(params), params)[0], [wanted], rtol=1e-6)


@pytest.mark.parametrize("make", [fo.scale_by_trust_ratio, fo.scale_by_param_norm, fo.scale_by_param_rms])
def test_parameters_are_needed_and_integers_without_gradients_are_not_read(make):
    with pytest.raises(ValueError, match=rf"{make.__name__} needs the parameters: update\(updates, state, params\)"):
        make().update({"w": jnp.ones(2)}, make().init(None))
    params = {"count": jnp.array(3), "w": jnp.ones(2)}
    grads = jax.grad(lambda p: jnp.sum(p["w"]) * p["count"], allow_int=True)(params)
    updates, _ = make().update(grads, make().init(params), params)
    assert updates["count"] is None or updates["count"].dtype == jax.dtypes.float0
    assert fo.apply_updates(params, updates)["count"] is params["count"]


def test_numbers_may_be_schedules():
    halved = lambda step: 0.5 ** step.astype(jnp.float32)  # noqa: E731 a schedule of one line
    params = {"w": jnp.array([3.0, 4.0])}
    for make, name in (
        (fo.normalize, "eps"),
        (lambda value: fo.add_noise(0, value), "eta"),
        (lambda value: fo.scale_by_trust_ratio(trust_coefficient=value), "trust_coefficient"),
        (fo.scale_by_param_norm, "min_scale"),
        (fo.scale_by_param_rms, "min_scale"),
    ):
        tx = make(halved)
        state = tx.init(params)
        for step in range(3):
            assert float(fo.current_hyperparams(tx, state)[name]) == 0.5**step
            _, state = jax.jit(tx.update)(params, state, params)


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: fo.normalize(-1.0), ValueError, r"\(option 'eps'\)"),
        (lambda: fo.add_noise("0"), TypeError, "add_noise: the key must be a key of jax.random or an integer"),
        (lambda: fo.add_noise(0, eta=-1.0), ValueError, r"\(option 'eta'\)"),
        (lambda: fo.add_noise(0, gamma=-1.0), ValueError, r"\(option 'gamma'\)"),
        (lambda: jax.jit(fo.add_noise)(0), TypeError, "add_noise: the key is traced"),
        (lambda: fo.scale_by_trust_ratio(-1.0), ValueError, r"\(option 'min_norm'\)"),
        (lambda: fo.scale_by_trust_ratio(eps=-1.0), ValueError, r"\(option 'eps'\)"),
        (lambda: fo.scale_by_param_norm(-1.0), ValueError, r"\(option 'min_scale'\)"),
        (lambda: fo.scale_by_param_rms("x"), TypeError, "min_scale must be a number"),
        (lambda: fo.zero_nans(axis_name=3), TypeError, "zero_nans: axis_name must be the name of an axis"),
    ],
)
def test_options_out_of_range(build, kind, message):
    with pytest.raises(kind, match=message):
        build()
