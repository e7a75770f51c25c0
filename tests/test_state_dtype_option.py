"""The option ``state_dtype`` of the torch face: slots in fewer bytes, with the numbers of the functional face."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import ALGORITHMS, full, oracle

MIXED = {"exp_avg": "bfloat16"}
PAIRS = [("adam", "bfloat16"), ("adam", MIXED), ("adamw", "bfloat16"), *full(("adamw", MIXED), ("adam", "float16"))]


def params(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in (("a", (3, 4)), ("b", (5,)))}


def grads(step):
    rng = np.random.default_rng(1 + step)
    return {name: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32) for name, leaf in params().items()}


def trained(kind=optim.Adam, steps=3, tree=None, **options):
    optimizer = kind(params() if tree is None else tree, **options)
    for step in range(steps):
        optimizer.step(grads(step))
    return optimizer


def dtypes(optimizer, name="a"):
    return {key: str(value.dtype) for key, value in optimizer.state[name].items() if key != "step"}


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
@pytest.mark.parametrize("foreach", [False, True])
def test_numbers_are_those_of_the_functional_face(name, dtype, foreach, x64):
    """In 64-bit mode both faces form a step's scalars in doubles; parameters and slots are narrower."""
    options = {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}
    optimizer = getattr(optim, ALGORITHMS[name].title)(params(), **options, foreach=foreach, state_dtype=dtype)
    slots = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    tx = fo.state_dtype(getattr(fo, name)(**options), dtype if isinstance(dtype, dict) else dict.fromkeys(slots, dtype))
    tree, state = params(), tx.init(params())
    update = jax.jit(tx.update)
    for step in range(8):
        optimizer.step(grads(step))
        updates, state = update(grads(step), state, tree)
        tree = fo.apply_updates(tree, updates)
        for key in tree:
            np.testing.assert_allclose(optimizer.params[key], tree[key], rtol=1e-6)
            for slot in slots:
                held, right = optimizer.state[key][slot], getattr(state, slot)[key]
                assert held.dtype == right.dtype
                np.testing.assert_allclose(held.astype(jnp.float32), right.astype(jnp.float32), rtol=1e-6)
    assert dtypes(optimizer)["exp_avg"] == (dtype if isinstance(dtype, str) else "bfloat16")
    assert dtypes(optimizer)["exp_avg_sq"] == (dtype if isinstance(dtype, str) else "float32")


@pytest.mark.parametrize("name", [*ALGORITHMS, "sparse_adam"])
def test_every_class_has_it(name):
    title = "SparseAdam" if name == "sparse_adam" else ALGORITHMS[name].title
    optimizer = getattr(optim, title)(
        {"w": jnp.ones((4, 2))}, state_dtype="bfloat16", **ALGORITHMS[name].typical if name in ALGORITHMS else {}
    )
    for _ in range(2):
        optimizer.backward(
            lambda tree, ids: jnp.sum(tree["w"][ids] ** 2),
            jnp.array([1, 3]),
            sparse="w" if name == "sparse_adam" else (),
        )
        optimizer.step()
        optimizer.zero_grad()
    entry = optimizer.state["w"]
    slots = {key: value.dtype for key, value in entry.items() if np.ndim(value)}
    copies = [slots.pop(key).name for key in ("z", "x0") if key in slots]  # of the parameters
    assert (slots or copies) and set(slots.values()) <= {jnp.dtype("bfloat16")} and set(copies) <= {"float32"}
    assert optimizer.params["w"].dtype == jnp.float32 and jnp.all(jnp.isfinite(optimizer.params["w"]))
    carried = [
        entry[key].dtype for key in ("step", "eta", "mu", "mu_product") if key in entry and name != "sparse_adam"
    ]
    assert set(carried) <= {np.dtype("float32")}


def test_moments_of_narrow_parameters_may_be_wider():
    optimizer = optim.AdamW(params(jnp.bfloat16), state_dtype=jnp.float32)
    optimizer.step(jax.tree.map(lambda p: p.astype(jnp.bfloat16), grads(0)))
    assert set(dtypes(optimizer).values()) == {"float32"} and optimizer.params["a"].dtype == jnp.bfloat16


def test_slots_of_complex_parameters_stay_complex():
    tree = {"z": jnp.ones(2, jnp.complex64), "a": jnp.ones(2)}
    optimizer = optim.Adam(tree, state_dtype="bfloat16")
    optimizer.step(tree)
    assert (dtypes(optimizer, "z")["exp_avg"], dtypes(optimizer)["exp_avg"]) == ("complex64", "bfloat16")
    twin = optim.Adam(tree, state_dtype="bfloat16")
    twin.load_state_dict(optimizer.state_dict())
    same(twin.state["z"]["exp_avg"], optimizer.state["z"]["exp_avg"])


def test_groups_may_differ_and_the_option_is_live():
    optimizer = trained(group_rules=[("a", {"state_dtype": {"exp_avg_sq": jnp.bfloat16}})])
    assert optimizer.param_groups[0]["state_dtype"] == {"exp_avg_sq": "bfloat16"}
    assert "state_dtype" not in optimizer.param_groups[1]
    assert dtypes(optimizer) == {"exp_avg": "float32", "exp_avg_sq": "bfloat16"}
    assert set(dtypes(optimizer, "b").values()) == {"float32"}
    optimizer.param_groups[1]["state_dtype"] = jnp.bfloat16
    before = optimizer.state["b"]["exp_avg"]
    optimizer.step(grads(3))
    assert set(dtypes(optimizer, "b").values()) == {"bfloat16"} and before.dtype == jnp.float32
    assert optimizer.state_dict()["param_groups"][1]["state_dtype"] == "bfloat16"
    optimizer.param_groups[0]["state_dtype"]["exp_avg_sq"] = "float32"
    optimizer.step(grads(4))
    assert set(dtypes(optimizer).values()) == {"float32"}
    optimizer.add_param_group({"params": {"c": jnp.ones(2)}, "state_dtype": MIXED})
    optimizer.step([params(), {"c": jnp.ones(2)}])
    assert dtypes(optimizer, "c")["exp_avg"] == "bfloat16"


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("after", [{"state_dtype": None}, {"state_dtype": {}}, {}])
def test_without_the_option_slots_get_the_parameters_dtype_back(after, foreach):
    optimizer = trained(state_dtype="bfloat16", foreach=foreach)
    before = optimizer.state["a"]["exp_avg_sq"]
    group = optimizer.param_groups[0]
    del group["state_dtype"]
    group.update(after)
    assert set(dtypes(optimizer).values()) == {"bfloat16"}  # until the next step
    optimizer.step(grads(3))
    assert set(dtypes(optimizer).values()) == {"float32"}
    np.testing.assert_allclose(
        optimizer.state["a"]["exp_avg_sq"], 0.999 * before.astype(jnp.float32) + 0.001 * grads(3)["a"] ** 2, rtol=1e-6
    )
    twin = optim.Adam(params(), foreach=foreach)
    twin.load_state_dict(optimizer.state_dict())
    assert dtypes(twin)["exp_avg_sq"] == "float32"


def test_a_slot_wider_than_the_parameter_stays_so_without_the_option():
    optimizer = optim.AdamW(params(jnp.bfloat16), state_dtype=jnp.float32)
    optimizer.step(jax.tree.map(lambda p: p.astype(jnp.bfloat16), grads(0)))
    optimizer.param_groups[0]["state_dtype"] = None
    optimizer.step(jax.tree.map(lambda p: p.astype(jnp.bfloat16), grads(1)))
    assert set(dtypes(optimizer).values()) == {"float32"}


def test_another_option_does_not_widen_slots_that_were_loaded_narrow():
    optimizer = trained()
    optimizer.load_state_dict(optimizer.state_dict(), dtype="bfloat16")
    optimizer.param_groups[0]["maximize"] = True
    optimizer.step(grads(3))
    assert set(dtypes(optimizer).values()) == {"bfloat16"}


def test_it_is_saved_and_resumed_bit_by_bit():
    source = trained(state_dtype=MIXED)
    saved = source.state_dict()
    assert saved["param_groups"][0]["state_dtype"] == MIXED and saved["param_groups"][0]["state_dtype"] is not MIXED
    copies = [copy.deepcopy(source), pickle.loads(pickle.dumps(source)), trained(steps=0, tree=source.params)]
    copies[2].load_state_dict(saved)  # the option comes with the state
    source.step(grads(3))
    for twin in copies:
        assert dtypes(twin) == {"exp_avg": "bfloat16", "exp_avg_sq": "float32"}
        twin.step(grads(3))
        same(twin.params, source.params)
        same(twin.state_dict()["state"], source.state_dict()["state"])


def test_a_loaded_slot_is_narrow_only_where_the_option_says_so():
    wide = trained(amsgrad=True)
    narrow = trained(steps=0, amsgrad=True, state_dtype={"exp_avg": "bfloat16", "max_exp_avg_sq": "bfloat16"})
    narrow.load_state_dict(wide.state_dict())  # says nothing of it: the option stays
    expected = {"exp_avg": "bfloat16", "exp_avg_sq": "float32", "max_exp_avg_sq": "bfloat16"}
    assert dtypes(narrow) == expected
    np.testing.assert_array_equal(narrow.state["a"]["exp_avg"], wide.state["a"]["exp_avg"].astype(jnp.bfloat16))
    narrow.load_state_dict(wide.state_dict(), dtype="float32")
    assert dtypes(narrow) == expected
    saved = narrow.state_dict()
    del saved["param_groups"][0]["state_dtype"]
    plain = trained(steps=0, amsgrad=True)
    plain.load_state_dict(saved)
    assert set(dtypes(plain).values()) == {"float32"}


def test_editing_resetting_and_replacing_keep_it():
    optimizer = trained(state_dtype=MIXED)
    optimizer.state["a"]["exp_avg"] = jnp.ones((3, 4))
    optimizer.state["a"]["exp_avg_sq"] *= 0
    assert dtypes(optimizer) == {"exp_avg": "bfloat16", "exp_avg_sq": "float32"}
    optimizer.reset_state("b")
    optimizer.replace("a", jnp.ones((2, 4)), state=lambda slot: slot[:2])
    optimizer.step({"a": jnp.ones((2, 4)), "b": jnp.ones(5)})
    for name in ("a", "b"):
        assert dtypes(optimizer, name) == {"exp_avg": "bfloat16", "exp_avg_sq": "float32"}
    swapped = trained(state_dtype=MIXED)
    with optim.swap_in_optimizer_params_and_state(swapped, params(), swapped.state_dict()):
        swapped.step(grads(0))
        assert dtypes(swapped) == {"exp_avg": "bfloat16", "exp_avg_sq": "float32"}


def test_files_keep_it(tmp_path):
    saved = trained(state_dtype=MIXED).state_dict()
    fo.checkpoint.save_torch(saved, tmp_path / "state.pt")
    fo.checkpoint.save_safetensors(saved, tmp_path / "state.safetensors")
    loaded = [fo.checkpoint.load_torch(tmp_path / "state.pt")]
    loaded += [fo.checkpoint.load_safetensors(tmp_path / "state.safetensors")]
    loaded += [fo.checkpoint.from_arrays(fo.checkpoint.to_arrays(saved))]
    loaded += [fo.checkpoint.unflatten_state_dict(fo.checkpoint.flatten_state_dict(saved))]
    for each in loaded:
        twin = trained(steps=0)
        twin.load_state_dict(each)
        assert twin.param_groups[0]["state_dtype"] == MIXED
        assert dtypes(twin) == {"exp_avg": "bfloat16", "exp_avg_sq": "float32"}


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}])
def test_a_functional_loop_has_only_the_slots_that_the_options_use(options):
    optimizer = trained(state_dtype="bfloat16", **options)
    tx, tree, state = optimizer.functional()
    fresh = tx.init(tree)
    assert jax.tree.map(jnp.result_type, fresh) == jax.tree.map(jnp.result_type, state)
    assert (fresh.max_exp_avg_sq is None) == (not options)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_functional_loop_keeps_it(frozen, x64):
    options = {"state_dtype": MIXED, "foreach": True, "group_rules": [("a", {"frozen": frozen})]}
    optimizer, twin = trained(**options), trained(**options)
    tx, tree, state = optimizer.functional()
    for step in range(3, 6):
        updates, state = tx.update(grads(step), state, tree)
        tree = fo.apply_updates(tree, updates)
        twin.step(grads(step))
    if not frozen:
        assert fo.find_state(tx.init(tree), "group0").exp_avg["a"].dtype == jnp.bfloat16
        assert dtypes(optimizer) == {"exp_avg": "bfloat16", "exp_avg_sq": "float32"}
    optimizer.restore(tree, state)
    for name in ("b",) if frozen else ("a", "b"):
        assert dtypes(optimizer, name) == dtypes(twin, name) == {"exp_avg": "bfloat16", "exp_avg_sq": "float32"}
        np.testing.assert_allclose(optimizer.params[name], twin.params[name], rtol=1e-6)
    optimizer.step(grads(6))
    twin.step(grads(6))
    np.testing.assert_allclose(optimizer.params["b"], twin.params["b"], rtol=1e-6)


def test_many_small_parameters_are_packed_with_it():
    tree = {f"p{index}": jnp.full(3, 1.0 + index) for index in range(70)}
    gradient = jax.tree.map(jnp.ones_like, tree)
    packed, loose = (optim.AdamW(tree, state_dtype="bfloat16", foreach=foreach) for foreach in (None, False))
    for _ in range(3):
        packed.step(gradient)
        loose.step(gradient)
    assert packed._engine._known.packs and not loose._engine._known.packs
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(packed._engine._known.packs[0].history.row)} == {"bfloat16"}
    same(packed.params, loose.params)
    same(packed.state_dict()["state"], loose.state_dict()["state"])


def test_muon_adamw_has_it_for_each_of_the_two():
    tree = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    optimizer = optim.MuonAdamW(tree, {"state_dtype": "bfloat16"}, {"state_dtype": MIXED})
    optimizer.step(tree)
    assert (dtypes(optimizer, "kernel"), dtypes(optimizer, "bias")) == (
        {"momentum_buffer": "bfloat16"},
        {"exp_avg": "bfloat16", "exp_avg_sq": "float32"},
    )


def test_the_step_compiles_once(compilations):
    optimizer = trained(state_dtype="bfloat16", lr=0.1)
    optimizer.step(grads(4))
    before = len(compilations)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
        optimizer.step(grads(step))
    assert len(compilations) == before


@pytest.mark.parametrize("option", ["bfloat16", MIXED, {"exp_avg": jnp.dtype("bfloat16")}])
def test_a_group_is_read_again_only_after_a_change(option, monkeypatch):
    optimizer, reads = trained(state_dtype=option), []
    original = optimizer._read_options
    monkeypatch.setattr(optimizer, "_read_options", lambda *given: reads.append(given) or original(*given))
    optimizer.step(grads(3))
    assert not reads
    if isinstance(option, dict):
        group = optimizer.param_groups[0]
        group["state_dtype"]["exp_avg"] = jnp.dtype("float16")
        optimizer.step(grads(4))
        assert len(reads) == 1 and dtypes(optimizer)["exp_avg"] == "float16"
        optimizer.step(grads(5))
        assert len(reads) == 1
        del group["state_dtype"]["exp_avg"]
        group["state_dtype"]["exp_avg_sq"] = "bfloat16"
        optimizer.step(grads(6))
        assert len(reads) == 2 and dtypes(optimizer) == {"exp_avg": "float16", "exp_avg_sq": "bfloat16"}
        group["state_dtype"]["exp_avg"] = "half a byte"
        for _ in range(2):
            with pytest.raises(TypeError, match="half a byte"):
                optimizer.step(grads(7))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.Adam(params(), state_dtype="int8"), TypeError, "must be a floating one, but it is int8"),
        (
            lambda: optim.Adam(params(), state_dtype={"exp_av": "bfloat16"}),
            ValueError,
            "no slot exp_av; it has exp_avg,",
        ),
        (lambda: optim.NAdam(params(), state_dtype={"mu_product": "bfloat16"}), ValueError, "no slot mu_product"),
        (lambda: optim.Adam(params(), state_dtype="half a byte"), TypeError, "half a byte"),
        (lambda: optim.LBFGS([{"params": params(), "state_dtype": "bfloat16"}]), ValueError, "no option state_dtype"),
        (
            lambda: optim.AdamW(params(), state_dtype={"exp_avg": None}),
            TypeError,
            "AdamW: the dtype of exp_avg .* None",
        ),
        (
            lambda: optim.Adam(params(), state_dtype="torch.bfloat16"),
            TypeError,
            "state_dtype of Adam: the dtype must be a floating one, but it is 'torch.bfloat16'; write .* 'bfloat16'",
        ),
        (
            lambda: optim.Adam(params(), state_dtype=["bfloat16"]),
            TypeError,
            r"of Adam: .* it is \['bfloat16'\]; write a",
        ),
        (lambda: optim.Adam(params(), state_dtype=("f4", 2)), TypeError, r"of Adam: .* it is \('f4', 2\); write a"),
        (lambda: optim.SGD(params(), state_dtype=jnp.ones(2)), TypeError, "state_dtype of SGD: .* it is Array"),
        (lambda: optim.SGD(params(), state_dtype=jnp.int8), TypeError, "state_dtype of SGD: .* it is int8; write a"),
        (lambda: optim.SGD(params(), state_dtype=object), TypeError, "state_dtype of SGD: .* it is object; write a"),
        (lambda: optim.SGD(params(), state_dtype={"a": {}}), TypeError, "of SGD: the dtype of a .* it is {}; write a"),
        (
            lambda: optim.Muon({"w": jnp.ones((2, 2))}, state_dtype={"exp_avg": "bfloat16"}),
            ValueError,
            "state_dtype of Muon: the state has no slot exp_avg; it has momentum_buffer",
        ),
        (
            lambda: optim.AdamW(params(), group_rules=[("a", {"state_dtype": 8})]),
            TypeError,
            "state_dtype of AdamW: .* it is 8; .*, in parameter group 0",
        ),
        (
            lambda: optim.MuonAdamW(params(), adamw_options={"state_dtype": {"exp_avg": None}}),
            TypeError,
            "state_dtype of MuonAdamW: the dtype of exp_avg .* it is None",
        ),
        (
            lambda: optim.Adam(params(), group_rules=[("a", {"state_dtyp": 1})]),
            ValueError,
            "did you mean 'state_dtype'",
        ),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_bad_dtype_written_into_a_group_raises_before_the_step():
    optimizer = trained(state_dtype=MIXED)
    before = optimizer.params
    optimizer.param_groups[0]["state_dtype"]["exp_avg"] = None
    with pytest.raises(TypeError, match=r"state_dtype of Adam: the dtype of exp_avg must be a floating one, .* None"):
        optimizer.step(grads(3))
    same(optimizer.params, before)


@pytest.mark.torch
def test_a_dtype_of_torch_is_refused_in_words():
    torch = pytest.importorskip("torch", reason="needs a dtype of torch")
    for option in (torch.bfloat16, {"exp_avg": torch.bfloat16}):
        with pytest.raises(TypeError, match=r"state_dtype of Adam: .* it is torch.bfloat16; write a dtype"):
            optim.Adam(params(), state_dtype=option)


@pytest.mark.torch
def test_torch_takes_the_state_and_its_narrow_moments_come_back():
    """torch casts moments to the parameter's dtype; its checkpoints have no such option, so ours stays."""
    torch = pytest.importorskip("torch", reason="a state goes to torch and back")
    ours = trained(optim.AdamW, state_dtype="bfloat16", lr=0.1)
    tensors = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in jax.tree.leaves(ours.params)]
    theirs = oracle("AdamW")(tensors)
    exact = jax.tree.map(
        lambda x: torch.tensor(np.asarray(x, np.float32)) if hasattr(x, "dtype") else x, ours.state_dict()
    )
    theirs.load_state_dict(exact)
    assert theirs.param_groups[0]["state_dtype"] == "bfloat16"  # torch carries it along
    for tensor, grad in zip(tensors, jax.tree.leaves(grads(3)), strict=True):
        tensor.grad = torch.tensor(np.asarray(grad))
    theirs.step()
    ours.step(grads(3))
    for tensor, leaf in zip(tensors, jax.tree.leaves(ours.params), strict=True):
        np.testing.assert_allclose(tensor.detach().numpy(), leaf, rtol=1e-6)
    ours.load_state_dict(theirs.state_dict(), match="position")
    assert set(dtypes(ours).values()) == {"bfloat16"}
