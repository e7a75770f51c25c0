"""Row-sparse gradients: against torch's recorded runs, their cost, and how they are computed."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim, rows
from tests import comparison, sparse_cases, sparse_comparison
from tests.algorithms import FULL, label

each_algorithm = pytest.mark.parametrize("name", sparse_cases.CLASSES)
each_case = pytest.mark.parametrize("case", sparse_cases.CASES, ids=label)
recorded = sparse_comparison.recorded


@each_algorithm
def test_float64_trajectory(name, x64):
    errors = sparse_comparison.trajectory_errors(sparse_cases.cases_of(name))
    assert not comparison.above(errors, comparison.SPARSE_TOLERANCE)


@each_algorithm
def test_float32_synchronised_steps(name):
    many = [case for case in sparse_comparison.WITH_RECORDED_STATE if case[0] == name]
    assert not comparison.above(sparse_comparison.synchronised_ulps(many), *comparison.ULPS)


@each_algorithm
def test_torch_face_with_missing_gradients(name, x64):
    every = sparse_cases.cases_of(name)
    many = every if FULL else [every[0], every[-1]]
    assert not comparison.above(sparse_comparison.face_trajectory_errors(many), comparison.SPARSE_TOLERANCE)


def test_the_step_is_torchs_integer():
    optimizer = optim.SparseAdam([jnp.zeros((4, 2))])
    optimizer.step([rows.make(jnp.ones((1, 2)), jnp.array([1]), (4, 2))])
    assert type(optimizer.state_dict()["state"][0]["step"]) is int


@pytest.mark.torch
@each_case
def test_recorded_runs_are_torchs(case):
    pytest.importorskip("torch", reason="the live comparison needs torch; the recorded trajectories do not")
    from tests import torch_run

    for kind, dtype, steps in (("gaps", "float64", sparse_cases.STEPS), ("float32", "float32", 12)):
        live, held = torch_run.run_sparse(case, dtype, steps, kind == "gaps"), recorded(case, kind)
        assert set(live) == set(held)
        for slot, array in live.items():
            np.testing.assert_allclose(array, held[slot], rtol=1e-12 if dtype == "float64" else 1e-5, atol=1e-7)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "options"),
    [("SparseAdam", {"lr": 0.1}), ("SGD", {"lr": 0.1}), ("Adagrad", {"lr": 0.1})],
)
def test_a_large_table_against_torch(name, options):
    """Ten steps on a table of 1 M x 64; each touches 4096 rows."""
    torch = pytest.importorskip("torch", reason="the live comparison needs torch; the recorded trajectories do not")
    shape = (1_000_000, 64)
    param = torch.nn.Parameter(torch.zeros(shape))
    theirs = getattr(torch.optim, name)([param], **options)
    ours = getattr(optim, name)([jnp.zeros(shape)], **options)
    rng = np.random.default_rng(0)
    for _ in range(10):
        indices, values = rng.integers(0, shape[0], 4096), rng.standard_normal((4096, 64)).astype(np.float32)
        param.grad = torch.sparse_coo_tensor(
            torch.tensor(indices[None]), torch.tensor(values), shape, check_invariants=True
        )
        theirs.step()
        ours.step([rows.make(jnp.asarray(values), jnp.asarray(indices, jnp.int32), shape)])
    np.testing.assert_allclose(np.asarray(ours.params[0]), param.detach().numpy(), rtol=1e-5, atol=1e-6)


TRANSFORMATIONS = {
    "sparse_adam": fo.sparse_adam(lr=0.1),
    "sgd": fo.sgd(lr=0.1),
    "sgd_momentum": fo.sgd(lr=0.1, momentum=0.9),
    "adagrad": fo.adagrad(lr=0.1),
    "chain": fo.chain(fo.conjugate(), fo.scale(0.5), fo.sparse_adam(lr=fo.schedules.cosine_annealing(0.1, T_max=9))),
    "partition": fo.partition(
        {"rows": fo.sparse_adam(lr=0.1), "dense": fo.adam(lr=0.1)}, {"table": "rows", "weights": "dense"}
    ),
}
every = pytest.mark.parametrize("tx", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS.keys())
DENSE_TOO = ["sgd", "sgd_momentum", "adagrad"]


def network(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "table": jnp.asarray(rng.standard_normal((10, 3)), jnp.float32),
        "weights": jnp.asarray(rng.standard_normal((3, 2)), jnp.float32),
    }


def gradients(tx, seed=0):
    """Return row-sparse gradients for the table, and dense ones for the rest if the transformation takes them."""
    rng = np.random.default_rng(seed)
    indices = jnp.asarray(rng.integers(0, 10, 4), jnp.int32)
    table = rows.make(jnp.asarray(rng.standard_normal((4, 3)), jnp.float32), indices, (10, 3))
    both = [TRANSFORMATIONS[key] for key in (*DENSE_TOO, "partition")]
    return {"table": table, "weights": network(seed)["weights"] if tx in both else None}


@every
def test_the_second_step_compiles_nothing_and_types_stay(tx):
    chex.clear_trace_counter()
    params = network()
    state = tx.init(params)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    before = jax.tree.map(jax.typeof, (params, state))
    for seed in range(3):
        params, state = step(params, state, gradients(tx, seed))
        assert jax.tree.map(jax.typeof, (params, state)) == before


@every
def test_scan_equals_a_loop_and_the_pair_is_a_value(tx):
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert "object at" not in repr(tx)
    start = network()

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (fo.apply_updates(params, updates), state), None

    each = [gradients(tx, seed) for seed in range(3)]
    scanned, _ = jax.lax.scan(step, (start, tx.init(start)), jax.tree.map(lambda *xs: jnp.stack(xs), *each))
    looped = (start, tx.init(start))
    for grads in each:
        looped, _ = step(looped, grads)
    chex.assert_trees_all_close(scanned, looped, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DENSE_TOO)
def test_the_rows_named_move_as_with_a_dense_gradient(name):
    tx, params = TRANSFORMATIONS[name], network()
    grads = gradients(tx)
    dense = {**grads, "table": grads["table"].todense()}
    results = []
    for given in (grads, dense):
        updates, state = tx.update(given, tx.init(params), params)
        results.append((fo.apply_updates(params, updates), state))
    chex.assert_trees_all_close(*results, rtol=1e-6, atol=1e-7)


def test_the_update_has_as_many_entries_as_the_gradient():
    tx, table = fo.sparse_adam(), jnp.zeros((10, 3))
    grads = rows.make(jnp.ones((3, 3)), jnp.array([4, 4, 7]), (10, 3))
    updates, _ = tx.update(grads, tx.init(table))
    assert isinstance(updates, BCOO)
    assert updates.nse == 3
    assert sorted(rows.indices_of(updates).tolist()) == [4, 7, 10]


@pytest.mark.parametrize("tx", [fo.sparse_adam(), fo.sgd(), fo.adagrad()])
def test_memory_of_a_step_does_not_grow_with_the_table(tx):
    def temporary(size):
        table = jnp.zeros((size, 16))
        state, grads = tx.init(table), rows.make(jnp.ones((64, 16)), jnp.zeros(64, jnp.int32), (size, 16))

        def step(table, state, grads):
            updates, state = tx.update(grads, state, table)
            return fo.apply_updates(table, updates), state

        memory = jax.jit(step, donate_argnums=(0, 1)).lower(table, state, grads).compile().memory_analysis()
        assert memory.alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves((table, state)))
        return memory.temp_size_in_bytes

    assert temporary(1000) == temporary(50_000) <= 64 * 16 * 4 * 10


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize("tx", [fo.sgd(lr=0.1), fo.adagrad(lr=0.1), fo.sparse_adam(lr=0.1)])
def test_other_dtypes(tx, dtype):
    table = jnp.ones((5, 2), dtype)
    if dtype == jnp.complex64 and "sparse" in repr(tx):
        with pytest.raises(ValueError, match=r"Complex params at indices.*SparseAdam does not support complex"):
            tx.init(table)
        return
    data = jnp.asarray([[1, 2], [3, 4], [5, 6]], dtype) * (1 + (1j if dtype == jnp.complex64 else 0))
    grads = rows.make(data.astype(dtype), jnp.array([1, 3, 1]), (5, 2))
    updates, state = tx.update(grads, tx.init(table), table)
    moved = fo.apply_updates(table, updates)
    assert moved.dtype == dtype
    assert updates.dtype == (jnp.float32 if dtype == jnp.bfloat16 else dtype)
    if "sparse" not in repr(tx):
        dense, same = tx.update(grads.todense(), tx.init(table), table)
        np.testing.assert_array_equal(moved, fo.apply_updates(table, dense))
        chex.assert_trees_all_equal(state, same)


def test_errors():
    table = {"table": jnp.zeros((5, 2))}
    grads = {"table": rows.make(jnp.ones((1, 2)), jnp.array([1]), (5, 2))}
    with pytest.raises(RuntimeError, match=r"SparseAdam does not support dense gradients, please consider Adam.*table"):
        fo.sparse_adam().update(table, fo.sparse_adam().init(table), table)
    with pytest.raises(RuntimeError, match=r"Adam does not support sparse gradients.*'table'.*SparseAdam"):
        fo.adam().update(grads, fo.adam().init(table), table)
    for tx in (fo.sgd(weight_decay=0.1), fo.adagrad(weight_decay=0.1)):
        with pytest.raises(RuntimeError, match=r"weight_decay option is not compatible with sparse gradients.*'table'"):
            tx.update(grads, tx.init(table), table)
    wrong = {"table": rows.make(jnp.ones((1, 2)), jnp.array([1]), (6, 2))}
    with pytest.raises(ValueError, match=r"'table' has shape \(6, 2\)"):
        fo.sgd().update(wrong, fo.sgd().init(table), table)
    with pytest.raises(RuntimeError, match=r"one sparse dimension, the rows; .*'table' is BCOO\(2 sparse"):
        fo.sgd().update({"table": BCOO.fromdense(jnp.ones((5, 2)))}, fo.sgd().init(table), table)
    with pytest.raises(RuntimeError, match=r"clip_by_value does not support sparse gradients.*'table'"):
        fo.clip_by_value(1.0).update(grads, fo.EmptyState())
    for options in ({"lr": 0.0}, {"eps": 0.0}):
        with pytest.raises(ValueError, match=r"Invalid (learning rate|epsilon value): 0\.0"):
            fo.sparse_adam(**options)
    with pytest.raises(ValueError, match=r"Sparse params at indices \['table'\].*require dense parameter tensors"):
        fo.sparse_adam().init(grads)


def test_errors_of_the_torch_face_leave_everything_as_it_was():
    table = {"table": jnp.ones((5, 2))}
    grads = {"table": rows.make(jnp.ones((1, 2)), jnp.array([1]), (5, 2))}
    cases = [
        (optim.SparseAdam, {}, table, "SparseAdam does not support dense gradients, please consider Adam instead"),
        (optim.SGD, {"weight_decay": 0.1}, grads, "weight_decay option is not compatible with sparse gradients"),
        (optim.Adagrad, {"weight_decay": 0.1}, grads, "weight_decay option is not compatible with sparse gradients"),
        (optim.Adam, {}, grads, "Adam does not support sparse gradients.*'table'"),
        (optim.RMSprop, {}, grads, "RMSprop does not support sparse gradients"),
    ]
    for make, options, given, message in cases:
        optimizer = make(table, **options)
        with pytest.raises(RuntimeError, match=message):
            optimizer.step(given)
        np.testing.assert_array_equal(optimizer.params["table"], table["table"])
    sparse = grads["table"]
    for params, where in (
        (grads, r"\[\[0, 0\]\]: .* row-sparse: 'table'"),
        ([table["table"], sparse], r"\[\[0, 1\]\]: .*"),
        ([{"params": table}, {"params": [("a", jnp.ones(1)), ("b", sparse)]}], r"\[\[1, 1\]\]: .* row-sparse: 'b'"),
    ):
        for make in (optim.SparseAdam, optim.Adam):
            with pytest.raises(ValueError, match=rf"Sparse params at indices {where}") as caught:
                make(params)
            assert f"]]: {make.__name__} requires dense parameter tensors" in str(caught.value)
    with pytest.raises(
        ValueError, match=r"Sparse params at indices \[\[1, 0\]\]: SGD requires dense parameter tensors"
    ):
        optim.SGD(table).add_param_group({"params": {"more": sparse}})
    optimizer = optim.SGD(table, lr=0.1)
    optimizer.step(grads)
    optimizer.step(table)  # dense gradients are checked again
    optimizer.step(grads)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(RuntimeError, match="weight_decay option"):
        optimizer.step(grads)


def loss(params, ids, labels):
    embedded = params["embed"]["table"][ids]
    return jnp.mean((jnp.sum(embedded, axis=-2) @ params["weights"] - labels) ** 2)


def model():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731 one line
    return {"embed": {"table": draw(12, 4)}, "weights": draw(4, 1)}, jnp.array([[3, 7, 3], [11, -1, 0]]), draw(2, 1)


def test_sparse_gradients_are_the_dense_ones():
    params, ids, labels = model()
    for wrap in (jax.jit, lambda function: function):
        value, grads = wrap(fo.value_and_sparse_grad(loss, "embed.table"))(params, ids, labels)
        right, dense = jax.value_and_grad(loss)(params, ids, labels)
        np.testing.assert_allclose(value, right, rtol=1e-6)
        np.testing.assert_allclose(grads["embed"]["table"].todense(), dense["embed"]["table"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(grads["weights"], dense["weights"], rtol=1e-5)
        assert grads["embed"]["table"].nse == 6


def test_several_lookups_an_unused_table_and_more_output():
    tables = {"a": jnp.ones((5, 2)), "b": jnp.ones((7, 2)), "c": jnp.ones((3, 2))}

    def several(tables, ids):
        first = tables["a"][ids]
        return jnp.sum(first * tables["b"][ids + 1]) + jnp.sum(tables["a"][0] * 3.0), (first, len(tables["a"]))

    chosen = fo.value_and_sparse_grad(several, lambda name: True, has_aux=True)
    (value, (first, length)), grads = chosen(tables, jnp.array([1, 4]))
    assert (value, length, first.shape) == (10.0, 5, (2, 2))
    (_, _), dense = jax.value_and_grad(several, has_aux=True)(tables, jnp.array([1, 4]))
    for key in tables:
        np.testing.assert_allclose(grads[key].todense(), dense[key])
    assert (grads["a"].nse, grads["c"].nse) == (3, 0)


def test_a_table_can_only_be_looked_up():
    params, ids, labels = model()
    with pytest.raises(ValueError, match=r"sparse names 'table', which no parameter is called.*'embed\.table'"):
        fo.value_and_sparse_grad(loss, "table")(params, ids, labels)
    table = jnp.ones((4, 2))
    for bad in (lambda t: jnp.sum(t), lambda t: jnp.sum(t @ jnp.ones(2)), lambda t: jnp.sum(jnp.take(t, 0, axis=0))):
        with pytest.raises((TypeError, AttributeError)):
            fo.value_and_sparse_grad(bad, "")(table)
    with pytest.raises(AttributeError, match=r"can only be looked up, table\[ids\]; it has no 'T'"):
        fo.value_and_sparse_grad(lambda t: jnp.sum(t.T), "")(table)
    for bad in (lambda t: sum(row[0] for row in t), lambda t: jnp.sum(np.ones((3, 4)) @ t), lambda t: float(0 in t)):
        with pytest.raises(TypeError):
            fo.value_and_sparse_grad(bad, "")(table)
    with pytest.raises(ValueError, match=r"the table .* has no rows, it is a scalar"):
        fo.value_and_sparse_grad(lambda t: jnp.sum(t), "")(jnp.ones(()))
    for bad in (slice(0, 2), jnp.ones(2), (0, 1), None, ..., True):
        with pytest.raises(TypeError, match="looked up with an array of integers"):
            fo.value_and_sparse_grad(lambda t, bad=bad: jnp.sum(t[bad]), "")(table)


OPERATORS = [
    lambda t: jnp.where(t == 1, 1.0, 0.0),
    lambda t: 1.0 if t != 0 else 0.0,
    lambda t: 1.0 if t else 0.0,
    lambda t: 1.0 if not t else 0.0,
    lambda t: float(0 in t),
    lambda t: t + 1,
    lambda t: 2.0 * t,
    lambda t: jnp.ones(2) @ t,
    lambda t: -t,
    lambda t: t**2,
    lambda t: t > 0,
    lambda t: float(t),
    lambda t: t.__setitem__(0, 1.0),
]


@pytest.mark.parametrize("bad", OPERATORS)
def test_a_table_is_no_operand(bad):
    with pytest.raises(TypeError, match=r"the table 'w' .* can only be looked up, table\[ids\]; it is no operand \(__"):
        fo.value_and_sparse_grad(lambda params: jnp.sum(bad(params["w"])), "w")({"w": jnp.ones((4, 2))})


INSIDE = {
    "jit": lambda look: jax.jit(look)(jnp.array([1])),
    "vmap": lambda look: jax.vmap(look)(jnp.array([1])),
    "scan": lambda look: jax.lax.scan(lambda carry, i: (carry, look(i)), 0.0, jnp.array([1]))[1],
    "checkpoint": lambda look: jax.checkpoint(look)(jnp.array([1])),
}


@pytest.mark.parametrize("call", INSIDE.values(), ids=INSIDE)
def test_a_lookup_inside_another_trace_is_refused(call):
    def of(params):
        return jnp.sum(call(lambda ids: params["w"][ids]))

    for wrap in (lambda function: function, jax.jit):
        with pytest.raises(TypeError, match=r"the table 'w' .* outside of what the loss compiles, scans or maps"):
            wrap(fo.value_and_sparse_grad(of, "w"))({"w": jnp.ones((4, 2))})


def test_a_table_names_itself_and_is_copied():
    def look_up(params, ids):
        return jnp.sum(copy.copy(params["w"])[ids] * 2.0)

    params = {"w": jnp.arange(8.0).reshape(4, 2)}
    with pytest.raises(TypeError, match=r"the table 'w', which can only be looked up, table\[ids\]"):
        fo.value_and_sparse_grad(lambda params: jnp.sum(jnp.take(params["w"], 0, axis=0)), "w")(params)
    for ids in ([1, 2], np.array([1, 2], np.uint8), np.array([2, 1], np.int16)):
        value, grads = fo.value_and_sparse_grad(look_up, "w")(params, ids)
        assert value == 28.0 and sorted(rows.indices_of(grads["w"]).tolist()) == [1, 2]
    _, grads = fo.value_and_sparse_grad(look_up, "w")(params, np.array([2**32 - 1, 1], np.uint32))
    assert rows.indices_of(grads["w"]).tolist() == [4, 1]  # beyond the end: no row


def test_the_value_is_differentiable_in_the_table():
    def value(params):
        return fo.value_and_sparse_grad(lambda params: jnp.sum(params["w"][jnp.array([1, 1])] ** 2), "w")(params)[0]

    found = jax.grad(value)({"w": jnp.arange(8.0).reshape(4, 2)})["w"]
    assert found.tolist() == [[0, 0], [8, 12], [0, 0], [0, 0]]


def test_ids_out_of_range_move_nothing():
    """Beyond the end, and below minus the length, where wrapping once is not enough."""
    table, tx = jnp.zeros((4, 1)), fo.sparse_adam(lr=0.1)
    _, grads = fo.value_and_sparse_grad(lambda t, ids: jnp.sum(t[ids]), "")(table, jnp.array([-5, 3, 7, -1]))
    updates, state = tx.update(grads, tx.init(table), table)
    np.testing.assert_allclose(fo.apply_updates(table, updates), [[0], [0], [0], [-0.1]], rtol=1e-6)
    assert int(jnp.sum(state.exp_avg != 0)) == 1
    small = fo.value_and_sparse_grad(lambda t, ids: jnp.sum(t[ids]), "")(
        jnp.zeros((1000, 1)), jnp.array([-1], jnp.int8)
    )
    assert rows.indices_of(small[1]).tolist() == [999]


def test_an_unsorted_gradient_is_not_called_sorted():
    grads = BCOO((jnp.ones((2, 1)), jnp.array([[3], [1]])), shape=(4, 1), unique_indices=True)
    updates, _ = fo.sgd(lr=1.0).update(grads, fo.sgd().init(jnp.zeros((4, 1))))
    assert not updates.indices_sorted


def test_a_function_that_chooses_the_tables_compiles_once(compilations):
    params, ids, labels = model()
    optimizer = optim.SGD(params, lr=0.1)
    for step in range(4):
        optimizer.zero_grad()
        optimizer.backward(loss, ids, labels, sparse=lambda name: name == "embed.table")
        optimizer.step()
        if step == 0:
            compilations.clear()
    assert not compilations


def test_backward_accumulates_sparse_gradients():
    params, ids, labels = model()
    one = optim.SGD(params, lr=0.1)
    two = optim.SGD(params, lr=0.1)
    for _ in range(2):
        for _ in range(2):
            value = one.backward(loss, ids, labels, sparse="embed.table")
            np.testing.assert_allclose(value, two.backward(loss, ids, labels), rtol=1e-5)
        assert one.grads["embed"]["table"].nse == 12
        one.step()
        two.step()
        chex.assert_trees_all_close(one.params, two.params, rtol=1e-5, atol=1e-6)
        one.zero_grad(set_to_none=False)
        two.zero_grad()
        assert one.grads["embed"]["table"].nse == 0


def test_from_transform_takes_row_sparse_gradients():
    table = {"table": jnp.ones((5, 2))}
    grads = {"table": rows.make(jnp.ones((2, 2)), jnp.array([1, 1]), (5, 2))}
    composed = optim.Optimizer.from_transform(lambda lr: fo.sparse_adam(lr=lr), table, {"lr": 0.1})
    plain = optim.SparseAdam(table, lr=0.1)
    for optimizer in (composed, plain):
        optimizer.step(grads)
        optimizer.step(grads)
    chex.assert_trees_all_close(composed.params, plain.params, rtol=1e-6)


@pytest.mark.parametrize("spec", [P("data", None), P(None, "data")])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_sharded_table_stays_sharded(spec, compiled):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    tx, table = fo.sparse_adam(lr=0.1), jnp.ones((6, 2))
    grads = rows.make(jnp.ones((3, 2)), jnp.array([1, 1, 4]), (6, 2))

    def step(table, state):
        updates, state = tx.update(grads, state, table)
        return fo.apply_updates(table, updates), state

    expected = step(table, tx.init(table))
    with jax.set_mesh(mesh):
        placed = jax.device_put(table, NamedSharding(mesh, spec))
        moved, state = (jax.jit(step) if compiled else step)(placed, tx.init(placed))
    assert moved.sharding.spec == state.exp_avg.sharding.spec == spec
    chex.assert_trees_all_close((np.asarray(moved), np.asarray(state.exp_avg)), (expected[0], expected[1].exp_avg))


def test_vmap_and_derivatives():
    tx, tables = fo.sparse_adam(lr=0.1), jnp.ones((3, 5, 2))
    data, ids = jnp.arange(24.0).reshape(3, 4, 2), jnp.array([[1, 1, 2, 3]] * 3)

    def step(table, data, ids):
        updates, _ = tx.update(rows.make(data, ids, (5, 2)), tx.init(table))
        return fo.apply_updates(table, updates)

    together = jax.vmap(step)(tables, data, ids)
    for index in range(3):
        np.testing.assert_allclose(together[index], step(tables[index], data[index], ids[index]), rtol=1e-6)
    slope = jax.grad(lambda table: jnp.sum(step(table, data[0], ids[0]) ** 2))(tables[0])
    np.testing.assert_allclose(slope, 2 * step(tables[0], data[0], ids[0]), rtol=1e-6)
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda data: jnp.sum(step(tables[0], data, ids[0]) ** 2))(data[0]))))


def test_an_id_below_the_range_has_no_row_in_the_gradient():
    """Wrapped from the end once, it would be another row."""
    ids = jnp.array([-5, 1])
    _, grads = fo.value_and_sparse_grad(lambda params: jnp.sum(params["table"][ids]), "table")(
        {"table": jnp.ones((3, 2))}
    )
    np.testing.assert_array_equal(grads["table"].todense(), [[0, 0], [1, 1], [0, 0]])
