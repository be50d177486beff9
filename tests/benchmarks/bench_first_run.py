"""From nothing to a first run on a server that is over: the whole process, from its start to its exit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.harness import Benchmark, Contender, in_new_process
from tests.servers import mlflow_server

WITHRUN = """
import withrun
api = withrun.get_api(conf={{"tracking_uri": "{url}"}})
with api.start_run(api.get_or_create_exp("bench")) as run:
    run.log_param("lr", 0.1)
    run.log_metric("loss", 0.3, step=1)
"""

MLFLOW = """
import mlflow
mlflow.set_tracking_uri("{url}")
mlflow.set_experiment("bench")
with mlflow.start_run():
    mlflow.log_param("lr", 0.1)
    mlflow.log_metric("loss", 0.3, step=1)
"""

FLOOR = """
import http.client, json
connection = http.client.HTTPConnection("{host}")
def post(path, **body):
    kind = {{"Content-Type": "application/json"}}
    connection.request("POST", "/api/2.0/mlflow/" + path, json.dumps(body), kind)
    return json.loads(connection.getresponse().read())
run_id = post("runs/create", experiment_id="0", start_time=1)["run"]["info"]["run_id"]
post("runs/log-batch", run_id=run_id, params=[{{"key": "lr", "value": "0.1"}}],
     metrics=[{{"key": "loss", "value": 0.3, "step": 1, "timestamp": 1}}])
post("runs/update", run_id=run_id, status="FINISHED", end_time=2)
"""


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    with mlflow_server(folder / "server") as server:
        codes = {
            "withrun": WITHRUN.format(url=server.url),
            "mlflow fluent": MLFLOW.format(url=server.url),
            "floor: 3 requests of http.client": FLOOR.format(host=server.url.removeprefix("http://")),
        }
        contenders = [
            Contender(name, lambda code=code: [in_new_process(code, folder)[0]])  # type: ignore[misc]
            for name, code in codes.items()
        ]
        yield [Benchmark("process: import, API, first run, exit (1-worker server)", "ms", contenders)]
