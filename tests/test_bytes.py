"""The bytes that ``benchmarks/bytes.py`` computes are those of compiled programs, on eight devices."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from benchmarks import bytes as paper
from benchmarks import results
from benchmarks.collectives import Collective, collectives
from benchmarks.ways import (
    WAYS,
    abstract_mesh,
    activations_sent,
    bytes_on_a_device,
    compiled_step,
    compiled_update,
    mesh_shape,
    placed,
    sent,
    shapes_of,
    state_of,
)  # fmt: skip
from functorch_optim.demo.sharded import layout
from functorch_optim.demo.sharded.network import Config
from tests.algorithms import ALGORITHMS, ELSEWHERE, full

SMALL = Config(width=64, layers=1, length=16)
SHAPE = (4, 2)
ROWS = {name: row for name, row in paper.transformations().items() if not name.startswith(("`lbfgs", "`sparse"))}
EXCHANGE = {"`adafactor`", "`muon_adamw`"}  # their updates look beyond single entries
SHARE = {"`muon_adamw`"}  # replicated parameters' work is shared, and the results are gathered
QUICK = ["`adamw`"]
CELLS = [("fully split", name) for name in QUICK]
CELLS += full(*[(way, name) for way in WAYS for name in ROWS if (way, name) not in CELLS])


@pytest.fixture(autouse=True)
def usual_promotion(standard_promotion):
    """Run the demo's network as users do."""


@pytest.mark.parametrize(("way", "name"), CELLS)
def test_an_update_holds_the_parameters_and_the_state_and_sends_what_looks_beyond_entries(way, name):
    dtype, make = ROWS[name]
    shapes, mesh = shapes_of(SMALL, dtype), layout.make_mesh(SHAPE)
    program = compiled_update(make(), way, shapes, mesh)
    on_paper = placed(way, shapes, abstract_mesh(SHAPE))
    state = bytes_on_a_device(state_of(make(), on_paper.beside))
    params, grads = bytes_on_a_device(on_paper.params), bytes_on_a_device(on_paper.beside)
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes == params + state
    assert memory.argument_size_in_bytes == params + state + grads
    assert 0 <= memory.output_size_in_bytes - (params + state) < 1024  # the table of the results' addresses
    found = [one for one in collectives(program.as_text(), 8) if one.size > 4]
    if way == "state split":  # the parameters are gathered
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        gathers = sum(one.sent for one in found if one.kind == "all-gather" and one.times == 1)
        widened = 4 // np.dtype(dtype).itemsize  # XLA on the CPU gathers bfloat16 as float32, even without an update
        if name in SHARE:
            assert gathers > widened * (whole - bytes_on_a_device(on_paper.beside))
            return
        assert gathers == widened * (whole - bytes_on_a_device(on_paper.beside))
        found = [one for one in found if one.kind != "all-gather" or one.times > 1]
    assert bool(found) == (name in SHARE or (name in EXCHANGE and way != "replicated"))


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
def test_a_step_sends_what_is_on_paper(way):
    """XLA on the CPU sums whole gradients and cuts out a part, and gathers the parameters once."""
    mesh, batch = layout.make_mesh(SHAPE), 8
    tensor = way == "tensor x data"
    split = NamedSharding(mesh, P("data") if tensor else P(layout.AXES))
    tokens = jax.ShapeDtypeStruct((batch, SMALL.length + 1), np.int32, sharding=split)
    program = compiled_step(fo.adamw(), way, SMALL, mesh, tokens)
    found = collectives(program.as_text(), 8)
    expected = sent(way, placed(way, shapes_of(SMALL), mesh), has_reduce_scatter=False, gathers=1)
    loss = Collective("all-reduce", 4 if tensor else 8, 4).sent
    if tensor:
        within = sum(one.sent for one in found if one.group == 2)
        assert within == activations_sent(SMALL, batch // 4 * SMALL.length, parts=2)
        found = [one for one in found if one.group == 4]
    assert sum(one.sent for one in found) == pytest.approx(expected + loss, rel=1e-12)


def test_on_paper_a_reduce_scatter_sends_half():
    mesh = abstract_mesh(mesh_shape("fully split", 64))
    shapes = shapes_of(Config(width=256, layers=1))
    whole = sum(4 * leaf.size for leaf in jax.tree.leaves(shapes))
    for way, factor in {"replicated": 2, "state split": 2, "fully split": 3}.items():
        assert sent(way, placed(way, shapes, mesh)) / whole == pytest.approx(factor * 63 / 64, rel=1e-3)
    tensor = placed("tensor x data", shapes, abstract_mesh(mesh_shape("tensor x data", 64)))
    assert sent("tensor x data", tensor) == 2 * 7 / 8 * bytes_on_a_device(tensor.params)


@pytest.mark.full
def test_muon_sends_matrices_whatever_their_width_and_adafactor_rows():
    of = paper.transformations()
    for way, times, told in [("fully split", 1.17, 0.365), ("tensor x data", 0.79, 0.396)]:
        for width in (64, 128):
            shapes = shapes_of(SMALL._replace(width=width))
            matrices = sum(leaf.size for leaf in jax.tree.leaves(shapes["layers"]) if leaf.ndim == 2)
            share = matrices / sum(leaf.size for leaf in jax.tree.leaves(shapes))
            sends = paper.share_sent(of["`muon_adamw`"][1], way, width)
            assert sends / share == pytest.approx(times, abs=0.01)
            sends = paper.share_sent(paper.told_muon, way, width, told=True)
            assert sends / share == pytest.approx(told, abs=0.01)
        rows = [paper.share_sent(of["`adafactor`"][1], way, width) for width in (64, 256)]
        assert 3 < rows[0] / rows[1] < 4


def test_two_blocks_tell_of_all():
    config = Config(width=64, layers=5, length=16)
    _, make = ROWS["`adamw`"]
    mesh = abstract_mesh(mesh_shape("fully split", 8))
    at = placed("fully split", shapes_of(config), mesh)
    direct = bytes_on_a_device((at.params, state_of(make(), at.beside)))
    assert paper.held(make, "fully split", 8, config, np.float32) == direct
    assert paper.parameters(config) == sum(leaf.size for leaf in jax.tree.leaves(shapes_of(config)))


def test_every_algorithm_and_size_has_its_row():
    rows = {row["algorithm"] for row in results.load("bytes")["1t"]["rows"]}
    assert rows == set(paper.transformations())
    named = {name.strip("`") for row in rows for name in row.split(", ")}
    in_torch = {name for name, row in ALGORITHMS.items() if row.is_in_torch}
    assert {*in_torch, *ELSEWHERE} - named - {"prodigy", "dadapt_adam", "adahessian", "sophia", "soap"} == {
        "muon",
        "normuon",
        "bfgs",
    }  # Muon takes matrices; BFGS is told in words
    for name, config in paper.SIZES.items():
        number, unit = name.split()
        assert paper.parameters(config) == pytest.approx(float(number) * {"B": 1e9, "T": 1e12}[unit], rel=0.04)


TEXT = """
%body.1 (p: f32[2]) -> f32[2] {
  %a = f32[2,3]{1,0} all-gather(%x), replica_groups=[4,2]<=[8], dimensions={0}
}
ENTRY %main (p: f32[2]) -> f32[2] {
  %b = (f32[4]{0}, /*index=1*/bf16[]) all-reduce(%x, %y), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %c = f32[2]{0} reduce-scatter(%x), replica_groups=mesh['a'=4,'b'=2] {'a'}, to_apply=%add
  %d = s32[3]{0} collective-permute(%x), source_target_pairs={{0,1}}
  %e = f32[2]{0} while(%x), condition=%test.1, body=%body.1
}
"""


def test_collectives_are_read_from_the_text_of_a_program():
    with pytest.raises(ValueError, match="in a loop that runs an unknown number of times: %a = f32"):
        collectives(TEXT, 8)
    counted = TEXT.replace("body=%body.1", 'body=%body.1, backend_config={"known_trip_count":{"n":"5"}}')
    assert collectives(counted, 8) == [
        Collective("all-gather", 2, 24, 5),
        Collective("all-reduce", 4, 18),
        Collective("reduce-scatter", 4, 32),
        Collective("collective-permute", 8, 12),
    ]
    assert [one.sent for one in collectives(counted, 8)] == [60, 27, 24, 12]
    with pytest.raises(ValueError, match="unknown form"):
        collectives("  %b = f32[] all-reduce(%x), replica_groups=@all", 8)
