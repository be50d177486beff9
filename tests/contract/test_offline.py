"""What was cached or exported, read without a server: by an offline copy, and by the generic plugin."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import withrun
from tests.contract.conftest import Reader
from withrun import BaseMlflowApi, ExpApi, GenericMlflowApi, RunApi
from withrun.errors import ArtifactNotCached, ArtifactNotFound, InvalidArgument, NotFound, OfflineError


def keep(reader: Reader, handle: Any) -> None:
    """Cache or export a handle's metadata, for the reader to find."""
    if reader.target is None:
        assert handle.cache_meta() is handle
    else:
        assert handle.export_meta(reader.target).is_file()


def test_metadata(reader: Reader, api: BaseMlflowApi, name: str, run: RunApi, folder: Path) -> None:
    """Entities of every kind read offline as they read online, and are found by queries."""
    run.log_params({"a": {"b": [1, None]}}).log_metrics({"m": 2.5}).set_tags({"t": "x"})
    version = api.log_model_version(name, run, folder, tags={"v": 1})
    for handle in (run.exp, run, version.model, version):
        keep(reader, handle)
    offline = reader.api
    fields = set(type(run).model_fields) - {"exp"}
    online = api.get_run(run.id)
    read = offline.get_run(run.id)
    assert {f: getattr(read, f) for f in fields} == {f: getattr(online, f) for f in fields}
    assert read.exp.name == name
    assert offline.get_exp(run.exp.id).name == name
    assert offline.get_model(name).name == name
    read_version = offline.get_model_version((name, "1"))
    assert (read_version.tags, read_version.path_in_run) == ({"v": 1}, name)
    assert read_version.run is not None
    assert read_version.run.id == run.id
    assert [r.id for r in offline.find_runs({"exp.id": run.exp.id, "params.a.b": 1})] == [run.id]
    assert [v.version for v in offline.find_model_versions({"model.name": name})] == ["1"]
    assert [m.name for m in offline.find_models({"name": name})] == [name]
    assert [e.id for e in offline.find_exps({"name": name})] == [run.exp.id]


def test_artifacts(reader: Reader, api: BaseMlflowApi, name: str, run: RunApi, folder: Path) -> None:
    """A version that was cached, or exported, is served offline: got, loaded and placed."""
    version = api.log_model_version(name, run, folder)
    if reader.target is None:
        with api.model_copy(update={"cache_local_artifacts": True}) as caching:
            caching.get_model_version(version).cache()
        offline = caching.in_offline_mode
    else:
        version.export(reader.target)
        offline = reader.api
    assert (offline.get_model_artifact((name, "1")) / "sub" / "b ü.txt").read_text() == "b"
    placed = offline.place_model_artifact((name, "1"), folder.parent / "placed", link=False)
    assert (placed / "a.txt").read_text() == "a"
    assert offline.get_model_version((name, "1")).load_artifact(lambda p: (p / "a.txt").read_text()) == "a"


def test_versions_by_alias(api: BaseMlflowApi, name: str, run: RunApi, folder: Path, tmp_path: Path) -> None:
    """What is cached or exported of a version by its alias, by whichever verb, is found by that offline."""
    api.log_model_version(name, run, folder).set_alias("ch")
    key = (name, "@ch")
    exports: list[Callable[[BaseMlflowApi, Path], object]] = [
        lambda a, at: a.export_model_artifact(key, at),
        lambda a, at: a.get_model_version(key).export(at),
        lambda a, at: a.get_model(name).get_version("@ch").export_artifact(at),
        lambda a, at: a.get_model_version(key).update().export_meta(at),
        lambda a, _: a.cache_model_artifact(key),
        lambda a, _: a.get_model_version(key).cache(),
    ]
    for number, keep_it in enumerate(exports):
        at = tmp_path / str(number)
        with api.model_copy(update={"cache_dir": at / "cache", "cache_local_artifacts": True}) as caching:
            keep_it(caching, at)
        generic = GenericMlflowApi(cache_dir=at if (at / "metadata").exists() else at / "cache")
        assert generic.get_model_version(key).version == "1", number
        with pytest.raises(OfflineError, match="alias"):
            generic.get_model_version((name, "@other"))


def test_an_alias_that_moved(
    api: BaseMlflowApi, name: str, run: RunApi, folder: Path, tmp_path: Path
) -> None:
    """Offline, an alias names what it named when it was asked for last, whatever is cached after."""
    for number in ("1", "2"):
        api.log_model_version(name, run, folder, f"v{number}")
    with api.model_copy(update={"cache_dir": tmp_path, "cache_local_artifacts": True}) as caching:
        offline = GenericMlflowApi(cache_dir=tmp_path)
        key = (name, "@ch")

        def named() -> str:
            return offline.get_model_version(key).version

        caching.get_model_version((name, "1")).set_alias("ch")
        old = caching.get_model_version(key)
        caching.get_model_version((name, "2")).set_alias("ch")
        caching.cache_model_version_meta(key)
        old.cache()
        old.cache_meta()
        assert named() == "2"
        caching.get_model_version((name, "1")).set_alias("ch")
        caching.get_model_version(key).cache()
        assert named() == "1"
        caching.get_model_version((name, "2")).set_alias("ch")
        caching.cache_model_artifact(key)
        assert named() == "2"


def test_what_an_export_does_not_hold(
    api: BaseMlflowApi, name: str, run: RunApi, folder: Path, tmp_path: Path
) -> None:
    """An export serves what it holds: a path that was a run's is not read, unless pulling is allowed."""
    run.log_artifact(folder, "in").log_artifact(folder, "out")
    local = api.create_run(run.exp, repo=str(tmp_path / "repo")).log_artifact(folder, "out")
    for one in (run, local):
        one.export_meta(tmp_path / "export")
    run.export_artifact(tmp_path / "export", "in")
    generic = GenericMlflowApi(cache_dir=tmp_path / "export")
    for one in (run, local):
        for read in (generic.get_run_artifact, generic.list_run_artifacts):
            with pytest.raises(ArtifactNotCached, match="not in the cache"):
                read(one.id, "out")
    pulling = GenericMlflowApi(cache_dir=tmp_path / "export", pull_artifacts_in_offline_mode=True)
    assert (pulling.get_run_artifact(local.id, "out") / "a.txt").read_text() == "a"
    shutil.rmtree(tmp_path / "repo")
    with pytest.raises(ArtifactNotCached, match="not on this machine"):
        pulling.get_run_artifact(local.id, "out")


def test_lists_what_it_gets(api: BaseMlflowApi, exp: ExpApi, folder: Path, tmp_path: Path) -> None:
    """Offline a cached artifact is listed as it is got, though pulling is allowed and the repo is gone."""
    run = exp.create_run(repo=str(tmp_path / "repo")).log_artifact(folder, "x")
    run.export_meta(tmp_path / "export")
    run.export_artifact(tmp_path / "export", "x")
    shutil.rmtree(tmp_path / "repo")
    for pull in (True, False):
        generic = GenericMlflowApi(cache_dir=tmp_path / "export", pull_artifacts_in_offline_mode=pull)
        assert {o.Name for o in generic.list_run_artifacts(run.id, "x")} == {"a.txt", "sub"}  # type: ignore[union-attr]


def test_what_is_not_there(reader: Reader, exp: ExpApi, name: str) -> None:
    """What was not cached is both an OfflineError and NotFound, and says how to have it."""
    offline = reader.api
    for call in (
        lambda: offline.get_exp("987654"),
        lambda: offline.get_run("0" * 32),
        lambda: offline.get_model(name),
        lambda: offline.get_model_version((name, "1")),
    ):
        for kind in (OfflineError, NotFound):
            with pytest.raises(kind, match="offline"):
                call()


def test_what_needs_the_server(reader: Reader, exp: ExpApi, name: str) -> None:
    """What needs the server's word raises OfflineError at once."""
    keep(reader, exp)
    offline = reader.api
    for call in (
        lambda: offline.create_exp(name),
        lambda: offline.create_model(name),
        lambda: offline.get_exp(exp.id, force_cache_refresh=True),
        lambda: offline.cache_exp_meta(exp),
        lambda: offline.set_tags_on_exp(exp, {"a": 1}),
        lambda: offline.get_model_version((name, "@champion")),
    ):
        with pytest.raises(OfflineError):
            call()


def test_using_another_api(api: BaseMlflowApi, run: RunApi, folder: Path) -> None:
    """`using(api)` is the same run behind another API, equal and with its fields."""
    run.log_artifact(folder / "a.txt")
    with api.model_copy(update={"cache_local_artifacts": True}) as caching:
        there = run.using(caching)
        assert (there, there.api) == (run, caching)
        there.cache_artifact("a.txt")
        offline = run.using(caching.in_offline_mode)
    assert offline.get_artifact("a.txt").read_text() == "a"
    with pytest.raises(OfflineError):
        offline.list_artifacts()
    with pytest.raises(ArtifactNotFound):
        offline.get_artifact("other.txt")


def test_cleaning(api: BaseMlflowApi, exp: ExpApi, tmp_path: Path) -> None:
    """`clean_all_cache` forgets metadata and artifacts, and nothing of what was exported."""
    with api.model_copy(update={"cache_dir": tmp_path / "cache"}) as own:
        mine = own.get_exp(exp.id).cache_meta()
        exported = mine.export_meta(tmp_path / "export")
        assert own.in_offline_mode.get_exp(exp.id) == exp
        own.clean_all_cache()
        with pytest.raises(OfflineError):
            own.in_offline_mode.get_exp(exp.id)
    assert exported.is_file()
    assert GenericMlflowApi(cache_dir=tmp_path / "export").get_exp(exp.id).name == exp.name


def test_generic_needs_a_cache() -> None:
    """The generic plugin without a cache folder, or asked to go online, is refused."""
    with pytest.raises(InvalidArgument, match="cache_dir"):
        withrun.get_api("generic")
    with pytest.raises(InvalidArgument, match="offline"):
        withrun.get_api("generic", conf={"cache_dir": "x", "offline_mode": False})


def test_generic_never_imports_mlflow(exp: ExpApi, tmp_path: Path) -> None:
    """An export is served in a process that never imports MLflow."""
    exp.export_meta(tmp_path)
    code = (
        "import sys, withrun\n"
        "api = withrun.get_api('generic', conf={'cache_dir': sys.argv[1]})\n"
        "print(api.get_exp(sys.argv[2]).name)\n"
        "assert not {'mlflow', 'pandas', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), exp.id], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, exp.name), done.stderr
