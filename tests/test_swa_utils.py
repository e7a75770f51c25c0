"""``optim.swa_utils`` against torch's, on trees and on flax modules."""

import copy
import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.optim import swa_utils
from tests.equality import relative

with_torch = pytest.mark.torch
FUNCTIONS = {
    "default": lambda package: {},
    "swa": lambda package: {"avg_fn": package.get_swa_avg_fn()},
    "swa multi": lambda package: {"multi_avg_fn": package.get_swa_multi_avg_fn()},
    "ema": lambda package: {"avg_fn": package.get_ema_avg_fn(0.9)},
    "ema multi": lambda package: {"multi_avg_fn": package.get_ema_multi_avg_fn(0.9)},
    "own": lambda package: {"avg_fn": lambda averaged, current, n: averaged + (current - averaged) / (2 * (n + 1))},
}


def values(steps, dtype):
    rng = np.random.default_rng(0)
    return [
        {"w": rng.standard_normal((3, 4)).astype(dtype), "b": rng.standard_normal(5).astype(dtype)}
        for _ in range(steps)
    ], [rng.standard_normal(3).astype(dtype) for _ in range(steps)]


def torch_module(torch, tree, buffer):
    module = torch.nn.Module()
    for name, array in tree.items():
        module.register_parameter(name, torch.nn.Parameter(torch.tensor(array)))
    module.register_buffer("mean", torch.tensor(buffer))
    return module


def torch_set(torch, module, tree, buffer):
    with torch.no_grad():
        for name, array in {**tree, "mean": buffer}.items():
            getattr(module, name).copy_(torch.tensor(array))


def near(ours, theirs, dtype, ulp=2.0):
    return relative(ours, theirs) <= (1e-12 if dtype == "float64" else ulp * np.finfo(np.float32).eps)


@with_torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_60_updates_are_torchs(kind, use_buffers, dtype):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    trees, buffers = values(60, dtype)
    module = torch_module(torch, trees[0], buffers[0])
    theirs = torch.optim.swa_utils.AveragedModel(
        module, use_buffers=use_buffers, **FUNCTIONS[kind](torch.optim.swa_utils)
    )
    with jax.enable_x64(dtype == "float64"):
        first = jax.tree.map(jnp.asarray, trees[0])
        ours = swa_utils.AveragedModel(
            first, use_buffers=use_buffers, buffers={"mean": jnp.asarray(buffers[0])}, **FUNCTIONS[kind](swa_utils)
        )
        for tree, buffer in zip(trees, buffers, strict=True):
            torch_set(torch, module, tree, buffer)
            theirs.update_parameters(module)
            ours.update_parameters(jax.tree.map(jnp.asarray, tree), {"mean": jnp.asarray(buffer)})
            for key, tensor in theirs.state_dict().items():
                if key != "n_averaged":
                    assert near(ours.state_dict()[key], tensor.numpy(), dtype)
                    assert ours.state_dict()[key].dtype == dtype
        assert ours.n_averaged == int(theirs.n_averaged) == 60


@with_torch
@pytest.mark.parametrize("direction", ["theirs to ours", "ours to theirs", "ours to ours"])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_saved_and_continued(kind, direction, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    trees, buffers = values(20, "float64")

    def theirs():
        module = torch_module(torch, trees[0], buffers[0])
        averaged = torch.optim.swa_utils.AveragedModel(module, **FUNCTIONS[kind](torch.optim.swa_utils))

        def update(step):
            torch_set(torch, module, trees[step], buffers[step])
            averaged.update_parameters(module)

        return averaged, update

    def ours():
        averaged = swa_utils.AveragedModel(
            jax.tree.map(jnp.asarray, trees[0]), buffers={"mean": jnp.zeros(3)}, **FUNCTIONS[kind](swa_utils)
        )
        return averaged, lambda step: averaged.update_parameters(
            jax.tree.map(jnp.asarray, trees[step]), {"mean": jnp.asarray(buffers[step])}
        )

    kinds = {"theirs": theirs, "ours": ours}
    (source, update), (target, resume) = (kinds[part]() for part in direction.split(" to "))
    for step in range(10):
        update(step)
    saved = source.state_dict()
    if direction == "ours to theirs":
        saved = {key: torch.tensor(np.asarray(value)) for key, value in saved.items()}
    target.load_state_dict(copy.deepcopy(saved))
    for step in range(10, 20):
        update(step)
        resume(step)
    for key, value in source.state_dict().items():
        np.testing.assert_allclose(np.asarray(value), np.asarray(target.state_dict()[key]), rtol=1e-12, atol=1e-14)


def test_the_first_update_copies_and_what_went_in_and_came_out_stays():
    params = {"w": jnp.ones(3)}
    averaged = swa_utils.AveragedModel(params)
    averaged.update_parameters({"w": jnp.full(3, 5.0)})
    held, kept = averaged.params["w"], averaged.state_dict()["module.w"]
    assert held.tolist() == [5.0, 5.0, 5.0]
    given = {"w": jnp.full(3, 7.0)}
    averaged.update_parameters(given)
    averaged.update_parameters(given)
    np.testing.assert_allclose(averaged.params["w"], [19 / 3] * 3, rtol=1e-6)
    assert held.tolist() == kept.tolist() == [5.0] * 3
    assert params["w"].tolist() == [1.0] * 3
    assert given["w"].tolist() == [7.0] * 3


def test_an_average_of_a_tree_stays_in_its_buffer():
    averaged = swa_utils.AveragedModel({"w": jnp.ones(1000), "b": jnp.ones(10)})
    averaged.update_parameters({"w": jnp.ones(1000), "b": jnp.ones(10)})
    pointers = [leaf.unsafe_buffer_pointer() for leaf in averaged.params.values()]
    for _ in range(3):
        averaged.update_parameters({"w": jnp.zeros(1000), "b": jnp.ones(10)})
    assert [leaf.unsafe_buffer_pointer() for leaf in averaged.params.values()] == pointers


def test_updates_compile_once(compilations):
    averaged = swa_utils.AveragedModel({"w": jnp.ones(3)})
    params = {"w": jnp.zeros(3)}
    for _ in range(2):
        averaged.update_parameters(params)
    del compilations[:]
    for _ in range(5):
        averaged.update_parameters(params)
    assert not compilations


def test_low_precision_and_complex_parameters():
    first = {"h": jnp.ones(3, jnp.bfloat16), "c": jnp.array([1 + 1j, 2j], jnp.complex64)}
    for kind in FUNCTIONS:
        if kind == "own":
            continue  # the test's function is written for plain float32
        averaged = swa_utils.AveragedModel(first, **FUNCTIONS[kind](swa_utils))
        averaged.update_parameters(first)
        averaged.update_parameters(jax.tree.map(lambda x: x * 3, first))
        share = 0.1 if "ema" in kind else 0.5
        assert averaged.params["h"].dtype == jnp.bfloat16
        np.testing.assert_allclose(averaged.params["h"].astype(jnp.float32), 1 + 2 * share, rtol=4e-3)
        np.testing.assert_allclose(averaged.params["c"], first["c"] * (1 + 2 * share), rtol=1e-6)


NARROW = [jnp.bfloat16, jnp.float16]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("kind", ["ema", "ema multi", "swa", "swa multi"])
def test_averages_of_narrow_parameters_move(kind, dtype):
    """A share of 1e-3 is below half a unit in the last place of bfloat16; torch's average does not move."""
    functions = {
        "ema": {"avg_fn": swa_utils.get_ema_avg_fn(0.999)},
        "ema multi": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.999)},
        "swa": {"avg_fn": swa_utils.get_swa_avg_fn()},
        "swa multi": {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
    }
    averaged = swa_utils.AveragedModel({"w": jnp.ones(2, dtype)}, use_buffers=True, **functions[kind])
    averaged.update_parameters({"w": jnp.ones(2, dtype)})
    for _ in range(1000):
        averaged.update_parameters({"w": jnp.full(2, 2, dtype)})
    expected = 2 - 0.999**1000 if "ema" in kind else 2 - 1 / 1001
    np.testing.assert_allclose(averaged.state_dict()["module.w"], expected, rtol=1e-5)
    assert averaged.params["w"].dtype == averaged.module["w"].dtype == dtype
    assert averaged.params["w"][0] == jnp.asarray(expected, dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_averages_of_a_narrow_module_run_in_its_dtype(dtype):
    def module(value):
        linear = nnx.Linear(2, 1, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
        linear.kernel[...] = jnp.full((2, 1), value, dtype)
        return linear

    averaged = swa_utils.AveragedModel(module(1), multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.999))
    for value in (1, *[2] * 100):
        averaged.update_parameters(module(value))
    expected = 2 - 0.999**100
    np.testing.assert_allclose(averaged.state_dict()["module.kernel"], expected, rtol=1e-5)
    assert averaged.module.kernel[...].dtype == averaged(jnp.ones((1, 2), dtype)).dtype == dtype
    copied = copy.deepcopy(averaged)
    for one in (averaged, copied):
        one.update_parameters(module(2))
        np.testing.assert_allclose(one.state_dict()["module.kernel"], 2 - 0.999**101, rtol=1e-5)
    averaged.module.kernel[...] = jnp.full((2, 1), 5, dtype)  # a value written there becomes the average
    assert averaged.state_dict()["module.kernel"].tolist() == [[5.0], [5.0]]


def test_a_narrow_average_is_saved_and_continued_in_float32():
    function = swa_utils.get_ema_multi_avg_fn(0.999)
    source = swa_utils.AveragedModel({"w": jnp.zeros(1, jnp.bfloat16)}, multi_avg_fn=function)
    target = swa_utils.AveragedModel({"w": jnp.zeros(1, jnp.bfloat16)}, multi_avg_fn=function)
    for value in (1, *[2] * 50):
        source.update_parameters({"w": jnp.full(1, value, jnp.bfloat16)})
    assert source.state_dict()["module.w"].dtype == jnp.float32
    target.load_state_dict(source.state_dict())
    for averaged in (source, target):
        for _ in range(50):
            averaged.update_parameters({"w": jnp.full(1, 2, jnp.bfloat16)})
    assert source.state_dict()["module.w"].tolist() == target.state_dict()["module.w"].tolist()
    target.load_state_dict({"n_averaged": 3, "module.w": np.full(1, 0.5, np.float16)})
    assert target.state_dict()["module.w"].dtype == jnp.float32 and target.params["w"].dtype == jnp.bfloat16


@with_torch
def test_torch_takes_a_narrow_average():
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    averaged = swa_utils.AveragedModel({"weight": jnp.ones((1, 2), jnp.bfloat16)})
    for value in (1, 2):
        averaged.update_parameters({"weight": jnp.full((1, 2), value, jnp.bfloat16)})
    theirs = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 1, bias=False, dtype=torch.bfloat16))
    theirs.load_state_dict({key: torch.tensor(np.asarray(value)) for key, value in averaged.state_dict().items()})
    assert theirs.module.weight.tolist() == [[1.5, 1.5]] and theirs.module.weight.dtype == torch.bfloat16
    averaged.load_state_dict(theirs.state_dict())
    assert averaged.state_dict()["module.weight"].dtype == jnp.float32


def test_narrow_buffers_are_averaged_in_float32_or_copied_as_they_are():
    for use_buffers, dtype, value in ((True, jnp.float32, 1 + 1 / 301), (False, jnp.bfloat16, 2.0)):
        averaged = swa_utils.AveragedModel(
            {"w": jnp.ones(1)}, use_buffers=use_buffers, buffers={"mean": jnp.ones(1, jnp.bfloat16)}
        )
        for number in (*[1] * 300, 2):
            averaged.update_parameters({"w": jnp.ones(1)}, {"mean": jnp.full(1, number, jnp.bfloat16)})
        assert averaged.state_dict()["module.mean"].dtype == dtype
        np.testing.assert_allclose(averaged.state_dict()["module.mean"].astype(jnp.float32), value, rtol=1e-6)
        assert averaged.buffers["mean"].dtype == jnp.bfloat16


@pytest.mark.parametrize("use_buffers", [False, True])
def test_integers_are_copied_not_averaged(use_buffers):
    """torch raises for the mean of integers, and truncates their moving average, so that a count never grows."""
    averaged = swa_utils.AveragedModel(
        {"w": jnp.zeros(1)}, use_buffers=use_buffers, buffers={"count": jnp.array(0), "mean": jnp.zeros(1)}
    )
    for count in (1, 2, 6):
        averaged.update_parameters({"w": jnp.zeros(1)}, {"count": jnp.array(count), "mean": jnp.full(1, count * 1.0)})
    assert averaged.buffers["count"].tolist() == 6
    assert averaged.buffers["count"].dtype == jnp.int32
    assert averaged.buffers["mean"].tolist() == [3.0 if use_buffers else 6.0]


def test_functions_of_ones_own():
    seen = []

    def multi(averaged, current, n):
        seen.append((len(averaged), averaged[0].dtype, n))
        return [a + 1 for a in averaged]

    params = {"a": jnp.zeros(2), "b": jnp.zeros(3), "h": jnp.zeros(1, jnp.float16)}
    averaged = swa_utils.AveragedModel(params, multi_avg_fn=multi)
    for _ in range(3):
        averaged.update_parameters(params)
    assert seen == [(3, jnp.float32, 1), (3, jnp.float32, 2)]  # averages of float16 are float32
    assert averaged.params["b"].tolist() == [2.0, 2.0, 2.0]
    jitted = swa_utils.AveragedModel(params, avg_fn=jax.jit(lambda a, p, n: a + n))
    for _ in range(3):
        jitted.update_parameters(params)
    assert jitted.params["h"].tolist() == [3.0]


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 5, (3, 3), rngs=rngs)
        self.bn1 = nnx.BatchNorm(5, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.0, rngs=rngs)
        self.linear = nnx.Linear(5 * 16, 3, rngs=rngs)
        self.bn2 = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn1(self.conv(x)))
        return self.bn2(self.linear(self.dropout(x.reshape(x.shape[0], -1))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.relu(
            linen.BatchNorm(momentum=0.9, use_running_average=not train, name="bn1")(
                linen.Conv(5, (3, 3), name="conv")(x)
            )
        )
        x = linen.Dense(3, name="linear")(x.reshape(x.shape[0], -1))
        return linen.BatchNorm(use_running_average=not train, name="bn2")(x)


def train_mode(variables, x):
    return LinenNet().apply(variables, x, train=True, mutable=["batch_stats"])


def batches(count=4, sizes=(8, 5)):
    rng = np.random.default_rng(1)
    return [(rng.standard_normal((sizes[i % len(sizes)], 4, 4, 2)) * 2 + 1).astype(np.float32) for i in range(count)]


def torch_net(torch, net):
    """Return the same network with the same weights in torch."""
    nn = torch.nn

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn1 = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
            self.linear, self.bn2 = nn.Linear(80, 3), nn.BatchNorm1d(3)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv(x.permute(0, 3, 1, 2)))).permute(0, 2, 3, 1)
            return self.bn2(self.linear(x.reshape(x.shape[0], -1)))

    twin = Twin()
    with torch.no_grad():
        twin.conv.weight.copy_(torch.tensor(np.asarray(net.conv.kernel[...]).transpose(3, 2, 0, 1)))
        twin.conv.bias.copy_(torch.tensor(np.asarray(net.conv.bias[...])))
        twin.linear.weight.copy_(torch.tensor(np.asarray(net.linear.kernel[...]).T))
        twin.linear.bias.copy_(torch.tensor(np.asarray(net.linear.bias[...])))
    return twin


def linen_variables(net):
    params = {
        "conv": {"kernel": net.conv.kernel[...], "bias": net.conv.bias[...]},
        "linear": {"kernel": net.linear.kernel[...], "bias": net.linear.bias[...]},
        **{name: {"scale": layer.scale[...], "bias": layer.bias[...]} for name, layer in layers_of(net).items()},
    }
    stats = {name: {"mean": layer.mean[...] + 3, "var": layer.var[...] * 7} for name, layer in layers_of(net).items()}
    return {"params": params, "batch_stats": stats}


def layers_of(net):
    return {"bn1": net.bn1, "bn2": net.bn2}


@pytest.fixture
def net(standard_promotion):
    return Net(nnx.Rngs(0))


@with_torch
@pytest.mark.parametrize("kind", ["nnx", "nnx averaged", "linen", "linen averaged"])
def test_update_bn_is_torchs(kind, net):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    twin, data = torch_net(torch, net), batches()
    torch.optim.swa_utils.update_bn([torch.tensor(x) for x in data], twin)
    loader = [(x, None) for x in data]
    if "nnx" in kind:
        averaged = swa_utils.AveragedModel(net)
        swa_utils.update_bn(loader, averaged if "averaged" in kind else net)
        ours = {
            name: {"mean": layer.mean[...], "var": layer.var[...]}
            for name, layer in layers_of(averaged.module if "averaged" in kind else net).items()
        }
    elif kind == "linen":
        ours = swa_utils.update_bn(loader, linen_variables(net), train_mode)["batch_stats"]
    else:
        variables = linen_variables(net)
        averaged = swa_utils.AveragedModel(variables["params"], buffers=variables["batch_stats"])
        assert swa_utils.update_bn(loader, averaged, train_mode) is None
        ours = averaged.buffers
    for name, layer in (("bn1", twin.bn1), ("bn2", twin.bn2)):
        for ours_array, theirs in ((ours[name]["mean"], layer.running_mean), (ours[name]["var"], layer.running_var)):
            theirs = theirs.numpy()
            assert np.max(np.abs(ours_array - theirs)) <= 1e-6 * np.max(np.abs(theirs))


@pytest.mark.parametrize("averaged", [False, True])
def test_update_bn_calls_a_module_as_apply_fn_says(averaged, net):
    """Batches may be dicts or have several inputs; the numbers match those with the single input first."""
    expected = nnx.clone(net)
    swa_utils.update_bn(batches(), expected)
    for loader, apply_fn in (
        ([{"image": x - 1, "shift": np.float32(1)} for x in batches()], lambda m, b: m(b["image"] + b["shift"])),
        ([(np.float32(1), x - 1) for x in batches()], lambda m, b: {"output": m(b[1] + b[0])}),
    ):
        model = swa_utils.AveragedModel(net) if averaged else nnx.clone(net)
        assert swa_utils.update_bn(loader, model, apply_fn=apply_fn) is None
        module = model.module if averaged else model
        chex.assert_trees_all_close(
            nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)),
            nnx.to_pure_dict(nnx.state(expected, nnx.BatchStat)),
            rtol=1e-5,
        )
        assert type(module.bn1) is nnx.BatchNorm


def test_an_apply_fn_that_does_not_call_the_module_changes_nothing(net):
    before = nnx.state(net)
    for apply_fn, message in (
        (lambda module, batch: None, "'bn1' was not called on the batches, or not in training mode"),
        (lambda module, batch: module(batch["images"]), "images"),
    ):
        with pytest.raises((ValueError, KeyError), match=message):
            swa_utils.update_bn([{"image": x} for x in batches()], net, apply_fn)
        chex.assert_trees_all_equal(nnx.state(net), before)


def test_update_bn_is_the_pure_reduction(net):
    inputs = [net.conv(x) for x in batches()]
    mean, var = fo.batch_statistics(inputs)
    swa_utils.update_bn(batches(), net)
    chex.assert_trees_all_close((net.bn1.mean[...], net.bn1.var[...]), (mean, var), rtol=1e-5)
    trees = [{"x": x, "y": x[:, 0]} for x in inputs]
    np.testing.assert_array_equal(fo.batch_statistics(trees).mean["x"], mean)
    assert fo.batch_statistics(trees).var["y"].shape == (5,)
    channels_first = [jnp.moveaxis(x, -1, 1) for x in inputs]
    np.testing.assert_allclose(fo.batch_statistics(channels_first, axis=1).var, var, rtol=1e-6)


def test_update_bn_restores_the_mode_of_every_layer(net):
    net.eval()
    net.bn2.use_running_average = False
    net.dropout.deterministic = False
    swa_utils.update_bn(batches(), net)
    assert (net.bn1.use_running_average, net.bn2.use_running_average, net.dropout.deterministic) == (True, False, False)
    assert type(net.bn1) is nnx.BatchNorm
    assert (net.bn1.momentum, net.bn1.use_fast_variance, hasattr(net.bn1, "seen")) == (0.9, True, False)


def test_after_an_error_the_statistics_are_as_before(net):
    before, mode = nnx.state(net), net.bn1.use_running_average

    def broken():
        yield batches()[0]
        raise OSError("the disk is gone")

    for loader, error, message in (
        (broken(), OSError, "the disk is gone"),
        ([], ValueError, "there are no batches"),
        ([batches()[0], np.zeros((1, 4, 4, 2), np.float32)], ValueError, "Expected more than 1 value per channel"),
    ):
        with pytest.raises(error, match=message):
            swa_utils.update_bn(loader, net)
        chex.assert_trees_all_equal(nnx.state(net), before)
        assert (type(net.bn1), net.bn1.use_running_average) == (nnx.BatchNorm, mode)


def test_a_layer_called_twice_averages_over_its_calls(standard_promotion):
    class Twice(nnx.Module):
        def __init__(self):
            self.bn = nnx.BatchNorm(1, rngs=nnx.Rngs(0))

        def __call__(self, x):
            self.bn(x)
            return self.bn(x + 2)

    module = Twice()
    swa_utils.update_bn([jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [8.0]])], module)
    np.testing.assert_allclose([module.bn.mean[0], module.bn.var[0]], [4.5, 5.0])


def test_without_batch_normalisation_it_returns_at_once(standard_promotion):
    def untouched():
        raise AssertionError("no batch is needed")
        yield

    linear = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    assert swa_utils.update_bn(untouched(), linear) is None
    variables = {"params": {"w": jnp.ones(1)}}
    assert swa_utils.update_bn(untouched(), variables) is variables
    assert swa_utils.update_bn(untouched(), swa_utils.AveragedModel({"w": jnp.ones(1)})) is None


def test_errors_of_update_bn(net):
    variables = linen_variables(net)
    for arguments, error, message in (
        ((variables,), TypeError, "needs the function that applies them in training mode"),
        ((variables, jax.devices()[0]), TypeError, "a device is given as device="),
        (([jnp.ones(2)],), TypeError, "not list"),
        ((variables, lambda v, x: LinenNet().apply(v, x, train=False)), TypeError, "must return a pair"),
        (
            (variables, lambda v, x: LinenNet().apply(v, x, train=False, mutable=["batch_stats"])),
            ValueError,
            r"'bn1' did not normalise with the batch: apply_fn must run in training mode",
        ),
    ):
        with pytest.raises(error, match=message):
            swa_utils.update_bn(batches(), *arguments)
    with pytest.raises(ValueError, match="there are no batches"):
        swa_utils.update_bn([], variables, train_mode)
    with pytest.raises(ValueError, match="there are no batches"):
        fo.batch_statistics([])


def test_a_compiled_apply_fn_is_taken_apart(net):
    variables, compiled = linen_variables(net), jax.jit(train_mode)
    compiled(variables, batches()[0])
    expected = swa_utils.update_bn(batches(), variables, train_mode)
    chex.assert_trees_all_equal(swa_utils.update_bn(batches(), variables, compiled), expected)


def test_an_averaged_module_is_called_like_the_module(net):
    averaged = swa_utils.AveragedModel(net)
    x = jnp.asarray(batches()[0])
    for scale in (1.0, 3.0):
        nnx.update(net, jax.tree.map(lambda p, scale=scale: p * 0 + scale, nnx.state(net, nnx.Param)))
        averaged.update_parameters(net)
    assert averaged.module.linear.kernel[0, 0] == 2.0
    expected = nnx.clone(net)
    nnx.update(expected, averaged.params)
    np.testing.assert_array_equal(averaged.eval()(x), (expected.eval(), expected(x))[1])
    assert averaged.module.bn1.use_running_average
    assert not averaged.train().module.bn1.use_running_average
    assert net.linear.kernel[0, 0] == 3.0
    assert "module.bn1.mean" in averaged.state_dict()
    assert "module.conv.kernel" in averaged.state_dict()


def test_buffers_of_a_module_follow_it(net):
    averaged = swa_utils.AveragedModel(net)
    for _ in range(2):
        net(jnp.asarray(batches()[0]))
        averaged.update_parameters(net)
        np.testing.assert_array_equal(averaged.module.bn1.mean[...], net.bn1.mean[...])
    before = averaged.module.bn1.mean[...]
    net(jnp.asarray(batches()[0]))
    averaged.update_parameters(nnx.state(net, nnx.Param))  # only the parameters: buffers stay
    np.testing.assert_array_equal(averaged.module.bn1.mean[...], before)


def test_copies_are_apart(net):
    for averaged in (swa_utils.AveragedModel({"w": jnp.ones(2)}), swa_utils.AveragedModel(net)):
        start = jax.tree.map(np.asarray, averaged.params)
        twin = copy.deepcopy(averaged)
        twin.update_parameters(jax.tree.map(lambda p: p + 1, averaged.params))
        chex.assert_trees_all_equal(jax.tree.map(np.asarray, averaged.params), start)
        assert (averaged.n_averaged, twin.n_averaged) == (0, 1)
    averaged = pickle.loads(
        pickle.dumps(swa_utils.AveragedModel({"w": jnp.ones(2)}, avg_fn=swa_utils.get_swa_avg_fn()))
    )
    averaged.update_parameters({"w": jnp.zeros(2)})
    assert averaged.params["w"].tolist() == [0.0, 0.0]


def test_callable_trees():
    equinox = pytest.importorskip("equinox", reason="needs equinox")
    model = equinox.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    averaged = swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    np.testing.assert_allclose(averaged(jnp.ones(2)), model(jnp.ones(2)))
    with_buffers = swa_utils.AveragedModel(
        {"w": jnp.ones(1)}, buffers={"m": jnp.full(1, 2.0)}, apply_fn=lambda p, b, x: p["w"] * x + b["m"]
    )
    assert with_buffers(jnp.full(1, 3.0)).tolist() == [5.0]
    with pytest.raises(TypeError, match="a tree of parameters cannot be called"):
        swa_utils.AveragedModel({"w": jnp.ones(1)})(3)


def test_errors_change_nothing():
    params = {"w": jnp.ones(2), "b": jnp.ones(1)}
    averaged = swa_utils.AveragedModel(params, buffers={"m": jnp.zeros(1)})
    averaged.update_parameters(params)
    for model, buffers, message in (
        ({"w": jnp.ones(2)}, None, "the model's parameters do not have the structure of the average: missing"),
        ({"w": jnp.ones(3), "b": jnp.ones(1)}, None, r"the model's 'w' has shape \(3,\), its average has shape \(2,\)"),
        (params, {"n": jnp.zeros(1)}, "the model's buffers do not have the structure of the average's: missing 'm'"),
    ):
        with pytest.raises(ValueError, match=message):
            averaged.update_parameters(model, buffers)
    with pytest.raises(RuntimeError) as caught:
        averaged.load_state_dict({"n_averaged": 3, "module.w": np.ones(3), "module.x": np.ones(1)})
    for part in (
        "Error(s) in loading state_dict for AveragedModel:",
        "Missing key(s) in state_dict: 'module.b', 'module.m'.",
        "Unexpected key(s) in state_dict: 'module.x'.",
        "size mismatch for module.w: copying a param with shape (3,) from checkpoint, the shape in current model is",
    ):
        assert part in str(caught.value)
    assert averaged.n_averaged == 1
    assert averaged.params["w"].tolist() == [1.0, 1.0]
    for function, error, message in (
        ({"multi_avg_fn": lambda a, c, n: None}, TypeError, "multi_avg_fn must return the list of the new averages"),
        ({"avg_fn": lambda a, c, n: jnp.ones(7)}, ValueError, r"returned shape \(7,\) for '[bw]'"),
    ):
        broken = swa_utils.AveragedModel(params, **function)
        broken.update_parameters(params)
        with pytest.raises(error, match=message):
            broken.update_parameters(params)
        assert broken.n_averaged == 1
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn should be provided"):
        swa_utils.AveragedModel(params, avg_fn=max, multi_avg_fn=max)
    with pytest.raises(ValueError, match="parameters and buffers share the names 'w'"):
        swa_utils.AveragedModel(params, buffers={"w": jnp.ones(1)})
    for decay in (-0.1, 1.5, float("nan")):
        for get in (swa_utils.get_ema_avg_fn, swa_utils.get_ema_multi_avg_fn):
            with pytest.raises(ValueError, match=r"Invalid decay value .* provided. Please provide a value in \[0,1\]"):
                get(decay)


def test_another_device():
    device = jax.devices()[1]
    averaged = swa_utils.AveragedModel({"w": jnp.ones(2)}, device=device)
    for _ in range(2):
        averaged.update_parameters({"w": jnp.full(2, 3.0)})
        assert averaged.params["w"].devices() == {device}
    assert averaged.params["w"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_the_transforms_give_the_same_averages(kind):
    """In a chain, under jit and scan and on two devices, the average equals AveragedModel's."""
    params = {"w": jnp.arange(8.0).reshape(2, 4), "b": jnp.ones(4)}
    grads = [jax.tree.map(lambda p, k=k: (p + 1) * jnp.sin(k + p), params) for k in range(20)]
    optimizer = optim.AdamW(params, lr=0.1)
    function = {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)} if kind == "ema" else {}
    averaged = swa_utils.AveragedModel(optimizer.params, **function)
    for each in grads:
        optimizer.step(each)
        averaged.update_parameters(optimizer.params)
    tx = fo.chain(fo.adamw(lr=0.1), fo.ema(0.9) if kind == "ema" else fo.swa())

    def step(carry, each):
        params, state = carry
        updates, state = tx.update(each, state, params)
        return (fo.apply_updates(params, updates), state), None

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *grads)
    plain = jax.jit(lambda carry: jax.lax.scan(step, carry, stacked))((params, tx.init(params)))[0][1]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        place = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731 one line
        placed = {"w": place(params["w"], P(None, "data")), "b": place(params["b"], P("data"))}
        state, sharded = tx.init(placed), placed
        for each in grads:
            each = {"w": place(each["w"], P(None, "data")), "b": place(each["b"], P("data"))}
            updates, state = jax.jit(tx.update)(each, state, sharded)
            sharded = fo.apply_updates(sharded, updates)
    for result in (plain, state):
        got = jax.tree.map(np.asarray, fo.averaged_params(result))
        chex.assert_trees_all_close(got, jax.tree.map(np.asarray, averaged.params), rtol=2e-6, atol=2e-6)


def test_an_average_of_a_module_shares_no_buffer_with_it(net):
    averaged = swa_utils.AveragedModel(net)
    before = jax.tree.map(np.asarray, averaged.params)
    step = jax.jit(lambda params: jax.tree.map(lambda p: p + 1, params), donate_argnums=0)
    nnx.update(net, step(nnx.state(net, nnx.Param)))
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, averaged.params), before)


def test_a_function_that_returns_what_it_was_given_shares_nothing():
    params = {"w": jnp.ones(2)}
    averaged = swa_utils.AveragedModel(params, avg_fn=lambda average, current, n: current)
    for _ in range(2):
        averaged.update_parameters(params)
    jax.jit(lambda p: p + 1, donate_argnums=0)(params["w"])
    assert averaged.params["w"].tolist() == [1.0, 1.0]


def offset(shift):
    return [np.random.default_rng(k).standard_normal((64, 3)).astype(np.float32) + shift for k in range(3)]


@pytest.mark.parametrize("shift", [0.0, 30.0, 1000.0])
def test_variances_of_data_far_from_zero(shift, standard_promotion):
    """flax computes E[x^2] - E[x]^2 by default, which loses digits to cancellation."""
    data = offset(shift)
    right = np.mean([np.var(x.astype(np.float64), 0, ddof=1) for x in data], 0)
    module = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    swa_utils.update_bn(data, module)
    np.testing.assert_allclose(module.var[...], right, rtol=2e-6)
    layer = linen.BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), data[0])
    apply_fn = lambda v, x: layer.apply(v, x, mutable=["batch_stats"])  # noqa: E731 one line
    updated = swa_utils.update_bn(data, variables, apply_fn)["batch_stats"]
    np.testing.assert_allclose(updated["var"], right, rtol=2e-6)


def test_a_decorated_apply_fn_is_called_whole(net):
    variables = linen_variables(net)

    @functools.wraps(train_mode)
    def halved(v, x):
        return train_mode(v, x / 2)

    expected = swa_utils.update_bn([x / 2 for x in batches()], variables, train_mode)
    chex.assert_trees_all_close(swa_utils.update_bn(batches(), variables, halved), expected, rtol=1e-6)


def test_what_else_is_in_batch_stats_stays(standard_promotion):
    class Spectral(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.SpectralNorm(linen.Dense(3), collection_name="batch_stats")(x, update_stats=True)
            return linen.BatchNorm(use_running_average=False)(x)

    data = offset(0.0)
    variables = Spectral().init(jax.random.key(0), data[0])
    updated = swa_utils.update_bn(data, variables, lambda v, x: Spectral().apply(v, x, mutable=["batch_stats"]))
    stats = variables["batch_stats"]
    chex.assert_trees_all_equal(updated["batch_stats"]["SpectralNorm_0"], stats["SpectralNorm_0"])
    assert not np.allclose(updated["batch_stats"]["BatchNorm_0"]["mean"], stats["BatchNorm_0"]["mean"])


class Stacked(nnx.Module):
    """Three stacked layers, run one after the other."""

    def __init__(self):
        make = nnx.vmap(lambda key: nnx.BatchNorm(3, rngs=nnx.Rngs(0)), in_axes=0, out_axes=0)
        self.layers = make(jnp.arange(3))

    def __call__(self, x):
        def apply(layer, x):
            return layer(x) * 2 + 1

        return nnx.scan(lambda x, layer: apply(layer, x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)


class Masked(nnx.BatchNorm):
    def __call__(self, x):
        return super().__call__(x, mask=x[:, :1] < 1.0)


def test_scanned_masked_and_subclassed_layers(standard_promotion):
    data = offset(0.0)
    stacked = Stacked()
    swa_utils.update_bn(data, stacked)
    first = fo.batch_statistics(data)
    np.testing.assert_allclose(stacked.layers.mean[...][0], first.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stacked.layers.var[...][0], first.var, rtol=1e-4)
    assert stacked.layers.mean[...].shape == (3, 3)
    np.testing.assert_allclose(stacked.layers.mean[...][1:], np.ones((2, 3)), atol=1e-3)
    masked = Masked(3, rngs=nnx.Rngs(0))
    swa_utils.update_bn(data, masked)
    kept = [x[x[:, 0] < 1.0] for x in data]
    np.testing.assert_allclose(masked.mean[...], np.mean([x.mean(0) for x in kept], 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(masked.var[...], np.mean([x.var(0, ddof=1) for x in kept], 0), rtol=1e-4)
    one = np.array([[0.0, 1.0, 2.0], [5.0, 1.0, 2.0]], np.float32)
    with pytest.raises(ValueError, match=r"the variance of the batch normalisation .* is not finite"):
        swa_utils.update_bn([one], masked)


class Noisy(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, x):
        self.seen = nnx.Intermediate(x)
        return self.dropout(self.linear(x))


def test_random_keys_and_intermediates_are_no_part_of_the_average(standard_promotion):
    module = Noisy()
    averaged = swa_utils.AveragedModel(module)
    module(jnp.ones((1, 2)))
    averaged.update_parameters(module)
    with pytest.warns(UserWarning, match="the parameters of the last update"):
        averaged.update_parameters(module)
    saved = averaged.state_dict()
    assert sorted(saved) == ["module.linear.bias", "module.linear.kernel", "n_averaged"]
    again = swa_utils.AveragedModel(Noisy())
    again.load_state_dict({key: np.asarray(value) for key, value in saved.items()})
    assert averaged(jnp.ones((1, 2))).shape == (1, 2)


def test_equinox_modules_are_copied_and_pickled():
    equinox = pytest.importorskip("equinox", reason="needs equinox")
    model = equinox.nn.Linear(2, 1, key=jax.random.key(0))
    averaged = swa_utils.AveragedModel(model)
    for twin in (copy.deepcopy(averaged), pickle.loads(pickle.dumps(averaged))):
        twin.update_parameters(model)
        np.testing.assert_array_equal(twin.params.weight, model.weight)


def test_what_there_is_nothing_to_average_in_is_refused(net):
    numbers = swa_utils.AveragedModel({"s": 0.0})
    for value in (1.0, 2.0, 6.0):
        numbers.update_parameters({"s": jnp.asarray(value)})
    assert numbers.params["s"].tolist() == 3.0
    for model in (LinenNet(), optim.SGD([jnp.ones(1)]), {"a": "text"}):
        with pytest.raises(TypeError, match="there are no parameters to average"):
            swa_utils.AveragedModel(model)
    broken = swa_utils.AveragedModel({"w": jnp.ones(1)}, avg_fn=lambda a, c, n: None)
    broken.update_parameters({"w": jnp.ones(1)})
    with pytest.raises(TypeError, match="the averaging function must return the new average of 'w', but it returned N"):
        broken.update_parameters({"w": jnp.ones(1)})
    for whole in (linen_variables(net), nnx.state(net)):
        with pytest.raises(TypeError, match="the average is one of all variables"):
            swa_utils.AveragedModel(whole)


def test_a_state_dict_is_taken_whole_or_not_at_all():
    averaged = swa_utils.AveragedModel({"w": jnp.ones(2), "s": jnp.ones(())})
    zeros = {"module.w": np.zeros(2, np.float32), "module.s": np.zeros((), np.float32)}
    for count in (None, np.array([1, 2]), 0.5):
        with pytest.raises(RuntimeError, match="n_averaged"):
            averaged.load_state_dict({"n_averaged": count, **zeros})
        assert averaged.params["w"].tolist() == [1.0, 1.0]
    averaged.load_state_dict({"n_averaged": 1, "module.s": 2.0, "module.w": np.zeros(2)})
    for value in (4.0, 6.0):
        averaged.update_parameters({"w": jnp.zeros(2), "s": jnp.asarray(value)})
    assert averaged.params["s"].tolist() == 4.0
    averaged.load_state_dict({"module.w": np.ones(2, np.float32), "other": 1}, strict=False)
    assert (averaged.params["w"].tolist(), averaged.params["s"].tolist(), averaged.n_averaged) == ([1.0, 1.0], 4.0, 3)


def test_a_platform_for_a_device():
    averaged = swa_utils.AveragedModel({"w": jnp.ones(2)}, device="cpu")
    assert averaged.params["w"].devices() == {jax.devices("cpu")[0]}


def test_batch_statistics_refuses_what_it_cannot_mean():
    with pytest.raises(TypeError, match="a batch must be floating, but it is int32"):
        fo.batch_statistics([jnp.ones((4, 3), int)])
    with pytest.raises(ValueError, match="axis 5 is out of bounds for a batch with 2 dimensions"):
        fo.batch_statistics([jnp.ones((4, 3))], axis=5)
    with pytest.raises(TypeError, match="a batch must be a floating array, but it is float at 'w'"):
        fo.batch_statistics([{"w": 0.5}])
    with pytest.raises(TypeError, match=r"an iterable of batches, but it is a dict: pass \[batch\]"):
        fo.batch_statistics({"w": 0.5})
    with pytest.raises(ValueError, match=r"of batch 1 have shape \(1,\) at 'mean.w', those of batch 0 have \(3,\)"):
        fo.batch_statistics([{"w": jnp.ones((4, 3))}, {"w": jnp.ones((4, 1))}])
    with pytest.raises(ValueError, match=r"of batch 1 do not have the structure of those of batch 0: missing 'mean.w'"):
        fo.batch_statistics([{"w": jnp.ones((4, 3))}, {"v": jnp.ones((4, 3))}])


def test_the_share_of_a_list_has_the_digits_of_float32():
    (mean,) = swa_utils.get_swa_multi_avg_fn()([jnp.zeros(1)], [jnp.ones(1)], 2)
    np.testing.assert_allclose(mean, [1 / 3], rtol=1e-6)


def test_the_average_of_a_module_takes_its_parameters_as_dicts(net):
    averaged, other = swa_utils.AveragedModel(net), swa_utils.AveragedModel(net)
    params = nnx.state(net, nnx.Param)
    averaged.update_parameters(params)
    other.update_parameters(jax.tree.map(np.asarray, nnx.to_pure_dict(params)))
    chex.assert_trees_all_equal(averaged.params, other.params)
    assert other.n_averaged == 1
    with pytest.raises(ValueError, match="the model's parameters do not have the structure of the average: missing"):
        other.update_parameters({"conv": nnx.to_pure_dict(params)["conv"]})


@with_torch
def test_update_bn_takes_torchs_tensors():
    import torch

    data = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    found = []
    for batches in (list(data), torch.tensor(data), [[one, torch.zeros(4)] for one in torch.tensor(data)]):
        module = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
        swa_utils.update_bn(batches, module)
        found.append((module.mean[...].tolist(), module.var[...].tolist()))
    module = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    swa_utils.update_bn([{"x": one} for one in torch.tensor(data)], module, lambda module, batch: module(batch["x"]))
    found.append((module.mean[...].tolist(), module.var[...].tolist()))
    assert found == found[:1] * 4


def test_a_module_that_was_not_trained_warns():
    module = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    averaged = swa_utils.AveragedModel(module)
    averaged.update_parameters(module)  # as it was when the average was made: the first copies it
    with pytest.warns(UserWarning, match=r"the module has the parameters of the last update.*nnx\.update") as got:
        averaged.update_parameters(module)
    assert got[0].filename == __file__ and averaged.n_averaged == 2
    module.scale[...] = module.scale[...] + 1.0
    for again in (averaged, copy.deepcopy(averaged), pickle.loads(pickle.dumps(averaged))):
        again.update_parameters(module)


@with_torch
def test_an_average_takes_torchs_tensors():
    import torch

    averaged = swa_utils.AveragedModel(nnx.BatchNorm(2, rngs=nnx.Rngs(0))).eval()
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    assert averaged(x).tolist() == averaged(jnp.array([[1.0, 2.0]])).tolist()
