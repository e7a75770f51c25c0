"""One run on one mesh: from the start or from a checkpoint, to the last step."""

import functools
import pathlib
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

import functorch_optim as fo
from functorch_optim.demo.errors import DemoError, writing
from functorch_optim.demo.progress import Progress
from functorch_optim.demo.sharded import layout, text
from functorch_optim.demo.sharded.losses import append
from functorch_optim.demo.sharded.network import Config, init_params, loss_fn
from functorch_optim.demo.sharded.optimizer import make_optimizer
from functorch_optim.typing import PyTree

CHECKPOINT = "checkpoint.safetensors"


class Run(NamedTuple):
    """What a process is told to do.

    Attributes:
        mesh: how many devices the batch is split over, and how many the layers.
        config: the sizes of the network.
        steps: the last step.
        every: how many steps are between two checkpoints.
        size: the sequences of a batch.
        log: the file with the losses.
        checkpoint: the file to save in; None saves nothing.
        is_resumed: whether to begin with the checkpoint.
    """

    mesh: tuple[int, int]
    config: Config
    steps: int
    every: int
    size: int
    log: pathlib.Path
    checkpoint: pathlib.Path | None
    is_resumed: bool


class Carry(NamedTuple):
    """What a step changes."""

    params: PyTree
    state: PyTree
    step: int


def start(tx: fo.GradientTransformation, config: Config, mesh: Mesh) -> Carry:
    """Draw parameters, and make the state beside them. No device holds all of either."""
    init = functools.partial(init_params, config)
    places = layout.shardings(jax.eval_shape(init, jax.random.key(0)), mesh)
    params = jax.jit(init, out_shardings=places)(jax.random.key(0))
    return Carry(params, fo.init_sharded(tx, params), 0)


def resume(tx: fo.GradientTransformation, config: Config, mesh: Mesh, path: pathlib.Path) -> Carry:
    """Read a checkpoint onto a mesh, which may be another than that of the run that wrote it."""
    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    params = layout.abstract(shapes, layout.shardings(shapes, mesh))
    state = fo.abstract_state(tx, params)
    like = Carry(params, state, 0)
    return Carry(**fo.checkpoint.load_safetensors(path, like=like._asdict()))


def make_step(tx: fo.GradientTransformation, config: Config, carry: Carry) -> PyTree:
    """Compile a step. Its results replace what it is given, in the same places."""

    def step(params: PyTree, state: PyTree, tokens: jax.Array) -> tuple[PyTree, PyTree, jax.Array]:
        loss, grads = jax.value_and_grad(functools.partial(loss_fn, config))(params, tokens)
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state, loss

    params, state, _ = carry
    places = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    return jax.jit(step, donate_argnums=(0, 1), out_shardings=(*places, None))


def train(run: Run, progress: Progress) -> Carry:
    """Train to the last step; write the loss after each step, and a checkpoint after every few."""
    mesh, tx = layout.make_mesh(run.mesh), make_optimizer(run.steps)
    on_mesh = NamedSharding(mesh, layout.BATCH)
    if run.is_resumed and run.checkpoint is not None:
        carry = resume(tx, run.config, mesh, run.checkpoint)
    else:
        carry = start(tx, run.config, mesh)
    step, tokens = make_step(tx, run.config, carry), text.load_tokens(text.MODULES)
    progress.phase(_placed(run.mesh, carry), run.steps - carry.step)
    while carry.step < run.steps:
        last = min(carry.step + run.every, run.steps)
        digits = len(str(run.steps))
        with progress.bar(f"step {last:>{digits}}/{run.steps}", last - carry.step) as bar:
            losses: list[float] = []
            for index in range(carry.step, last):
                local = text.batch_of(index, tokens, run.size, run.config.length)
                batch = jax.make_array_from_process_local_data(on_mesh, local)
                params, state, loss = step(carry.params, carry.state, batch)
                carry = Carry(params, state, index + 1)
                losses.append(float(loss))
                append(run.log, carry.step, losses[-1])
                bar.step(f"loss {losses[-1]:.4f}")
            if not np.isfinite(losses[-1]):
                raise DemoError(f"the loss of step {carry.step} is {losses[-1]}")
            if run.checkpoint is not None:
                with writing(run.checkpoint):
                    fo.checkpoint.save_safetensors(carry._asdict(), run.checkpoint)
            bar.end(f"mean loss {np.mean(losses):.4f}")
    return carry


def held_out_losses(run: Run, carry: Carry) -> tuple[float, float]:
    """Return the loss on text that the network has not seen, of the last parameters and of their average."""
    tokens = text.load_tokens(text.HELD_OUT)
    batch = text.batch_of(0, tokens, 8 * run.size, run.config.length)
    loss = jax.jit(functools.partial(loss_fn, run.config))
    return float(loss(carry.params, batch)), float(loss(fo.averaged_params(carry.state), batch))


def _placed(mesh: tuple[int, int], carry: Carry) -> str:
    both = (carry.params, carry.state)
    whole, part = sum(leaf.nbytes for leaf in jax.tree.leaves(both)), layout.bytes_on_a_device(both)
    beginning = f"from step {carry.step} " if carry.step else ""
    size = f"{part / 1e6:.1f} of {whole / 1e6:.1f} MB of parameters and state"
    return f"{beginning}on a mesh of {mesh[0]} x {mesh[1]}: every device holds {size}"
