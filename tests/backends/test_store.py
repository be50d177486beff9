"""StoreBackend where it differs from a server: files, folders, processes, MLflow's side effects."""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.servers import clean_env
from withrun.backend import KeyValue, Metric
from withrun.errors import InvalidArgument, ServerError, ServerUnreachable, WithrunError
from withrun.providers.mlflow.store import StoreBackend

SCRIPT = """
import sys, os, threading
from withrun.providers.mlflow.store import StoreBackend
from withrun.backend import Metric
"""


def _python(code: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + code],
        cwd=cwd,
        env=clean_env(**env),
        capture_output=True,
        text=True,
        check=True,
    )


def _create_and_log(uri: str) -> str:
    backend = StoreBackend(uri)
    run_id = backend.create_run("0", run_name="r", start_time=1).run_id
    backend.log_batch(run_id, metrics=(Metric("m", 1.0),))
    return run_id


def test_artifacts_lie_beside_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is taken from the folder at construction; artifacts lie beside the database."""
    monkeypatch.chdir(tmp_path)
    backend = StoreBackend("sqlite:///some/new folder/mlflow.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / "some/new folder"
    root = (folder / "mlartifacts").as_uri()
    assert backend.get_experiment("0").artifact_location == f"{root}/0"
    experiment = backend.create_experiment("e")
    assert backend.get_experiment(experiment).artifact_location == f"{root}/{experiment}"
    run = backend.create_run(experiment, run_name="r", start_time=1)
    assert run.artifact_uri == f"{root}/{experiment}/{run.run_id}/artifacts"
    assert backend.store_uri == f"sqlite:///{folder}/mlflow.db"
    assert {path.name for path in folder.iterdir()} <= {"mlflow.db", "mlartifacts"}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_mlflow_sees_the_same(tmp_path: Path) -> None:
    """MLflow's own client, opening the same URI, reads runs and finds their artifacts."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = _create_and_log(uri)
    client = MlflowClient(uri, uri)
    assert client.get_run(run_id).data.metrics == {"m": 1.0}
    client.log_text(run_id, "hello", "a.txt")
    (written,) = tmp_path.rglob("a.txt")
    assert written.is_relative_to(tmp_path / "mlartifacts/0")


@pytest.mark.parametrize(
    "folder",
    ["it's q\"q #x:y;z=&", "ünïcode 😀", "p%41q %", "-$(touch x)`a`"],
)
def test_odd_paths(tmp_path: Path, folder: str) -> None:
    """A path with odd characters names the same file here and for MLflow, and makes no other folder."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/{folder}/x.db"
    backend = StoreBackend(uri)
    run_id = backend.create_run("0", run_name="r", start_time=1).run_id
    assert len(list(tmp_path.iterdir())) == 1
    assert MlflowClient(uri, uri).get_run(run_id).info.artifact_uri == backend.get_run(run_id).artifact_uri
    assert StoreBackend(backend.store_uri).store_uri == backend.store_uri


@pytest.mark.parametrize("scheme", ["sqlite:///", "file://"])
def test_spellings_of_a_path(scheme: str, tmp_path: Path) -> None:
    """Doubled slashes, `.` and `..` name the store as its plain path does; a link to it stays a name."""
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    plain = StoreBackend(f"{scheme}{tmp_path}/real/x.db").store_uri
    for spelling in ("real//x.db", "real/./x.db", "real/a/../x.db", "link/../x.db"):
        assert StoreBackend(f"{scheme}{tmp_path}/{spelling}").store_uri == plain
    assert "link" in StoreBackend(f"{scheme}{tmp_path}/link/x.db").store_uri


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x.db", "", "file:"]
)
def test_no_store(uri: str) -> None:
    """A URI that names nothing that could keep runs is refused at once."""
    with pytest.raises(InvalidArgument, match="sqlite:///PATH"):
        StoreBackend(uri)


def test_no_database(tmp_path: Path) -> None:
    """What is no database, or can't be made one, is a clear error and stays as it is."""
    text = tmp_path / "text"
    text.write_text("no database, but long enough to be read as one" * 100)
    for path, error in ((text, ServerError), (tmp_path, ServerError), (text / "x.db", ServerUnreachable)):
        with pytest.raises(error) as caught:
            StoreBackend(f"sqlite:///{path}").server_info()
        assert str(path) in str(caught.value)
    assert text.read_text().startswith("no database")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    """A new database in a folder that can't be written to is ServerUnreachable."""
    tmp_path.chmod(0o500)
    with pytest.raises(ServerUnreachable, match="written"):
        StoreBackend(f"sqlite:///{tmp_path}/x.db").server_info()


def test_file_store(tmp_path: Path) -> None:
    """A folder store works where MLflow allows it, and else fails with MLflow's own way out."""
    refused = _python(
        "try: StoreBackend('runs').server_info()\nexcept Exception as e: print(type(e).__name__, e)", tmp_path
    )
    if refused.stdout:
        assert "ServerError" in refused.stdout
        assert "migrate" in refused.stdout
    code = (
        "b = StoreBackend('runs'); run = b.create_run('0', run_name='r', start_time=1);"
        "print(b.get_run(run.run_id).run_name)"
    )
    assert _python(code, tmp_path, MLFLOW_ALLOW_FILE_STORE="true").stdout.strip() == "r"


def test_unreachable_database() -> None:
    """A database server that can't be reached is named without its password, and not tried for an hour."""
    backend = StoreBackend("postgresql://me:s3cr3t@127.0.0.1:1/x")
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1") as caught:
        backend.server_info()
    assert "s3cr3t" not in str(caught.value) + repr(backend) + backend.store_uri


def test_nothing_on_the_side(tmp_path: Path) -> None:
    """First use prints nothing, and leaves environment, globals, logging and the current folder alone."""
    code = """
import logging
b = StoreBackend("sqlite:///db/x.db")
import mlflow
levels = {n: (l.level, l.handlers) for n, l in logging.root.manager.loggerDict.items() if hasattr(l, "level")}
env = dict(os.environ); root = (logging.root.level, list(logging.root.handlers))
r = b.create_run("0", run_name=None, start_time=1)
b.update_run(r.run_id, status="FINISHED")
b.search_versions()
after = {n: (l.level, l.handlers) for n, l in logging.root.manager.loggerDict.items() if n in levels}
assert all(after[n] == levels[n] for n in levels), [n for n in levels if after[n] != levels[n]]
assert (logging.root.level, list(logging.root.handlers)) == root
assert dict(os.environ) == env
assert not mlflow.tracking.is_tracking_uri_set() and mlflow.active_run() is None
"""
    done = _python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["db"]
    assert {path.name for path in (tmp_path / "db").iterdir()} <= {"x.db", "mlartifacts"}


def test_threads_on_a_new_database(tmp_path: Path) -> None:
    """Eight backends in eight threads that open one new database at once all work."""
    uri = f"sqlite:///{tmp_path}/x.db"
    barrier, runs = threading.Barrier(8), []

    def work() -> None:
        barrier.wait()
        runs.append(_create_and_log(uri))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(runs)) == 8


@pytest.mark.slow
def test_processes_on_a_new_database(tmp_path: Path) -> None:
    """Four processes that open one new database at once all work, and leave no lock file."""
    uri = f"sqlite:///{tmp_path}/x.db"
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = list(pool.map(_create_and_log, [uri] * 4))
    assert {r.run_id for r in StoreBackend(uri).search_runs(("0",)).items} == set(runs)
    assert {path.name for path in tmp_path.iterdir()} <= {"x.db", "mlartifacts"}


def test_fork(tmp_path: Path) -> None:
    """A forked child uses the inherited backend on connections of its own, and the parent goes on."""
    code = """
b = StoreBackend("sqlite:///x.db")
r = b.create_run("0", run_name="r", start_time=1).run_id
pids = []
for i in range(3):
    if (pid := os.fork()) == 0:
        b.log_batch(r, metrics=(Metric(f"child{i}", 1.0),))
        os._exit(0)
    pids.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
b.log_batch(r, metrics=(Metric("parent", 1.0),))
print(*sorted(m.key for m in b.get_run(r).metrics))
"""
    assert _python(code, tmp_path).stdout.split() == ["child0", "child1", "child2", "parent"]


def test_closed(tmp_path: Path) -> None:
    """After `close` a call is an error that says so, and another backend on the database goes on."""
    uri = f"sqlite:///{tmp_path}/x.db"
    one, other = StoreBackend(uri), StoreBackend(uri)
    run_id = one.create_run("0", run_name="r", start_time=1).run_id
    other.get_run(run_id)
    one.close()
    with pytest.raises(InvalidArgument, match="closed"):
        one.get_run(run_id)
    assert other.get_run(run_id).run_id == run_id


def test_unknown_scheme() -> None:
    """A scheme that no MLflow store has is an error that names the URI without credentials."""
    backend = StoreBackend("nonsense://me:s3cr3t@host/x")
    with pytest.raises(WithrunError, match="nonsense://host/x") as caught:
        backend.server_info()
    assert "s3cr3t" not in str(caught.value)


def test_infinity_and_the_largest_float(tmp_path: Path) -> None:
    """The store keeps the largest float for an infinity; what reads back is the infinity."""
    backend = StoreBackend(f"sqlite:///{tmp_path}/x.db")
    run_id = backend.create_run("0", run_name="r", start_time=1, tags=(KeyValue("t", "v"),)).run_id
    backend.log_batch(run_id, metrics=(Metric("m", -math.inf),))
    assert backend.get_run(run_id).metrics[0].value == -math.inf
