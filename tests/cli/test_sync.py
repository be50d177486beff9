"""`withrun sync`, run as a user runs it; what it delivers is seen by a plain MLflow client."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import withrun
from tests.faultproxy import Fault, fault_proxy
from tests.servers import MlflowServer, _database_template, clean_env, free_port, mlflow_server

LEAVE = """
import os, sys, time
from pathlib import Path
from withrun.journal import Journal, RunIntent, new_uid
journal = Journal(Path(sys.argv[1]), sys.argv[2])
for number in range(int(sys.argv[3])):
    log = journal.owned.create_locally(RunIntent(new_uid(), sys.argv[4], f"run-{number}", 1_700_000_000_000))
    log.params({"number": str(number)})
    for step in range(50):
        log.metric("loss", step / 7, 1_700_000_000_000 + step, step)
    log.status("FINISHED", 1_700_000_100_000)
"""
DIE = "os.kill(os.getpid(), 9)"
LIVE = "print(flush=True); sys.stdin.read()"


@pytest.fixture
def store(tmp_path: Path) -> str:
    database = tmp_path / "mlflow.db"
    shutil.copyfile(_database_template(sys.executable), database)
    return f"sqlite:///{database}"


def leave(folder: Path, uri: str, runs: int = 2, exp: str = "0") -> None:
    """Have a process log without a server, and die."""
    command = [sys.executable, "-c", LEAVE + DIE, str(folder / "journal"), uri, str(runs), exp]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@contextlib.contextmanager
def living(folder: Path, uri: str, runs: int = 2) -> Iterator[subprocess.Popen[str]]:
    """A process that has logged without a server, and lives on."""
    command = [sys.executable, "-c", LEAVE + LIVE, str(folder / "journal"), uri, str(runs), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def command(folder: Path, uri: str | None, *options: str) -> list[str]:
    store = ["--tracking-uri", uri] if uri else []
    return [sys.executable, "-m", "withrun.cli", "sync", "--cache-dir", str(folder), *store, *options]


def sync(folder: Path, uri: str | None, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, uri, *options),
        env=clean_env(**env),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def names(uri: str, exp: str = "0") -> list[str]:
    from mlflow import MlflowClient

    runs = MlflowClient(uri).search_runs([exp])
    assert all(len(MlflowClient(uri).get_metric_history(r.info.run_id, "loss")) == 50 for r in runs)
    return sorted(run.info.run_name for run in runs)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_nothing_to_sync(tmp_path: Path) -> None:
    """With nothing waiting it says so, asks no server, makes no folder, and ends with 0."""
    done = sync(tmp_path, "http://127.0.0.1:1")
    assert (done.returncode, done.stdout.startswith("nothing to sync")) == (0, True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A mistyped --cache-dir is refused: what waits elsewhere must not look delivered."""
    done = sync(tmp_path / "cahce", "http://127.0.0.1:1")
    assert (done.returncode, "cahce" in done.stderr) == (2, True)


@pytest.mark.slow
def test_what_was_left_is_delivered(tmp_path: Path, store: str) -> None:
    """Two dead processes' runs arrive; each gets a line with its IDs, and a second sync has nothing to do."""
    for _ in range(2):
        leave(tmp_path / "cache", store)
    done = sync(tmp_path / "cache", store)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"2 journals, 212 values delivered to {store}"
    assert len(re.findall(r"^run [0-9a-f]{32} is now [0-9a-f]{32}$", done.stdout, re.M)) == 4
    assert names(store) == ["run-0", "run-0", "run-1", "run-1"]
    assert "nothing to sync" in sync(tmp_path / "cache", store).stdout


def test_dry_run(tmp_path: Path) -> None:
    """It lists each journal with host, PID, age, runs, records and size, without a server or a change."""
    uri = f"http://127.0.0.1:{free_port()}"
    leave(tmp_path, uri, 3)
    with living(tmp_path, uri) as process:
        before = state(tmp_path)
        done = sync(tmp_path, uri, "--dry-run")
        assert state(tmp_path) == before
    assert (done.returncode, done.stderr) == (0, "")
    head, dead, alive, total = done.stdout.splitlines()
    assert head.split() == ["STATE", "HOST", "PID", "AGE", "RUNS", "RECORDS", "SIZE", "JOURNAL"]
    assert dead.split()[0] == "waits"
    assert re.search(r" 3 +159 +2\d\d\.\d kB ", dead)
    assert alive.startswith("in use")
    assert re.search(rf" {process.pid} .* 2 +106 ", alive)
    assert total.startswith(f"2 journals of {uri}, 265 records not delivered")


def test_the_server_is_away(tmp_path: Path) -> None:
    """Without a server it fails with one clear line, and all is kept as it was."""
    uri = f"http://127.0.0.1:{free_port()}"
    leave(tmp_path, uri)
    before = state(tmp_path)
    done = sync(tmp_path, uri)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: nothing was delivered")
    assert uri in line
    assert str(tmp_path / "journal") in line
    assert state(tmp_path) == before


@pytest.mark.slow
def test_a_living_process_keeps_its_journal(tmp_path: Path, store: str) -> None:
    """It is named and left, and the exit code tells; what dead ones left is delivered all the same."""
    leave(tmp_path, store, 1)
    with living(tmp_path, store) as process:
        done = sync(tmp_path, store)
        assert done.returncode == 1
        assert f"process {process.pid} on" in done.stdout
        assert "left: 106 records" in done.stdout
        assert names(store) == ["run-0"]
    assert sync(tmp_path, store).returncode == 0
    assert names(store) == ["run-0", "run-0", "run-1"]


@pytest.mark.slow
def test_journals_of_other_stores(tmp_path: Path, store: str) -> None:
    """They are left alone, and a line names each such store."""
    leave(tmp_path, store, 1)
    leave(tmp_path, "https://elsewhere.test", 1)
    for done in (sync(tmp_path, store), sync(tmp_path, store, "--dry-run")):
        assert done.returncode == 0
        assert "1 journal of another store, https://elsewhere.test, waits" in done.stdout
    assert (
        "1 journal of https://elsewhere.test" in sync(tmp_path, "https://elsewhere.test", "--dry-run").stdout
    )


@pytest.mark.slow
def test_what_is_refused(tmp_path: Path, store: str) -> None:
    """What the store will not take is listed in a file that is named; the rest arrives; the code is 1."""
    leave(tmp_path, store, 1)
    leave(tmp_path, store, 1, exp="4711")
    done = sync(tmp_path, store)
    assert done.returncode == 1
    assert "53 values refused, kept in:" in done.stdout
    kept = Path(done.stdout.partition("kept in:")[2].strip().splitlines()[0].strip())
    assert len(kept.read_text().splitlines()) == 53
    assert "Traceback" not in done.stderr
    assert names(store) == ["run-0"]
    assert sync(tmp_path, store).returncode == 0


@pytest.mark.slow
def test_damage_is_told(tmp_path: Path, store: str) -> None:
    """Damaged bytes are told, with the exit code too; what they spare arrives; the next sync ends with 0."""
    from mlflow import MlflowClient

    leave(tmp_path, store, 1)
    [segment] = tmp_path.rglob("*.seg")
    with segment.open("r+b") as file:
        file.seek(segment.read_bytes().index(b"loss"))
        file.write(b"LOSS")
    done = sync(tmp_path, store)
    assert done.returncode == 1
    assert "bytes were damaged: what they said, and nothing else does, is lost" in done.stdout
    assert "Traceback" not in done.stderr
    [run] = MlflowClient(store).search_runs(["0"])
    assert len(MlflowClient(store).get_metric_history(run.info.run_id, "loss")) == 49
    assert sync(tmp_path, store).returncode == 0


@pytest.mark.slow
def test_the_default_store_and_folder(tmp_path: Path, store: str) -> None:
    """Without options it delivers to the store of get_api(), from the user's state folder."""
    leave(tmp_path / "state" / "withrun", store)
    done = subprocess.run(
        [sys.executable, "-m", "withrun.cli", "sync"],
        env=clean_env(WITHRUN_CONF_TRACKING_URI=store, XDG_STATE_HOME=str(tmp_path / "state")),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("the user's state folder is named by XDG_STATE_HOME on Linux alone")
    assert done.returncode == 0, done.stderr
    assert names(store) == ["run-0", "run-1"]


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_watch(tmp_path: Path) -> None:
    """It outlives an absent server, delivers what comes and what comes later, and ends with 0 by Ctrl-C."""
    from mlflow import MlflowClient

    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    leave(tmp_path, uri, 1)
    with subprocess.Popen(
        command(tmp_path, uri, "--watch"),
        env=clean_env(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline().startswith("watching")
        assert watching.stderr.readline().startswith("error: nothing was delivered")
        with mlflow_server(tmp_path / "server", port=port) as server:
            client = MlflowClient(server.store_uri)
            wait_for(lambda: len(client.search_runs(["0"])) == 1)
            leave(tmp_path, uri, 1)
            wait_for(lambda: len(client.search_runs(["0"])) == 2)
            wait_for(lambda: not list((tmp_path / "journal").rglob("lock")))
        os.kill(watching.pid, signal.SIGINT)
        out, err = watching.communicate(timeout=30)
    assert (watching.returncode, err) == (0, "")
    assert out.count("1 journal, 53 values delivered") == 2


def test_ctrl_c(tmp_path: Path, server: MlflowServer) -> None:
    """Interrupted while a request is under way, it says so, and the next sync delivers everything once."""
    from mlflow import MlflowClient

    with fault_proxy(server.url) as proxy:
        exp = MlflowClient(server.url).create_experiment(f"e-{time.time_ns()}")
        leave(tmp_path, proxy.url, 3, exp)
        proxy.times(1, Fault(delay=3.0), path="log-batch")
        with subprocess.Popen(
            command(tmp_path, proxy.url), env=clean_env(), stderr=subprocess.PIPE, text=True
        ) as syncing:
            wait_for(lambda: any("log-batch" in path for _, path in proxy.requests))
            os.kill(syncing.pid, signal.SIGINT)
            _, err = syncing.communicate(timeout=30)
        assert syncing.returncode == 130
        assert err.startswith("interrupted; what is not delivered is kept")
        assert sync(tmp_path, proxy.url).returncode == 0
    assert names(server.url, exp) == ["run-0", "run-1", "run-2"]


def test_options_that_exclude_one_another(tmp_path: Path) -> None:
    """--watch and --dry-run together are refused with the usage."""
    done = sync(tmp_path, None, "--watch", "--dry-run")
    assert (done.returncode, "exclude one another" in done.stderr) == (2, True)


def test_synced_runs_stay_readable_offline(store: str, tmp_path: Path) -> None:
    """The offline API that logged a run finds it after another process delivered it, by either ID, once."""
    from mlflow import MlflowClient

    with withrun.MlflowApi(tracking_uri=store, cache_dir=tmp_path, offline_mode=True) as api:
        with api.start_run(api.get_or_create_exp("fresh"), name="one") as run:
            run.log_param("lr", 0.1)
            run.log_metric("loss", 0.5)
        done = sync(tmp_path, store)
        assert done.returncode == 0, done.stderr
        client = MlflowClient(store)
        [on_server] = client.search_runs([client.get_experiment_by_name("fresh").experiment_id])
        run_id = on_server.info.run_id
        [found] = api.find_runs({"params.lr": 0.1})
        assert (found.id, found.name, found.metrics) == (run_id, "one", {"loss": 0.5})
        assert [api.get_run(each).params for each in (run.id, run_id)] == [{"lr": 0.1}] * 2
        assert api.get_run(run_id).exp.name == "fresh"
