"""A process that builds and runs contenders on request, with one JSON line per request and per answer.

XLA reads its flags once per process, so contenders with and without the one-pass fusion live in two processes, which
take turns: only one runs at a time.
"""

import gc
import json
import os
import subprocess
import sys
import time
from typing import Any


class Worker:
    """The client: starts the process, with JAX's cache in the directory ``cache``, and sends it requests."""

    def __init__(self, fused: bool, cache: str | None = None) -> None:
        arguments = [sys.executable, "-W", "ignore", "-m", "benchmarks.worker", *(["--fused"] if fused else [])]
        kept = {"MIN_COMPILE_TIME_SECS": "0", "MIN_ENTRY_SIZE_BYTES": "-1"}  # all programs
        variables = {f"JAX_PERSISTENT_CACHE_{name}": value for name, value in kept.items()}
        caching = {} if cache is None else {"JAX_COMPILATION_CACHE_DIR": cache, **variables}
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | caching
        )

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker died of {request}")
        return json.loads(answer)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    import functorch_optim as fo

    if "--fused" in sys.argv:
        fo.enable_cpu_fusion()
    from benchmarks import contenders

    held: dict[str, contenders.Contender] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name, answer = request["name"], {}
        if request["do"] == "build":
            held[name] = contenders.build(name, request["shapes"])
            answer = {"compile": held[name].compile_seconds, "memory": held[name].memory}
        elif request["do"] == "bandwidth":
            answer = {"bytes_per_second": contenders.copy_bandwidth(request["moved"])}
        elif request["do"] == "run":
            start = time.perf_counter()
            held[name].run()
            answer = {"seconds": time.perf_counter() - start}
        elif request["do"] == "drop":
            held.clear()
            gc.collect()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
