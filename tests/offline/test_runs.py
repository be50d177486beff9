"""Runs that a process logged without the server: read back on this machine, and delivered, once."""

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
from tests.offline.conftest import MakeApi
from tests.servers import clean_env
from withrun.errors import OfflineError
from withrun.journal import waiting


@pytest.fixture
def name() -> str:
    """Of an experiment and a model that no other test uses."""
    return f"offline-{uuid.uuid4().hex[:12]}"


def sync(uri: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "withrun.cli", "sync", "--tracking-uri", uri]
    command += ["--cache-dir", str(folder / "cache"), *options]
    return subprocess.run(command, env=clean_env(), capture_output=True, text=True, check=False, timeout=120)


def check_delivered(client: Any, name: str, told: dict[str, Any], folder: Path) -> dict[str, str]:
    """All that `program.RUNS` logged is on the store, once; the server's IDs by name."""
    from mlflow.artifacts import download_artifacts

    experiment = client.get_experiment_by_name(name)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(client.search_runs([experiment.experiment_id])) == 2
    parent, child = runs["parent"], runs["child"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert parent.data.tags["withrun.uid"] == told["parent"]
    assert parent.data.tags["team"] == "x"
    assert "gone" not in parent.data.tags
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params["lr"] == "0.1"
    assert sorted(p.step for p in client.get_metric_history(parent.info.run_id, "loss")) == list(range(300))
    data = Path(
        download_artifacts(
            run_id=parent.info.run_id,
            artifact_path="data",
            dst_path=str(folder / uuid.uuid4().hex),
            tracking_uri=client.tracking_uri,
        )
    )
    assert (data / "weights.bin").read_bytes() == bytes(range(256)) * 100
    assert (data / "deep" / "note é.txt").read_text() == "a note"
    [version] = client.search_model_versions(f"name='{name}'")
    assert version.run_id == child.info.run_id
    assert version.source.endswith(f"{child.info.run_id}/artifacts/model")
    assert version.tags["stage"] == "first"
    assert {item.path for item in client.list_artifacts(child.info.run_id, "model")} == {
        "model/deep",
        "model/weights.bin",
    }
    return {one: run.info.run_id for one, run in runs.items()}


def test_another_process_reads_them_offline(uri: str, name: str, tmp_path: Path, open_api: MakeApi) -> None:
    """Killed without a server in reach, a process leaves runs, artifacts and versions that can be read."""
    told = program.leave(program.RUNS, uri, tmp_path, name)
    api = open_api(uri, offline_mode=True)
    run = api.get_run(told["parent"])
    assert (run.name, run.status.value, run.exp.name) == ("parent", "FINISHED", name)
    assert run.params == {"lr": 0.1, "text": "x" * 7000, "nested": {"a": [1, None]}}
    assert run.metrics == {"loss": 1 / 300}
    assert (run.tags["team"], "gone" in run.tags) == ("x", False)
    assert [point.step for point in run.metric_history("loss")] == list(range(300))
    assert sorted(item.Name for item in run.list_artifacts("data")) == ["deep", "weights.bin"]
    assert run.load_artifact(Path.read_text, "data/deep/note é.txt") == "a note"
    assert [child.id for child in run.children] == [told["child"]]
    assert {one.name for one in api.find_runs({"exp.name": name})} == {"parent", "child"}
    assert [one.name for one in api.find_runs({"metrics.loss": {"$lt": 1}, "exp.name": name})] == ["parent"]
    assert api.get_or_create_exp(name).id == told["exp"]
    [version] = api.find_model_versions({"model.name": name})
    assert (version.version, version.path_in_run, version.tags) == (
        told["versions"][0],
        "model",
        {"stage": "first"},
    )
    loaded = api.load_model_artifact((name, version.version), lambda path: (path / "weights.bin").stat())
    assert loaded.st_size == 25_600
    for refused in (lambda: api.create_exp("x"), run.cache_meta):
        with pytest.raises(OfflineError):
            refused()


def test_a_placed_artifact_outlives_the_delivery(
    uri: str, name: str, tmp_path: Path, open_api: MakeApi
) -> None:
    """What is placed from a run that is not delivered is a copy: the spool that it came from goes."""
    told = program.leave(program.RUNS, uri, tmp_path, name)
    api = open_api(uri, offline_mode=True)
    placed = api.place_run_artifact(told["parent"], tmp_path / "placed", "data/weights.bin")
    assert sync(uri, tmp_path).returncode == 0
    assert placed.read_bytes() == bytes(range(256)) * 100


def test_delivery(uri: str, name: str, tmp_path: Path, client: Any, open_api: MakeApi) -> None:
    """Everything is on the store once it is synced, and the local IDs lead to it from then on."""
    told = program.leave(program.RUNS, uri, tmp_path, name)
    done = sync(uri, tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    ids = check_delivered(client, name, told, tmp_path)
    for one in ("parent", "child"):
        assert f"run {told[one]} is now {ids[one]}" in done.stdout
    assert waiting(tmp_path / "cache" / "journal", uri) == []
    api = open_api(uri)
    run = api.get_run(told["parent"])
    assert run.id == ids["parent"]
    assert run.params["text"] == "x" * 7000
    assert [child.id for child in api.find_child_runs(told["parent"])] == [ids["child"]]
    assert api.get_exp(told["exp"]).name == name
    assert api.get_model_version((name, told["versions"][0])).version == "1"
    assert [version.version for version in api.get_run(told["child"]).find_model_versions()] == ["1"]
    api.log_metrics(told["parent"], {"later": 1.0})
    api.flush(30)
    assert client.get_run(ids["parent"]).data.metrics["later"] == 1.0
    again = sync(uri, tmp_path)
    assert (again.returncode, "nothing to sync" in again.stdout) == (0, True)


def test_the_next_api_delivers(uri: str, name: str, tmp_path: Path, client: Any, open_api: MakeApi) -> None:
    """Making an API that is not offline delivers what was left, and its flush waits for that."""
    told = program.leave(program.RUNS, uri, tmp_path, name)
    open_api(uri).flush(60)
    check_delivered(client, name, told, tmp_path)


@pytest.mark.slow
def test_a_killed_sync(uri: str, name: str, tmp_path: Path, client: Any) -> None:
    """Syncs that are killed at any moment, and two at once, leave what one undisturbed sync would."""
    told = program.leave(program.RUNS, uri, tmp_path, name)
    command = [sys.executable, "-m", "withrun.cli", "sync", "--tracking-uri", uri]
    command += ["--cache-dir", str(tmp_path / "cache")]
    chance = random.Random(name)
    for _ in range(4):
        with subprocess.Popen(command, env=clean_env(), stdout=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(0.4, 1.6) + (1.5 if uri.startswith("sqlite") else 0))
            process.kill()
    both = [subprocess.Popen(command, env=clean_env(), stdout=subprocess.DEVNULL) for _ in range(2)]
    for one in both:
        one.wait(120)
    assert sync(uri, tmp_path).returncode == 0
    check_delivered(client, name, told, tmp_path)


REPO = (
    program.START
    + """
(folder / "w.bin").write_bytes(b"123")
with api.start_run(exp, name="run", repo=str(folder / "repo")) as run:
    run.log_artifact(folder / "w.bin", "w.bin")
    assert api.load_run_artifact(run.id, Path.read_bytes, "w.bin") == b"123"
print(json.dumps({"run": run.id}), flush=True)
os.kill(os.getpid(), 9)
"""
)


def test_a_repo_of_its_own(uri: str, name: str, tmp_path: Path, open_api: MakeApi) -> None:
    """A run that chose where its artifacts go has them there, under its server ID, once delivered."""
    told = program.leave(REPO, uri, tmp_path, name)
    offline = open_api(uri, offline_mode=True)
    assert offline.load_run_artifact(told["run"], Path.read_bytes, "w.bin") == b"123"
    assert not (tmp_path / "repo").exists()
    assert sync(uri, tmp_path).returncode == 0
    run = open_api(uri).get_run(told["run"])
    assert (tmp_path / "repo" / run.id / "artifacts" / "w.bin").read_bytes() == b"123"
    assert run.load_artifact(Path.read_bytes, "w.bin") == b"123"


PLAIN_TAGS = (
    program.START
    + """
runs = []
for number in range(3):
    with api.start_run(exp, name=f"run-{number}") as run:
        run.log_metric("m", number)
    runs.append(run.id)
print(json.dumps({"runs": runs}), flush=True)
os.kill(os.getpid(), 9)
"""
)


def test_one_name_from_several_processes(
    uri: str, name: str, tmp_path: Path, client: Any, open_api: MakeApi
) -> None:
    """Processes that each asked for an experiment offline find all runs in it, before and after delivery."""
    told = [program.leave(PLAIN_TAGS, uri, tmp_path, name) for _ in range(2)]
    ids = {run for each in told for run in each["runs"]}  # type: ignore[attr-defined]
    offline = open_api(uri, offline_mode=True)
    assert {run.id for run in offline.get_or_create_exp(name).find_runs()} == ids
    assert len(list(offline.find_exps({"name": name}))) == 1
    assert sync(uri, tmp_path).returncode == 0
    experiment = client.get_experiment_by_name(name)
    found = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["withrun.uid"] for run in found} == ids
    assert len(found) == 6


def test_a_run_that_is_logged_to_after_its_end(
    uri: str, name: str, tmp_path: Path, client: Any, open_api: MakeApi
) -> None:
    """Artifacts of several journals are read together, by handle and by ID, and arrive together."""
    told = program.leave(program.RUNS, uri, tmp_path, name)
    (tmp_path / "late.txt").write_text("late")
    api = open_api(uri, offline_mode=True)
    with api.start_run(told["exp"], name="own") as own:
        own.log_artifact(tmp_path / "late.txt", "first.txt")
    for run in (api.get_run(told["parent"]), own):
        run.log_artifact(tmp_path / "late.txt", "late.txt")
        run.log_metric("late", 1.0)
        for one in (run, api.get_run(run.id)):
            assert one.load_artifact(Path.read_text, "late.txt") == "late"
    assert api.load_run_artifact(own.id, Path.read_text, "first.txt") == "late"
    listed = {item.Name for item in api.list_run_artifacts(told["parent"])}
    assert {"late.txt", "data"} <= listed
    api.close()
    assert sync(uri, tmp_path).returncode == 0
    experiment = client.get_experiment_by_name(name)
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"parent", "child", "own"}
    assert {item.path for item in client.list_artifacts(runs["own"])} == {"first.txt", "late.txt"}
    assert {"late.txt", "data"} <= {item.path for item in client.list_artifacts(runs["parent"])}
    assert client.get_run(runs["parent"]).data.metrics["late"] == 1.0
