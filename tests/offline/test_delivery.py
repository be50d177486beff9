"""JournalPublisher: what was spooled is published as an API would have, once, however often it is tried."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faultproxy import Fault, fault_proxy
from tests.servers import MlflowServer
from withrun.errors import AlreadyExists, ArtifactNotFound, NotFound, ServerUnreachable
from withrun.journal import ArtifactIntent, VersionIntent, new_uid
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.settings import ClientSettings
from withrun.services.delivery import JournalPublisher, publisher_factory
from withrun.services.tag_keys import TagKeys
from withrun.transfer.file_transfer import FileTransfer


def backend_on(url: str) -> RestBackend:
    return RestBackend(url, ClientSettings(retries=0, timeout=10.0, connect_timeout=2.0))


@pytest.fixture
def backend(server: MlflowServer) -> Iterator[RestBackend]:
    made = backend_on(server.url)
    yield made
    made.close()


@pytest.fixture
def publisher(backend: RestBackend) -> JournalPublisher:
    return publisher_factory(FileTransfer())(backend)


@pytest.fixture
def client(server: MlflowServer) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(server.url)


@pytest.fixture
def model(client: Any) -> str:
    made: str = client.create_registered_model(f"m-{uuid.uuid4().hex}").name
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "spool" / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "w.bin").write_bytes(b"123")
    (folder / "deep" / "x.txt").write_text("x")
    return folder


def paths(client: Any, run_id: str, folder: str = "") -> set[str]:
    found: set[str] = set()
    for item in client.list_artifacts(run_id, folder or None):
        found |= paths(client, run_id, item.path) if item.is_dir else {item.path}
    return found


def intent_of(model: str, path: str = "model", **changes: Any) -> VersionIntent:
    return VersionIntent(new_uid(), model, path, {"stage": "x"}, **changes)


def test_artifacts_are_added_and_replaced(
    publisher: JournalPublisher, client: Any, source: Path, tmp_path: Path
) -> None:
    """Files join what the run holds, replace those of their names, and delete nothing; twice is as once."""
    from mlflow.artifacts import download_artifacts

    run = client.create_run("0").info.run_id
    client.log_text(run, "kept", "model/kept.txt")
    client.log_text(run, "old", "model/w.bin")
    for _ in range(2):
        publisher.publish_artifact(ArtifactIntent("model", "model"), source, run)
        publisher.publish_artifact(ArtifactIntent("model/w.bin", "top.bin"), source / "w.bin", run)
        publisher.publish_artifact(ArtifactIntent("model", ""), source, run)
    wanted = {"model/kept.txt", "model/w.bin", "model/deep/x.txt", "top.bin", "w.bin", "deep/x.txt"}
    assert paths(client, run) == wanted
    target = str(tmp_path / "read")
    read = download_artifacts(
        run_id=run, artifact_path="model/w.bin", dst_path=target, tracking_uri=client.tracking_uri
    )
    assert Path(read).read_bytes() == b"123"


def test_a_version_is_registered_once(
    publisher: JournalPublisher, client: Any, model: str, source: Path
) -> None:
    """Called again, also by another process's publisher, it returns the same number and adds nothing."""
    run = client.create_run("0").info.run_id
    intent = intent_of(model)
    number = publisher.publish_version(intent, source, run, lambda one: one)
    other = publisher_factory(FileTransfer())(publisher._backend)
    assert [one.publish_version(intent, source, run, str) for one in (publisher, other)] == [number] * 2
    [version] = client.search_model_versions(f"name='{model}'")
    assert (version.run_id, version.tags) == (run, {"stage": "x", "withrun.uid": intent.uid})
    assert version.source == f"{client.get_run(run).info.artifact_uri}/model"
    assert paths(client, run) == {"model/w.bin", "model/deep/x.txt"}


def test_what_was_logged_before_needs_no_source(publisher: JournalPublisher, client: Any, model: str) -> None:
    """Without a spooled source the version is registered from what the run holds."""
    run = client.create_run("0").info.run_id
    client.log_text(run, "1", "model/w.bin")
    assert publisher.publish_version(intent_of(model), None, run, str) == "1"
    assert paths(client, run) == {"model/w.bin"}


@pytest.mark.parametrize("path", ["model", "model/deep", ""])
def test_another_version_s_place_is_refused(
    publisher: JournalPublisher, client: Any, model: str, source: Path, path: str
) -> None:
    """At, in or above another version's artifact nothing is published or registered."""
    run = client.create_run("0").info.run_id
    publisher.publish_version(intent_of(model), source, run, str)
    before = paths(client, run)
    (source / "new.bin").write_bytes(b"new")
    with pytest.raises(AlreadyExists, match="a version is never changed"):
        publisher.publish_version(intent_of(model, path), source, run, str)
    assert paths(client, run) == before
    assert len(client.search_model_versions(f"name='{model}'")) == 1
    assert publisher.publish_version(intent_of(model, "beside"), source, run, str) == "2"


def test_versions_that_mlflow_itself_registered_count(
    publisher: JournalPublisher, client: Any, model: str, source: Path
) -> None:
    """A version whose source is written as runs:/… holds its place as any other."""
    run = client.create_run("0").info.run_id
    client.log_text(run, "1", "model/w.bin")
    client.create_model_version(model, f"runs:/{run}/model", run)
    with pytest.raises(AlreadyExists):
        publisher.publish_version(intent_of(model), source, run, str)


def test_duplicates_are_resolved(publisher: JournalPublisher, client: Any, model: str) -> None:
    """Of two versions with one uid, as a lost answer may leave, the first stays and the other is deleted."""
    run = client.create_run("0").info.run_id
    uri = client.get_run(run).info.artifact_uri
    intent = intent_of(model)
    for _ in range(2):
        client.create_model_version(model, f"{uri}/model", run, tags={"withrun.uid": intent.uid})
    other = client.create_model_version(model, f"{uri}/other", run)
    assert publisher.publish_version(intent, None, run, str) == "1"
    left = {str(version.version) for version in client.search_model_versions(f"name='{model}'")}
    assert left == {"1", str(other.version)}


def test_a_lost_answer(server: MlflowServer, client: Any, model: str, source: Path) -> None:
    """A registration that was applied and never answered is found by the next attempt."""
    run = client.create_run("0").info.run_id
    intent = intent_of(model)
    with fault_proxy(server.url) as proxy:
        backend = backend_on(proxy.url)
        publisher = publisher_factory(FileTransfer())(backend)
        proxy.times(1, Fault(lose_answer=True), path="model-versions/create")
        with pytest.raises(ServerUnreachable):
            publisher.publish_version(intent, source, run, str)
        assert publisher.publish_version(intent, source, run, str) == "1"
        backend.close()
    assert len(client.search_model_versions(f"name='{model}'")) == 1


@pytest.mark.slow
def test_a_server_that_is_away(server: MlflowServer, client: Any, source: Path) -> None:
    """Publishing raises what makes the journal wait, not what makes it give an artifact up."""
    run = client.create_run("0").info.run_id
    with fault_proxy(server.url) as proxy:
        backend = backend_on(proxy.url)
        publisher = publisher_factory(FileTransfer())(backend)
        publisher.publish_artifact(ArtifactIntent("model", "a"), source, run)
        proxy.always(Fault(reset=True))
        with pytest.raises(ServerUnreachable):
            publisher.publish_artifact(ArtifactIntent("model", "b"), source, run)
        proxy.always(None)
        publisher.publish_artifact(ArtifactIntent("model", "b"), source, run)
        backend.close()
    assert paths(client, run) == {"a/w.bin", "a/deep/x.txt", "b/w.bin", "b/deep/x.txt"}


def test_the_repo_that_a_run_chose(backend: RestBackend, client: Any, source: Path, tmp_path: Path) -> None:
    """Artifacts go where the run's tag says, by whatever key is configured, not where the store would."""
    keys = TagKeys(repo="team.repo")
    run = client.create_run("0", tags={"team.repo": str(tmp_path / "repo")}).info.run_id
    publisher_factory(FileTransfer(), keys)(backend).publish_artifact(ArtifactIntent("m", "m"), source, run)
    assert (tmp_path / "repo" / run / "artifacts" / "m" / "w.bin").read_bytes() == b"123"
    assert paths(client, run) == set()


def test_what_can_t_be_published(publisher: JournalPublisher, client: Any, tmp_path: Path) -> None:
    """A spooled file that is gone, and a run that is not there, are errors of their own."""
    run = client.create_run("0").info.run_id
    with pytest.raises(ArtifactNotFound):
        publisher.publish_artifact(ArtifactIntent("x", "x"), tmp_path / "gone", run)
    with pytest.raises(NotFound):
        publisher.publish_artifact(ArtifactIntent("x", "x"), tmp_path, "0" * 32)
