"""The demo learns, resumes bit for bit, tells how it goes, and answers bad input in one line."""

import errno
import os
import pathlib
import pty
import re
import shlex
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim.checkpoint import load_torch, save_torch
from functorch_optim.demo import checkpoint, data, plot, training
from functorch_optim.demo.__main__ import command_to_resume, main, parse, tell_result
from functorch_optim.demo.curves import Comparison, Curves
from functorch_optim.demo.network import init_params
from functorch_optim.demo.optimizers import DEFAULT_LR, make_optimizer, make_schedule
from functorch_optim.demo.training import Training, train
from tests.algorithms import full
from tests.equality import same


@pytest.fixture(autouse=True)
def usual_promotion(standard_promotion):
    """Run the demo as users do."""


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr()


def test_the_library_knows_nothing_of_the_demo():
    package = pathlib.Path(fo.__file__).parent
    sources = [path for path in package.rglob("*.py") if not path.is_relative_to(package / "demo")]
    assert sources
    assert not [path for path in sources if re.search(r"\b(argparse|demo)\b", path.read_text())]


@pytest.fixture
def few_steps(monkeypatch):
    """Let an epoch have four steps, and the picture be empty, since it takes a second."""
    monkeypatch.setattr(data, "steps_per_epoch", lambda digits: 4)
    monkeypatch.setattr(plot, "plot", lambda path, *_: path.write_bytes(b""))


@pytest.mark.full
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adam"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(optimizer, tmp_path, capsys, few_steps):
    """And the torch face trains the same, from the start and from a checkpoint. Few steps: when a ReLU switches, a
    difference of 6e-8 in the parameters becomes one of 6e-3 in the gradient, and that happens within an epoch or two.
    """
    whole, parts, lr = tmp_path / "whole", tmp_path / "parts", DEFAULT_LR[optimizer]
    runs = [train(optimizer, lr, epochs, False, out) for epochs, out in ((3, whole), (1, parts))]
    capsys.readouterr()
    runs.append(train(optimizer, lr, 3, True, parts))
    output = capsys.readouterr().out
    assert f"resuming after epoch 1 from {parts / 'checkpoint.pt'}\n" in output
    assert re.findall(r"^epoch (./.)", output, re.MULTILINE) == ["2/3", "3/3"]
    assert same(*(load_torch(out / "checkpoint.pt") for out in (whole, parts)))
    assert [len(result.differences) for result in runs] == [3, 1, 2]
    for result in runs:
        assert max(result.differences) < 1e-5


@pytest.mark.parametrize("optimizer", ["adamw", *full("sgd", "adam")])
def test_learns(optimizer, tmp_path):
    result = train(optimizer, DEFAULT_LR[optimizer], 8, False, tmp_path)
    assert result.accuracy >= 0.95
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    curves = load_torch(tmp_path / "checkpoint.pt")["run"]["curves"]
    schedule = make_schedule(DEFAULT_LR[optimizer], 44)
    np.testing.assert_allclose(curves["rate"], [float(schedule(step)) for step in range(8 * 44)], rtol=1e-6)


EPOCH = r"loss \d+\.\d{4}  accuracy \d+\.\d\d%  rate \d\.\d\de-\d\d  \d+:\d\d left"


def test_a_log_has_a_line_an_epoch_and_a_summary(tmp_path, capsys, few_steps):
    (tmp_path / "checkpoint.pt").write_bytes(b"that of an earlier run")
    status, output = run(capsys, "--epochs", 10, "--out", tmp_path)
    assert status == 0
    assert output.err == ""
    assert "\r" not in output.out
    images, about, anew, functional, *epochs, torch, both, empty, accuracy, difference, files, more = (
        output.out.splitlines()
    )
    assert images == "1,437 handwritten digits to learn from, 360 to test on"
    assert about.endswith("adamw, learning rate 0.002 at its peak")
    assert (
        anew == f"starting anew: the first epoch replaces {tmp_path / 'checkpoint.pt'}, which --resume would continue"
    )
    assert functional.startswith("functional face: ")
    assert len(epochs) == 10
    for number, line in enumerate(epochs, 1):
        assert re.fullmatch(rf"epoch {number:>2}/10  {EPOCH}", line)
    assert epochs[-1].endswith("  0:00 left")
    assert torch.startswith("torch face: ")
    assert re.fullmatch(r"10 epochs  loss \d\.\d{4}  accuracy \d+\.\d\d%  0:00 left", both)
    assert empty == ""
    assert re.fullmatch(r"test accuracy \d+\.\d\d% after epoch 10, in \d+ s", accuracy)
    number = r"\d\.\de[-+]\d\d"
    assert re.fullmatch(rf"largest difference .*: {number} after epoch 1, {number} after epoch 10", difference)
    assert files == f"wrote {tmp_path / 'curves.png'} and {tmp_path / 'checkpoint.pt'}"
    assert more.startswith("to train on: ")
    options = resumption(more)
    assert (options.epochs, options.resume, options.out) == (20, True, tmp_path)


def test_a_large_difference_is_explained(capsys):
    for difference, lines in ((9e-5, 0), (2e-4, 1)):
        tell_result(training.Result({}, 0.9, np.array([1e-7, difference])), parse([]), 1.0)
        output = capsys.readouterr().out
        assert f"1.0e-07 after epoch 29, {difference:.1e} after epoch 30\n" in output
        assert output.count("rounding errors grow at the kinks of ReLU and max pooling") == lines


@pytest.mark.full
def test_sgd_grows_as_far_apart_from_a_start_changed_in_its_last_bit():
    """Hence a large difference between the faces needs no other cause than rounding."""
    digits = data.load_digits()
    step = training.make_step(make_optimizer("sgd", DEFAULT_LR["sgd"], 44))
    ends = []
    for scale in (1, 1 + np.finfo(np.float32).eps):
        params = jax.tree.map(lambda leaf, scale=scale: leaf * np.float32(scale), init_params(0))
        state = make_optimizer("sgd", DEFAULT_LR["sgd"], 44).init(params)
        for epoch in range(6):
            for batch in data.batches(epoch, digits):
                images, labels = digits.train_images[batch], digits.train_labels[batch]
                params, state, *_ = step(params, state, images, labels)
        ends.append(jax.device_get(params))
    assert training.largest_difference(*ends) > 1e-3


def resumption(line):
    """Return the options of the command at a line's end, which runs this Python."""
    interpreter, dash_m, module, *arguments = shlex.split(re.search(r"[Tt]o (train on|continue): (.*)", line)[2])
    assert pathlib.Path(interpreter).resolve() == pathlib.Path(sys.executable).resolve()
    assert (dash_m, module) == ("-m", "functorch_optim.demo")
    return parse(arguments)


def test_a_command_to_resume_has_every_option_that_differs_from_its_default(tmp_path):
    arguments = ["--optimizer", "sgd", "--lr", "0.03", "--out", str(tmp_path / "a folder")]
    for given in ([], arguments):
        options = parse(given)
        again = resumption(f"to train on: {command_to_resume(options, 7)}")
        assert vars(again) == {**vars(options), "resume": True, "epochs": 7}


def test_a_terminal_has_a_bar_an_epoch_and_ctrl_c_says_how_to_go_on(tmp_path):
    leader, terminal = pty.openpty()
    command = [sys.executable, "-m", "functorch_optim.demo", "--out", tmp_path]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown, sent = "", False
    while part := _read(leader):
        shown += part
        if "epoch  3/30" in shown and not sent:
            process.send_signal(signal.SIGINT)
            sent = True
    os.close(leader)
    assert process.wait() == 130
    assert "Traceback" not in shown
    *lines, last = [line.split("\r")[-1] for line in shown.replace("\r\n", "\n").rstrip("\n").split("\n")]
    message = rf"interrupted: {tmp_path}/checkpoint.pt has (\d) of 30 epochs\. To continue: .*"
    epochs = int(re.fullmatch(message, last)[1])
    assert epochs >= 2
    assert resumption(last).epochs == 30
    assert load_torch(tmp_path / "checkpoint.pt")["run"]["epoch"] == epochs
    bars = [line for line in lines if line.startswith("epoch")]
    assert epochs <= len(bars) <= epochs + 1
    for number, line in enumerate(bars[:2], 1):
        assert re.fullmatch(rf"epoch  {number}/30  █+  {EPOCH}", line)
        assert len(line) == 80


def _read(leader):
    """Read what a terminal shows; nothing when all programs have closed it."""
    try:
        return os.read(leader, 65536).decode(errors="replace")
    except OSError:
        return ""


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_interruption_before_the_first_checkpoint_promises_none(tmp_path, capsys, few_steps, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    monkeypatch.setattr(checkpoint, "save", interrupt)
    message = "interrupted: no epoch has ended, so there is no checkpoint of this run"
    status, output = run(capsys, "--epochs", 1, "--out", tmp_path)
    assert (status, output.err) == (130, f"{message}\n")
    monkeypatch.undo()
    path.write_bytes(b"that of an earlier run")
    monkeypatch.setattr(data, "load_digits", interrupt)
    status, output = run(capsys, "--epochs", 1, "--out", tmp_path)
    assert (status, output.err) == (130, f"{message}; {path} is an earlier run's\n")
    status, output = run(capsys, "--epochs", 1, "--out", tmp_path, "--resume")
    assert (status, output.err) == (130, f"interrupted: {path} is no checkpoint of this demo\n")


def test_after_the_last_epoch_nothing_is_left_but_more_epochs(tmp_path, capsys, few_steps, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    monkeypatch.setattr(Training, "as_in_torch", interrupt)
    status, output = run(capsys, "--epochs", 2, "--out", tmp_path)
    message = f"{path} has all 2 epochs. To train on: "
    assert status == 130
    assert output.err.startswith(f"interrupted: {message}") and resumption(output.err)
    assert (tmp_path / "curves.png").exists()
    content = path.read_bytes()
    for epochs in (1, 2):
        status, output = run(capsys, "--epochs", epochs, "--out", tmp_path, "--resume")
        assert status == 0
        message = f"nothing left to do: {path} has 2 epochs, and --epochs is {epochs}. To train on: "
        assert output.out.startswith(message) and output.out.count("\n") == 1
        assert resumption(output.out).epochs == 12
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adagrad2"], "unknown optimizer 'adagrad2': choose one of sgd, adam, adamw"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--lr", "-1"], "Invalid learning rate: -1.0. --lr must be finite and at least 0"),
        (["--lr", "nan"], "Invalid learning rate: nan"),
        (["--resume"], "there is no checkpoint"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, tmp_path, capsys):
    status, output = run(capsys, *arguments, "--out", tmp_path)
    assert status == 2
    assert output.err.startswith("error: ") and message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_help_shows_every_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(["--help"])
    rates = "0.1 with sgd, 0.002 with adam, 0.002 with adamw"
    defaults = re.findall(r"^  --(\w+)[^(]*\(default: (.*)\)$", capsys.readouterr().out, re.MULTILINE)
    assert dict(defaults) == {
        "optimizer": "adamw",
        "epochs": "30",
        "lr": rates,
        "resume": "start anew",
        "out": "runs/demo",
    }


def test_an_unwritable_folder_is_found_before_training(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    folder = tmp_path / "folder"
    (folder / "curves.png").mkdir(parents=True)
    for out, message in (
        (file, f"cannot write {file}: File exists"),
        (file / "below", f"cannot write {file / 'below'}: Not a directory"),
        (folder, f"cannot write {folder / 'curves.png'}: it is not a file"),
    ):
        status, output = run(capsys, "--out", out)
        assert status == 2
        assert output.err.startswith(f"error: {message}. ") and output.err.count("\n") == 1
        assert "--out" in output.err
        assert output.out == ""


def test_a_full_disk_is_one_line(tmp_path, capsys, few_steps, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fo.checkpoint, "save_torch", full_disk)
    status, output = run(capsys, "--epochs", 1, "--out", tmp_path)
    assert status == 2
    message = f"error: cannot write {tmp_path / 'checkpoint.pt'}: No space left on device. "
    assert output.err.startswith(message) and output.err.count("\n") == 1


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, capsys, few_steps, monkeypatch):
    monkeypatch.setattr(training, "init_params", lambda seed: jax.tree.map(lambda leaf: leaf * np.nan, init_params(0)))
    status, output = run(capsys, "--epochs", 2, "--out", tmp_path)
    assert status == 2
    assert output.err == "error: the mean loss of epoch 1 is nan: pass a lower --lr than 0.002\n"
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_picture_shows_every_step_both_faces_and_their_difference():
    rng = np.random.default_rng(0)
    curves = Curves(rng.uniform(1, 2, 12), np.arange(12.0), rng.uniform(0.5, 1, 3))
    comparison = Comparison(1, curves.mean_loss[1:], curves.accuracy[1:], np.array([1e-7, 2e-7]))
    figure = plot.draw("adamw", curves, comparison)
    loss, accuracy, rate, difference = figure.axes
    assert all((axis.get_title() or axis.get_title(loc="left")) and axis.get_ylabel() for axis in figure.axes)
    assert [axis.get_xlabel() for axis in (rate, difference)] == ["step (4 an epoch)"] * 2
    steps, functional, torch_face = loss.lines
    assert same(steps.get_ydata(), curves.loss)
    assert same(functional.get_ydata(), curves.mean_loss)
    assert same(torch_face.get_ydata(), comparison.mean_loss)
    assert torch_face.is_dashed() and torch_face.get_zorder() >= functional.get_zorder()
    assert [line.get_xdata().tolist() for line in accuracy.lines] == [[4, 8, 12], [8, 12]]
    assert same(rate.lines[0].get_ydata(), curves.rate)
    assert same(difference.lines[0].get_ydata(), comparison.difference)
    assert not any(axis.get_legend() for axis in figure.axes)
    assert [text.get_text() for text in figure.legends[0].texts] == ["each step", "functional face", "torch face"]


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("this is not a checkpoint")


def _foreign(path):
    save_torch({"weights": np.zeros(3)}, path)


def _list(path):
    save_torch([np.zeros(3)], path)


def _other_types(path):
    saved = load_torch(path)
    save_torch({**saved, "run": {**saved["run"], "epoch": "1"}}, path)


def _other_curves(path):
    saved = load_torch(path)
    curves = {**saved["run"]["curves"], "accuracy": np.zeros(2)}
    save_torch({**saved, "run": {**saved["run"], "curves": curves}}, path)


def _other_optimizer(path):
    saved = load_torch(path)
    save_torch({**saved, "run": {**saved["run"], "optimizer": "sgd"}}, path)


def _other_network(path):
    saved = load_torch(path)
    arrays = {name: array[:1] if "conv1" in name else array for name, array in saved["arrays"].items()}
    save_torch({**saved, "arrays": arrays}, path)


@pytest.mark.parametrize(
    "damage",
    [_truncate, _flip, _empty, _text, _foreign, _list, _other_types, _other_curves, _other_optimizer, _other_network],
)
def test_a_bad_checkpoint_is_one_line(damage, tmp_path, capsys):
    params = init_params(0)
    state = make_optimizer("adamw", 2e-3, 45).init(params)
    path = tmp_path / "checkpoint.pt"
    curves = Curves(np.zeros(4), np.zeros(4), np.zeros(1))
    checkpoint.save(path, (params, state), "adamw", 2e-3, curves)
    loaded, again = checkpoint.load(path, (params, state), "adamw", 2e-3)
    assert jax.tree.structure(loaded) == jax.tree.structure((params, state))
    assert same(again, curves)
    damage(path)
    status, output = run(capsys, "--resume", "--epochs", 2, "--out", tmp_path)
    assert status == 2
    assert output.err.startswith("error: ") and str(path) in output.err
    assert output.err.count("\n") == 1
    assert output.err.endswith("run without --resume\n" if damage is _other_optimizer else f"{checkpoint.MEND}\n")
    assert "verify=" not in output.err
