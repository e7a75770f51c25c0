"""reduce_on_plateau, lookahead and sam against optax, torch's bookkeeping and their papers' formulas."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import functorch_optim as fo

PARAMS = {"a": jnp.array([3.0, -1.0]), "b": jnp.array([[0.5]])}


def wide(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64), tree)


def loss(params):
    return sum(jnp.sum(jnp.cosh(leaf - 0.3) + 0.1 * leaf**3) for leaf in jax.tree.leaves(params))


slope = jax.grad(loss)


def scales(tx, losses, params=PARAMS):
    """Return the factor of every update."""
    state, step, found = tx.init(params), jax.jit(tx.update), []
    for value in losses:
        updates, state = step(jax.tree.map(jnp.ones_like, params), state, params, value=value)
        found.append(float(updates["b"][0, 0]))
    return found


def noisy(seed, length=80):
    rng = np.random.default_rng(seed)
    return list(np.maximum(5.0 - 0.2 * np.arange(length), 1.0) + 0.3 * rng.standard_normal(length))


PLATEAUS = [
    {"factor": 0.5, "patience": 2},
    {"factor": 0.5, "patience": 0, "cooldown": 3},
    {"factor": 0.3, "patience": 1, "accumulation_size": 4, "cooldown": 1},
    {"factor": 0.1, "patience": 1, "min_scale": 0.05},
]


@pytest.mark.parametrize("options", PLATEAUS)
@pytest.mark.parametrize("mode", ["rel", "abs"])
def test_plateau_is_optaxs(options, mode, x64, standard_promotion):
    """optax reduces one bad loss earlier."""
    tolerance = {"rtol": 1e-2, "atol": 0.0} if mode == "rel" else {"rtol": 0.0, "atol": 1e-2}
    ours = fo.reduce_on_plateau(threshold=1e-2, threshold_mode=mode, **options)
    theirs = contrib.reduce_on_plateau(**{**options, "patience": options["patience"] + 1}, **tolerance)
    params = wide(PARAMS)
    found = scales(ours, noisy(0), params)
    np.testing.assert_allclose(found, scales(theirs, noisy(0), params), rtol=1e-12)
    assert len(set(found)) > 2


def test_plateau_is_the_schedule_of_the_loss():
    schedule = fo.schedules.reduce_on_plateau(1.0, mode="max", factor=0.5, patience=1, threshold=0.1, eps=0.0)
    state, wanted = schedule.init(), []
    for value in noisy(1):
        scale, state = schedule.update(value, state)
        wanted.append(float(scale))
    tx = fo.reduce_on_plateau(0.5, 1, 0.1, mode="max")
    assert scales(tx, noisy(1)) == wanted and wanted[-1] < 0.1


def test_a_constant_negative_loss_does_not_improve_and_nan_does_not_either():
    tx = fo.reduce_on_plateau(0.5, patience=1)
    assert scales(tx, [-1.0] * 4) == scales(tx, [1.0, np.nan, np.nan, np.nan]) == [1.0, 1.0, 0.5, 0.5]
    averaged = fo.reduce_on_plateau(0.5, patience=0, accumulation_size=2)
    assert scales(averaged, [1.0, 1.0, np.nan, 0.0, 0.5, 0.5, 9.0]) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]


def test_plateau_numbers_are_data_and_its_scale_is_reported(compilations):
    tx = fo.inject(fo.reduce_on_plateau, factor=0.5, threshold=0.1, min_scale=0.0, patience=0)
    state, step = tx.init(PARAMS), jax.jit(tx.update)
    for index, factor in enumerate((0.5, 0.25, 0.125)):
        if index == 1:
            compilations.clear()
        _, state = step(PARAMS, fo.set_hyperparams(state, factor=factor), PARAMS, value=1.0)
    assert not compilations and state.inner.plateau.lr == 0.25 * 0.125
    assert fo.current_hyperparams(tx, state)["scale"] == 0.25 * 0.125


def test_plateau_scales_row_sparse_gradients():
    table = jnp.arange(8.0).reshape(4, 2)
    value, grad = fo.value_and_sparse_grad(lambda t: jnp.sum(t[jnp.array([1, 1])] ** 2), "")(table)
    tx = fo.reduce_on_plateau(0.5, patience=0)
    state = tx.update(grad, tx.init(table), table, value=value)[1]
    halved, _ = tx.update(grad, state, table, value=value)
    chex.assert_trees_all_close(halved.todense(), 0.5 * grad.todense(), rtol=1e-6)


ERRORS = {
    "factor 1": (lambda: fo.reduce_on_plateau(1.0), ValueError, "Factor should be above 0 and below 1, but it is 1.0"),
    "factor 0": (lambda: fo.reduce_on_plateau(0.0), ValueError, "Factor should be above 0 and below 1, but it is 0.0"),
    "patience": (lambda: fo.reduce_on_plateau(patience=-1), ValueError, "patience must be an integer of at least 0"),
    "size": (
        lambda: fo.reduce_on_plateau(accumulation_size=0),
        ValueError,
        "accumulation_size must be an integer of at",
    ),
    "cooldown": (lambda: fo.reduce_on_plateau(cooldown=1.5), TypeError, "cooldown must be an integer of at least 0"),
    "mode": (lambda: fo.reduce_on_plateau(mode="low"), ValueError, "reduce_on_plateau: mode must be 'min' or 'max'"),
    "threshold": (
        lambda: fo.reduce_on_plateau(threshold_mode="x"),
        ValueError,
        "threshold_mode must be 'rel' or 'abs'",
    ),
    "no loss": (
        lambda: fo.reduce_on_plateau().update(PARAMS, fo.reduce_on_plateau().init(PARAMS)),
        ValueError,
        r"reduce_on_plateau needs the loss: update\(grads, state, params, value=loss\)\. In optax\.chain wrap it",
    ),
    "every": (lambda: fo.lookahead(fo.sgd(), every=0), ValueError, "lookahead: every must be an integer of at least 1"),
    "alpha": (lambda: fo.lookahead(fo.sgd(), alpha=1.5), ValueError, "Invalid alpha value: 1.5"),
    "lookahead": (
        lambda: fo.lookahead(fo.sgd()).update(PARAMS, fo.lookahead(fo.sgd()).init(PARAMS)),
        ValueError,
        "lookahead needs the parameters",
    ),
    "rho": (lambda: fo.sam(fo.sgd(), rho=-0.1), ValueError, "must not be negative: -0.1"),
    "sam": (
        lambda: fo.sam(fo.sgd()).update(PARAMS, fo.sam(fo.sgd()).init(PARAMS), grad_fn=slope),
        ValueError,
        "sam needs the parameters: update",
    ),
    "no gradient": (
        lambda: fo.sam(fo.sgd()).update(PARAMS, fo.sam(fo.sgd()).init(PARAMS), PARAMS),
        ValueError,
        r"sam needs the gradient as a function: update\(grads, state, params, grad_fn=jax\.grad\(loss\)\)",
    ),
    "no function": (
        lambda: fo.sam(fo.sgd()).update(PARAMS, fo.sam(fo.sgd()).init(PARAMS), PARAMS, grad_fn=PARAMS),
        ValueError,
        "sam needs the gradient as a function",
    ),
    "another tree": (
        lambda: fo.sam(fo.sgd()).update(PARAMS, fo.sam(fo.sgd()).init(PARAMS), PARAMS, grad_fn=lambda p: p["a"]),
        ValueError,
        "gradients do not have the structure of the parameters",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("every", "alpha"), [(1, 0.5), (3, 0.5), (5, 0.8), (2, 1.0), (2, 0.0)])
def test_lookahead_is_optaxs(every, alpha, x64, standard_promotion):
    ours, theirs = fo.lookahead(fo.adam(lr=0.1), every, alpha), optax.lookahead(optax.adam(0.1), every, alpha)
    params, pair = wide(PARAMS), optax.LookaheadParams.init_synced(wide(PARAMS))
    state, their_state = ours.init(params), theirs.init(pair)
    for _ in range(12):
        updates, state = ours.update(slope(params), state, params)
        params = fo.apply_updates(params, updates)
        moves, their_state = theirs.update(slope(pair.fast), their_state, pair)
        pair = optax.apply_updates(pair, moves)
        chex.assert_trees_all_close((params, state.slow), (pair.fast, pair.slow), rtol=1e-10)
        if int(state.step) % every == 0:
            chex.assert_trees_all_close(params, state.slow, rtol=1e-14)


def test_lookahead_starts_at_the_first_update_in_float32_and_alpha_is_scheduled():
    tx = fo.lookahead(fo.sgd(lr=1.0), every=1, alpha=lambda step: 0.5 ** (step + 1).astype(jnp.float32))
    params = jnp.full(2, 256.0, jnp.bfloat16)
    state = tx.init(jnp.zeros(2, jnp.bfloat16))
    assert float(fo.current_hyperparams(tx, state)["alpha"]) == 0.5
    for _ in range(2):
        updates, state = tx.update(jnp.full(2, -1.0, jnp.bfloat16), state, params)
        params = fo.apply_updates(params, updates)
    assert state.slow.dtype == jnp.float32 and params.dtype == jnp.bfloat16
    # From 256 half of the way to 257; the parameter stays at 256, bfloat16's nearest; from there a quarter to 257.
    assert state.slow.tolist() == [256.625] * 2 and params.tolist() == [256.0] * 2


def test_lookahead_of_complex_parameters_and_of_missing_gradients():
    tx = fo.lookahead(fo.sgd(lr=1.0), every=2)
    params = {"z": jnp.array([1 + 1j]), "w": jnp.ones(1)}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update({"z": jnp.array([2 - 2j]), "w": None}, state, params)
        params = fo.apply_updates(params, updates)
    assert params["z"].tolist() == [-1 + 3j] and params["w"].tolist() == state.slow["w"].tolist() == [1.0]


def sam_of_the_papers(params, rho, adaptive):
    """Return the gradient at the worst point, in NumPy."""
    leaves, treedef = jax.tree.flatten(jax.tree.map(np.asarray, params))
    gradients = [np.asarray(g) for g in jax.tree.leaves(slope(params))]
    sizes = [np.abs(p) if adaptive else np.ones_like(p) for p in leaves]
    norm = np.sqrt(sum(np.sum((t * g) ** 2) for t, g in zip(sizes, gradients, strict=True)))
    worst = [p + rho * t**2 * g / norm for p, t, g in zip(leaves, sizes, gradients, strict=True)]
    return slope(treedef.unflatten(map(jnp.asarray, worst)))


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_is_the_papers_formula(adaptive, x64):
    tx, inner = fo.sam(fo.adam(lr=0.1), 0.3, adaptive), fo.adam(lr=0.1)
    params, state = wide(PARAMS), fo.sam(fo.adam(lr=0.1)).init(wide(PARAMS))
    wanted, plain = params, inner.init(params)
    step = jax.jit(lambda params, state: tx.update(slope(params), state, params, grad_fn=slope))
    for _ in range(6):
        updates, state = step(params, state)
        params = fo.apply_updates(params, updates)
        moves, plain = inner.update(sam_of_the_papers(wanted, 0.3, adaptive), plain, wanted)
        wanted = fo.apply_updates(wanted, moves)
        chex.assert_trees_all_close(params, wanted, rtol=1e-10)
    assert state.step == 6


def test_sam_is_optaxs(x64, standard_promotion):
    adversary = optax.chain(contrib.normalize(), optax.sgd(0.2))
    theirs = contrib.sam(optax.adam(0.1), adversary, opaque_mode=True)
    ours = fo.sam(fo.adam(lr=0.1), rho=0.2)
    params = other = wide(PARAMS)
    state, their_state = ours.init(params), theirs.init(params)
    for _ in range(6):
        updates, state = ours.update(slope(params), state, params, grad_fn=slope)
        params = fo.apply_updates(params, updates)
        moves, their_state = theirs.update(slope(other), their_state, other, grad_fn=lambda p, index: slope(p))
        other = optax.apply_updates(other, moves)
        chex.assert_trees_all_close(params, other, rtol=1e-10)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_without_a_gradient_with_nan_and_with_none(adaptive):
    tx = fo.sam(fo.sgd(lr=1.0), 0.5, adaptive)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)

    def step(grads, grad_fn=lambda p: p):
        return tx.update(grads, tx.init(PARAMS), PARAMS, grad_fn=grad_fn)[0]

    chex.assert_trees_all_equal(step(zeros), jax.tree.map(jnp.negative, PARAMS))  # the gradient at the parameters
    assert np.isnan(step({**PARAMS, "b": jnp.array([[jnp.nan]])})["a"]).all()
    only_a = step({"a": PARAMS["a"], "b": None}, lambda p: {"a": p["a"] + p["b"][0, 0], "b": p["b"]})
    alone, _ = tx.update(PARAMS["a"], tx.init(PARAMS["a"]), PARAMS["a"], grad_fn=lambda a: a + 0.5)
    assert only_a["b"] is None
    chex.assert_trees_all_close(only_a["a"], alone, rtol=1e-6)
    derivative = jax.grad(lambda g: jnp.sum(step({**zeros, "b": g})["b"] ** 2))(jnp.zeros((1, 1)))
    assert np.isfinite(derivative).all()


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e5])
def test_sam_does_not_move_where_squares_overflow(adaptive, size):
    tx, seen = fo.sam(fo.sgd(lr=1.0), 0.5, adaptive), []
    params = jax.tree.map(lambda p: size * p, PARAMS)
    grads = jax.tree.map(lambda p: jnp.full_like(p, 1e32), PARAMS)
    tx.update(grads, tx.init(params), params, grad_fn=lambda p: (seen.append(p), p)[1])
    chex.assert_trees_all_equal(seen[0], params)


def test_sam_in_low_precision_and_complex():
    params = {"w": jnp.array([1.0, 2.0], jnp.bfloat16), "z": jnp.array([3 + 4j])}
    seen = []
    tx = fo.sam(fo.sgd(lr=1.0), rho=1.0)
    grads = {"w": jnp.zeros(2, jnp.bfloat16), "z": jnp.array([0.6 + 0.8j])}
    tx.update(grads, tx.init(params), params, grad_fn=lambda p: (seen.append(p), grads)[1])
    assert seen[0]["w"].dtype == jnp.bfloat16 and seen[0]["w"].tolist() == [1.0, 2.0]
    np.testing.assert_allclose(seen[0]["z"], [3.6 + 4.8j], rtol=1e-6)
    adaptive = fo.sam(fo.sgd(lr=1.0), rho=1.0, adaptive=True)
    adaptive.update(grads, adaptive.init(params), params, grad_fn=lambda p: (seen.append(p), grads)[1])
    np.testing.assert_allclose(seen[1]["z"], [3 + 4j + 25 * (0.6 + 0.8j) / 5], rtol=1e-6)


COMPLEX = {"w": jnp.array([0.5, -1.5]), "z": jnp.array([0.3 + 0.8j, -1.2 + 0.4j, 0.7 - 0.9j])}
AIM = np.array([1.0 + 2.0j, -0.5 - 1.0j, 0.2j])
ALL_Z = {"w": False, "z": True}


def complex_loss(params, tilt=0.3):
    away = params["z"] - jnp.asarray(AIM, params["z"].dtype)
    turned = away * jnp.asarray(1.0 + 2.0j, away.dtype)
    bent = tilt * jnp.sum(turned.imag**3) + jnp.sum(jnp.cosh(params["w"] * turned[0].real))
    return jnp.sum(jnp.abs(away) ** 4) + bent


def sam_in_real_pairs(params, rho, adaptive, steps):
    """SAM with SGD's momentum, written for real and imaginary parts; the size of an entry is that of the pair."""
    z = np.asarray(params["z"])
    pairs = {"w": np.asarray(params["w"]), "re": z.real, "im": z.imag}

    def pair_slope(pairs):
        of_pairs = jax.grad(lambda own: complex_loss({"w": own["w"], "z": jax.lax.complex(own["re"], own["im"])}))
        return {name: np.asarray(leaf) for name, leaf in of_pairs(pairs).items()}

    buffers = {name: np.zeros(leaf.shape) for name, leaf in pairs.items()}
    for _ in range(steps):
        grads, modulus = pair_slope(pairs), np.hypot(pairs["re"], pairs["im"])
        sizes = {"w": np.abs(pairs["w"]), "re": modulus, "im": modulus} if adaptive else dict.fromkeys(pairs, 1.0)
        norm = np.sqrt(sum(np.sum((sizes[name] * grads[name]) ** 2) for name in pairs))
        worst = {name: leaf + rho * sizes[name] ** 2 * grads[name] / norm for name, leaf in pairs.items()}
        sharp = pair_slope(worst)
        buffers = {name: 0.9 * buffers[name] + sharp[name] for name in pairs}
        pairs = {name: leaf - 0.01 * buffers[name] for name, leaf in pairs.items()}
    return {"w": pairs["w"], "z": pairs["re"] + 1j * pairs["im"]}


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda sam: fo.chain(fo.conjugate(), sam),
        lambda sam: fo.named_chain(("conjugate", fo.conjugate()), ("sam", sam)),
        lambda sam: fo.chain(fo.chain(fo.identity(), fo.conjugate()), fo.chain(sam)),
        lambda sam: fo.chain(fo.masked(fo.conjugate(), ALL_Z), sam),
        lambda sam: fo.chain(fo.partition({True: fo.conjugate(), False: fo.identity()}, ALL_Z), sam),
        lambda sam: fo.chain(fo.monitor(fo.conjugate(), every=None), sam),
    ],
)
def test_conjugate_before_sam_conjugates_both_gradients(make, adaptive, x64):
    params = {"w": COMPLEX["w"].astype(jnp.float64), "z": COMPLEX["z"].astype(jnp.complex128)}
    wanted = sam_in_real_pairs(params, 0.3, adaptive, steps=5)
    tx = make(fo.sam(fo.sgd(lr=0.01, momentum=0.9), 0.3, adaptive))
    state, raw = tx.init(params), jax.grad(complex_loss)
    step = jax.jit(lambda p, state: tx.update(raw(p), state, p, grad_fn=raw, tilt=0.3))
    for _ in range(5):
        updates, state = step(params, state)
        params = fo.apply_updates(params, updates)
    chex.assert_trees_all_close(params, wanted, rtol=1e-10)


def test_sam_passes_its_keywords_on_and_rho_is_data(compilations):
    def of_batch(params, x):
        return jax.tree.map(lambda p: p * x, params)

    def only_x(params, *, x):
        return of_batch(params, x)

    tx = fo.inject(fo.sam, inner=fo.sgd(lr=1.0), rho=0.5, adaptive=False)
    state = tx.init(PARAMS)
    step = jax.jit(lambda state, x: tx.update(of_batch(PARAMS, x), state, PARAMS, grad_fn=only_x, x=x, y=9.0))
    norm = float(fo.global_norm(PARAMS))
    for index, rho in enumerate((0.5, 1.5)):
        if index == 1:
            compilations.clear()
        updates, state = step(fo.set_hyperparams(state, rho=rho), jnp.float32(2.0))
        chex.assert_trees_all_close(updates, jax.tree.map(lambda p, r=rho: -2 * p * (1 + r / norm), PARAMS), rtol=1e-6)
    assert not compilations


def test_sam_of_a_part_leaves_the_others_where_they_are():
    seen = []

    def grad_fn(params):
        seen.append(params)
        return slope(params)

    inner = fo.sam(fo.sgd(lr=1.0), rho=0.5)
    for tx in (
        fo.masked(inner, {"a": True, "b": False}),
        fo.freeze(inner, {"a": False, "b": True}),
        fo.partition({"sam": inner, "sgd": fo.sgd(lr=1.0)}, {"a": "sam", "b": "sgd"}),
    ):
        updates, _ = tx.update(slope(PARAMS), tx.init(PARAMS), PARAMS, grad_fn=grad_fn)
        own = slope(PARAMS)["a"]
        worst = {"a": PARAMS["a"] + 0.5 * own / jnp.linalg.norm(own), "b": PARAMS["b"]}
        chex.assert_trees_all_close(seen[-1], worst, rtol=1e-6)
        chex.assert_trees_all_close(updates["a"], -slope(worst)["a"], rtol=1e-6)


def test_accumulation_around_sam_is_refused():
    for inner in (fo.sam(fo.sgd()), fo.chain(fo.identity(), fo.masked(fo.sam(fo.sgd()), {"a": True, "b": False}))):
        with pytest.raises(
            ValueError, match=r"grad_fn knows only the last of several batches. .* fo.sam\(fo.accumulate"
        ):
            fo.accumulate(inner, 2)
        with pytest.raises(ValueError, match="accumulate: grad_fn knows only the last of several batches"):
            fo.accumulate(inner, lambda step: 2)
    fo.accumulate(fo.sam(fo.sgd()), 1, skip=fo.if_nonfinite())


@pytest.mark.parametrize("algorithm", [fo.lbfgs, fo.bfgs])
def test_accumulation_around_what_evaluates_the_objective_is_refused(algorithm):
    for every in (2, lambda step: 2):
        with pytest.raises(ValueError, match="accumulate: value_fn knows only the last of several batches"):
            fo.accumulate(fo.chain(fo.freeze(algorithm(), {"a": True, "b": False})), every)
    fo.accumulate(algorithm(), 1)


SKIPS = {
    "skip_nonfinite": lambda inner: fo.skip_nonfinite(inner, 2),
    "skip_large_updates": lambda inner: fo.skip_large_updates(inner, 10.0, 2),
    "skip_spikes": lambda inner: fo.skip_spikes(inner, of="both"),
}


@pytest.mark.parametrize("name", SKIPS)
def test_skips_that_judge_the_gradient_are_refused_around_sam(name):
    inner = fo.sam(fo.sgd())
    message = rf"{name}: it judges the gradient that you pass, .* Put it inside: fo.sam\(fo.{name}\("
    for tx in (inner, fo.chain(fo.identity(), fo.masked(inner, {"a": True, "b": False}))):
        with pytest.raises(ValueError, match=message):
            SKIPS[name](tx)
    with pytest.raises(ValueError, match=rf"but exact_mars computes one .* Take the .* form: fo.{name}\(fo.mars"):
        SKIPS[name](fo.exact_mars(fo.mars()))
    fo.skip_spikes(inner)  # which judges the loss
    SKIPS[name](fo.lbfgs())


def test_a_skip_inside_sam_judges_the_gradient_at_the_worst_point():
    params, grad_fn = {"w": jnp.array([0.5])}, jax.grad(lambda p: jnp.sum(-jnp.sqrt(1.2 - p["w"] ** 2)))
    tx = fo.sam(fo.skip_nonfinite(fo.sgd(lr=0.1), 2), rho=1.0)
    updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
    assert fo.apply_updates(params, updates)["w"].tolist() == [0.5] and state.inner.total == 1


def test_they_go_into_optax_chain(standard_promotion):
    links = [fo.interop.to_optax(tx) for tx in (fo.sam(fo.sgd(lr=0.1)), fo.reduce_on_plateau(0.5, patience=0))]
    tx = optax.chain(*links)
    update = functools.partial(tx.update, value=1.0, grad_fn=slope)
    _, state = update(slope(PARAMS), tx.init(PARAMS), PARAMS)
    halved, _ = update(slope(PARAMS), state, PARAMS)
    alone = fo.sam(fo.sgd(lr=0.1))
    wanted, _ = alone.update(slope(PARAMS), alone.init(PARAMS), PARAMS, grad_fn=slope)
    chex.assert_trees_all_close(halved, jax.tree.map(lambda u: 0.5 * u, wanted), rtol=1e-6)


@pytest.mark.parametrize("wrapper", [fo.lookahead, fo.cautious])
@pytest.mark.parametrize(
    ("inner", "who"),
    [
        (fo.schedule_free_sgd(), "schedule_free_sgd"),
        (fo.madgrad(momentum=0.0), "madgrad"),
        (fo.chain(fo.adam(), fo.ema()), "ema"),
        (fo.master_weights(fo.adam()), "master_weights"),
    ],
    ids=["schedule_free", "madgrad", "ema", "master_weights"],
)
def test_what_follows_the_parameters_is_refused_inside_what_changes_updates(wrapper, inner, who):
    with pytest.raises(ValueError, match=rf"^{who} would not get the parameters.*{wrapper.__name__} is around it"):
        wrapper(inner)
