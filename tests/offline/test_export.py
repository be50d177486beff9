"""What was exported, elsewhere: another folder, no server, no network, and no right to write."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import withrun
from tests.servers import MlflowServer, clean_env

MOMENT = dt.datetime(2024, 2, 29, 12, 30, 15, 123456, dt.timezone(dt.timedelta(hours=5, minutes=30)))
PARAMS = {
    "lr": 0.1,
    "number like": "1",
    "opt": {"name": "adam", "betas": [0.9, 0.999], "none": None, "on": True},
    "odd": {"nan": math.nan, "inf": math.inf, "when": MOMENT, "empty": {}, "list": [{"a": [1]}]},
    "long": "x" * 20_000,
}

SERVE = """
import json, os, sys
def forbid(event, args):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.fork"):
        raise PermissionError(event)
sys.addaudithook(forbid)
import withrun
api = withrun.get_api("generic", conf={"cache_dir": sys.argv[1]})
name, run_id = sys.argv[2:]
version = api.get_model_version((name, "@best"))
run = api.get_run(run_id)
print(json.dumps({
    "weights": version.load_artifact(lambda path: (path / "weights").read_text()),
    "by number": str(api.get_model_artifact((name, "1")).relative_to(sys.argv[1])),
    "file": run.get_artifact("notes/a.txt").read_text(),
    "found": [r.id for r in api.find_runs({"metrics.loss": {"$lt": 0.3}, "params.opt.name": "adam"})],
    "versions": [v.version for v in run.find_model_versions()],
    "when": run.params["odd"]["when"].isoformat(),
    "url": version.url,
    "forbidden": sorted({"mlflow", "httpx", "httpcore", "pandas", "numpy", "rich"} & set(sys.modules)),
}))
"""


@pytest.fixture(scope="module")
def exported(
    server: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[withrun.RunApi, withrun.ModelVersionApi, Path]]:
    """A run and a version of it, and the folder that they were exported to."""
    folder = tmp_path_factory.mktemp("export")
    conf = {"tracking_uri": server.url, "cache_dir": folder / "cache"}
    with withrun.get_api(conf=conf) as api:
        with api.start_run(api.get_or_create_exp("exported"), tags={"team": {"x": 1}}) as run:
            run.log_params(PARAMS).log_metrics({"loss": 0.25, "a": {"nan": math.nan, "inf": -math.inf}})
            run.log_artifact(lambda path: path.mkdir() or (path / "a.txt").write_text("a"), "notes")
            version = run.log_model_version(
                "exported", lambda path: path.mkdir() or (path / "weights").write_text("w"), "model"
            )
        version.set_alias("best")
        run.update()
        name = version.model.name
        target = folder / "target"
        api.export_model_version_meta((name, "@best"), target)
        version.export_artifact(target)
        run.export_artifact(target, "notes")
        run.export_meta(target)
        run.exp.export_meta(target)
        version.model.export_meta(target)
        yield run, version, target


@pytest.fixture
def elsewhere(exported: tuple[withrun.RunApi, withrun.ModelVersionApi, Path], tmp_path: Path) -> Path:
    """A copy of the export by a tool that knows no links."""
    return Path(shutil.copytree(exported[2], tmp_path / "moved", symlinks=False))


def test_nothing_is_lost(
    exported: tuple[withrun.RunApi, withrun.ModelVersionApi, Path], elsewhere: Path
) -> None:
    """Every field of every entity comes back equal and of the same type, NaN and long values among them."""
    run, version, _ = exported
    api = withrun.get_api("generic", conf={"cache_dir": elsewhere})
    again = api.get_run(run.id)
    for field in type(run).model_fields:
        ours, theirs = getattr(run, field), getattr(again, field)
        if field == "exp":
            ours, theirs = ours.model_dump(), theirs.model_dump()
        assert repr(theirs) == repr(ours), field
    assert again.params["long"] == PARAMS["long"]
    assert again.params["odd"]["when"] == MOMENT
    assert type(again.params["number like"]) is str
    assert math.isnan(again.metrics["a"]["nan"])
    there = api.get_model_version((version.model.name, version.version))
    assert (there.path_in_run, there.source, there.tags) == (
        version.path_in_run,
        version.source,
        version.tags,
    )
    assert there.run is not None
    assert there.run.id == run.id
    assert api.get_exp(run.exp.id).name == run.exp.name
    assert api.get_model(version.model.name).tags == version.model.tags


def test_served_without_network(
    exported: tuple[withrun.RunApi, withrun.ModelVersionApi, Path], elsewhere: Path
) -> None:
    """A process that may open no connection and start no other serves all of it, without importing MLflow."""
    run, version, _ = exported
    arguments = [str(elsewhere), version.model.name, run.id]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *arguments],
        env=clean_env(HOME=str(elsewhere.parent / "home")),
        cwd=elsewhere.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.pop("by number").startswith("artifacts/")
    assert said.pop("url").endswith(f"#/models/{version.model.name}/versions/1")
    assert dt.datetime.fromisoformat(said.pop("when")) == MOMENT
    assert said == {
        "weights": "w",
        "file": "a",
        "found": [run.id],
        "versions": ["1"],
        "forbidden": [],
    }


def test_served_from_a_read_only_folder(
    exported: tuple[withrun.RunApi, withrun.ModelVersionApi, Path], elsewhere: Path, tmp_path: Path
) -> None:
    """An export in a folder that nobody may write to (an image's layer) is served, placed and searched."""
    mount = ["mount", "--bind", str(elsewhere), str(elsewhere)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("making a folder read-only for root needs a mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(elsewhere)], check=True)
        _, version, _ = exported
        api = withrun.get_api("generic", conf={"cache_dir": elsewhere})
        key = (version.model.name, "1")
        assert api.load_model_artifact(key, lambda path: (path / "weights").read_text()) == "w"
        assert (api.place_model_artifact(key, tmp_path / "placed") / "weights").read_text() == "w"
        assert [v.version for v in api.find_model_versions({"model.name": version.model.name})] == ["1"]
        api.export_model_artifact(key, tmp_path / "again")
        with pytest.raises(withrun.errors.OfflineError, match="anew"):
            api.cache_model_artifact(key)
    finally:
        subprocess.run(["umount", str(elsewhere)], check=True)
