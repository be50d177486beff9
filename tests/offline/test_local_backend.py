"""LocalBackend: local IDs on a backend, before and after what they name is delivered."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withrun.backend import Backend, KeyValue, Metric
from withrun.errors import NotFound, OfflineError
from withrun.journal import (
    ExperimentIntent,
    Journal,
    LocalIds,
    ModelIntent,
    RunIntent,
    VersionIntent,
    new_uid,
    recover,
)
from withrun.journal.replay import LocalStore
from withrun.providers.mlflow.store import StoreBackend
from withrun.services.delivery import publisher_factory
from withrun.services.local_backend import LocalBackend
from withrun.services.offline import offline_backend
from withrun.transfer.file_transfer import FileTransfer

REPO = "s3://elsewhere/repo"


class Logged:
    """An experiment, a run, a model and a version in a journal, by their local IDs."""

    def __init__(self, folder: Path, uri: str, *, repo: str = "") -> None:
        self.exp, self.run = new_uid(), new_uid()
        self.journal = Journal(folder, uri)
        self.journal.ensure_experiment(ExperimentIntent(self.exp, "exp"))
        self.journal.ensure_model(ModelIntent("digits"))
        tags = {"withrun.repo": repo} if repo else {}
        log = self.journal.owned.create_locally(RunIntent(self.run, self.exp, "run", 1_700_000_000_000, tags))
        model = self.journal.spool / "runs" / self.run / "artifacts" / "model"
        model.mkdir(parents=True)
        (model / "w.bin").write_bytes(b"123")
        log.metric("loss", 1.0, 1, 1)
        log.metric("loss", 0.5, 2, 2)
        spooled = f"runs/{self.run}/artifacts/model"
        log.version(VersionIntent(new_uid(), "digits", "model", {}, "local-1", spooled))
        log.status("FINISHED", 1_700_000_100_000)
        self.journal.close()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def wrapped(tmp_path: Path, uri: str) -> Callable[[Backend], LocalBackend]:
    def wrap(backend: Backend) -> LocalBackend:
        local = LocalStore(tmp_path / "journal", uri)
        return LocalBackend(backend, local, LocalIds(local.folder))

    return wrap


def deliver(folder: Path, uri: str) -> dict[str, str]:
    backend = StoreBackend(uri)
    try:
        publisher = publisher_factory(FileTransfer())(backend)
        report = recover(folder, uri, backend, publisher=publisher, threads=1)
    finally:
        backend.close()
    assert (report.left, report.refused) == ({}, 0)
    return report.runs


@pytest.mark.parametrize("online", [True, False])
def test_before_delivery(tmp_path: Path, uri: str, wrapped: Any, online: bool) -> None:
    """What only a journal holds is read by its IDs, with the server in reach and without."""
    logged = Logged(tmp_path / "journal", uri, repo=REPO)
    backend = wrapped(StoreBackend(uri) if online else offline_backend(uri))
    run = backend.get_run(logged.run)
    assert (run.run_id, run.experiment_id, run.status) == (logged.run, logged.exp, "FINISHED")
    assert run.metrics == (Metric("loss", 0.5, 2, 2),)
    assert "withrun.repo" not in {tag.key for tag in run.tags}  # its artifacts are not there yet
    assert (Path(run.artifact_uri) / "model" / "w.bin").read_bytes() == b"123"
    assert [point.step for point in backend.metric_history(logged.run, "loss").items] == [1, 2]
    assert backend.get_experiment(logged.exp).name == "exp"
    version = backend.get_version("digits", "local-1")
    assert version.run_id == logged.run
    assert backend.version_download_uri("digits", "local-1") == version.source
    if online:
        assert backend.search_runs((logged.exp,)).items == ()
    backend.close()


def test_names_are_the_server_s_to_tell(tmp_path: Path, uri: str, wrapped: Any) -> None:
    """An experiment or model of that name is the journal's offline alone; online it has to be created."""
    Logged(tmp_path / "journal", uri)
    offline, online = wrapped(offline_backend(uri)), wrapped(StoreBackend(uri))
    assert offline.get_experiment_by_name("exp").name == "exp"
    assert offline.get_model("digits").name == "digits"
    assert online.get_experiment_by_name("exp") is None
    with pytest.raises(NotFound):
        online.get_model("digits")
    for ask in (lambda: offline.get_experiment_by_name("other"), lambda: offline.get_model("other")):
        with pytest.raises(OfflineError):
            ask()
    online.close()


def test_writes_before_delivery(tmp_path: Path, uri: str, wrapped: Any) -> None:
    """What only the server can do with it is refused with the way out; nothing reaches the server."""
    logged = Logged(tmp_path / "journal", uri)
    backend = wrapped(StoreBackend(uri))
    for write in (
        lambda: backend.delete_run(logged.run),
        lambda: backend.update_run(logged.run, status="FAILED"),
        lambda: backend.log_batch(logged.run, metrics=(Metric("x", 1.0),)),
        lambda: backend.delete_experiment(logged.exp),
        lambda: backend.set_version_tag("digits", "local-1", "a", "b"),
        lambda: backend.create_run(logged.exp, run_name=None, start_time=1),
    ):
        with pytest.raises(OfflineError, match="withrun sync"):
            write()
    backend.close()


def test_after_delivery(tmp_path: Path, uri: str, wrapped: Any) -> None:
    """Every call takes the local IDs, and means the server's."""
    logged = Logged(tmp_path / "journal", uri)
    backend = wrapped(StoreBackend(uri))
    before = backend.get_run(logged.run)
    [server_id] = deliver(tmp_path / "journal", uri).values()
    run = backend.get_run(logged.run)
    assert (run.run_id, run.run_name, run.metrics) == (server_id, before.run_name, before.metrics)
    experiment = backend.get_experiment(logged.exp)
    assert experiment.experiment_id == run.experiment_id
    assert [one.run_id for one in backend.search_runs((logged.exp,)).items] == [server_id]
    assert [one.version for one in backend.search_versions(f"run_id = '{logged.run}'").items] == ["1"]
    assert backend.get_version("digits", "local-1").version == "1"
    backend.log_batch(logged.run, metrics=(Metric("loss", 2.0, 3, 3),), tags=(KeyValue("a", "1"),))
    assert [point.step for point in backend.metric_history(logged.run, "loss").items] == [1, 2, 3]
    backend.delete_tag(logged.run, "a")
    backend.update_run(logged.run, status="KILLED")
    assert backend.get_run(server_id).status == "KILLED"
    backend.set_version_tag("digits", "local-1", "k", "v")
    backend.set_alias("digits", "best", "local-1")
    found = backend.get_version_by_alias("digits", "best")
    assert (found.version, KeyValue("k", "v") in found.tags) == ("1", True)
    backend.set_experiment_tag(logged.exp, "k", "v")
    assert KeyValue("k", "v") in backend.get_experiment(logged.exp).tags
    backend.delete_run(logged.run)
    assert backend.get_run(logged.run).lifecycle_stage == "deleted"
    backend.delete_experiment(logged.exp)
    assert backend.get_experiment(logged.exp).lifecycle_stage == "deleted"
    backend.close()


def test_ids_of_the_server_cost_nothing(tmp_path: Path, uri: str, wrapped: Any) -> None:
    """For an ID that doesn't look local no journal is looked for: even an unreadable folder does no harm."""
    backend = wrapped(StoreBackend(uri))
    created = backend.create_run("0", run_name="x", start_time=1)
    (tmp_path / "journal").write_text("in the place of the folder")
    started = time.perf_counter()
    assert backend.get_run(created.run_id).run_name == "x"
    assert time.perf_counter() - started < 5
    for ask in (lambda: backend.get_run("0" * 32), lambda: backend.get_experiment("4711")):
        with pytest.raises(NotFound):
            ask()
    backend.close()


def test_an_id_that_just_looks_local(uri: str, wrapped: Any) -> None:
    """Nobody knows it: the server's NotFound passes; offline, OfflineError."""
    stranger = new_uid()
    online, offline = wrapped(StoreBackend(uri)), wrapped(offline_backend(uri))
    with pytest.raises(NotFound):
        online.get_run(stranger)
    with pytest.raises(NotFound):
        online.delete_run(stranger)
    with pytest.raises(OfflineError):
        offline.get_run(stranger)
    online.close()
