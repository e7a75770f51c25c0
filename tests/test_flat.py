"""Flat parameters: every transformation that treats all entries alike has the tree's numbers, the others refuse."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.sparse import BCOO
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.checkpoint import CheckpointError, from_arrays, load_safetensors, save_safetensors, to_arrays
from tests import equality
from tests.algorithms import FULL
from tests.table import TABLE

PARAMS = {
    "layer": [{"bias": jnp.arange(3.0) - 1, "kernel": jnp.linspace(-1, 1, 12).reshape(3, 4)} for _ in range(2)],
    "embed": jnp.full((100, 100), 0.5, jnp.float32),
    "scale": jnp.float32(2.0),
}
TOLERANCE = 1e-5  # of three steps in float32, in which Adam divides small gradients by small numbers
WORK = ["adam", "adamw", "sgd", "lbfgs", "clip_by_global_norm", "accumulate", "ema", "skip_nonfinite", "lookahead"]
REFUSED = [
    "bfgs",
    "muon_adamw",
    "adafactor",
    "scale_by_trust_ratio",
    "masked",
    "clip_by_norm",
    "adamw_decay_mask",
    "centralize",
]
DRAWS = ("add_noise",)  # noise depends on the place in the tree


def relative(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max((equality.relative(a, b) for a, b in pairs), default=0.0)


def refusal(tx):
    """Return the error of ``init`` with flat parameters."""
    try:
        tx.init(fo.flat_params(PARAMS))
    except ValueError as error:
        return str(error)
    return ""


def loss(params, x):
    hidden = x @ params["embed"][:3, :3]
    for layer in params["layer"]:
        hidden = jnp.tanh(hidden + (layer["bias"] + jnp.sum(layer["kernel"], 1))[None])
    return params["scale"] * jnp.sum(hidden**2)


def batch(seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((4, 3)), jnp.float32)


def run(tx, params, view, steps=3):
    @jax.jit
    def step(params, state, x):
        grads = jax.grad(lambda params: loss(view(params), x))(params)
        updates, state = tx.update(grads, state, params, value=loss(view(params), x))
        return fo.apply_updates(params, updates), state

    state = tx.init(params)
    for seed in range(steps):
        params, state = step(params, state, batch(seed))
    return params, state


@pytest.mark.parametrize("name", [name for name in TABLE if FULL or name in WORK + REFUSED])
def test_every_transformation_has_the_numbers_of_the_tree_or_refuses(name):
    tx, message = TABLE[name], refusal(TABLE[name])
    if message:
        assert "needs the parameters as a tree and not in fo.flat_params" in message
        return
    got, state = run(tx, fo.flat_params(PARAMS), lambda flat: flat.tree())
    wanted, plain = run(tx, PARAMS, lambda params: params)
    if name not in DRAWS:
        assert relative(got.tree(), wanted) < TOLERANCE
        assert relative(fo.unflatten(state), plain) < TOLERANCE


@pytest.mark.parametrize("name", WORK + REFUSED)
def test_what_works_and_what_is_refused(name):
    message = refusal(TABLE[name] if name in TABLE else getattr(fo, name)())
    assert ("acts on each parameter as a whole, or by its name" in message) is (name in REFUSED)


@pytest.mark.parametrize("tx", [fo.adamw(foreach=True), fo.scale_by(fo.adam(foreach=True))])
def test_foreach_is_refused_with_its_reason(tx):
    assert "joins small leaves itself" in refusal(tx) and "leave foreach out" in refusal(tx)


def test_the_tree_is_the_one_that_went_in():
    params = {**PARAMS, "narrow": jnp.ones(3, jnp.bfloat16), "count": jnp.arange(2), "empty": jnp.zeros((0, 2))}
    flat = fo.flat_params(params)
    assert jax.tree.structure(flat.tree()) == jax.tree.structure(params)
    for one, other in zip(jax.tree.leaves(flat.tree()), jax.tree.leaves(params), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and bool(jnp.all(one == other))
    assert sorted(flat.form.names) == ["count", "embed", "empty", "packed.bfloat16", "packed.float32"]
    assert [leaf.size for leaf in flat.arrays][:1] == [2] and len(jax.tree.leaves(flat)) == 5


def test_not_a_number_stays_where_it_is():
    params = {"a": jnp.array([jnp.nan, 1.0]), "b": jnp.array([2.0])}
    tree = fo.flat_params(params).tree()
    assert np.isnan(tree["a"][0]) and tree["a"][1] == 1.0 and tree["b"].tolist() == [2.0]


def test_gradients_second_derivatives_and_vmap():
    flat = fo.flat_params(PARAMS)
    small = {key: PARAMS[key] for key in ("layer", "scale")}
    whole = lambda params, x: loss({**params, "embed": PARAMS["embed"]}, x)  # noqa: E731 one line
    joined = fo.flat_params(small)
    got = jax.grad(lambda flat: whole(flat.tree(), batch(0)))(joined)
    assert relative(got.tree(), jax.grad(whole)(small, batch(0))) < 1e-6
    hessian = jax.hessian(lambda flat: whole(flat.tree(), batch(0)))(joined).arrays[0].arrays[0]
    assert hessian.shape == (31, 31) and float(jnp.max(jnp.abs(hessian - hessian.T))) < 1e-4
    many = jax.vmap(jax.grad(lambda flat, x: loss(flat.tree(), x)), in_axes=(None, 0))(
        flat, jnp.stack([batch(0), batch(1)])
    )
    assert relative(jax.tree.map(lambda x: x[1], many).tree(), jax.grad(loss)(PARAMS, batch(1))) < 1e-6


def test_a_scanned_loop_carries_the_buffers_and_compiles_once():
    tx = fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=1e-2), fo.ema(0.9))
    flat = fo.flat_params(PARAMS)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(flat, state, xs):
        def step(carry, x):
            flat, state = carry
            grads = jax.grad(lambda flat: loss(flat.tree(), x))(flat)
            updates, state = tx.update(grads, state, flat)
            return (fo.apply_updates(flat, updates), state), None

        return jax.lax.scan(step, (flat, state), xs)[0]

    xs = jnp.stack([batch(seed) for seed in range(3)])
    wanted, plain = run(tx, PARAMS, lambda params: params)
    flat, state = train(flat, tx.init(flat), xs)
    assert not PARAMS["embed"].is_deleted()  # what went in is not donated
    assert relative(flat.tree(), wanted) < TOLERANCE
    assert relative(fo.averaged_params(fo.unflatten(state)), fo.averaged_params(plain)) < TOLERANCE
    train(flat, state, xs)
    assert train._cache_size() == 1


def test_states_come_back_from_their_tree():
    tx = fo.chain(fo.adamw(lr=1e-2), fo.ema(0.9))
    flat, state = run(tx, fo.flat_params(PARAMS), lambda flat: flat.tree())
    back = fo.flatten_like(fo.unflatten(state), tx.init(flat))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert all(bool(jnp.all(a == b)) for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True))
    with pytest.raises(
        ValueError, match=r"the leaf 'layer.0.bias' has shape \(2,\), but in this form it has shape \(3,\)"
    ):
        flat.like({**PARAMS, "layer": [{**PARAMS["layer"][0], "bias": jnp.ones(2)}, PARAMS["layer"][1]]})
    with pytest.raises(ValueError, match=r"scale"):
        flat.like({"layer": PARAMS["layer"]})


SMALL = {"a": jnp.arange(2.0), "b": {"c": jnp.ones((2, 2)), "d": jnp.float32(3.0)}, "large": jnp.ones(9000)}


def as_dtype(*dtypes):
    """Return a tree like SMALL of these dtypes."""
    leaves, treedef = jax.tree.flatten(SMALL)
    return treedef.unflatten([leaf.astype(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)])


def test_a_buffer_has_the_dtype_of_its_leaves():
    flat = fo.flat_params(SMALL)
    narrow = flat.like(as_dtype("bfloat16", "bfloat16", "bfloat16", "float32"))
    assert [array.dtype.name for array in narrow.arrays] == ["float32", "bfloat16"]
    for dtypes in (("float32", "int32", "float32", "int32"), ("bfloat16", "float32", "float32", "float32")):
        message = rf"the leaves 'a' \({dtypes[0]}\) and 'b.c' \({dtypes[1]}\) are joined in one buffer"
        with pytest.raises(ValueError, match=message):
            flat.like(as_dtype(*dtypes))
    with pytest.raises(ValueError, match=r"the leaves 'a' \(float32\) and 'b.d' \(float64\) are joined"):
        fo.flatten_like({**SMALL, "b": {**SMALL["b"], "d": np.float64(0.1)}}, flat)
    with pytest.raises(ValueError, match=r"the leaf 'b.d' has shape None, but in this form it has shape"):
        flat.like({**SMALL, "b": {**SMALL["b"], "d": None}})
    with pytest.raises(TypeError, match=r"the value of the parameter 'b.d' is not an array but float"):
        flat.like({**SMALL, "b": {**SMALL["b"], "d": 0.1}})


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert isinstance(other, jax.ShapeDtypeStruct) or np.array_equal(one, other)


def test_axes_in_front_of_a_buffer_are_axes_in_front_of_its_leaves():
    flat, rates = fo.flat_params(SMALL), jnp.arange(6.0).reshape(2, 3)

    @jax.jit
    def over(tree, rates):
        times = lambda rate: jax.tree.map(lambda x: x * rate, tree)  # noqa: E731 one line
        return jax.vmap(jax.vmap(times))(rates), jax.lax.scan(lambda _, rate: (None, times(rate)), None, rates[0])[1]

    for batch, wanted in zip(over(flat, rates), over(SMALL, rates), strict=True):
        assert_same(batch.tree(), wanted)
        assert_same(fo.flatten_like(fo.unflatten(batch), batch), batch)
    norm = lambda batch: fo.global_norm(fo.unflatten(batch))  # noqa: E731 one line
    assert relative(jax.jit(jax.grad(norm))(batch).tree(), jax.jit(jax.grad(norm))(wanted)) < 1e-6
    empty = jax.tree.map(lambda x: x[:0], batch)
    assert_same(empty.tree(), jax.tree.map(lambda x: x[:0], wanted))


def test_the_history_of_lbfgs_comes_back_from_its_tree():
    tx, states = fo.lbfgs(lr=0.1, max_iter=3, history_size=4), []
    whole = lambda params: fo.global_norm(fo.unflatten(params)) ** 4  # noqa: E731 one line
    small = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}
    for params in (small, fo.flat_params(small)):
        update = jax.jit(functools.partial(tx.update, value_fn=whole))
        states.append(update(jax.grad(whole)(params), tx.init(params), params)[1])
    plain, state = states
    assert plain.n_pairs > 0 and relative(fo.unflatten(state), plain) < TOLERANCE
    assert_same(fo.flatten_like(fo.unflatten(state), state), state)


def test_abstract_arrays_give_abstract_leaves():
    tx, flat = fo.chain(fo.adam(), fo.ema(0.9)), fo.flat_params(SMALL)
    abstract = jax.eval_shape(tx.init, flat)
    plain = jax.eval_shape(tx.init, SMALL)
    assert_same(fo.unflatten(abstract), plain)
    assert_same(fo.flatten_like(plain, abstract), abstract)
    assert_same(fo.flat_params(jax.eval_shape(lambda: SMALL)), jax.eval_shape(lambda: flat))
    assert_same(fo.flatten_like(fo.unflatten(tx.init(flat)), abstract), tx.init(flat))
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = [NamedSharding(mesh, spec) for spec in (P("x"), P(None))]
    placed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s) for x, s in zip(flat.arrays, spread, strict=True)]
    tree = fo.FlatParams(flat.form, placed).tree()
    assert tree["large"].sharding == spread[0] and tree["b"]["d"].sharding == NamedSharding(mesh, P())


def test_a_buffer_of_another_size_is_not_cut():
    flat = fo.flat_params(SMALL)
    doubled = jax.tree.map(lambda x: jnp.concatenate([x, x]), flat)
    for wrong in (doubled, jax.tree.map(jnp.sum, flat)):
        with pytest.raises(ValueError, match=r"packed.float32 of the flat parameters has shape .* the 7 entries"):
            wrong.tree()
        with pytest.raises(ValueError, match=r"packed.float32 of the flat parameters has shape .* the 7 entries"):
            fo.flatten_like(SMALL, wrong)


def test_what_was_split_survives_a_donation_and_what_stayed_alone_does_not():
    flat = fo.flat_params(SMALL)
    tree, kept = flat.tree(), jax.tree.map(jnp.copy, flat.tree())
    back = flat.like(tree)
    move = jax.jit(lambda flat: jax.tree.map(lambda x: x + 1, flat), donate_argnums=0)
    moved = move(flat)
    assert [leaf.is_deleted() for leaf in jax.tree.leaves(tree)] == [False, False, False, True]
    assert_same(kept, SMALL)
    assert [array.is_deleted() for array in back.arrays] == [True, False]
    one = fo.flat_params({"a": jnp.ones(3)})
    tree = one.tree()
    back = one.like(tree)
    move(one)
    assert not tree["a"].is_deleted() and not back.arrays[0].is_deleted()
    move(back)
    assert not tree["a"].is_deleted() and moved.tree()["a"].tolist() == [1.0, 2.0]


@pytest.mark.usefixtures("standard_promotion")
def test_copies_pickles_and_optax():
    flat = fo.flat_params(PARAMS)
    for other in (copy.deepcopy(flat), pickle.loads(pickle.dumps(flat))):
        assert jax.tree.structure(other) == jax.tree.structure(flat)
        assert relative(other.tree(), PARAMS) == 0.0
    tx = optax.adam(1e-2)
    got, _ = run(optax.with_extra_args_support(tx), flat, lambda flat: flat.tree())
    wanted, _ = run(optax.with_extra_args_support(tx), PARAMS, lambda params: params)
    assert relative(got.tree(), wanted) < TOLERANCE


def test_a_pickled_form_is_the_same_in_another_process():
    """Each process hashes strings in its own way."""
    flat = fo.flat_params(SMALL)
    other = fo.flat_params(SMALL).form
    other._hash += 1
    form = pickle.loads(pickle.dumps(other))
    assert form == flat.form and hash(form) == hash(flat.form)


BY_LEAF = {"muon": fo.muon(), "clip": fo.clip_by_norm(1.0), "chain": fo.chain(fo.clip_by_norm(1.0), fo.sgd(lr=0.1))}


@pytest.mark.parametrize("name", BY_LEAF)
def test_update_refuses_what_init_does(name):
    """A state without slots does not show which form it was made for."""
    tx, flat = BY_LEAF[name], fo.flat_params(SMALL)
    state = tx.init({"w": jnp.ones((2, 2))})
    with pytest.raises(
        ValueError, match=r"(muon|clip_by_norm)\(.* needs the parameters as a tree and not in fo.flat_p"
    ):
        tx.update(flat, state, flat)


def test_the_torch_face_takes_the_tree():
    flat = fo.flat_params(SMALL)
    for params in (flat, {"model": flat}, [{"params": flat}]):
        with pytest.raises(ValueError, match=r"small parameters by itself: give it the tree, flat.tree\(\)"):
            optim.Adafactor(params, lr=0.1)
    assert optim.Adafactor(flat.tree(), lr=0.1).params["a"].tolist() == [0.0, 1.0]


def test_checkpoints_hold_the_tree(tmp_path):
    tx = fo.chain(fo.adamw(lr=1e-2), fo.ema(0.9))
    flat, state = run(tx, fo.flat_params(PARAMS), lambda flat: flat.tree())
    both, plain = (flat, state), fo.unflatten((flat, state))
    abstract = jax.eval_shape(lambda: both)
    save_safetensors(both, tmp_path / "flat")
    save_safetensors(plain, tmp_path / "tree")
    assert (tmp_path / "flat").read_bytes() == (tmp_path / "tree").read_bytes()
    for load in (
        functools.partial(load_safetensors, tmp_path / "flat"),
        functools.partial(from_arrays, to_arrays(both)),
    ):
        assert_same(load(like=both), both)
        assert_same(load(like=abstract), both)
        assert_same(load(like=plain), plain)
    save_safetensors(flat, tmp_path / "params")
    renamed = fo.flat_params({**PARAMS, "layer": list(reversed(PARAMS["layer"])), "a scale": PARAMS["scale"]})
    with pytest.raises(CheckpointError, match="does not fit: a scale is missing"):
        load_safetensors(tmp_path / "params", like=renamed)


def test_what_flat_params_do_not_take_is_named():
    with pytest.raises(ValueError, match=r"the parameter 'b.w' is a BCOO, and flat_params joins dense arrays"):
        fo.flat_params({"a": jnp.ones(2), "b": {"w": BCOO.fromdense(jnp.eye(2))}})
    with pytest.raises(ValueError, match=r"the params are in fo.flat_params already"):
        fo.flat_params({"a": jnp.ones(2), "b": fo.flat_params(SMALL)})


def test_another_form_is_told_by_its_leaves():
    one, other = (fo.flat_params({"a": jnp.ones(n), "b": jnp.ones(3 - n)}) for n in (1, 2))
    with pytest.raises(
        ValueError, match=r"\{'packed.float32': 'a \(2,\), b \(1,\)'\}.* instead of .*'a \(1,\), b \(2,\)'"
    ):
        fo.apply_updates(one, other)


def test_what_is_no_array_is_named():
    with pytest.raises(TypeError, match="one of the params is float: the parameter 'w'"):
        fo.flat_params({"w": 1.0})
