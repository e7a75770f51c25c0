"""L-BFGS against torch's recorded runs, BFGS and its line searches against their definitions and SciPy."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.algorithms.bfgs import ERROR, FORGETTING
from tests import quasi_newton_cases as problems
from tests import quasi_newton_comparison
from tests.algorithms import FULL, full
from tests.quasi_newton_comparison import compiled_update, loss_of, recorded

each_case = pytest.mark.parametrize("label", problems.LBFGS if FULL else problems.SOME)
WOLFE = {"line_search_fn": "strong_wolfe"}
SEARCHES = [{}, WOLFE, {"line_search_fn": "hager_zhang"}]


def rosenbrock(x):
    return problems.rosenbrock([x], jnp)


@each_case
def test_lbfgs_is_torchs(label, x64):
    """In both faces: parameters, losses, and the counts of evaluations and iterations after every step."""
    for error in quasi_newton_comparison.trajectory_errors(label):
        assert error <= quasi_newton_comparison.tolerance(label)


@pytest.mark.torch
@each_case
def test_recorded_runs_are_torchs(label):
    pytest.importorskip("torch", reason="the live comparison needs torch; the recorded trajectories do not")
    from tests import torch_run

    live, held = torch_run.run_lbfgs(label), recorded(label)
    np.testing.assert_array_equal(live["counts"], held["counts"])
    np.testing.assert_allclose(live["param"], held["param"], rtol=1e-5, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("options", [{"lr": 0.05}, WOLFE, {**WOLFE, "max_iter": 100}])
def test_fed_by_torchs_own_gradients(options):
    jax.config.update("jax_enable_x64", True)  # for the callbacks' threads too
    try:
        compare_with_torchs_gradients(options)
    finally:
        jax.config.update("jax_enable_x64", False)


def compare_with_torchs_gradients(options):
    torch = pytest.importorskip("torch", reason="it is torch that calculates the gradients")

    def numbers(x):
        tensor = torch.tensor(np.asarray(x), requires_grad=True)
        value = problems.rosenbrock([tensor], torch)
        value.backward()
        return np.asarray(value.detach().numpy()), tensor.grad.numpy()

    shapes = (jax.ShapeDtypeStruct((), jnp.float64), jax.ShapeDtypeStruct((2,), jnp.float64))

    @jax.custom_vjp
    def loss(x):
        return jax.pure_callback(numbers, shapes, x)[0]

    loss.defvjp(lambda x: jax.pure_callback(numbers, shapes, x), lambda grad, cotangent: (cotangent * grad,))
    start = np.array([-1.2, 1.0])
    param = torch.tensor(start, requires_grad=True)
    theirs, ours = torch.optim.LBFGS([param], **options), optim.LBFGS([jnp.asarray(start)], **options)

    def closure():
        theirs.zero_grad()
        value = problems.rosenbrock([param], torch)
        value.backward()
        return value

    def of_params(params):
        return loss(params[0])

    for _ in range(3):
        theirs.step(closure)
        ours.step(of_params)
        np.testing.assert_allclose(ours.params[0], param.detach().numpy(), rtol=1e-9)


def logistic(features, samples=400, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((samples, features)) / np.sqrt(features)
    labels = np.sign(inputs @ rng.standard_normal(features) + 0.1 * rng.standard_normal(samples))

    def loss(weights, inputs, labels):
        return jnp.mean(jnp.logaddexp(0, -labels * (inputs @ weights))) + 1e-3 * jnp.sum(weights**2)

    return loss, jnp.asarray(inputs), jnp.asarray(labels)


def test_logistic_regression_reaches_scipys_optimum(x64):
    loss, inputs, labels = logistic(1000)
    optimizer = optim.LBFGS([jnp.zeros(1000)], max_iter=200, history_size=10, tolerance_change=1e-14, **WOLFE)
    optimizer.step(lambda params, *batch: loss(params[0], *batch), inputs, labels)
    grad = jax.jit(jax.value_and_grad(loss))
    found = scipy.optimize.minimize(
        lambda w: tuple(np.asarray(x) for x in grad(jnp.asarray(w), inputs, labels)),
        np.zeros(1000),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500},
    )
    assert loss(optimizer.params[0], inputs, labels) <= found.fun + 1e-8


@pytest.mark.torch
def test_logistic_regression_takes_no_more_evaluations_than_torch(x64):
    torch = pytest.importorskip("torch", reason="torch's count of evaluations")
    loss, inputs, labels = logistic(1000)
    options = {"max_iter": 50, "history_size": 10, **WOLFE}
    ours = optim.LBFGS([jnp.zeros(1000)], **options)
    ours.step(lambda params, *batch: loss(params[0], *batch), inputs, labels)
    param, x, y = (
        torch.zeros(1000, dtype=torch.float64, requires_grad=True),
        *map(torch.tensor, map(np.asarray, (inputs, labels))),
    )
    theirs = torch.optim.LBFGS([param], **options)

    def closure():
        theirs.zero_grad()
        value = torch.mean(torch.nn.functional.softplus(-y * (x @ param))) + 1e-3 * torch.sum(param**2)
        value.backward()
        return value

    theirs.step(closure)
    assert ours.state[0]["func_evals"] <= theirs.state[param]["func_evals"]


@pytest.mark.parametrize("size", [2, 10, 50])
@pytest.mark.parametrize("search", SEARCHES[1:])
def test_bfgs_reaches_scipys_optimum(size, search, x64):
    start = np.full(size, 0.5)
    tx = fo.bfgs(max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-20, **search)
    x, state, _ = compiled_update(tx, rosenbrock)(jnp.asarray(start), tx.init(jnp.asarray(start)))
    grad = jax.jit(jax.grad(rosenbrock))
    found = scipy.optimize.minimize(
        lambda x: float(rosenbrock(jnp.asarray(x))),
        start,
        jac=lambda x: np.asarray(grad(jnp.asarray(x))),
        method="BFGS",
        options={"gtol": 1e-9},
    )
    np.testing.assert_allclose(x, found.x, atol=1e-8)
    assert int(state.n_iter) <= 1.5 * found.nit


@pytest.mark.parametrize("search", SEARCHES)
def test_bfgs_satisfies_the_secant_equation(search, x64):
    """One iteration per step; after it, H maps the last change of the gradient to the last step."""
    tx = fo.bfgs(lr=1.0 if search else 0.01, max_iter=1, max_eval=40, **search)
    x = jnp.array([-1.2, 1.0, -1.2, 1.0])
    state, step, checked = tx.init(x), compiled_update(tx, rosenbrock), 0
    for _ in range(25):
        before = state
        x, state, _ = step(x, state)
        change, moved = state.prev_flat_grad - before.prev_flat_grad, before.t * before.d
        np.testing.assert_allclose(state.H, state.H.T, rtol=1e-9, atol=1e-12)
        if before.n_iter and float(change @ moved) > 1e-10:
            np.testing.assert_allclose(state.H @ change, moved, rtol=1e-10, atol=1e-10 * float(jnp.max(jnp.abs(moved))))
            checked += 1
    assert checked >= 10


@pytest.mark.parametrize("options", [{"lr": 1.0}, {"lr": 0.3}, {"lr": 50.0}])
def test_hager_zhang_accepts_where_the_approximate_wolfe_conditions_hold(options, x64):
    tx = fo.bfgs(max_iter=1, max_eval=60, tolerance_change=1e-24, line_search_fn="hager_zhang", **options)
    value_and_grad = jax.jit(jax.value_and_grad(rosenbrock))
    x = jnp.array([-1.2, 1.0, 0.7])
    state, step, weight, size = tx.init(x), compiled_update(tx, rosenbrock), 0.0, 0.0
    for _ in range(200):
        value, grad = value_and_grad(x)
        if jnp.max(jnp.abs(grad)) <= 1e-7:
            break
        after, state, _ = step(x, state)
        new_value, new_grad = value_and_grad(after)
        weight = 1 + FORGETTING * weight
        size += (abs(float(value)) - size) / weight
        if float(state.t) == 0:  # nothing was accepted: only rounding is left to gain
            break
        slope, new_slope = float(grad @ state.d), float(new_grad @ state.d)
        assert (2 * 0.1 - 1) * slope >= new_slope >= 0.9 * slope
        assert new_value <= value + ERROR * size * (1 + 1e-9)
        x = after
    assert jnp.max(jnp.abs(grad)) <= 1e-7


def barrier(x):
    """NaN for x >= 1."""
    return jnp.sum(-jnp.log(1 - x) - 3 * x)


ALGORITHMS = [(fo.lbfgs, {}), (fo.lbfgs, WOLFE), (fo.bfgs, {}), (fo.bfgs, WOLFE), (fo.bfgs, SEARCHES[2])]
every = pytest.mark.parametrize(("make", "search"), ALGORITHMS)
# Behavior that is independent of the search is tested with the longest two.
one_of_each = pytest.mark.parametrize(("make", "search"), ALGORITHMS if FULL else [ALGORITHMS[1], ALGORITHMS[4]])


@every
def test_non_finite_points_are_never_kept(make, search):
    """torch runs into them and stays there."""
    tx = make(lr=3.0, max_iter=10, **search)
    x = jnp.array([0.1, 0.5, -3.0])
    state, step, before = tx.init(x), compiled_update(tx, barrier), barrier(x)
    for _ in range(8):
        x, state, _ = step(x, state)
        assert bool(jnp.all(jnp.isfinite(x)))
    x, _, _ = step(x, state)  # the next update sees, and leaves, a fixed step's last point
    assert bool(jnp.isfinite(barrier(x)))
    assert barrier(x) < before
    if search:
        np.testing.assert_allclose(x, 2 / 3, rtol=1e-3)


@pytest.mark.parametrize("make", [fo.lbfgs, fo.bfgs])
def test_a_fixed_step_into_the_unknown_is_taken_back(make):
    """One iteration per step; neither torch nor we evaluate the point that it leads to."""
    tx = make(lr=4.0, max_iter=1)
    x = jnp.array([0.5])
    state, step = tx.init(x), compiled_update(tx, barrier)
    values = []
    for _ in range(12):
        x, state, value = step(x, state)
        values.append(float(value))
    assert not np.all(np.isfinite(values))  # it happened
    assert bool(jnp.isfinite(barrier(x)))


@every
def test_no_update_from_a_non_finite_start(make, search):
    tx, x = make(**search), jnp.array([2.0, 0.0])
    after, state, _ = compiled_update(tx, barrier)(x, tx.init(x))
    np.testing.assert_array_equal(after, x)
    assert (int(state.func_evals), int(state.n_iter)) == (1, 0)


@pytest.mark.parametrize("make", [fo.lbfgs, fo.bfgs])
def test_a_line_search_never_ends_higher(make):
    """In float32, with steps much too long and few evaluations."""

    @jax.jit
    def step(x, state, lr):
        value, grad = jax.value_and_grad(rosenbrock)(x)
        updates, state = make(lr=lr, **options).update(grad, state, x, value_fn=rosenbrock)
        return x + updates, state, value, rosenbrock(x + updates)

    options = {"max_iter": 3, "max_eval": 4, **WOLFE}
    for lr in (1e-3, 1.0, 1e3):
        x = jnp.array([-1.2, 1.0])
        state = make(**options).init(x)
        for _ in range(5):
            x, state, before, after = step(x, state, lr)
            assert after <= before


@one_of_each
def test_maximize(make, search):
    down, up = make(lr=0.3, **search), make(lr=0.3, maximize=True, **search)
    x = jnp.array([2.0, -1.0])
    minimum = lambda x: jnp.sum((x - 0.5) ** 2) + jnp.sum(x) ** 4 / 10  # noqa: E731 one line
    one, state, _ = compiled_update(down, minimum)(x, down.init(x))
    other, mirrored, _ = compiled_update(up, lambda x: -minimum(x))(x, up.init(x))
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert state.func_evals == mirrored.func_evals


@one_of_each
def test_trees_dtypes_and_shapes(make, search):
    """State and parameters keep their types; the second update compiles nothing; float32 converges well."""
    chex.clear_trace_counter()
    params = {"a": jnp.ones((2, 3)), "b": [jnp.zeros(()), jnp.zeros((0, 3))], "c": jnp.ones(2, jnp.bfloat16)}
    tx = make(lr=0.5, **search)

    def loss(params):
        return sum(jnp.sum((leaf.astype(jnp.float32) - 2) ** 2) for leaf in jax.tree.leaves(params))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
        return fo.apply_updates(params, updates), state

    state = tx.init(params)
    types = jax.tree.map(jax.typeof, (params, state))
    for _ in range(3):
        params, state = step(params, state)
        assert jax.tree.map(jax.typeof, (params, state)) == types
    assert loss(params) < 1e-4
    leaves = jax.tree.leaves((params, tx.init(params)))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size]
    assert len(set(pointers)) == len(pointers)
    assert avals(tx.init(jax.eval_shape(lambda: params))) == avals(state)


def avals(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@every
def test_the_pair_is_a_value(make, search):
    tx = make(**search)
    again = pickle.loads(pickle.dumps(tx))
    assert again == tx
    assert hash(again) == hash(tx)
    assert repr(tx).startswith(make.__name__ + "(lr=1.0, max_iter=20")
    empty, _ = tx.update({}, tx.init({}), {}, value_fn=lambda p: 0.0)
    assert empty == {}


@one_of_each
def test_vmap_scan_and_missing_gradients(make, search, x64):
    tx = make(lr=0.1, max_iter=4, **search)
    starts = jnp.array([[2.0, -1.0], [0.5, 0.5], [-1.2, 1.0]])

    def three(x):
        def one(carry, _):
            x, state = carry
            updates, state = tx.update(jax.grad(rosenbrock)(x), state, x, value_fn=rosenbrock)
            return (x + updates, state), rosenbrock(x)

        (x, _), values = jax.lax.scan(one, (x, tx.init(x)), length=3)
        return x, values

    together, _ = jax.vmap(three)(starts)
    for index in range(3):
        alone, _ = three(starts[index])
        np.testing.assert_allclose(together[index], alone, rtol=1e-6)
    params = {"x": starts[0], "frozen": jnp.ones(2)}
    grads = {"x": jax.grad(rosenbrock)(starts[0]), "frozen": None}
    updates, _ = tx.update(grads, tx.init(params), params, value_fn=lambda p: rosenbrock(p["x"]))
    np.testing.assert_array_equal(updates["frozen"], np.zeros(2))


@pytest.mark.parametrize(("make", "search"), [ALGORITHMS[1], *full(*ALGORITHMS[2:])])
def test_sharded_parameters(make, search):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    params = {"w": jnp.arange(8.0).reshape(4, 2), "b": jnp.ones(2)}
    specs = {"w": P("data", None), "b": P()}

    def loss(params):
        return jnp.sum((params["w"] - 3) ** 4) + jnp.sum((params["b"] + 1) ** 2)

    tx = make(max_iter=5, lr=1.0 if search else 0.01, **search)  # longer fixed steps diverge, and amplify rounding
    expected, _, _ = compiled_update(tx, loss)(params, tx.init(params))
    with jax.set_mesh(mesh):
        placed = jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), params, specs)
        state = tx.init(placed)
        moved, state, _ = compiled_update(tx, loss)(placed, state)
    assert moved["w"].sharding.spec == specs["w"]
    if make is fo.lbfgs:
        assert state.old_dirs["w"].sharding.spec == P(None, "data", None)
    chex.assert_trees_all_close(jax.tree.map(np.asarray, moved), jax.tree.map(np.asarray, expected), rtol=1e-3)


@pytest.mark.parametrize(("make", "search"), [ALGORITHMS[1], *full(*ALGORITHMS[2:])])
def test_every_device_searches_for_itself(make, search):
    tx, starts = make(lr=0.5, max_iter=4, axis_name=(), **search), jnp.array([[2.0, 0.5], [-1.0, 3.0]])

    def own(w):
        loss = lambda w: jnp.sum((w - 1.0) ** 4)  # noqa: E731 one line
        return fo.apply_updates(w, tx.update(jax.grad(loss)(w), tx.init(w), w, value_fn=loss)[0])

    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    together = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=P("x"), out_specs=P("x")))(starts)
    for index in range(2):
        np.testing.assert_allclose(together[index], jax.jit(own)(starts[index]), rtol=1e-4)


def test_complex_parameters_descend(x64):
    z = [jnp.asarray(array) for array in problems.start(problems.complex_bowl, 3)]
    loss = loss_of(problems.complex_bowl)
    found = []
    for make in (optim.LBFGS, optim.BFGS):
        optimizer = make(z, line_search_fn="strong_wolfe", max_iter=60)
        optimizer.step(loss)
        found.append(optimizer.params[0])
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_in_chains_and_in_optax():
    x, tx = jnp.array([-1.2, 1.0]), fo.lbfgs(**WOLFE)
    alone, _ = tx.update(jax.grad(rosenbrock)(x), tx.init(x), x, value_fn=rosenbrock)
    chain = fo.chain(tx, fo.scale(0.5))
    half, _ = chain.update(jax.grad(rosenbrock)(x), chain.init(x), x, value_fn=rosenbrock)
    np.testing.assert_allclose(half, 0.5 * alone)
    theirs = optax.chain(fo.interop.to_optax(tx), optax.scale(0.5))
    same, _ = theirs.update(jax.grad(rosenbrock)(x), theirs.init(x), x, value_fn=rosenbrock)
    np.testing.assert_allclose(same, half)
    assert fo.current_hyperparams(tx, tx.init(x))["lr"] == 1.0


def test_hyperparameters_are_data(compilations):
    x = jnp.array([-1.2, 1.0])

    @jax.jit
    def step(x, state, lr, tolerance):
        tx = fo.lbfgs(lr=lr, tolerance_change=tolerance, max_iter=3)
        updates, state = tx.update(jax.grad(rosenbrock)(x), state, x, value_fn=rosenbrock)
        return x + updates, state

    state = fo.lbfgs().init(x)
    x, state = step(x, state, 0.01, 1e-9)
    before = len(compilations)
    for lr in (0.02, 0.005):
        x, state = step(x, state, lr, 1e-8)
    assert len(compilations) == before


def apply(tx, params=None, **keywords):
    return tx.update(jnp.ones(2), tx.init(jnp.ones(2)), params, **keywords)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fo.lbfgs(lr=-1.0), ValueError, r"Invalid learning rate: -1\.0"),
        (lambda: optim.BFGS([jnp.ones(2)], lr=-1.0), ValueError, r"Invalid learning rate: -1\.0"),
        (lambda: fo.lbfgs(line_search_fn="armijo"), RuntimeError, "only 'strong_wolfe' is supported"),
        (lambda: fo.bfgs(line_search_fn="armijo"), RuntimeError, "only 'strong_wolfe' and 'hager_zhang' are supported"),
        (lambda: fo.lbfgs(history_size=0), ValueError, "history_size must be an integer of at least 1"),
        (lambda: fo.lbfgs(max_iter=-1), ValueError, "max_iter must be an integer of at least 0"),
        (lambda: optim.LBFGS([jnp.ones(2)], max_iter=2.5), TypeError, "max_iter must be an integer .*but it is 2.5"),
        (lambda: fo.bfgs(max_eval="3"), TypeError, "max_eval must be an integer"),
        (
            lambda: optim.LBFGS([{"params": [jnp.ones(2)]}, {"params": [jnp.ones(3)]}]),
            ValueError,
            r"LBFGS doesn't support per-parameter options \(parameter groups\)",
        ),
        (
            lambda: optim.BFGS([{"params": [jnp.ones(2)]}, {"params": [jnp.ones(3)]}]),
            ValueError,
            r"BFGS doesn't support per-parameter options \(parameter groups\)",
        ),
        (lambda: apply(fo.lbfgs(), jnp.ones(2)), ValueError, r"lbfgs needs the objective.*to_optax"),
        (lambda: apply(fo.bfgs()), ValueError, "bfgs needs the parameters"),
        (
            lambda: apply(fo.lbfgs(), jnp.ones(2), value_fn=lambda p: p),
            TypeError,
            "the objective must give a real scalar",
        ),
        (lambda: fo.lbfgs().init({"n": jnp.ones(2, int)}), TypeError, "can only optimize floating.*'n'"),
        (lambda: optim.LBFGS([jnp.ones(2)]).step(), TypeError, r"LBFGS.step\(\) missing 1 required"),
        (lambda: optim.LBFGS([jnp.ones(2)]).step([jnp.ones(2)]), TypeError, "not gradients"),
        (lambda: optim.BFGS([jnp.ones(2)]).step(lambda: 0.0), TypeError, r"it needs closure\(params\)"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("make", [optim.LBFGS, *full(optim.BFGS)])
def test_state_dict_resume_copy_and_back(make, x64):
    """A saved, copied, pickled or exported optimizer continues like the original."""
    loss = loss_of(problems.quartic)
    start = [jnp.asarray(array) for array in problems.start(problems.quartic, 2)]
    options = {"max_iter": 3, "tolerance_change": 1e-14, **WOLFE}
    optimizer = make(start, **options)
    for _ in range(2):
        optimizer.step(loss)
    saved = optimizer.state_dict()
    loaded = make(optimizer.params, **options)
    loaded.load_state_dict(saved)
    copied, pickled = copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))
    tx, params, state = optimizer.functional()
    moved, state, _ = compiled_update(tx, loss)(params, state)
    optimizer.step(loss)
    for other in (loaded, copied, pickled):
        other.step(loss)
        chex.assert_trees_all_close(other.params, optimizer.params, rtol=1e-12)
        assert other.state[0]["func_evals"] == optimizer.state[0]["func_evals"]
    chex.assert_trees_all_close(moved, optimizer.params, rtol=1e-12)
    loaded.restore(moved, state)
    loaded.step(loss)
    optimizer.step(loss)
    chex.assert_trees_all_close(loaded.params, optimizer.params, rtol=1e-10)


def test_history_size_may_change(x64):
    loss, x = loss_of(problems.rosenbrock), jnp.array([-1.2, 1.0, 0.3, 0.8])
    optimizer = optim.LBFGS([x], max_iter=4, history_size=6, tolerance_change=1e-14, **WOLFE)
    for size in (6, 3, 8):
        optimizer.param_groups[0]["history_size"] = size
        optimizer.step(loss)
        entry = optimizer.state[0]
        assert len(entry["old_dirs"]) == len(entry["ro"]) <= size
    assert loss(optimizer.params) < loss([x])


@pytest.mark.torch
@pytest.mark.parametrize("options", [{"lr": 0.1}, WOLFE])
def test_states_cross_to_torch_and_back(options, x64):
    torch = pytest.importorskip("torch", reason="torch's state_dict")
    start = problems.start(problems.quartic, 2)
    options = {"max_iter": 3, "history_size": 4, "tolerance_change": 1e-14, **options}
    params = [torch.tensor(array, requires_grad=True) for array in start]
    theirs = torch.optim.LBFGS(params, **options)

    def closure():
        theirs.zero_grad()
        value = problems.quartic(params, torch)
        value.backward()
        return value

    theirs.step(closure)
    theirs.step(closure)
    loss = loss_of(problems.quartic)
    ours = optim.LBFGS([jnp.asarray(param.detach().numpy()) for param in params], **options)
    ours.load_state_dict(theirs.state_dict())
    theirs.step(closure)
    ours.step(loss)
    for param, array in zip(params, ours.params, strict=True):
        np.testing.assert_allclose(array, param.detach().numpy(), rtol=1e-9, atol=1e-12)
    saved, expected = ours.state_dict(), theirs.state_dict()
    assert saved["state"][0].keys() == expected["state"][0].keys()
    assert saved["param_groups"][0].keys() == {*expected["param_groups"][0], "maximize"}  # as torch 2.15 has it
    as_tensor = lambda value: torch.tensor(np.asarray(value)) if isinstance(value, jax.Array) else value  # noqa: E731
    state = {
        key: [as_tensor(item) for item in value] if isinstance(value, list) else as_tensor(value)
        for key, value in saved["state"][0].items()
    }
    theirs.load_state_dict({"state": {0: state}, "param_groups": saved["param_groups"]})
    theirs.step(closure)
    ours.step(loss)
    for param, array in zip(params, ours.params, strict=True):
        np.testing.assert_allclose(array, param.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_later_edits_are_taken_as_they_are():
    """As in torch, a scheduler may end a rounding error below zero."""
    optimizer = optim.LBFGS({"w": jnp.ones(2)}, max_iter=2)
    optimizer.param_groups[0]["lr"] = -1e-20
    optimizer.step(lambda params: jnp.sum((params["w"] - 2) ** 2))
    np.testing.assert_array_equal(optimizer.params["w"], np.ones(2))


def test_inside_a_traced_function():
    optimizer = optim.LBFGS({"w": jnp.ones(2)}, max_iter=2)

    def loss(params):
        return jnp.sum((params["w"] - 2) ** 2)

    with pytest.raises(RuntimeError, match=r"use functional\(\)"):
        jax.jit(lambda x: optimizer.step(loss) * x)(1.0)
    assert float(optimizer.step(loss)) == 2.0


def test_history_size_may_change_before_export(x64):
    loss, x = loss_of(problems.rosenbrock), jnp.array([-1.2, 1.0, 0.3, 0.8])
    optimizers = [optim.LBFGS([x], max_iter=4, history_size=6, tolerance_change=1e-14, **WOLFE) for _ in range(2)]
    for optimizer in optimizers:
        optimizer.step(loss)
        optimizer.step(loss)
        optimizer.param_groups[0]["history_size"] = 2
    tx, params, state = optimizers[1].functional()
    params, state, _ = compiled_update(tx, loss)(params, state)
    optimizers[0].step(loss)
    np.testing.assert_allclose(params[0], optimizers[0].params[0], rtol=1e-10)


def test_a_schedule_means_the_same_in_both_faces(x64):
    loss, x = loss_of(problems.rosenbrock), jnp.array([-1.2, 1.0])
    schedule = fo.schedules.exponential_decay(0.02, 0.5)
    optimizers = [optim.LBFGS([x], lr=schedule, max_iter=3) for _ in range(2)]
    for optimizer in optimizers:
        optimizer.step(loss)
        optimizer.step(loss)
    tx, params, state = optimizers[1].functional()
    params, state, _ = compiled_update(tx, loss)(params, state)
    optimizers[1].restore(params, state)
    optimizers[0].step(loss)
    np.testing.assert_allclose(optimizers[1].params[0], optimizers[0].params[0], rtol=1e-12)
    for optimizer in optimizers:
        optimizer.step(loss)
    np.testing.assert_allclose(optimizers[1].params[0], optimizers[0].params[0], rtol=1e-12)
    alone = fo.lbfgs(lr=schedule, max_iter=3)
    params, state = [x], alone.init([x])
    for _ in range(4):
        params, state, _ = compiled_update(alone, loss)(params, state)
    np.testing.assert_allclose(params[0], optimizers[0].params[0], rtol=1e-10)


@pytest.mark.parametrize("make", [fo.lbfgs, fo.bfgs])
def test_a_parameter_without_a_gradient_stays_also_inside_an_update(make):
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    loss = lambda p: jnp.sum((p["a"] - 3) ** 2) + jnp.sum((p["b"] - 3) ** 2)  # noqa: E731 one line
    tx = make(max_iter=5)
    updates, _ = tx.update({**jax.grad(loss)(params), "b": None}, tx.init(params), params, value_fn=loss)
    np.testing.assert_array_equal(updates["b"], np.zeros(2))
    np.testing.assert_allclose(updates["a"], np.full(2, 2.0), rtol=1e-3)


def test_masked_and_in_a_partition():
    """The objective sees all parameters, those of the others at their current values."""
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    loss = lambda p: jnp.sum((p["a"] - 3 * p["b"]) ** 2) + jnp.sum(p["b"] ** 2)  # noqa: E731 one line
    inner = fo.lbfgs(max_iter=10, **WOLFE)
    labels = {"a": "whole", "b": "sgd"}
    for tx in (
        fo.masked(inner, {"a": True, "b": False}),
        fo.partition({"whole": inner, "sgd": fo.sgd(lr=0.0)}, labels),
    ):
        updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
        np.testing.assert_allclose(updates["a"], np.full(2, 2.0), rtol=1e-3)


def test_damaged_states_are_refused_and_change_nothing():
    optimizer = optim.LBFGS({"w": jnp.ones(2)}, max_iter=4)

    def loss(params):
        return jnp.sum((params["w"] - 2) ** 4)

    optimizer.step(loss)
    good = optimizer.state_dict()
    entry = good["state"][0]
    for key, value, error, message in (
        ("t", jnp.ones(2), ValueError, "t of the state must be a finite number"),
        ("t", float("nan"), ValueError, "t of the state must be a finite number"),
        ("prev_loss", None, ValueError, "prev_loss of the state must be a finite number"),
        ("ro", None, KeyError, "the state of LBFGS has no ro"),
        ("d", jnp.ones(3), ValueError, r"d has shape \(3,\), but it should have \(2,\)"),
        ("ro", [], ValueError, "have different lengths"),
        ("n_iter", None, KeyError, "which stands on one parameter"),
    ):
        damaged = {key_: value_ for key_, value_ in {**entry, key: value}.items() if value_ is not None}
        with pytest.raises(error, match=message):
            optimizer.load_state_dict({**good, "state": {0: damaged}})
    optimizer.step(loss)


def test_donated_buffers_are_explained():
    optimizer = optim.LBFGS({"w": jnp.ones(2)}, max_iter=2)

    def loss(params):
        return jnp.sum((params["w"] - 2) ** 4)

    optimizer.step(loss)
    _, params, state = optimizer.functional()
    jax.jit(lambda *trees: jax.tree.map(lambda x: x + 1 if x.dtype != bool else x, trees), donate_argnums=(0, 1))(
        params, state
    )
    del params, state
    with pytest.raises(RuntimeError, match=r"the parameter 'w' was donated to another function after functional\(\)"):
        optimizer.step(loss)


def test_an_error_in_the_loss_changes_nothing():
    optimizer = optim.LBFGS({"w": jnp.ones(2)})
    optimizer.step(lambda params: jnp.sum(params["w"] ** 2))
    before = jax.tree.map(np.array, (optimizer.params, optimizer.state_dict()["state"][0]["func_evals"]))
    with pytest.raises(TypeError):
        optimizer.step(lambda params: params["w"])
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda params: 1 / 0)
    chex.assert_trees_all_equal((optimizer.params, optimizer.state_dict()["state"][0]["func_evals"]), before)


def test_buffers_are_donated_and_what_the_user_holds_lives():
    optimizer = optim.LBFGS({"w": jnp.ones(64)}, lr=0.1, history_size=3, max_iter=2)

    def loss(params):
        return jnp.sum(params["w"] ** 4)

    held, state = optimizer.params, optimizer.state["w"]["d"] if optimizer.state else None
    optimizer.step(loss)
    np.testing.assert_array_equal(held["w"], np.ones(64))
    assert state is None
    kept = optimizer.state["w"]["d"]
    copy_of = np.array(kept)
    optimizer.step(loss)
    np.testing.assert_array_equal(kept, copy_of)
