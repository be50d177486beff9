"""What `import withrun` takes: time, modules and memory, in fresh interpreters."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.harness import Benchmark, Contender, in_new_process

# On Linux a child's `ru_maxrss` begins with its parent's; VmHWM is its own.
CODE = """
import json, resource, sys, time
before, start = len(sys.modules), time.perf_counter()
import {module}
taken = time.perf_counter() - start
if sys.platform == "linux":
    status = open("/proc/self/status").read()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
print(json.dumps({{"time": taken, "modules": len(sys.modules) - before, "memory": peak}}))
"""


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    (folder / "nothing_at_all.py").touch()
    modules = {"withrun": "withrun", "mlflow": "mlflow", "floor: an empty module": "nothing_at_all"}

    def contenders(what: str) -> list[Contender]:
        def take(module: str) -> list[float]:
            _, out = in_new_process(CODE.format(module=module), folder)
            return [float(json.loads(out.splitlines()[-1])[what])]

        return [Contender(name, lambda module=module: take(module)) for name, module in modules.items()]  # type: ignore[misc]

    yield [
        Benchmark("import: time", "ms", contenders("time"), rounds=7),
        Benchmark("import: modules", "modules", contenders("modules"), rounds=1),
        Benchmark("import: peak memory of the process", "MiB", contenders("memory"), rounds=3),
    ]
