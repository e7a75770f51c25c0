"""MARS beyond the table: the exact form, Lion's slots, AMSGrad beside AdamW, and what is left out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim

SHAPES = {"kernel": (3, 2), "bias": (2,), "conv": (2, 2, 3)}


def drawn(seed):
    draw = np.random.default_rng(seed)
    return {name: draw.standard_normal(shape) for name, shape in SHAPES.items()}


def grad_fn(params, batch):
    return jax.tree.map(lambda p, x: jnp.tanh(p - x) + 0.1 * p, params, batch)


def run(tx, steps=6, count=6):
    params = jax.tree.map(jnp.asarray, drawn(0))
    state = tx.init(params)
    step = jax.jit(lambda s, p, batch: tx.update(grad_fn(p, batch), s, p, grad_fn=grad_fn, batch=batch))
    for seed in range(1, steps + 1):
        updates, state = step(state, params, jax.tree.map(jnp.asarray, drawn(seed)))
        params = fo.apply_updates(params, updates)
    return params, state


def by_the_paper(steps=6, lr=0.1, betas=(0.95, 0.99), eps=1e-8, gamma=0.025, decay=(0.0, 0.1), turn=1):
    """The exact form in NumPy: the gradient of each batch at two points."""
    params = drawn(0)
    last, m, v = dict(params), *[{name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2)]
    for t in range(1, steps + 1):
        batch, before = drawn(t), dict(params)
        for name, p in before.items():
            g = turn * np.asarray(grad_fn(p, batch[name]))
            h = turn * np.asarray(grad_fn(last[name], batch[name])) if t > 1 else 0.0
            own, c, wd = (0.9, 0.95), g, decay[1]
            if p.ndim == 2:
                own, wd = betas, decay[0]
                c = g + gamma * betas[0] / (1 - betas[0]) * (g - h)
                c = c / max(1.0, np.linalg.norm(c))
            m[name] = own[0] * m[name] + (1 - own[0]) * c
            v[name] = own[1] * v[name] + (1 - own[1]) * c**2
            move = m[name] / (1 - own[0] ** t) / (np.sqrt(v[name] / (1 - own[1] ** t)) + eps)
            params[name] = p - lr * wd * p - lr * move
        last = before
    return params


@pytest.mark.parametrize("maximize", [False, True])
def test_the_exact_form_is_the_papers(maximize, x64):
    found, state = run(fo.exact_mars(fo.mars(lr=0.1, maximize=maximize)))
    wanted = by_the_paper(turn=-1 if maximize else 1)
    chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert isinstance(state, fo.ExactMARSState) and state.inner.last_grad is None
    approximate, _ = run(fo.mars(lr=0.1, maximize=maximize))
    assert np.max(np.abs(approximate["kernel"] - wanted["kernel"])) > 1e-3
    np.testing.assert_allclose(approximate["bias"], wanted["bias"], rtol=1e-12)  # AdamW


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"mars_type": "lion"}, {"amsgrad": True}], ids=str)
def test_the_exact_form_and_all_types_are_the_references(options, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    from tests.oracles import MARS

    for exact in (False, True):
        tx = fo.mars(lr=0.1, weight_decay=0.1, **options)
        found, state = run(fo.exact_mars(tx) if exact else tx)
        params = {name: torch.tensor(value, requires_grad=True) for name, value in drawn(0).items()}
        optimizer, last = MARS(list(params.values()), lr=0.1, weight_decay=0.1, **options), None
        for seed in range(1, 7):
            here = {name: param.detach().numpy().copy() for name, param in params.items()}
            for name, grad in grad_fn(here, drawn(seed)).items():
                params[name].grad = torch.tensor(np.asarray(grad))
            if exact and last is not None:  # as the authors' update_previous_grad and update_last_grad do
                for name, grad in grad_fn(last, drawn(seed)).items():
                    optimizer.state[params[name]]["last_grad"] = torch.tensor(np.asarray(grad))
            optimizer.step()
            last = here
        for name, param in params.items():
            np.testing.assert_allclose(found[name], param.detach().numpy(), rtol=1e-11, atol=1e-12)
        held = state.inner if exact else state
        for slot in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            for name, value in (getattr(held, slot) or {}).items():
                theirs = optimizer.state[params[name]].get(slot)
                assert (value is None) is (theirs is None), (slot, name)
                if value is not None:
                    np.testing.assert_allclose(value, theirs.numpy(), rtol=1e-11, atol=1e-14)


def test_lion_keeps_second_moments_only_where_adamw_needs_them():
    state = fo.mars(mars_type="lion", amsgrad=True).init({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(2)})
    assert state.exp_avg_sq["kernel"] is None and state.exp_avg_sq["bias"].shape == (2,)
    assert state.max_exp_avg_sq["kernel"] is None and state.max_exp_avg_sq["bias"].shape == (2,)
    assert fo.mars(mars_type="lion", optimize_1d=True).init(jnp.ones(3)).exp_avg_sq is None


def test_nan_stays_in_its_entry_whatever_the_norm_is():
    tx, params = fo.mars(lr=0.1), jnp.ones((2, 2))
    updates, _ = tx.update(jnp.array([[jnp.nan, 5.0], [1.0, 1.0]]), tx.init(params), params)
    assert jnp.isnan(updates).tolist() == [[True, False], [False, False]]


def test_the_plan_says_which_parameters_are_corrected():
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    text = str(fo.plan(fo.mars(mars_type="lion"), params))
    assert "MARS-lion" in text and "AdamW" in text
    assert "AdamW" not in str(fo.plan(fo.mars(optimize_1d=True), params))


def test_the_torch_face_evaluates_the_closure_at_two_points(x64):
    params = jax.tree.map(jnp.asarray, drawn(0))
    optimizer = optim.Optimizer.from_transform(lambda lr: fo.exact_mars(fo.mars(lr=lr)), params, {"lr": 0.1})

    def loss(params, batch):
        parts = jax.tree.map(lambda p, x: jnp.sum(jnp.log(jnp.cosh(p - x)) + 0.05 * p**2), params, batch)
        return sum(jax.tree.leaves(parts))

    for seed in range(1, 7):
        optimizer.step(loss, jax.tree.map(jnp.asarray, drawn(seed)))
    chex.assert_trees_all_close(optimizer.params, by_the_paper(), rtol=1e-11, atol=1e-12)


def test_the_exact_form_says_what_it_needs():
    params = {"w": jnp.ones((2, 2))}
    tx = fo.exact_mars(fo.mars())
    state = tx.init(params)
    with pytest.raises(ValueError, match="exact_mars needs the parameters: update"):
        tx.update(params, state, grad_fn=grad_fn)
    with pytest.raises(ValueError, match="exact_mars needs the gradient as a function"):
        tx.update(params, state, params)
    with pytest.raises(TypeError, match=r"exact_mars takes what fo\.mars returns"):
        fo.exact_mars(fo.adamw())
    with pytest.raises(ValueError, match="clip_by_global_norm is lost: exact_mars evaluates the objective itself"):
        fo.chain(fo.clip_by_global_norm(1.0), fo.exact_mars(fo.mars()))


def test_a_parameter_without_a_gradient_stays_and_the_others_see_the_whole_last_point(x64):
    params = {"a": jnp.ones((2, 2)), "b": jnp.full((2, 2), 2.0)}
    tx = fo.exact_mars(fo.mars(lr=0.1))
    updates, state = tx.update({"a": params["a"], "b": None}, tx.init(params), params, grad_fn=lambda p: p)
    assert updates["b"] is None and not jnp.any(state.inner.exp_avg["b"])
    np.testing.assert_array_equal(state.last_params["b"], params["b"])
