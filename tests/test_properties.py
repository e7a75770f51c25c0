"""What every transformation must do, tested for all of them from one table."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.sparse import BCOO
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from tests.table import TABLE

every = pytest.mark.parametrize("tx", TABLE.values(), ids=TABLE.keys())


def tree(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731 a helper of one line
    return {"dense": {"bias": draw(4), "kernel": draw(4, 4)}, "scale": draw()}


def is_slot(path):
    """Whether a leaf of a state belongs to a parameter: all but the scalars of the whole."""
    return any(name in jax.tree_util.keystr(path) for name in ("bias", "kernel", "scale", "packed"))


def avals(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@every
def test_state_keeps_its_type_and_the_second_step_compiles_nothing(tx):
    chex.clear_trace_counter()
    params, state = tree(), tx.init(tree())

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return updates, state, fo.apply_updates(params, updates)

    for seed in range(3):
        before = state
        _, state, params = step(tree(seed), state, params)
        assert jax.tree.structure(before) == jax.tree.structure(state)
        assert avals(before) == avals(state)


@every
def test_eager_and_compiled_agree(tx):
    params = tree()
    eager, compiled = tx.init(params), jax.jit(tx.init)(params)
    chex.assert_trees_all_close(eager, compiled)
    for seed in range(3):
        a, eager = tx.update(tree(seed), eager, params)
        b, compiled = jax.jit(tx.update)(tree(seed), compiled, params)
        chex.assert_trees_all_close((a, eager), (b, compiled), rtol=1e-5)


@every
def test_update_changes_nothing_it_was_given(tx):
    params, grads, state = tree(), tree(1), tx.init(tree())
    copies = jax.tree.map(np.array, (params, grads, state))
    tx.update(grads, state, params)
    chex.assert_trees_all_equal((params, grads, state), copies)


@every
def test_extra_keywords_are_ignored(tx):
    params = tree()
    plain = tx.update(tree(1), tx.init(params), params)
    chex.assert_trees_all_equal(plain, tx.update(tree(1), tx.init(params), params, value=1.0, value_fn=len))


@every
def test_init_needs_only_shapes(tx):
    params = tree()
    shapes = jax.eval_shape(lambda: params)
    chex.assert_trees_all_equal(tx.init(shapes), tx.init(params))
    assert avals(jax.eval_shape(tx.init, params)) == avals(tx.init(params))


@every
@pytest.mark.parametrize("empty", [{}, (), [], {"layer": {}}])
def test_empty_trees(tx, empty):
    updates, state = tx.update(empty, tx.init(empty), empty)
    assert updates == empty
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(empty))


@every
def test_optax_finds_the_parameters_in_the_state(tx):
    """optax.tree.map_params initialises with a placeholder node and must then see every slot, and only slots."""
    state = tx.init(tree())
    if "ForeachState" in str(jax.tree.structure(state)):
        return  # a flat buffer is no parameter's: unpack it first
    marked = optax.tree_utils.tree_map_params(tx, lambda slot: "slot", state, transform_non_params=lambda x: "other")
    for (path, _), mark in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(marked), strict=True):
        assert mark == ("slot" if is_slot(path) else "other")


@every
def test_no_slot_shares_a_buffer(tx):
    params = tree()
    leaves = jax.tree.leaves((params, tx.init(params)))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(pointers)) == len(pointers)
    jitted = jax.tree.leaves((params, jax.jit(tx.init)(params)))
    assert len({leaf.unsafe_buffer_pointer() for leaf in jitted}) == len(jitted)


@every
def test_equal_hashable_picklable_and_printed(tx):
    again = pickle.loads(pickle.dumps(tx)) if "lambda" not in repr(tx) else tx
    assert again == tx
    assert hash(again) == hash(tx)
    assert repr(again) == repr(tx)
    assert tx.init == tx.init
    assert "object at" not in repr(tx) or "lambda" in repr(tx)


@every
def test_none_gradients_leave_the_parameter_and_its_slots_alone(tx):
    params = tree()
    state = tx.init(params)
    grads = {"dense": {"bias": None, "kernel": tree(1)["dense"]["kernel"]}, "scale": None}
    first = dict(jax.tree_util.tree_leaves_with_path(state))
    for _ in range(2):
        updates, new = tx.update(grads, state, params)
        assert updates["dense"]["bias"] is None
        assert updates["scale"] is None
        moved = fo.apply_updates(params, updates)
        chex.assert_trees_all_equal(moved["dense"]["bias"], params["dense"]["bias"])
        for path, leaf in jax.tree_util.tree_leaves_with_path(new):
            if "bias" in jax.tree_util.keystr(path) or "scale" in jax.tree_util.keystr(path):
                chex.assert_trees_all_equal(leaf, first[path])
        assert jax.tree.structure(new) == jax.tree.structure(state)
        state = new


TAKE_ROWS = ("identity", "conjugate", "scale", "scale_by_schedule", "set_to_zero", "sgd", "adagrad")


@every
def test_a_sparse_gradient_is_taken_or_raises_and_is_named(tx):
    params = tree()
    grads = tree(1)
    grads["dense"]["kernel"] = BCOO.fromdense(grads["dense"]["kernel"], n_dense=1)
    if tx in [TABLE[name] for name in TAKE_ROWS]:
        updates, _ = tx.update(grads, tx.init(params), params)
        assert updates["dense"]["kernel"].nse == 4
        dense, _ = tx.update(tree(1), tx.init(params), params)
        chex.assert_trees_all_close(updates["dense"]["kernel"].todense(), dense["dense"]["kernel"], rtol=1e-6)
        return
    message = (
        r"does not support sparse gradients.*'dense\.kernel'|weight_decay option is not compatible.*'dense\.kernel'"
    )
    with pytest.raises(RuntimeError, match=message):
        tx.update(grads, tx.init(params), params)


STATELESS = {"identity", "conjugate", "scale", "scale_by_schedule", "clip_by_value", "clip_by_global_norm"}
STATELESS |= {"set_to_zero"}


@pytest.mark.parametrize("name", sorted(set(TABLE) - STATELESS))
def test_errors_name_the_parameter(name):
    tx, params = TABLE[name], tree()
    state = tx.init(params)
    missing = {"dense": {"kernel": params["dense"]["kernel"]}, "scale": params["scale"]}
    with pytest.raises(ValueError, match=r"missing 'dense\.bias'"):
        tx.update(missing, state, params)
    wrong = {"dense": {"bias": jnp.zeros(4), "kernel": jnp.zeros((4, 5))}, "scale": jnp.zeros(())}
    with pytest.raises(ValueError, match=r"'dense\.kernel' has shape \(4, 5\)"):
        tx.update(wrong, state, params)


@every
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_parameters_keep_their_dtype(tx, dtype):
    params = tree(dtype=dtype)
    state = tx.init(params)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    kept = jnp.float32 if dtype == jnp.float16 else dtype
    if not {"state_dtype", "stochastic_rounding", "master_weights"} & {repr(tx).partition("(")[0]}:  # other dtypes
        sums = [leaf for path, leaf in leaves if "accumulated" in jax.tree_util.keystr(path)]
        assert all(leaf.dtype == jnp.float32 for leaf in sums)
        slots = [leaf for path, leaf in leaves if is_slot(path) and not any(leaf is other for other in sums)]
        assert all(leaf.dtype == kept for leaf in slots)
        assert all(leaf.dtype in (jnp.int32, jnp.float32, jnp.bool_) for path, leaf in leaves if not is_slot(path))
    updates, new = tx.update(tree(1, dtype), state, params)
    assert avals(new) == avals(state)
    assert avals(fo.apply_updates(params, updates)) == avals(params)


@every
def test_complex_parameters(tx):
    real, imag = tree(0), tree(1)
    params = jax.tree.map(jax.lax.complex, real, imag)
    if tx in (TABLE["adafactor"], TABLE["muon_adamw"]):
        with pytest.raises(RuntimeError, match=r"(Adafactor|Muon) does not support complex parameters.*'dense\.\w+'"):
            tx.init(params)
        return
    state = tx.init(params)
    updates, new = jax.jit(tx.update)(params, state, params)
    assert all(u.dtype == jnp.complex64 for u in jax.tree.leaves(updates))
    assert avals(new) == avals(state)


@every
def test_vmap_over_an_ensemble(tx):
    stack = jax.tree.map(lambda *xs: jnp.stack(xs), *[tree(seed) for seed in range(3)])
    grads = jax.tree.map(lambda *xs: jnp.stack(xs), *[tree(10 + seed) for seed in range(3)])

    def two_steps(params, grads):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(grads, state, params)
            params = fo.apply_updates(params, updates)
        return params

    together = jax.vmap(two_steps)(stack, grads)
    one = two_steps(tree(1), tree(11))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], together), one, rtol=2e-5, atol=1e-6)


@every
def test_scan_equals_a_loop(tx):
    params = tree()
    grads = jax.tree.map(lambda *xs: jnp.stack(xs), *[tree(seed) for seed in range(4)])

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        return (fo.apply_updates(params, updates), state), None

    carry, _ = jax.lax.scan(step, (params, tx.init(params)), grads)
    loop = (params, tx.init(params))
    for seed in range(4):
        loop, _ = step(loop, tree(seed))
    chex.assert_trees_all_close(carry, loop, rtol=2e-5, atol=1e-6)


@every
def test_differentiable_through_steps_also_at_zero_gradients(tx):
    params = tree()

    def loss(grads):
        p, state = params, tx.init(params)
        for _ in range(4):
            updates, state = tx.update(grads, state, p)
            p = fo.apply_updates(p, updates)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p))

    grads = tree(1)
    grads["dense"]["bias"] = jnp.zeros(4)
    derivative = jax.grad(loss)(grads)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(derivative))


@every
@pytest.mark.parametrize("compiled", [False, True])
def test_state_gets_and_keeps_its_parameters_sharding(tx, compiled):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    specs = {"dense": {"bias": P("data"), "kernel": P(None, "data")}, "scale": P()}
    put = functools.partial(jax.tree.map, lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)))
    with jax.set_mesh(mesh):
        params, grads = put(tree(), specs), put(tree(1), specs)
        state = (jax.jit(tx.init) if compiled else tx.init)(params)
        update = jax.jit(tx.update) if compiled else tx.update
        updates, new = update(grads, state, params)
    assert jax.tree.map(lambda x: x.sharding.spec, updates) == specs
    for some in (state, new):
        for path, leaf in jax.tree_util.tree_leaves_with_path(some):
            if "kernel" in jax.tree_util.keystr(path):
                assert leaf.sharding.spec == P(None, "data" if leaf.shape[1] > 1 else None)


@every
def test_inside_optax_chain(tx, standard_promotion):
    params = tree()
    both = optax.chain(optax.identity(), tx)
    updates, state = both.update(tree(1), both.init(params), params)
    expected, inner = tx.update(tree(1), tx.init(params), params)
    chex.assert_trees_all_equal(updates, expected)
    chex.assert_trees_all_equal(state[1], inner)
    optax.apply_updates(params, updates)
