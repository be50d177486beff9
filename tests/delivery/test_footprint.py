"""What logging takes and leaves: threads, descriptors, memory; and no credentials anywhere."""

from __future__ import annotations

import base64
import gc
import logging
import os
import pickle
import threading
import urllib.parse
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.delivery import program
from tests.faultproxy import Fault, FaultProxy
from tests.servers import MlflowServer
from withrun.errors import WithrunError
from withrun.journal import RunLog

from .conftest import MakeApi, journals

pytestmark = pytest.mark.slow

RUNS = 1_000


def test_a_thousand_open_runs(tmp_path: Path) -> None:
    """The thousandth open run takes no more threads and descriptors than the first, and little memory.

    Offline, so that what is measured is withrun and no database: the journal is the same one.
    """
    code = f"""
        import gc
        import psutil

        exp = api.get_or_create_exp("many")
        process = psutil.Process()

        def log(run):
            run.log_param("a", 1)
            for step in range(20):
                run.log_metric("m", 1.0, step)
            run.set_tag("t", "x")

        runs = []
        for number in range({RUNS}):
            run = api.start_run(exp, f"run-{{number}}", parent=runs[0] if runs else None)
            log(run)
            runs.append(run)
            if number in (99, {RUNS} - 1):
                gc.collect()
                say(process.num_threads(), process.num_fds(), process.memory_info().rss >> 10)
        for run in runs:
            log(run)
        gc.collect()
        say(process.num_threads(), process.num_fds(), process.memory_info().rss >> 10)
    """
    code_, out, err = program.run(
        code, f"sqlite:///{tmp_path}/mlflow.db", "", tmp_path / "journal", offline_mode=True
    )
    assert code_ == 0, err
    few, many, later = ([int(word) for word in line.split()] for line in out.splitlines())
    assert few[:2] == many[:2] == later[:2]
    per_run = (many[2] - few[2]) / (RUNS - 100)
    assert per_run < 32, f"{per_run:.1f} KiB a run"
    assert later[2] - many[2] < 8 << 10  # logging 21 more values to each: a segment or two


def test_runs_come_and_go(server: MlflowServer, open_api: MakeApi, client: Any, exp_id: str) -> None:
    """After 50 runs on a server, threads and descriptors are as after ten, and nothing of them is held."""
    api = open_api(server.url)
    exp = api.get_exp(exp_id)
    process = psutil.Process()
    held = sum(isinstance(thing, RunLog) for thing in gc.get_objects())

    def some(count: int) -> tuple[int, int]:
        with api.start_run(exp) as parent:
            for _ in range(count):
                with parent.start_child() as child:
                    child.log_metrics({"a": 1.0, "b": 2.0})
        gc.collect()
        return threading.active_count(), process.num_fds()

    threads, descriptors = some(10)
    again, descriptors_again = some(50)
    assert again <= threads
    assert descriptors_again <= descriptors
    assert sum(isinstance(thing, RunLog) for thing in gc.get_objects()) <= held + 5
    assert len(client.search_runs([exp_id], max_results=1000)) == 62


def test_no_thread_is_left(server: MlflowServer, open_api: MakeApi, exp_id: str) -> None:
    """An API that is closed leaves no thread of its own and no journal."""
    before = set(threading.enumerate())
    for _ in range(5):
        with open_api(server.url) as api:
            with api.start_run(exp_id) as run:
                run.log_metric("m", 1.0)
            folder = api.journal_dir
    assert {
        thread.name for thread in set(threading.enumerate()) - before if "withrun" in thread.name
    } == set()
    assert folder is not None
    assert journals(folder) == []


SECRETS = ("s3cr3t-word", "s3cr3t-token", "s3cr3t-header")


def spellings(secret: str) -> list[str]:
    """How a secret may be written."""
    encoded = [
        base64.b64encode(f"user:{secret}".encode()).decode(),
        base64.b64encode(secret.encode()).decode(),
    ]
    return [secret, urllib.parse.quote(secret), *(text.rstrip("=") for text in encoded)]


@pytest.mark.parametrize("way", ["url and headers", pytest.param("token", marks=pytest.mark.slow)])
def test_credentials_stay_out_of_everything(
    way: str,
    proxy: FaultProxy,
    open_api: MakeApi,
    exp_id: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No password, token or header is in a journal, in what was refused, in a log, an error or a pickle."""
    host = proxy.url.removeprefix("http://")
    settings: dict[str, Any] = {"timeout": 5.0, "retries": 0}
    uri = proxy.url
    if way == "token":
        settings["token"] = SECRETS[1]
    else:
        uri = f"http://user:{SECRETS[0]}@{host}"
        settings["headers"] = {"X-Key": SECRETS[2]}
    source = tmp_path / "source.txt"
    source.write_text("an artifact")
    caplog.set_level(logging.DEBUG, "withrun")
    api = open_api(uri, client_settings=settings, exit_timeout=0.2, connect_timeout=0.3)
    texts: list[str] = []

    def tell(error: BaseException | None) -> None:
        while error is not None:
            texts.append(f"{error} {error!r} {error.args!r}")
            error = error.__cause__ or error.__context__

    run = api.start_run(exp_id)
    run.log_metric("m", 1.0)
    run.log_artifact(source, "files/test.py")
    run.flush()
    # Refused for good, then by no server, then by one that wants other credentials.
    run.log_param("lr", 1, synchronous=True)
    other = api.get_run(run.id)
    other.log_param("lr", 2)
    for fault in (None, Fault(reset=True), Fault(status=401)):
        proxy.always(fault)
        run.log_metric("m", 1.0, 1)
        for call in (
            lambda: run.flush(0.3),
            lambda: run.log_metric("m", 1.0, 2, synchronous=True),
            lambda: api.get_run(run.id),
            lambda: api.start_run(exp_id).end_run(),
            lambda: run.log_artifact(source, "files/other.py"),
        ):
            try:
                call()
            except (WithrunError, TimeoutError) as error:
                tell(error)
    run.end_run()
    texts += [
        repr(api),
        repr(run),
        repr(run.delivery),
        repr(api.services.writes.journal),
        str(pickle.dumps(run)),
    ]
    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".seg" for path in everything)
    assert any(path.suffix == ".jsonl" for path in everything)
    texts += [str(path) for path in everything]
    texts += [path.read_bytes().decode("latin-1") for path in everything]
    texts += [f"{record.getMessage()} {record.exc_text} {record.args}" for record in caplog.records]
    assert len(texts) > 20
    for secret in SECRETS:
        for spelling in spellings(secret):
            assert [text[:300] for text in texts if spelling in text] == []
    proxy.always(None)
    api.flush(30)


def test_journals_are_private(server: MlflowServer, open_api: MakeApi, exp_id: str, tmp_path: Path) -> None:
    """Nobody but the owner can enter the folders of a journal, whatever the umask."""
    before = os.umask(0)
    try:
        api = open_api(server.url, journal_dir=tmp_path / "new" / "journal")
        with api.start_run(exp_id) as run:
            run.log_metric("m", 1.0)
            [journal] = journals(tmp_path / "new")
            for path in (journal, journal.parent):
                assert path.stat().st_mode & 0o077 == 0, path
            for path in journal.iterdir():
                assert path.is_dir() or path.name == "origin.json" or path.stat().st_mode & 0o077 == 0, path
    finally:
        os.umask(before)
