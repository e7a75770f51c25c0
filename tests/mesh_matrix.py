"""Every transformation on every kind of mesh: ``python -m tests.mesh_matrix`` prints the table.

A cell compiles the steps of all transformations in one program, since compilation dominates. Each has its own
parameters and gradients, so that XLA merges none of their collectives, and a named scope, by which the collectives of
the compiled program are counted.
"""

import re
import sys
import zlib
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
import tests.conftest  # noqa: F401 eight devices, also for the command
from benchmarks.collectives import KINDS as KINDS_OF_COLLECTIVES
from functorch_optim import optim
from tests.algorithms import ALGORITHMS, names
from tests.equality import relative
from tests.mesh_rows import FLAT, PLACES, SEARCHES, SPARSE, STAGES, rows_for, specs_of, tree

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit, "shard_map": AxisType.Auto}
CELLS = [(kind, place) for kind in KINDS for place in PLACES if (kind, place) != ("shard_map", "zero")]
STEPS = 3
EXACT, SINGLE, ORTHOGONAL = 1e-10, 1e-6, 2e-2  # relative, in float64, in float32, and of Muon, which uses bfloat16
TILES = 5e-3  # of fo.quantized: tiles are those of the shards, and so are the random bits inside shard_map

# Their collectives stand in loops and conditions. XLA's CPU backend runs these beside other collectives, for which it
# has too few threads: each is compiled alone.
CONTROL = re.compile("l?bfgs|accumulate|monitor|skip|inject_factory|lookahead|sam")


class Found(NamedTuple):
    """What a cell found of a transformation: the error, the collectives of a step, what left its place; or why not."""

    error: float = 0.0
    collectives: int = 0
    moved: tuple = ()
    refused: str = ""


def refusals(rows, run_one):
    """The rows that raise when they are traced, with the reason."""
    found = {}
    for name in rows:
        try:
            run_one(name)
        except ValueError as error:
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def objective(params):
    return sum(jnp.sum(jnp.cosh(leaf - 0.25)) for leaf in jax.tree.leaves(params))


IDS = np.array([3, 1, 3, 0])


def stepped(name, tx, params, state, grads):
    """One step of a transformation; the sparse ones step the kernel by the gradient of looked up rows."""
    extra = {"value_fn": objective} if name in SEARCHES else {}
    if name in SEARCHES:
        grads = jax.grad(objective)(params)
    if name in SPARSE:
        weight = jnp.sum(grads["scale"])
        loss = lambda table: weight * jnp.sum(table[jnp.asarray(IDS)] ** 2)  # noqa: E731 one line
        _, grads = fo.value_and_sparse_grad(loss, "")(params)
    if name in FLAT:
        grads = params.like(grads)
    updates, state = tx.update(grads, state, params, **extra)
    return fo.apply_updates(params, updates), state


def own_params(name, params):
    """The parameters in the form that a row takes."""
    return params["dense"]["kernel"] if name in SPARSE else fo.flat_params(params) if name in FLAT else params


def program(rows):
    def run(params, states, grads, factors):
        results = {}
        for name, tx in rows.items():
            with jax.named_scope(f"of_{name}"):
                own = jax.tree.map(lambda grad, name=name: grad * factors[name].astype(grad.dtype), grads)
                results[name] = stepped(name, tx, params[name], states[name], own)
        return {name: new for name, (new, _) in results.items()}, {name: after for name, (_, after) in results.items()}

    return run


def spread(kind, mesh, run, params, states, place):
    """The program as the kind of mesh runs it."""
    if kind != "shard_map":
        return run
    own, after = jax.tree.map(lambda one: one.sharding.spec, (params, states))
    run = _unreduced(run) if STAGES.get(place) == 2 else run
    return jax.shard_map(run, mesh=mesh, in_specs=(own, after, specs_of(place), P()), out_specs=(own, after))


def _unreduced(run):
    """The program with gradients whose sum over the axis is still open."""

    def opened(params, states, grads, factors):
        shares = jax.tree.map(lambda grad: jax.lax.pcast(grad / 4, "x", to="varying"), grads)
        return run(params, states, shares, factors)

    return opened


COLLECTIVE = re.compile(rf" = (.*?) ({KINDS_OF_COLLECTIVES})(?:-start)?\(")


def collectives(text):
    """Count the arrays that go through collectives of a compiled program, by the named scope that they come from.

    XLA combines several reductions in one collective, whose name then lists those of its parts: it hides nothing here.
    """
    counts = Counter()
    for line in text.splitlines():
        found = COLLECTIVE.search(line)
        if not found:
            continue
        name = re.search(r'op_name="([^"]*)"', line)
        scopes = re.findall(r"of_(\w+)/", name[1] if name else "")
        # An all-to-all takes its one array in parts.
        arrays = 1 if found[2] == "all-to-all" else len(re.findall(r"[a-z]\w*\[", found[1]))
        if len(set(scopes)) == 1:
            scopes = scopes[:1] * arrays
        counts.update(scopes if len(scopes) == arrays else [f"unknown: {line.strip()[:200]}"])
    return counts


def on_mesh(kind, rows, place, dtype):
    """Return the mesh, the placed arguments of the program, and the shardings of parameters and states."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(KINDS[kind],) * 2)
    put = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec))  # noqa: E731 one line
    specs = specs_of(place)
    placed = [jax.tree.map(put, tree(seed, dtype), specs) for seed in range(1 + STEPS)]
    params = {name: jax.tree.map(jnp.copy, own_params(name, placed[0])) for name in rows}
    return mesh, params, placed[1:]


_WANTED = {}


def wanted(rows, dtype, factors):
    """The results of one device, which are those of every cell."""
    key = dtype, *rows
    if key not in _WANTED:
        _WANTED[key] = _wanted(rows, dtype, factors)
    return _WANTED[key]


def _wanted(rows, dtype, factors):
    params = {name: own_params(name, tree(0, dtype)) for name in rows}
    states = {name: tx.init(params[name]) for name, tx in rows.items()}
    run = jax.jit(program(rows))
    for step in range(STEPS):
        params, states = run(params, states, tree(1 + step, dtype), factors)
    return params


def factors_of(rows):
    return {name: np.float32(1 + zlib.crc32(name.encode()) % 1024 / 1024) for name in rows}


def examined(kind, place, dtype="float64", chosen=lambda name: True):
    """Run a cell; return what it found of each transformation."""
    rows = {name: tx for name, tx in rows_for(kind, place).items() if chosen(name)}
    alone = [name for name in rows if CONTROL.match(name)]
    groups = [{name: tx for name, tx in rows.items() if name not in alone}, *({name: rows[name]} for name in alone)]
    results = {}
    with jax.enable_x64(dtype == "float64"):
        for group in groups:
            results |= together(kind, place, dtype, group) if group else {}
    return {name: results[name] for name in rows}


def together(kind, place, dtype, rows):
    """Run transformations in one program."""
    mesh, params, grads = on_mesh(kind, rows, place, dtype)
    zero = "x" if place == "zero" else None
    shardings = {name: fo.state_shardings(tx, params[name], zero=zero) for name, tx in rows.items()}
    states = jax.tree.map(jax.device_put, {name: tx.init(params[name]) for name, tx in rows.items()}, shardings)
    factors = jax.device_put(factors_of(rows), NamedSharding(mesh, P()))

    def traced(name):
        own = [{name: each[name]} for each in (rows, params, states)]
        run = spread(kind, mesh, program(own[0]), *own[1:], place)
        jax.eval_shape(run, *own[1:], grads[0], factors)

    with jax.set_mesh(mesh):
        refused = refusals(rows, traced) if kind == "shard_map" else {}
        rows, params, states = [
            {name: one for name, one in each.items() if name not in refused} for each in (rows, params, states)
        ]
        compiled = jax.jit(spread(kind, mesh, program(rows), params, states, place))
        compiled = compiled.lower(params, states, grads[0], factors).compile()
        before = {name: (params[name], states[name]) for name in rows}
        for step in range(STEPS):
            params, states = compiled(params, states, grads[step], factors)
    counts = collectives(compiled.as_text())
    plain = {name: tx.update.of.inner for name, tx in rows.items()} if place in STAGES else rows
    reference = wanted(plain, dtype, factors_of(rows))
    results = {name: Found(refused=reason) for name, reason in refused.items()}
    for name in rows:
        pair = [jax.tree.leaves(fo.unflatten(each[name])) for each in (params, reference)]
        moved = moved_leaves((params[name], states[name]), before[name])
        results[name] = Found(max(map(relative, *pair)), counts.pop(name, 0), moved)
    assert not counts, f"collectives of no single transformation: {counts}"
    return results


def moved_leaves(after, before):
    """The paths of the arrays that are not placed as they were."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(before), strict=True)
    same = [(path, leaf.sharding.is_equivalent_to(old.sharding, leaf.ndim)) for (path, leaf), old in pairs]
    return tuple(jax.tree_util.keystr(path) for path, kept in same if not kept)


def torch_face(kind, place):
    """What the torch face's classes find: they hold placed parameters and step outside of a traced function."""
    results = {}
    with jax.enable_x64(True):
        mesh, params, grads = on_mesh(kind, {"all": None}, place, "float64")
        whole = tree(0, "float64")
        for name in names(takes_vectors=True):
            row = ALGORITHMS[name]
            make = lambda held, row=row: getattr(optim, row.title)(held, **row.typical)  # noqa: E731 one line
            one, other = make(jax.tree.map(jnp.copy, params["all"])), make(whole)
            with jax.set_mesh(mesh):
                for grad in grads[:2]:
                    one.step(grad)
                found, state = one.params, one.state
            for seed in (1, 2):
                other.step(tree(seed, "float64"))
            error = max(map(relative, jax.tree.leaves(found), jax.tree.leaves(other.params)))
            moved = moved_leaves(found, params["all"])
            kernels = [slot for slot in jax.tree.leaves(state["dense.kernel"]) if jnp.shape(slot) == (16, 8)]
            kernel = params["all"]["dense"]["kernel"]
            moved += tuple("slot" for slot in kernels if not slot.sharding.is_equivalent_to(kernel.sharding, 2))
            results[name] = Found(error, 0, moved)
    return results


GROUPS = {
    "L-BFGS and BFGS, every line search": re.compile("l?bfgs"),
    "sparse gradients": re.compile("sparse_"),
    "`fo.flat_params`": re.compile("flat_"),
    "`foreach=True`": re.compile(".*foreach"),
    "Adafactor": re.compile("adafactor"),
    "Muon, NorMuon": re.compile("muon"),
    "norms: clipping, normalizing, projections, SAM": re.compile(
        "clip_by_(global|norm|block|z|perc|adagc)|adaptive|zero_nans|centralize|normalize|scale_by_(trust|param)|project_(s|l)"
        "|sam|chain|inject_factory|mars|exact_mars|cautious|lamb|lars|novograd|sm3|prodigy|dadapt_adam|kron"
    ),
    "skips, accumulation, monitors": re.compile("skip|accumulate|monitor"),
    "element-wise: all others": re.compile(""),
}
DRAWS = ("add_noise",)  # inside shard_map every shard draws its own numbers
REFUSED = {"inject_factory": "looks beyond single entries"}  # inside shard_map: its factory passes no axis_name


def group_of(name):
    return next(group for group, pattern in GROUPS.items() if pattern.match(name))


def tolerance(kind, name, dtype):
    if kind == "shard_map" and name in DRAWS:
        return float("inf")
    if name.startswith("quantized"):
        return TILES
    if dtype == "float64":
        return EXACT
    return ORTHOGONAL if "muon" in name else SINGLE


def summary():
    """The table of ``docs/large-runs.md``: for each group and place, the collectives on each kind of mesh."""
    cells = {}
    for kind, place in CELLS:
        print(f"{kind}, {place} ...", file=sys.stderr)
        for name, one in examined(kind, place).items():
            good = one.refused or (one.error <= tolerance(kind, name, "float64") and not one.moved)
            text = "refused" if one.refused else one.collectives if good else "WRONG"
            cells.setdefault((group_of(name), place, kind), []).append(text)
    print("| | " + " | ".join(PLACES) + " |\n|---|" + "---|" * len(PLACES))
    for group in reversed(GROUPS):
        row = [" / ".join(_cell(cells.get((group, place, kind), [])) for kind in KINDS) for place in PLACES]
        print(f"| {group} | " + " | ".join(row) + " |")


def _cell(found):
    numbers = [one for one in found if one != "refused"]
    if "WRONG" in numbers or not numbers:
        return "WRONG" if numbers else "-"
    least, most = min(numbers), max(numbers)
    return str(most) if least == most else f"{least} to {most}"


if __name__ == "__main__":
    summary()
