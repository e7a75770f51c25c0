"""Every transformation on a mesh: ten steps, saved in one file and in shards, restored, and ten more."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from functorch_optim.checkpoint import load_safetensors, load_torch, save_safetensors, save_torch
from tests.mesh_rows import every_of, specs_of, tree
from tests.table import TABLE
from tests.two_processes import world

SEARCHING = {"lbfgs": fo.lbfgs(history_size=3, line_search_fn="strong_wolfe"), "bfgs": fo.bfgs()}
PLAIN = {**TABLE, **SEARCHING}


def start(place):
    put = lambda leaf, spec: world.placed(np.asarray(leaf), *spec)  # noqa: E731 one line
    return jax.tree.map(put, tree(0, "float64"), specs_of(place))


def objective(at, params):
    return sum(jnp.sum(jnp.logaddexp(p, -p) + jnp.cos(at) / 2 * p) for p in jax.tree.leaves(params))


@functools.partial(jax.jit, static_argnames="rows")
def advance(run, at, rows):
    params, states = {}, {}
    for name, tx in rows:
        grads = jax.tree.map(lambda p: jnp.tanh(p) + jnp.cos(at) / 2, run["params"][name])
        more = {"value_fn": functools.partial(objective, at)} if name in SEARCHING else {}
        updates, states[name] = tx.update(grads, run["states"][name], run["params"][name], **more)
        params[name] = fo.apply_updates(run["params"][name], updates)
    return {"params": params, "states": states}


def steps(run, begin, end, rows):
    return functools.reduce(lambda run, at: advance(run, jnp.float64(at), tuple(rows.items())), range(begin, end), run)


def train(folder, rows, place):
    with jax.enable_x64(True):
        params = start(place)
        states = fo.init_sharded(every_of(rows), params)
        run = steps({"params": dict.fromkeys(rows, params), "states": states}, 0, 10, rows)
        saved = f"{folder}/run"
        middle = world.named(run["params"], "middle.")
        if jax.process_count() > 1:
            save_safetensors(run, f"{saved}.safetensors")
            save_safetensors(run, f"{saved}-shards.safetensors", sharded=True)
            save_torch(run["params"], f"{saved}.pt")
        else:  # the processes saved before
            middle |= world.named(load_torch(f"{saved}.pt", like=run["params"]), "torch.")
            middle |= world.named(load_safetensors(f"{saved}.safetensors", like=run)["params"], "one_file.")
        run = load_safetensors(f"{saved}-shards.safetensors", like=run)
        world.report(folder, middle | world.named(steps(run, 10, 20, rows)["params"], "end."))


def main(folder):
    train(folder, PLAIN, "both axes")
