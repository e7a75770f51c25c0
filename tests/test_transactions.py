"""A step is a transaction: signals, exceptions at any line, failing closures, threads."""

import copy
import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.optim import transaction
from functorch_optim.optim.engine import histories
from tests.algorithms import FULL

PACKAGE = str(Path(fo.__file__).parent)


def loss(params):
    return sum(jnp.sum((leaf - 1.0) ** 2) for leaf in jax.tree.leaves(params))


def many(count=6, size=3):
    return {f"p{index}": jnp.arange(size, dtype=jnp.float32) + index for index in range(count)}


def composed(params):
    make = lambda lr: fo.chain(fo.clip_by_global_norm(1.0), fo.adam(lr=lr))  # noqa: E731
    return optim.Optimizer.from_transform(make, params, {"lr": 0.1})


MAKERS = {
    "adam": lambda: optim.Adam(many(), lr=0.1, foreach=False),
    "adam-packed": lambda: optim.Adam(many(), lr=0.1, foreach=True),
    "sgd-momentum": lambda: optim.SGD(many(), lr=0.1, momentum=0.9, foreach=False),
    "composition": lambda: composed(many()),
    "lbfgs": lambda: optim.LBFGS(many(), max_iter=2, history_size=3),
    "bfgs": lambda: optim.BFGS(many(2), max_iter=2),
}
each_engine = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def moved(optimizer):
    """Take one step of a kind that every engine supports; return the optimizer."""
    optimizer.step(loss)
    return optimizer


def snapshot(optimizer):
    return jax.tree.map(np.array, (optimizer.params, optimizer.state_dict()["state"], optimizer.grads))


def same(one, other):
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


class Injected(BaseException):
    pass


def in_commit(frame):
    """Whether a line belongs to the commit, which never raises and defers signals."""
    while frame is not None:
        if frame.f_code.co_name == "arguments":
            return False
        code = frame.f_code
        if code.co_filename == transaction.__file__:
            return True
        if code.co_filename.startswith(PACKAGE) and code.co_name.startswith("commit"):
            return True
        frame = frame.f_back
    return False


def inject():
    raise Injected


def lines_until_injected(number, action, act=inject):
    """Run ``action``, with ``act`` before its ``number``-th library line; return the line count, and if it raised."""
    seen = 0

    def trace(frame, event, arg):
        nonlocal seen
        if event == "call" and (not frame.f_code.co_filename.startswith(PACKAGE) or in_commit(frame)):
            return None
        if event == "line":
            seen += 1
            if seen == number:
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except Injected:
        return seen, True
    finally:
        sys.settrace(before)
    return seen, False


def actions(optimizer):
    fresh = {f"p{index}": leaf + 1 for index, leaf in enumerate(jax.tree.leaves(optimizer.params))}
    saved = optimizer.state_dict()
    return {
        "step": lambda: optimizer.step(loss),
        "load": lambda: optimizer.load_state_dict(saved),
        "backward": lambda: optimizer.backward(loss),
        "add": lambda: optimizer.add_param_group({"params": {"late": jnp.ones(2)}}),
        "params": lambda: setattr(optimizer, "params", fresh),
    }


WITHOUT_CLOSURES = [name for name in MAKERS if "bfgs" not in name]
CHANGES = [(name, action) for name in MAKERS for action in ("step", "load", "params")]
CHANGES += [(name, action) for name in WITHOUT_CLOSURES for action in ("backward", "add")]
SOME = [change for change in CHANGES if change[0] == "adam-packed" or change == ("composition", "load")]
SOME += [(name, "step") for name in ("adam", "composition", "lbfgs", "bfgs")]
LINES = int(os.environ.get("INJECTED_LINES", "8"))  # tested per change; raise it if you have time


@pytest.mark.parametrize(("engine", "action"), CHANGES if FULL else SOME)
def test_an_exception_at_any_line_leaves_the_optimizer_before_or_after(engine, action):
    only = moved(MAKERS[engine]())
    start = only.params, only.state_dict()

    def prepared():
        """Return an optimizer after its first step: the same one, because each compiles, unless it gets a group."""
        optimizer = moved(MAKERS[engine]()) if action == "add" else only
        optimizer.zero_grad()
        optimizer.params = start[0]
        optimizer.load_state_dict(start[1])
        if action == "backward":
            optimizer.backward(loss)
        return optimizer

    actions(prepared())[action]()  # compile first
    optimizer = prepared()
    before = snapshot(optimizer)
    total, _ = lines_until_injected(None, actions(optimizer)[action])
    after = snapshot(optimizer)
    assert total > 10
    for number in sorted({round(part) for part in np.linspace(1, total, min(LINES, total))}):
        optimizer = prepared()
        lines_until_injected(number, actions(optimizer)[action])
        found = snapshot(optimizer)
        assert same(found, before) or same(found, after), number
    optimizer.step(loss if "bfgs" in engine else None)  # it still works


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exception_at_any_line_leaves_an_average_before_or_after(dtype):
    model = {"w": jnp.ones(3, dtype), "v": jnp.zeros(2, dtype)}
    following = jax.tree.map(lambda leaf: leaf + 2, model)

    def prepared():
        averaged = optim.swa_utils.AveragedModel(model)
        averaged.update_parameters(model)
        return averaged

    def whole(averaged):
        return jax.tree.map(np.array, (averaged.params, averaged.state_dict()))

    prepared().update_parameters(following)
    averaged = prepared()
    before = whole(averaged)
    total, _ = lines_until_injected(None, lambda: averaged.update_parameters(following))
    after = whole(averaged)
    for number in range(1, total + 1, max(1, total // LINES)):
        averaged = prepared()
        lines_until_injected(number, lambda averaged=averaged: averaged.update_parameters(following))
        assert same(whole(averaged), before) or same(whole(averaged), after), number


@pytest.mark.full
@each_engine
def test_signals_at_random_moments_kill_nothing(make):
    optimizer = moved(moved(make()))
    random = np.random.default_rng(0)
    came, fired = 0, False

    def stop(*_):
        nonlocal fired
        fired = True
        raise Injected

    def stepping():  # a function, because on Python 3.13 an exception raised at a loop's jump escapes the try around it
        while not fired:
            optimizer.step(loss)

    held, interrupt = signal.signal(signal.SIGALRM, stop), signal.getsignal(signal.SIGINT)
    try:
        for _ in range(15):
            fired = False
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-3, 6e-3))
                stepping()
            except Injected:
                came += 1
            steps = {float(entry["step"]) for entry in optimizer.state.values() if "step" in entry}
            assert len(steps) <= 1
            whole = (optimizer.params, optimizer.state_dict()["state"])
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, held)
    assert came > 5 and signal.getsignal(signal.SIGINT) is interrupt


def test_handlers_wait_for_the_end_of_a_commit_and_all_are_called():
    calls = []

    def first(*_):
        calls.append("first")
        raise KeyboardInterrupt

    handlers = {
        signal.SIGUSR1: first,
        signal.SIGUSR2: lambda *_: calls.append("second"),
        signal.SIGINT: signal.default_int_handler,  # missing if the run is in the background
    }
    held = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117 signals come inside
            with transaction.Uninterrupted():
                signal.raise_signal(signal.SIGUSR1)
                signal.raise_signal(signal.SIGUSR2)
                calls.append("committed")
        assert calls == ["committed", "first", "second"]
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
            with transaction.Uninterrupted(committing=False):
                signal.raise_signal(signal.SIGUSR2)
                calls.append("other handlers wait")
                signal.raise_signal(signal.SIGINT)
                calls.append("nothing is gone, so that Ctrl-C comes at once")
        assert calls[3:] == ["other handlers wait", "second"]
        assert signal.getsignal(signal.SIGUSR1) is first
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def test_a_commit_off_the_main_thread_needs_no_signals():
    optimizer = optim.Adam(many(), lr=0.1)
    thread = threading.Thread(target=optimizer.step, args=(loss,))
    thread.start()
    thread.join()
    assert optimizer.state["p0"]["step"] == 1


@each_engine
def test_an_error_in_a_closure_leaves_the_optimizer_as_it_was(make):
    failing = [False]

    def read(x):
        if failing[0]:
            raise OSError("disk")
        return np.float32(0)

    def calling_back(params):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return loss(params) + jax.lax.stop_gradient(jax.pure_callback(read, shape, jnp.float32(0)))

    optimizer = make()
    for _ in range(2):
        optimizer.step(calling_back)
    before = snapshot(optimizer)
    failing[0] = True
    with pytest.raises((RuntimeError, ValueError), match="disk"):
        optimizer.step(calling_back)
    assert same(snapshot(optimizer), before)
    failing[0] = False
    optimizer.step(calling_back)
    reference = make()
    for _ in range(3):
        reference.step(loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), optimizer.params, reference.params)


def test_a_transformation_that_calls_back_may_fail():
    failing = [False]

    def read(x):
        if failing[0]:
            raise OSError("disk")
        return np.asarray(x)

    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda g: -jax.pure_callback(read, g, g), updates), state

    tx = fo.GradientTransformation(lambda params: (), update)
    optimizer = optim.Optimizer.from_transform(lambda lr: fo.chain(tx, fo.scale(lr)), many(2), {"lr": 0.1})
    optimizer.step(loss)
    before = snapshot(optimizer)
    failing[0] = True
    with pytest.raises((RuntimeError, ValueError), match="disk"):
        optimizer.step(loss)
    assert same(snapshot(optimizer), before)


@each_engine
def test_the_debugging_mode_for_nan_leaves_the_optimizer_as_it_was(make):
    optimizer = moved(make())
    before = snapshot(optimizer)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        optimizer.step(lambda params: jnp.log(-1.0 - loss(params)))
    assert same(snapshot(optimizer), before)


def test_a_lost_optimizer_says_so():
    optimizer = moved(optim.Adam(many(), lr=0.1))
    for leaf in jax.tree.leaves(optimizer._held.arrays()):
        leaf.delete()  # as after a device error in the middle of a step
    with pytest.raises(RuntimeError, match=r"the optimizer is lost: .* the parameter 'p0' is gone.* load_state_dict"):
        optimizer.step(loss)


@pytest.mark.parametrize("foreach", [False, True])
def test_steps_of_two_threads_come_one_after_the_other(foreach):
    optimizer = optim.SGD({"a": jnp.zeros(3), "b": jnp.zeros(2)}, lr=1.0, foreach=foreach)
    grads, errors = {"a": -jnp.ones(3), "b": -jnp.ones(2)}, []

    def work():
        try:
            for _ in range(100):
                optimizer.step(grads)
                assert float(optimizer.params["a"][0]) > 0  # readers see whole arrays
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and optimizer.params["a"].tolist() == [300.0] * 3
    assert optimizer.params["b"].tolist() == [300.0] * 2


def test_a_closure_that_calls_back_may_read_the_optimizer():
    optimizer = optim.LBFGS(many(2), max_iter=2)
    seen = []

    def note(value):
        reader = threading.Thread(target=lambda: seen.append(len(optimizer.params)))
        reader.start()
        reader.join(5.0)

    def closure(params):
        value = loss(params)
        jax.debug.callback(note, value)
        return value

    start = time.monotonic()
    optimizer.step(closure)
    assert set(seen) == {2} and time.monotonic() - start < 60.0


def test_what_a_handler_reads_while_a_step_compiles_stays():
    optimizer, kept = optim.Adam(many(), lr=0.1, foreach=True), []
    handler = lambda *_: kept.append((optimizer.params, optimizer.state_dict()))  # noqa: E731
    held = signal.signal(signal.SIGALRM, handler)
    try:
        for pause in (2e-3, 2e-2, 5e-2):
            signal.setitimer(signal.ITIMER_REAL, pause)
            while len(kept) == 0:
                optimizer.step(loss)
            before = jax.tree.map(np.array, kept[-1])
            optimizer.step(loss)
            jax.tree.map(np.testing.assert_array_equal, kept.pop(), before)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, held)


def test_a_handler_may_read_at_any_line_of_a_read():
    """Packed arrays are cut when read: another read in the middle of that loses nothing."""
    optimizer, seen = optim.Adam(many(), lr=0.1, foreach=True), []
    held = signal.signal(signal.SIGUSR1, lambda *_: seen.append(optimizer.params))
    raise_signal = functools.partial(signal.raise_signal, signal.SIGUSR1)

    def read_with_a_signal(number):
        """Return the parameters after one more step, and the read's line count; signal before line ``number``."""
        optimizer.step(loss)
        total, _ = lines_until_injected(number, lambda: seen.append(optimizer.params), raise_signal)
        return total

    try:
        total = read_with_a_signal(None)
        for number in range(1, total + 1):
            seen.clear()
            read_with_a_signal(number)
            assert len(seen) == 2 and same(seen[0], seen[1]) and len(jax.tree.leaves(seen)) == 12, number
    finally:
        signal.signal(signal.SIGUSR1, held)


@pytest.mark.parametrize("foreach", [False, True])
def test_reading_in_the_middle_of_a_step_loses_nothing(foreach):
    optimizer, reference = (optim.Adam(many(), lr=0.1, foreach=foreach) for _ in range(2))
    optimizer.step(loss)
    reference.step(loss)
    run = optimizer._transaction.run

    def reading(*args):
        assert optimizer.state_dict()["state"][0]["step"] == 1 and optimizer.state["p0"]["step"] == 1
        return run(*args)

    optimizer._transaction.run = reading
    optimizer.step(loss)
    reference.step(loss)
    assert same(snapshot(optimizer), snapshot(reference))


def test_a_closure_that_calls_back_may_save_the_optimizer():
    optimizer = optim.LBFGS(many(2), max_iter=2)
    seen = []

    def closure(params):
        value = loss(params)
        jax.debug.callback(lambda _: seen.append(len(optimizer.state_dict()["param_groups"])), value)
        return value

    optimizer.step(closure)
    assert set(seen) == {1}


def test_gradients_and_steps_of_several_threads_do_not_meet():
    optimizer, errors, over = optim.SGD(many(), lr=0.0), [], threading.Event()

    def until_over(action):
        try:
            while not over.is_set():
                action()
        except BaseException as error:
            errors.append(error)

    def clipped():
        optimizer.clip_grad_norm(1.0)
        optimizer.step()

    actions = (lambda: optimizer.backward(loss), clipped, lambda: optimizer.zero_grad(set_to_none=False))
    threads = [threading.Thread(target=until_over, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    time.sleep(2.0)
    over.set()
    for thread in threads:
        thread.join()
    assert not errors and np.isfinite(optimizer.grads["p0"]).all()


def test_collectives_are_no_callbacks():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")

    def summed(x):
        return jax.lax.psum(x, "x")

    function = jax.shard_map(summed, mesh=mesh, in_specs=spec, out_specs=jax.sharding.PartitionSpec())
    compiled = transaction.Compiled(lambda x: function(x) + 1, (0,))
    compiled.in_place(jnp.ones(2))
    assert not compiled.calls_back


@pytest.mark.parametrize("engine", MAKERS)
def test_a_copy_made_while_another_thread_steps_is_whole(engine):
    optimizer, errors = moved(MAKERS[engine]()), []

    def stepping():
        try:
            for _ in range(15):
                optimizer.step(loss)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=stepping)
    thread.start()
    for _ in range(5):
        twin = copy.deepcopy(optimizer)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(snapshot(twin)))
    thread.join()
    assert not errors


def test_averages_are_read_while_another_thread_updates_them():
    averaged, errors = optim.swa_utils.AveragedModel({"w": jnp.zeros(300)}), []
    averaged.update_parameters({"w": jnp.ones(300)})

    def updating():
        try:
            for _ in range(100):
                averaged.update_parameters({"w": jnp.ones(300)})
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=updating)
    thread.start()
    while thread.is_alive():
        held = (averaged.params, averaged.state_dict()["module.w"])
        assert all((np.asarray(leaf) == 1.0).all() for leaf in jax.tree.leaves(held))
    thread.join()
    assert not errors and averaged.n_averaged == 101


def deleted():
    array = jnp.ones(1)
    array.delete()
    return array


@pytest.mark.parametrize("count", [1, histories.FEWEST])
def test_a_failed_first_step_leaves_no_state(count):
    """What it prepared, with the options of that time, serves no later step."""
    optimizer = optim.Rprop([jnp.zeros(1) for _ in range(count)], lr=0.1)
    with pytest.raises(RuntimeError, match="deleted"):
        optimizer.step([deleted() for _ in range(count)])
    assert not optimizer.state and not optimizer.state_dict()["state"]
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step([jnp.ones(1) for _ in range(count)])
    assert [param.item() for param in optimizer.params] == [-0.5] * count


@pytest.mark.parametrize(("lr", "error"), [("x", TypeError), (0.1, RuntimeError)])
def test_writes_into_params_survive_a_failed_step(lr, error):
    optimizer = optim.SGD([jnp.ones(1)], lr=0.1)
    params = optimizer.params
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(error):
        optimizer.step([deleted()])
    optimizer.param_groups[0]["lr"] = 0.1
    params[0] = jnp.zeros(1)
    assert optimizer.params[0].item() == 0.0


def test_a_state_is_read_from_one_arrangement(monkeypatch):
    """Another thread may unpack at any moment; here the reader's own cut stands for it."""
    optimizer = optim.Adam(many(), lr=0.1, foreach=True)
    optimizer.step(loss)
    known, cut = optimizer._engine._known, histories.cut_all

    def unpack_first(*args):
        monkeypatch.setattr(histories, "cut_all", cut)
        known.each()
        return cut(*args)

    monkeypatch.setattr(histories, "cut_all", unpack_first)
    assert known.packs
    assert all(history is not None for history in known.read()) and not known.packs


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="the system has no such signal")
def test_a_handler_reads_while_a_pack_is_cut_for_the_first_time():
    optimizer = optim.Adam([jnp.zeros(7) + i for i in range(histories.FEWEST + 3)])
    optimizer.step([jnp.ones(7) for _ in optimizer.params])
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(optimizer.state_dict()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        found = optimizer.state_dict()
        while not seen:
            pass
    finally:
        signal.signal(signal.SIGALRM, before)
    assert same(found["state"], seen[0]["state"])


def test_a_copy_accumulates_into_gradients_of_its_own():
    optimizer = optim.SGD([jnp.ones(2)], lr=0.1)

    def square(params):
        return jnp.sum(params[0] ** 2)

    optimizer.backward(square)
    twin = copy.copy(optimizer)
    twin.backward(square)
    assert optimizer.grads[0].tolist() == [2.0, 2.0] and twin.grads[0].tolist() == [4.0, 4.0]
