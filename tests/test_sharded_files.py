"""Checkpoints on meshes: a file for each process with an index, any other mesh, and only the bytes that are needed."""

import os
import shutil
import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as orbax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim.checkpoint import CheckpointError, load_safetensors, load_torch, save_safetensors, save_torch
from functorch_optim.checkpoint.chunks import CHUNK, Chunks, Stored
from functorch_optim.placement import place
from tests.algorithms import full
from tests.equality import same_trees

TX = fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1), fo.ema(0.9))
SPECS = {"bias": P(), "kernel": P("x", "y")}


def params_on(shape, specs):
    mesh = jax.make_mesh(shape, ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    rng = np.random.default_rng(0)
    params = {"bias": rng.standard_normal(4, np.float32), "kernel": rng.standard_normal((8, 4), np.float32)}
    return {name: jax.device_put(leaf, NamedSharding(mesh, specs[name])) for name, leaf in params.items()}


def advanced(run, steps):
    @jax.jit
    def step(params, state):
        updates, state = TX.update(jax.tree.map(jnp.sin, params), state, params)
        return fo.apply_updates(params, updates), state

    for _ in range(steps):
        run = dict(zip(("params", "state"), step(run["params"], run["state"]), strict=True))
    return run


def run_of(steps):
    params = params_on((4, 2), SPECS)
    return advanced({"params": params, "state": fo.init_sharded(TX, params)}, steps)


def abstract(params):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), params)


def close(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


OTHER = {"bias": P("y"), "kernel": P(None, ("x", "y"))}
PLACES = [("other", (2, 2), OTHER), *full(("same", (4, 2), SPECS), ("turned", (2, 4), SPECS), ("one", (1, 1), SPECS))]


def through_ours(form, run, like, path):
    if form == "torch":
        save_torch(run, path)
        return load_torch(path, like=like)
    save_safetensors(run, path, sharded=form == "sharded")
    return load_safetensors(path, like=like)


def through_orbax(form, run, like, path):
    kinds = {
        "standard": orbax.StandardCheckpointer,
        "pytree": orbax.PyTreeCheckpointer,
        "async": lambda: orbax.AsyncCheckpointer(orbax.PyTreeCheckpointHandler()),
    }
    with kinds[form]() as checkpointer:
        checkpointer.save(path, run)
        if form != "pytree":
            checkpointer.wait_until_finished()
        if form == "standard":
            return checkpointer.restore(path, like)
        return checkpointer.restore(path, item=like, restore_args=orbax.checkpoint_utils.construct_restore_args(like))


@pytest.mark.parametrize("form", ["one", "sharded", "torch", "standard", "pytree", "async"])
@pytest.mark.parametrize(("shape", "specs"), [one[1:] for one in PLACES], ids=[one[0] for one in PLACES])
def test_a_run_resumes_on_any_mesh_and_goes_on_for_ten_steps(form, shape, specs, tmp_path):
    run = run_of(3)
    params = abstract(params_on(shape, specs))
    like = {"params": params, "state": fo.abstract_state(TX, params)}
    through = through_ours if form in ("one", "sharded", "torch") else through_orbax
    found = through(form, run, like, tmp_path / "run")
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
        assert leaf.sharding == wanted.sharding
    assert same_trees(found, run)
    close(advanced(found, 10), advanced(run, 10))


def test_a_sharded_checkpoint_replaces_the_one_before_and_says_what_it_lacks(tmp_path):
    run, path = run_of(1), tmp_path / "run.safetensors"
    (tmp_path / "run-notes-00001-of-00001.safetensors").write_bytes(b"of the user")
    for sharded in (True, True, False, True):
        save_safetensors(run, path, sharded=sharded)
        assert len(list(tmp_path.glob("run-????????-*.safetensors"))) == sharded
        assert same_trees(load_safetensors(path, like=run), run)
    assert (tmp_path / "run-notes-00001-of-00001.safetensors").exists()
    (shard,) = tmp_path.glob("run-????????-*.safetensors")
    with pytest.raises(CheckpointError, match=r"one of several files of a checkpoint: load 'run\.safetensors'"):
        load_safetensors(shard)
    data = shard.read_bytes()
    for at in (40, len(data) - 3):
        shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(CheckpointError, match=r"run\.safetensors.*(damaged|checksum|missing)"):
            load_safetensors(path, like=run)
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"in 1 files beside it, and {shard.name} is missing: save into"):
        load_safetensors(path)


def shards_in(folder):
    return sorted(path.name for path in folder.glob("*-????????-*.safetensors"))


def test_an_index_may_be_copied_and_moved(tmp_path):
    run, later, path, copy = run_of(1), run_of(2), tmp_path / "run.safetensors", tmp_path / "best.safetensors"
    save_safetensors(run, path, sharded=True)
    shutil.copy(path, copy)
    save_safetensors(later, path, sharded=True)  # the copy still needs what it lists
    assert same_trees(load_safetensors(copy, like=run), run)
    assert same_trees(load_safetensors(path, like=run), later)
    shutil.copy(path, copy)
    save_safetensors(run, copy, sharded=True)  # and so does what it was copied from
    assert same_trees(load_safetensors(path, like=run), later)
    assert len(shards_in(tmp_path)) == 3  # one of the first checkpoint, which no index listed any more
    path.rename(copy)
    save_torch(run, copy)  # any file that replaces an index takes its shards away
    assert same_trees(load_torch(copy, like=run), run) and len(shards_in(tmp_path)) == 2


@pytest.mark.parametrize("name", ["run.ckpt", "a\nb.safetensors", "n" * 240, b"\xff.safetensors", "é" * 100])
def test_any_name_that_a_file_may_have(name, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    run = {"w": np.arange(6.0)}
    for _ in range(2):
        save_safetensors(run, path, sharded=True)
        assert load_safetensors(path)["w"].tolist() == run["w"].tolist()
    assert len(os.listdir(tmp_path)) == 2
    shutil.copy(path, path[:-4] + b".bak")
    os.chmod(path, 0o600)
    save_safetensors(run, path, sharded=True)  # the copy's files stay, and the new ones are as private as the index
    assert load_safetensors(path[:-4] + b".bak")["w"].tolist() == run["w"].tolist()
    assert sum(file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir()) == 2


def test_errors_name_the_shard(tmp_path):
    run, path = run_of(1), tmp_path / "run.safetensors"
    save_safetensors(run, path, sharded=True)
    (name,) = shards_in(tmp_path)
    save_safetensors(run_of(2), tmp_path / "other.safetensors", sharded=True)
    other, shard = next(tmp_path.glob("other-*")), tmp_path / name
    whole = shard.read_bytes()
    shutil.copy(other, shard)
    with pytest.raises(CheckpointError, match=rf"{name}: it was written as {other.name}, for another checkpoint"):
        load_safetensors(path, like=run)
    for data in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], b""):
        shard.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"run\.safetensors: {name}(: it is| is .*) damaged"):
            load_safetensors(path, like=run)


def test_what_does_not_fit_like_is_named(tmp_path):
    run, mesh = {"a": {"w": np.ones(3, np.float32)}, "b": 1, "b.c": np.ones(2)}, jax.make_mesh((2,), ("x",))
    split = jax.ShapeDtypeStruct((3,), "float32", sharding=NamedSharding(mesh, P("x")))
    for save, load in ((save_safetensors, load_safetensors), (save_torch, load_torch)):
        save(run, tmp_path / "run")
        with pytest.raises(CheckpointError, match=r"/run: what was saved does not fit: a\.w of like= is split as does"):
            load(tmp_path / "run", like={**run, "a": {"w": split}})
        with pytest.raises(
            CheckpointError, match=r"/run: what was saved does not fit: a\.w is float32\[3\], not float3"
        ):
            load(tmp_path / "run", like={**run, "a": {"w": np.ones(4, np.float32)}})
        found = load(tmp_path / "run", like={"a": ..., "b": ..., "b.c": run["b.c"]})
        assert found["b"] == 1 and found["b.c"].tolist() == [1, 1] and found["a"]["w"].tolist() == [1, 1, 1]


def test_a_shard_that_cannot_be_written_leaves_the_old_checkpoint(tmp_path):
    run, path = run_of(1), tmp_path / "run.safetensors"
    save_safetensors(run, path, sharded=True)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="safetensors does not take this tree"):
        save_safetensors({"a\ud800": np.ones(2)}, path, sharded=True)
    assert sorted(tmp_path.iterdir()) == before
    assert same_trees(load_safetensors(path, like=run), run)


def lied(path, change):
    """Change the text of an index, whose checksum is then wrong."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    told = change(data[8 : 8 + length].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(told)) + told)


def test_an_index_that_leads_elsewhere_or_lacks_parts_is_refused(tmp_path):
    run, path = run_of(1), tmp_path / "run.safetensors"
    for change in (
        lambda text: text.replace("run-", "../run-"),
        lambda text: text.replace("run-", "/etc/"),
        lambda text: text.replace("[[0, 8], [0, 4]]", "[[0, 4], [0, 4]]"),
        lambda text: text.replace("float32", "float64"),
        lambda text: text.replace("[8, 4]", "[9, 4]"),
    ):
        save_safetensors(run, path, sharded=True)
        whole = path.read_bytes()
        lied(path, change)
        assert path.read_bytes() != whole
        with pytest.raises(CheckpointError, match="damaged"):
            load_safetensors(path)
        with pytest.raises(CheckpointError, match="damaged"):
            load_safetensors(path, verify=False)


class Counting:
    """A file that counts what is read."""

    def __init__(self, file):
        self.file, self.count = file, 0

    def seek(self, place):
        self.file.seek(place)

    def readinto(self, into):
        self.count += len(into)
        return self.file.readinto(into)


@pytest.mark.parametrize("verify", [True, False])
def test_only_the_bytes_of_a_part_are_read(verify, tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (5, 3, CHUNK // 4, 2), np.uint8)
    (tmp_path / "x").write_bytes(b"12345678" + array.tobytes())
    file = Counting(open(tmp_path / "x", "rb"))  # noqa: SIM115 closed below
    number = -(-array.nbytes // CHUNK)
    sums = [zlib.crc32(array.tobytes()[i * CHUNK : (i + 1) * CHUNK]) for i in range(number)]
    cuts = np.s_[1:2, :, :, :], np.s_[:, 2:3, :, :], np.s_[2:4, 0:2, 5:9, :], np.s_[:, :, :, 1:2], np.s_[0:0, :, :, :]
    for index in cuts:
        stored = Stored(Chunks(file, 8, array.nbytes, sums if verify else None), 0, array.dtype, array.shape)
        file.count = 0
        np.testing.assert_array_equal(stored[index], array[index])
        rows = array[index[:2]].nbytes  # cuts inside a row are read with the row
        assert file.count <= rows + (4 * CHUNK * (1 + rows // CHUNK) if verify else 0)
    file.file.close()


def test_several_devices_need_a_part_once():
    places = NamedSharding(jax.make_mesh((4, 2), ("x", "y")), P("x"))
    asked = []

    class Leaf:
        shape, dtype = (8, 2), np.dtype(np.float32)

        def __getitem__(self, index):
            asked.append(index)
            return np.ones((8, 2), np.float32)[index]

    model = jax.ShapeDtypeStruct((8, 2), np.float32, sharding=places)
    assert place(Leaf(), model).sharding == places
    assert len(asked) == 4
