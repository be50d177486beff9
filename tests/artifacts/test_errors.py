"""What goes wrong with artifacts, as a user of the API meets it: the message, and what is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import withrun
from tests.s3 import S3Server, s3_server
from withrun.errors import (
    AlreadyExists,
    ArtifactNotFound,
    BucketNotFound,
    CacheError,
    FailedToPublishArtifact,
    InvalidArgument,
    MissingDependency,
    TargetExists,
    TransferError,
    WithrunError,
)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.bucket("errors")


@pytest.fixture
def cloud(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual environment of a client of the endpoint."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[withrun.BaseMlflowApi]:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with withrun.get_api(conf={"tracking_uri": uri, "cache_dir": tmp_path / "cache"}) as made:
        yield made


def remote_run(api: withrun.BaseMlflowApi, bucket: str) -> withrun.RunApi:
    return api.create_run(api.get_or_create_exp("errors"), repo=bucket)


@pytest.mark.usefixtures("cloud")
@pytest.mark.parametrize("what", ["no bucket", "403", "no credentials", "no rclone"])
def test_storage_refuses(
    api: withrun.BaseMlflowApi, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What a cloud or its tool refuses names the reason; a path stays, and what a callback wrote is kept."""
    source = tmp_path / "weights"
    source.write_text("mine")
    words = {
        "no bucket": "does not exist",
        "403": "refused",
        "no credentials": "AWS_ACCESS_KEY_ID",
        "no rclone": r"withrun\[rclone\]",
    }[what]
    run = remote_run(api, f"{bucket}-not" if what == "no bucket" else bucket)
    match what:
        case "403":
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        case "no credentials":
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.setenv("HOME", str(tmp_path))
        case "no rclone":
            monkeypatch.setattr(sys, "executable", "/nowhere/python")
            monkeypatch.setattr("sysconfig.get_path", lambda _: "/nowhere")
            monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(FailedToPublishArtifact, match=words) as caught:
        run.log_artifact(source, keep_the_source=False)
    assert caught.value.source.read_text() == "mine"
    assert str(caught.value.source) in str(caught.value)
    assert "wrong-secret" not in str(caught.value)
    with pytest.raises(FailedToPublishArtifact) as caught:
        run.log_model_version("m", lambda path: path.write_text("dumped"))
    assert caught.value.source.read_text() == "dumped"
    assert list(api.find_model_versions({"model.name": "m"})) == []
    reading = MissingDependency if what == "no rclone" else (TransferError, ArtifactNotFound)
    for read in (run.get_artifact, run.cache_artifact):
        with pytest.raises(reading):
            read("weights")
    assert list((tmp_path / "cache").glob("artifacts/*/*/current")) == []


@pytest.mark.usefixtures("cloud")
def test_missing_bucket(api: withrun.BaseMlflowApi, bucket: str, tmp_path: Path) -> None:
    """A run in a bucket that does not exist is no empty run: every verb that reads says what is missing."""
    run = remote_run(api, f"{bucket}-not")
    for read in (
        run.list_artifacts,
        lambda: run.list_artifacts("a"),
        run.get_artifact,
        lambda: run.get_artifact("a"),
        lambda: run.export_artifact(tmp_path / "export", "a"),
    ):
        with pytest.raises(BucketNotFound, match=r"the bucket 'errors-not' does not exist"):
            read()


@pytest.mark.usefixtures("cloud")
def test_missing(api: withrun.BaseMlflowApi, bucket: str, tmp_path: Path) -> None:
    """What is not in the bucket is ArtifactNotFound, for every verb that reads."""
    run = remote_run(api, bucket)
    for read in (
        run.get_artifact,
        run.cache_artifact,
        run.list_artifacts,
        lambda path: run.load_artifact(lambda found: found, path),
        lambda path: run.place_artifact(tmp_path / "placed", path),
        lambda path: run.export_artifact(tmp_path / "export", path),
    ):
        with pytest.raises(ArtifactNotFound, match="nothing/here"):
            read("nothing/here")
    assert run.list_artifacts() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("cloud")
def test_full_disk(api: withrun.BaseMlflowApi, bucket: str, tmp_path: Path, small_disk: Path) -> None:
    """A full disk under cache, target or temporary folder is told; nothing half reads as whole."""
    run = remote_run(api, bucket)
    run.log_artifact(lambda path: path.write_bytes(bytes(8 << 20)), "big", use_cache=False)
    run.log_artifact(lambda path: path.write_text("small"), "small")
    with api.model_copy(update={"cache_dir": small_disk / "cache", "temp_artifacts_dir": None}) as cramped:
        there = cramped.get_run(run.id)
        with pytest.raises((CacheError, TransferError), match=r"disk is full|No space left"):
            there.get_artifact("big")
        assert there.get_artifact("small").read_text() == "small"
        with pytest.raises(WithrunError):
            cramped.in_offline_mode.get_run_artifact(there, "big")
        with pytest.raises(OSError, match="No space left") as caught:
            there.log_artifact(lambda path: path.write_bytes(bytes(8 << 20)), "dumped")
        assert "kept" in "".join(getattr(caught.value, "__notes__", []))
        cramped.clean_temp_artifacts()
        big = tmp_path / "big"
        big.write_bytes(os.urandom(8 << 20))
        assert there.log_model_version("m", big, "registered").version == "1"  # its copy fills the disk
        assert there.get_artifact("small").read_text() == "small"
    with pytest.raises(TransferError, match="No space left"):
        run.place_artifact(small_disk / "placed", "big", link=False)
    assert not (small_disk / "placed").exists()
    with pytest.raises(CacheError, match="No space left"):
        run.export_artifact(small_disk / "export", "big")
    assert run.place_artifact(tmp_path / "placed", "big", link=False).stat().st_size == 8 << 20


def test_target_is_taken(api: withrun.BaseMlflowApi, tmp_path: Path) -> None:
    """A target that exists is kept, unless `overwrite` says otherwise; so is a target below a file."""
    run = api.create_run(api.get_or_create_exp("errors"))
    run.log_artifact(lambda path: path.write_text("new"), "a")
    target = tmp_path / "target"
    target.write_text("old")
    for kind in (TargetExists, AlreadyExists, FileExistsError, WithrunError):
        with pytest.raises(kind, match="overwrite=True"):
            run.place_artifact(target, "a")
    assert target.read_text() == "old"
    for below in (target / "x", target / "x" / "y"):
        with pytest.raises(TransferError):
            run.place_artifact(below, "a")
    assert run.place_artifact(target, "a", overwrite=True, link=False).read_text() == "new"


@pytest.mark.usefixtures("cloud")
def test_source_in_the_cache(api: withrun.BaseMlflowApi, bucket: str, tmp_path: Path) -> None:
    """A file of the cache is no source; a placed copy is."""
    run = remote_run(api, bucket)
    run.log_artifact(lambda path: path.write_text("x"), "a")
    with pytest.raises(CacheError, match="Place or export"):
        run.log_artifact(run.get_artifact("a"), "b")
    with pytest.raises(CacheError, match="Place or export"):
        run.log_model_version("m", run.get_artifact("a"))
    run.log_artifact(run.place_artifact(tmp_path / "placed", "a", link=False), "b")
    assert run.get_artifact("b").read_text() == "x"


def test_options_need_no_server(api: withrun.BaseMlflowApi, tmp_path: Path) -> None:
    """Options that do online do offline: a source that may become a link stays itself while it waits."""
    source = tmp_path / "weights"
    source.write_text("mine")
    with (
        api.model_copy(update={"offline_mode": True}) as offline,
        offline.start_run(offline.get_or_create_exp("errors")) as run,
    ):
        run.log_artifact(source, allow_duplication=False)
        run.log_artifact(source, "kept", keep_the_source=True, allow_duplication=False)
        run.log_model_version("m", source, "version", allow_duplication=False)
        assert not source.is_symlink()
        with pytest.raises(InvalidArgument, match="contradict"):
            run.log_artifact(source, allow_duplication=False, use_cache=False)
        assert run.load_artifact(Path.read_text, "weights") == "mine"


def test_contradictory_options(api: withrun.BaseMlflowApi, tmp_path: Path) -> None:
    """Options that exclude one another are refused before a callback is called."""
    run = api.create_run(api.get_or_create_exp("errors"))
    called: list[Path] = []
    with pytest.raises(InvalidArgument, match="contradict"):
        run.log_artifact(called.append, "a", keep_the_source=True, allow_duplication=False, use_cache=False)
    assert called == []
