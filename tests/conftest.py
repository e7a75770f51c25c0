"""Strict by default: dtype and rank promotion raise. Eight CPU devices, so that sharding is tested on any machine."""

import os
import pathlib
import time

import hypothesis
import jax
import pytest

from tests.algorithms import FULL
from tests.beyond_torch import BEYOND_TORCH

BEYOND = {*BEYOND_TORCH, *[row.title for row in BEYOND_TORCH.values()]}
OF_ALL = ("test_algorithms.py", "test_signatures.py")  # files that test them all the same, and tests that do
NUMBERS = ("test_float64_trajectory", "test_four_steps_by_hand")
OPTIMIZED = bool(os.environ.get("OPTIMIZED"))
FLAGS = ["--xla_force_host_platform_device_count=8"]
# These flags halve the compile time. With OPTIMIZED, XLA compiles as it does for users; CI compares the trajectories
# in that mode too. XLA aborts on unknown and removed flags.
if not OPTIMIZED and jax.__version_info__ < (0, 13):
    FLAGS += ["--xla_backend_optimization_level=1", "--xla_llvm_disable_expensive_passes=true"]
    FLAGS += ["--xla_cpu_parallel_codegen_split_count=1"]
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"] if jax.__version_info__ < (0, 11) else []
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])  # read when the first array is created

collect_ignore = [
    "oracles.py",
    "torch_run.py",
    "reference/record.py",
]  # no tests or doctests; importing them needs torch

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(config, items):
    """Skip tests marked ``full`` unless in ``make test-all`` or named explicitly.

    Outside of it, and if XLA compiles as for users, algorithms that torch does not have pass the tests of numbers only.
    """
    if any("::" in argument for argument in config.args):
        return
    kept = items if FULL else [item for item in items if item.get_closest_marker("full") is None]
    if not FULL or OPTIMIZED:
        kept = [item for item in kept if not is_beyond_torch(item) or (not OPTIMIZED and is_of_all(item))]
    if len(kept) < len(items):
        chosen = set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = kept


def is_of_all(item):
    return item.path.name in OF_ALL or getattr(item, "originalname", "") in NUMBERS


def is_beyond_torch(item):
    """Whether a test is of an algorithm that torch does not have: its name, its class or a case is a parameter."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = [value[0] if isinstance(value, tuple) and value else value for value in parameters]
    return any(isinstance(name, str) and name in BEYOND for name in names)


MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def few_programs():
    """Drop compiled programs before they exhaust the process's memory maps: each program takes ten or more, Linux
    allows 65,530, and XLA crashes when it gets no more."""
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
    """A list that gains an entry whenever JAX compiles something."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)
