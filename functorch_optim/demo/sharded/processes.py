"""Start the processes that train, wait for them, and kill one."""

import os
import pathlib
import subprocess
import sys
import time

from functorch_optim.demo.errors import DemoError
from functorch_optim.demo.sharded import losses
from functorch_optim.demo.sharded.training import Run
from functorch_optim.demo.sharded.worker import as_text

DEVICES = 8


def launch(run: Run) -> subprocess.Popen[bytes]:
    """Start a process that sees eight devices. XLA reads the flag when JAX starts, and the last one counts."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, "-m", f"{__package__}.worker", as_text(run)], env=environment)


def finish(run: Run) -> None:
    """Let a run train to its end."""
    process = launch(run)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the signal too
        raise
    if status:
        raise DemoError(f"the run on {run.mesh[0]} x {run.mesh[1]} devices ended with status {status}")


def kill_after(run: Run, step: int) -> int:
    """Kill a run, which cannot defend itself, once it has made so many steps. Return how many it has made."""
    process = launch(run)
    try:
        while not _has(run.log, step):
            if process.poll() is not None:
                raise DemoError(f"the run to be killed ended with status {process.returncode}")
            time.sleep(0.01)
    finally:
        process.kill()
        status = process.wait()
    if status >= 0:
        raise DemoError(f"the run ended before it could be killed: pass more --steps than {run.steps}")
    return max(losses.read(run.log))


def _has(log: pathlib.Path, step: int) -> bool:
    return step in losses.read(log)
