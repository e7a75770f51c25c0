"""Files that two processes write together: every way to split, errors in one process, and what is left on the disk."""

import os
import signal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from functorch_optim.checkpoint import host, load_safetensors, load_torch, save_safetensors, save_torch
from tests.two_processes import world

ARRAYS = {
    "both": (np.arange(48, dtype=np.float32).reshape(8, 6), ("x", "y")),
    "last": (np.arange(12).reshape(3, 4) > 5, (None, "y")),
    "replicated": (np.ones(3, np.complex64), ()),
    "over_both": (np.arange(16, dtype=np.int32), (("x", "y"),)),
    "half": (np.arange(8).astype(ml_dtypes.bfloat16), ("x",)),
    "byte": (np.arange(8).astype(ml_dtypes.float8_e4m3fn), ("x",)),
    "scalar": (np.array(2.5, np.float32), ()),
    "empty": (np.zeros((0, 4), np.float32), (None, "y")),
    "large": (np.arange(1 << 20, dtype=np.float32).reshape(4, 1 << 9, 1 << 9), (None, "x", "y")),
}


def tree():
    arrays = {name: world.placed(array, *parts) for name, (array, parts) in ARRAYS.items()}
    keys = jax.random.split(jax.random.key(5), 4)
    data = world.placed(np.asarray(jax.random.key_data(keys)), "x")
    keys = jax.random.wrap_key_data(data)
    return {
        "arrays": arrays,
        "keys": keys,
        "key": jax.random.key(3),
        "epoch": 3,
        "count": jnp.int32(4),
        "own": np.arange(3),
    }


def check(found, placed):
    keys = (
        found["keys"] if placed is None else jax.random.wrap_key_data(world.whole(jax.random.key_data(found["keys"])))
    )
    assert jax.random.key_data(keys).tolist() == jax.random.key_data(jax.random.split(jax.random.key(5), 4)).tolist()
    assert found["epoch"] == 3 and found["count"] == 4 and found["own"].tolist() == [0, 1, 2]
    for name, (array, _) in ARRAYS.items():
        leaf = found["arrays"][name]
        if placed is None:
            assert leaf.dtype == array.dtype
            np.testing.assert_array_equal(leaf, array, err_msg=name)
            continue
        assert leaf.sharding == placed["arrays"][name].sharding
        assert found["keys"].sharding == placed["keys"].sharding
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), array[shard.index], err_msg=name)


def main(folder):
    given = tree()
    typed = {name: array for name, array in given["arrays"].items() if name != "byte"}
    plain = {"arrays": typed, **{key: given[key] for key in ("epoch", "count", "own")}}  # what torch's files can hold
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), given["arrays"]
    )
    for sharded in (False, True):
        path = f"{folder}/{'shards' if sharded else 'one'}.safetensors"
        for _ in range(2):  # the second replaces the first
            save_safetensors(given, path, sharded=sharded)
        check(load_safetensors(path, like=given), given)
        check(load_safetensors(path, like={**given, "arrays": abstract}), given)
        found = load_safetensors(path)
        check(found, None)
        assert found["keys"].shape == (4,)
        assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(given["key"]).tolist()
    save_torch(plain, f"{folder}/one.pt")
    found = load_torch(f"{folder}/one.pt", like=plain)
    for name, leaf in found["arrays"].items():
        assert leaf.sharding == given["arrays"][name].sharding
    before = sorted(os.listdir(folder))
    world.tell(folder, [*_refusals(given, plain, folder), *_interrupted(given, plain, folder)])
    left = [name for name in sorted(os.listdir(folder)) if not name.endswith((".txt", ".npz"))]
    assert left == [name for name in before if not name.endswith((".txt", ".npz"))]
    check(load_safetensors(f"{folder}/shards.safetensors", like=given), given)


def _refusals(given, plain, folder):
    """The messages of what the processes do not give alike, or what one cannot do."""
    rank = jax.process_index()
    own, one = f"{folder}/{rank}", f"{folder}/shards.safetensors"
    backwards = dict(reversed(plain.items())) if rank else plain
    turned = {**given, "split": world.placed(np.ones((4, 4), np.float32), *(("y", "x") if rank else ("x", "y")))}
    local = {**given, "both": np.ones(4, np.float32) if rank else world.placed(np.ones(4, np.float32), "x")}
    calls = [
        lambda: save_safetensors({**given, "bad": object() if rank else 1}, one),
        lambda: save_torch({**plain, "bad": 1 if rank else object()}, f"{folder}/one.pt"),
        lambda: _saved_nowhere(given, folder),
        lambda: save_safetensors({**given, "own": np.arange(3 + rank)}, one, sharded=True),
        lambda: save_safetensors({**given, "own": np.arange(3) + rank}, one),
        lambda: save_safetensors({**given, "epoch": 3 + rank}, one, sharded=True),
        lambda: save_safetensors({**given, **({"more": 1} if rank else {})}, one),
        lambda: save_safetensors(turned, one, sharded=True),
        lambda: save_safetensors(local, one, sharded=True),
        lambda: save_safetensors({"w": np.ones(3)} if rank else given, one, sharded=True),
        lambda: save_safetensors(given, own, sharded=True),
        lambda: save_safetensors(given, own),
        lambda: save_safetensors(given, one, sharded=bool(rank)),
        lambda: save_torch(backwards, f"{folder}/one.pt"),
        lambda: save_torch({**plain, "epoch": 3 + rank}, f"{folder}/one.pt"),
    ]
    return list(map(world.refused, calls))


def _interrupted(given, plain, folder):
    """What each process raises if one is interrupted while it copies from a device; then all goes on."""
    copy, messages = host._copy, []
    for who in (0, 1):
        for save in (
            lambda: save_safetensors(given, f"{folder}/one.safetensors"),
            lambda: save_safetensors(given, f"{folder}/shards.safetensors", sharded=True),
            lambda: save_torch(plain, f"{folder}/one.pt"),
        ):
            if jax.process_index() == who:
                host._copy = _raising
            messages.append(world.refused(save))
            host._copy = copy
    if jax.process_index():
        replace = os.replace
        os.replace = lambda *names: (os.kill(os.getpid(), signal.SIGINT), replace(*names))
    messages.append(world.refused(lambda: save_safetensors(given, f"{folder}/shards.safetensors", sharded=True)))
    if jax.process_index():
        os.replace = replace
        host._copy = lambda single: (os.kill(os.getpid(), signal.SIGINT), copy(single))[1]
    messages.append(world.refused(lambda: save_safetensors(given, f"{folder}/one.safetensors")))
    host._copy = copy
    unordered = dict(reversed(given.items())) if jax.process_index() else given
    save_safetensors(unordered, f"{folder}/one.safetensors")
    check(load_safetensors(f"{folder}/one.safetensors", like=given), given)
    return messages


def _raising(single):
    raise RuntimeError("interrupted")


def _saved_nowhere(given, folder):
    try:
        save_safetensors(given, f"{folder}/nowhere/x")
    except OSError as error:
        raise ValueError(f"OSError of this process: {error.strerror}") from error
