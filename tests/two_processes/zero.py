"""As in ``every``, with each transformation in ``fo.zero``: parameters are split over one axis, states over both."""

import functorch_optim as fo
from tests.mesh_rows import specs_of
from tests.two_processes import every


def main(folder):
    specs = specs_of("last axis")
    every.train(folder, {name: fo.zero(tx, "x", 2, specs) for name, tx in every.PLAIN.items()}, "last axis")
