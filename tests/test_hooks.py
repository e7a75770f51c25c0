"""Hooks around step, state_dict and load_state_dict: order, arguments and replacement as in torch."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from functorch_optim import optim
from functorch_optim.optim import optimizer as optimizer_module


def ours():
    return optim.SGD([jnp.ones(2)], lr=0.1), [jnp.ones(2)]


def theirs():
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    return torch.optim.SGD([parameter], lr=0.1), None


def globals_of(kind):
    if kind is ours:
        return optimizer_module
    return pytest.importorskip("torch.optim.optimizer", reason="compares with a live torch")


def recorded(kind):
    """Return the hook calls of a run, for every kind of hook, by name and with their arguments."""
    calls = []
    module = globals_of(kind)
    optimizer, grads = kind()

    def note(name, result=None):
        def hook(*args):
            calls.append((name, args[0] is optimizer, [type(arg).__name__ for arg in args[1:]]))
            return result

        return hook

    handles = [
        optimizer.register_step_pre_hook(note("pre 1")),
        module.register_optimizer_step_pre_hook(note("global pre")),
        optimizer.register_step_post_hook(note("post 1", "ignored")),
        module.register_optimizer_step_post_hook(note("global post", ("ignored", {}))),
        optimizer.register_step_pre_hook(note("pre 2")),
        optimizer.register_step_post_hook(note("post 2")),
        optimizer.register_state_dict_pre_hook(note("state pre")),
        optimizer.register_state_dict_pre_hook(note("state pre, first"), prepend=True),
        optimizer.register_state_dict_post_hook(note("state post")),
        optimizer.register_state_dict_post_hook(note("state post, first"), prepend=True),
        optimizer.register_load_state_dict_pre_hook(note("load pre")),
        optimizer.register_load_state_dict_pre_hook(note("load pre, first"), prepend=True),
        optimizer.register_load_state_dict_post_hook(note("load post")),
        optimizer.register_load_state_dict_post_hook(note("load post, first"), prepend=True),
    ]
    for remaining in (handles, []):
        optimizer.step(grads) if grads else optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        calls.append("end")
        for handle in remaining:
            handle.remove()
            handle.remove()
    return calls


def test_order_of_the_calls():
    calls = recorded(ours)
    assert all(own for _, own, _ in (call for call in calls if call != "end"))
    names = [call if call == "end" else call[0] for call in calls]
    assert names == [
        *("global pre", "pre 1", "pre 2", "post 1", "post 2", "global post"),
        *("state pre, first", "state pre", "state post, first", "state post"),
        *("load pre, first", "load pre", "load post, first", "load post"),
        *("end", "end"),
    ]


@pytest.mark.torch
def test_calls_are_torchs():
    assert recorded(ours) == recorded(theirs)


def test_a_pre_hook_replaces_the_arguments_of_the_step_and_of_the_hooks_after_it():
    optimizer, grads = ours()
    seen = []

    def double(own, args, kwargs):
        assert args[0] is own is optimizer
        assert args[1] is grads
        return (own, [2 * args[1][0]]), kwargs

    optimizer.register_step_pre_hook(double)
    optimizer.register_step_pre_hook(lambda own, args, kwargs: seen.append(args[1][0].tolist()))
    optimizer.register_step_post_hook(lambda own, args, kwargs: seen.append(args[1][0].tolist()))
    optimizer.step(grads)
    np.testing.assert_allclose(optimizer.params[0], [0.8, 0.8])
    assert seen == [[2.0, 2.0], [2.0, 2.0]]


def test_keyword_arguments_reach_the_hooks():
    optimizer, grads = ours()
    seen = []
    optimizer.register_step_pre_hook(lambda own, args, kwargs: seen.append((args, kwargs)))
    optimizer.step(closure=grads)
    assert seen == [((optimizer,), {"closure": grads})]


@pytest.mark.parametrize("result", [3, (1, 2, 3), [(), {}]])
def test_another_result_of_a_pre_hook_is_an_error(result):
    optimizer, grads = ours()
    optimizer.register_step_pre_hook(lambda *args: result)
    with pytest.raises(RuntimeError, match=r"must return None or a tuple of \(new_args, new_kwargs\), but got"):
        optimizer.step(grads)
    assert optimizer.params[0].tolist() == [1.0, 1.0]


def fail(*args):
    raise OSError("from the hook")


def test_a_pre_hook_that_raises_leaves_the_optimizer_and_a_post_hook_the_completed_step():
    optimizer, grads = ours()
    with optimizer.register_step_pre_hook(fail), pytest.raises(OSError, match="from the hook"):
        optimizer.step(grads)
    assert optimizer.params[0].tolist() == [1.0, 1.0]
    with optimizer.register_step_post_hook(fail), pytest.raises(OSError, match="from the hook"):
        optimizer.step(grads)
    np.testing.assert_allclose(optimizer.params[0], [0.9, 0.9])
    optimizer.step(grads)
    np.testing.assert_allclose(optimizer.params[0], [0.8, 0.8])


def test_state_dict_hooks_replace():
    optimizer, _ = ours()
    optimizer.register_state_dict_post_hook(lambda own, state: {**state, "note": 1})
    optimizer.register_state_dict_post_hook(lambda own, state: {**state, "note": state["note"] + 1})
    saved = optimizer.state_dict()
    assert saved["note"] == 2
    before = copy.deepcopy(saved)

    def faster(own, state):
        assert state is not saved  # a shallow copy, as in torch
        assert state["param_groups"] is saved["param_groups"]
        return {**state, "param_groups": [{**state["param_groups"][0], "lr": 9.0}]}

    optimizer.register_load_state_dict_pre_hook(faster)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 9.0
    assert saved == before


def test_a_failing_load_hook_leaves_the_optimizer():
    optimizer, _ = ours()
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = 5.0
    with optimizer.register_load_state_dict_pre_hook(fail), pytest.raises(OSError, match="from the hook"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_hooks_of_a_class_that_has_its_own_step_are_called_once():
    class Twice(optim.SGD):  # only the outermost step has hooks
        def step(self, grads):
            super().step(grads)
            return super().step(grads)

    optimizer, calls = Twice([jnp.ones(2)], lr=0.1), []
    optimizer.register_step_pre_hook(lambda *args: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *args: calls.append("post"))
    optimizer.step([jnp.ones(2)])
    assert calls == ["pre", "post"]
    np.testing.assert_allclose(optimizer.params[0], [0.8, 0.8])


def test_hooks_around_a_closure_engine_and_a_composition():
    for optimizer, call in (
        (optim.LBFGS([jnp.ones(2)]), lambda params: jnp.sum(params[0] ** 2)),
        (optim.Optimizer.from_transform(lambda lr: __import__("optax").sgd(lr), [jnp.ones(2)], {"lr": 0.1}), None),
    ):
        calls = []
        optimizer.register_step_pre_hook(lambda *args, calls=calls: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *args, calls=calls: calls.append("post"))
        optimizer.step(call or [jnp.ones(2)])
        assert calls == ["pre", "post"]


def test_hooks_are_neither_copied_nor_pickled():
    optimizer, grads = ours()
    optimizer.register_step_pre_hook(fail)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        twin.step(grads)
        twin.register_step_pre_hook(fail)
    with pytest.raises(OSError, match="from the hook"):
        optimizer.step(grads)


def test_the_step_is_named_in_the_profiler(tmp_path):
    optimizer, grads = ours()
    optimizer.step(grads)
    with jax.profiler.trace(str(tmp_path)):
        optimizer.step(grads)
        optimizer.zero_grad()
    trace = next(tmp_path.rglob("*.xplane.pb")).read_bytes()
    assert b"Optimizer.step#SGD.step" in trace
    assert b"Optimizer.zero_grad#SGD.zero_grad" in trace


def test_hooks_run_around_a_step_that_was_patched_into_the_class(monkeypatch):
    calls, before = [], optim.SGD.step

    def timed(self, *args, **kwargs):
        calls.append("timed")
        return before(self, *args, **kwargs)

    monkeypatch.setattr(optim.SGD, "step", timed)
    optimizer, grads = ours()
    optimizer.register_step_post_hook(lambda *_: calls.append("hook"))
    optimizer.step(grads)
    assert calls == ["timed", "hook"]
