"""Every state in every format: safetensors, orbax, msgpack, jax.export; and the errors for damaged files."""

import json
import random
import resource
import struct
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as orbax
import pytest
from flax import nnx, serialization
from flax.core import FrozenDict
from safetensors.numpy import load_file, save_file

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.checkpoint import (
    CheckpointError,
    TorchLayout,
    flatten_state_dict,
    from_arrays,
    load_safetensors,
    load_torch,
    save_safetensors,
    save_torch,
    to_arrays,
    unflatten_state_dict,
)
from functorch_optim.checkpoint.flat import FORMAT, MARK
from tests import test_torch_layout as twin
from tests import torch_twins as twins
from tests.algorithms import full
from tests.equality import same, same_trees
from tests.table import TABLE

REFERENCE = Path(__file__).parent / "reference"

PARAMS = {
    "layer": {"kernel": jnp.arange(6.0).reshape(2, 3) / 7, "bias": jnp.full(3, 0.25)},
    "half": [jnp.full((2, 2), 0.5, jnp.bfloat16)],
}
QUASI_NEWTON = {"lbfgs": fo.lbfgs(), "bfgs": fo.bfgs()}
OTHERS = {
    "sparse_adam": fo.sparse_adam(),
    "muon": fo.muon(),
    "ema": fo.ema(0.9),
    "swa": fo.swa(),
}
MATRICES = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 2))}


def loss(params):
    return sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(params))


def advanced(name):
    """Return a state, after one update if the transformation takes dense gradients."""
    if name == "plateau":
        return fo.schedules.reduce_on_plateau(0.1).init()
    tx = {**TABLE, **OTHERS, **QUASI_NEWTON}[name]
    params = MATRICES if name == "muon" else {"a": jnp.ones(2)} if name in QUASI_NEWTON else PARAMS
    state = tx.init(params)
    if name == "sparse_adam":
        return state
    extra = {"value_fn": loss} if name in QUASI_NEWTON else {}
    return jax.jit(lambda state: tx.update(jax.grad(loss)(params), state, params, **extra)[1])(state)


@pytest.mark.parametrize("name", [*TABLE, *OTHERS, *QUASI_NEWTON, "plateau"])
def test_every_state_passes_every_format(name, tmp_path):
    state = advanced(name)
    save_safetensors(state, tmp_path / "state.safetensors")
    assert same_trees(load_safetensors(tmp_path / "state.safetensors", like=state), state)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    assert same_trees(load_safetensors(tmp_path / "state.safetensors", like=abstract), state)
    assert same_trees(from_arrays(to_arrays(state), like=state), state)
    assert same_trees(serialization.from_bytes(state, serialization.to_bytes(state)), state)

    exported = jax.export.export(jax.jit(lambda state: jax.tree.map(lambda leaf: leaf, state)))(state)
    again = jax.export.deserialize(exported.serialize())
    assert same_trees(again.call(state), state)

    if jax.tree.leaves(state):  # orbax rejects a tree without leaves
        for kind in (orbax.StandardCheckpointer, orbax.PyTreeCheckpointer):
            with kind() as checkpointer:
                path = tmp_path / kind.__name__
                checkpointer.save(path, state)
                if kind is orbax.StandardCheckpointer:
                    checkpointer.wait_until_finished()
                    found = checkpointer.restore(path, abstract)
                else:
                    arguments = orbax.checkpoint_utils.construct_restore_args(abstract)
                    found = checkpointer.restore(path, item=state, restore_args=arguments)
                assert same_trees(found, state)


@pytest.fixture
def optimizers():
    """Return one optimizer per kind of state dict: groups, a schedule, integers, vectors, a composition, no names."""
    grouped = optim.AdamW(PARAMS, lr=fo.schedules.constant(0.1), group_rules=[("bias", {"weight_decay": 0.0})])
    made = {
        "adamw": grouped,
        "radam": optim.RAdam([jnp.ones(2), jnp.ones(3)], lr=0.1),
        "lbfgs": optim.LBFGS({"a": jnp.ones(2), "b": jnp.full(2, 0.5)}, max_iter=2),
        "composed": optim.Optimizer.from_transform(
            lambda lr: fo.chain(fo.clip_by_global_norm(1.0), fo.adam(lr=lr), fo.ema(0.9)), PARAMS, {"lr": 0.1}
        ),
    }
    for optimizer in made.values():
        optimizer.step(loss)
    return {**made, "fresh": optim.Adam(PARAMS)}


def plain(tree):
    """Return the tree with NumPy arrays."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map(plain, tree))
    return np.asarray(tree) if isinstance(tree, jax.Array) else tree


def test_state_dicts_come_back_as_they_were(optimizers, tmp_path):
    for name, optimizer in optimizers.items():
        state_dict = optimizer.state_dict()
        tree = {"epoch": 3, "optimizer": state_dict, "note": "x", "nested": [1, (2, 3), {"a": None, 7: np.ones(2)}]}
        save_safetensors(tree, tmp_path / name)
        assert same(load_safetensors(tmp_path / name), plain(tree))
        assert same(from_arrays(to_arrays(tree)), plain(tree))
        for kind in (orbax.StandardCheckpointer, orbax.PyTreeCheckpointer):
            with kind() as checkpointer:
                path = tmp_path / f"{name}_{kind.__name__}"
                checkpointer.save(path, to_arrays(state_dict))
                if kind is orbax.StandardCheckpointer:
                    checkpointer.wait_until_finished()
                assert same(plain(from_arrays(checkpointer.restore(path))), plain(state_dict))
        packed = serialization.msgpack_serialize(plain(to_arrays(state_dict)))
        assert same(from_arrays(serialization.msgpack_restore(packed)), plain(state_dict))
        optimizer.load_state_dict(load_safetensors(tmp_path / name)["optimizer"])
        assert same(plain(optimizer.state_dict()), plain(state_dict))


def test_orbax_takes_a_state_dict_as_it_is(optimizers, tmp_path):
    """The pytree checkpointer does; numbers come back as strings and tuples as lists, and we accept both."""
    for name, optimizer in optimizers.items():
        before = plain(optimizer.state_dict())
        with orbax.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / name, before)
            optimizer.load_state_dict(checkpointer.restore(tmp_path / name))
        assert same(plain(optimizer.state_dict()), before)


def test_the_names_are_those_of_torchs_distributed_checkpoints(optimizers, tmp_path):
    state_dict = optimizers["adamw"].state_dict()
    flat = flatten_state_dict(state_dict)
    assert flat["param_groups.layer.bias.weight_decay"] == 0.0
    assert flat["param_groups.layer.kernel.weight_decay"] == 0.01
    assert flat["state.layer.kernel.exp_avg"].shape == (2, 3) and flat["param_groups.half.0.betas"] == (0.9, 0.999)
    again = unflatten_state_dict(flat)
    optimizers["adamw"].load_state_dict(again)  # regrouped by name
    assert same(plain(optimizers["adamw"].state_dict()), plain(state_dict))

    save_safetensors(state_dict, tmp_path / "x")
    header = read_header(tmp_path / "x")
    assert header["state.half.0.exp_avg"]["dtype"] == "BF16"
    assert json.loads(header["__metadata__"]["param_groups.layer.bias.betas"]) == [0.9, 0.999]
    arrays = {name: np.asarray(value) for name, value in flat.items() if hasattr(value, "shape")}
    texts = {name: json.dumps(value) for name, value in flat.items() if not hasattr(value, "shape")}
    save_file(arrays, tmp_path / "foreign", texts)
    optimizers["adamw"].load_state_dict(load_safetensors(tmp_path / "foreign"))
    assert same(plain(optimizers["adamw"].state_dict()), plain(state_dict))


@pytest.mark.torch
def test_torch_flattens_to_the_same_names():
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    theirs = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2)).sum().backward()
    theirs.step()
    flat = get_optimizer_state_dict(model, theirs, options=StateDictOptions(flatten_optimizer_state_dict=True))
    optimizer = optim.AdamW({"0": {"weight": jnp.ones((3, 2)), "bias": jnp.ones(3)}}, lr=0.1)
    optimizer.step(optimizer.params)
    assert set(flatten_state_dict(optimizer.state_dict())) == set(flat)
    optimizer.load_state_dict(unflatten_state_dict(flat))
    assert np.array_equal(optimizer.state["0.weight"]["exp_avg"], flat["state.0.weight.exp_avg"].numpy())


def read_header(path):
    data = Path(path).read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def test_dtypes_and_layouts_in_safetensors(tmp_path):
    rng = np.random.default_rng(0)
    names = ["bool", "int8", "uint16", "int64", "float16", "float64", "complex64", "complex128"]
    tree = {name: rng.integers(0, 2, (2, 3)).astype(name) for name in names}
    tree |= {name: np.ones((2, 3), getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
    tree |= {"turned": np.arange(6.0).reshape(2, 3).T, "scalar": np.float32(2), "empty": np.zeros((0, 2))}
    tree |= {
        "swapped": np.arange(3, dtype=">f4"),
        "inf": float("inf"),
        "big": 2**70,
        "text": "ü",
        "list": [1, "a", None],
    }
    save_safetensors(tree, tmp_path / "x")
    found = load_safetensors(tmp_path / "x")
    swapped = {**tree, "swapped": np.arange(3, dtype="<f4")}
    assert same(found, swapped)
    save_safetensors(jnp.ones(2), tmp_path / "one")
    assert load_safetensors(tmp_path / "one").tolist() == [1.0, 1.0]


def test_what_cannot_be_written_is_named(tmp_path):
    for tree, message in (
        ({"a": {"b": object()}}, "'a.b' is 'object', which is neither an array nor JSON"),
        ({"a": {1, 2}}, "'a' is 'set'"),
        ({"a": np.array([None])}, "'a' is an array of object, which is no number"),
        ({"a": {(1, 2): 3}}, "a key of 'a' is 'tuple', no name or number"),
        ({"a": {"b": 1}, "a.b": 2}, "two leaves of the tree have the name 'a.b'"),
        ({"a": np.array(["x"])}, "'a' is an array of <U1"),
        ({"__metadata__": np.ones(2)}, "must not have the name '__metadata__'"),
        ({"__dtype__": {"a": "x"}}, "must not have the name '__dtype__.a'"),
        ({"a\ud800": np.ones(2)}, "safetensors does not take this tree"),
    ):
        with pytest.raises(CheckpointError) as error:
            save_safetensors(tree, tmp_path / "x")
        assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_more_than_ten_parameters_of_a_foreign_file_keep_their_order(tmp_path):
    optimizer = optim.Adam([jnp.ones(2) for _ in range(12)])
    optimizer.step([jnp.full(2, float(index)) for index in range(12)])
    flat = flatten_state_dict(optimizer.state_dict())
    arrays = {name: np.asarray(value) for name, value in flat.items() if hasattr(value, "dtype")}
    texts = {name: json.dumps(value) for name, value in flat.items() if not hasattr(value, "dtype")}
    save_file(arrays, tmp_path / "foreign", texts)
    loaded = load_safetensors(tmp_path / "foreign")
    assert [entry["exp_avg"][0] for entry in loaded["state"].values()] == pytest.approx(np.arange(12) / 10)


def test_damaged_foreign_and_newer_files_say_what_is_wrong(tmp_path):
    state = fo.adam().init(PARAMS)
    path = tmp_path / "state.safetensors"
    save_safetensors({"a": 1, "b": np.ones(3)}, path)
    whole = path.read_bytes()
    damaged = [
        whole[:-2],
        whole[:20],
        b"",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04" + whole,
        whole.replace(b'"F64"', b'"Q99"'),
    ]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"state.safetensors is no safetensors file, or damaged"):
            load_safetensors(path)
    for version, message in ((FORMAT + 1, "by a newer functorch_optim"), (0, "damaged"), ("x", "damaged")):
        save_file({"a": np.ones(1)}, path, {MARK: json.dumps({"format": version, "tree": "a"})})
        for like in (None, {"a": jnp.ones(1)}):
            with pytest.raises(CheckpointError, match=message):
                load_safetensors(path, like=like)
    for text in (
        "",
        "[]",
        "{}",
        "null",
        '{"format": 1}',
        '{"format": 1, "tree": {"list": 3}}',
        '{"format":1,"tree":"b"}',
    ):
        save_file({"a": np.ones(1)}, path, {MARK: text})
        with pytest.raises(CheckpointError, match="damaged"):
            load_safetensors(path)
    save_safetensors(state, path)
    other = fo.adam(amsgrad=True).init({**PARAMS, "half": [jnp.ones((2, 2))]})
    with pytest.raises(CheckpointError) as error:
        load_safetensors(path, like=other)
    for part in ("max_exp_avg_sq.half.0 is missing", "exp_avg.half.0 is bfloat16[2,2], not float32[2,2]"):
        assert part in str(error.value)
    with pytest.raises(CheckpointError, match="step is unexpected"):
        load_safetensors(path, like={"a": jnp.ones(1)})
    with pytest.raises(FileNotFoundError):
        load_safetensors(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="to_arrays did not make these"):
        from_arrays({"a": np.ones(2)})
    with pytest.raises(CheckpointError, match="is damaged"):
        from_arrays({**to_arrays({"a": 1}), "__functorch_optim_texts__": np.ones(3, np.uint8)})
    for text in (b"[" * 100_000, b"[1]", b'{"a": 1}'):
        with pytest.raises(CheckpointError, match="is damaged"):
            from_arrays({"__functorch_optim_texts__": np.frombuffer(text, np.uint8)})
    for flat, message in (
        ({1: 2}, "1 is neither"),
        ({"x": 1}, "is neither 'state.<name>.<slot>'"),
        ({"state.w.step": 1}, "'state.w.step' belongs to no parameter whose options are known"),
    ):
        with pytest.raises(CheckpointError, match=message):
            unflatten_state_dict(flat)


def test_names_and_groups_that_are_odd(tmp_path):
    odd = optim.SGD({"": jnp.ones(2), "a": {"b": jnp.ones(2)}, "a.b": {"c": jnp.ones(2)}}, lr=0.1, momentum=0.9)
    odd.step(odd.params)
    unnamed = optim.SGD(
        [{"params": [jnp.ones(2)]}, {"params": [], "lr": 0.3}, {"params": [jnp.ones(3)], "lr": 0.2}], 0.1
    )
    for state_dict in (odd.state_dict(), unnamed.state_dict()):
        text = {**state_dict, "state": {str(number): entry for number, entry in state_dict["state"].items()}}
        for given in (state_dict, text):  # orbax turns the numbers into strings
            save_safetensors(given, tmp_path / "x")
            assert same(plain(load_safetensors(tmp_path / "x")), plain(state_dict))
    assert same(unflatten_state_dict(flatten_state_dict(unnamed.state_dict())), plain(unnamed.state_dict()))
    tree = {"w": jnp.ones(2), "betas": (0.9, 0.99), "text": "x", "none": None}
    save_safetensors({**tree, "text": np.str_("x")}, tmp_path / "x")
    assert load_safetensors(tmp_path / "x")["text"] == "x"
    save_safetensors(tree, tmp_path / "x")
    assert same(load_safetensors(tmp_path / "x", like=tree), tree)
    mode = (tmp_path / "x").stat().st_mode & 0o777
    (tmp_path / "plain").touch()
    assert mode == (tmp_path / "plain").stat().st_mode & 0o777


def test_models_of_others_are_dicts_of_arrays(tmp_path):
    save_file({"encoder.weight": np.ones((2, 2), np.float32)}, tmp_path / "x", {"format": "pt"})
    assert load_safetensors(tmp_path / "x")["encoder.weight"].shape == (2, 2)


def run_in_a_file(path):
    """Write a small optimizer's state with every kind of leaf to a file; return its bytes and the state read back."""
    optimizer = optim.SGD({"w": jnp.arange(3.0), "h": jnp.ones(2, jnp.bfloat16)}, lr=0.1, momentum=0.9)
    optimizer.step(optimizer.params)
    tree = {"optimizer": optimizer.state_dict(), "flags": np.array([True, False]), "wide": np.ones(2, np.complex128)}
    save_safetensors(tree, path)
    return path.read_bytes(), load_safetensors(path)


def test_no_flipped_bit_of_a_safetensors_file_is_read(tmp_path):
    """Flip every bit of the format and checksum names, and 400 others: it raises, and never returns another value."""
    data, _ = run_in_a_file(tmp_path / "x")
    rng = random.Random(0)
    places = [rng.randrange(8 * len(data)) for _ in range(400)]
    for mark in (b"__metadata__", b"__functorch_optim_checksum__", b'__functorch_optim__":"{\\"format\\":'):
        places += range(8 * (data.index(mark) - 1), 8 * (data.index(mark) + len(mark) + 14))
    for place in places:
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / "x").write_bytes(changed)
        with pytest.raises(CheckpointError):
            load_safetensors(tmp_path / "x")


def test_a_checksum_is_required_where_ours_is_written(tmp_path):
    data, right = run_in_a_file(tmp_path / "x")
    arrays, header = load_file(tmp_path / "x"), read_header(tmp_path / "x")
    texts = dict(header["__metadata__"])
    changed = bytearray(data)
    changed[-1] ^= 1
    (tmp_path / "x").write_bytes(changed)
    with pytest.raises(CheckpointError, match=r"its checksum is wrong\. verify=False reads it nevertheless"):
        load_safetensors(tmp_path / "x")
    assert not same_tree(load_safetensors(tmp_path / "x", verify=False), right)
    save_file(arrays, tmp_path / "x", texts)  # another program, which orders them differently
    with pytest.raises(CheckpointError, match="or another program has written it anew"):
        load_safetensors(tmp_path / "x")
    del texts["__functorch_optim_checksum__"]
    save_file(arrays, tmp_path / "x", texts)
    with pytest.raises(CheckpointError, match="its checksum is missing"):
        load_safetensors(tmp_path / "x")
    assert same_tree(load_safetensors(tmp_path / "x", verify=False), right)
    texts[MARK] = texts[MARK].replace(f'"format": {FORMAT}', '"format": 1')  # which had no checksum
    save_file(arrays, tmp_path / "x", texts)
    assert same_tree(load_safetensors(tmp_path / "x"), right)


def same_tree(one, other):
    return repr(one) == repr(other)


def test_the_package_safetensors_reads_what_is_written_and_writes_what_is_read(tmp_path):
    kinds = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", "complex64", ml_dtypes.bfloat16]
    arrays = {f"{number}.ü": np.arange(number).astype(kind) for number, kind in enumerate(kinds)}
    arrays |= {"scalar": np.full((), 2.0), "empty": np.zeros((0, 3)), "turned": np.arange(6.0).reshape(2, 3).T}
    save_safetensors(arrays, tmp_path / "ours")
    assert same(load_file(tmp_path / "ours"), arrays)
    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, tmp_path / "theirs")
    assert same(load_safetensors(tmp_path / "theirs"), arrays)


def test_headers_that_lie_are_refused(tmp_path):
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for header, data in (
        ({"a": one}, bytes(7)),
        ({"a": one}, bytes(9)),
        ({"a": {**one, "shape": [3]}}, bytes(8)),
        ({"a": {**one, "shape": [-2]}}, bytes(8)),
        ({"a": {**one, "shape": [2.0]}}, bytes(8)),
        ({"a": {**one, "shape": [2**40, 0], "data_offsets": [0, 0]}}, bytes(8)),
        ({"a": {**one, "shape": [10**4000] * 9}}, bytes(8)),
        ({"a": one, "b": one}, bytes(8)),
        ({"a": one, "b": {**one, "data_offsets": [16, 24]}}, bytes(24)),
        ({"a": {**one, "dtype": "BOOL", "shape": [8]}}, b"\2" * 8),
        ({"a": {**one, "dtype": ["F32"]}}, bytes(8)),
        ({"a": one, "__metadata__": {"x": 1}}, bytes(8)),
        ([], b""),
    ):
        text = json.dumps(header).encode()
        (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + data)
        with pytest.raises(CheckpointError, match="is no safetensors file, or damaged"):
            load_safetensors(tmp_path / "x")
    for text in (b'{"a":1,"a":2}', b"[" * 100_000, b"\xff"):
        (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(CheckpointError, match="is no safetensors file, or damaged"):
            load_safetensors(tmp_path / "x")


def outlined(tree, texts=()):
    """Return what :func:`to_arrays` would return for this outline."""
    told = {MARK: json.dumps({"format": 1, "tree": tree}), **dict(texts)}
    return {"__functorch_optim_texts__": np.frombuffer(json.dumps(told).encode(), np.uint8)}


def test_an_outline_cannot_outgrow_what_was_written():
    with pytest.raises(CheckpointError, match="'a' is missing, or in two places"):
        from_arrays(outlined({"list": [{"list": "a"}, {"list": "a"}]}, {"a": "[1, 2]"}))
    numbers = [number << 12 for number in range(80_000)]
    for tree in (
        {"dict": [[number, {"list": []}] for number in numbers]},
        {"state_dict": [[numbers, None]], "entries": []},
    ):
        with pytest.raises(CheckpointError, match="more than a file of this size may have"):
            from_arrays(outlined(tree))
    in_order = {"dict": [[number, {"list": []}] for number in range(80_000)]}
    assert from_arrays(outlined(in_order)) == {number: [] for number in range(80_000)}


def test_names_take_time_in_proportion():
    names = [f"layer{number}" for number in range(20_000)]
    begin = time.process_time()
    saved = unflatten_state_dict({f"param_groups.{name}.lr": number for number, name in enumerate(names)})
    assert len(saved["param_groups"]) == 20_000
    arrays = to_arrays(dict.fromkeys(names, np.ones(1)))
    assert len(from_arrays(arrays, like=dict.fromkeys(names, np.ones(1)))) == 20_000
    with pytest.raises(CheckpointError, match="belongs to no parameter"):
        unflatten_state_dict({f"state.{'.' * 2_000_000}": 1}, [([0], ["w"])])
    assert time.process_time() - begin < 10  # each used to take minutes


@pytest.mark.parametrize("save", [save_safetensors, save_torch])
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_what_the_system_refuses_to_write_is_its_own_error_and_leaves_the_old_file(save, size, tmp_path):
    path = tmp_path / "run"
    save({"w": np.zeros(3)}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # like a full disk: the system refuses the write
    try:
        with pytest.raises(OSError, match="File too large") as error:
            save({"w": np.ones(size)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(error.value, CheckpointError)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("load", [load_safetensors, load_torch])
def test_what_the_system_refuses_to_read_is_its_own_error(load, tmp_path):
    with pytest.raises(IsADirectoryError):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def test_the_first_format_is_still_read():
    """The file was written in format 1; keep it, however the format changes."""
    found = load_safetensors(REFERENCE / "format_1.safetensors")
    assert found["epoch"] == 3 and found["nested"] == [1, (2, 3), {"a": None}]
    optimizer = optim.AdamW({"layer": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}})
    optimizer.load_state_dict(found["optimizer"])
    assert optimizer.param_groups[0]["lr"] == 0.125 and optimizer.state["layer.bias"]["step"] == 2.0
    assert optimizer.state["layer.kernel"]["exp_avg"].tolist() == [[0.75] * 3] * 2


def test_orbax_restores_onto_two_devices_what_one_saved(tmp_path):
    params = {"kernel": jnp.arange(8.0).reshape(4, 2), "bias": jnp.arange(2.0)}
    optimizer = optim.AdamW(params, lr=0.1)
    optimizer.step(params)
    _, _, state = optimizer.functional()
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def placed(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows if len(leaf.shape) == 2 else whole)

    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {"params": optimizer.params, "state": state})
        checkpointer.save(tmp_path / "dict", to_arrays(optimizer.state_dict()))
        checkpointer.wait_until_finished()
        target = jax.tree.map(placed, {"params": optimizer.params, "state": state})
        found = checkpointer.restore(tmp_path / "state", target)
        arrays = checkpointer.restore(
            tmp_path / "dict", jax.tree.map(placed, checkpointer.metadata(tmp_path / "dict").item_metadata.tree)
        )
    assert found["state"].exp_avg["kernel"].sharding == rows
    assert same_trees(found["state"], state)
    save_safetensors(state, tmp_path / "x")
    assert load_safetensors(tmp_path / "x", like=jax.tree.map(placed, state)).exp_avg["kernel"].sharding == rows

    sharded = optim.AdamW(jax.device_put(params, {"kernel": rows, "bias": whole}), lr=0.1)
    sharded.load_state_dict(from_arrays(arrays))
    sharded.params = found["params"]
    optimizer.step(params)
    sharded.step(jax.device_put(params, {"kernel": rows, "bias": whole}))
    assert sharded.params["kernel"].sharding.is_equivalent_to(rows, 2)
    assert same_trees(sharded.params, optimizer.params)
    save_safetensors(sharded.state_dict(), tmp_path / "y")  # the shards are gathered
    assert same(load_safetensors(tmp_path / "y")["state"], plain(sharded.state_dict())["state"])


@pytest.mark.usefixtures("standard_promotion", "x64")
@pytest.mark.parametrize("dtype", ["bfloat16", *full("float32")])
def test_a_torch_checkpoint_through_every_format(dtype, tmp_path):
    """A transformer's run read back from any format continues exactly like the one read from torch's file."""
    saved = twin.recorded(f"transformer_{dtype}")
    _, tree, loss = twin.transformer(dtype)
    layout = TorchLayout(tree, saved["model"])
    params, tokens = layout.params_from_torch(saved["model"]), twins.token_batches()
    first = optim.AdamW(params)
    first.load_state_dict(layout.state_from_torch(saved["optimizer"]))
    pure = nnx.to_pure_dict(params)
    save_safetensors({"params": pure, "optimizer": first.state_dict()}, tmp_path / "x")
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", {"params": pure, "optimizer": to_arrays(first.state_dict())})
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "orbax")
    held = {
        "safetensors": load_safetensors(tmp_path / "x"),
        "orbax": {
            "params": jax.tree.map(lambda x: x, restored["params"]),
            "optimizer": from_arrays(restored["optimizer"]),
        },
    }
    others = []
    for found in held.values():
        leaves = map(np.asarray, jax.tree.leaves(found["params"]))  # uncommitted to a device, like the first ones
        given = jax.tree.unflatten(jax.tree.structure(params), leaves)
        others.append(optim.AdamW(given))
        others[-1].load_state_dict(found["optimizer"])
    gradients = jax.jit(jax.grad(loss))
    for optimizer in [first, *others]:
        for step in range(3):
            optimizer.step(gradients(optimizer.params, tokens[0][step], tokens[1][step]))
    for optimizer in others:
        assert same_trees(jax.tree.leaves(optimizer.params), jax.tree.leaves(first.params))
        assert same(plain(optimizer.state_dict()), plain(first.state_dict()))


class Twice(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)])


@pytest.mark.parametrize("format_", ["torch", "safetensors", "arrays"])
@pytest.mark.parametrize("container", ["nnx", "FrozenDict", "equinox"])
def test_containers_of_flax_are_saved_as_dicts_and_set_again(format_, container, tmp_path, standard_promotion):
    def make(seed):
        module = Twice(nnx.Rngs(seed))
        frozen = FrozenDict({"w": jnp.full(2, float(seed)), "b": {"c": jnp.ones(1)}})
        network = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(seed))
        trees = {"nnx": module, "FrozenDict": frozen, "equinox": eqx.filter(network, eqx.is_inexact_array)}
        return optim.AdamW(trees[container], lr=0.1)

    source, target = make(0), make(1)
    source.step(jax.tree.map(jnp.ones_like, source.params))
    run = {"params": source.params, "optimizer": source.state_dict()}
    path = tmp_path / "checkpoint"
    if format_ == "arrays":
        saved = fo.checkpoint.from_arrays(fo.checkpoint.to_arrays(run))
    else:
        getattr(fo.checkpoint, f"save_{format_}")(run, path)
        saved = getattr(fo.checkpoint, f"load_{format_}")(path)
    assert type(saved["params"]) is dict
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(saved["params"])[0]]
    assert not [name for name in names if "['']" in name]
    target.params = saved["params"]
    target.load_state_dict(saved["optimizer"])
    assert jax.tree.structure(target.params) == jax.tree.structure(source.params)
    for ours, theirs in zip(jax.tree.leaves(target.params), jax.tree.leaves(source.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="new values do not have the structure of the parameters: missing"):
        target.params = {"layers": saved["params"]}


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.norm = nnx.Linear(2, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x)))


def through(format_, tree, path, like=None):
    """Save a tree and load it."""
    if format_ == "arrays":
        return fo.checkpoint.from_arrays(fo.checkpoint.to_arrays(tree), like=like)
    save_safetensors(tree, path)
    return load_safetensors(path, like=like)


@pytest.mark.parametrize("format_", ["safetensors", "arrays"])
def test_a_module_with_statistics_and_random_keys_comes_back(format_, tmp_path, standard_promotion):
    module, other = Noisy(nnx.Rngs(0)), Noisy(nnx.Rngs(1))
    module(jnp.ones((4, 2)))
    expected = nnx.clone(module)(jnp.ones((4, 2)))
    _, params, rest = nnx.split(module, nnx.Param, ...)
    _, *like = nnx.split(other, nnx.Param, ...)
    saved = through(
        format_, {"params": params, "rest": rest}, tmp_path / "x", dict(zip(["params", "rest"], like, strict=True))
    )
    assert jax.tree.structure(saved["rest"]) == jax.tree.structure(rest)
    nnx.update(other, saved["params"], saved["rest"])
    assert same(nnx.clone(other)(jnp.ones((4, 2))), expected)
    whole = through(format_, {"module": module}, tmp_path / "x")["module"]  # the same names as the states'
    assert sorted(whole) == ["dropout", "linear", "norm"] and sorted(whole["norm"]) == ["bias", "mean", "scale", "var"]


@pytest.mark.parametrize("format_", ["safetensors", "arrays"])
@pytest.mark.parametrize("algorithm", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("like", [True, False])
def test_random_keys_come_back(format_, algorithm, like, tmp_path):
    tree = {"one": jax.random.key(3, impl=algorithm), "many": [jax.random.split(jax.random.key(4, impl=algorithm), 3)]}
    saved = through(format_, tree, tmp_path / "x", jax.tree.map(jnp.zeros_like, tree) if like else None)
    for ours, theirs in zip(jax.tree.leaves(saved), jax.tree.leaves(tree), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))
    with pytest.raises(CheckpointError, match=r"one is key<\w+>\[\], not uint32\[2\]"):
        through(format_, tree, tmp_path / "x", {**tree, "one": jnp.zeros(2, jnp.uint32)})


def test_random_keys_of_an_unknown_algorithm_are_refused():
    arrays = fo.checkpoint.to_arrays({"key": jax.random.key(3)})
    name = next(name for name in arrays if name != "key")
    texts = arrays[name].tobytes().replace(b"threefry2x32", b"threefry2x33")
    with pytest.raises(CheckpointError, match="damaged"):
        from_arrays({**arrays, name: np.frombuffer(texts, np.uint8)})


@pytest.mark.parametrize("format_", ["safetensors", "arrays"])
def test_like_may_leave_entries_as_they_were_saved(format_, tmp_path):
    optimizer = optim.AdamW({"w": jnp.ones(2)}, lr=0.5)
    optimizer.step({"w": jnp.ones(2)})
    run = {"params": optimizer.params, "optimizer": optimizer.state_dict(), "more": [1, {"log": "x"}], "a": (2, [3.0])}
    like = {"params": {"w": jnp.zeros(2)}, "optimizer": optim.AdamW({"w": jnp.ones(2)}).state_dict(), "more": ...}
    saved = through(format_, run, tmp_path / "x", {**like, "a": (2, ...)})
    assert isinstance(saved["params"]["w"], jax.Array)
    assert (saved["more"], saved["a"]) == (run["more"], run["a"])
    assert same(plain(saved["optimizer"]), plain(run["optimizer"]))
    assert same(plain(through(format_, run, tmp_path / "x", ...)), plain(through(format_, run, tmp_path / "x")))
    with pytest.raises(CheckpointError) as error:
        through(format_, run, tmp_path / "x", {"params": {"w": jnp.zeros(2)}, "optimizer": ...})
    assert "more is unexpected; a is unexpected. In like= write ... for" in str(error.value).replace(
        "a is unexpected; more is unexpected", "more is unexpected; a is unexpected"
    )
    with pytest.raises(CheckpointError, match="does not fit: also is missing"):
        through(format_, run, tmp_path / "x", {**like, "a": ..., "also": ...})


def test_variables_of_the_earlier_format_have_no_level_of_their_own():
    tree = {"dict": [["l", {"dict": [["bias", {"dict": [["", "l.bias"]]}], ["odd", {"dict": [["", "l.odd."]]}]]}]]}
    arrays = {"l.bias": np.ones(2), "l.odd.": np.zeros(1)}
    told = json.dumps({MARK: json.dumps({"format": 2, "tree": tree})}).encode()
    texts = next(name for name in fo.checkpoint.to_arrays({}))
    saved = from_arrays({**arrays, texts: np.frombuffer(told, np.uint8)})
    assert same(saved, {"l": {"bias": np.ones(2), "odd": {"": np.zeros(1)}}})
