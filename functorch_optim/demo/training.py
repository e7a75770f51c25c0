"""The training, twice: as a functional loop, and as a torch user would write it."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.demo import checkpoint, data, plot
from functorch_optim.demo.curves import Comparison, Curves
from functorch_optim.demo.errors import DemoError, NothingLeftError, writing
from functorch_optim.demo.network import accuracy, init_params, loss_fn
from functorch_optim.demo.optimizers import CLASSES, MAX_NORM, OPTIONS, make_optimizer, make_schedule
from functorch_optim.demo.progress import Progress
from functorch_optim.typing import PyTree


class Result(NamedTuple):
    """The result of training.

    ``differences`` are a parameter's largest differences from the torch face, after every epoch. Rounding errors grow
    when a ReLU or a maximum switches, since the loss has a kink there.
    """

    params: PyTree
    accuracy: float
    differences: np.ndarray


def make_step(tx: fo.GradientTransformation) -> PyTree:
    """Compile the step: it returns the new parameters and state, the loss, and the learning rate."""

    def train_step(params: PyTree, state: PyTree, images: jax.Array, labels: jax.Array) -> PyTree:
        loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
        rate = fo.current_hyperparams(tx, state)["lr"]
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state, loss, rate

    return jax.jit(train_step, donate_argnums=(0, 1))


class Training(NamedTuple):
    """A run: its optimizer, its data and its files."""

    optimizer: str
    lr: float
    epochs: int
    out: pathlib.Path
    digits: data.Digits
    progress: Progress

    @property
    def steps_per_epoch(self) -> int:
        return data.steps_per_epoch(self.digits)

    def score(self, params: PyTree) -> float:
        return float(accuracy(params, self.digits.test_images, self.digits.test_labels))

    def plot(self, curves: Curves, comparison: Comparison | None) -> None:
        with writing(self.out / plot.NAME):
            plot.plot(self.out / plot.NAME, self.optimizer, curves, comparison)

    def functional(self, params: PyTree, state: PyTree, curves: Curves) -> tuple[list[PyTree], Curves]:
        """Train with the functional face, and write a checkpoint after every epoch; return the parameters after every
        epoch, and the curves."""
        images, labels = self.digits.train_images, self.digits.train_labels
        snapshots: list[PyTree] = []
        step = make_step(make_optimizer(self.optimizer, self.lr, self.steps_per_epoch))
        text = "functional face: one compiled step computes loss, gradients and update"
        self.progress.phase(text, (self.epochs - curves.epochs) * self.steps_per_epoch)
        for epoch in range(curves.epochs, self.epochs):
            losses: list[float] = []
            rates: list[float] = []
            label = f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"
            with self.progress.bar(label, self.steps_per_epoch) as bar:
                for batch in data.batches(epoch, self.digits):
                    params, state, loss, rate = step(params, state, images[batch], labels[batch])
                    losses.append(float(loss))
                    rates.append(float(rate))
                    bar.step(f"loss {np.mean(losses):.4f}  rate {rates[-1]:.2e}")
                curves = curves.extended(losses, rates, self.score(params))
                mean, score = curves.mean_loss[-1], curves.accuracy[-1]
                bar.end(f"loss {mean:.4f}  accuracy {score:.2%}  rate {rates[-1]:.2e}")
            if not np.isfinite(mean):
                raise DemoError(f"the mean loss of epoch {epoch + 1} is {mean}: pass a lower --lr than {self.lr:g}")
            checkpoint.save(self.out / checkpoint.NAME, (params, state), self.optimizer, self.lr, curves)
            snapshots.append(jax.device_get(params))
        return snapshots, curves

    def as_in_torch(self, optimizer: optim.Optimizer, snapshots: list[PyTree]) -> Comparison:
        """Train with the torch face, line by line as a torch user would, and compare with the functional face."""
        images, labels = self.digits.train_images, self.digits.train_labels
        first = self.epochs - len(snapshots)
        curves, differences = Curves.empty(), []
        text = "torch face: zero_grad, backward, clip_grad_norm, step; the same but for rounding"
        self.progress.phase(text, len(snapshots) * self.steps_per_epoch)
        label = f"{len(snapshots)} epochs" if len(snapshots) > 1 else "1 epoch"
        with self.progress.bar(label, len(snapshots) * self.steps_per_epoch) as bar:
            for epoch, expected in enumerate(snapshots, first):
                losses: list[float] = []
                for batch in data.batches(epoch, self.digits):
                    optimizer.zero_grad()
                    loss = optimizer.backward(loss_fn, images[batch], labels[batch])
                    optimizer.clip_grad_norm(MAX_NORM)
                    optimizer.step()
                    losses.append(float(loss))
                    bar.step(f"loss {np.mean(losses):.4f}")
                curves = curves.extended(losses, [], self.score(optimizer.params))
                differences.append(largest_difference(jax.device_get(optimizer.params), expected))
            bar.end(f"loss {curves.mean_loss[-1]:.4f}  accuracy {curves.accuracy[-1]:.2%}")
        return Comparison(first, curves.mean_loss, curves.accuracy, np.array(differences))


def largest_difference(some: PyTree, others: PyTree) -> float:
    differences = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), some, others)
    return max(jax.tree.leaves(differences))


def train(
    optimizer: str, lr: float, epochs: int, resume: bool, out: pathlib.Path, progress: Progress | None = None
) -> Result:
    """Train, and write ``curves.png`` and ``checkpoint.pt`` to ``out``."""
    progress = progress or Progress()
    digits = data.load_digits()
    run = Training(optimizer, lr, epochs, out, digits, progress)
    tx = make_optimizer(optimizer, lr, run.steps_per_epoch)
    params = init_params(seed=0)
    state, curves, path = tx.init(params), Curves.empty(), out / checkpoint.NAME
    if resume:
        (params, state), curves = checkpoint.load(path, (params, state), optimizer, lr)
        if curves.epochs >= epochs:
            raise NothingLeftError(curves.epochs)
    checkpoint.check_folder(out, (checkpoint.NAME, plot.NAME))
    progress.say(_describe(params, digits, optimizer, lr))
    if resume:
        progress.say(f"resuming after epoch {curves.epochs} from {path}")
    elif path.exists():
        progress.say(f"starting anew: the first epoch replaces {path}, which --resume would continue")
    stateful = CLASSES[optimizer](params, lr=make_schedule(lr, run.steps_per_epoch), **OPTIONS[optimizer])
    stateful.restore(params, fo.find_state(state, fo.SGDState if optimizer == "sgd" else fo.AdamState))
    snapshots, curves = run.functional(params, state, curves)
    try:
        comparison = run.as_in_torch(stateful, snapshots)
    except KeyboardInterrupt:
        run.plot(curves, None)
        raise
    run.plot(curves, comparison)
    return Result(snapshots[-1], float(curves.accuracy[-1]), comparison.difference)


def _describe(params: PyTree, digits: data.Digits, optimizer: str, lr: float) -> str:
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    images = f"{len(digits.train_images):,} handwritten digits to learn from, {len(digits.test_images)} to test on"
    return f"{images}\n{size:,} parameters; {optimizer}, learning rate {lr:g} at its peak"
