"""Every transformation on every kind of mesh has one device's numbers, keeps its places, and sends little."""

import jax
import pytest

import functorch_optim as fo
from tests import mesh_matrix as matrix
from tests.algorithms import FULL, full
from tests.mesh_rows import STAGES

FEW = ["adam", "adafactor", "chain", "clip_by_global_norm", "adam_foreach", "muon_adamw", "flat_adam", "accumulate"]
FIRST = [("auto", "both axes")]

# Of these the numbers are exact: an array for each leaf and axis that a sum goes over.
COLLECTIVES = {
    "clip_by_global_norm": {"replicated": 0, "first axis": 2, "last axis": 1, "both axes": 3},
    "adafactor": {"replicated": 0, "first axis": 6, "last axis": 3, "both axes": 9},
    "adam": {"replicated": 0, "first axis": 0, "last axis": 0, "both axes": 0, "zero": 2},  # gathers of two parameters
}
LARGEST = 12  # of all others, but for the loops of L-BFGS and BFGS
OWN = {"zero": 2, "fo.zero": 2, "fo.zero, last axis": 2}  # gathers of the two leaves that divide
OPEN = {("shard_map", "fo.zero, last axis"): 6}  # and sums of four gradients


def chosen(name):
    return FULL or name in FEW


@pytest.mark.parametrize(("kind", "place"), [*FIRST, *full(*[cell for cell in matrix.CELLS if cell not in FIRST])])
def test_every_cell(kind, place):
    found = matrix.examined(kind, place, chosen=chosen)
    assert len(found) >= (50 if FULL else 6)
    own = OPEN.get((kind, place), OWN.get(place, 0))
    for name, one in found.items():
        if one.refused:
            assert kind == "shard_map" and matrix.REFUSED[name] in one.refused, (name, one)
            continue
        assert one.error <= matrix.tolerance(kind, name, "float64"), (name, one)
        assert not one.moved, (name, one)
        expected = COLLECTIVES.get(name, {}).get(place)
        group = matrix.group_of(name)
        if expected is not None and kind != "shard_map":
            assert one.collectives == expected, (name, one)
        elif group.startswith("element") or "foreach" in name:
            assert one.collectives <= own, (name, one)
        elif not group.startswith("L-BFGS"):
            assert one.collectives <= (0 if place == "replicated" else LARGEST * (1 + (place in STAGES))), (name, one)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_cells_in_single_precision(kind):
    """Rprop compares signs, and searches branch: they are exact in double precision only."""
    plain = lambda name: not matrix.CONTROL.match(name) and "rprop" not in name  # noqa: E731 one line
    for name, one in matrix.examined(kind, "both axes", "float32", plain).items():
        assert one.error <= matrix.tolerance(kind, name, "float32") and not one.moved, (name, one)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_the_torch_face(kind):
    for name, one in matrix.torch_face(kind, "both axes").items():
        assert one.error <= matrix.EXACT and not one.moved, (name, one)


def test_clipping_takes_one_all_reduce_where_leaves_share_their_axes():
    rows = {"clip_by_global_norm": fo.clip_by_global_norm(1.0)}
    for kind in ("auto", "explicit"):
        mesh, _, grads = matrix.on_mesh(kind, rows, "first axis", "float32")
        with jax.set_mesh(mesh):
            run = jax.jit(lambda grads: rows["clip_by_global_norm"].update(grads, fo.base.EmptyState())[0])
            text = run.lower(grads[0]).compile().as_text()
        assert sum(bool(matrix.COLLECTIVE.search(line)) for line in text.splitlines()) == 1


def test_combined_collectives_are_counted_by_their_parts():
    text = """
      %a = (f32[], f32[4]{0}) all-reduce(%x, %y), metadata={op_name="jit(run)/(of_one/sum:of_two/sum)" stack_frame_id=1}
      %b = (f32[], f32[]) all-reduce(%x, %y), metadata={op_name="jit(run)/of_one/sum" stack_frame_id=1}
      %c = f32[8]{0} all-gather-start(%x), metadata={op_name="jit(run)/of_two/add"}
      %d = (f32[4], f32[4]) all-to-all(%x, %y), metadata={op_name="jit(run)/of_two/sort"}
      %e = f32[8]{0} add(%x), metadata={op_name="jit(run)/of_two/add"}
    """
    assert matrix.collectives(text) == {"one": 3, "two": 3}
    assert "unknown" in str(matrix.collectives("%a = f32[] all-reduce(%x)"))
