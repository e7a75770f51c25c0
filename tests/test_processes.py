"""Steps, files and decisions of two processes are those of one."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from functorch_optim.checkpoint import load_safetensors
from tests.conftest import FLAGS
from tests.equality import relative
from tests.two_processes import world

pytestmark = pytest.mark.full


def run(scenario, folder, processes=2):
    """Run a scenario, and return what each process told. It is killed, and the test fails, if it hangs."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    # JAX stores compiled programs in process 0 only: with them it would be ahead of the others, and Gloo waits for
    # half a minute only.
    alike = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    flags = [*FLAGS[1:], f"--xla_force_host_platform_device_count={world.DEVICES // processes}"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.two_processes", scenario, str(rank), str(processes), port, str(folder)],
            cwd=Path(__file__).parents[1], env={**alike, "XLA_FLAGS": " ".join(flags)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    try:
        printed = [process.communicate(timeout=400)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, "\n\n".join(printed)
    files = [folder / f"{processes}-{rank}.txt" for rank in range(processes)]
    return [file.read_text().splitlines() for file in files if file.exists()]


def results(folder, processes):
    return [dict(np.load(folder / f"{processes}-{rank}.npz")) for rank in range(processes)]


def compare(folder, bounds):
    """Both processes have the same numbers, to the last bit, and one process has them to rounding.

    What has one of the words in ``bounds`` in its name is held to that bound, everything else to 1e-10.
    """
    one, other = results(folder, 2)
    (alone,) = results(folder, 1)
    assert one.keys() == other.keys() and one.keys() <= alone.keys()
    for name, array in one.items():
        assert np.array_equal(array, other[name]), name
        bound = next((bound for word, bound in bounds.items() if word in name), 1e-10)
        assert relative(array, alone[name]) < bound, name
    return one, alone


def test_lbfgs_steps_and_refuses_batches_that_differ(tmp_path):
    one, other = run("lbfgs", tmp_path)
    (alone,) = run("lbfgs", tmp_path, processes=1)
    assert one == other and len(one) == 4
    for line, same in ((one[0], alone[0]), (one[2], alone[2])):
        losses, expected = ([float(value) for value in told.split()[1:]] for told in (line, same))
        assert losses[-1] < 1e-2 * losses[0]
        assert losses[:2] == pytest.approx(expected[:2], rel=1e-5)
    for line in (one[1], one[3]):
        start = "ValueError: LBFGS.step over 2 processes: the closure's arguments are other numbers in each (leaf 0"
        assert line.startswith(start) and "wait for each other forever" in line


@pytest.mark.parametrize("scenario", ["every", "zero"])
def test_every_transformation_steps_and_is_saved_and_restored(scenario, tmp_path):
    run(scenario, tmp_path)
    run(scenario, tmp_path, processes=1)
    one, alone = compare(tmp_path, {"muon": 2e-2, "quantized": 5e-3})
    assert sum(name.startswith("end.") for name in one) > 300
    for name in [name for name in one if name.startswith("middle.")]:
        for form in ("torch.", "one_file."):
            assert np.array_equal(one[name], alone[name.replace("middle.", form)]), name


def test_the_torch_face(tmp_path):
    one, other = run("face", tmp_path)
    run("face", tmp_path, processes=1)
    compare(tmp_path, {"Muon": 2e-2, "statistics": 1e-6})  # flax computes statistics in float32
    assert len(one) == len(other) == 9
    assert one[6].startswith(
        "ValueError: ReduceLROnPlateau.step over 2 processes: the metric is another number in each"
    )
    assert other[6].startswith("ValueError: ReduceLROnPlateau.step: metrics must be a number, but it is 'no number'")
    for told in (one, other):
        assert told[7].startswith(
            "ValueError: SGD.step over 2 processes: the option 'lr' of group 0 is another number in"
        )
        assert told[8].startswith(
            "ValueError: LBFGS.step over 2 processes: the parameter 'b' is another number in each"
        )
    for told in (*one[:2], *other[:2], one[4], other[4], one[5], other[5]):
        assert told.startswith("ValueError: SGD.step over 2 processes: the closure's arguments are other numbers in ea")
    for told in (one[2], other[2]):
        assert told.startswith("ValueError: SGD.backward over 2 processes") and "own copy of the parameters" in told
    for rank, told in enumerate((one[3], other[3])):
        start = "ValueError: ReduceLROnPlateau.step over 2 processes: the metric is another number in each (here "
        assert told.startswith(f"{start}{float(rank)})")


def test_files_of_two_processes(tmp_path):
    one, other = run("files", tmp_path)
    bad, pickled, nowhere = zip(one[:3], other[:3], strict=True)
    failed = "CheckpointError: save_{} failed in process {} of 2: {}"
    assert bad[0].startswith(failed.format("safetensors", 1, "CheckpointError: 'bad' is 'object'"))
    assert bad[1].startswith("CheckpointError: 'bad' is 'object'")
    assert pickled[0].startswith("CheckpointError: 'bad' is 'object'")
    assert pickled[1].startswith(failed.format("torch", 0, "CheckpointError: 'bad' is 'object'"))
    assert nowhere[0] == "ValueError: OSError of this process: there is no such folder"
    assert nowhere[1].startswith(failed.format("safetensors", 0, "FileNotFoundError"))
    given = [
        ("'own': int64[3], which each holds alone, of the", "'own': int64[4], which"),
        ("'own': int64[3], which each holds alone, of the", "'own': int64[3], which"),
        ("'epoch': 3", "'epoch': 4"),
        ("'containers': {", "'more': 1"),
        ("'split': float32[4,4], split as ", "'split': float32[4,4], split as "),
        ("'both': float32[4], split as", "'both': float32[4], which each holds alone"),
        ("'arrays.both': float32[8,6], split", "'w': float64[3], which each holds alone"),
        ("'path': " + str(tmp_path / "0"), "'path': " + str(tmp_path / "1")),
        ("'path': " + str(tmp_path / "0"), "'path': " + str(tmp_path / "1")),
        ("'sharded': False", "'sharded': True"),
        ("'arrays.both': float32[8,6]", "'own': int64[3]"),
        ("'what is no array': of the checksum ", "'what is no array': of the checksum "),
    ]
    for rank, told in enumerate((one[3:], other[3:])):
        for message, wanted in zip(told, given, strict=False):
            assert "the processes give different trees or arguments" in message
            assert f"process {rank} of 2 gives {wanted[rank]}" in message, message
    for first, second in zip(one[-2:], other[-2:], strict=True):  # Ctrl-C in one process
        assert second.startswith("KeyboardInterrupt")
        assert first == failed.format("safetensors", 1, second)
    first, second = one[3 + len(given) : -2], other[3 + len(given) : -2]
    left = zip(first, second, ["safetensors", "safetensors", "torch"] * 2, strict=True)
    for number, (first, second, form) in enumerate(left):
        own, told = (second, first) if number >= 3 else (first, second)
        assert own == "RuntimeError: interrupted"
        assert told == failed.format(form, number // 3, own)
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".pt", ".safetensors"))
    assert [name for name in names if "-" not in name] == ["one.pt", "one.safetensors", "shards.safetensors"]
    assert len(names) == 5
    assert all(re.fullmatch(r"shards-[0-9a-f]{8}-0000[12]-of-00002\.safetensors", name) for name in names[2:4])
    for name in ("one", "shards"):  # one process without a mesh reads both
        found = load_safetensors(tmp_path / f"{name}.safetensors")
        assert found["arrays"]["both"].tolist() == np.arange(48.0).reshape(8, 6).tolist()
        sharded = load_safetensors(tmp_path / f"{name}.safetensors", like={**found, "arrays": {**found["arrays"]}})
        assert sharded["arrays"]["large"].sum() == found["arrays"]["large"].sum()
