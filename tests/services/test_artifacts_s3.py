"""Publishing to and reading from a remote repo: a real S3 endpoint, reached as users reach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.s3 import s3_server
from tests.services.conftest import MakeService
from withrun.errors import FailedToPublishArtifact
from withrun.schema import Experiment, Run
from withrun.services.artifacts import of_run


def test_remote_repo(make: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a source is published, cached and left alone; what is cached is served without the store."""
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "w.bin").write_bytes(b"w" * 1000)
    (folder / "extra").write_text("x")
    service = make()
    with s3_server(tmp_path / "s3") as s3:
        for name, value in s3.env.items():
            monkeypatch.setenv(name, value)
        url = f"{s3.bucket('bucket')}/0/r/artifacts"
        run = Run(id="r", name="r", exp=Experiment(id="0", name="d"), repo_url=url)
        stored = s3.root / "bucket/0/r/artifacts"

        service.log(run, folder)
        assert (stored / "model/inner/w.bin").read_bytes() == b"w" * 1000
        assert not folder.is_symlink()
        assert (folder / "inner" / "w.bin").stat().st_mode & 0o200
        cached = service.get(of_run(run, "model"))
        assert cached.is_relative_to(tmp_path / "cache")

        # More is published to the folder: the copy is made whole again, from the store.
        service.log(run, lambda path: path.write_text("more"), "model/more")
        other = tmp_path / "other" / "model"
        other.mkdir(parents=True)
        (other / "extra").write_text("y")
        service.log(run, other, allow_duplication=False)
        got = service.get(of_run(run, "model"))
        assert {p.name: p.read_text() for p in got.rglob("*") if p.is_file()} == {
            "w.bin": "w" * 1000,
            "extra": "y",
            "more": "more",
        }
        assert not other.is_symlink()  # the store holds more there: a link would show more than it held

        (tmp_path / "big").write_bytes(b"b" * 100_000)
        service.log(run, tmp_path / "big", allow_duplication=False)
        assert (tmp_path / "big").is_symlink()
        service.log(run, lambda path: path.write_text("dumped"), "d.txt")
        assert (stored / "d.txt").read_text() == "dumped"
        service.place(of_run(run, "d.txt"), tmp_path / "placed")

    assert service.get(of_run(run, "model/inner/w.bin")).read_bytes() == b"w" * 1000
    assert (tmp_path / "placed").read_text() == "dumped"
    with pytest.raises(FailedToPublishArtifact) as caught:
        service.log(run, lambda path: path.write_text("kept"), "x")
    assert caught.value.source.read_text() == "kept"
    service.clean_all()
    assert (tmp_path / "big").read_bytes() == b"b" * 100_000
