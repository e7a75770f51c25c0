"""The training, twice: as a functional loop, and as a torch user would write it."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.demo import checkpoint, data
from functorch_optim.demo.network import accuracy, init_params, loss_fn
from functorch_optim.demo.optimizers import CLASSES, MAX_NORM, OPTIONS, make_optimizer, make_schedule
from functorch_optim.demo.plot import plot
from functorch_optim.typing import PyTree


def make_step(tx: fo.GradientTransformation) -> PyTree:
    def train_step(params: PyTree, state: PyTree, images: jax.Array, labels: jax.Array) -> PyTree:
        loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state, loss

    return jax.jit(train_step, donate_argnums=(0, 1))


class Result(NamedTuple):
    """The result of training.

    ``differences`` are a parameter's largest differences from the torch face, after the first epoch and at the end.
    Rounding errors grow when a ReLU or a maximum switches, since the loss has a kink there.
    """

    params: PyTree
    accuracy: float
    differences: tuple[float, float]


def train_as_in_torch(optimizer: optim.Optimizer, digits: data.Digits, first: int, epochs: int) -> list[PyTree]:
    """Train with the torch face, line by line as a torch user would; return the parameters after every epoch."""
    from tqdm import tqdm

    history = [optimizer.params]
    for epoch in range(first, epochs):
        for batch in tqdm(data.batches(epoch, digits), f"torch face, epoch {epoch + 1}/{epochs}"):
            optimizer.zero_grad()
            optimizer.backward(loss_fn, digits.train_images[batch], digits.train_labels[batch])
            optimizer.clip_grad_norm(MAX_NORM)
            optimizer.step()
        history.append(jax.device_get(optimizer.params))
    return history


def largest_difference(some: PyTree, others: PyTree) -> float:
    differences = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), some, others)
    return max(jax.tree.leaves(differences))


def train(optimizer: str, lr: float, epochs: int, resume: bool, out: pathlib.Path) -> Result:
    """Train, and write ``curves.png`` and ``checkpoint.pt`` to ``out``."""
    from tqdm import tqdm

    digits = data.load_digits()
    steps_per_epoch = len(digits.train_images) // data.BATCH
    tx = make_optimizer(optimizer, lr, steps_per_epoch)
    params = init_params(seed=0)
    state, first, history = tx.init(params), 0, np.zeros((0, 4))
    path = out / "checkpoint.pt"
    if resume:
        (params, state), run = checkpoint.load(path, (params, state), optimizer, lr)
        first, history = run["epoch"], run["history"]
    stateful = CLASSES[optimizer](params, lr=make_schedule(lr, steps_per_epoch), **OPTIONS[optimizer])
    stateful.restore(params, fo.find_state(state, fo.SGDState if optimizer == "sgd" else fo.AdamState))
    step, after_first = make_step(tx), jax.device_get(params)
    score = float(accuracy(params, digits.test_images, digits.test_labels))
    for epoch in range(first, epochs):
        losses = []
        with tqdm(data.batches(epoch, digits), f"epoch {epoch + 1}/{epochs}") as bar:
            for batch in bar:
                rate = float(fo.current_hyperparams(tx, state)["lr"])
                params, state, loss = step(params, state, digits.train_images[batch], digits.train_labels[batch])
                losses.append(loss)
                bar.set_postfix(loss=f"{float(loss):.4f}", lr=f"{rate:.2e}", refresh=False)
            mean, rate = float(jnp.mean(jnp.stack(losses))), float(fo.current_hyperparams(tx, state)["lr"])
            score = float(accuracy(params, digits.test_images, digits.test_labels))
            bar.set_postfix(loss=f"{mean:.4f}", accuracy=f"{score:.4f}", lr=f"{rate:.2e}")
        after_first = jax.device_get(params) if epoch == first else after_first
        row = [(epoch + 1) * steps_per_epoch, mean, rate, score]
        history = np.concatenate([history, np.array([row])])
        run = {"optimizer": optimizer, "lr": lr, "epoch": epoch + 1, "history": history}
        checkpoint.save(path, (params, state), run)
    plot(out / "curves.png", history)
    again = train_as_in_torch(stateful, digits, first, epochs)
    both = (largest_difference(after_first, again[min(1, len(again) - 1)]), largest_difference(params, again[-1]))
    return Result(params, score, both)
