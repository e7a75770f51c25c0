"""Cautious optimizers: their packages' trajectories, the weight decay that is not masked, and what is refused."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from tests import cautious_cases
from tests.cautious_cases import CASES, gradients, parameters

RECORDED = np.load(Path(__file__).parent / "reference" / "cautious.npz")


def ours(label):
    _, options, _ = CASES[label]
    if label.startswith("lion"):
        return fo.cautious(fo.lion(**options), plus_one="paper" in label)
    names = {"lr": "lr", "betas_1d": "betas", "weight_decay_1d": "weight_decay", "eps": "eps", "maximize": "maximize"}
    return fo.cautious(fo.adamw(**{names[k]: v for k, v in options.items() if k in names}), plus_one=True)


def flat(tree):
    return np.concatenate([np.asarray(tree[name]).reshape(-1) for name in cautious_cases.SHAPES])


def run(tx, steps):
    params = jax.tree.map(jnp.asarray, parameters())
    state, rows, step = tx.init(params), [], jax.jit(tx.update)
    for number in range(steps):
        updates, state = step(jax.tree.map(jnp.asarray, gradients(number)), state, params)
        params = fo.apply_updates(params, updates)
        rows.append(flat(params))
    return np.stack(rows)


@pytest.mark.parametrize("label", CASES)
def test_trajectories_are_the_packages(label, x64):
    found = run(ours(label), CASES[label][2])
    np.testing.assert_allclose(found, RECORDED[label], rtol=1e-11, atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("label", CASES)
def test_recorded_trajectories_are_the_packages(label):
    pytest.importorskip("torch", reason="compares with live packages")
    from tests import torch_run

    np.testing.assert_allclose(torch_run.run_cautious(label), RECORDED[label], rtol=1e-11, atol=1e-12)


def by_hand(steps, lr=0.05, betas=(0.9, 0.99), eps=1e-8, decay=0.1):
    """C-AdamW in NumPy: the mask of the momentum and the gradient, divided by its mean."""
    params = parameters()
    m, v = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))
    rows = []
    for t in range(1, steps + 1):
        for name, g in gradients(t - 1).items():
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g**2
            mask = m[name] * g > 0
            move = m[name] * mask / max(mask.mean(), 1e-3) / (1 - betas[0] ** t)
            params[name] = params[name] * (1 - lr * decay) - lr * move / (np.sqrt(v[name] / (1 - betas[1] ** t)) + eps)
        rows.append(flat(params))
    return np.stack(rows)


def test_adamw_is_the_authors(x64):
    lr, betas = 0.05, (0.9, 0.99)
    adamw = fo.cautious(fo.adamw(lr=lr, betas=betas, weight_decay=0.1))
    links = fo.chain(
        fo.cautious(fo.scale_by_adam(betas=betas)), fo.add_decayed_weights(0.1), fo.scale_by_learning_rate(lr)
    )
    for tx in (adamw, links):
        np.testing.assert_allclose(run(tx, 30), by_hand(30), rtol=1e-11, atol=1e-12)


def test_the_torch_face_takes_it(x64):
    params = jax.tree.map(jnp.asarray, parameters())
    make = lambda lr: fo.cautious(fo.adamw(lr=lr, betas=(0.9, 0.99), weight_decay=0.1))  # noqa: E731 one line
    optimizer = optim.Optimizer.from_transform(make, params, {"lr": 0.05})
    for number in range(5):
        optimizer.step(jax.tree.map(jnp.asarray, gradients(number)))
    np.testing.assert_allclose(flat(optimizer.params), by_hand(5)[-1], rtol=1e-11, atol=1e-12)


def test_the_state_is_that_of_the_algorithm_and_the_mask_of_the_decay_holds():
    params = {"bias": jnp.ones(2), "kernel": jnp.ones(2)}
    tx = fo.cautious(fo.adamw(lr=0.1, weight_decay=0.5, decay_mask=lambda path: path == "kernel"))
    state = tx.init(params)
    assert isinstance(state, fo.AdamState)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
    chex.assert_trees_all_close(updates, {"bias": jnp.zeros(2), "kernel": jnp.full(2, -0.05)})


def test_signs_that_disagree_are_left_out_however_small_the_numbers_are():
    tx = fo.cautious(fo.sgd(lr=1.0, momentum=0.9))
    params = jnp.zeros(4)
    _, state = tx.update(jnp.array([1e-30, 1e-30, 1.0, 1.0]), tx.init(params))
    updates, _ = tx.update(jnp.array([1e-30, -1e-31, -0.1, 0.0]), state)
    np.testing.assert_allclose(updates, [-4 * 1.9e-30, 0.0, 0.0, 0.0], rtol=1e-5)


def test_at_most_a_thousandfold_and_nan_stays():
    tx, params = fo.cautious(fo.sgd(lr=1.0, momentum=1.0)), jnp.zeros(4096)
    _, state = tx.update(jnp.ones(4096), tx.init(params))
    updates, _ = tx.update(jnp.full(4096, -0.5).at[0].set(1.0).at[1].set(jnp.nan), state)
    assert updates[0] == pytest.approx(-2000.0) and jnp.isnan(updates[1]) and not jnp.any(updates[2:])


def test_entries_are_counted_exactly_in_low_precision():
    tx, params = fo.cautious(fo.scale(-1.0)), jnp.zeros(515, jnp.bfloat16)  # every entry goes the gradient's way
    updates, _ = tx.update(jnp.ones_like(params).at[0].set(0.0), tx.init(params), params)
    assert updates.dtype == jnp.bfloat16 and set(updates[1:].tolist()) == {-1.0}


def test_complex_numbers_are_pairs(x64):
    z = jnp.array([1.0 + 2.0j, -0.5 + 0.25j])
    pairs = jnp.stack([z.real, z.imag])
    tx = fo.cautious(fo.sgd(lr=0.1, momentum=0.9))
    states, params = [tx.init(z), tx.init(pairs)], [z, pairs]
    for grad in (jnp.array([1.0 - 1.0j, 0.5j]), jnp.array([-0.3 - 1.0j, 1.0 - 2.0j])):
        for index, own in enumerate((grad, jnp.stack([grad.real, grad.imag]))):
            updates, states[index] = tx.update(own, states[index], params[index])
            params[index] = params[index] + updates
    np.testing.assert_allclose(jnp.stack([params[0].real, params[0].imag]), params[1], rtol=1e-12)


Z = jnp.ones(2, jnp.complex64)
REFUSED = [
    (lambda: fo.cautious(fo.chain(fo.clip_by_value(1.0), fo.adamw())), "mask the weight decay of adam too"),
    (lambda: fo.cautious(fo.adamw(foreach=True)), "without foreach"),
    (lambda: fo.cautious(fo.masked(fo.lion(weight_decay=0.1), True)).init(Z), "mask the weight decay of lion"),
    (lambda: fo.cautious(fo.chain(fo.scale_by_adam(), fo.add_decayed_weights(0.1))), "of add_decayed_weights too"),
    (lambda: fo.cautious(fo.chain(fo.identity(), fo.adam(maximize=True))), "does not see that adam ascends"),
    (
        lambda: fo.cautious(fo.chain(fo.conjugate(), fo.adam())).init(Z),
        r"Put conjugate before it: fo.chain\(fo.conjugate",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_cannot_be_told_apart_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_parameter_is_named_if_only_some_decay():
    parts = fo.partition({"a": fo.adam(), "b": fo.adamw()}, {"x": "a", "y": "b"})
    with pytest.raises(ValueError, match="at the parameter 'y'"):
        fo.cautious(parts).init({"x": jnp.ones(2), "y": jnp.ones(2)})


def test_coupled_decay_and_decay_before_it_are_taken():
    params, grads = jnp.array([1.0, -1.0]), jnp.array([0.5, 0.5])
    for tx in (
        fo.cautious(fo.sgd(lr=0.1, weight_decay=1.0)),
        fo.chain(fo.add_decayed_weights(1.0), fo.cautious(fo.sgd())),
    ):
        updates, _ = tx.update(grads, tx.init(params), params)
        assert updates[0] < 0
