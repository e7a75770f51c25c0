"""Run one process of a scenario."""

import importlib
import sys

import jax

from tests.two_processes import world


def main():
    scenario, rank, processes, port, folder = sys.argv[1:]
    if int(processes) > 1:
        jax.distributed.initialize(f"localhost:{port}", int(processes), int(rank))
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert jax.device_count() == world.DEVICES
    importlib.import_module(f"tests.two_processes.{scenario}").main(folder)


if __name__ == "__main__":
    main()
