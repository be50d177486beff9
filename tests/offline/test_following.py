"""Handles of what started without the server follow it to the server's IDs."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.offline.conftest import MakeApi
from withrun import MlflowApi, RunApi, RunStatus
from withrun.errors import RunClosed


@pytest.fixture
def online(uri: str, open_api: MakeApi) -> MlflowApi:
    """An API that is not offline."""
    return open_api(uri)


@pytest.fixture
def run(uri: str, open_api: MakeApi, online: MlflowApi, tmp_path: Path) -> RunApi:
    """A run that was started and left offline, by a handle of the API online; not delivered yet."""
    offline = open_api(uri, offline_mode=True)
    source = tmp_path / "weights.bin"
    source.write_bytes(b"weights")
    name = f"followed-{uuid.uuid4().hex[:12]}"
    with offline.start_run(offline.get_or_create_exp(name), name="away") as left:
        left.log_metric("loss", 0.5)
        left.log_artifact(source)
        left.log_model_version(name, source)
        left.start_child("child").end_run()
    return left.using(online)


def test_searches_by_local_ids(online: MlflowApi, run: RunApi) -> None:
    """After delivery, queries and finders that name local IDs find what the server's IDs do."""
    local, exp = run.id, run.exp.id
    online.flush()
    [found] = online.find_runs({"id": local})
    assert found.id != local
    assert [one.name for one in online.find_runs({"exp.id": exp, "name": "away"})] == ["away"]
    assert [one.name for one in online.find_runs({"tags.mlflow.parentRunId": local})] == ["child"]
    assert [one.name for one in online.find_child_runs(local)] == ["child"]
    assert [one.run.id for one in online.find_model_versions({"run.id": local}) if one.run] == [found.id]
    assert [one.id for one in online.find_runs({"tags.withrun.uid": local})] == [found.id]


def test_handles_take_the_server_s_id(online: MlflowApi, run: RunApi) -> None:
    """A handle equals the one that is fetched, has its page and its artifacts, and so have its versions."""
    local = run.id
    assert list(online.find_model_versions({"model.name": run.exp.name})) == []  # not delivered yet
    online.flush()
    fetched = online.get_run(local)
    assert run == fetched
    assert hash(run) == hash(fetched)
    assert run.id == fetched.id != local
    assert run.url.endswith(f"/{fetched.exp.id}/runs/{fetched.id}")
    assert run.exp.id == fetched.exp.id
    assert run.get_artifact("weights.bin").read_bytes() == b"weights"
    assert run.get_artifact_uri("weights.bin") == fetched.get_artifact_uri("weights.bin")
    [version] = run.find_model_versions()
    assert version.get_artifact().read_bytes() == b"weights"


def test_one_run_by_both_ids(online: MlflowApi, run: RunApi, client: Any) -> None:
    """What is logged by either ID is read by the other at once, and an end by one is the end for both."""
    local = run.id
    online.flush()
    server_id = online.get_run(local).id
    held = online.resume_run(local)
    for step in range(20):
        held.log_metric("loss", step, step=step)
        assert online.get_run(server_id).metrics["loss"] == step
    online.end_run(server_id, "KILLED")
    with pytest.raises(RunClosed):
        held.end_run()
    assert client.get_run(server_id).info.status == "KILLED"
    assert online.get_run(local).status is RunStatus.KILLED


def test_resumed_on_its_way_to_the_server(
    uri: str, online: MlflowApi, open_api: MakeApi, client: Any
) -> None:
    """A run that another journal is just bringing is RUNNING, and newer, whenever it is read in the block."""
    offline = open_api(uri, offline_mode=True)
    with offline.start_run(offline.get_or_create_exp(f"long-{uuid.uuid4().hex[:12]}")) as left:
        for step in range(5000):
            left.log_metric("loss", step, step=step)
        left.set_tag("stage", "old")
    with online.resume_run(left.id) as run:
        run.set_tag("stage", "new")
        for when in ("at once", "flushed", "all flushed"):
            found = online.get_run(run)
            assert (found.status, found.tags["stage"]) == (RunStatus.RUNNING, "new"), when
            (run if when == "at once" else online).flush()
        stored = client.get_run(online.get_run(run).id)
        assert (stored.info.status, stored.data.tags["stage"]) == ("RUNNING", "new")
    assert client.get_run(stored.info.run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(stored.info.run_id, "loss")) == 5000


def test_long_values_after_delivery(online: MlflowApi, run: RunApi) -> None:
    """A long value that is logged by a handle from before the delivery reads back whole."""
    online.flush()
    run.log_params({"big": "x" * 7000}).set_tag("wide", "y" * 9000)
    found = online.get_run(run)
    assert found.params["big"] == "x" * 7000
    assert found.tags["wide"] == "y" * 9000


def test_a_long_value_that_is_gone(
    online: MlflowApi, run: RunApi, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The preview, which says that it is one, stays with a warning; the run and searches can be read."""
    online.flush()
    run.log_params({"big": "x" * 7000, "small": 1}).flush()
    repo = client._tracking_client._get_artifact_repo(run.id)
    [kept] = client.list_artifacts(run.id, "withrun/values")
    repo.delete_artifacts(kept.path)
    online.clean_all_cache()
    with caplog.at_level(logging.WARNING):
        found = online.get_run(run)
    assert "7000 characters" in caplog.text
    assert found.params["small"] == 1
    assert "7000 characters" in found.params["big"]
    assert [one.params["small"] for one in online.find_runs({"id": run.id})] == [1]
