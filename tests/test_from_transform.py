"""Any composed transformation behind the torch face."""

import copy
import enum
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.base import Transform


def clipped_adamw(lr, weight_decay, max_norm=1.0):
    return fo.chain(fo.clip_by_global_norm(max_norm), fo.adamw(lr=lr, weight_decay=weight_decay))


def params():
    return {"bias": jnp.ones(3), "kernel": jnp.linspace(-1, 1, 6).reshape(3, 2)}


def grads(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params())


DEFAULTS = {"lr": 0.1, "weight_decay": 0.1}


def test_steps_are_those_of_the_transformation():
    optimizer = optim.Optimizer.from_transform(clipped_adamw, params(), DEFAULTS)
    tx = clipped_adamw(**DEFAULTS)
    state, right = tx.init(params()), params()
    for seed in range(5):
        optimizer.step(grads(seed))
        updates, state = tx.update(grads(seed), state, right)
        right = fo.apply_updates(right, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), optimizer.params, right)


def test_options_are_data_and_keep_their_digits(x64, compilations):
    """200 steps with rewritten numbers compile nothing, and match a transformation rebuilt at each step."""
    make = lambda lr, betas: fo.adam(lr=lr, betas=betas)  # noqa: E731 a helper of one line
    betas = (fo.Beta.of(0.9), fo.Beta.of(0.999))
    wide = jax.tree.map(lambda p: p.astype(jnp.float64), params())
    optimizer = optim.Optimizer.from_transform(make, wide, {"lr": 0.1, "betas": betas})
    tx_state, right = fo.adam().init(wide), wide
    update = jax.jit(lambda tx, *args: tx.update(*args), static_argnums=0)
    for step in range(200):
        lr, beta = 0.1 / (1 + step % 5), 0.9 - 0.01 * (step % 3)
        gradients = jax.tree.map(lambda g: g.astype(jnp.float64), grads(step))
        optimizer.param_groups[0].update(lr=lr, betas=(fo.Beta.of(beta), fo.Beta.of(0.999)))
        if step == 3:
            compilations.clear()
        before = len(compilations)
        optimizer.step(gradients)
        assert step < 3 or len(compilations) == before
        updates, tx_state = update(fo.adam(lr=lr, betas=(beta, 0.999)), gradients, tx_state, right)
        right = fo.apply_updates(right, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), optimizer.params, right)


def test_groups_partition_the_tree():
    rules = [("bias", {"weight_decay": 0.0})]
    optimizer = optim.Optimizer.from_transform(clipped_adamw, params(), DEFAULTS, group_rules=rules)
    zeros = jax.tree.map(jnp.zeros_like, params())
    optimizer.step(zeros)
    np.testing.assert_array_equal(optimizer.params["bias"], params()["bias"])
    np.testing.assert_allclose(optimizer.params["kernel"], 0.99 * params()["kernel"], rtol=1e-6)
    dicts = [{"params": {"bias": jnp.ones(3)}, "weight_decay": 0.0}, {"params": {"kernel": jnp.ones(2)}}]
    listed = optim.Optimizer.from_transform(clipped_adamw, dicts, DEFAULTS)
    listed.step([{"bias": jnp.zeros(3)}, {"kernel": jnp.zeros(2)}])
    assert listed.params[0]["bias"].tolist() == [1.0] * 3
    assert listed.params[1]["kernel"].tolist() == pytest.approx([0.99] * 2)
    tx, tree, state = listed.functional()
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, tree), state, tree)
    listed.restore(fo.apply_updates(tree, updates), state)
    assert listed.state["kernel"]["step"] == 2
    with_none = optim.Optimizer.from_transform(clipped_adamw, [{"params": []}, dicts[0]], DEFAULTS)
    with_none.step([[], {"bias": jnp.ones(3)}])
    assert list(with_none.state_dict()["state"][0]) == ["step", "exp_avg", "exp_avg_sq"]


def test_static_options_and_schedules():
    calls = []

    def make(lr, every, flag):
        calls.append((every, flag))
        return fo.accumulate(fo.sgd(lr=lr), every=every)

    schedule = fo.schedules.cosine_annealing(1.0, T_max=8)
    optimizer = optim.Optimizer.from_transform(
        make, params(), {"lr": schedule, "every": 2, "flag": True}, static=("every",)
    )
    assert all(call == (2, True) for call in calls)
    before = optimizer.params
    optimizer.step(grads(0))
    jax.tree.map(np.testing.assert_array_equal, optimizer.params, before)
    optimizer.step(grads(0))
    moved = jax.tree.map(lambda a, b: a - b, before, optimizer.params)
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m, schedule(1) * g, rtol=1e-5), moved, grads(0))
    assert optimizer.state_dict()["param_groups"][0]["schedule_step"] == 2


@pytest.mark.usefixtures("standard_promotion")
def test_optax_works_in_it(compilations):
    make = lambda lr, decay: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr, weight_decay=decay))  # noqa: E731
    optimizer = optim.Optimizer.from_transform(make, params(), {"lr": 0.1, "decay": 0.1})
    tx = make(0.1, 0.1)
    state, right = tx.init(params()), params()
    for seed in range(4):
        optimizer.step(grads(seed))
        updates, state = tx.update(grads(seed), state, right)
        right = optax.apply_updates(right, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), optimizer.params, right)
    assert list(optimizer.state["bias"]) == ["count", "mu", "nu"]
    compilations.clear()
    optimizer.param_groups[0]["lr"] = 0.05
    optimizer.step(grads(4))
    assert not compilations


def test_state_dict_crosses_to_the_plain_optimizer_and_back():
    """The per-parameter state has torch's keys, so AdamW's state loads into the composition."""
    source = optim.AdamW(params(), lr=0.1, weight_decay=0.1)
    composed = optim.Optimizer.from_transform(
        lambda lr, weight_decay: clipped_adamw(lr, weight_decay, 1e9), params(), DEFAULTS
    )
    for seed in range(3):
        source.step(grads(seed))
    saved = source.state_dict()
    composed.params = source.params
    composed.load_state_dict(saved)
    assert list(composed.state["bias"]) == ["step", "exp_avg", "exp_avg_sq"]
    for seed in range(3, 6):
        source.step(grads(seed))
        composed.step(grads(seed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), composed.params, source.params)
    twin = optim.AdamW(params(), lr=0.1)
    twin.load_state_dict(composed.state_dict())
    assert twin.state["kernel"]["step"] == 6


def test_state_dict_of_a_partition_and_of_masks():
    tx = lambda lr: fo.partition(  # noqa: E731 a helper of one line
        {"a": fo.adam(lr=lr), "b": fo.sgd(lr=lr, momentum=0.9)}, lambda path: "b" if path == "bias" else "a"
    )
    source = optim.Optimizer.from_transform(tx, params(), {"lr": 0.1})
    twin = optim.Optimizer.from_transform(tx, params(), {"lr": 0.5})
    for seed in range(3):
        source.step(grads(seed))
    twin.params = source.params
    twin.load_state_dict(source.state_dict())
    for seed in range(3, 5):
        source.step(grads(seed))
        twin.step(grads(seed))
    jax.tree.map(np.testing.assert_array_equal, (twin.params, dict(twin.state)), (source.params, dict(source.state)))


def test_what_somebody_holds_is_left_alone():
    optimizer = optim.Optimizer.from_transform(clipped_adamw, params(), DEFAULTS)
    optimizer.step(grads(0))
    held = [optimizer.params, optimizer.state_dict(), optimizer.functional()[1:]]
    copies = jax.tree.map(np.array, held)
    for seed in range(10):
        optimizer.step(grads(seed))
    jax.tree.map(np.testing.assert_array_equal, held, copies)


def test_the_usual_loop_copies_nothing():
    optimizer = optim.Optimizer.from_transform(clipped_adamw, params(), DEFAULTS)
    optimizer.step(grads(0))

    def buffers():
        slots = [{k: v for k, v in entry.items() if k != "step"} for entry in optimizer.state.values()]
        return {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((optimizer.params, slots))}

    at_first = buffers()
    for seed in range(5):
        optimizer.step(grads(seed))
        assert buffers() == at_first


def test_missing_gradients_leave_the_parameter():
    optimizer = optim.Optimizer.from_transform(clipped_adamw, params(), DEFAULTS)
    optimizer.step({**grads(0), "bias": None})
    np.testing.assert_array_equal(optimizer.params["bias"], params()["bias"])
    assert not np.array_equal(optimizer.params["kernel"], params()["kernel"])


class Sign(optim.Optimizer):
    """A user's own optimizer, as a subclass."""

    def __init__(self, params, lr=0.1, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def transformation(self, lr, momentum):
        return fo.sgd(lr=lr, momentum=momentum)


def test_a_subclass_defines_transformation():
    optimizer = Sign({"w": jnp.ones(2)}, lr=0.5)
    optimizer.step({"w": jnp.ones(2)})
    assert optimizer.params["w"].tolist() == [0.5, 0.5]
    assert repr(optimizer).startswith("Sign (")
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        twin.step({"w": jnp.ones(2)})
        assert twin.params["w"].tolist() == pytest.approx([-0.45, -0.45])
        assert twin._engine.make.__self__ is twin
    assert optimizer.params["w"].tolist() == [0.5, 0.5]


def test_a_subclass_that_defines_nothing():
    class Bare(optim.Optimizer):
        pass

    bare = Bare([jnp.ones(1)], {"lr": 1.0})
    assert bare.param_groups[0]["lr"] == 1.0
    assert bare.state_dict()["state"] == {}
    for call in (lambda: bare.step([jnp.ones(1)]), bare.functional, lambda: bare.load_state_dict(bare.state_dict())):
        with pytest.raises(NotImplementedError, match="Bare does not define transformation"):
            call()


LOAD_ERRORS = {
    "another shape": (
        lambda e: e.update(exp_avg=np.ones(4, np.float32)),
        ValueError,
        r"exp_avg of the parameter 'bias'",
    ),
    "a slot missing": (lambda e: e.pop("exp_avg"), KeyError, "the state of the parameter 'bias' has no 'exp_avg'"),
    "other counts": (
        lambda e: e.update(step=np.int32(7)),
        ValueError,
        "step of the parameter 'kernel' differs from the others'",
    ),
}


@pytest.mark.parametrize(("edit", "error", "message"), LOAD_ERRORS.values(), ids=LOAD_ERRORS)
def test_a_state_that_does_not_fit(edit, error, message):
    optimizer = optim.Optimizer.from_transform(clipped_adamw, params(), DEFAULTS)
    optimizer.step(grads(0))
    saved = optimizer.state_dict()
    edit(saved["state"][0])
    before = jax.tree.map(np.array, dict(optimizer.state))
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(saved)
    jax.tree.map(np.testing.assert_array_equal, dict(optimizer.state), before)
    with pytest.raises((ValueError, TypeError)):
        optimizer.restore(optimizer.params, fo.adam().init(params()))


def test_many_states_that_do_not_fit_are_listed_in_part():
    params = {f"w{i}": jnp.ones(2) for i in range(40)}
    optimizer = optim.Optimizer.from_transform(lambda lr: fo.adam(lr=lr), params, {"lr": 0.1})
    optimizer.step(params)
    saved = optimizer.state_dict()
    for entry in saved["state"].values():
        del entry["step"]
    with pytest.raises(ValueError, match=r"^the state of the parameter 'w0' has no 'step'; it has exp_avg, ") as error:
        optimizer.load_state_dict(saved)
    lines = str(error.value).splitlines()
    assert len(lines) == 11 and lines[-1] == "and 30 more parameters like these"
    assert lines[0].endswith("; add the number of updates so far: entry['step'] = 100")


def test_errors_at_construction():
    with pytest.raises(ValueError, match="static names no options: evry; the options are lr, weight_decay"):
        optim.Optimizer.from_transform(clipped_adamw, params(), DEFAULTS, static=("evry",))
    with pytest.raises(ValueError, match=r"Invalid learning rate: -1\.0"):
        optim.Optimizer.from_transform(clipped_adamw, None, {**DEFAULTS, "lr": -1.0})
    with pytest.raises(TypeError, match="unexpected keyword argument 'momentum'"):
        optim.Optimizer.from_transform(clipped_adamw, params(), {**DEFAULTS, "momentum": 0.9})


def test_restored_after_a_donated_loop():
    optimizer = optim.Optimizer.from_transform(clipped_adamw, params(), DEFAULTS)
    optimizer.step(grads(0))
    tx, tree, state = optimizer.functional()

    def step(tree, state):
        updates, state = tx.update(grads(1), state, tree)
        return fo.apply_updates(tree, updates), state

    optimizer.restore(*jax.jit(step, donate_argnums=(0, 1))(tree, state))
    assert optimizer.state["bias"]["step"] == 2
    optimizer.step(grads(2))


@pytest.mark.usefixtures("standard_promotion")
def test_a_state_that_would_lose_its_structure_is_refused():
    """optax's trace forgets the buffer of a parameter without a gradient."""
    optimizer = optim.Optimizer.from_transform(lambda lr: optax.sgd(lr, momentum=0.9), params(), {"lr": 0.1})
    optimizer.step(grads(0))
    with pytest.raises(TypeError, match="changed its state's structure"):
        optimizer.step({**grads(0), "bias": None})
    optimizer.step(grads(1))


def test_a_function_that_is_no_schedule_belongs_into_static():
    def make(lr, mask):
        return fo.masked(fo.sgd(lr=lr), mask)

    with pytest.raises(TypeError, match="'mask' of parameter group 0 is a function that gives no number"):
        optim.Optimizer.from_transform(make, params(), {"lr": 0.1, "mask": lambda path: path == "bias"})
    optimizer = optim.Optimizer.from_transform(
        make, params(), {"lr": 0.1, "mask": lambda path: path == "bias"}, static=("mask",)
    )
    optimizer.step(grads(0))


def test_betas_keep_their_digits_through_a_state_dict():
    make = lambda lr, betas: fo.adam(lr=lr, betas=betas)  # noqa: E731 a helper of one line
    defaults = {"lr": 0.1, "betas": (fo.Beta.of(0.9), fo.Beta.of(0.999))}
    optimizer = optim.Optimizer.from_transform(make, params(), defaults)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["betas"] == (0.9, 0.999)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["betas"] == defaults["betas"]


class Mode(enum.IntEnum):
    PLAIN = 1
    TENFOLD = 2


def tenfold(lr, mode):
    return fo.sgd(lr=lr * 10.0 if mode is Mode.TENFOLD else lr)


def test_a_static_option_reaches_the_transformation_as_it_is():
    optimizer = optim.Optimizer.from_transform(tenfold, [jnp.zeros(1)], {"lr": 0.125, "mode": Mode.TENFOLD}, ["mode"])
    optimizer.step([jnp.ones(1)])
    assert optimizer.params[0].item() == -1.25
    optimizer.param_groups[0]["mode"] = 2  # equal to the member, but not the member
    optimizer.step([jnp.ones(1)])
    assert optimizer.params[0].item() == -1.375


def test_a_static_option_has_a_hash_or_is_an_integer_array():
    make = lambda lr, every: fo.accumulate(fo.sgd(lr=lr), every=every)  # noqa: E731 one line
    optimizer = optim.Optimizer.from_transform(make, [jnp.ones(1)], {"lr": 1.0, "every": jnp.int32(2)}, ["every"])
    for _ in range(2):
        optimizer.step([jnp.full(1, 0.5)])
    assert optimizer.params[0].item() == 0.5
    optimizer.param_groups[0]["every"] = [2]
    with pytest.raises(TypeError, match=r"the static option 'every' must have a hash, but it is \[2\]"):
        optimizer.step([jnp.ones(1)])


def final(cls):
    """Return the subclasses that nothing is derived from, of this library."""
    below = [one for sub in cls.__subclasses__() if sub.__module__.startswith("functorch_optim") for one in final(sub)]
    return below or [cls]


@pytest.mark.parametrize("base", [optim.Optimizer, optim.lr_scheduler.LRScheduler, Transform])
def test_no_class_has_a_private_name_in_messages(base):
    found = {cls: cls._call_name() if base is Transform else cls.__name__ for cls in final(base)}
    assert len(found) > 5 and not [cls for cls, name in found.items() if name.startswith("_")]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda optimizer: optimizer.step([jnp.ones(1)], jnp.ones(1)),
        lambda optimizer: optimizer.step([jnp.ones(1)], clip_norm=-1.0),
        lambda optimizer: optimizer.step(lambda params: jnp.sum(params[0] ** 2), clip_norm=1.0),
        lambda optimizer: optimizer.step(lambda params: jnp.sum(params[0] ** 2), clip_norm=-1.0),
        lambda optimizer: optimizer.step(lambda params, x: jnp.sum(params[0] ** 2), batches=3),
        lambda optimizer: optimizer.step({"w": jnp.ones(1)}),
        lambda optimizer: optimizer.step([jnp.ones(2)]),
        lambda optimizer: optimizer.step([jax.experimental.sparse.BCOO.fromdense(jnp.ones(1))]),
        lambda optimizer: optimizer.load_state_dict({"state": {}, "param_groups": []}),
        lambda optimizer: optim.lr_scheduler.ExponentialLR(optimizer.param_groups, 0.5),
    ],
)
def test_no_message_has_a_private_name(wrong):
    optimizer = optim.Optimizer.from_transform(lambda lr: fo.sam(fo.sgd(lr=lr)), [jnp.ones(1)], {"lr": 0.1})
    with pytest.raises(Exception) as error:  # noqa: PT011 whatever it is
        wrong(optimizer)
    shown = f"{error.value} {optimizer!r}"
    assert not re.search(r"(?<![\w'\"])_[A-Za-z]", shown), shown


def test_a_frozen_group_counts_no_steps_by_the_loss():
    params = {"body": jnp.full(2, 2.0), "head": jnp.ones(2)}
    make = lambda lr: fo.sam(fo.sgd(lr=lr), rho=0.0)  # noqa: E731
    rules, rising = [("body", {"frozen": True})], lambda step: step + 1.0
    optimizer = optim.Optimizer.from_transform(make, params, {"lr": rising}, group_rules=rules)
    for _ in range(2):
        optimizer.step(lambda params: jnp.sum(params["body"]) + jnp.sum(params["head"]))
    assert optimizer.params["body"].tolist() == [2.0, 2.0]
    assert optimizer._counts == [0, 2]
