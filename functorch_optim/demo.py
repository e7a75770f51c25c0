"""Trains a small convolutional network on scikit-learn's handwritten digits: ``python -m functorch_optim.demo``.

The loop is functional: a jitted step of loss, gradients and update. After every epoch the parameters and the
optimizer's state are written to a checkpoint, which ``torch.load`` reads too, and ``--resume`` continues from it to the
same bits as a run that was never stopped. The same training then runs once more, from the same start, as a torch user
would write it, and the largest difference between the two is printed.
"""

import argparse
import pathlib
import sys
import time
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from functorch_optim import optim

BATCH = 32
WARMUP_EPOCHS, DECAY_EPOCHS = 1, 30  # the schedule's horizon; independent of --epochs, so that a run can be prolonged
DEFAULT_LR = {"sgd": 0.1, "adam": 2e-3, "adamw": 2e-3}
OPTIONS = {"sgd": {"momentum": 0.9, "nesterov": True}, "adam": {}, "adamw": {}}
CLASSES = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}
MAX_NORM = 1.0
RUN = {"optimizer": str, "lr": float, "epoch": int, "history": np.ndarray}  # what stands in a checkpoint


class Digits(NamedTuple):
    """Images (n, 8, 8, 1) in [0, 1] and labels (n,), to train on and to test on."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits() -> Digits:
    from sklearn.datasets import load_digits as load

    pixels, labels = map(np.asarray, load(return_X_y=True))
    images = (pixels / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:360], order[360:]
    labels = labels.astype(np.int32)
    return Digits(images[train], labels[train], images[test], labels[test])


def init_params(seed: int) -> dict[str, dict[str, jax.Array]]:
    """Two convolutions and two dense layers, drawn as He et al. do."""
    shapes = {"conv1": (3, 3, 1, 16), "conv2": (3, 3, 16, 32), "dense1": (128, 64), "dense2": (64, 10)}
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {
        name: {
            "kernel": jax.random.normal(key, shape) * np.sqrt(2 / np.prod(shape[:-1])).astype(np.float32),
            "bias": jnp.zeros(shape[-1]),
        }
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def predict(params: Any, images: jax.Array) -> jax.Array:
    """Logits (n, 10)."""
    x = images
    for name in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[name]["bias"].reshape(1, 1, 1, -1))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ params["dense1"]["kernel"] + params["dense1"]["bias"].reshape(1, -1))
    return x @ params["dense2"]["kernel"] + params["dense2"]["bias"].reshape(1, -1)


def loss_fn(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    log_probs = jax.nn.log_softmax(predict(params, images))
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))


@jax.jit
def accuracy(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(jnp.argmax(predict(params, images), axis=1) == labels)


def make_schedule(lr: float, steps_per_epoch: int) -> Any:
    return fo.schedules.warmup_cosine(lr, WARMUP_EPOCHS * steps_per_epoch, DECAY_EPOCHS * steps_per_epoch, end=lr / 100)


def make_optimizer(name: str, lr: float, steps_per_epoch: int) -> fo.GradientTransformation:
    schedule = make_schedule(lr, steps_per_epoch)
    return fo.chain(fo.clip_by_global_norm(MAX_NORM), getattr(fo, name)(lr=schedule, **OPTIONS[name]))


def make_step(tx: fo.GradientTransformation) -> Any:
    def train_step(params: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state, loss

    return jax.jit(train_step, donate_argnums=(0, 1))


class DemoError(Exception):
    """What the user can mend; printed as one line."""


def save(path: pathlib.Path, tree: Any, run: dict[str, Any]) -> None:
    """Write atomically: the old file or the new one is there, whole, whenever the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fo.checkpoint.save_torch({"run": run, "arrays": fo.checkpoint.to_arrays(tree)}, path)


def load(path: pathlib.Path, like: Any, optimizer: str, lr: float) -> tuple[Any, dict[str, Any]]:
    """The tree that :func:`save` wrote, with the structure, shapes and dtypes of ``like``, and what stood beside it."""
    try:
        saved = fo.checkpoint.load_torch(path)
        run = saved["run"]
        if any(not isinstance(run[name], kind) for name, kind in RUN.items()):
            raise TypeError("the facts of the run have other types")
        if run["epoch"] < 0 or run["history"].dtype != np.float64 or run["history"].shape[1:] != (4,):
            raise TypeError("the history of the run is none")
        if (run["optimizer"], run["lr"]) != (optimizer, lr):
            raise DemoError(
                f"{path} was written with --optimizer {run['optimizer']} --lr {run['lr']}, "
                f"not --optimizer {optimizer} --lr {lr}"
            )
        return fo.checkpoint.from_arrays(saved["arrays"], like), run
    except FileNotFoundError:
        raise DemoError(f"there is no checkpoint {path} to resume from") from None
    except (fo.checkpoint.CheckpointError, OSError, IndexError, KeyError, TypeError) as error:
        message = " ".join(str(error).split())
        raise DemoError(f"{path} is damaged, or not a checkpoint of this demo: {message}") from None


def plot(path: pathlib.Path, history: np.ndarray) -> None:
    """The curves of a history with rows (step, loss, learning rate, test accuracy)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.5))
    titles = ("training loss", "learning rate", "test accuracy")
    for axis, column, title in zip(axes, history.T[1:], titles, strict=True):
        axis.plot(history[:, 0], column)
        axis.set(title=title, xlabel="step")
    axes[0].set_yscale("log")
    figure.tight_layout()
    with fo.checkpoint.atomic_write(path) as file:
        figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)


def batches(epoch: int, digits: Digits) -> np.ndarray:
    """The indices of an epoch's batches, drawn anew in every epoch."""
    order = np.random.default_rng((1, epoch)).permutation(len(digits.train_images))
    return order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)


class Result(NamedTuple):
    """What training gives: the parameters, the test accuracy, and the largest differences from the torch face, after
    the first epoch and at the end. Rounding grows where a ReLU or a maximum switches: there the loss has a kink."""

    params: Any
    accuracy: float
    differences: tuple[float, float]


def train_as_in_torch(optimizer: optim.Optimizer, digits: Digits, first: int, epochs: int) -> list[Any]:
    """The same training with the stateful face, line by line what a torch user writes; the parameters after every
    epoch."""
    from tqdm import tqdm

    history = [optimizer.params]
    for epoch in range(first, epochs):
        for batch in tqdm(batches(epoch, digits), f"torch face, epoch {epoch + 1}/{epochs}"):
            optimizer.zero_grad()
            optimizer.backward(loss_fn, digits.train_images[batch], digits.train_labels[batch])
            optimizer.clip_grad_norm(MAX_NORM)
            optimizer.step()
        history.append(jax.device_get(optimizer.params))
    return history


def largest_difference(some: Any, others: Any) -> float:
    differences = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), some, others)
    return max(jax.tree.leaves(differences))


def train(optimizer: str, lr: float, epochs: int, resume: bool, out: pathlib.Path) -> Result:
    """Train, leaving ``curves.png`` and ``checkpoint.pt`` in ``out``."""
    from tqdm import tqdm

    digits = load_digits()
    steps_per_epoch = len(digits.train_images) // BATCH
    tx = make_optimizer(optimizer, lr, steps_per_epoch)
    params = init_params(seed=0)
    state, first, history = tx.init(params), 0, np.zeros((0, 4))
    checkpoint = out / "checkpoint.pt"
    if resume:
        (params, state), run = load(checkpoint, (params, state), optimizer, lr)
        first, history = run["epoch"], run["history"]
    stateful = CLASSES[optimizer](params, lr=make_schedule(lr, steps_per_epoch), **OPTIONS[optimizer])
    stateful.restore(params, fo.find_state(state, fo.SGDState if optimizer == "sgd" else fo.AdamState))
    step, after_first = make_step(tx), jax.device_get(params)
    score = float(accuracy(params, digits.test_images, digits.test_labels))
    for epoch in range(first, epochs):
        losses = []
        with tqdm(batches(epoch, digits), f"epoch {epoch + 1}/{epochs}") as bar:
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
        save(checkpoint, (params, state), run)
    plot(out / "curves.png", history)
    again = train_as_in_torch(stateful, digits, first, epochs)
    both = (largest_difference(after_first, again[min(1, len(again) - 1)]), largest_difference(params, again[-1]))
    return Result(params, score, both)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DemoError(message)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m functorch_optim.demo", description="Train a small network on handwritten digits.")
    parser.add_argument("--optimizer", default="adamw", help=f"one of {', '.join(DEFAULT_LR)} (default adamw)")
    parser.add_argument("--epochs", type=int, default=30, help="how many epochs in all (default 30)")
    parser.add_argument("--lr", type=float, help="peak learning rate (default: one that suits the optimizer)")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/demo"), help="default runs/demo")
    options = parser.parse_args(arguments)
    if options.optimizer not in DEFAULT_LR:
        raise DemoError(f"unknown optimizer {options.optimizer!r}: choose one of {', '.join(DEFAULT_LR)}")
    if options.epochs < 1:
        raise DemoError(f"--epochs must be at least 1, but it is {options.epochs}")
    if options.lr is None:
        options.lr = DEFAULT_LR[options.optimizer]
    if not 0 <= options.lr < float("inf"):
        raise DemoError(f"Invalid learning rate: {options.lr}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit status."""
    try:
        options = parse(arguments)
        start = time.perf_counter()
        result = train(options.optimizer, options.lr, options.epochs, options.resume, options.out)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: the demo needs {error.name}: pip install 'functorch-optim[demo]'", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - start
    print(f"test accuracy {result.accuracy:.2%} after {seconds:.0f} s; wrote {options.out}/curves.png, checkpoint.pt")
    early, late = result.differences
    print(f"largest difference of a parameter from the torch face: {early:.1e} after one epoch, {late:.1e} at the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
