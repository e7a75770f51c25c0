"""SAM and ASAM against a package's trajectories, and the authors' ASAM, which adds eta and leaves biases out."""

import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from tests.sam_cases import CASES, SGD, SHAPES, STEPS, parameters, slope

RECORDED = np.load(Path(__file__).parent / "reference" / "sam.npz")
AUTHORS = re.compile("weight")


def grad_fn(params):
    return jax.tree.map(lambda p: slope(p, jnp), params)


def run(tx, steps=STEPS):
    params = jax.tree.map(jnp.asarray, parameters())
    state, rows = tx.init(params), []
    step = jax.jit(lambda s, p: tx.update(grad_fn(p), s, p, grad_fn=grad_fn))
    for _ in range(steps):
        updates, state = step(state, params)
        params = fo.apply_updates(params, updates)
        rows.append(np.concatenate([np.asarray(params[name]).reshape(-1) for name in SHAPES]))
    return np.stack(rows)


@pytest.mark.parametrize("label", CASES)
def test_trajectories_are_the_packages(label, x64):
    found = run(fo.sam(fo.sgd(**SGD), **CASES[label]))
    np.testing.assert_allclose(found, RECORDED[label], rtol=1e-11, atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("label", CASES)
def test_recorded_trajectories_are_the_packages(label):
    pytest.importorskip("torch", reason="compares with a live package")
    from tests import torch_run

    np.testing.assert_allclose(torch_run.run_sam(label), RECORDED[label], rtol=1e-11, atol=1e-12)


def by_the_authors(rho=0.5, eta=0.01):
    """ASAM as in the authors' code, in NumPy: sizes |w| + eta for weights, 1 for biases."""
    params, buffers, rows = parameters(), dict.fromkeys(SHAPES, 0.0), []
    for _ in range(STEPS):
        sizes = {name: np.abs(p) + eta if "weight" in name else 1.0 for name, p in params.items()}
        along = {name: sizes[name] * slope(p, np) for name, p in params.items()}
        norm = np.sqrt(sum(np.linalg.norm(way) ** 2 for way in along.values())) + 1e-16
        for name, p in params.items():
            sharp = slope(p + rho / norm * sizes[name] * along[name], np)
            buffers[name] = SGD["momentum"] * buffers[name] + sharp
            params[name] = p - SGD["lr"] * buffers[name]
        rows.append(np.concatenate([params[name].reshape(-1) for name in SHAPES]))
    return np.stack(rows)


def test_the_authors_asam(x64):
    wanted = by_the_authors()
    found = run(fo.sam(fo.sgd(**SGD), rho=0.5, adaptive=AUTHORS, eta=0.01))
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-13)
    for other in ({"adaptive": True, "eta": 0.01}, {"adaptive": AUTHORS}, {"adaptive": True}):
        assert np.max(np.abs(run(fo.sam(fo.sgd(**SGD), rho=0.5, **other)) - wanted)) > 1e-4


def test_where_to_be_adaptive_is_a_mask_in_any_form(x64):
    forms = [AUTHORS, lambda path: path == "weight", {"bias": False, "weight": True}]
    first, *others = [run(fo.sam(fo.sgd(**SGD), 0.5, mask, eta=0.01), 3) for mask in forms]
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert np.array_equal(run(fo.sam(fo.sgd(**SGD), 0.5, lambda _: False), 3), run(fo.sam(fo.sgd(**SGD), 0.5), 3))
    tx, params = fo.sam(fo.sgd(), adaptive={"other": True}), {"weight": jnp.ones(2)}
    with pytest.raises(ValueError, match="the labels do not have the structure of the parameters"):
        tx.update(params, tx.init(params), params, grad_fn=lambda p: p)


def test_entries_of_zero_move_by_eta_and_numbers_are_data(compilations):
    params, seen = jnp.array([0.0, 3.0]), []
    tx = fo.sam(fo.sgd(lr=1.0), rho=1.0, adaptive=True, eta=1.0)
    tx.update(jnp.array([3.0, 1.0]), tx.init(params), params, grad_fn=lambda p: (seen.append(p), p)[1])
    chex.assert_trees_all_close(seen[0], params + jnp.array([3.0, 16.0]) / 5)
    step = jax.jit(lambda eta: run_once(fo.sam(fo.sgd(lr=1.0), 1.0, True, eta=eta), params))
    first, before = step(0.5), len(compilations)
    assert not np.array_equal(step(0.25), first)
    assert len(compilations) == before


def run_once(tx, params):
    return tx.update(params, tx.init(params), params, grad_fn=lambda p: p**3)[0]


def test_eta_is_not_negative():
    with pytest.raises(ValueError, match=r"must not be negative: -0.1 \(option 'eta'\)"):
        fo.sam(fo.sgd(), adaptive=True, eta=-0.1)


def test_what_would_have_no_effect_is_refused():
    with pytest.raises(ValueError, match=r"sam: eta has no effect unless adaptive, but it is 0\.1"):
        fo.sam(fo.sgd(), eta=0.1)
    for inner in (fo.sam(fo.sgd()), fo.chain(fo.identity(), fo.exact_mars(fo.mars()))):
        with pytest.raises(ValueError, match="sam: inner computes gradients at another point itself"):
            fo.sam(inner)
