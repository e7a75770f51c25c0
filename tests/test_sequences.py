"""Operations in any order: those that only transport an optimizer change nothing, and the others match torch.

The twin makes the same steps and edits, but is never saved, copied, pickled or exported. In the full run, if torch is
installed, there is a second twin in torch.
"""

import copy
import importlib.util
import pickle

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import ALGORITHMS, FULL, oracle

NAMES = list(ALGORITHMS) if FULL else ["sgd", "adam", "nadam", "asgd"]
WITH_TORCH = FULL and importlib.util.find_spec("torch") is not None


def draw(seed):
    return np.random.default_rng(seed).standard_normal((2, 3))


class Sequences(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.x64 = jax.enable_x64(True)
        self.x64.__enter__()
        self.steps = 0

    def teardown(self):
        self.x64.__exit__(None, None, None)

    @initialize(name=st.sampled_from(NAMES))
    def make(self, name):
        self.row, self.groups = ALGORITHMS[name], [["a", "b"]]
        self.ours, self.twin = (self.made([[("a", draw(0)), ("b", draw(1))]]) for _ in range(2))
        if WITH_TORCH:
            import torch

            self.tensors = {key: torch.nn.Parameter(torch.tensor(draw(seed))) for seed, key in enumerate("ab")}
            self.theirs = oracle(self.row.title)(list(self.tensors.items()), **self.row.typical)

    def made(self, groups):
        start = [{"params": [(key, jnp.asarray(value)) for key, value in pairs]} for pairs in groups]
        return getattr(optim, self.row.title)(start, **self.row.typical)

    def gradients(self, missing):
        """Return new gradients for every group, and set those of torch's parameters."""
        self.steps += 1
        found = {key: draw(100 * self.steps + ord(key)) for group in self.groups for key in group}
        if WITH_TORCH:
            import torch

            for key, tensor in self.tensors.items():
                tensor.grad = None if key in missing else torch.tensor(found[key])
        return [[None if key in missing else jnp.asarray(found[key]) for key in group] for group in self.groups]

    def step_the_twins(self, grads):
        self.twin.step(grads)
        if WITH_TORCH:
            self.theirs.step()

    @rule(missing=st.sampled_from(["", "", "a", "b", "c", "ab"]))
    def step(self, missing):
        grads = self.gradients(missing)
        self.ours.step(grads)
        self.step_the_twins(grads)

    @rule(factor=st.sampled_from([0.5, 2.0]))
    def edit(self, factor):
        for optimizer in (self.ours, self.twin, *([self.theirs] if WITH_TORCH else [])):
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * factor

    @precondition(lambda self: len(self.groups) == 1)
    @rule()
    def add(self):
        self.groups.append(["c"])
        for optimizer in (self.ours, self.twin):
            optimizer.add_param_group({"params": [("c", jnp.asarray(draw(2)))]})
        if WITH_TORCH:
            import torch

            self.tensors["c"] = torch.nn.Parameter(torch.tensor(draw(2)))
            self.theirs.add_param_group({"params": [("c", self.tensors["c"])]})

    @rule()
    def save_and_load_by_name(self):
        saved = self.ours.state_dict()
        pairs = [
            list(zip(keys, arrays, strict=True)) for keys, arrays in zip(self.groups, self.ours.params, strict=True)
        ]
        self.ours = self.made(pairs)
        self.ours.load_state_dict(saved, match="name")

    @rule(how=st.sampled_from([copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))]))
    def copy(self, how):
        self.ours = how(self.ours)

    @rule()
    def step_functionally_and_restore(self):
        grads = self.gradients("")
        tx, params, state = self.ours.functional()
        updates, state = jax.jit(tx.update)(grads, state, params)
        self.ours.restore(fo.apply_updates(params, updates), state)
        self.step_the_twins(grads)

    @invariant()
    def the_parameters_are_the_twins(self):
        if not hasattr(self, "ours"):
            return
        for keys, ours, twins in zip(self.groups, self.ours.params, self.twin.params, strict=True):
            for key, one, other in zip(keys, ours, twins, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7, err_msg=key)
                if WITH_TORCH:
                    right = self.tensors[key].detach().numpy()
                    np.testing.assert_allclose(one, right, rtol=1e-6, atol=1e-7, err_msg=key)
        counts = [{key: float(e["step"]) for key, e in o.state.items() if "step" in e} for o in (self.ours, self.twin)]
        assert counts[0] == counts[1]


TestSequences = Sequences.TestCase
TestSequences.settings = hypothesis.settings(
    max_examples=60 if FULL else 15,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
