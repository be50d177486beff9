"""Artifacts that a storage can't keep as they are, as a user of the API meets them: nothing is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

import withrun
from tests.servers import MlflowServer
from withrun.errors import (
    ArtifactNotFound,
    FailedToPublishArtifact,
    IllegalPath,
    InvalidArgument,
)


@pytest.fixture
def api(server: MlflowServer, tmp_path: Path) -> Iterator[withrun.MlflowApi]:
    with withrun.MlflowApi(tracking_uri=server.url, cache_dir=tmp_path / "cache") as made:
        yield made


@pytest.mark.parametrize(
    ("refused", "taken"),
    [("fold #1.txt", "fold "), ("fold #2.txt", "fold "), ("x?1", "x"), ("a\nb", "ab"), ("a%20b", "a b")],
)
def test_names_that_would_be_one(api: withrun.MlflowApi, tmp_path: Path, refused: str, taken: str) -> None:
    """A name that the server would take for another one overwrites nothing: it is refused, its file kept."""
    run = api.create_run(api.get_or_create_exp("unkept"))
    for name in (refused, taken):
        (tmp_path / name).write_text(name)
    run.log_artifact(tmp_path / taken, keep_the_source=False)
    with pytest.raises(
        FailedToPublishArtifact, match="Rename the file, or give another path_in_run"
    ) as caught:
        run.log_artifact(tmp_path / refused, keep_the_source=False)
    assert isinstance(caught.value.__cause__, IllegalPath)
    assert (tmp_path / refused).read_text() == refused
    with pytest.raises(ArtifactNotFound):
        run.get_artifact(refused)
    run.clean_cached_artifact()
    assert run.get_artifact(taken).read_text() == taken
    assert [found.path for found in MlflowClient(api.tracking_uri).list_artifacts(run.id)] == [taken]


@pytest.mark.parametrize("model", ["net #1", "net #2", "what?", "50% net; v+1"])
def test_versions_of_models_with_odd_names(api: withrun.MlflowApi, tmp_path: Path, model: str) -> None:
    """A model's name that can't be a path is refused as one, and nothing is registered; another path does."""
    run = api.create_run(api.get_or_create_exp("unkept"))
    (tmp_path / "weights").write_text(model)
    path = model
    if "#" in model or "?" in model:
        with pytest.raises(FailedToPublishArtifact, match="another path_in_run"):
            run.log_model_version(model, tmp_path / "weights")
        assert list(api.find_model_versions({"model.name": model})) == []
        path = "net"
    version = run.log_model_version(model, tmp_path / "weights", path_in_run=path, use_cache=False)
    assert version.get_artifact().read_text() == model
    uri = MlflowClient(api.tracking_uri).get_model_version_download_uri(model, str(version.version))
    seen = download_artifacts(
        artifact_uri=uri, tracking_uri=api.tracking_uri, dst_path=str(tmp_path / "seen")
    )
    assert Path(seen).read_text() == model


def test_a_folder_without_files(api: withrun.MlflowApi, tmp_path: Path) -> None:
    """An empty folder is refused, kept, and registers no version; a local repo keeps it."""
    (tmp_path / "empty" / "below").mkdir(parents=True)
    run = api.create_run(api.get_or_create_exp("unkept"))
    with pytest.raises(FailedToPublishArtifact, match="holds no file") as caught:
        run.log_artifact(tmp_path / "empty", keep_the_source=False)
    assert isinstance(caught.value.__cause__, InvalidArgument)
    with pytest.raises(FailedToPublishArtifact, match="holds no file"):
        run.log_model_version("unkept", tmp_path / "empty")
    assert list(api.find_model_versions({"model.name": "unkept"})) == []
    assert (tmp_path / "empty" / "below").is_dir()
    local = api.create_run(api.get_or_create_exp("unkept"), repo=str(tmp_path / "repo"))
    local.log_artifact(tmp_path / "empty")
    assert (local.get_artifact("empty") / "below").is_dir()


def test_what_an_offline_run_can_t_deliver(
    server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an offline run, what its storage can't keep is reported as refused, and kept; all else arrives."""
    (tmp_path / "empty").mkdir()
    conf = {"tracking_uri": server.url, "cache_dir": tmp_path / "cache"}
    with (
        withrun.MlflowApi(**conf, offline_mode=True) as offline,
        offline.start_run(offline.get_or_create_exp("unkept"), tags={"which": tmp_path.name}) as run,
    ):
        run.log_artifact(tmp_path / "empty")
        (tmp_path / "file").write_text("x")
        for name in ("fold #1.txt", "fold #2.txt", "fine"):
            run.log_artifact(tmp_path / "file", name)
    caplog.set_level(logging.ERROR)
    with withrun.MlflowApi(**conf) as api:
        api.flush(60)
        (found,) = api.find_runs({"tags.which": tmp_path.name})
        listed = found.list_artifacts()
    assert isinstance(listed, list)
    assert [meta.Name for meta in listed] == ["fine"]
    for words in ("holds no file", "'fold #1.txt' holds '#'", "'fold #2.txt' holds '#'"):
        assert words in caplog.text
    kept = {path.name for path in tmp_path.glob("cache/journal/*/refused/**/artifacts/*")}
    assert kept == {"empty", "fold #1.txt", "fold #2.txt"}
