"""Offline runs of processes that are killed at random moments: every call that had returned arrives, once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.offline import program
from tests.servers import clean_env
from withrun import MlflowApi
from withrun.journal import waiting

LOGGING = (
    program.START
    + """
told = open(folder / "told", "ab", buffering=0)
tell = lambda *words: told.write((" ".join(map(str, words)) + "\\n").encode())
for number in range(1000):
    run = api.start_run(exp, name=f"run-{number}")
    tell("run", run.id)
    for step in range(40):
        run.log_metric("loss", step, step)
    tell("metrics", run.id)
    file = folder / "file"
    file.write_text(str(number) * 1000)
    run.log_artifact(file, "deep/file")
    tell("artifact", run.id, number)
    version = run.log_model_version(name, folder / "model", "model")
    tell("version", run.id, version.version)
    with run.start_child(f"child-{number}") as child:
        tell("child", child.id, run.id)
    run.end_run()
    tell("end", run.id)
"""
)


def log_and_kill(uri: str, folder: Path, name: str, delay: float) -> list[list[str]]:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "w.bin").write_bytes(b"w" * 5000)
    (folder / "model" / "config").write_text("c")
    command = [sys.executable, "-c", LOGGING, uri, str(folder), name]
    with subprocess.Popen(command, env=clean_env()) as process:
        started = time.monotonic()
        while not (folder / "told").exists() and process.poll() is None:
            assert time.monotonic() - started < 60
            time.sleep(0.005)
        time.sleep(delay)
        process.kill()
    return [line.split() for line in (folder / "told").read_text().splitlines()]


def check(client: Any, name: str, told: list[list[str]]) -> None:
    from mlflow.artifacts import download_artifacts

    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    by_uid = {run.data.tags["withrun.uid"]: run for run in runs}
    assert len(by_uid) == len(runs)
    versions = client.search_model_versions(f"name='{name}'")
    by_run: dict[str, list[Any]] = {}
    for version in versions:
        by_run.setdefault(version.run_id, []).append(version)
    assert all(len(each) == 1 for each in by_run.values())
    for kind, uid, *more in told:
        run = by_uid[uid]
        run_id = run.info.run_id
        if kind == "metrics":
            points = client.get_metric_history(run_id, "loss")
            assert sorted(point.step for point in points) == list(range(40))
        elif kind == "artifact":
            path = download_artifacts(
                run_id=run_id, artifact_path="deep/file", tracking_uri=client.tracking_uri
            )
            assert Path(path).read_text() == more[0] * 1000
        elif kind == "version":
            assert len(by_run[run_id]) == 1
            found = {item.path: item.file_size for item in client.list_artifacts(run_id, "model")}
            assert found == {"model/w.bin": 5000, "model/config": 1}
        elif kind == "child":
            assert run.data.tags["mlflow.parentRunId"] == by_uid[more[0]].info.run_id
        elif kind == "end":
            assert run.info.status == "FINISHED"
    # Those that had not ended did so with their process.
    ended = {uid for kind, uid, *_ in told if kind == "end"}
    for uid, run in by_uid.items():
        assert run.info.status == "FINISHED" if uid in ended else run.info.status in ("FINISHED", "FAILED")


@pytest.mark.parametrize(
    "moments", [1, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_killed_at_random_moments(moments: int, uri: str, client: Any, tmp_path: Path) -> None:
    """Metrics, artifacts, versions, children and ends that had returned are on the store, exactly once."""
    for moment in range(moments):
        folder, name = tmp_path / str(moment), f"killed-{uuid.uuid4().hex}"
        told = log_and_kill(uri, folder, name, random.uniform(0, 0.3))
        with MlflowApi(tracking_uri=uri, cache_dir=folder / "cache") as api:
            api.flush(120)
        assert waiting(folder / "cache" / "journal", uri) == []
        check(client, name, told)
