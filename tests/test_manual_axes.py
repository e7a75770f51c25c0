"""Inside shard_map, code that looks beyond single entries gives the results of the whole arrays, or raises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import full
from tests.table import given, slope

SPECS = {"rows": P("x"), "columns": P(None, "x"), "whole": P(), "bias": P("x"), "scale": P()}
SHAPES = {"rows": (4, 3), "columns": (3, 4), "whole": (2, 3), "bias": (4,), "scale": (2,)}
PARAMS = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(SHAPES.items())}
GRADS = {name: jax.random.normal(jax.random.key(9 - i), shape) for i, (name, shape) in enumerate(SHAPES.items())}
HISTORIES = ("old_dirs", "old_stps")
checks = pytest.mark.parametrize("check_vma", [True, False])


def sharded(function, in_specs, out_specs, check_vma=True):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=check_vma))


def specs_of(state, specs=SPECS):
    """Return a state's specs: the parameters' specs, without the dimension that an Adafactor slot lacks."""

    def one(path, leaf):
        names = [getattr(key, "name", getattr(key, "key", None)) for key in path]
        spec = next((tuple(specs[name]) for name in names if name in specs), ())
        spec = (*spec, *[None] * (leaf.ndim - len(spec)))
        if any(name in HISTORIES for name in names):
            return P(None, *spec[: leaf.ndim - 1])
        return P(*[axis if size > 1 else None for axis, size in zip(spec, leaf.shape, strict=False)])

    return jax.tree_util.tree_map_with_path(one, state)


def two_steps(tx, grads, state, params):
    _, state = tx.update(grads, state, params)
    return tx.update(grads, state, params)


def assert_as_whole(make, check_vma, grads=GRADS, params=PARAMS, specs=SPECS):
    """Assert that ``make(axis_name)`` in shard_map matches ``make(None)`` outside, wherever the state is created."""
    alone, spread = make(None), make(specs)
    wanted = jax.jit(functools.partial(two_steps, alone))(grads, alone.init(params), params)
    state = spread.init(params)
    own = specs_of(state, specs)
    given = sharded(functools.partial(two_steps, spread), (specs, own, specs), (specs, own), check_vma)
    made = sharded(lambda g, p: two_steps(spread, g, spread.init(p), p), (specs, specs), (specs, own), check_vma)
    for found in (given(grads, state, params), made(grads, params)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), found, wanted)


MAKERS = {  # the norm of all gradients is 6.7, that of a shard 5.2 at most
    "clip_by_global_norm": lambda axis: fo.clip_by_global_norm(0.5, axis_name=axis),
    "clip_by_norm": lambda axis: fo.clip_by_norm(0.5, axis_name=axis),
    "clip_by_block_rms": lambda axis: fo.clip_by_block_rms(0.1, axis_name=axis),
    "adaptive_grad_clip": lambda axis: fo.adaptive_grad_clip(0.1, axis_name=axis),
    "clip_by_zscore": lambda axis: fo.clip_by_zscore(z=0.0, warmup=2, axis_name=axis),
    "clip_by_percentile": lambda axis: fo.clip_by_percentile(20.0, history=3, axis_name=axis),
    "zero_nans": lambda axis: fo.zero_nans(axis_name=axis),
    "centralize": lambda axis: fo.centralize(axis_name=axis),
    "normalize": lambda axis: fo.normalize(axis_name=axis),
    "scale_by_trust_ratio": lambda axis: fo.scale_by_trust_ratio(axis_name=axis),
    "scale_by_param_norm": lambda axis: fo.scale_by_param_norm(axis_name=axis),
    "scale_by_param_rms": lambda axis: fo.scale_by_param_rms(axis_name=axis),
    "project_simplex": lambda axis: fo.project_simplex(axis_name=axis),
    "project_l2_ball": lambda axis: fo.project_l2_ball(0.5, axis_name=axis),
    "project_l2_ball_axis": lambda axis: fo.project_l2_ball(0.5, axis=-1, axis_name=axis),
    "skip_nonfinite": lambda axis: fo.skip_nonfinite(fo.adam(lr=0.1), 3, axis_name=axis),
    "skip_large_updates": lambda axis: fo.skip_large_updates(fo.adam(lr=0.1), 6.0, 3, axis_name=axis),
    "skip_spikes": lambda axis: fo.skip_spikes(fo.adam(lr=0.1), 4, 0.5, of="norm", axis_name=axis),
    "accumulate_skip": lambda axis: fo.accumulate(fo.adam(lr=0.1), 1, skip=fo.if_large(6.0, axis_name=axis)),
    "sam": lambda axis: given(fo.sam(fo.sgd(lr=0.1), 0.5, axis_name=axis), grad_fn=slope),
    "asam": lambda axis: given(fo.sam(fo.sgd(lr=0.1), 0.5, True, axis_name=axis), grad_fn=slope),
    "inject": lambda axis: fo.inject(fo.clip_by_global_norm, max_norm=0.5, axis_name=axis),
    "muon_adamw": lambda axis: fo.muon_adamw({"lr": 0.1}, {"lr": 0.1}, axis_name=axis),
    "adafactor": lambda axis: fo.adafactor(lr=0.1, axis_name=axis),
    "adafactor_direction": lambda axis: fo.scale_by_adafactor(lr=0.1, axis_name=axis),
    "accumulate": lambda axis: fo.accumulate(fo.adafactor(lr=0.1, axis_name=axis), 2),
    "masked": lambda axis: fo.masked(fo.clip_by_global_norm(0.5, axis_name=axis), lambda path: path != "rows"),
}


WAYS = [("adafactor", False), *((name, True) for name in MAKERS)]


@pytest.mark.parametrize(
    ("name", "check_vma"), [*WAYS, *full(*((name, False) for name in MAKERS if name != "adafactor"))]
)
def test_the_updates_of_shards_are_those_of_the_whole(name, check_vma):
    assert_as_whole(MAKERS[name], check_vma)


@checks
@pytest.mark.parametrize("reshape", [None, "out_first"])
def test_muon_orthogonalises_whole_matrices_of_stacks_and_kernels(reshape, check_vma):
    specs = {"stack": P("x"), "rows": P(None, "x"), "both": P(None, "x", None)}
    shapes = {"stack": (2, 3, 4), "rows": (3, 4), "both": (2, 4, 3)}
    grads = {name: jax.random.normal(jax.random.key(1), shape) for name, shape in shapes.items()}
    make = lambda axis: fo.muon(lr=0.1, reshape=reshape, axis_name=axis)  # noqa: E731 one line
    assert_as_whole(make, check_vma, grads, grads, specs)


def test_a_name_counts_a_replicated_leaf_once():
    norm = sharded(lambda grads: fo.global_norm(grads, axis_name="x"), (SPECS,), P())(GRADS)
    np.testing.assert_allclose(norm, fo.global_norm(GRADS), rtol=1e-6)
    by_path = lambda path: SPECS[path]  # noqa: E731 one line
    norm = sharded(lambda grads: fo.global_norm(grads, axis_name=by_path), (SPECS,), P(), False)(GRADS)
    np.testing.assert_allclose(norm, fo.global_norm(GRADS), rtol=1e-6)


@pytest.mark.parametrize("norm_type", [2.0, 3.0, float("inf")])
def test_the_torch_faces_clip_grad_norm_takes_axis_name(norm_type):
    clip = functools.partial(optim.utils.clip_grad_norm, max_norm=0.5, norm_type=norm_type)
    found, norm = sharded(lambda grads: clip(grads, axis_name="x"), (SPECS,), (SPECS, P()))(GRADS)
    wanted, whole = clip(GRADS)
    np.testing.assert_allclose(norm, whole, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, wanted)
    with pytest.raises(ValueError, match=r"'(rows|bias)' varies over the axis 'x'"):
        sharded(clip, (SPECS,), (SPECS, P()))(GRADS)


@checks
def test_skip_nonfinite_skips_on_all_devices(check_vma):
    tx = fo.skip_nonfinite(fo.sgd(lr=1.0), 3, axis_name="x")
    grads = {**GRADS, "bias": GRADS["bias"].at[0].set(jnp.nan)}
    step = sharded(lambda g: tx.update(g, tx.init(g), g), (SPECS,), (SPECS, P()), check_vma)
    updates, state = step(grads)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates)) and state.total == 1


@pytest.mark.parametrize("name", [*MAKERS, "lbfgs", "bfgs"])
@checks
def test_without_axis_name_it_raises_and_names_the_parameter(name, check_vma):
    makers = {**MAKERS, "lbfgs": lambda axis: fo.lbfgs(axis_name=axis), "bfgs": lambda axis: fo.bfgs(axis_name=axis)}
    tx = makers[name](None)
    specs = {**SPECS, "rows": P()} if name == "masked" else SPECS
    state = tx.init(PARAMS)
    own = P() if name == "bfgs" else specs_of(state, specs)

    def step(grads, state, params):
        return tx.update(grads, state, params, value_fn=lambda p: jnp.zeros(()))[0]

    message = "the parameter '(bias|columns)' varies over the axis 'x': give axis_name="
    if not check_vma:
        message = r"shard_map\(check_vma=False\) no array says .* axis 'x': give axis_name="
    with pytest.raises(ValueError, match=message):
        sharded(step, (specs, own, specs), specs, check_vma)(GRADS, state, PARAMS)


@checks
def test_element_wise_ones_need_no_axis_name(check_vma):
    plateau = given(fo.reduce_on_plateau(0.5, patience=0), value=1.0)
    box = fo.chain(fo.keep_nonnegative(), fo.project_box(0.0, 1.0))
    inner = fo.accumulate(fo.adamw(lr=0.1), 1)
    tx = fo.lookahead(fo.chain(fo.clip_by_value(0.5), fo.scale_by_sign(), inner, plateau, box), every=2)
    assert_as_whole(lambda axis: tx, check_vma)


def test_replicated_gradients_need_no_axis_name():
    tx = fo.chain(fo.clip_by_global_norm(0.5), fo.adafactor(lr=0.1))
    state = tx.init(PARAMS)
    found = sharded(lambda g, p: tx.update(g, state, p)[0], (P(), P()), P())(GRADS, PARAMS)
    wanted = tx.update(GRADS, state, PARAMS)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, wanted)


@checks
def test_no_axes_take_every_shard_for_itself(check_vma):
    found = sharded(lambda g: fo.global_norm(g, axis_name=()).reshape(1), (SPECS,), P("x"), check_vma)(GRADS)
    halves = {"rows": 0, "columns": 1, "bias": 0}
    for device, norm in enumerate(found):
        shard = {n: jnp.split(g, 2, halves[n])[device] if n in halves else g for n, g in GRADS.items()}
        np.testing.assert_allclose(norm, fo.global_norm(shard), rtol=1e-6)


def test_one_name_for_all_is_not_enough_where_nothing_says_what_is_replicated():
    tx = fo.clip_by_global_norm(1.0, axis_name="x")
    with pytest.raises(ValueError, match=r"clip_by_global_norm: where nothing says which arrays are split over .* 'x'"):
        sharded(lambda g: tx.update(g, tx.init(g))[0], (SPECS,), SPECS, False)(GRADS)


@pytest.mark.parametrize("make", [fo.muon_adamw, fo.adafactor, fo.bfgs])
def test_a_name_does_not_say_which_dimension_is_split(make):
    tx = make(axis_name="x")

    def step(grads, params):
        return tx.update(grads, tx.init(params), params, value_fn=lambda p: jnp.zeros(()))[0]

    with pytest.raises(ValueError, match=r"must know which dimension of the parameter .* is split"):
        sharded(step, (SPECS, SPECS), SPECS)(GRADS, PARAMS)


@pytest.mark.parametrize("axis_name", [3, ["x", 4], {"w": 1.0}])
def test_axis_name_must_name_axes(axis_name):
    with pytest.raises(TypeError, match="clip_by_global_norm: axis_name must be the name of an axis"):
        fo.clip_by_global_norm(1.0, axis_name=axis_name)


def test_an_axis_that_is_not_there_raises_inside_shard_map_and_means_nothing_outside():
    tx = fo.clip_by_global_norm(0.5, axis_name="rows")
    np.testing.assert_array_equal(
        tx.update(GRADS, tx.init(GRADS))[0]["whole"], fo.clip_by_global_norm(0.5).update(GRADS, ())[0]["whole"]
    )
    with pytest.raises(NameError, match="rows"):
        sharded(lambda g: tx.update(g, tx.init(g))[0], (SPECS,), SPECS)(GRADS)


def test_a_transformation_with_axis_name_is_a_value():
    assert fo.adafactor(axis_name=SPECS) == fo.adafactor(axis_name=dict(SPECS)) != fo.adafactor()
    assert repr(fo.clip_by_global_norm(1.0, axis_name=("x", "y"))) == (
        "clip_by_global_norm(max_norm=1.0, axis_name=('x', 'y'))"
    )


@pytest.mark.parametrize("axis_name", [None, "x"])
@checks
def test_stochastic_rounding_draws_other_bits_on_every_shard_and_the_same_for_replicas(axis_name, check_vma):
    names = {"split": "x", "whole": ()} if axis_name else None
    tx, params = fo.stochastic_rounding(fo.sgd(lr=1.0), 0, axis_name=names), jnp.ones(256, jnp.bfloat16)

    def step(params):
        grads = jax.tree.map(lambda p: jnp.full(p.shape, 0.002), params)
        updates, _ = tx.update(grads, tx.init(params), params)
        return updates["split"], updates["whole"].reshape(1, -1)

    run = sharded(step, ({"split": P("x"), "whole": P()},), (P("x"), P("x") if not check_vma else P()), check_vma)
    if names is None and not check_vma:
        with pytest.raises(ValueError, match="stochastic_rounding looks beyond"):
            run({"split": params, "whole": params})
        return
    split, whole = run({"split": params, "whole": params})
    first, second = np.split(np.asarray(split), 2)
    assert np.any(first != second) and 0 < np.mean(split != 0) < 1
    np.testing.assert_array_equal(whole[0], whole[-1])


def objective(params, together):
    parts = {name: jnp.sum(jnp.cosh(leaf - 0.3)) for name, leaf in params.items()}
    if together:
        parts = {name: jax.lax.psum(part, "x") if "x" in SPECS[name] else part for name, part in parts.items()}
    total = functools.reduce(jnp.add, parts.values())
    return total + 0.01 * total**2


def minimised(tx, together, params, state=None):
    state, loss = tx.init(params) if state is None else state, functools.partial(objective, together=together)
    for _ in range(2):
        updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
        params = fo.apply_updates(params, updates)
    return params, state


QUASI_NEWTON = {
    "lbfgs": lambda axis: fo.lbfgs(max_iter=3, history_size=4, axis_name=axis),
    "wolfe": lambda axis: fo.lbfgs(max_iter=3, history_size=4, line_search_fn="strong_wolfe", axis_name=axis and "x"),
    "bfgs": lambda axis: fo.bfgs(max_iter=3, line_search_fn="hager_zhang", axis_name=axis),
}


PLACES = [("lbfgs", True)]
PLACES += full(("bfgs", False), ("lbfgs", False), ("bfgs", True), ("wolfe", True), ("wolfe", False))


@pytest.mark.parametrize(("name", "inside"), PLACES)
def test_quasi_newton_steps_of_shards_are_those_of_the_whole(name, inside):
    make = QUASI_NEWTON[name]
    alone, spread = make(None), make(SPECS)
    wanted = jax.jit(functools.partial(minimised, alone, False))(PARAMS)
    state = spread.init(PARAMS)
    specs = P() if isinstance(state, fo.BFGSState) else specs_of(state)
    if inside:
        found = sharded(functools.partial(minimised, spread, True), (SPECS,), (SPECS, specs))(PARAMS)
    else:
        found = sharded(functools.partial(minimised, spread, True), (SPECS, specs), (SPECS, specs))(PARAMS, state)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, wanted)


def test_lbfgs_refuses_an_objective_that_devices_do_not_share():
    with pytest.raises(ValueError, match="lbfgs: the objective varies over the axis 'x' of shard_map"):
        sharded(functools.partial(minimised, fo.lbfgs(axis_name="x"), False), (SPECS,), (SPECS, P()))(PARAMS)
    tx, loss = fo.lbfgs(), lambda p: jnp.sum(p**2) * jax.lax.axis_index("x").astype(jnp.float32)
    with pytest.raises(ValueError, match="lbfgs: the objective varies over the axis 'x' of shard_map"):
        sharded(lambda p: tx.update(p, tx.init(p), p, value_fn=loss)[0], P(), P())(jnp.ones(2))
    with pytest.raises(ValueError, match=r"lbfgs: the gradient .*, over the axis 'x', is known with check_vma=True"):
        sharded(functools.partial(minimised, fo.lbfgs(axis_name=SPECS), True), (SPECS,), (SPECS, P()), False)(PARAMS)


@checks
def test_lbfgs_without_axes_lets_every_device_minimise_for_itself(check_vma):
    def own(w):
        tx, loss = fo.lbfgs(axis_name=()), lambda w: jnp.sum((w - 1.0) ** 2)
        return fo.apply_updates(w, tx.update(jax.grad(loss)(w), tx.init(w), w, value_fn=loss)[0])

    np.testing.assert_allclose(sharded(own, P("x"), P("x"), check_vma)(jnp.arange(4.0)), np.ones(4), rtol=1e-4)


def test_sparse_gradients_of_shards_of_the_ids_are_their_own():
    def own(table, ids):
        return fo.value_and_sparse_grad(lambda table: jnp.sum(table[ids] ** 2), "")(table)[1].data

    table = jnp.arange(8.0).reshape(4, 2)
    found = sharded(own, (P(), P("x")), P("x"))(table, jnp.array([3, 1, 3, 0]))
    np.testing.assert_array_equal(found, 2 * table[jnp.array([3, 1, 3, 0])])


@checks
def test_foreach_packs_no_leaf_that_varies_or_might(check_vma):
    params = {"split": jnp.arange(4.0), "whole": jnp.ones(2), "other": jnp.ones(2)}
    specs = {"split": P("x"), "whole": P(), "other": P()}
    grads = jax.tree.map(jnp.ones_like, params)

    def step(grads, params, foreach):
        tx = fo.adam(foreach=foreach)
        state = tx.init(params)
        if foreach:
            packed = {name for name, leaf in state.leaves.exp_avg.items() if leaf is None}
            assert packed == ({"whole", "other"} if check_vma else set())
        return tx.update(grads, state, params)[0]

    packed, plain = (
        sharded(functools.partial(step, foreach=foreach), (specs, specs), specs, check_vma)(grads, params)
        for foreach in (True, False)
    )
    jax.tree.map(np.testing.assert_array_equal, packed, plain)


FLAT = {"split": jnp.arange(4.0), "bias": jnp.full(4, 2.0), "whole": jnp.ones(2), "other": jnp.full(2, 3.0)}
FLAT_SPECS = {"split": P("x"), "bias": P("x"), "whole": P(), "other": P()}


@pytest.mark.parametrize("axis_name", [FLAT_SPECS, *full("x", lambda path: FLAT_SPECS[path])])
def test_flat_params_of_shards_have_the_norm_of_the_whole(axis_name):
    tx = fo.chain(fo.clip_by_global_norm(0.5, axis_name=axis_name), fo.sgd(lr=1.0))

    def step(grads):
        flat = fo.flat_params(grads)
        assert flat.form.names == ("bias", "split", "packed.float32")
        return tx.update(flat, tx.init(flat), flat)[0].tree()

    found = sharded(step, (FLAT_SPECS,), FLAT_SPECS)(FLAT)
    plain = fo.chain(fo.clip_by_global_norm(0.5), fo.sgd(lr=1.0))
    wanted = plain.update(FLAT, plain.init(FLAT))[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, wanted)


def test_flat_params_join_nothing_where_no_array_says_whether_it_is_split():
    with pytest.raises(ValueError, match=r"inside shard_map\(check_vma=False\) no array says .* axis 'x': call it out"):
        sharded(lambda params: fo.flat_params(params).tree(), (FLAT_SPECS,), FLAT_SPECS, False)(FLAT)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    placed = {name: jax.device_put(leaf, NamedSharding(mesh, FLAT_SPECS[name])) for name, leaf in FLAT.items()}
    flat = fo.flat_params(placed)  # outside, every array says it
    specs = jax.tree.map(lambda array: array.sharding.spec, flat)
    assert specs.arrays == [P("x"), P("x"), P()]
    norm = sharded(lambda flat: fo.global_norm(flat, axis_name=FLAT_SPECS), (specs,), P(), False)(flat)
    np.testing.assert_allclose(norm, fo.global_norm(FLAT), rtol=1e-6)


@pytest.mark.parametrize("check_vma", [False, *full(True)])
def test_buffers_may_be_split_themselves(check_vma):
    """As in ZeRO: each device holds a part of every buffer, and gathers them in the loss."""
    flat = fo.flat_params({"a": jnp.arange(3.0), "b": jnp.ones((1, 5))})
    specs = jax.tree.map(lambda _: P("x"), flat)
    norm = sharded(lambda flat: fo.global_norm(flat, axis_name=specs), (specs,), P(), check_vma)(flat)
    np.testing.assert_allclose(norm, fo.global_norm(flat), rtol=1e-6)


@pytest.mark.parametrize("check_vma", [True, *full(False)])
def test_devices_that_share_flat_params_step_as_with_the_tree(check_vma):
    params, x = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}, jnp.arange(12.0).reshape(4, 3)
    tx = fo.chain(fo.clip_by_global_norm(0.5, axis_name=()), fo.adam(lr=0.1))

    def step(params, state, x):
        def loss(params):
            tree = fo.unflatten(params)
            return jnp.mean((x @ tree["w"] + tree["b"][None]) ** 2)

        own = jax.tree.map(lambda p: jax.lax.pcast(p, "x", to="varying"), params) if check_vma else params
        grads = jax.lax.pmean(jax.grad(loss)(own), "x")
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    run = sharded(step, (P(), P(), P("x")), (P(), P()), check_vma)
    found, wanted = (fo.unflatten(run(tree, tx.init(tree), x)) for tree in (fo.flat_params(params), params))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, wanted)


def test_one_axis_name_is_not_enough_for_leaves_that_were_joined():
    rows, row, plain = jnp.arange(4.0).reshape(2, 2), jnp.ones(2), {"split": "i", "whole": ()}

    def norm(axis_name, split, whole):
        return fo.global_norm(fo.flat_params({"split": split, "whole": whole}), axis_name=axis_name)

    over = functools.partial(jax.vmap, in_axes=(0, None), axis_name="i")
    with pytest.raises(ValueError, match=r"global_norm: where nothing says which arrays .* 'i' .* is not enough"):
        over(functools.partial(norm, "i"))(rows, row)
    with pytest.raises(ValueError, match=r"joined 'split' and 'whole', .*\('i' and \(\)\).* keep the tree"):
        over(functools.partial(norm, plain))(rows, row)
    np.testing.assert_allclose(over(functools.partial(norm, ()))(rows, row), [3**0.5, 15**0.5], rtol=1e-6)


def test_lbfgs_goes_on_where_one_shard_has_reached_its_optimum():
    """The largest gradient over all shards ends the iterations."""
    start, tx = jnp.array([3.0, 1.0]), fo.lbfgs(max_iter=5, axis_name="x")

    def minimise(w):
        def loss(w):
            return jax.lax.psum(jnp.sum((w - jnp.array(3.0)) ** 2), "x")

        return fo.apply_updates(w, tx.update(jax.grad(loss)(w), tx.init(w), w, value_fn=loss)[0])

    moved = sharded(minimise, P("x"), P("x"))(start)
    np.testing.assert_allclose(moved, [3.0, 3.0], rtol=1e-6)
