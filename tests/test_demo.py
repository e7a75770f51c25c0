"""The demo learns, resumes bit for bit, and answers bad input in one line."""

import pathlib
import re

import jax
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim.checkpoint import load_torch, save_torch
from functorch_optim.demo import checkpoint, data
from functorch_optim.demo.__main__ import main
from functorch_optim.demo.network import init_params
from functorch_optim.demo.optimizers import DEFAULT_LR, make_optimizer
from functorch_optim.demo.training import train
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


@pytest.mark.full
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, capsys):
    assert run(capsys, "--epochs", 2, "--out", tmp_path / "whole")[0] == 0
    assert run(capsys, "--epochs", 1, "--out", tmp_path / "parts")[0] == 0
    status, output = run(capsys, "--epochs", 2, "--out", tmp_path / "parts", "--resume")
    assert status == 0
    assert "epoch 1/2" not in output.err
    assert same(*(load_torch(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts")))
    assert (tmp_path / "parts" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("optimizer", ["adamw", *full("sgd", "adam")])
def test_learns(optimizer, tmp_path):
    result = train(optimizer, DEFAULT_LR[optimizer], 8, False, tmp_path)
    assert result.accuracy >= 0.95


@pytest.mark.parametrize("optimizer", ["adam", *full("sgd", "adamw")])
def test_the_torch_face_trains_the_same(optimizer, tmp_path, monkeypatch):
    """From the start, and from a checkpoint. Few batches: when a ReLU switches, a difference of 6e-8 in the parameters
    becomes one of 6e-3 in the gradient, and that happens within an epoch or two."""
    all_batches = data.batches
    monkeypatch.setattr(data, "batches", lambda epoch, digits: all_batches(epoch, digits)[:4])
    first = train(optimizer, DEFAULT_LR[optimizer], 1, False, tmp_path)
    resumed = train(optimizer, DEFAULT_LR[optimizer], 3, True, tmp_path)
    for result in (first, resumed):
        assert max(result.differences) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adagrad2"], "unknown optimizer 'adagrad2': choose one of sgd, adam, adamw"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--lr", "-1"], "Invalid learning rate: -1.0"),
        (["--resume"], "there is no checkpoint"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, tmp_path, capsys):
    status, output = run(capsys, *arguments, "--out", tmp_path)
    assert status == 2
    assert output.err.startswith("error: ") and message in output.err
    assert output.err.count("\n") == 1


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


def _other_history(path):
    saved = load_torch(path)
    save_torch({**saved, "run": {**saved["run"], "history": np.zeros(3)}}, path)


def _other_optimizer(path):
    saved = load_torch(path)
    save_torch({**saved, "run": {**saved["run"], "optimizer": "sgd"}}, path)


def _other_network(path):
    saved = load_torch(path)
    arrays = {name: array[:1] if "conv1" in name else array for name, array in saved["arrays"].items()}
    save_torch({**saved, "arrays": arrays}, path)


@pytest.mark.parametrize(
    "damage",
    [_truncate, _flip, _empty, _text, _foreign, _list, _other_types, _other_history, _other_optimizer, _other_network],
)
def test_a_bad_checkpoint_is_one_line(damage, tmp_path, capsys):
    params = init_params(0)
    state = make_optimizer("adamw", 2e-3, 45).init(params)
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, (params, state), {"optimizer": "adamw", "lr": 2e-3, "epoch": 1, "history": np.zeros((1, 4))})
    loaded, _ = checkpoint.load(path, (params, state), "adamw", 2e-3)
    assert jax.tree.structure(loaded) == jax.tree.structure((params, state))
    damage(path)
    status, output = run(capsys, "--resume", "--epochs", 2, "--out", tmp_path)
    assert status == 2
    assert output.err.startswith("error: ") and str(path) in output.err
    assert output.err.count("\n") == 1
