"""Directions with a learning rate at the end are the algorithms; those that optax has too are equal to optax's."""

import inspect
import pickle
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functorch_optim as fo
from functorch_optim import optim, rules
from tests.algorithms import ALGORITHMS

LINKS = {
    "adadelta": fo.scale_by_adadelta,
    "adafactor": fo.scale_by_adafactor,
    "adagrad": fo.scale_by_adagrad,
    "adam": fo.scale_by_adam,
    "adamax": fo.scale_by_adamax,
    "asgd": fo.scale_by_asgd,
    "muon": fo.scale_by_muon,
    "nadam": fo.scale_by_nadam,
    "radam": fo.scale_by_radam,
    "rmsprop": fo.scale_by_rms,
    "rprop": fo.scale_by_rprop,
    "sgd": fo.scale_by_momentum,
    "sparse_adam": fo.scale_by_sparse_adam,
}
KEEP_THEIR_RATE = ("adafactor", "asgd", "laprop", "madgrad", "rprop")
OTHER_LINKS = ("lr", "weight_decay", "maximize", "decoupled_weight_decay")
DENSE = [name for name in ALGORITHMS if name != "adamw"]
rate = fo.schedules.exponential_decay(0.1, 0.8)
each_dense = pytest.mark.parametrize("name", DENSE)


def some(seed, vectors=True, dtype=None):
    draw = np.random.default_rng(seed)
    shapes = {"w": (3, 4), **({"b": (4,)} if vectors else {})}
    return {name: jnp.asarray(draw.standard_normal(shape), dtype or float) for name, shape in shapes.items()}


def run(tx, vectors=True, steps=6, params=None):
    """The parameters and the state after some steps with gradients that depend on the parameters."""
    params = some(0, vectors) if params is None else params

    def step(carry, noise):
        params, state = carry
        grads = jax.tree.map(lambda p, n: 0.5 * p + n, params, noise)
        updates, state = tx.update(grads, state, params)
        return (fo.apply_updates(params, updates), state), updates

    noise = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[some(seed, vectors) for seed in range(1, steps + 1)])
    (params, state), updates = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), noise))(params)
    return params, state, updates


def choices(name):
    """The distinct cases of an algorithm without what other links do."""
    cases = [{key: value for key, value in case.items() if key not in OTHER_LINKS} for case in ALGORITHMS[name].cases]
    return [case for index, case in enumerate(cases) if case not in cases[:index]]


def of(name):
    return getattr(fo, name)


def always_decoupled(name):
    """Whether the rule's class says so, without an option."""
    return getattr(type(of(name)().update.of.rule), "decoupled_weight_decay", False) is True


def decays_like_adamw(name):
    """Whether decoupled decay subtracts ``lr * weight_decay * p``."""
    return type(of(name)().update.of.rule).decay_shares is rules.Rule.decay_shares


def plain(name):
    """Switch the weight decay off that is on by default."""
    return {"weight_decay": 0.0} if name == "muon" else {}


@pytest.mark.usefixtures("x64")
@each_dense
def test_a_direction_and_a_rate_are_the_algorithm(name):
    vectors = ALGORITHMS[name].takes_vectors
    for options in choices(name):
        lr = {"lr": rate} if name in KEEP_THEIR_RATE else {"lr": 7.0}  # which has no effect
        parts = fo.chain(fo.scale_by(of(name)(**lr, **options, **plain(name))), fo.scale_by_learning_rate(rate))
        (found, state, moves), (wanted, whole, all_moves) = (
            run(tx, vectors) for tx in (parts, of(name)(lr=rate, **options, **plain(name)))
        )
        chex.assert_trees_all_close(found, wanted, rtol=1e-12)
        chex.assert_trees_all_close(moves, all_moves, rtol=1e-11, atol=1e-14)
        chex.assert_trees_all_close(state.states[0], whole, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in DENSE if ALGORITHMS[name].decays and decays_like_adamw(name)])
def test_decay_before_a_direction_is_coupled_and_after_it_decoupled(name):
    make, vectors = of(name), ALGORITHMS[name].takes_vectors
    lr = rate if name in KEEP_THEIR_RATE else 1.0
    link, last = fo.scale_by(make(lr=lr, **plain(name))), fo.scale_by_learning_rate(rate)
    decay, always = fo.add_decayed_weights(0.3), always_decoupled(name)
    decoupled = {} if always else {"decoupled_weight_decay": True}
    pairs = []
    if not always:
        coupled = {key: False for key in inspect.signature(make).parameters if key in decoupled}
        pairs.append((fo.chain(decay, link, last), make(lr=rate, weight_decay=0.3, **coupled)))
    if always or "decoupled_weight_decay" in inspect.signature(make).parameters:
        pairs.append((fo.chain(link, decay, last), make(lr=rate, weight_decay=0.3, **decoupled)))
    for parts, whole in pairs:
        chex.assert_trees_all_close(run(parts, vectors)[0], run(whole, vectors)[0], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_adamw_with_a_mask_of_what_decays():
    parts = fo.chain(
        fo.scale_by_adam(), fo.add_decayed_weights(0.3, mask=lambda p: p == "w"), fo.scale_by_learning_rate(rate)
    )
    whole = fo.adamw(lr=rate, weight_decay=0.3, decay_mask=lambda p: p == "w")
    chex.assert_trees_all_close(run(parts)[0], run(whole)[0], rtol=1e-12)


@pytest.mark.parametrize("name", LINKS)
def test_a_named_link_passes_every_option_on(name):
    link, make = LINKS[name], of(name)
    theirs, ours = (inspect.signature(function).parameters for function in (make, link))
    wanted = {key for key in theirs if key not in OTHER_LINKS} - {"decay_mask"}
    assert set(ours) - {"lr"} == wanted - {"lr"} and ("lr" in ours) == (name in KEEP_THEIR_RATE)
    for key in ours:
        assert ours[key].annotation == theirs[key].annotation, key
        if (name, key) != ("sgd", "momentum"):
            assert ours[key].default == theirs[key].default, key
    assert link() == fo.scale_by(make(**plain(name), **({"momentum": 0.9} if name == "sgd" else {})))
    values = {"betas": (0.5, 0.25), "etas": (0.25, 2.0), "step_sizes": (0.1, 3.0), "ns_coefficients": (1.0, 2.0, 3.0)}
    values |= {"adjust_lr_fn": "match_rms_adamw", "reshape": "out_last", "ns_steps": 3, "axis_name": "x", "d": 2.0}
    values |= {"matrix_axes": fo.MatrixAxes(1, 0), "ns_polynomials": "polar_express"}
    values |= {"beta2_decay": -0.5, **({"eps": (0.1, 0.2)} if name == "adafactor" else {})}
    for key in ours:
        default = ours[key].default
        value = not default if isinstance(default, bool) else values.get(key, 0.375)
        more = {"momentum": 0.9} if name == "sgd" and key != "momentum" else {}
        changed = link(**{key: value})
        assert changed == fo.scale_by(make(**plain(name), **{key: value}, **more)) != link(), key


@pytest.mark.full
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in DENSE if ALGORITHMS[name].packs])
def test_packed_directions_are_the_same(name):
    (packed, state, _), (alone, whole, _) = (
        run(fo.chain(fo.scale_by(of(name)(lr=0.1, foreach=foreach)), fo.scale_by_learning_rate(0.1)))
        for foreach in (True, False)
    )
    chex.assert_trees_all_close(packed, alone, rtol=1e-12)
    unpacked = fo.find_state(state, fo.ForeachState).unpack(some(0))
    chex.assert_trees_all_close(unpacked, whole.states[0], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_row_sparse_gradients():
    table, ids = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2))), jnp.array([3, 1, 3])
    _, grads = fo.value_and_sparse_grad(lambda table: jnp.sum(table[ids] ** 2), "")(table)
    for whole, link in (
        (fo.sparse_adam(lr=0.1), fo.scale_by_sparse_adam()),
        (fo.adagrad(lr=0.1), fo.scale_by_adagrad()),
        (fo.sgd(lr=0.1), fo.scale_by_momentum(0)),
    ):
        parts = fo.chain(link, fo.layerwise_decay(1.0, lambda path: 0), fo.scale_by_learning_rate(0.1))
        found, wanted = (tx.update(grads, tx.init(table), table)[0] for tx in (parts, whole))
        assert found.nse == wanted.nse
        np.testing.assert_allclose(found.todense(), wanted.todense(), rtol=1e-12)


class SignState(NamedTuple):
    step: object
    last: object


@pytest.mark.usefixtures("x64")
def test_the_direction_of_a_rule_of_ones_own():
    class Heavy(rules.Rule):
        title = "Heavy"
        state = rules.exportable(SignState)
        lr: rules.LearningRate = 0.5
        momentum: rules.Momentum = 0.5

        def init(self, param, hyperparams):
            return SignState(None, rules.zeros_like(param))

        def scalars(self, step, hyperparams):
            return hyperparams.lr, hyperparams.momentum

        def update(self, grad, param, slots, scalars):
            last = grad + scalars[1] * slots.last
            return -scalars[0] * last, SignState(None, last)

    parts = fo.chain(fo.scale_by(fo.lift(Heavy())), fo.scale_by_learning_rate(rate))
    chex.assert_trees_all_close(run(parts)[0], run(fo.sgd(lr=rate, momentum=0.5))[0], rtol=1e-12)
    fo.chain(fo.scale_by_learning_rate(rate), fo.scale_by(fo.lift(Heavy())))  # nobody says that it normalizes


def test_a_rule_without_a_rate_has_none_to_leave_out():
    class Fixed(rules.Rule):
        title = "Fixed"
        state = rules.exportable(SignState)

        def init(self, param, hyperparams):
            return SignState(None, None)

        def scalars(self, step, hyperparams):
            return ()

        def update(self, grad, param, slots, scalars):
            return -0.1 * grad, slots

    with pytest.raises(TypeError, match=r"scale_by\(fixed\): Fixed has no option lr, so there is no learning rate"):
        fo.scale_by(fo.lift(Fixed()))


@pytest.mark.usefixtures("x64", "standard_promotion")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (fo.scale_by_adam((0.8, 0.9), 1e-3), optax.scale_by_adam(0.8, 0.9, 1e-3)),
        (fo.scale_by_adamax((0.8, 0.9), 1e-3), optax.scale_by_adamax(0.8, 0.9, 1e-3)),
        (fo.scale_by_radam((0.8, 0.9), 0.0), optax.scale_by_radam(0.8, 0.9, 0.0)),
        (fo.scale_by_rms(0.9, 1e-3), optax.scale_by_rms(0.9, 1e-3, eps_in_sqrt=False)),
        (
            fo.scale_by_rms(0.9, 1e-3, centered=True, momentum=0.5),
            optax.chain(optax.scale_by_stddev(0.9, 1e-3, eps_in_sqrt=False), optax.trace(0.5)),
        ),
        (fo.scale_by_adagrad(initial_accumulator_value=0.1, eps=0.0), optax.scale_by_rss(0.1, 0.0)),
        (fo.scale_by_adadelta(0.8, 1e-3), optax.scale_by_adadelta(0.8, 1e-3)),
        (fo.scale_by_momentum(0.8), optax.trace(0.8)),
        (fo.scale_by_momentum(0.8, nesterov=True), optax.trace(0.8, nesterov=True)),
        (fo.scale_by_learning_rate(rate), optax.scale_by_learning_rate(rate)),
    ],
    ids=lambda tx: repr(tx)[:30],
)
def test_optax_means_the_same(ours, theirs):
    """The parameters move by another rate, so that the gradients of both are the same."""
    found, wanted = (run(fo.chain(tx, optax.scale(-0.01)))[2] for tx in (ours, theirs))
    chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-14)


def test_options_that_other_links_have_are_refused():
    for make, place in ((fo.adamw, "right after it"), (lambda **o: fo.adam(weight_decay=0.1, **o), "before it")):
        with pytest.raises(ValueError, match=rf"scale_by\(adam\): .* put fo.add_decayed_weights.* {place}"):
            fo.scale_by(make())
    for tx in (fo.sgd(weight_decay=0.0, decay_mask=True), fo.sgd(weight_decay=fo.schedules.constant(0.1)), fo.muon()):
        with pytest.raises(ValueError, match=r"weight decay is a link of its own. Pass weight_decay=0"):
            fo.scale_by(tx)
    with pytest.raises(ValueError, match=r"scale_by\(sgd\): maximize is .* put fo.scale\(-1.0\) first in the chain"):
        fo.scale_by(fo.sgd(maximize=True))
    with pytest.raises(ValueError, match=r"scale_by\(rprop\): Rprop has no direction at a learning rate of 0"):
        fo.scale_by_rprop(lr=0)
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        fo.scale_by_learning_rate(-1)
    with pytest.raises(ValueError, match="Invalid epsilon value: -1"):
        fo.scale_by_adam(eps=-1)


@pytest.mark.parametrize(
    "tx",
    [
        fo.lbfgs(),
        fo.muon_adamw(),
        fo.freeze(fo.adam(), True),
        fo.chain(fo.adam()),
        fo.scale_by_adam(),
        optax.adam(0.1),
        fo.adam,
        None,
    ],
)
def test_what_is_no_algorithm_is_refused(tx):
    with pytest.raises(TypeError, match="scale_by takes an algorithm as its function returns it"):
        fo.scale_by(tx)


@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_a_value_that_prints_as_its_call(name):
    tx = LINKS[name]()
    assert eval(repr(tx), vars(fo)) == tx == pickle.loads(pickle.dumps(tx)) and hash(tx) == hash(LINKS[name]())
    assert repr(tx).startswith(f"scale_by({name}(lr=")


def test_numbers_are_reported_once():
    tx = fo.chain(fo.scale_by_adam(), fo.scale_by_learning_rate(rate))
    state = tx.init(some(0))
    assert fo.current_hyperparams(tx, state) == {"betas": (0.9, 0.999), "eps": 1e-8, "lr": 0.1}
    kept = fo.scale_by_adafactor(lr=0.5)
    assert fo.current_hyperparams(kept, kept.init(some(0)))["lr"] == 0.5


@pytest.mark.parametrize("name", KEEP_THEIR_RATE)
def test_a_schedule_through_zero_spoils_nothing(name):
    schedule = fo.schedules.linear(0.1, 1.0, 0.0, total_iters=2)
    link = fo.scale_by(of(name)(lr=schedule))
    params, _, updates = run(fo.chain(link, fo.scale_by_learning_rate(schedule)), params=some(0, dtype=jnp.float32))
    wanted, _, _ = run(of(name)(lr=schedule), params=some(0, dtype=jnp.float32))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((params, updates)))
    if name == "adafactor":  # ASGD's eta is a step late, and Rprop's sizes do not follow a schedule
        chex.assert_trees_all_close(params, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", KEEP_THEIR_RATE)
def test_a_rate_of_zero_has_a_derivative(name):
    def moved(lr):
        link, params = fo.scale_by(of(name)(lr=lr)), jnp.ones(2)
        return jnp.sum(link.update(params, link.init(params), params)[0] * lr)

    assert bool(jnp.isfinite(jax.grad(moved)(0.0)))


def test_adafactors_direction_shrinks_after_as_many_updates_as_the_rate_says():
    tx, params, grads = fo.scale_by_adafactor(lr=0.5), jnp.full(2, 3.0), jnp.full(2, 2.0)
    state, sizes = tx.init(params), []
    for _ in range(6):
        updates, state = tx.update(grads, state, params)
        sizes.append(float(updates[0]))
    np.testing.assert_allclose(sizes, [3.0 * min(1.0, 2.0 / np.sqrt(t)) for t in range(1, 7)], rtol=1e-5)


def test_rates_are_data():
    tx = fo.scale_by_adam()

    @jax.jit
    def step(lr, beta1, params, state):
        beta1 = fo.Beta(beta1, 1 - beta1)
        tx = fo.chain(fo.scale_by_adam((beta1, 0.999)), fo.scale_by_learning_rate(lr))
        return tx.update(params, fo.ChainState((state, fo.EmptyState())), params)[0]

    params = some(0, dtype=jnp.float32)
    for lr in (0.1, 0.2):
        moved = step(lr, 0.9, params, tx.init(params))
        wanted = fo.adam(lr=lr).update(params, fo.adam().init(params))[0]
        chex.assert_trees_all_close(moved, wanted, rtol=1e-5)
    assert step._cache_size() == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_narrow_update_is_rounded_once(dtype):
    params = some(0, dtype=dtype)
    parts, whole = fo.chain(fo.scale_by_adam(), fo.scale_by_learning_rate(0.1)), fo.adam(lr=0.1)
    found, wanted = (tx.update(params, tx.init(params), params)[0] for tx in (parts, whole))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def test_the_torch_face_and_its_checkpoints():
    def make(lr):
        return fo.chain(fo.scale_by_adam(), fo.scale_by_learning_rate(lr))

    params = some(0, dtype=jnp.float32)
    one, whole = optim.Optimizer.from_transform(make, params, {"lr": 0.1}), optim.Adam(params, lr=0.1)
    for seed in range(3):
        for optimizer in (one, whole):
            optimizer.step(some(seed, dtype=jnp.float32))
        one.param_groups[0]["lr"] = whole.param_groups[0]["lr"] = 0.1 / (seed + 1)
    chex.assert_trees_all_close(one.params, whole.params, rtol=1e-6)
    other = optim.Optimizer.from_transform(make, params, {"lr": 0.1})
    other.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(other.state["w"]["exp_avg"], one.state["w"]["exp_avg"])
    _, _, state = one.functional()
    assert fo.find_state(state, fo.AdamState).step == 3
