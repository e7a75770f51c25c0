"""set_to_zero and freeze: frozen parameters do not move, have no state, and do no harm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.sparse import BCOO

import functorch_optim as fo
from functorch_optim import optim

PARAMS = {"body": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.array([-0.0, 1.0])}, "head": jnp.ones(3)}
POISON = {"body": jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), PARAMS["body"]), "head": jnp.ones(3)}
BODY = lambda path: path.startswith("body")  # noqa: E731 a mask


def steps(tx, params, grads, count=2):
    state = tx.init(params)
    for _ in range(count):
        updates, state = tx.update(grads, state, params)
        params = fo.apply_updates(params, updates)
    return params, state


def test_set_to_zero_zeroes_whatever_comes_in():
    grads = {
        "nan": jnp.array([jnp.nan, jnp.inf]),
        "none": None,
        "narrow": jnp.ones(2, jnp.bfloat16),
        "complex": jnp.ones(1, jnp.complex64),
        "rows": BCOO.fromdense(jnp.full((3, 2), jnp.nan), n_dense=1),
        "integer": jnp.ones(2, jnp.int32),
        "float0": np.zeros(2, jax.dtypes.float0),
    }
    tx = fo.set_to_zero()
    updates, _ = jax.jit(lambda g: tx.update(g, tx.init(None)))(grads)
    assert updates["nan"].tolist() == [0.0, 0.0]
    assert updates["narrow"].dtype == jnp.bfloat16
    assert updates["complex"].tolist() == [0.0]
    assert updates["rows"].todense().tolist() == [[0.0, 0.0]] * 3
    assert updates["none"] is updates["integer"] is updates["float0"] is None
    params = {key: jnp.ones(2) if key in ("nan", "none", "narrow") else None for key in grads}
    params |= {"complex": jnp.ones(1, jnp.complex64), "rows": jnp.ones((3, 2)), "integer": jnp.ones(2, jnp.int32)}
    params |= {"float0": jnp.ones(2, jnp.int32)}
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), fo.apply_updates(params, updates), params))


@pytest.mark.parametrize("frozen", [BODY, {"body": True, "head": False}])
def test_frozen_parameters_stand_still_whatever_their_gradient(frozen):
    tx = fo.freeze(fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1, weight_decay=0.5)), frozen)
    params, state = steps(tx, PARAMS, POISON)
    alone, _ = steps(
        fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1, weight_decay=0.5)), jnp.ones(3), jnp.ones(3)
    )
    assert params["head"].tolist() == alone.tolist()
    assert fo.find_state(state, fo.AdamState).exp_avg["body"] == {"kernel": None, "bias": None}
    before, after = (np.asarray(tree["body"]["bias"]).tobytes() for tree in (PARAMS, params))
    assert before == after  # bit for bit: -0.0 stays -0.0
    assert hash(tx) == hash(
        fo.freeze(fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1, weight_decay=0.5)), frozen)
    )


def test_a_frozen_parameter_may_be_an_integer():
    params = {"count": jnp.array(3), "w": jnp.ones(2)}
    grads = jax.grad(lambda p: p["w"].sum() * p["count"], allow_int=True)(params)
    tx = fo.freeze(fo.sgd(lr=0.5), {"count": True, "w": False})
    updates, _ = tx.update(grads, tx.init(params), params)
    moved = fo.apply_updates(params, updates)
    assert (moved["count"].item(), moved["w"].tolist()) == (3, [-0.5, -0.5])


def test_averages_leave_frozen_parameters_out_and_find_them_again():
    tx = fo.freeze(fo.chain(fo.sgd(lr=0.5), fo.ema(0.5)), BODY)
    params, state = steps(tx, PARAMS, POISON)
    assert fo.averaged_params(state)["body"] == {"kernel": None, "bias": None}
    averaged = fo.averaged_params(state, params)
    assert averaged["body"]["kernel"].tolist() == [[2.0, 2.0]] * 2
    assert averaged["head"].tolist() == [0.25] * 3
    outside, state = steps(fo.chain(fo.freeze(fo.sgd(lr=0.5), BODY), fo.ema(0.5)), PARAMS, POISON)
    assert fo.averaged_params(state)["body"]["kernel"].tolist() == outside["body"]["kernel"].tolist()


def test_freezing_everything_and_packed_state():
    params, _ = steps(fo.freeze(fo.adam(foreach=True), True), PARAMS, POISON)
    assert params["head"].tolist() == [1.0] * 3
    packed, state = steps(fo.freeze(fo.adamw(foreach=True), BODY), PARAMS, POISON)
    assert packed["head"].tolist() == steps(fo.freeze(fo.adamw(), BODY), PARAMS, POISON)[0]["head"].tolist()
    assert fo.find_state(state, fo.ForeachState).packed.exp_avg["float32"].shape == (3,)


def test_frozen_under_optax_and_in_the_torch_face(standard_promotion):
    tx = optax.chain(optax.clip(1.0), fo.freeze(fo.sgd(lr=0.5), BODY))
    updates, _ = tx.update(POISON, tx.init(PARAMS), PARAMS)
    assert optax.apply_updates(PARAMS, updates)["body"]["kernel"].tolist() == [[2.0, 2.0]] * 2
    optimizer = optim.Optimizer.from_transform(lambda lr: fo.freeze(fo.sgd(lr=lr), BODY), PARAMS, {"lr": 0.5})
    optimizer.step(POISON)
    assert optimizer.params["body"]["kernel"].tolist() == [[2.0, 2.0]] * 2
    assert optimizer.params["head"].tolist() == [0.5] * 3
