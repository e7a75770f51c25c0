"""The torch face on a mesh: every class, hooks, schedulers, an average, batch statistics, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from functorch_optim import optim
from functorch_optim.checkpoint import load_safetensors, save_safetensors
from functorch_optim.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tests.two_processes import world

PLAIN = "Adadelta Adafactor Adagrad Adam AdamW Adamax ASGD NAdam RAdam RMSprop Rprop SGD"
MATRICES = {"Muon": {"lr": 0.01}}
QUASI_NEWTON = {"LBFGS": {"lr": 0.5, "max_iter": 3}, "BFGS": {"lr": 0.5, "max_iter": 3}}
CLASSES = {**{name: {} for name in PLAIN.split()}, **MATRICES, **QUASI_NEWTON}
BATCH = np.random.default_rng(0).normal(size=(8, 4))


def params_of(name):
    rng = np.random.default_rng(1)
    params = {"w": world.placed(rng.normal(size=(4, 6)), "x", "y"), "b": world.placed(rng.normal(size=(6,)), "y")}
    return {"w": params["w"]} if name in MATRICES else params


def loss(params, x):
    hidden = jnp.tanh(x @ params["w"])
    whole = hidden + jnp.broadcast_to(params["b"], hidden.shape) if "b" in params else hidden
    return jnp.mean(whole**2) + jnp.mean(jnp.cos(params["w"]))


def train(name, x, folder):
    """Twenty steps, after ten of which everything is saved and loaded."""
    results, calls = {}, []
    optimizer = getattr(optim, name)(params_of(name), **CLASSES[name])
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.5)
    averaged = AveragedModel(optimizer.params, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    for at in range(20):
        value = optimizer.step(loss, x)
        scheduler.step(value)
        averaged.update_parameters(optimizer.params)
        if at == 9:
            path = f"{folder}/{name}-{jax.process_count()}.safetensors"
            save_safetensors({"params": optimizer.params, "optimizer": optimizer.state_dict()}, path)
            saved = load_safetensors(path, like={"params": optimizer.params, "optimizer": ...})
            optimizer.load_state_dict(saved["optimizer"])
            optimizer.params = saved["params"]
            if jax.process_count() == 1:  # what two processes have saved
                results = world.named(load_safetensors(f"{folder}/{name}-2.safetensors")["params"], f"{name}.saved.")
            else:
                results = world.named(optimizer.params, f"{name}.saved.")
    assert len(calls) == 20
    for leaf, param in zip(jax.tree.leaves(optimizer.params), jax.tree.leaves(params_of(name)), strict=True):
        assert leaf.sharding.is_equivalent_to(param.sharding, leaf.ndim)
    results |= {f"{name}.rates": np.array(scheduler.get_last_lr()), f"{name}.value": value}
    results |= world.named(averaged.module, f"{name}.averaged.")
    return results | world.named(optimizer.params, f"{name}.params.")


def statistics(x):
    x, norm = x.astype(jnp.float32), nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    update_bn([x, x + 1], norm)
    return {"statistics.mean": norm.mean[...], "statistics.var": norm.var[...]}


def refusals(x):
    """Numbers that differ between the processes raise in all, and nothing has changed."""
    optimizer = optim.SGD(params_of("SGD"), lr=0.1)
    own = BATCH + jax.process_index()
    messages = [world.refused(lambda: optimizer.step(loss, own)) for _ in range(2)]
    messages += [world.refused(lambda: optimizer.backward(loss, own))]
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    messages += [world.refused(lambda: scheduler.step(float(jax.process_index())))]
    assert jax.process_count() == 1 or scheduler.last_epoch == 0
    optimizer.step(loss, x)
    messages += [world.refused(lambda: optimizer.step(loss, own))]  # also after a global batch
    uneven = [BATCH] * (1 + jax.process_index())
    messages += [world.refused(lambda: optimizer.step(lambda params, each: loss(params, each[0]), uneven))]
    optimizer.step(loss, BATCH)  # the same in all
    rank = jax.process_index()
    messages += [world.refused(lambda: scheduler.step("no number" if rank else 1.0))]
    other = optim.SGD(params_of("SGD"), lr=0.1 + rank)
    messages += [world.refused(lambda: other.step(loss, x))]
    apart = optim.LBFGS({**params_of("SGD"), "b": jnp.full(6, float(rank))}, lr=0.1)
    messages += [world.refused(lambda: apart.step(loss, x))]
    return messages


def main(folder):
    with jax.enable_x64(True):
        x = world.placed(BATCH, "x")
        results = statistics(x)
        for name in CLASSES:
            results |= train(name, x, folder)
        world.report(folder, results)
        world.tell(folder, refusals(x))
