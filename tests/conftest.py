"""Strict by default: dtype and rank promotion raise. Two CPU devices, so that sharding is tested everywhere."""

import os
import pathlib
import time

import hypothesis
import jax
import pytest

from tests.algorithms import FULL

FLAGS = ["--xla_force_host_platform_device_count=2"]
# Half the time of compiling. With OPTIMIZED, XLA compiles as it does for users; CI compares the trajectories so, too.
# It aborts at a flag that it does not know, or no longer.
if not os.environ.get("OPTIMIZED") and jax.__version_info__ < (0, 13):
    FLAGS += ["--xla_backend_optimization_level=1", "--xla_llvm_disable_expensive_passes=true"]
    FLAGS += ["--xla_cpu_parallel_codegen_split_count=1"]
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"] if jax.__version_info__ < (0, 11) else []
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])  # read when the first array is made

collect_ignore = ["torch_run.py", "reference/record.py"]  # no tests or doctests; importing them needs torch

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(config, items):
    """Leave what is marked ``full`` to ``make test-all``; a test that is named itself runs."""
    if FULL or any("::" in argument for argument in config.args):
        return
    kept = [item for item in items if item.get_closest_marker("full") is None]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def few_programs():
    """Drop what is compiled before it fills the process: a program maps ten pieces of memory or more, Linux allows
    65,530 of them, and XLA crashes when it gets no more."""
    start = time.monotonic()
    yield
    if time.monotonic() - start > 0.2 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def standard_promotion():
    """JAX's usual promotion rules, for tests that run optax or flax."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compilations():
    """A list that grows by an entry whenever JAX compiles something."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)
