"""What a monitor keeps and what its report says, in both faces; it changes no update and costs no compilation."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.sparse import BCOO
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from tests.equality import relative

SHAPES = {"encoder": {"0": {"kernel": (4, 3), "bias": (3,)}, "1": {"kernel": (3, 2)}}, "decoder": {"kernel": (2, 5)}}


def tree(seed=0, scale=1.0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731 one line
    draw = lambda shape: jnp.asarray(scale * rng.standard_normal(shape), dtype)  # noqa: E731 one line
    return jax.tree.map(draw, SHAPES, is_leaf=is_shape)


def norm(*arrays):
    return np.sqrt(sum(np.sum(np.abs(np.asarray(a, np.complex128)) ** 2) for a in jax.tree.leaves(arrays)))


INNER = fo.chain(fo.clip_by_global_norm(3.0), fo.adamw(lr=fo.schedules.cosine_annealing(0.1, T_max=9)))


def runs(tx, steps, seed=0, scale=lambda step: 1.0):
    """Yield, for each step of a compiled run, gradients, updates, the new parameters and state."""
    params = tree(99)
    state = tx.init(params)

    @jax.jit
    def advance(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return updates, fo.apply_updates(params, updates), state

    for step in range(steps):
        grads = tree(seed + step, scale(step))
        updates, params, state = advance(grads, state, params)
        yield grads, updates, params, state


@pytest.mark.parametrize("every", [1, 3, None])
def test_the_updates_are_those_without(every):
    plain, watched = runs(INNER, 7), runs(fo.monitor(INNER, every, prefixes=1), 7)
    for (_, *one, state), (_, *other, inside) in zip(plain, watched, strict=True):
        errors = jax.tree.map(relative, [*one, state], [*other, inside.inner])
        assert max(jax.tree.leaves(errors)) < 1e-6


@pytest.mark.parametrize("every", [1, 2, 5])
def test_the_report_is_what_was_measured_last(every):
    schedule = fo.schedules.cosine_annealing(0.1, T_max=9)
    measured, clipped, tx = {}, 0, fo.monitor(INNER, every, prefixes=1)
    scale = lambda step: [0.1, 1.0][step % 2]  # noqa: E731 one line
    for step, (grads, updates, params, state) in enumerate(runs(tx, 6, scale=scale)):
        if step % every == 0:
            measured = {"update_norm": norm(updates), "param_norm": norm(params)}
            for part in ("encoder", "decoder"):
                measured |= {f"update_norm/{part}": norm(updates[part]), f"param_norm/{part}": norm(params[part])}
            for suffix in ("", "/encoder", "/decoder"):
                measured[f"update_ratio{suffix}"] = measured[f"update_norm{suffix}"] / measured[f"param_norm{suffix}"]
        clipped += norm(grads) > 3.0
        wanted = {"step": step + 1, "lr": float(schedule(step)), "grad_norm": norm(grads), **measured}
        wanted |= {f"grad_norm/{part}": norm(grads[part]) for part in ("encoder", "decoder")}
        wanted["clipped_share"] = clipped / (step + 1)
        found = fo.report(state)
        assert set(found) == set(wanted) and all(type(value) in (int, float) for value in found.values())
        assert found == pytest.approx(wanted, rel=1e-5)
    assert 0 < clipped < 6


@pytest.mark.parametrize(
    ("prefixes", "parts"),
    [
        (None, {}),
        (2, {"encoder.0": ["encoder.0"], "encoder.1": ["encoder.1"], "decoder.kernel": ["decoder"]}),
        (9, {"encoder.0.kernel": None, "encoder.0.bias": None, "encoder.1.kernel": None, "decoder.kernel": None}),
        ([r"encoder\.0", r".*kernel$", "absent"], {r"encoder\.0": None, r".*kernel$": None, "absent": None}),
    ],
)
def test_prefixes_group_the_tree(prefixes, parts):
    [(grads, _, _, state)] = runs(fo.monitor(INNER, prefixes=prefixes), 1)
    found = {name.partition("/")[2]: value for name, value in fo.report(state).items() if name.startswith("grad_norm/")}
    assert set(found) == set(parts)
    if prefixes == 2:
        assert found["encoder.0"] == pytest.approx(norm(grads["encoder"]["0"]), rel=1e-5)
    if isinstance(prefixes, list):
        kernels = grads["encoder"]["0"]["kernel"], grads["encoder"]["1"]["kernel"], grads["decoder"]["kernel"]
        assert found[r".*kernel$"] == pytest.approx(norm(*kernels), rel=1e-5)
        assert found["absent"] == 0.0 and fo.report(state)["update_ratio/absent"] == 0.0
        assert found[r"encoder\.0"] == pytest.approx(norm(grads["encoder"]["0"]), rel=1e-5)


def test_a_tree_of_one_array_has_no_prefixes():
    tx, params = fo.monitor(fo.sgd(lr=0.1), prefixes=1), jnp.ones(3)
    _, state = tx.update(params, tx.init(params), params)
    assert set(fo.report(state)) == {"step", "lr", "grad_norm", "update_norm", "param_norm", "update_ratio"}


CLIPPING = {
    "first": (fo.chain(fo.clip_by_global_norm(2.0), fo.sgd(lr=0.1)), True),
    "after what keeps the norm": (fo.chain(fo.identity(), fo.conjugate(), fo.clip_by_global_norm(2.0)), True),
    "in a chain in a chain": (fo.chain(fo.chain(fo.clip_by_global_norm(2.0), fo.identity()), fo.sgd()), True),
    "named": (fo.named_chain(("z", fo.clip_by_global_norm(2.0)), ("a", fo.sgd())), True),
    "in skip_nonfinite": (fo.skip_nonfinite(fo.chain(fo.clip_by_global_norm(2.0), fo.sgd()), 3), True),
    "in master_weights": (fo.master_weights(fo.chain(fo.clip_by_global_norm(2.0), fo.sgd())), True),
    "in state_dtype": (fo.state_dtype(fo.chain(fo.clip_by_global_norm(2.0), fo.adam()), {"exp_avg": "bfloat16"}), True),
    "alone": (fo.clip_by_global_norm(2.0), True),
    "twice": (fo.chain(fo.clip_by_global_norm(100.0), fo.clip_by_global_norm(2.0), fo.sgd()), True),
    "scheduled": (fo.chain(fo.clip_by_global_norm(fo.schedules.constant(2.0)), fo.sgd()), True),
    "after a scale": (fo.chain(fo.scale(0.5), fo.clip_by_global_norm(2.0), fo.sgd()), False),
    "in inject": (fo.inject(lambda lr: fo.chain(fo.clip_by_global_norm(2.0), fo.sgd(lr=lr)), lr=0.1), True),
    "injected": (fo.chain(fo.inject(fo.clip_by_global_norm, max_norm=2.0), fo.sgd()), True),
    "in lookahead": (fo.lookahead(fo.chain(fo.clip_by_global_norm(2.0), fo.sgd())), True),
    "in a monitor": (fo.monitor(fo.chain(fo.clip_by_global_norm(2.0), fo.sgd())), True),
    "after a monitor": (fo.chain(fo.monitor(fo.identity()), fo.clip_by_global_norm(2.0), fo.sgd()), True),
    "in accumulate": (fo.accumulate(fo.chain(fo.clip_by_global_norm(2.0), fo.sgd()), 2), False),
    "in masked": (fo.masked(fo.clip_by_global_norm(2.0), True), False),
    "optax's": (optax.clip_by_global_norm(2.0), False),
    "none": (fo.sgd(), False),
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("where", CLIPPING)
def test_clipping_is_counted_where_the_gradient_itself_gets_to_it(where):
    tx, is_known = CLIPPING[where]
    *_, (_, _, _, state) = runs(fo.monitor(tx), 4, scale=lambda step: [0.1, 9.0, 9.0, 0.1][step])
    assert (state.clipped is not None) is is_known
    assert fo.report(state).get("clipped_share") == (0.5 if is_known else None)


def test_clipping_by_past_norms_is_counted_too():
    sizes = [1.0, 1.1, 0.9, 50.0, 1.0, 60.0]
    *_, (_, _, _, state) = runs(fo.monitor(fo.clip_by_zscore(warmup=3)), 6, seed=0, scale=sizes.__getitem__)
    alone = runs(fo.clip_by_zscore(warmup=3), 6, scale=sizes.__getitem__)
    plain = [norm(grads) > norm(updates) * 1.01 for grads, updates, _, _ in alone]
    assert 0 < sum(plain) < 6 and fo.report(state)["clipped_share"] == pytest.approx(sum(plain) / 6)
    *_, (_, _, _, state) = runs(fo.monitor(fo.clip_by_percentile(50.0)), 6, scale=lambda step: 6.0 - step)
    assert fo.report(state)["clipped_share"] == 0.0  # falling norms lie below their median
    *_, (_, _, _, state) = runs(fo.monitor(fo.clip_by_percentile(50.0)), 6, scale=lambda step: 3.0**step)
    assert fo.report(state)["clipped_share"] == pytest.approx(5 / 6)


def test_skipped_and_nan_gradients_are_shares_of_all():
    bad = lambda step: np.nan if step in (1, 2) else 1.0  # noqa: E731 one line
    inside = fo.monitor(fo.skip_nonfinite(fo.sgd(lr=0.1), 5))
    outside = fo.skip_nonfinite(fo.monitor(fo.sgd(lr=0.1)), 5)
    for tx in (inside, outside):
        *_, (_, _, _, state) = runs(tx, 8, scale=bad)
        assert fo.report(state)["skipped_share"] == 0.25
    assert fo.report(state)["step"] == 6  # a monitor inside sees only the updates that are made
    *_, (_, _, _, state) = runs(fo.monitor(fo.chain(fo.zero_nans(), fo.sgd(lr=0.1))), 4, scale=bad)
    assert fo.report(state)["nan_share"] == 0.5 and np.isfinite(fo.report(state)["grad_norm"])
    watched = list(runs(inside, 2, scale=bad))
    assert np.isnan(fo.report(watched[1][3])["grad_norm"]) and fo.report(watched[1][3])["update_norm"] == 0.0


SKIPPING = {
    "nonfinite": lambda inner: fo.skip_nonfinite(inner, 1),
    "large": lambda inner: fo.skip_large_updates(inner, 1e3, 1),
    "spikes": lambda inner: fo.skip_spikes(inner, 2, max_consecutive=1, of="norm"),
}


@pytest.mark.parametrize("skip", SKIPPING.values(), ids=SKIPPING)
def test_bad_updates_that_run_are_counted_once_inside_and_outside(skip):
    sizes = [1.0, np.inf, np.inf, np.inf, 1.0]  # the second bad update in a row runs, and the third
    for tx in (fo.monitor(skip(fo.sgd(lr=0.1))), skip(fo.monitor(fo.sgd(lr=0.1)))):
        *_, (_, _, _, state) = runs(tx, 5, scale=sizes.__getitem__)
        assert fo.report(state)["skipped_share"] == 3 / 5


@pytest.mark.parametrize(("skip", "large", "bad"), [("nonfinite", np.inf, 2), ("large", 1e6, 2), ("spikes", 1e6, 1)])
def test_a_skipped_gradient_is_not_clipped(skip, large, bad):
    sizes = [1.0, 1.0, large, large, 1.0]  # the first large gradient is skipped, the second is clipped
    clipped = fo.chain(fo.clip_by_global_norm(100.0), fo.sgd(lr=0.1))
    *_, (_, _, _, state) = runs(fo.monitor(SKIPPING[skip](clipped)), 5, scale=sizes.__getitem__)
    assert (fo.report(state)["clipped_share"], fo.report(state)["skipped_share"]) == (1 / 5, bad / 5)


def test_shares_are_of_the_updates_that_get_there():
    sizes = [1.0, np.nan, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    for link in (fo.skip_nonfinite(fo.sgd(lr=0.1), 1), fo.chain(fo.zero_nans(), fo.sgd(lr=0.1))):
        *_, (_, _, _, state) = runs(fo.monitor(fo.accumulate(link, 2)), 8, scale=sizes.__getitem__)
        report = fo.report(state)
        assert report["step"] == 8 and (report.get("skipped_share") or report.get("nan_share")) == 1 / 4


def test_skips_side_by_side_report_apart():
    labels = lambda path: "a" if "encoder" in path else "b"  # noqa: E731 one line
    parts = {"a": fo.skip_large_updates(fo.sgd(), 1e-3, 9), "b": fo.skip_nonfinite(fo.sgd(), 9)}
    *_, (_, _, _, state) = runs(fo.monitor(fo.partition(parts, labels)), 2)
    report = fo.report(state)
    assert (report["skipped_share/a"], report["skipped_share/b"]) == (1.0, 0.0) and "skipped_share" not in report


def test_rates_of_several_links_and_labels():
    two = fo.partition({"a": fo.adamw(lr=0.25), "b": fo.sgd(lr=0.5)}, lambda path: "a" if "encoder" in path else "b")
    [(_, _, _, state)] = runs(fo.monitor(two), 1)
    assert {name: rate for name, rate in fo.report(state).items() if "lr" in name} == {"lr/a": 0.25, "lr/b": 0.5}
    named = fo.named_chain(("clip", fo.clip_by_value(1.0)), ("optimizer", fo.sgd(lr=0.5)))
    assert fo.report(next(runs(fo.monitor(named), 1))[3])["lr/optimizer"] == 0.5
    both = fo.report(next(runs(fo.monitor(fo.named_chain(("optimizer", two))), 1))[3])
    assert (both["lr/optimizer/a"], both["lr/optimizer/b"]) == (0.25, 0.5) and "lr" not in both
    kernels = fo.masked(fo.sgd(lr=0.5), lambda path: path.endswith("kernel"))
    rest = fo.masked(fo.sgd(lr=0.25), lambda path: not path.endswith("kernel"))
    found = fo.report(next(runs(fo.monitor(fo.chain(kernels, rest)), 1))[3])
    assert (found["lr/0"], found["lr/1"]) == (0.5, 0.25)


def test_several_monitors_have_the_labels_in_front():
    members = {"a": fo.monitor(fo.sgd(lr=0.25)), "b": fo.monitor(fo.sgd(lr=0.5), every=None)}
    tx = fo.partition(members, lambda path: "a" if "encoder" in path else "b")
    [(grads, _, _, state)] = runs(tx, 1)
    found = fo.report(state)
    assert found["a/lr"] == 0.25 and found["b/lr"] == 0.5 and "a/update_norm" in found and "b/update_norm" not in found
    assert found["a/grad_norm"] == pytest.approx(norm(grads["encoder"]), rel=1e-5)


def test_a_report_inside_a_compiled_function_and_of_an_ensemble():
    tx = fo.monitor(INNER, prefixes=1)

    @jax.jit
    def step(params, grads):
        _, state = tx.update(grads, tx.init(params), params)
        return fo.report(state)

    params, grads = tree(0), tree(1)
    _, state = tx.update(grads, tx.init(params), params)
    chex.assert_trees_all_close(jax.device_get(step(params, grads)), fo.report(state), rtol=1e-5)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *[tree(seed) for seed in range(3)])
    states = jax.vmap(lambda p: tx.update(p, tx.init(p), p)[1])(stacked)
    found = fo.report(states)
    assert found["grad_norm"].shape == (3,) and isinstance(found["update_ratio/encoder"], np.ndarray)
    np.testing.assert_allclose(found["grad_norm"][2], norm(tree(2)), rtol=1e-5)


def test_one_fetch(monkeypatch):
    [(_, _, _, state)] = runs(fo.monitor(INNER, prefixes=2), 1)
    fetched = []
    monkeypatch.setattr(jax, "device_get", lambda x, get=jax.device_get: (fetched.append(x), get(x))[1])
    fo.report(state)
    assert len(fetched) == 1
    assert len(jax.tree.leaves(fetched)) < 40 and all(leaf.size == 1 for leaf in jax.tree.leaves(fetched))  # no slots


@pytest.mark.parametrize("every", [1, 3])
def test_a_step_compiles_once_and_copies_nothing(every):
    tx, params = fo.monitor(INNER, every, prefixes=1), {"kernel": jnp.ones((256, 256)), "other": jnp.ones((256, 256))}
    state = tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    memory = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile().memory_analysis()
    owned = sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)))
    assert owned - memory.alias_size_in_bytes <= 64  # some numbers are not read
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert memory.temp_size_in_bytes <= 1.1 * size  # the updates, and no copy of parameters or slots


def test_the_norm_of_the_gradient_is_formed_once():
    """The compiled step with a monitor has no more sums over the gradient than that without."""

    def operations(tx):
        params = {"w": jnp.ones((64, 96))}
        step = jax.jit(lambda g, s, p: tx.update(g, s, p))
        return step.lower(params, tx.init(params), params).compile().cost_analysis()["flops"]

    assert operations(fo.monitor(INNER, every=None)) - operations(INNER) < 64
    assert operations(fo.monitor(fo.adamw(), every=None)) - operations(fo.adamw()) > 64 * 96  # there it is formed


def test_dtypes_absent_sparse_and_complex_leaves():
    params = {
        "half": jnp.full(4, 2.0, jnp.bfloat16),
        "complex": jnp.array([3 + 4j], jnp.complex64),
        "table": jnp.ones((5, 2)),
        "none": jnp.ones(2),
        "count": jnp.array(3),
    }
    entries = jnp.array([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    rows = BCOO((entries, jnp.array([[0], [2], [2], [5]])), shape=(5, 2))
    grads = {"half": jnp.ones(4, jnp.bfloat16), "complex": jnp.array([2j], jnp.complex64), "table": rows}
    grads |= {"none": None, "count": np.zeros((), jax.dtypes.float0)}
    tx = fo.monitor(fo.scale(-1.0), prefixes=1)
    _, state = tx.update(grads, tx.init(params), params)
    found = fo.report(state)
    parts = {"half": 2.0, "complex": 2.0, "table": np.sqrt(25 + 4), "none": 0.0, "count": 0.0}  # row 5 is padding
    assert {name: found[f"grad_norm/{name}"] for name in parts} == pytest.approx(parts)
    assert {name: found[f"update_norm/{name}"] for name in parts} == pytest.approx(parts)
    assert found["grad_norm"] == pytest.approx(np.sqrt(sum(value**2 for value in parts.values())))
    assert found["param_norm/half"] == 2.0 and found["param_norm/complex"] == pytest.approx(abs(3 + 2j))
    assert found["param_norm/none"] == pytest.approx(np.sqrt(2)) and found["param_norm/count"] == 0.0


def test_a_gradient_that_is_sparse_in_another_way_is_named():
    params = {"table": jnp.ones((5, 2))}
    tx = fo.monitor(fo.sgd(lr=0.1))
    with pytest.raises(RuntimeError, match=r"monitor supports sparse gradients .* of the parameter 'table' is BCOO"):
        tx.update({"table": BCOO.fromdense(params["table"])}, tx.init(params), params)


@pytest.mark.parametrize("every", [None, 1, 2])
@pytest.mark.parametrize("who", ["params", "grads"])
def test_a_python_number_is_named_before_tracing_turns_it_into_an_array(every, who):
    arrays, number = {"w": jnp.ones(3), "b": jnp.ones(())}, {"w": jnp.ones(3), "b": 0.5}
    tx = fo.monitor(fo.identity(), every)
    params, grads = (number, arrays) if who == "params" else (arrays, number)
    with pytest.raises(TypeError, match="the parameter 'b'"):
        tx.update(grads, tx.init(arrays), params)


@pytest.mark.usefixtures("x64")
def test_norms_of_doubles_are_doubles():
    params = {"w": jnp.ones(3) / 3}
    tx = fo.monitor(fo.sgd(lr=0.1))
    _, state = tx.update(params, tx.init(params), params)
    assert state.norms.grad.dtype == jnp.float64
    np.testing.assert_allclose(fo.report(state)["grad_norm"], np.sqrt(3) / 3, rtol=1e-12)


SPECS = {"rows": P("x"), "columns": P(None, "x"), "whole": P()}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("check_vma", [True, False])
def test_the_report_of_shards_is_that_of_the_whole(every, check_vma):
    shapes = {"rows": (4, 3), "columns": (3, 4), "whole": (2, 3)}
    drawn = [np.random.default_rng(seed) for seed in range(2)]
    params, grads = ({n: jnp.asarray(rng.standard_normal(s), jnp.float32) for n, s in shapes.items()} for rng in drawn)

    def make(axis):
        inner = fo.chain(fo.clip_by_global_norm(1.0, axis_name=axis), fo.sgd(lr=0.1))
        return fo.monitor(inner, every, prefixes=1, axis_name=axis)

    def two_steps(tx, grads, params):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(grads, state, params)
            params = fo.apply_updates(params, updates)
        return state

    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    spread = lambda g, p: two_steps(make(SPECS), g, p)  # noqa: E731 one line
    run = jax.shard_map(spread, mesh=mesh, in_specs=(SPECS, SPECS), out_specs=P(), check_vma=check_vma)
    wanted = fo.report(two_steps(make(None), grads, params))
    assert fo.report(jax.jit(run)(grads, params)) == pytest.approx(wanted, rel=1e-5)
    without = jax.shard_map(lambda g, p: two_steps(make(None), g, p), mesh=mesh, in_specs=(SPECS, SPECS), out_specs=P())
    with pytest.raises(ValueError, match="monitor looks beyond single entries"):
        jax.jit(without)(grads, params)


# ------------------------------------------------------------------------------------------------------ the torch face


def watched_adamw(lr, max_norm=1.0):
    return fo.monitor(fo.chain(fo.clip_by_global_norm(max_norm), fo.adamw(lr=lr)), prefixes=1)


def test_the_torch_face_reports_through_from_transform(compilations):
    optimizer = optim.Optimizer.from_transform(watched_adamw, tree(99), {"lr": 0.1})
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    params, state = tree(99), watched_adamw(0.1).init(tree(99))
    for step in range(3):
        if step == 2:
            compilations.clear()
        before = len(compilations)
        optimizer.step(tree(step))
        assert step < 2 or len(compilations) == before  # another rate compiles nothing
        scheduler.step()
        updates, state = watched_adamw(0.1 * 0.5**step).update(tree(step), state, params)
        params = fo.apply_updates(params, updates)
    assert optimizer.report() == pytest.approx(fo.report(state), rel=1e-4)
    assert optimizer.report()["lr"] == pytest.approx(0.025)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in optimizer._leaves]
    optimizer.report()
    optimizer.step(tree(3))
    assert [leaf.unsafe_buffer_pointer() for leaf in optimizer._leaves] == buffers  # nothing is held


def test_groups_report_for_themselves_and_the_state_dict_has_the_counts():
    rules = [("encoder", {"lr": 0.25})]
    optimizer = optim.Optimizer.from_transform(watched_adamw, tree(99), {"lr": 0.5}, group_rules=rules)
    optimizer.step(tree(0))
    found = optimizer.report()
    assert (found["group0/lr"], found["group1/lr"]) == (0.25, 0.5)
    twin = optim.Optimizer.from_transform(watched_adamw, tree(99), {"lr": 0.5}, group_rules=rules)
    twin.load_state_dict(optimizer.state_dict())
    assert twin.report() == found
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other.report() == found
    with pytest.raises(KeyError, match=r"the state has no monitor: wrap the transformation in fo\.monitor"):
        optim.AdamW(tree(99)).report()


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: fo.monitor(INNER, 0), ValueError, "monitor: every must be a positive integer, or None, but it is 0"),
        (lambda: fo.monitor(INNER, 1.5), TypeError, "every must be a positive integer, or None, but it is 1.5"),
        (lambda: fo.monitor(INNER, True), TypeError, "every must be a positive integer"),
        (lambda: fo.monitor(INNER, prefixes="encoder"), TypeError, "prefixes must be a depth of at least 1, or a list"),
        (lambda: fo.monitor(INNER, prefixes=0), TypeError, "prefixes must be a depth of at least 1"),
        (
            lambda: fo.monitor(INNER, prefixes=["("]),
            ValueError,
            r"the prefix '\(' is no regular expression: missing \)",
        ),
        (lambda: fo.monitor(INNER, axis_name=3), TypeError, "monitor: axis_name must be the name of an axis"),
        (lambda: fo.report(fo.adam().init(tree())), KeyError, "the state has no monitor"),
        (lambda: fo.monitor(INNER).update(tree(), fo.monitor(INNER).init(tree())), ValueError, "monitor needs the par"),
    ],
)
def test_what_cannot_be_watched_raises(build, kind, message):
    with pytest.raises(kind, match=message):
        build()


def test_without_parameters_the_gradient_is_watched():
    tx = fo.monitor(fo.chain(fo.clip_by_global_norm(1.0), fo.sgd(lr=0.1)), every=None)
    _, state = tx.update(tree(), tx.init(tree()))
    assert set(fo.report(state)) == {"step", "lr", "grad_norm", "clipped_share"}


def test_hyperparams_effects_and_repr_are_those_of_the_inner():
    tx = fo.monitor(fo.sgd(lr=0.5), every=20, prefixes=["a"])
    assert fo.current_hyperparams(tx, tx.init(tree()))["lr"] == 0.5
    assert repr(tx).startswith("monitor(inner=sgd(lr=0.5") and repr(tx).endswith("prefixes=('a',), axis_name=None)")
    with pytest.raises(ValueError, match="the updates of sgd are negated already"):
        fo.chain(tx, fo.adam())
