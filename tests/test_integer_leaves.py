"""Integer leaves: their float0 gradients from jax.grad count as no gradient; integers are rejected by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from tests.table import given

PARAMS = {"count": jnp.array(3), "w": jnp.ones(2, jnp.bfloat16)}
FLOATS = {"count": False, "w": True}
ADAM = fo.masked(fo.adam(lr=0.5), FLOATS)


def slope(params):
    return jax.grad(lambda p: p["w"].astype(jnp.float32).sum(), allow_int=True)(params)


PASSING = {
    "masked": ADAM,
    "freeze": fo.freeze(fo.adam(lr=0.5), {"count": True, "w": False}),
    "partition": fo.partition({False: fo.set_to_zero(), True: fo.adam(lr=0.5)}, FLOATS),
    "links": fo.chain(
        fo.conjugate(), fo.clip_by_value(9.0), fo.clip_by_global_norm(99.0), fo.scale(2.0), ADAM, fo.scale(1.0)
    ),
    "add_decayed_weights": fo.chain(fo.add_decayed_weights(0.1), ADAM),
    "average": fo.chain(ADAM, fo.masked(fo.ema(), FLOATS)),
    "accumulate": fo.accumulate(ADAM, 1),
    "accumulate_skip": fo.accumulate(ADAM, 1, skip=fo.if_nonfinite()),
    "skip_nonfinite": fo.skip_nonfinite(ADAM, 2),
    "skip_large_updates": fo.skip_large_updates(ADAM, 9.0, 2),
    "skip_spikes": fo.skip_spikes(ADAM, of="norm"),
    "reduce_on_plateau": given(fo.chain(ADAM, fo.reduce_on_plateau()), value=1.0),
    "lookahead": fo.lookahead(ADAM),
    "sam": given(fo.sam(ADAM), grad_fn=slope),
    "master_weights": fo.master_weights(ADAM),
    "stochastic_rounding": fo.stochastic_rounding(ADAM, 0),
    "state_dtype": fo.state_dtype(ADAM, {"exp_avg": "bfloat16"}),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", PASSING)
def test_the_float0_of_an_integer_is_no_gradient(name, compiled):
    tx = PASSING[name]

    def step(params, state):
        grads = jax.grad(lambda p: p["w"].astype(jnp.float32).sum() * p["count"].astype(jnp.float32), allow_int=True)(
            params
        )
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    params, _ = (jax.jit(step) if compiled else step)(PARAMS, tx.init(PARAMS))
    assert params["count"] == 3
    assert params["count"].dtype == jnp.int32
    assert params["w"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "tx",
    [
        fo.scale(2.0),
        fo.clip_by_value(1.0),
        fo.clip_by_global_norm(1.0),
        fo.skip_nonfinite(fo.identity(), 1),
        fo.add_decayed_weights(0.1),
        fo.masked(fo.scale(1.0), {"count": True, "w": False}),
        fo.accumulate(fo.identity(), 1),
        fo.skip_large_updates(fo.identity(), 9.0, 1),
        fo.sam(fo.identity()),
    ],
)
def test_an_integer_gradient_is_refused_by_name(tx):
    params = {"count": jnp.array(3), "w": jnp.ones(2)}
    with pytest.raises(TypeError, match="gradient of the parameter 'count' has dtype int32, which is not floating"):
        tx.update(params, tx.init(params), params, grad_fn=slope)


def test_an_integer_parameter_is_refused_by_name_where_it_would_be_averaged_or_stepped():
    for tx in (fo.ema(), fo.swa(), fo.adam(), fo.lbfgs()):
        with pytest.raises(TypeError, match=r"the parameter 'count' has dtype int32: .* use fo\.masked"):
            tx.init({"count": jnp.array(3)})


def test_float0_counts_for_nothing_in_a_norm_and_for_a_rule_without_parameters():
    zero = np.zeros(2, jax.dtypes.float0)
    assert fo.global_norm({"a": zero, "b": jnp.array([3.0, 4.0])}).item() == 5.0
    tx = fo.sgd(lr=0.5)
    assert tx.update({"a": zero, "b": jnp.ones(1)}, tx.init({"b": jnp.ones(1)}))[0]["a"] is None
