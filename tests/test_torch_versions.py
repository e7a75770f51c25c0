"""What torch 2.14 and 2.15 changed in the classes, where the installed oracle is older."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from functorch_optim import optim
from tests.quasi_newton_cases import WOLFE

MINIMIZERS = [(kind, search) for kind in (optim.LBFGS, optim.BFGS) for search in ({}, WOLFE)]
each_minimizer = pytest.mark.parametrize(("kind", "search"), MINIMIZERS)


def valley(params):
    return jnp.sum((params["w"] - 0.5) ** 2) + jnp.sum(params["w"]) ** 4 / 10


def hill(params):
    return -valley(params)


def start():
    return {"w": jnp.array([2.0, -1.0])}


@each_minimizer
def test_minimizers_ascend_by_an_option_of_the_group(kind, search, x64):
    down, up = kind(start(), lr=0.3, **search), kind(start(), lr=0.3, maximize=True, **search)
    live = kind(start(), lr=0.3, **search)
    assert (down.param_groups[0]["maximize"], up.param_groups[0]["maximize"]) == (False, True)
    live.param_groups[0]["maximize"] = True
    for _ in range(3):
        losses = [down.step(valley), up.step(hill), live.step(hill)]
        assert losses[0] == -losses[1] == -losses[2]  # the closure's own value comes back
        np.testing.assert_allclose(up.params["w"], down.params["w"], rtol=1e-12)
        np.testing.assert_array_equal(live.params["w"], up.params["w"])
    assert up.state["w"]["func_evals"] == down.state["w"]["func_evals"]


def test_maximize_is_a_keyword_only():
    for kind, options in ((optim.LBFGS, [1, 20, None, 1e-7, 1e-9, 100, None]), (optim.BFGS, [1, 20, None, 1e-7, 1e-9])):
        kind(start(), *options)
        with pytest.raises(TypeError, match="positional arguments"):
            kind(start(), *options, None, True)


@pytest.mark.torch
@pytest.mark.parametrize("search", [{"lr": 0.1}, WOLFE])
def test_lbfgs_ascends_as_torch_descends_the_negative_and_states_cross(search, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    ours = optim.LBFGS([start()["w"].astype(jnp.float64)], maximize=True, max_iter=5, **search)
    param = torch.nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    theirs = torch.optim.LBFGS([param], max_iter=5, **search)

    def closure():
        theirs.zero_grad()
        value = torch.sum((param - 0.5) ** 2) + torch.sum(param) ** 4 / 10
        value.backward()
        return value

    for _ in range(2):
        ours.step(lambda params: hill({"w": params[0]}))
        theirs.step(closure)
        np.testing.assert_allclose(ours.params[0], param.detach().numpy(), rtol=1e-9)
    saved = ours.state_dict()
    assert saved["param_groups"][0]["maximize"] is True
    theirs.load_state_dict({"state": {}, "param_groups": saved["param_groups"]})
    assert list(theirs.state_dict()["param_groups"][0])[-2:] == ["maximize", "params"]  # 2.13 carries it along
    old = torch.optim.LBFGS([param], lr=0.25).state_dict()
    ours.load_state_dict(old)  # which has no maximize: the present one stays
    assert (ours.param_groups[0]["lr"], ours.param_groups[0]["maximize"]) == (0.25, True)


@each_minimizer
@pytest.mark.parametrize("maximize", [False, True])
def test_parameters_without_entries_are_evaluated_once(kind, search, maximize):
    optimizer = kind({"w": jnp.zeros((0, 3)), "b": jnp.zeros(0)}, maximize=maximize, **search)
    for number in (1, 2):
        assert optimizer.step(lambda params: jnp.sum(params["w"]) + 3.0) == 3.0
        assert optimizer.state["b"]["func_evals"] == number and optimizer.state["b"]["n_iter"] == 0
    twin = kind({"w": jnp.zeros((0, 3)), "b": jnp.zeros(0)}, **search)
    twin.load_state_dict(optimizer.state_dict())
    assert twin.step(lambda params: jnp.sum(params["w"]) - 1.0) == -1.0


def test_a_set_of_parameters_warns_and_trains_in_a_fixed_order():
    """Arrays have no hash, so a set can hold NumPy's scalars and pairs with names only."""
    scalars = [np.float32(x) for x in (3.0, 1.0, 2.0)]
    message = "optimizer parameters need to be organized in ordered collections"
    for params in (set(scalars), frozenset(scalars)):
        with pytest.warns(FutureWarning, match=message) as caught:
            optimizer = optim.SGD(params, lr=0.5)
        assert caught[0].filename == __file__
        optimizer.step([jnp.float32(1.0)] * 3)
        assert [float(array) for array in optimizer.params] == [0.5, 1.5, 2.5]
    with pytest.warns(FutureWarning, match=message):
        named = optim.SGD({("b", np.float32(1.0)), ("a", np.float32(2.0))})
    assert named.param_groups[0]["param_names"] == ["a", "b"]
    with pytest.raises(TypeError, match=message):
        optim.SGD([{"params": set(scalars)}])
    with pytest.warns(FutureWarning), pytest.raises(TypeError, match="can only optimize Tensors"):
        optim.SGD({1.0})


def test_the_page_on_versions_runs(standard_promotion, capsys):
    page = (pathlib.Path(__file__).parent.parent / "docs" / "torch-versions.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(compile(block, "torch-versions.md", "exec"), namespace)
    np.testing.assert_allclose(namespace["new"].params[1], 0.9, rtol=1e-6)
    np.testing.assert_allclose(namespace["uphill"].params["x"], 2.0, rtol=1e-3)
    assert list(namespace["tuned"].state) == ["body", "head"]
    printed = capsys.readouterr().out
    assert "bfloat16 float32" in printed and "[0.0] 0.05" in printed
