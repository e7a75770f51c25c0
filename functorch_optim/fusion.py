"""One pass over large arrays on the CPU: XLA's multi-output fusion, and whether it is available."""

import functools
import os

import jax
import jax.numpy as jnp
from jax._src import xla_bridge  # the only place that knows whether the backend has started

__all__ = ["enable_cpu_fusion", "one_pass"]

_OPTION = "xla_cpu_use_multi_output_fusion"
_EXTRA = "--xla_backend_extra_options="


def enable_cpu_fusion() -> None:
    """Have XLA compile an element-wise update on the CPU to one pass over memory instead of three.

    Call it before the first JAX computation of the process: it adds an option to the environment variable
    ``XLA_FLAGS``, which XLA reads once, when its backend starts. Importing this library changes no variable. It has
    no effect without a CPU backend, or on GPUs and TPUs, which fuse by themselves. Numbers stay the same.

    Raises:
        RuntimeError: JAX's backend has already started without the option.

    Example:
        >>> import subprocess, sys
        >>> code = "import functorch_optim as fo; fo.enable_cpu_fusion(); print(fo.fusion.one_pass())"
        >>> subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True).stdout.strip()
        'True'
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    if any(_OPTION in flag for flag in flags):
        return
    if xla_bridge.backends_are_initialized():
        raise RuntimeError(
            "enable_cpu_fusion() came after the first computation: XLA has read its flags. Call it at the start of the "
            f"program, or start Python with XLA_FLAGS={_EXTRA}{_OPTION}"
        )
    others = [flag for flag in flags if flag.startswith(_EXTRA)]
    options = [flag.removeprefix(_EXTRA) for flag in others] + [_OPTION]
    kept = [flag for flag in flags if flag not in others]
    os.environ["XLA_FLAGS"] = " ".join([*kept, _EXTRA + ",".join(options)])


def one_pass() -> bool:
    """Whether the compiler computes several independent outputs in one pass here.

    Example:
        >>> one_pass()  # without enable_cpu_fusion()
        False
    """
    asked = _OPTION in os.environ.get("XLA_FLAGS", "")
    return asked and jax.default_backend() == "cpu" and _fuses()


@functools.cache
def _fuses() -> bool:
    """Whether the compiler puts two outputs into a single fusion; asked once."""
    with jax.ensure_compile_time_eval():
        shape = jax.ShapeDtypeStruct((1024,), jnp.float32)
        compiled = jax.jit(lambda x, y: (x + y, x * y)).lower(shape, shape).compile()
    return (compiled.as_text() or "").count(" fusion(") == 1
