"""decay_mask: every algorithm's weight decay applies exactly where the mask is True."""

import copy
import inspect
import pickle

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.experimental.sparse import BCOO

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import ALGORITHMS, names

PARAMS = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.array([1.0, -3.0]), "scale": jnp.full((3, 1), 0.5)}
GRADS = jax.tree.map(lambda p: 0.1 * p + 0.3, PARAMS)
MASK = {"kernel": True, "bias": False, "scale": True}
DECAYING = sorted(names(decays=True))
PACKED = [name for name in DECAYING if "foreach" in inspect.signature(getattr(fo, name)).parameters]


def kernels(path):
    return path != "bias"


def steps(tx, params=PARAMS, grads=GRADS, count=6):  # Schedule-Free RAdam moves from the fifth on
    state = tx.init(params)
    for _ in range(count):
        updates, state = tx.update(grads, state, params)
        params = fo.apply_updates(params, updates)
    return params


def matrices(tree):
    return {name: jnp.resize(leaf, (3, 2)) for name, leaf in tree.items()}


def test_every_algorithm_with_weight_decay_has_a_decay_mask():
    functions = {name: value for name, value in vars(fo).items() if inspect.isfunction(value)}
    signatures = {name: inspect.signature(function).parameters for name, function in functions.items()}
    found = sorted(n for n, p in signatures.items() if "weight_decay" in p and n != "add_decayed_weights")
    assert found == sorted([*DECAYING, "normuon", "prodigy", "dadapt_adam"])
    assert all("decay_mask" in signatures[name] for name in found)


@pytest.mark.parametrize("name", [*DECAYING, "normuon"])
def test_masked_out_parameters_are_updated_as_without_decay(name):
    make, takes_vectors = getattr(fo, name), name != "normuon" and ALGORITHMS[name].takes_vectors
    params, grads = (PARAMS, GRADS) if takes_vectors else (matrices(PARAMS), matrices(GRADS))
    parts = {True: make(weight_decay=0.5), False: make(**dict.fromkeys(make().update.of.rule.decay_options, 0.0))}
    several = [fo.partition(parts, kernels), *[make(weight_decay=0.5, decay_mask=mask) for mask in (kernels, MASK)]]
    everywhere, expected, *found = jax.jit(lambda *of: [steps(tx, *of) for tx in (parts[True], *several)])(
        params, grads
    )
    for got in found:
        chex.assert_trees_all_equal(got, expected)
        assert jnp.array_equal(got["bias"], everywhere["bias"]) == (name == "kron")  # whose vectors never decay


@pytest.mark.parametrize("name", PACKED)
def test_packed_parameters_decay_where_the_mask_says(name):
    make = getattr(fo, name)
    for mask in (kernels, False, True):
        packed = steps(make(weight_decay=0.5, foreach=True, decay_mask=mask))
        chex.assert_trees_all_close(packed, steps(make(weight_decay=0.5, decay_mask=mask)), rtol=1e-6)


def test_packed_parameters_without_gradients_and_complex_ones():
    params = {"bias": jnp.array([1.0 + 2.0j]), "late": jnp.ones(2), "other": jnp.array([2.0 - 1.0j]), "w": jnp.ones(3)}
    grads = {"bias": jnp.array([0.5j]), "late": None, "other": jnp.array([1.0 + 0.0j]), "w": jnp.zeros(3)}
    plain, packed = (
        steps(fo.adamw(lr=0.1, weight_decay=0.5, foreach=foreach, decay_mask=kernels), params, grads)
        for foreach in (False, True)
    )
    chex.assert_trees_all_close(packed, plain, rtol=1e-6)
    assert packed["late"].tolist() == [1.0, 1.0]
    assert packed["w"][0] < 0.95


def test_an_infinite_parameter_that_does_not_decay_stays_as_without_decay():
    params = {"bias": jnp.array([jnp.inf]), "w": jnp.ones(1)}
    tx = fo.sgd(lr=0.1, momentum=0.9, weight_decay=0.5, foreach=True, decay_mask=kernels)
    assert steps(tx, params, jax.tree.map(jnp.ones_like, params))["bias"].tolist() == [jnp.inf]


def test_a_table_that_does_not_decay_may_have_row_sparse_gradients():
    params = {"table": jnp.ones((3, 2)), "w": jnp.ones(2)}
    grads = {"table": BCOO.fromdense(jnp.zeros((3, 2)).at[1].set(1.0), n_dense=1, nse=1), "w": jnp.zeros(2)}
    tx = fo.sgd(lr=0.5, weight_decay=0.5, decay_mask=lambda path: path != "table")
    moved = steps(tx, params, grads, count=1)
    assert moved["table"].tolist() == [[1.0, 1.0], [0.5, 0.5], [1.0, 1.0]]
    assert moved["w"].tolist() == [0.75, 0.75]
    with pytest.raises(RuntimeError, match=r"weight_decay option is not compatible with sparse gradients.*'table'"):
        steps(fo.sgd(weight_decay=0.5, decay_mask={"table": True, "w": False}), params, grads)


def test_the_mask_beside_wrappers_schedules_and_traced_numbers():
    tx = fo.freeze(fo.chain(fo.adamw(weight_decay=0.5, decay_mask=MASK), fo.ema(0.5)), {**MASK, "scale": False})
    chex.assert_trees_all_equal(steps(tx)["kernel"], PARAMS["kernel"])
    options = {"weight_decay": 0.5, "decay_mask": kernels}
    mixed = fo.muon_adamw({"lr": 0.1, **options}, {"lr": 0.1, **options})
    chex.assert_trees_all_equal(
        steps(mixed)["bias"], steps(fo.muon_adamw({"lr": 0.1, **options}, {"lr": 0.1, "weight_decay": 0.0}))["bias"]
    )
    scheduled = steps(fo.adamw(weight_decay=fo.schedules.constant(0.5), decay_mask=kernels))
    traced = jax.jit(lambda decay: steps(fo.adamw(weight_decay=decay, decay_mask=kernels)))(0.5)
    for got in (scheduled, traced):
        chex.assert_trees_all_close(got, steps(fo.adamw(weight_decay=0.5, decay_mask=kernels)), rtol=1e-6)


def test_equal_masks_make_equal_transformations():
    for foreach in (False, True):
        tx, again = (fo.adamw(decay_mask=dict(MASK), foreach=foreach) for _ in range(2))
        for other in (again, pickle.loads(pickle.dumps(tx)), copy.deepcopy(tx)):
            assert (other, hash(other), repr(other)) == (tx, hash(tx), repr(tx))
        assert tx != fo.adamw(foreach=foreach)
    assert repr(fo.sgd(decay_mask=True, foreach=True)).endswith("maximize=False, decay_mask=True, foreach=True)")


def test_a_wrong_mask_is_refused():
    with pytest.raises(TypeError, match="decay_mask: a mask is a tree of booleans, a function of the path, or"):
        fo.adamw(decay_mask={"kernel": 1, "bias": 0})
    with pytest.raises(TypeError, match="decay_mask must be True or False at the parameter 'bias', but it is None"):
        fo.adamw(decay_mask=lambda path: None).init(PARAMS)
    with pytest.raises(ValueError, match="labels do not have the structure of the parameters"):
        fo.adamw(decay_mask={"kernel": True}).init(PARAMS)
    with pytest.raises(ValueError, match="decay_mask says where weights decay, but Rprop has no weight_decay"):
        fo.lift(fo.rprop().update.of.rule, decay_mask=True)


def test_the_torch_face_has_groups_for_it():
    with pytest.raises(TypeError, match="decay_mask"):
        optim.AdamW(PARAMS, decay_mask=MASK)
    with pytest.raises(TypeError, match="adamw has no option decay_mask"):
        optim.MuonAdamW(PARAMS, None, {"decay_mask": MASK})
    for optimizer in (optim.AdamW(PARAMS), optim.MuonAdamW(PARAMS)):
        assert all("decay_mask" not in group for group in optimizer.param_groups)
