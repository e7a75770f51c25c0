"""State in few bits: the published maps, the tiles, the numbers that come back, and steps with them."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.checkpoint import CheckpointError, TorchLayout, load_safetensors, save_safetensors
from functorch_optim.core import tiles
from functorch_optim.core.dynamic_map import decode, dynamic_map, encode, midpoints
from functorch_optim.transforms.correction import joined, parts_of
from functorch_optim.transforms.quantized import _dequantized, _quantized
from tests.algorithms import full
from tests.equality import same_trees

MOMENTUM = {"momentum_buffer": "dynamic8"}
BOTH = {"exp_avg": "dynamic8", "exp_avg_sq": "dynamic8"}
encoded, decoded = jax.jit(_quantized, static_argnums=1), jax.jit(_dequantized)
SHAPES = {"a": (64, 64), "b": (4,), "c": (16, 300), "d": (8, 1021), "scale": ()}


def params_of(seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


def ran(tx, params, steps=3, state=None):
    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        return fo.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params) if state is None else state
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_the_published_one(signed):
    numbers, positive = dynamic_map(signed), []
    for decade in range(7):
        count = 2 ** (decade + (not signed))
        edges = [0.1 + 0.9 * k / count for k in range(count + 1)]
        positive += [10.0 ** (decade - 6) * (low + high) / 2 for low, high in itertools.pairwise(edges)]
    wanted = sorted([0.0, 1.0, *positive, *([-number for number in positive] if signed else [])])
    assert len(wanted) == numbers.size == 256 and numbers.dtype == np.float32
    np.testing.assert_allclose(numbers, wanted, rtol=3e-7, atol=0)
    assert np.all(np.diff(numbers) > 0)


@pytest.mark.torch
@pytest.mark.parametrize("signed", [True, False])
def test_the_map_has_the_bits_of_the_published_code(signed):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch")
    numbers = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade + (not signed)) + 1, dtype=torch.float32)
        means = 10 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2.0)
        numbers += means.tolist() + ((-means).tolist() if signed else [])
    assert np.array_equal(dynamic_map(signed), torch.tensor(sorted(numbers), dtype=torch.float32).numpy())


def test_spot_values_of_the_maps():
    signed, unsigned = dynamic_map(True), dynamic_map(False)
    np.testing.assert_allclose(
        signed[[0, 1, 126, 127, 128, 129]], [-0.99296874, -0.97890627, -5.5e-7, 0, 5.5e-7, 3.25e-6]
    )
    np.testing.assert_allclose(signed[[254, 255]], [0.99296874, 1])
    np.testing.assert_allclose(unsigned[[0, 1, 2, 254, 255]], [0, 3.25e-7, 7.75e-7, 0.99648434, 1], rtol=1e-6)


def near(borders):
    """Numbers around the borders, up to three units in the last place."""
    bits = borders.view(np.int32)
    return np.concatenate([(bits + offset).view(np.float32) for offset in range(-3, 4)])


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_those_of_a_search_among_the_midpoints(signed):
    rng = np.random.default_rng(0)
    spread = np.abs(rng.standard_normal(20_000)) * 10.0 ** rng.uniform(-9, 0, 20_000)
    numbers = np.concatenate([near(midpoints(signed)), dynamic_map(signed), spread, [0, 1, 1e-30]])
    numbers = np.clip(np.abs(numbers), 0, 1).astype(np.float32)
    found = np.asarray(jax.jit(encode)(numbers, jnp.bool_(signed)))
    wanted = np.searchsorted(midpoints(signed), numbers)
    if signed:
        assert np.array_equal(found, 127 + wanted)
        assert np.array_equal(encode(-numbers, jnp.bool_(True)), 127 - np.minimum(wanted, 127))
    else:
        assert np.array_equal(found, np.maximum(wanted, numbers > 0))  # what is positive stays positive
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(decode(codes, jnp.bool_(signed)), dynamic_map(signed))
    assert np.array_equal(encode(decode(codes, jnp.bool_(signed)), jnp.bool_(signed)), codes)


def test_tiles_have_about_a_block_of_entries():
    shapes = [
        (n, m)
        for n in (1, 2, 3, 5, 7, 64, 1000)
        for m in (1, 2, 3, 64, 127, 134, 170, 205, 257, 300, 410, 411, 768, 1021)
    ]
    for shape in [*shapes, (3, 3, 16, 32), (50257, 64), (4096,), (7, 11, 13, 17)]:
        grid = tiles.grid_of(shape, 256, (1,) * len(shape))
        lengths = [-(-n // g) for n, g in zip(shape, grid, strict=True)]
        assert all(-(-n // t) == g for n, t, g in zip(shape, lengths, grid, strict=True)), (shape, grid)
        if math.prod(shape) >= 4096:
            assert math.prod(shape) / math.prod(grid) >= 0.8 * 256, (shape, grid)
            assert math.prod(lengths) <= 1.7 * 256, (shape, grid)
    found = {shape: tiles.grid_of(shape, 256, (1, 1)) for shape in [(8, 64), (2, 768), (2, 300), (2, 1000), (2, 1021)]}
    assert list(found.values()) == [(2, 1), (2, 3), (2, 1), (2, 4), (2, 4)]
    assert tiles.grid_of((64, 64), 256, (1, 8)) == (2, 8) and tiles.grid_of((64, 64), 256, (32, 1)) == (32, 1)
    assert tiles.grid_of((2, 1018), 256, (1, 2)) == (2, 2)  # a shard of 509 is not cut in unequal parts


@pytest.mark.parametrize("shape", [(8, 1021), *full((5, 134), (7, 3, 300), (4096,), (6, 64))])
def test_numbers_come_back_within_half_a_step_of_their_tiles(shape):
    rng = np.random.default_rng(0)
    whole = jnp.asarray(
        rng.standard_normal(shape) * 10.0 ** rng.uniform(-4, 4, (shape[0],) + (1,) * (len(shape) - 1)), jnp.float32
    )
    grid = tiles.grid_of(shape, 256, (1,) * len(shape))
    for array, share in ((whole, 0.0071), (jnp.abs(whole), 0.0036)):
        node = encoded(array, grid)
        assert node.codes.shape == shape and node.codes.dtype == jnp.uint8 and node.scales.shape == grid
        back = np.asarray(decoded(node))
        for place in np.ndindex(grid):
            own = tuple(slice(i * -(-n // g), (i + 1) * -(-n // g)) for i, n, g in zip(place, shape, grid, strict=True))
            part, largest = np.asarray(array)[own], np.abs(np.asarray(array)[own]).max()
            assert np.abs(back[own] - part).max() <= share * largest
            np.testing.assert_allclose(abs(float(node.scales[place])), largest, rtol=0.0073)
        settled = encoded(decoded(node), grid)
        assert same_trees(encoded(decoded(settled), grid), settled)  # a slot that does not change stays


def test_zeros_stay_and_what_is_not_finite_is_not_lost():
    rows = [
        [0, -0.0],
        [1, jnp.nan],
        [1, jnp.inf],
        [-jnp.inf, 1],
        [1e-39, -1e-40],
        [3e38, -3e38],
        [2, 0],
        [-2, 0],
        [1e-12, 1],
    ]
    node = encoded(jnp.tile(jnp.asarray(rows, jnp.float32), (1, 8)), (9, 1))
    back = np.asarray(decoded(node))[:, :2]
    assert np.array_equal(back[[0, 4, 6]], [[0, 0], [0, 0], [2, 0]])
    np.testing.assert_allclose(back[7], [-2, 0], rtol=1e-3)
    assert np.isnan(back[[1, 2, 3]]).all()
    np.testing.assert_allclose(back[5], [3e38, -3e38], rtol=0.01)
    assert back[8, 0] > 0  # nothing positive vanishes where nothing is negative


@pytest.mark.parametrize("bad", [jnp.nan, *full(jnp.inf)])
def test_a_gradient_that_is_not_finite_shows(bad):
    tx, params = fo.quantized(fo.adamw(lr=0.1), BOTH), params_of()
    grads = params | {"a": params["a"].at[3, 5].set(bad)}
    step = jax.jit(tx.update)
    updates, state = step(grads, jax.jit(tx.init)(params), params)
    assert np.isnan(state.exp_avg["a"].scales).sum() == np.isnan(state.exp_avg_sq["a"].scales).sum() == 1
    updates, state = step(params, state, params)
    assert np.isnan(updates["a"]).sum() == 256 and np.isnan(state.exp_avg["a"].scales).sum() == 1
    guarded = fo.skip_nonfinite(tx, 5)
    first = jax.jit(guarded.init)(params)
    assert same_trees(jax.jit(guarded.update)(grads, first, params)[1].inner, first.inner)


def test_slots_dtypes_and_bytes():
    params = params_of() | {"half": jnp.ones((64, 64), jnp.bfloat16), "pair": jnp.ones((64, 64), jnp.complex64)}
    state = jax.jit(fo.quantized(fo.adam(), BOTH).init)(params)
    kinds = {name: jax.tree.map(lambda leaf: leaf.dtype.name, slot) for name, slot in state.exp_avg.items()}
    assert kinds == {
        "a": ("uint8", "float32"), "b": "float32", "c": ("uint8", "float32"), "d": ("uint8", "float32"),
        "scale": "float32", "half": ("uint8", "bfloat16"), "pair": "complex64",
    }  # fmt: skip
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731 one line
    for name in ("a", "c", "d"):
        moments = size([state.exp_avg[name], state.exp_avg_sq[name]])
        assert moments <= 2 * (1 + 4 / (0.8 * 256)) * params[name].size
    assert jax.eval_shape(fo.quantized(fo.adam(), BOTH).init, params) == jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state
    )


@pytest.mark.full
def test_float64_slots_come_back_in_float64(x64):
    tx = fo.quantized(fo.adam(lr=0.1), BOTH)
    params = {"w": jnp.linspace(-1, 1, 4096, dtype=jnp.float64)}
    updates, state = jax.jit(tx.update)(params, tx.init(params), params)
    assert updates["w"].dtype == state.exp_avg["w"].scales.dtype == jnp.float64
    assert tx.update(params, state, params)[1].exp_avg["w"].codes.dtype == jnp.uint8


def test_which_slots_are_in_few_bits():
    params = params_of() | {"embed": {"w": jnp.ones((64, 64))}, "w": jnp.ones((64, 64))}

    def held(tx):
        slots = jax.eval_shape(tx.init, params).exp_avg
        return {name for name, slot in slots.items() if jax.tree.leaves(slot)[0].dtype == jnp.uint8}

    def own(keep=None, **options):
        return fo.quantized(fo.adam(), {"exp_avg": "dynamic8"}, keep=keep, **options)

    assert held(own()) == {"a", "c", "d", "embed", "w"}
    assert held(own(min_size=4097)) == {"c", "d"}
    assert held(own(lambda path: path == "w")) == {"a", "c", "d", "embed"}
    assert held(own(lambda path: path == "embed.w")) == {"a", "c", "d", "w"}
    mask = jax.tree.map(lambda _: False, params) | {"a": True}
    state = jax.eval_shape(own(mask).init, params)
    assert state.exp_avg["a"].dtype == state.exp_avg_sq["c"].dtype == jnp.float32
    with pytest.raises(ValueError, match="the state has no slot ema; it has exp_avg, exp_avg_sq"):
        fo.quantized(fo.adam(), {"ema": "dynamic8"}).init(params)


ERRORS = {
    "format": (lambda: fo.quantized(fo.adam(), {"exp_avg": "int8"}), ValueError, "the format of exp_avg must be"),
    "nearest": (lambda: fo.quantized(fo.adam(), {"exp_avg": "bfloat16"}), ValueError, "fo.state_dtype rounds to"),
    "formats": (lambda: fo.quantized(fo.adam(), "dynamic8"), TypeError, "formats must be a dict"),
    "block": (lambda: fo.quantized(fo.adam(), BOTH, block=4), ValueError, "block must be an integer of at least 16"),
    "seed": (lambda: fo.quantized(fo.adam(), BOTH, seed=-1), ValueError, "seed must be an integer of at least 0"),
    "slot": (lambda: fo.quantized(fo.sgd(), BOTH).init(params_of()), ValueError, "no slot exp_avg, exp_avg_sq; it has"),
    "inner": (lambda: fo.quantized(fo.adam, BOTH), TypeError, "inner of quantized must be a transformation"),
    "mask": (lambda: fo.quantized(fo.adam(), BOTH, keep={"a": 1.5}), TypeError, "a mask is a tree of booleans"),
    "correction": (lambda: fo.master_weights(fo.adam(), "int4"), ValueError, "correction must be None or 'int8'"),
    "leaves": (
        lambda: fo.requantized(fo.adam().init({"a": jnp.ones(2)}), fo.adam().init({"b": jnp.ones(2)})),
        ValueError, "requantized: the states have different leaves: exp_avg.b, exp_avg_sq.b is only in like",
    ),
    "shapes": (
        lambda: fo.requantized(fo.quantized(fo.adam(), BOTH, 16, 1).init(jnp.ones(16)), fo.adam().init(jnp.ones(8))),
        ValueError, r"requantized: 'exp_avg' has shape \(16,\), but in like \(8,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()


def objective(params, x):
    hidden = jnp.tanh(x @ params["first"])
    return jnp.mean((hidden @ params["second"] - jnp.sin(3 * x[:, :8])) ** 2)


@pytest.mark.full
def test_a_run_in_eight_bits_ends_where_the_float32_run_ends():
    shapes = {"first": (32, 128), "second": (128, 8)}
    start = jax.tree.map(lambda leaf: 0.2 * leaf, params_of(0, shapes))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((256, 32)), jnp.float32)

    def trained(tx):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(objective)(params, x)
            updates, state = tx.update(grads, state, params)
            return (fo.apply_updates(params, updates), state), value

        return jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), length=400)[1])(start)

    plain = trained(fo.adamw(lr=3e-3))
    few = trained(fo.quantized(fo.adamw(lr=3e-3), BOTH, min_size=512))
    assert plain[-1] < 0.05 * plain[0]
    assert few[-50:].mean() < 1.1 * plain[-50:].mean()
    np.testing.assert_allclose(few[:50], plain[:50], rtol=0.03)


@pytest.mark.full
def test_a_moment_rounded_at_random_does_not_stand_still():
    params, grads = jnp.zeros(4096), jnp.full(4096, 0.5)

    def moment(tx, steps=400):
        body = lambda _, state: tx.update(grads, state, params)[1]  # noqa: E731 one line
        return jax.jit(lambda: jax.lax.fori_loop(0, steps, body, tx.init(params)))()

    inner = fo.adam(betas=(0.9, 0.999))
    exact = moment(inner).exp_avg_sq[0]
    nearest = moment(fo.state_dtype(inner, {"exp_avg_sq": "bfloat16"})).exp_avg_sq.astype(jnp.float32)
    rounded = moment(fo.quantized(inner, {"exp_avg_sq": "bfloat16_stochastic"})).exp_avg_sq.values
    assert rounded.dtype == jnp.bfloat16 and rounded.astype(jnp.float32).std() > 0
    np.testing.assert_allclose(rounded.astype(jnp.float32).mean(), exact, rtol=2e-3)
    assert abs(nearest[0] - exact) > 0.2 * exact  # it stopped growing
    other = moment(fo.quantized(inner, {"exp_avg_sq": "bfloat16_stochastic"}, seed=1)).exp_avg_sq.values
    assert not np.array_equal(other, rounded)
    with pytest.raises(ValueError, match="needs a count of steps"):
        uncounted().init(params)


def uncounted():
    """A transformation whose state has no integer."""
    state = fo.adam().init(jnp.zeros(4096))._replace(step=jnp.zeros(()))
    inner = fo.GradientTransformation(lambda params: state, lambda updates, state, params=None: (updates, state))
    return fo.quantized(inner, {"exp_avg": "bfloat16_stochastic"})


@pytest.mark.full
def test_a_slot_without_a_gradient_keeps_its_bits():
    tx, params = fo.quantized(fo.accumulate(fo.adamw(lr=0.1), every=2), BOTH), params_of()
    state = ran(tx, params, 2)[1]
    later = jax.jit(tx.update)(params, state, params)[1]  # an accumulated gradient is no step
    assert int(fo.find_state(later, fo.AdamState).step) == int(fo.find_state(state, fo.AdamState).step) == 1
    assert same_trees(fo.find_state(later, fo.AdamState).exp_avg_sq, fo.find_state(state, fo.AdamState).exp_avg_sq)
    plain = fo.quantized(fo.adamw(lr=0.1), BOTH)
    state = ran(plain, params, 2)[1]
    after = plain.update(params | {"c": None}, state, params)[1]
    assert same_trees(after.exp_avg["c"], state.exp_avg["c"])


def converted(state, tx, params):
    like = jax.eval_shape(tx.init, params)
    return jax.jit(lambda state: fo.requantized(state, like))(state)


def test_requantized_leads_there_and_back(tmp_path):
    inner, params = fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1)), params_of()
    tx = fo.quantized(inner, BOTH)
    moved, plain = ran(inner, params)
    few = converted(plain, tx, params)
    assert jax.tree.structure(few) == jax.tree.structure(jax.eval_shape(tx.init, params))
    again = converted(few, inner, params)
    assert jax.tree.structure(again) == jax.tree.structure(plain)
    moments, wanted = (fo.find_state(state, fo.AdamState) for state in (again, plain))
    for name in ("a", "c", "d"):
        assert np.abs(moments.exp_avg[name] - wanted.exp_avg[name]).max() < 0.0071 * np.abs(wanted.exp_avg[name]).max()
    assert same_trees([moments.step, moments.exp_avg["b"]], [wanted.step, wanted.exp_avg["b"]])
    other = converted(few, fo.quantized(inner, BOTH, block=64), params)
    assert fo.find_state(other, fo.AdamState).exp_avg["a"].scales.shape == (64, 1)
    assert same_trees(converted(few, tx, params), converted(again, tx, params))
    save_safetensors(plain, tmp_path / "plain")  # a float32 checkpoint goes on in eight bits
    for other_like in (few, other):
        with pytest.raises(CheckpointError, match=r"exp_avg.a.codes is missing.*convert it: fo\.requantized"):
            load_safetensors(tmp_path / "plain", like=other_like)
    loaded = converted(load_safetensors(tmp_path / "plain", like=plain), tx, params)
    assert same_trees(loaded, few)
    ran(tx, moved, 1, loaded)
    rounding = fo.quantized(fo.adam(), {"exp_avg": "bfloat16_stochastic"})
    rounded = converted(jax.jit(fo.adam().init)(params), rounding, params)
    assert rounded.exp_avg["a"].values.dtype == jnp.bfloat16
    assert converted(rounded, fo.adam(), params).exp_avg["a"].dtype == jnp.float32


@pytest.mark.full
def test_torchs_layout_says_what_to_do():
    params = {"kernel": jnp.ones((64, 64))}
    optimizer = optim.Optimizer.from_transform(lambda lr: fo.quantized(fo.adamw(lr=lr), BOTH), params, {"lr": 0.1})
    optimizer.step(params)
    layout = TorchLayout(params, {"kernel": np.ones((64, 64), np.float32)})
    with pytest.raises(CheckpointError, match=r"is a slot in few bits \(fo.quantized\).*fo.requantized"):
        layout.state_to_torch(optimizer.state_dict())


@pytest.mark.parametrize("kind", [AxisType.Auto, *full(AxisType.Explicit)])
@pytest.mark.parametrize("form", ["alone", *full("zero", "offload")])
def test_on_a_mesh(form, kind):
    inner = fo.quantized(fo.chain(fo.clip_by_global_norm(0.5), fo.adamw(lr=0.1)), BOTH)
    tx = {"alone": inner, "zero": fo.zero(inner), "offload": fo.zero(fo.offload(inner))}[form]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    wanted = ran(inner, params_of())[0]
    with jax.set_mesh(mesh):
        spec = P("data") if form == "alone" else P()
        place = lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec if leaf.ndim == 2 else P()))  # noqa: E731 one line
        params = jax.tree.map(place, params_of())
        state = fo.init_sharded(tx, params)
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == fo.state_shardings(tx, params)
        found, after = ran(tx, params, state=state)
    for held in (state, after):
        moment = fo.find_state(held, fo.AdamState).exp_avg["a"]
        assert moment.codes.sharding.shard_shape((64, 64)) == (8, 64) and moment.scales.sharding.shard_shape(
            (16, 1)
        ) == (2, 1)
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, wanted[name], rtol=1e-4, atol=2e-3 if form == "alone" else 1e-5)


@pytest.mark.full
def test_inside_shard_map_a_shard_has_the_tiles_of_the_whole():
    tx, params = fo.quantized(fo.adamw(lr=0.1), BOTH, min_size=512), {"a": params_of()["a"], "c": params_of()["c"]}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    wanted, state = ran(tx, params)
    split = jax.tree.map(lambda leaf: P("data") if leaf.ndim else P(), state)

    def steps(params, state):
        for _ in range(3):
            updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
            params = fo.apply_updates(params, updates)
        return params, state

    run = jax.shard_map(steps, mesh=mesh, in_specs=(P("data"), split), out_specs=(P("data"), split))
    found, after = jax.jit(run)(params, tx.init(params))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_a_correction_has_the_next_eight_bits():
    rng = np.random.default_rng(0)
    spread = rng.standard_normal(50_000) * 10.0 ** rng.uniform(-30, 30, 50_000)
    whole = np.concatenate([spread, [0, -0.0, 1, 3.38e38, -3.38e38, 1.9999999, 1e-37]]).astype(np.float32)
    high, low = jax.jit(parts_of)(whole)
    assert high.dtype == jnp.bfloat16 and low.dtype == jnp.int8
    back = np.asarray(jax.jit(joined)(high, low))
    np.testing.assert_allclose(back, whole, rtol=2.0**-16)
    assert 3.395e38 < joined(*parts_of(jnp.float32(3.4028e38))) < 3.4e38  # bfloat16 ends before, and so does its sum
    again = jax.jit(parts_of)(back)
    assert same_trees(again, (high, low))
    np.testing.assert_allclose(
        np.asarray(high, np.float32), np.asarray(whole, jnp.bfloat16).astype(np.float32), rtol=2.0**-7
    )
    bad = jnp.array([jnp.inf, -jnp.inf, jnp.nan])
    np.testing.assert_array_equal(joined(*parts_of(bad)), bad)


@pytest.mark.full
def test_a_corrected_parameter_follows_the_float32_run():
    params = {"w": jnp.linspace(0.5, 2, 300).astype(jnp.bfloat16), "f": jnp.ones(2), "h": jnp.ones(2, jnp.float16)}

    def after(tx, steps=200):
        def step(_, carry):
            updates, state = tx.update(jax.tree.map(lambda p: jnp.full_like(p, 0.1), params), carry[1], carry[0])
            return fo.apply_updates(carry[0], updates), state

        return jax.jit(lambda: jax.lax.fori_loop(0, steps, step, (params, tx.init(params))))()

    (found, state), (wanted, exact) = (
        after(fo.master_weights(fo.sgd(lr=1e-3), "int8")),
        after(fo.master_weights(fo.sgd(lr=1e-3))),
    )
    assert state.master["w"].dtype == jnp.int8 and state.master["f"] is None and state.master["h"].dtype == jnp.float32
    np.testing.assert_allclose(joined(found["w"], state.master["w"]), exact.master["w"], rtol=200 * 2.0**-16)
    moved = params["w"].astype(jnp.float32) - found["w"].astype(jnp.float32)
    np.testing.assert_allclose(moved.mean(), 0.02, rtol=0.2)  # rounding to nearest, always of the same update
    assert np.array_equal(after(fo.sgd(lr=1e-3))[0]["w"], params["w"])
    assert same_trees(found["f"], wanted["f"])
    both = fo.master_weights(fo.quantized(fo.adamw(), BOTH), "int8")
    big = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(both.init(big))) <= 3.04 * 4096 + 4


class Named(NamedTuple):
    """Parameters with the name of a slot."""

    exp_avg: jax.Array
    w: jax.Array


def test_a_format_names_fields_of_the_state_and_not_of_the_parameters():
    params = Named(jnp.ones((64, 64)), jnp.ones((64, 64)))
    state = fo.quantized(fo.adamw(), {"exp_avg": "dynamic8"}).init(params)
    assert all(isinstance(node, fo.Quantized) for node in state.exp_avg)
    assert all(isinstance(node, jax.Array) for node in state.exp_avg_sq)
    with pytest.raises(ValueError, match="quantized: the state has no slot w; it has exp_avg, exp_avg_sq"):
        fo.quantized(fo.adamw(), {"w": "dynamic8"}).init(params)
    twice = fo.quantized(fo.quantized(fo.adamw(), BOTH), {"exp_avg": "dynamic8"})
    with pytest.raises(ValueError, match=r"exp_avg\.exp_avg is in few bits already, by another fo\.quantized"):
        twice.init(params)


@pytest.mark.full
def test_two_wrappers_quantize_as_one():
    params = Named(jnp.ones((64, 64)), jnp.ones((64, 64)))
    twice = fo.quantized(fo.quantized(fo.adamw(), {"exp_avg": "dynamic8"}), {"exp_avg_sq": "dynamic8"})
    wanted, found = (ran(tx, params)[0] for tx in (fo.quantized(fo.adamw(), BOTH), twice))
    assert same_trees(found, wanted)


@pytest.mark.parametrize(("dtype", "value"), [("float16", -65500.0), *full(("float32", 5e37), ("float32", -3.3e38))])
def test_large_finite_numbers_stay_finite(dtype, value):
    tx = fo.quantized(fo.state_dtype(fo.sgd(lr=1.0, momentum=0.5), {"momentum_buffer": dtype}), MOMENTUM, min_size=0)
    params = jnp.zeros(256)
    _, state = tx.update(jnp.full(256, value), tx.init(params), params)
    updates, _ = tx.update(jnp.zeros(256), state, params)
    np.testing.assert_allclose(updates, np.full(256, -0.5 * value), rtol=0.01)


@pytest.mark.full
@pytest.mark.parametrize("places", [(P("d"), P(None, "d")), (P(None, "d"), None), (P(), P("d"))])
def test_a_state_gets_other_tiles_wherever_it_is(places):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    whole = params_of(shapes={"w": (64, 128)})
    tx, plain = fo.quantized(fo.adamw(), {"exp_avg": "dynamic8"}), fo.adamw()
    source = jax.device_put(whole, NamedSharding(mesh, places[0]))
    target = whole if places[1] is None else jax.device_put(whole, NamedSharding(mesh, places[1]))
    like = jax.eval_shape(tx.init, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), whole))
    like = like if places[1] is None else fo.abstract_state(tx, target)
    for own in (tx, plain):
        state = fo.init_sharded(own, source)
        state = jax.jit(own.update)(source, state, source)[1]
        found = fo.requantized(state, like)
        assert found.exp_avg["w"].scales.shape == like.exp_avg["w"].scales.shape
        back = np.asarray(decoded(found.exp_avg["w"]))
        np.testing.assert_allclose(back, 0.1 * np.asarray(whole["w"]), atol=0.01)
        if places[1] is not None:
            assert found.exp_avg["w"].codes.sharding.spec == places[1]


@pytest.mark.parametrize("spec", [P("d"), *full(P(None, "d"))])
def test_an_ensemble_on_explicit_axes(spec):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    tx, stack = fo.quantized(fo.adamw(), BOTH), params_of(shapes={"w": (8, 64, 64)})
    step = jax.vmap(lambda params: tx.update(params, tx.init(params), params)[0])
    wanted = jax.jit(step)(stack)
    with jax.set_mesh(mesh):
        found = jax.jit(step)(jax.device_put(stack, NamedSharding(mesh, spec)))
    np.testing.assert_allclose(found["w"], wanted["w"], rtol=1e-5, atol=1e-8)
    assert found["w"].sharding.spec[0] == spec[0]
