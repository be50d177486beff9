"""`pull_artifacts_in_offline_mode`: no tracking server, and artifacts all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

import withrun
from tests.s3 import s3_server
from withrun.errors import ArtifactNotFound, OfflineError


def test_artifacts_come_from_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, cached metadata say where an artifact lies; it is pulled only if that is allowed."""
    with s3_server(tmp_path / "s3") as s3:
        for name, value in s3.env.items():
            monkeypatch.setenv(name, value)
        conf = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "cache_dir": tmp_path / "cache"}
        with withrun.get_api(conf=conf) as api:
            run = api.create_run(api.get_or_create_exp("e"), repo=s3.bucket("offline"))
            run.log_artifact(lambda path: path.write_text("a"), "folder/a.txt", use_cache=False)
            version = run.log_model_version("m", lambda path: path.write_text("w"), use_cache=False)
            version.export_meta(tmp_path / "export")
            version.cache_meta()
            offline = api.in_offline_mode
            pulling = api.model_copy(update={"offline_mode": True, "pull_artifacts_in_offline_mode": True})
        (tmp_path / "mlflow.db").unlink()

        with pytest.raises(OfflineError, match="pull_artifacts_in_offline_mode"):
            offline.get_run_artifact(run.id, "folder/a.txt")
        assert pulling.get_run_artifact(run.id, "folder/a.txt").read_text() == "a"
        assert [meta.Name for meta in pulling.list_run_artifacts(run.id, "folder")] == ["a.txt"]
        with pytest.raises(ArtifactNotFound):
            pulling.get_run_artifact(run.id, "nothing")
        assert offline.get_run_artifact(run.id, "folder/a.txt").read_text() == "a"  # it is cached now

        conf = {"cache_dir": tmp_path / "export", "pull_artifacts_in_offline_mode": True}
        generic = withrun.get_api("generic", conf=conf)
        assert generic.load_model_artifact(("m", "1"), Path.read_text) == "w"
        with pytest.raises(OfflineError):
            generic.log_run_artifact(run.id, tmp_path / "mlflow.db")
        with pytest.raises(OfflineError):
            generic.get_run(run.id, force_cache_refresh=True)
    assert not (tmp_path / "mlflow.db").exists()
    assert generic.load_model_artifact(("m", "1"), Path.read_text) == "w"
