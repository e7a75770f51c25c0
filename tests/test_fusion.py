"""The one-pass form of an update has the same numbers and one kernel; no form hides a copy."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import fusion, optim
from functorch_optim.core import leaf
from functorch_optim.core.lifted import Lifted
from tests.algorithms import ALGORITHMS
from tests.table import TABLE

FLAG = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"
ELEMENTWISE = {
    name: tx
    for name, tx in TABLE.items()
    if isinstance(getattr(tx.update, "of", None), Lifted) and tx.update.of.rule.elementwise
}


def tree(shape=(64, 33)):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name in ("kernel", "other")}


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": "", **environment}
    )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_both_forms_have_the_same_numbers(name, monkeypatch):
    tx, results = ELEMENTWISE[name], []
    for form in (False, True):
        monkeypatch.setattr(leaf, "one_pass", lambda form=form: form)
        params = tree()
        state = tx.init(params)

        def step(grads, state, params):
            updates, state = tx.update(grads, state, params)
            return fo.apply_updates(params, updates), state

        step = jax.jit(step)
        text = step.lower(params, state, params).as_text()
        assert ("optimization_barrier" in text) is (form and name != "sgd_plain")  # which has no slots
        for number in range(3):  # gradients at the start: at the parameters they would enlarge one rounding of them
            params, state = step(jax.tree.map(lambda x, n=number: jnp.sin(x * (n + 1)), tree()), state, params)
        results.append((params, state))
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        assert np.max(np.abs(one - other)) <= 5e-7 * np.max(np.abs(other))


def test_the_one_pass_form_is_differentiable_and_maps(monkeypatch):
    params = tree((3, 2))

    def loss(scale, tx):
        updates, _ = tx.update(jax.tree.map(lambda x: x * scale, params), tx.init(params), params)
        return sum(jnp.sum(update**3) for update in jax.tree.leaves(updates))

    tx, values = fo.adam(lr=0.1, eps=1.0), []
    for form in (False, True):
        monkeypatch.setattr(leaf, "one_pass", lambda form=form: form)
        mapped = jax.vmap(lambda s: loss(s, tx))(jnp.arange(1.0, 4.0))
        values.append((jax.jit(jax.grad(loss), static_argnums=1)(2.0, tx), mapped))
    assert np.allclose(values[0][0], values[1][0], rtol=1e-5) and np.allclose(values[0][1], values[1][1], rtol=1e-5)


SCRIPT = """
import json
import jax, jax.numpy as jnp
import functorch_optim as fo
fo.enable_cpu_fusion()
from tests.test_fusion import ELEMENTWISE, tree
found = {}
for name, tx in ELEMENTWISE.items():
    params = {"kernel": tree()["kernel"]}
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state
    state = tx.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    entry = compiled.as_text().split("ENTRY")[1].splitlines()
    kernels = sum("fusion(" in line and "[64,33]" in line for line in entry)
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    new, _ = compiled(params, state, {"kernel": tree()["kernel"]})
    found[name] = [kernels, temporaries, float(jnp.sum(new["kernel"]))]
print(json.dumps(found))
"""
PACKED = {"adam_foreach", "adam_foreach_decay_mask", "rmsprop_foreach"}  # these also pack and cut


@pytest.mark.full
def test_a_step_is_one_kernel_where_fusion_is_on():
    on, off = run_python(SCRIPT), run_python(SCRIPT.replace("fo.enable_cpu_fusion()", ""))
    assert on.returncode == off.returncode == 0, on.stderr + off.stderr
    fused, plain = json.loads(on.stdout), json.loads(off.stdout)
    assert {name for name, (kernels, _, _) in fused.items() if kernels != 1} <= PACKED
    assert {name for name, (kernels, _, _) in plain.items() if kernels == 1} <= {"sgd_plain", *PACKED}
    assert all(temporaries < 2048 for name, (_, temporaries, _) in fused.items() if name not in PACKED)
    assert np.allclose([total for *_, total in fused.values()], [total for *_, total in plain.values()], rtol=1e-5)


@pytest.mark.full
def test_it_must_come_before_the_first_computation():
    late = run_python("import jax, functorch_optim as fo; jax.numpy.ones(2) + 1; fo.enable_cpu_fusion()")
    assert "RuntimeError: enable_cpu_fusion() came after the first computation" in late.stderr
    code = "import os, functorch_optim as fo; before = os.environ['XLA_FLAGS']; fo.enable_cpu_fusion(); "
    code += "fo.enable_cpu_fusion(); print([before, os.environ['XLA_FLAGS'], fo.fusion.one_pass()])"
    other = "--xla_force_host_platform_device_count=2 --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitter"
    kept = run_python(code, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert kept.stdout.strip() == str([
        "--xla_force_host_platform_device_count=2", f"--xla_force_host_platform_device_count=2 {FLAG}", True
    ])  # fmt: skip
    joined = run_python(code.replace(", fo.fusion.one_pass()", ""), XLA_FLAGS=other)
    assert joined.stdout.strip() == str([other, f"{other},xla_cpu_use_multi_output_fusion"])
    asked = run_python("import functorch_optim as fo; print(fo.fusion.one_pass())", XLA_FLAGS=FLAG)
    assert asked.stdout.strip() == "True"  # setting it by hand works
    assert not fusion.one_pass() or "multi_output" in os.environ["XLA_FLAGS"]


@pytest.mark.parametrize("name", [*ELEMENTWISE, "adafactor"])
def test_a_step_copies_nothing(name):
    """Parameters and state are updated in place, and most algorithms need no other memory."""
    tx, params = TABLE[name], tree((256, 256))
    state = tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    memory = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile().memory_analysis()
    owned = sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)))
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    row = ALGORITHMS[name if name in ALGORITHMS else name.split("_")[0]]
    written = 4 * len(row.carried)  # scalars that may be written without being read
    assert owned - written <= memory.alias_size_in_bytes <= owned
    assert abs(memory.argument_size_in_bytes - owned - gradients) <= 64
    assert memory.temp_size_in_bytes <= row.copies * gradients + 0.02 * owned


def test_the_torch_face_donates_what_it_has():
    optimizer = optim.Adam(tree((256, 256)), lr=0.1)
    optimizer.step(tree((256, 256)))
    before = [leaf.unsafe_buffer_pointer() for leaf in optimizer._leaves]
    optimizer.step(tree((256, 256)))
    assert [leaf.unsafe_buffer_pointer() for leaf in optimizer._leaves] == before
