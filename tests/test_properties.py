"""The properties that every transformation must have, tested for all of them from one table.

One compiled call covers all of them.
"""

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
from tests.algorithms import ALGORITHMS, FULL, names
from tests.table import TABLE

every = pytest.mark.parametrize("tx", TABLE.values(), ids=TABLE.keys())


def tree(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731 a helper of one line
    return {"dense": {"bias": draw(4), "kernel": draw(4, 4)}, "scale": draw()}


def is_slot(path):
    """Whether a state's leaf belongs to a parameter: true for all but the global scalars."""
    return any(name in jax.tree_util.keystr(path) for name in ("bias", "kernel", "scale", "packed"))


def avals(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def compiled(function):
    """Return ``{name: function(tx, *args)}`` for the whole table from one compiled call: compilation dominates."""
    return jax.jit(lambda *args: {name: function(tx, *args) for name, tx in TABLE.items()})


def moved_twice(tx, params, grads):
    """Return the parameters after two steps with the same gradients."""
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        params = fo.apply_updates(params, updates)
    return params


def stacked(seeds):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *[tree(seed) for seed in seeds])


def test_state_keeps_its_type_and_the_second_step_compiles_nothing():
    chex.clear_trace_counter()
    params, states = tree(), {name: tx.init(tree()) for name, tx in TABLE.items()}
    every_params = dict.fromkeys(TABLE, params)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(grads, states, every_params):
        results = {}
        for name, tx in TABLE.items():
            updates, state = tx.update(grads, states[name], every_params[name])
            results[name] = state, fo.apply_updates(every_params[name], updates)
        return results

    for seed in range(3):
        results = step(tree(seed), states, every_params)
        for name, (state, _) in results.items():
            assert jax.tree.structure(state) == jax.tree.structure(states[name]), name
            assert avals(state) == avals(states[name]), name
        states, every_params = ({name: result[part] for name, result in results.items()} for part in (0, 1))


def test_eager_and_compiled_agree():
    params = tree()

    def two_steps(tx, params, grads):
        state, every_update = tx.init(params), []
        for grad in grads:
            updates, state = tx.update(grad, state, params)
            every_update.append((updates, state))
        return tx.init(params), every_update

    grads = [tree(seed) for seed in range(2)]
    found = compiled(two_steps)(params, grads)
    for name, tx in TABLE.items():
        eager = two_steps(tx, params, grads)  # updates may cancel: of a size of 1e-2, they differ by 1e-7 of it
        least = 1e-6 if name.startswith("soap") else 1e-9  # of eigenvectors, whose size is 1
        chex.assert_trees_all_close(eager, found[name], rtol=1e-5, atol=least, custom_message=name)


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
    known = {leaf.tobytes() for leaf in map(np.asarray, jax.tree.leaves(params))}
    copied = lambda x: np.asarray(x).tobytes() in known  # noqa: E731 one line
    chex.assert_trees_all_equal(
        tx.init(shapes), jax.tree.map(lambda x: jnp.zeros_like(x) if copied(x) else x, tx.init(params))
    )
    assert avals(jax.eval_shape(tx.init, params)) == avals(tx.init(params))


@every
@pytest.mark.parametrize("empty", [{}, (), [], {"layer": {}}])
def test_empty_trees(tx, empty):
    updates, state = tx.update(empty, tx.init(empty), empty)
    assert updates == empty
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(empty))


@every
def test_optax_finds_the_parameters_in_the_state(tx):
    """optax.tree.map_params initializes with a placeholder node and must then see every slot, and only slots."""
    state = tx.init(tree())
    if "ForeachState" in str(jax.tree.structure(state)):
        return  # a flat buffer belongs to no single parameter: unpack it first
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
            name = jax.tree_util.keystr(path)
            if "bias" in name or "'scale'" in name:
                # slow weights and last parameters follow the parameter
                own = params["dense"]["bias"] if "bias" in name else params["scale"]
                chex.assert_trees_all_equal(leaf, own if ".slow" in name or ".last_params" in name else first[path])
        assert jax.tree.structure(new) == jax.tree.structure(state)
        state = new


def refusal(function, *args):
    """Return the message of the error with which a number instead of an array is refused; None if it is taken."""
    try:
        function(*args)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


@every
@pytest.mark.parametrize("number", [0.5, 2])
def test_a_number_that_is_no_array_is_refused_by_name(tx, number):
    params, grads, kind = tree(), tree(1), type(number).__name__
    state, wrong = tx.init(params), {**params, "dense": {**params["dense"], "kernel": number}}
    as_param = f"one of the params is {kind}: the parameter 'dense.kernel'"
    as_grad = f"of the parameter 'dense.kernel' is not an array but {kind}"
    assert as_param in (refusal(tx.init, wrong) or as_param)  # links without slots do not look at the parameters
    assert "'dense.kernel'" in (refusal(tx.update, grads, state, wrong) or "'dense.kernel'")
    for own in (params, wrong):
        found = refusal(tx.update, wrong, state, own)
        assert found is None if tx == fo.identity() else as_grad in found or as_param in found


def test_updates_that_are_no_arrays_are_not_applied():
    for number in (0.5, 2):
        with pytest.raises(
            TypeError, match=f"the update of the parameter 'w' is not an array but {type(number).__name__}"
        ):
            fo.apply_updates({"w": jnp.ones(())}, {"w": number})
        with pytest.raises(TypeError, match=f"one of the params is {type(number).__name__}: the parameter 'w'"):
            fo.apply_updates({"w": number}, {"w": jnp.ones(())})
    assert fo.apply_updates({"w": 0.5}, {"w": None}) == {"w": 0.5}


TAKE_ROWS = ("identity", "conjugate", "scale", "scale_by_schedule", "set_to_zero", "sgd_plain", "sgd", "adagrad")
TAKE_ROWS += ("scale_by_learning_rate", "scale_by_path", "layerwise_decay", "sgd_direction")


@every
def test_a_sparse_gradient_is_taken_or_raises_and_is_named(tx):
    params = tree()
    grads = tree(1)
    grads["dense"]["kernel"] = BCOO.fromdense(grads["dense"]["kernel"], n_dense=1)
    if tx in [TABLE[name] for name in TAKE_ROWS if name in TABLE]:
        updates, _ = tx.update(grads, tx.init(params), params)
        moved = updates["dense"]["kernel"]
        if tx in (TABLE["sgd"], TABLE["sgd_direction"]):  # momentum moves all rows
            assert isinstance(moved, jax.Array)
        else:
            assert moved.nse == 4
            moved = moved.todense()
        dense, _ = tx.update(tree(1), tx.init(params), params)
        chex.assert_trees_all_close(moved, dense["dense"]["kernel"], rtol=1e-6)
        return
    message = (
        r"does not support sparse gradients.*'dense\.kernel'|weight_decay option is not compatible.*'dense\.kernel'"
    )
    with pytest.raises(RuntimeError, match=message):
        tx.update(grads, tx.init(params), params)


STATELESS = {"identity", "conjugate", "scale", "scale_by_schedule", "clip_by_value", "clip_by_global_norm"}
STATELESS |= {"set_to_zero", "scale_by_learning_rate", "scale_by_path", "layerwise_decay"}
STATELESS |= {"clip_by_norm", "clip_by_block_rms", "clip_by_zscore", "clip_by_percentile", "zero_nans"}
STATELESS |= {"centralize", "add_noise", "normalize", "scale_by_sign"}


@pytest.mark.parametrize("name", sorted(set(TABLE) - STATELESS))
def test_errors_name_the_parameter(name):
    tx, params = TABLE[name], tree()
    state = tx.init(params)
    missing = {"dense": {"kernel": params["dense"]["kernel"]}, "scale": params["scale"]}
    with pytest.raises(ValueError, match=r"missing 'dense\.bias'"):
        tx.update(missing, state, params)
    if name == "clip_by_adagc":  # its state has a number for each parameter, and no shape
        return
    wrong = {"dense": {"bias": jnp.zeros(4), "kernel": jnp.zeros((4, 5))}, "scale": jnp.zeros(())}
    with pytest.raises(ValueError, match=r"'dense\.kernel' has shape \(4, 5\)"):
        tx.update(wrong, state, params)


# Fields that are float32 for narrower parameters: one number for each, matrices of preconditioners, and curvature.
MATRICES = [f".{kind}_{side}" for kind in ("gram", "basis") for side in range(6)]
NUMBERS = {
    "clip_by_adagc": [".gamma"],
    "novograd": [".exp_avg_sq", ".max_exp_avg_sq"],
    "adahessian": [".exp_hessian_diag_sq", ".hessian"],
    "sophia": [".hessian"],
    "soap": MATRICES,
    "soap_merged": MATRICES,
}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.full)])
def test_low_precision_parameters_keep_their_dtype(dtype):
    params = tree(dtype=dtype)
    kept = jnp.float32 if dtype == jnp.float16 else dtype

    def one_step(tx, params, grads):
        state = tx.init(params)
        updates, new = tx.update(grads, state, params)
        return state, new, fo.apply_updates(params, updates)

    for name, (state, new, moved) in compiled(one_step)(params, tree(1, dtype)).items():
        leaves = jax.tree_util.tree_leaves_with_path(state)
        others = ("state_dtype", "stochastic_rounding", "master_weights", "quantized", "add_noise")
        if not name.startswith(others):  # of other dtypes
            wide = {".accumulated", ".slow", *NUMBERS.get(name, ())}
            sums = [leaf for path, leaf in leaves if wide & {str(key) for key in path}]
            assert all(leaf.dtype == jnp.float32 for leaf in sums), name
            slots = [leaf for path, leaf in leaves if is_slot(path) and not any(leaf is other for other in sums)]
            assert all(leaf.dtype == kept for leaf in slots), name
            scalars = [leaf for path, leaf in leaves if not is_slot(path)]
            assert all(leaf.dtype in (jnp.int32, jnp.float32, jnp.bool_) for leaf in scalars), name
        assert avals(new) == avals(state), name
        assert avals(moved) == avals(params), name


REAL_ONLY = {
    name: ALGORITHMS[base].title for name in TABLE if (base := name.split("_")[0]) in names(takes_complex=False)
} | {"project_simplex": "project_simplex"}
OTHERS = {
    "exact_mars": "MARS",
    "prodigy": "prodigy",
    "dadapt_adam": "dadapt_adam",
    "soap": "SOAP",
    "soap_merged": "SOAP",
}
OTHERS |= {"adahessian": "AdaHessian", "sophia": "Sophia"}
REAL_ONLY |= {name: title for name, title in OTHERS.items() if name in TABLE}


@pytest.mark.parametrize("name", REAL_ONLY)
def test_complex_parameters_are_refused(name):
    params = jax.tree.map(jax.lax.complex, tree(0), tree(1))
    message = rf"{REAL_ONLY[name]} does not support complex parameters.*'dense\.\w+'"
    with pytest.raises(RuntimeError, match=message):
        TABLE[name].init(params)


def test_complex_parameters():
    params = jax.tree.map(jax.lax.complex, tree(0), tree(1))

    @jax.jit
    def step(params):
        takers = {name: tx for name, tx in TABLE.items() if name not in REAL_ONLY}
        states = {name: tx.init(params) for name, tx in takers.items()}
        return states, {name: tx.update(params, states[name], params) for name, tx in takers.items()}

    states, results = step(params)
    for name, (updates, new) in results.items():
        assert all(u.dtype == jnp.complex64 for u in jax.tree.leaves(updates)), name
        assert avals(new) == avals(states[name]), name


def test_vmap_over_an_ensemble():
    def both(tx, params, grads):
        one, other = (jax.tree.map(lambda x: x[1], stack) for stack in (params, grads))
        return jax.vmap(functools.partial(moved_twice, tx))(params, grads), moved_twice(tx, one, other)

    for name, (together, alone) in compiled(both)(stacked(range(3)), stacked(range(10, 13))).items():
        second = jax.tree.map(lambda x: x[1], together)
        chex.assert_trees_all_close(second, alone, rtol=2e-5, atol=1e-6, custom_message=name)


def test_scan_equals_a_loop():
    def both(tx, params, grads):
        def step(carry, grad):
            params, state = carry
            updates, state = tx.update(grad, state, params)
            return (fo.apply_updates(params, updates), state), None

        carry, _ = jax.lax.scan(step, (params, tx.init(params)), grads)
        loop = (params, tx.init(params))
        for index in range(3):
            loop, _ = step(loop, jax.tree.map(lambda x, index=index: x[index], grads))
        return carry, loop

    for name, (carry, loop) in compiled(both)(tree(), stacked(range(3))).items():
        chex.assert_trees_all_close(carry, loop, rtol=2e-5, atol=1e-6, custom_message=name)


def test_differentiable_through_steps_also_at_zero_gradients():
    def loss(grads, tx, params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(moved_twice(tx, params, grads)))

    grads = tree(1)
    grads["dense"]["bias"] = jnp.zeros(4)
    derivatives = compiled(lambda tx, grads, params: jax.grad(loss)(grads, tx, params))(grads, tree())
    for name, derivative in derivatives.items():
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(derivative)), name


def test_state_gets_and_keeps_its_parameters_sharding():
    """Compiled, and executed eagerly, which runs the same code; all of them in the full run."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    specs = {"dense": {"bias": P("data"), "kernel": P(None, "data")}, "scale": P()}
    put = functools.partial(jax.tree.map, lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)))

    def one_step(tx, params, grads):
        state = tx.init(params)
        return state, *tx.update(grads, state, params)

    with jax.set_mesh(mesh):
        params, grads = put(tree(), specs), put(tree(1), specs)
        results = list(compiled(one_step)(params, grads).items())
        at_once = TABLE if FULL else ("adam", "adafactor", "adam_foreach", "partition", "accumulate", "chain")
        results += [(name, one_step(TABLE[name], params, grads)) for name in at_once]
    for name, (state, updates, new) in results:
        assert jax.tree.map(lambda x: x.sharding.spec, updates) == specs, name
        for path, leaf in jax.tree_util.tree_leaves_with_path((state, new)):
            if {*MATRICES} & {str(key) for key in path}:
                assert leaf.sharding.spec == P(None, None), name
            elif "kernel" in jax.tree_util.keystr(path) and leaf.ndim == 2:  # not a number of the parameter
                assert leaf.sharding.spec == P(None, "data" if leaf.shape[1] > 1 else None), name


def test_inside_optax_chain(standard_promotion):
    def both(tx, params, grads):
        chained = optax.chain(optax.identity(), tx)
        return chained.update(grads, chained.init(params), params), tx.update(grads, tx.init(params), params)

    for (updates, state), (expected, inner) in compiled(both)(tree(), tree(1)).values():
        chex.assert_trees_all_equal(updates, expected)
        chex.assert_trees_all_equal(state[1], inner)
        optax.apply_updates(tree(), updates)
