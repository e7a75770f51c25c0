"""The sharded demo goes on after a kill on another mesh as if nothing had happened, and answers bad input shortly."""

import functools
import pathlib
import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

import functorch_optim as fo
from functorch_optim.demo.errors import DemoError
from functorch_optim.demo.progress import Progress
from functorch_optim.demo.sharded import __main__ as command
from functorch_optim.demo.sharded import layout, losses, picture, processes, text, training
from functorch_optim.demo.sharded.network import Config
from functorch_optim.demo.sharded.options import parse
from functorch_optim.demo.sharded.training import Run, train
from functorch_optim.demo.sharded.worker import as_text, from_text

SMALL = Config(width=16, layers=1, heads=8, length=8)


@pytest.fixture(autouse=True)
def usual_promotion(standard_promotion):
    """Run the demo as users do."""


def run_on(shape, folder, name, steps=4, **more):
    return Run(shape, SMALL, steps, 2, 8, folder / name, folder / "saved", is_resumed=False)._replace(**more)


@pytest.mark.full
def test_a_run_goes_on_on_another_mesh(tmp_path, monkeypatch):
    """The schedule belongs to the last step, so a run ends early here as a killed one does: in the middle."""
    whole = train(run_on((4, 2), tmp_path, "whole"), Progress())
    uninterrupted = losses.read(tmp_path / "whole")
    assert sorted(uninterrupted) == [1, 2, 3, 4]
    save = fo.checkpoint.save_safetensors
    monkeypatch.setattr(fo.checkpoint, "save_safetensors", lambda tree, path: save(tree, path) or interrupt())
    with pytest.raises(KeyboardInterrupt):
        train(run_on((4, 2), tmp_path, "killed"), Progress())
    monkeypatch.undo()
    resumed = train(run_on((2, 4), tmp_path, "resumed", is_resumed=True), Progress())
    later = losses.read(tmp_path / "resumed")
    assert sorted(later) == [3, 4] and resumed.step == 4
    assert losses.largest_difference(uninterrupted, losses.read(tmp_path / "killed")) == 0
    assert losses.largest_difference(uninterrupted, later) < command.TOLERANCE
    up = resumed.params["layers"][0]["up"]["kernel"]
    moment = fo.find_state(resumed.state, fo.AdamState).exp_avg["layers"][0]["up"]["kernel"]
    assert up.addressable_shards[0].data.shape == moment.addressable_shards[0].data.shape == (16, 16)
    assert whole.params["layers"][0]["up"]["kernel"].addressable_shards[0].data.shape == (16, 32)


def interrupt():
    raise KeyboardInterrupt


def test_a_checkpoint_is_read_by_a_tree_without_numbers(tmp_path, monkeypatch):
    """No state is made to be replaced."""
    mesh, tx = layout.make_mesh((4, 2)), training.make_optimizer(4)
    carry = training.start(tx, SMALL, mesh)
    fo.checkpoint.save_safetensors(carry._asdict(), tmp_path / "saved")
    asked = []
    load = fo.checkpoint.load_safetensors
    monkeypatch.setattr(fo.checkpoint, "load_safetensors", lambda path, like: asked.append(like) or load(path, like))
    again = training.resume(tx, SMALL, layout.make_mesh((2, 4)), tmp_path / "saved")
    (like,) = asked
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((like["params"], like["state"])))
    assert jax.tree.structure(again) == jax.tree.structure(carry)
    for old, new in zip(jax.tree.leaves(carry), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(leaf.sharding.mesh.shape["model"] == 4 for leaf in jax.tree.leaves((again.params, again.state)))


@pytest.mark.full
def test_the_start_is_the_same_on_every_mesh():
    one, other = (
        training.start(training.make_optimizer(4), SMALL, layout.make_mesh(shape)) for shape in ((8, 1), (1, 8))
    )
    for here, there in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(here, there)


def test_a_batch_depends_on_its_step_alone_and_tokens_are_ascii():
    tokens = text.load_tokens(text.HELD_OUT)
    assert tokens.dtype == np.int32 and tokens.min() >= 0 and tokens.max() < text.VOCABULARY
    batches = [text.batch_of(step, tokens, 4, 8) for step in (0, 1, 1)]
    assert batches[0].shape == (4, 9)
    np.testing.assert_array_equal(batches[1], batches[2])
    assert (batches[0] != batches[1]).any()
    assert "".join(map(chr, tokens[:200])).count("\n") > 2


def test_every_mesh_of_eight_devices_splits_the_network():
    for shape in ((8, 1), (4, 2), (2, 4), (1, 8)):
        mesh = layout.make_mesh(shape)
        shapes = jax.eval_shape(functools.partial(training.init_params, SMALL), jax.random.key(0))
        places = layout.shardings(shapes, mesh)
        for leaf, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True):
            place.shard_shape(leaf.shape)
        assert places["layers"][0]["down"]["kernel"] == NamedSharding(mesh, layout.RULES[1][1])


def test_a_run_is_told_to_a_process_whole(tmp_path):
    for run in (run_on((4, 2), tmp_path, "log"), run_on((2, 4), tmp_path, "log", checkpoint=None, is_resumed=True)):
        assert from_text(as_text(run)) == run


def test_a_killed_process_leaves_whole_lines(tmp_path):
    path = tmp_path / "losses"
    assert losses.read(path) == {}
    losses.append(path, 1, 0.1)
    losses.append(path, 2, 1 / 3)
    path.write_text(path.read_text() + "3 0.12")
    assert losses.read(path) == {1: 0.1, 2: 1 / 3}


@pytest.mark.full
def test_the_command_kills_resumes_and_compares(tmp_path, capfd):
    arguments = ["--steps", "120", "--width", "16", "--layers", "1", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    assert re.search(r"^uninterrupted on a mesh of 4 x 2: every device holds 0\.\d of 0\.\d MB", output, re.MULTILINE)
    last = int(re.search(r"^killed after step (\d+) \(SIGKILL\)$", output, re.MULTILINE)[1])
    saved = int(re.search(r"^resumed from step (\d+) on a mesh of 2 x 4", output, re.MULTILINE)[1])
    assert 60 <= saved <= last < 120
    assert len(re.findall(r"^step 120/120  mean loss \d\.\d{4}  0:00 left$", output, re.MULTILINE)) == 2
    assert "0.0e+00 until the kill, on the same mesh\n" in output
    assert (tmp_path / picture.NAME).read_bytes().startswith(b"\x89PNG")
    assert sorted(losses.read(tmp_path / "resumed.txt")) == list(range(saved + 1, 121))


@pytest.mark.full
def test_a_run_that_ends_by_itself_is_told(tmp_path):
    bad = run_on((4, 2), tmp_path / "nowhere", "log")
    with pytest.raises(DemoError, match=r"the run to be killed ended with status 2"):
        processes.kill_after(bad, 1)
    with pytest.raises(DemoError, match=r"the run on 4 x 2 devices ended with status 2"):
        processes.finish(bad)


def test_losses_that_do_not_continue_fail_the_command(tmp_path, capsys, monkeypatch):
    whole = dict.fromkeys(range(1, 5), 1.0)
    monkeypatch.setattr(picture, "plot", lambda *_: None)
    for value, status in ((1.0, 0), (1.0 + 2 * command.TOLERANCE, 2), (float("nan"), 2)):
        three = whole, {1: 1.0, 2: 1.0}, {3: 1.0, 4: value}
        monkeypatch.setattr(command, "train_three_times", lambda options, three=three: three)
        assert command.main(["--out", str(tmp_path)]) == status
        output = capsys.readouterr()
        assert "1e-05 is allowed" in output.out
        assert output.err.startswith("error: the losses do not continue: they differ by " if status else "")


def test_the_picture_has_three_runs_and_the_kill():
    whole = {step: 3.0 / step for step in range(1, 9)}
    killed, resumed = {step: whole[step] for step in range(1, 6)}, {step: whole[step] + 1e-7 for step in range(5, 9)}
    loss, difference = picture.draw(whole, killed, resumed, 1e-5).axes
    assert [list(line.get_xdata()) for line in loss.lines[:3]] == [list(whole), list(killed), list(resumed)]
    assert list(difference.lines[0].get_ydata()) == [picture.FLOOR] * 5
    np.testing.assert_allclose(difference.lines[1].get_ydata(), 1e-7, rtol=1e-6)
    assert loss.get_ylabel() and difference.get_ylabel() and difference.get_xlabel() == "step"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mesh", "4x4"], "--mesh must be a mesh of 8 devices, such as 4x2, but it is '4x4'"),
        (["--then", "two"], "--then must be a mesh of 8 devices, such as 4x2, but it is 'two'"),
        (["--steps", "3"], "--steps must be at least 24, but it is 3"),
        (["--width", "20"], "--width must be a multiple of the 8 heads, but it is 20"),
        (["--layers", "0"], "--layers must be at least 1, but it is 0"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    assert command.main(arguments) == 2
    output = capsys.readouterr()
    assert output.err == f"error: {message}\n" and output.out == ""


def test_help_shows_every_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = dict(re.findall(r"^  --(\w+)[^(]*\(default: (.*)\)$", capsys.readouterr().out, re.MULTILINE))
    defaults = {name: value for name, value in vars(parse([])).items() if name not in ("mesh", "then")}
    assert shown == {name: str(value) for name, value in defaults.items()} | {"mesh": "4x2", "then": "2x4"}
    assert defaults["out"] == pathlib.Path("runs/sharded")
