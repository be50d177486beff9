"""Loading a model where there is no server: withrun's `generic` plugin beside MLflow's own `load_model`.

Each in a new process. The model is a scikit-learn classifier; both unpickle the same file, and a line shows
what that takes alone. MLflow reads its model folder from the local disk.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import withrun
from tests.benchmarks.harness import Benchmark, Contender, in_new_process
from tests.servers import clean_env

SAVE = """
import sys, mlflow
from sklearn.linear_model import LogisticRegression
model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
mlflow.sklearn.save_model(
    model, sys.argv[1], serialization_format="cloudpickle", pip_requirements=["scikit-learn"])
"""

PEAK = """
import resource, sys
if sys.platform == "linux":  # a child's `ru_maxrss` begins with its parent's there
    print(int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)
"""

WITHRUN = """
import pickle, withrun
api = withrun.get_api("generic", conf={{"cache_dir": {export!r}}})
model = api.load_model_artifact(
    ("bench", "1"), lambda path: pickle.loads((path / "model.pkl").read_bytes()))
assert list(model.predict([[0.0], [1.0]])) == [0, 1]
"""

MLFLOW = """
import mlflow.sklearn
model = mlflow.sklearn.load_model({saved!r})
assert list(model.predict([[0.0], [1.0]])) == [0, 1]
"""

FLOOR = """
import pickle
model = pickle.load(open({pickled!r}, "rb"))
assert list(model.predict([[0.0], [1.0]])) == [0, 1]
"""

SERVE = """
import withrun
withrun.get_api("generic", conf={{"cache_dir": {export!r}}}).get_model_artifact(("bench", "1"))
"""


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    saved, export = folder / "saved", folder / "export"
    command = [sys.executable, "-c", SAVE, str(saved)]
    subprocess.run(command, cwd=folder, env=clean_env(), check=True, capture_output=True)
    pickle.loads((saved / "model.pkl").read_bytes())
    with withrun.get_api(conf={"tracking_uri": f"sqlite:///{folder}/mlflow.db"}) as api:
        with api.start_run(api.get_or_create_exp("bench")) as run:
            version = run.log_model_version("bench", saved)
        version.export(export)
    codes = {
        "withrun: generic plugin, load": WITHRUN.format(export=str(export)),
        "mlflow.sklearn.load_model": MLFLOW.format(saved=str(saved)),
        "floor: unpickle the file": FLOOR.format(pickled=str(saved / "model.pkl")),
        "withrun: generic plugin, path only": SERVE.format(export=str(export)),
    }

    def peak(code: str) -> list[float]:
        _, out = in_new_process(code + PEAK, folder)
        return [float(out.splitlines()[-1])]

    yield [
        Benchmark(
            "a model from its export: whole process",
            "ms",
            [Contender(n, lambda c=c: [in_new_process(c, folder)[0]]) for n, c in codes.items()],  # type: ignore[misc]
        ),
        Benchmark(
            "a model from its export: peak memory",
            "MiB",
            [Contender(n, lambda c=c: peak(c)) for n, c in codes.items()],  # type: ignore[misc]
            rounds=3,
        ),
    ]
