"""From a torch network to its JAX twin and back: names, axes, and every slot of the optimizer's state."""

import functools
import io
import re

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from functorch_optim import optim
from functorch_optim.checkpoint import (
    TORCH_NAMES,
    CheckpointError,
    LeafRule,
    TorchLayout,
    load_torch,
    save_torch,
)
from tests import torch_twins as twins
from tests.algorithms import full
from tests.equality import relative, same

pytestmark = pytest.mark.usefixtures("standard_promotion", "x64")


@functools.cache
def recorded(case):
    return load_torch(twins.FOLDER / f"{case}.pt")


def live(case):
    """Return the file that the installed torch saves for a case."""
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    file = io.BytesIO()
    torch.save(twins.CASES[case](), file)
    return file.getvalue()


@pytest.fixture(params=["recorded", pytest.param("live", marks=pytest.mark.torch)])
def load(request, tmp_path):
    """A function that returns torch's results for a case."""

    def loaded(case):
        if request.param == "recorded":
            return recorded(case)
        (tmp_path / "live.pt").write_bytes(live(case))
        return load_torch(tmp_path / "live.pt")

    return loaded


def attention(query, key, value, **_):
    """Attention in the arrays' dtype: flax's own scales the scores in float32, even for float64."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.asarray(query.shape[-1] ** 0.5, query.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)


class Layer(nnx.Module):
    def __init__(self, rngs, dtype):
        of = {"rngs": rngs, "dtype": dtype, "param_dtype": dtype}
        width, hidden = twins.WIDTH, twins.HIDDEN
        fn = {"attention_fn": attention} if dtype == jnp.float64 else {}
        self.self_attn = nnx.MultiHeadAttention(twins.HEADS, width, decode=False, **fn, **of)
        self.linear1, self.linear2 = nnx.Linear(width, hidden, **of), nnx.Linear(hidden, width, **of)
        self.norm1, self.norm2 = (nnx.LayerNorm(width, epsilon=1e-5, **of) for _ in range(2))

    def __call__(self, x):
        x = self.norm1(x + self.self_attn(x))
        return self.norm2(x + self.linear2(jax.nn.relu(self.linear1(x))))


class Encoder(nnx.Module):
    def __init__(self, rngs, dtype):
        self.layers = nnx.List([Layer(rngs, dtype) for _ in range(twins.LAYERS)])


class Transformer(nnx.Module):
    def __init__(self, dtype):
        of = {"rngs": nnx.Rngs(0), "dtype": dtype, "param_dtype": dtype}
        self.embed, self.encoder = nnx.Embed(twins.VOCABULARY, twins.WIDTH, **of), Encoder(of["rngs"], dtype)
        self.head = nnx.Linear(twins.WIDTH, twins.VOCABULARY, **of)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.head(x.mean(1))


def transformer(dtype):
    """Return the twin without values, the layout's tree, and the function to differentiate."""
    graph, params = nnx.split(Transformer(jnp.dtype(dtype)), nnx.Param)

    def loss(params, tokens, labels):
        scores = nnx.merge(graph, params)(tokens).astype(jnp.float64)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1))

    return graph, params, loss


def worst(found, expected):
    """Return the largest relative distance, without the key bias, a third of ``in_proj_bias``.

    That affects no score, so its gradient is pure rounding error, in float64 too, which AdamW turns into steps.
    """
    distances = {}
    for name, value in expected.items():
        one, other = found[name], value
        if name.endswith("in_proj_bias"):
            keys = np.s_[len(other) // 3 : 2 * len(other) // 3]
            one, other = np.delete(one, keys), np.delete(other, keys)
        distances[name] = relative(one, other)
    return np.max(list(distances.values()))  # keeps NaN, unlike Python's max


@pytest.mark.parametrize(
    ("dtype", "forward", "trained"),
    [("float64", 1e-13, 1e-10), *full(("float32", 1e-5, 1e-5), ("bfloat16", 1e-2, 5e-2))],
)
def test_a_transformer_goes_on_where_torch_stopped(load, dtype, forward, trained):
    saved = load(f"transformer_{dtype}")
    graph, params, loss = transformer(dtype)
    layout = TorchLayout(params, saved["model"])
    params = layout.params_from_torch(saved["model"])
    tokens, labels = twins.token_batches()
    scores = nnx.merge(graph, params)(tokens[twins.BEFORE])
    assert relative(scores, saved["scores"]) <= forward

    optimizer = optim.AdamW(params)
    optimizer.load_state_dict(layout.state_from_torch(saved["optimizer"]))
    for step in range(twins.BEFORE, twins.BEFORE + twins.AFTER):
        optimizer.zero_grad()
        optimizer.backward(loss, tokens[step], labels[step])
        optimizer.step()
    assert worst(layout.params_to_torch(optimizer.params), saved["after"]) <= trained


@pytest.mark.parametrize("case", [case for case in twins.CASES if case != "zoo"])
def test_there_and_back_nothing_has_changed(case):
    saved = recorded(case)
    tree = mlp(saved["model"]) if case.startswith("mlp") else transformer(case.partition("_")[2])[1]
    layout = TorchLayout(tree, saved["model"], **({"rename": [("fc", "")]} if case.startswith("mlp") else {}))
    assert same(layout.params_to_torch(layout.params_from_torch(saved["model"])), dict(saved["model"]))
    here = layout.state_from_torch(saved["optimizer"])
    back = layout.state_to_torch(here)
    named = [dict(group) for group in saved["optimizer"]["param_groups"]]
    for group in named:
        group.setdefault("param_names", list(saved["model"]))
    assert same(back["state"], dict(saved["optimizer"]["state"]))
    assert same(back["param_groups"], named)


def mlp(weights, dtype=jnp.float64):
    """Return the twin's tree, whose leaves are in a different order than torch's."""
    return {
        f"fc{name.partition('.')[0]}": {
            "kernel": jnp.zeros(weights[f"{name.partition('.')[0]}.weight"].shape[::-1], dtype),
            "bias": jnp.zeros(weights[f"{name.partition('.')[0]}.bias"].shape, dtype),
        }
        for name in weights
    }


def mlp_loss(params, x, y):
    hidden = jnp.tanh(x @ params["fc0"]["kernel"] + params["fc0"]["bias"])
    return jnp.mean((hidden @ params["fc2"]["kernel"] + params["fc2"]["bias"] - y) ** 2)


@pytest.mark.parametrize("case", twins.MLP_OPTIMIZERS)
def test_every_slot_is_laid_out_as_its_parameter(load, case):
    saved = load(f"mlp_{case}")
    layout = TorchLayout(mlp(saved["model"]), saved["model"], rename=[("^fc", "")])
    params, (x, y) = layout.params_from_torch(saved["model"]), twins.vector_batch()
    name, options = twins.MLP_OPTIMIZERS[case]
    frozen = {}
    if name == "Muon":
        frozen = {key: {"bias": own["bias"]} for key, own in params.items()}
        params = {key: {"kernel": own["kernel"]} for key, own in params.items()}

    def loss(params, x, y):
        return mlp_loss({key: {**own, **frozen.get(key, {})} for key, own in params.items()}, x, y)

    optimizer = getattr(optim, name)(params, **options)
    optimizer.load_state_dict(layout.state_from_torch(saved["optimizer"]))
    for _ in range(twins.AFTER):
        optimizer.step(loss, x, y)
    whole = {key: {**own, **frozen.get(key, {})} for key, own in optimizer.params.items()}
    found = layout.params_to_torch(whole)
    # Muon multiplies bfloat16 numbers, which round alike in a matrix and its transpose.
    assert np.max([relative(found[key], value) for key, value in saved["after"].items()]) <= 1e-10
    if name == "Adafactor":
        row = layout.state_to_torch(optimizer.state_dict())["state"][0]["row_var"]
        assert row.shape == (7, 1)


@pytest.mark.torch
@pytest.mark.parametrize("case", twins.MLP_OPTIMIZERS)
def test_torch_goes_on_where_this_library_stopped(case, tmp_path):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    saved = recorded(f"mlp_{case}")
    layout = TorchLayout(mlp(saved["model"]), saved["model"], rename=[("^fc", "")])
    here = layout.params_from_torch(saved["model"])
    name, options = twins.MLP_OPTIMIZERS[case]
    optimizer = getattr(optim, name)(
        {key: {"kernel": own["kernel"]} for key, own in here.items()} if name == "Muon" else here, **options
    )
    optimizer.load_state_dict(layout.state_from_torch(saved["optimizer"]))
    save_torch(layout.state_to_torch(optimizer.state_dict()), tmp_path / "state.pt")
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()
    save_torch(layout.params_to_torch(here), tmp_path / "model.pt")
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    own = [parameter for parameter in model.parameters() if name != "Muon" or parameter.ndim == 2]
    theirs = getattr(torch.optim, name)(own, **options)
    theirs.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    x, y = map(torch.tensor, twins.vector_batch())

    def closure():
        model.zero_grad()
        value = ((model(x) - y) ** 2).mean()
        value.backward()
        return value

    for _ in range(twins.AFTER):
        theirs.step(closure)
    after = model.state_dict()
    assert np.max([relative(after[key], value) for key, value in saved["after"].items()]) <= 1e-12


NNX_LAYERS = {
    "linear": lambda rngs: nnx.Linear(8, 3, rngs=rngs),
    "conv1d": lambda rngs: nnx.Conv(4, 6, (3,), padding=1, rngs=rngs),
    "conv2d": lambda rngs: nnx.Conv(4, 6, (3, 2), padding="VALID", rngs=rngs),
    "conv_groups": lambda rngs: nnx.Conv(4, 6, (3, 3), padding="VALID", feature_group_count=2, rngs=rngs),
    "conv_transpose": lambda rngs: nnx.ConvTranspose(4, 6, (3, 2), padding="VALID", rngs=rngs),
    "embedding": lambda rngs: nnx.Embed(5, 3, rngs=rngs),
    "layer_norm": lambda rngs: nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs),
    "group_norm": lambda rngs: nnx.GroupNorm(4, 2, epsilon=1e-5, rngs=rngs),
    "batch_norm": lambda rngs: nnx.BatchNorm(4, use_running_average=True, rngs=rngs),
    "prelu": lambda rngs: nnx.PReLU(),
    "attention": lambda rngs: nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs),
}


def linen_layers():
    return {
        "linear": linen.Dense(3),
        "conv1d": linen.Conv(6, (3,), padding=1),
        "conv2d": linen.Conv(6, (3, 2), padding="VALID"),
        "conv_groups": linen.Conv(6, (3, 3), padding="VALID", feature_group_count=2),
        "conv_transpose": linen.ConvTranspose(6, (3, 2), padding="VALID", transpose_kernel=True),
        "embedding": linen.Embed(5, 3),
        "layer_norm": linen.LayerNorm(epsilon=1e-5),
        "group_norm": linen.GroupNorm(2, epsilon=1e-5),
        "batch_norm": linen.BatchNorm(use_running_average=True),
        "prelu": linen.PReLU(),
        "attention": linen.MultiHeadDotProductAttention(2),
        "attention_dims": linen.MultiHeadDotProductAttention(2),
    }


nn = equinox.nn
EQUINOX_LAYERS = {
    "linear": lambda key: nn.Linear(8, 3, key=key),
    "conv1d": lambda key: nn.Conv1d(4, 6, 3, padding=1, key=key),
    "conv2d": lambda key: nn.Conv2d(4, 6, (3, 2), key=key),
    "conv_groups": lambda key: nn.Conv2d(4, 6, 3, groups=2, key=key),
    "conv_transpose": lambda key: nn.ConvTranspose2d(4, 6, (3, 2), key=key),
    "embedding": lambda key: nn.Embedding(5, 3, key=key),
    "layer_norm": lambda key: nn.LayerNorm(8),
    "group_norm": lambda key: nn.GroupNorm(2, 4),
    "prelu": lambda key: nn.PReLU(),
    "attention": lambda key: nn.MultiheadAttention(
        2, 8, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=key
    ),
    "attention_dims": lambda key: nn.MultiheadAttention(
        2, 8, 3, 5, 8, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=key
    ),
}


RULES = [LeafRule(r"kernel", "weight", "transposed_kernel"), *TORCH_NAMES]
TURNED = [LeafRule(r"weight", "weight", "transposed_weight"), *TORCH_NAMES]
LAST = ("conv1d", "conv2d", "conv_groups", "conv_transpose", "group_norm", "batch_norm")  # flax has channels last


def inputs(name, x):
    """Return the arguments of an attention layer, or of any other layer."""
    if name == "attention":
        return (x, x, x)
    return (x, x[..., :3], x[..., :5]) if name == "attention_dims" else (x,)


@pytest.mark.parametrize("name", NNX_LAYERS)
def test_layers_of_nnx(load, name):
    of = load("zoo")[name]
    graph, state = nnx.split(NNX_LAYERS[name](nnx.Rngs(0)))
    layout = TorchLayout(state, of["params"], rules=RULES if name == "conv_transpose" else TORCH_NAMES)
    state = layout.params_from_torch(of["params"])
    assert same(layout.params_to_torch(state), tracked(of["params"]))
    x = np.moveaxis(of["x"], 1, -1) if name in LAST else of["x"]
    y = jax.jit(lambda *x: nnx.merge(graph, state)(*x))(*inputs(name, x))
    assert relative(np.moveaxis(y, -1, 1) if name in LAST else y, of["y"]) <= 1e-5


@pytest.mark.parametrize("name", linen_layers())
def test_layers_of_linen(load, name):
    of, layer = load("zoo")[name], linen_layers()[name]
    x = np.moveaxis(of["x"], 1, -1) if name in LAST else of["x"]
    variables = jax.eval_shape(layer.init, jax.random.key(0), *inputs(name, x))
    layout = TorchLayout(variables, of["params"])
    given = layout.params_from_torch(of["params"])
    assert same(layout.params_to_torch(given), tracked(of["params"]))
    y = jax.jit(layer.apply)(given, *inputs(name, x))
    assert relative(np.moveaxis(y, -1, 1) if name in LAST else y, of["y"]) <= 1e-5
    assert {leaf.name for leaf in layout["params"].leaves} == {
        leaf.name.removeprefix("params.") for leaf in layout.leaves if leaf.name.startswith("params.")
    }


@pytest.mark.parametrize("name", EQUINOX_LAYERS)
def test_layers_of_equinox(load, name):
    of, layer = load("zoo")[name], EQUINOX_LAYERS[name](jax.random.key(0))
    layout = TorchLayout(layer, of["params"], rules=TURNED if name == "conv_transpose" else TORCH_NAMES)
    layer = layout.params_from_torch(of["params"])
    assert same(layout.params_to_torch(layer), tracked(of["params"]))
    if name in ("layer_norm", "linear"):
        layer = jax.vmap(layer)
    y = jax.jit(jax.vmap(layer))(*inputs(name, of["x"]))
    assert relative(y, of["y"]) <= 1e-5


def tracked(params):
    return {name: value for name, value in params.items() if name != "num_batches_tracked"}


def test_stacked_layers_are_torchs_one_by_one():
    weights = {f"encoder.layers.{i}.{leaf}": np.full((2, 3)[: 2 if leaf == "weight" else 1], float(i))
               for i in range(4) for leaf in ("weight", "bias")}  # fmt: skip
    tree = {"layers": {"kernel": jnp.zeros((4, 3, 2)), "bias": jnp.zeros((4, 2))}}
    layout = TorchLayout(tree, weights, stacked={"layers": "encoder.layers"})
    params = layout.params_from_torch(weights)
    assert params["layers"]["kernel"][:, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert same(layout.params_to_torch(params), weights)
    optimizer = optim.Adam(params)
    optimizer.step(params)
    there = layout.state_to_torch(optimizer.state_dict())
    assert there["state"][2]["exp_avg"].shape == (2, 3) and there["state"][3]["exp_avg_sq"].shape == (2,)
    assert there["param_groups"][0]["param_names"] == list(weights)
    assert same(layout.state_from_torch(there)["state"], optimizer.state_dict()["state"])
    matrices = optim.Adafactor({"layers": {"kernel": params["layers"]["kernel"]}}, lr=0.1)
    matrices.step(matrices.params)
    there = layout.state_to_torch(matrices.state_dict())
    assert there["state"][2]["row_var"].shape == (2, 1) and there["state"][2]["col_var"].shape == (1, 3)
    assert same(layout.state_from_torch(there)["state"], matrices.state_dict()["state"])


def test_what_does_not_map_is_listed_in_one_error():
    weights = {"fc.weight": np.zeros((2, 3)), "fc.bias": np.zeros(2), "extra.weight": np.zeros(1)}
    tree = {"fc": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(2)}, "norm": {"scale": jnp.zeros(2)}}
    with pytest.raises(CheckpointError) as error:
        TorchLayout(tree, weights)
    message = str(error.value)
    for part in (
        "the leaf 'fc.kernel' (2, 3): torch's 'fc.weight' (2, 3) does not fit",
        "the leaf 'norm.scale' (2,): torch has none of norm.weight, norm.scale",
        "torch's 'extra.weight' (1,) has no leaf in the tree; ignore= lists what may be left out",
        "torch's 'fc.weight' (2, 3) has no leaf",
    ):
        assert part in message
    tree = {"fc": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
    layout = TorchLayout(tree, weights, ignore=[r"extra\..*"])
    assert "extra.weight" not in layout.params_to_torch(layout.params_from_torch(weights))
    with pytest.raises(CheckpointError, match=re.escape("'fc.bias' should have shape (2,), but it has (3,)")):
        layout.params_from_torch({**weights, "fc.bias": np.zeros(3)})
    with pytest.raises(CheckpointError, match="too few or too many"):
        TorchLayout({"a": jnp.zeros(2), "b": jnp.zeros(2)}, {"x": np.zeros(2)}, rename=[("a|b", "x")])


def test_statistics_that_are_left_out_are_asked_for():
    module = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    weights = {name: np.ones(2) for name in ("weight", "bias", "running_mean", "running_var")}
    mend = re.escape("In flax give the statistics too: nnx.state(model, (nnx.Param, nnx.BatchStat))")
    with pytest.raises(CheckpointError, match=rf"'running_var' \(2,\) has no leaf in the tree[^\0]*{mend}"):
        TorchLayout(nnx.state(module, nnx.Param), weights)
    with pytest.raises(CheckpointError) as error:
        TorchLayout(nnx.state(module, nnx.Param), {**weights, "x": np.ones(1)}, ignore=["running_.*"])
    assert "statistics" not in str(error.value)
    layout = TorchLayout(nnx.state(module, (nnx.Param, nnx.BatchStat)), weights)
    with pytest.raises(CheckpointError, match=rf"has no leaf 'mean', torch's 'running_mean'. {mend}"):
        layout.params_to_torch(nnx.state(module, nnx.Param))


def test_states_that_do_not_fit_are_refused():
    weights = {"fc.weight": np.zeros((2, 3)), "fc.bias": np.zeros(2)}
    tree = {"fc": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
    layout = TorchLayout(tree, weights)
    state = {0: {"exp_avg": np.zeros((2, 3))}, 1: {"exp_avg": np.zeros(2)}}
    groups = [{"lr": 0.1, "params": [0, 1]}]
    saved = {"state": state, "param_groups": groups}
    assert layout.state_from_torch(saved)["param_groups"][0]["param_names"] == ["fc.bias", "fc.kernel"]
    with pytest.raises(CheckpointError, match=r"exp_avg of torch's 'fc.bias' has shape \(2, 3\), the parameter \(2,\)"):
        layout.state_from_torch(saved, names=["fc.bias", "fc.weight"])
    with pytest.raises(CheckpointError, match="has 2 parameters, but there are 1 names"):
        layout.state_from_torch(saved, names=["fc.bias"])
    with pytest.raises(CheckpointError, match="the layout does not know 'other'"):
        layout.state_from_torch(saved, names=["fc.weight", "other"])
    with pytest.raises(CheckpointError, match="several groups and no names"):
        layout.state_from_torch({"state": state, "param_groups": [{"params": [0]}, {"params": [1]}]})
    with pytest.raises(CheckpointError, match="'state' and 'param_groups'"):
        layout.state_from_torch(state)
    with pytest.raises(CheckpointError, match="group 0 of the state dict has no names"):
        layout.state_to_torch(saved)
    kernel = TorchLayout({"kernel": jnp.zeros((3, 3, 4, 2))}, {"weight": np.zeros((2, 4, 3, 3))})
    factored = {"row_var": np.zeros((2, 4, 3, 1)), "col_var": np.zeros((2, 4, 1, 3))}
    with pytest.raises(CheckpointError, match="its rows and columns are other axes there"):
        kernel.state_from_torch({"state": {0: factored}, "param_groups": [{"params": [0]}]})
    same_here = TorchLayout({"weight": jnp.zeros((2, 4, 3, 3))}, {"weight": np.zeros((2, 4, 3, 3))})
    assert (
        "row_var" in same_here.state_from_torch({"state": {0: factored}, "param_groups": [{"params": [0]}]})["state"][0]
    )


def test_parts_of_one_parameter_must_agree():
    saved = recorded("transformer_float64")
    _, params, _ = transformer("float64")
    layout = TorchLayout(params, saved["model"])
    here = layout.state_from_torch(saved["optimizer"])
    names = here["param_groups"][0]["param_names"]
    query = names.index("encoder.layers.0.self_attn.query.kernel")
    here["state"][query] = {**here["state"][query], "step": np.float32(3)}
    with pytest.raises(
        CheckpointError, match=r"step of what 'encoder.layers.0.self_attn.in_proj_weight' is made of differs"
    ):
        layout.state_to_torch(here)
    del here["state"][query]
    with pytest.raises(CheckpointError, match="not all the same keys"):
        layout.state_to_torch(here)


@pytest.mark.torch
def test_torchs_memory_is_not_shared():
    torch = pytest.importorskip("torch", reason="tensors of torch")
    weight = torch.ones(64, 64)
    layout = TorchLayout({"weight": jnp.zeros((64, 64))}, {"weight": weight})
    params = layout.params_from_torch({"weight": weight})
    step, average = torch.tensor(3.0), torch.ones(64, 64)
    saved = {
        "state": {0: {"step": step, "exp_avg": average}},
        "param_groups": [{"lr": torch.tensor(0.5), "params": [0]}],
    }
    state = layout.state_from_torch(saved)
    there, back = layout.params_to_torch(params), layout.state_to_torch(state)
    for tensor in (weight, step, average):
        tensor.add_(5)
    there["weight"] += 7
    back["state"][0]["exp_avg"] += 7
    assert params["weight"][0, 0] == 1.0
    assert state["state"][0]["step"] == 3.0 and state["state"][0]["exp_avg"][0, 0] == 1.0
    assert float(state["param_groups"][0]["lr"]) == 0.5 and not isinstance(state["param_groups"][0]["lr"], torch.Tensor)


def test_the_way_back_is_in_the_order_that_torch_has():
    weights = {"fc.weight": np.zeros((3, 3)), "fc.bias": np.zeros(3)}
    layout = TorchLayout({"fc": {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}}, weights)
    state = {0: {"momentum_buffer": np.full(3, 7.0)}, 1: {"momentum_buffer": np.full((3, 3), 2.0)}}
    saved = {
        "state": state,
        "param_groups": [
            {"weight_decay": 0.0, "params": [0], "param_names": ["fc.bias"]},
            {"weight_decay": 0.5, "params": [1], "param_names": ["fc.weight"]},
        ],
    }
    here = layout.state_from_torch(saved)
    assert same(layout.state_to_torch(here), saved)
    turned = layout.state_to_torch(here, names=["fc.weight", "fc.bias"])
    assert [group["weight_decay"] for group in turned["param_groups"]] == [0.5, 0.0]
    assert same(turned["state"], {0: state[1], 1: state[0]})
    single = {"state": state, "param_groups": [{"params": [0, 1], "param_names": ["fc.bias", "fc.weight"]}]}
    here = layout.state_from_torch(single)
    assert same(layout.state_to_torch(here, names=["fc.bias", "fc.weight"]), single)
    assert layout.state_to_torch(here)["param_groups"][0]["param_names"] == list(weights)
    with pytest.raises(CheckpointError, match=r"names= lacks 'fc.weight'"):
        layout.state_to_torch(here, names=["fc.bias"])


def test_tied_parameters_are_one():
    table = np.arange(6.0).reshape(3, 2)
    weights = {"embed.weight": table, "mask": np.ones(3, bool), "head.bias": np.zeros(3), "head.weight": table}
    tree = {"embed": {"embedding": jnp.zeros((3, 2))}, "head": {"bias": jnp.zeros(3)}, "mask": jnp.ones(3, bool)}
    layout = TorchLayout(tree, weights, tied={"head.weight": "embed.weight"})
    assert same(layout.params_to_torch(layout.params_from_torch(weights)), weights)
    saved = {"state": {0: {"exp_avg": table}, 1: {"exp_avg": np.ones(3)}}, "param_groups": [{"params": [0, 1]}]}
    assert layout.state_from_torch(saved)["param_groups"][0]["param_names"] == ["embed.embedding", "head.bias"]
    with pytest.raises(CheckpointError, match=r"tied= names what torch does not have: 'tail.weight'"):
        TorchLayout(tree, weights, tied={"tail.weight": "embed.weight"})


def test_a_flattened_image_is_the_input_of_a_dense_kernel():
    rng = np.random.default_rng(0)
    image, weight = rng.normal(size=(2, 3, 4)), rng.normal(size=(5, 24))  # channels, height, width
    rules = [LeafRule("fc.kernel", "fc.weight", "kernel", flattened=(2, 3, 4)), *TORCH_NAMES]
    layout = TorchLayout({"fc": {"kernel": jnp.zeros((24, 5))}}, {"fc.weight": weight}, rules=rules)
    kernel = layout.params_from_torch({"fc.weight": weight})["fc"]["kernel"]
    assert relative(np.moveaxis(image, 0, -1).reshape(-1) @ kernel, weight @ image.reshape(-1)) <= 1e-12
    saved = {"state": {0: {"exp_avg": weight}}, "param_groups": [{"params": [0], "param_names": ["fc.weight"]}]}
    here = layout.state_from_torch(saved)
    assert same(here["state"][0]["exp_avg"], np.asarray(kernel))
    assert same(layout.state_to_torch(here), saved)
    factored = {"state": {0: {"row_var": np.ones((5, 1))}}, "param_groups": [{"params": [0]}]}
    with pytest.raises(CheckpointError, match="its rows and columns are other axes there"):
        layout.state_from_torch(factored)


def network(*shapes, channels_last=True):
    """Return torch parameters of these shapes, ``0.weight``, ``1.weight``, ..., and the twin's tree."""
    weights = {f"{number}.weight": np.zeros(shape) for number, shape in enumerate(shapes)}
    tree = {}
    for number, shape in enumerate(shapes):
        turned = (*shape[2:], shape[1], shape[0]) if len(shape) > 1 and channels_last else shape
        tree[str(number)] = {"kernel" if len(shape) > 1 and channels_last else "weight": jnp.zeros(turned)}
    return tree, weights


def test_a_dense_kernel_that_may_be_behind_a_flattened_image_is_asked_about():
    tree, weights = network((8, 3, 3, 3), (8,), (10, 8 * 4 * 5), (2, 10))
    with pytest.raises(CheckpointError) as error:
        TorchLayout(tree, weights)
    for part in (
        "the leaf '2.kernel' (160, 10): are its 160 inputs the flattened image of 8 channels behind '0.weight'?",
        "flattened=(8, height, width))] with height * width = 20; if not, the same without flattened=",
    ):
        assert part in str(error.value)
    assert "3.kernel" not in str(error.value)
    plain = TorchLayout(tree, weights, rules=[LeafRule(r"2\.kernel", "2.weight", "kernel")])
    image = TorchLayout(tree, weights, rules=[LeafRule(r"2\.kernel", "2.weight", "kernel", flattened=(8, 4, 5))])
    given = {**weights, "2.weight": np.arange(1600.0).reshape(10, 160)}
    assert plain.params_from_torch(given)["2"]["kernel"][:3, 0].tolist() == [0.0, 1.0, 2.0]
    assert image.params_from_torch(given)["2"]["kernel"][:3, 0].tolist() == [0.0, 20.0, 40.0]
    with pytest.raises(CheckpointError, match=r"are its 160 inputs"):
        TorchLayout(tree, weights, rules=TORCH_NAMES)  # which answer nothing
    heads = network((8, 3, 3, 3), (4, 32), (5, 32))
    with pytest.raises(CheckpointError, match=r"(?s)'1\.kernel'.*'2\.kernel'"):
        TorchLayout(*heads)


@pytest.mark.parametrize(
    "shapes",
    [
        [(8, 3, 3, 3), (8,), (10, 8), (20, 10)],  # mean over the image
        [(8, 3, 3, 3), (16,), (10, 16)],  # norm of all outputs of the convolutions before
        [(8, 3, 3, 3), (32, 8), (8, 32), (24, 8), (8, 24)],  # layers after a patch embedding
        [(8, 3, 3, 3), (10, 12)],  # not a multiple
        [(10, 16), (4, 10)],  # no convolution
        [(10, 16), (8, 3, 3, 3)],  # none before
    ],
)
def test_a_dense_kernel_that_is_behind_no_image_is_not_asked_about(shapes):
    TorchLayout(*network(*shapes))
    TorchLayout(*network((8, 3, 3, 3), (10, 32), channels_last=False))  # as in torch: the order is the same
    tree, weights = network((8, 3, 3, 3))
    TorchLayout({**tree, "table": {"embedding": jnp.zeros((5, 32))}}, {**weights, "table.weight": np.zeros((5, 32))})


def test_rules_that_are_given_are_tried_before_the_known_ones():
    weights = {"up.weight": np.zeros((2, 3)), "fc.weight": np.zeros((3, 3)), "fc.bias": np.zeros(3)}
    tree = {"down": {"kernel": jnp.zeros((3, 2))}, "fc": {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}}
    layout = TorchLayout(tree, weights, rules=[LeafRule(r"down\.kernel", "up.weight", "kernel")])
    assert {leaf.name: leaf.pieces[0].name for leaf in layout.leaves} == {
        "down.kernel": "up.weight",
        "fc.kernel": "fc.weight",
        "fc.bias": "fc.bias",
    }
    same_here = TorchLayout(
        tree, weights, rules=[LeafRule("down.kernel", "up.weight", "kernel"), LeafRule("fc.kernel", "fc.weight")]
    )
    assert same_here.leaves[2].pieces[0].axes == (0, 1)
    with pytest.raises(CheckpointError, match=r"rename= turns paths .* rules=\[LeafRule\(path, name, layout\)\]"):
        TorchLayout(tree, weights)


def test_what_cuts_a_matrix_is_refused_where_it_must_be_whole():
    group = {"ns_coefficients": (1.0, 1.0, 1.0), "params": [0], "param_names": ["query.weight"]}
    saved = {"state": {0: {"momentum_buffer": np.zeros((8, 8))}}, "param_groups": [group]}
    layout = TorchLayout({"query": {"kernel": jnp.zeros((8, 2, 4))}}, {"query.weight": np.zeros((8, 8))})
    with pytest.raises(CheckpointError, match=r"as a whole, and here query\.weight is cut"):
        layout.state_from_torch(saved)
    layout = TorchLayout({"conv": {"bias": jnp.zeros((4, 1, 1))}}, {"conv.bias": np.zeros(4)})
    saved = {"state": {0: {"variance": np.zeros(4)}}, "param_groups": [{"params": [0], "param_names": ["conv.bias"]}]}
    with pytest.raises(CheckpointError, match="it has row_var and col_var"):
        layout.state_from_torch(saved)


def test_parts_of_a_linen_tree_check_what_they_are_given():
    tree = {"params": {"layers": {"kernel": jnp.zeros((2, 3, 4))}}, "batch_stats": {"bn": {"mean": jnp.zeros(4)}}}
    weights = {f"net.{i}.weight": np.full((4, 3), i) for i in range(2)} | {"bn.running_mean": np.ones(4)}
    layout = TorchLayout(tree, weights, stacked={"layers": "net"})
    part = layout["params"]
    assert part.params_from_torch(weights)["layers"]["kernel"][1, 0, 0] == 1.0
    for given in ({}, {**weights, "net.1.weight": np.zeros((4, 4))}):
        with pytest.raises(CheckpointError, match="should have shape"):
            part.params_from_torch(given)
    saved = {"state": {2: {"exp_avg": np.zeros(4)}}, "param_groups": [{"params": [0, 1]}]}
    with pytest.raises(CheckpointError, match="states of numbers that are in no group: 2"):
        part.state_from_torch(saved)
    with pytest.raises(CheckpointError, match="a name twice"):
        part.state_from_torch({**saved, "state": {}}, names=["net.0.weight", "net.0.weight"])


@pytest.mark.torch
def test_the_options_that_make_a_layer_of_nnx_torchs():
    """The table of docs/networks.md."""
    import torch

    rngs, x = nnx.Rngs(0), np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    images = torch.tensor(x).permute(0, 3, 1, 2)
    rows = x.reshape(-1, 3)
    conv = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
    ours = nnx.Conv(3, 4, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
    ours.kernel[...] = jnp.asarray(conv.weight.detach().numpy().transpose(2, 3, 1, 0))
    norm, layer_norm = torch.nn.BatchNorm1d(3), torch.nn.LayerNorm(3)
    our_norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
    labels = np.arange(len(rows)) % 3
    pairs = {
        "Conv2d": (conv(images).permute(0, 2, 3, 1), ours(x)),
        "BatchNorm": (norm(torch.tensor(rows)), our_norm(rows)),
        "running mean": (norm.running_mean, our_norm.mean[...]),
        "LayerNorm": (
            layer_norm(torch.tensor(rows)),
            nnx.LayerNorm(3, epsilon=1e-5, use_fast_variance=False, rngs=rngs)(rows),
        ),
        "gelu": (torch.nn.functional.gelu(torch.tensor(rows)), nnx.gelu(rows, approximate=False)),
        "max_pool2d": (
            torch.nn.functional.max_pool2d(images, 2).permute(0, 2, 3, 1),
            nnx.max_pool(x, (2, 2), strides=(2, 2)),
        ),
        "flatten": (images.flatten(1), x.transpose(0, 3, 1, 2).reshape(len(x), -1)),
        "cross_entropy": (
            torch.nn.functional.cross_entropy(torch.tensor(rows), torch.tensor(labels)),
            optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(rows), jnp.asarray(labels)).mean(),
        ),
    }
    for name, (theirs, found) in pairs.items():
        np.testing.assert_allclose(found, theirs.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    assert our_norm.epsilon == norm.eps
    unbiased = (norm.running_var.numpy() - 0.9) * (len(rows) - 1) / len(rows) + 0.9  # flax keeps the biased variance
    np.testing.assert_allclose(our_norm.var[...], unbiased, rtol=1e-5)


SCHEDULERS = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda epoch: 0.5**epoch),
    "CyclicLR": lambda s, o: s.CyclicLR(o, [0.01, 0.1], [0.1, 1.0] if "bias" in names(o)[0] else [1.0, 0.1], 3),
    "ReduceLROnPlateau": lambda s, o: s.ReduceLROnPlateau(o, patience=1, factor=0.5),
    "SequentialLR": lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=2), s.CosineAnnealingLR(o, 9)], [2]),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler([s.LinearLR(o, 0.1), s.ExponentialLR(o, 0.9)]),
}


def names(optimizer):
    return optimizer.param_groups[0].get("param_names") or ["weight"]


def by_group(key):
    """A scheduler of two groups in JAX, the bias first, and the layout of its torch twin, the bias last."""
    tree = {"fc": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
    optimizer = optim.SGD(tree, lr=1.0, momentum=0.9, group_rules=[("bias", {"lr": 0.1})])
    layout = TorchLayout(tree, {"fc.weight": jnp.ones((4, 3)), "fc.bias": jnp.ones(4)})
    return tree, optimizer, SCHEDULERS[key](optim.lr_scheduler, optimizer), layout


def advanced(optimizer, scheduler, steps):
    rates = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step(*[1.0] * ("Plateau" in type(scheduler).__name__))
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
    return rates


@pytest.mark.parametrize("key", SCHEDULERS)
def test_a_schedulers_state_goes_to_torchs_order_of_the_groups(key):
    tree, optimizer, scheduler, layout = by_group(key)
    optimizer.step(tree)
    advanced(optimizer, scheduler, 4)
    order = ["fc.weight", "fc.bias"]
    converted = layout.state_to_torch(optimizer.state_dict(), names=order)
    found, own = layout.scheduler_to_torch(scheduler.state_dict(), converted), scheduler.state_dict()
    assert own.pop("_group_names") == ["fc.bias", "fc.kernel"] and found.keys() == own.keys()
    assert found["_last_lr"] == own["_last_lr"][::-1] == [group["lr"] for group in converted["param_groups"]]
    unmoved = layout.scheduler_to_torch(scheduler.state_dict(), layout.state_to_torch(optimizer.state_dict()))
    assert unmoved["_last_lr"] == own["_last_lr"]
    one = optim.SGD(tree, lr=1.0)
    other = SCHEDULERS["LambdaLR"](optim.lr_scheduler, one)
    assert layout.scheduler_to_torch(other.state_dict(), layout.state_to_torch(one.state_dict())) == other.state_dict()
    with pytest.raises(CheckpointError, match=r"begin with 'fc\.bias', 'fc\.kernel', and optimizer= has others"):
        layout.scheduler_to_torch(scheduler.state_dict(), layout.state_to_torch(one.state_dict()))


@pytest.mark.torch
@pytest.mark.parametrize("key", SCHEDULERS)
def test_torch_goes_on_with_an_optimizer_and_a_scheduler_from_here(key, tmp_path):
    torch = pytest.importorskip("torch", reason="continues in a live torch")
    tree, optimizer, scheduler, layout = by_group(key)
    optimizer.step(tree)
    advanced(optimizer, scheduler, 4)
    converted = layout.state_to_torch(optimizer.state_dict(), names=["fc.weight", "fc.bias"])
    module = torch.nn.Linear(3, 4)
    groups = [{"params": [module.weight], "lr": 1.0}, {"params": [module.bias], "lr": 0.1}]
    theirs = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    their_scheduler = SCHEDULERS[key](torch.optim.lr_scheduler, theirs)
    save_torch([converted, layout.scheduler_to_torch(scheduler.state_dict(), converted)], tmp_path / "both.pt")
    for each, state in zip((theirs, their_scheduler), torch.load(tmp_path / "both.pt"), strict=True):
        each.load_state_dict(state)
    right = [rates[::-1] for rates in advanced(optimizer, scheduler, 8)]
    np.testing.assert_allclose(advanced(theirs, their_scheduler, 8), right, rtol=1e-12)
