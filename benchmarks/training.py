"""Compare where the optimizers get on three small problems: ``make bench-training``, about 40 minutes.

The problems are a noisy quadratic, the network of ``make demo`` on the digits, and for some optimizers a small GPT on
characters. Each optimizer takes the best of three rates, a factor of three apart, and then runs with three other seeds.
If the best of the three is the largest or the smallest, three more are tried beyond it. All have the same warm-up and
the same linear decay to zero, except for the Schedule-Free methods, which keep the rate after the warm-up. Other
options are the defaults.
"""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from benchmarks import results, training_plot
from functorch_optim.demo import data, network
from functorch_optim.demo.sharded.network import Config, init_params, loss_fn
from functorch_optim.demo.sharded.text import HELD_OUT, MODULES, batch_of, load_tokens

COMMAND = "make bench-training"
TUNED_ON, SEEDS = 100, (0, 1, 2)
FACTOR, MOST_RATES = 3.0, 9  # from one rate to the next, and how many are tried at most
CONFIG = Config(width=128, layers=2, heads=4, length=64)
GPT_STEPS, GPT_BATCH = 300, 16
DIGITS_EPOCHS, QUADRATIC_STEPS = 12, 1000

Make = Callable[[Any], fo.GradientTransformation]


class Contender(NamedTuple):
    """An optimizer as a function of its rate, with the middle one of three rates for each problem."""

    make: Make
    quadratic: float
    digits: float
    gpt: float | None = None
    falls: bool = True  # whether its rate falls to zero


def muon(lr: Any) -> fo.GradientTransformation:
    """Muon for the matrices and kernels, and AdamW at a tenth of its rate for the rest."""
    own, rest = fo.muon(lr=lr, reshape="out_last"), fo.adamw(lr=lambda step: 0.1 * lr(step))
    return fo.partition(
        {"muon": own, "adamw": rest}, lambda path: "muon" if path.endswith(("kernel", "x")) else "adamw"
    )


CONTENDERS = {
    "sgd": Contender(lambda lr: fo.sgd(lr=lr), 0.3, 0.1),
    "sgd, momentum": Contender(lambda lr: fo.sgd(lr=lr, momentum=0.9), 0.1, 0.03),
    "adam": Contender(lambda lr: fo.adam(lr=lr), 0.03, 0.003),
    "adamw": Contender(lambda lr: fo.adamw(lr=lr), 0.03, 0.003, 0.006),
    "nadam": Contender(lambda lr: fo.nadam(lr=lr), 0.03, 0.003),
    "radam": Contender(lambda lr: fo.radam(lr=lr), 0.03, 0.003),
    "adamax": Contender(lambda lr: fo.adamax(lr=lr), 0.03, 0.006),
    "adagrad": Contender(lambda lr: fo.adagrad(lr=lr), 0.1, 0.03),
    "adadelta": Contender(lambda lr: fo.adadelta(lr=lr), 10.0, 1.0),
    "rmsprop": Contender(lambda lr: fo.rmsprop(lr=lr), 0.01, 0.001),
    "adafactor": Contender(lambda lr: fo.adafactor(lr=lr), 0.1, 0.03),
    "asgd": Contender(lambda lr: fo.asgd(lr=lr), 0.3, 0.1),
    "muon": Contender(muon, 0.1, 0.02),
    "lion": Contender(lambda lr: fo.lion(lr=lr), 0.003, 0.0006, 0.001),
    "adan": Contender(lambda lr: fo.adan(lr=lr), 0.03, 0.006),
    "adopt": Contender(lambda lr: fo.adopt(lr=lr), 0.03, 0.003),
    "ademamix": Contender(lambda lr: fo.ademamix(lr=lr), 0.01, 0.001, 0.003),
    "schedule_free_sgd": Contender(lambda lr: fo.schedule_free_sgd(lr=lr), 1.0, 1.0, falls=False),
    "schedule_free_adamw": Contender(lambda lr: fo.schedule_free_adamw(lr=lr), 0.1, 0.01, 0.01, falls=False),
    "schedule_free_radam": Contender(lambda lr: fo.schedule_free_radam(lr=lr), 0.1, 0.01, falls=False),
    "prodigy": Contender(lambda lr: fo.prodigy(lr=lr), 1.0, 1.0, 1.0),
    "dadapt_adam": Contender(lambda lr: fo.dadapt_adam(lr=lr), 1.0, 1.0),
    "kron": Contender(lambda lr: fo.kron(lr=lr), 0.01, 0.001),
    "lamb": Contender(lambda lr: fo.lamb(lr=lr), 0.03, 0.01),
    "lars": Contender(lambda lr: fo.lars(lr=lr), 3.0, 3.0),
    "mars": Contender(lambda lr: fo.mars(lr=lr), 0.03, 0.006, 0.006),
    "cautious(adamw)": Contender(lambda lr: fo.cautious(fo.adamw(lr=lr)), 0.03, 0.003),
    "adabelief": Contender(lambda lr: fo.adabelief(lr=lr), 0.03, 0.003),
    "yogi": Contender(lambda lr: fo.yogi(lr=lr), 0.03, 0.01),
    "laprop": Contender(lambda lr: fo.laprop(lr=lr), 0.03, 0.003),
    "signum": Contender(lambda lr: fo.signum(lr=lr), 0.003, 0.0006),
    "novograd": Contender(lambda lr: fo.novograd(lr=lr), 0.03, 0.01),
    "sm3": Contender(lambda lr: fo.sm3(lr=lr), 0.1, 0.03),
    "madgrad": Contender(lambda lr: fo.madgrad(lr=lr), 0.03, 0.003),
    "grams": Contender(lambda lr: fo.grams(lr=lr), 0.03, 0.003),
}


def transformation(contender: Contender, rate: Any, steps: int) -> fo.GradientTransformation:
    """The optimizer with its schedule; the rate may be traced."""
    warmup = steps // 20

    def schedule(step: Any) -> Any:
        rising = jnp.minimum((step + 1) / warmup, 1.0)
        falling = jnp.minimum((steps - step) / (steps - warmup), 1.0) if contender.falls else 1.0
        return rate * rising * falling

    return contender.make(schedule)


def evaluated(state: Any, params: Any) -> Any:
    """The parameters to evaluate."""
    try:
        return fo.eval_params(state, params)
    except KeyError:
        return params


def quadratic(contender: Contender) -> Callable[[Any, Any], Any]:
    """Minimize 100 parabolas, of curvatures 1e-3 to 1, whose gradients are as noisy as the curvature's root."""
    curvatures = jnp.asarray(np.geomspace(1e-3, 1.0, 100).reshape(10, 10), jnp.float32)

    def loss(rate: jax.Array, seed: jax.Array) -> jax.Array:
        start, noise = jax.random.split(jax.random.key(seed))
        params = {"x": jax.random.normal(start, curvatures.shape)}
        tx = transformation(contender, rate, QUADRATIC_STEPS)

        def step(carry: Any, number: jax.Array) -> Any:
            params, state = carry
            draw = jax.random.normal(jax.random.fold_in(noise, number), curvatures.shape)
            grads = {"x": curvatures * params["x"] + 0.1 * jnp.sqrt(curvatures) * draw}
            updates, state = tx.update(grads, state, params)
            return (fo.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(QUADRATIC_STEPS))
        return 0.5 * jnp.sum(curvatures * evaluated(state, params)["x"] ** 2)

    return jax.jit(jax.vmap(loss))


def digits(contender: Contender) -> Callable[[Any, Any], Any]:
    """Train the network of the demo, and return the loss on the digits that it has not seen."""
    images = data.load_digits()
    steps = DIGITS_EPOCHS * data.steps_per_epoch(images)
    train = jnp.asarray(images.train_images), jnp.asarray(images.train_labels)

    def loss(rate: jax.Array, params: Any, batches: jax.Array) -> jax.Array:
        tx = transformation(contender, rate, steps)

        def step(carry: Any, batch: jax.Array) -> Any:
            params, state = carry
            grads = jax.grad(network.loss_fn)(params, train[0][batch], train[1][batch])
            updates, state = tx.update(grads, state, params)
            return (fo.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
        return network.loss_fn(evaluated(state, params), images.test_images, images.test_labels)

    compiled = jax.jit(jax.vmap(loss))

    def losses(rates: Any, seeds: Any) -> Any:
        starts = [network.init_params(int(seed)) for seed in seeds]
        batches = [
            np.concatenate([data.batches(1000 * int(seed) + epoch, images) for epoch in range(DIGITS_EPOCHS)])
            for seed in seeds
        ]
        return compiled(rates, jax.tree.map(lambda *each: jnp.stack(each), *starts), jnp.asarray(np.stack(batches)))

    return losses


def gpt(contender: Contender) -> Callable[[Any, Any], Any]:
    """Train a character-level GPT on modules of Python, and return the loss of one that it has not seen."""
    train, other = load_tokens(MODULES), load_tokens(HELD_OUT)
    starts = np.arange(128) * ((len(other) - CONFIG.length) // 128)
    windows = other[starts[:, None] + np.arange(CONFIG.length + 1)]

    def transformed(rate: Any) -> fo.GradientTransformation:
        return fo.chain(fo.clip_by_global_norm(1.0), transformation(contender, rate, GPT_STEPS))

    @jax.jit
    def step(rate: Any, params: Any, state: Any, tokens: jax.Array) -> Any:
        grads = jax.grad(lambda params: loss_fn(CONFIG, params, tokens))(params)
        updates, state = transformed(rate).update(grads, state, params)
        return fo.apply_updates(params, updates), state

    def loss(rate: float, seed: int) -> float:
        params = init_params(CONFIG, jax.random.key(seed))
        state = transformed(jnp.asarray(rate)).init(params)
        for number in range(GPT_STEPS):
            tokens = batch_of(1_000_000 * seed + number, train, GPT_BATCH, CONFIG.length)
            params, state = step(jnp.asarray(rate), params, state, tokens)
        return float(jax.jit(lambda params: loss_fn(CONFIG, params, windows))(evaluated(state, params)))

    return lambda rates, seeds: jnp.asarray([loss(float(r), int(s)) for r, s in zip(rates, seeds, strict=True)])


PROBLEMS = {"quadratic": quadratic, "digits": digits, "gpt": gpt}


def row_of(name: str, problem: str) -> tuple[Any, ...]:
    """Tune the rate of an optimizer, run it with the seeds, and return its row."""
    run = PROBLEMS[problem](CONTENDERS[name])
    rate = tuned(run, getattr(CONTENDERS[name], problem))
    losses = [float(loss) for loss in run(np.full(3, rate), np.asarray(SEEDS))]
    print(problem, name, rate, losses, flush=True)
    return f"`{name}`", rate, statistics.mean(losses), min(losses), max(losses)


def tuned(run: Callable[[Any, Any], Any], middle: float) -> float:
    """Return the best of three rates, or of more where the best is the last one."""
    tried: dict[float, float] = {}
    exponents = np.array([-1, 0, 1])
    while True:
        rates = middle * FACTOR**exponents
        losses = np.nan_to_num(np.asarray(run(rates, np.full(3, TUNED_ON))), nan=np.inf)
        tried |= dict(zip(rates.tolist(), losses.tolist(), strict=True))
        best = min(tried, key=lambda rate: tried[rate])
        if min(tried) < best < max(tried) or len(tried) >= MOST_RATES:
            return best
        exponents = exponents + (3 if best == max(tried) else -3)


def table_of(problem: str, names: list[str]) -> results.Table:
    """Return the table of a problem, the best first."""
    digit = ".2e" if problem == "quadratic" else ".3f"
    columns = {"optimizer": ("optimizer", ""), "rate": ("rate", ".2g")}
    columns |= {"mean": ("loss, mean", digit), "least": ("least", digit), "most": ("most", digit)}
    rows = [row_of(name, problem) for name in names if getattr(CONTENDERS[name], problem) is not None]
    return results.table(COMMAND, columns, sorted(rows, key=lambda row: row[2]))


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=list(PROBLEMS), help="problems")
    parser.add_argument("--names", nargs="*", default=list(CONTENDERS), help="optimizers")
    options = parser.parse_args()
    tables = {problem: table_of(problem, options.names) for problem in options.only}
    results.finish("training", tables, options.write)
    if options.write:
        training_plot.draw(results.load("training"), results.FOLDER / "training.svg")


if __name__ == "__main__":
    main()
