"""RestBackend on a real server, where it differs from an embedded store."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.servers import MlflowServer, clean_env, mlflow_server
from withrun.backend import KeyValue, Metric
from withrun.errors import InvalidArgument
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.server_url import parse_server_url


def test_mlflow_is_never_imported(server: MlflowServer) -> None:
    """A whole session on a server imports neither mlflow nor pandas nor numpy."""
    code = f"""
import sys
from withrun.providers.mlflow.rest import RestBackend
from withrun.backend import Metric
b = RestBackend({server.url!r})
b.server_info(), b.grammar
r = b.create_run("0", run_name="r", start_time=1).run_id
b.log_batch(r, metrics=(Metric("m", 1.0),))
b.search_runs(("0",)), b.metric_history(r, "m"), b.search_models(), b.search_versions()
print(sorted(set(sys.modules) & {{"mlflow", "pandas", "numpy", "sqlalchemy"}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_env(), capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_server_info(server: MlflowServer) -> None:
    """The server tells its version, and whether it takes uploads in parts."""
    import mlflow

    info = RestBackend(server.url).server_info()
    assert info.version == mlflow.__version__
    assert not info.multipart_uploads


def test_construction_talks_to_nobody() -> None:
    """Making a backend for a server that isn't there succeeds."""
    assert RestBackend("http://127.0.0.1:1").store_uri == "http://127.0.0.1:1"


def test_threads_share_it(server: MlflowServer) -> None:
    """Eight threads log through one backend, and every point arrives."""
    backend = RestBackend(server.url)
    run_id = backend.create_run("0", run_name="r", start_time=1).run_id

    def work(number: int) -> None:
        for step in range(10):
            backend.log_batch(run_id, metrics=(Metric(f"m{number}", step, step, step),))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert [point.step for point in backend.metric_history(run_id, f"m{number}").items] == list(range(10))


def test_fork(server: MlflowServer) -> None:
    """A forked child gets connections of its own; the parent's stay usable."""
    backend = RestBackend(server.url)
    run_id = backend.create_run("0", run_name="r", start_time=1).run_id
    client = backend.http
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            backend.log_batch(run_id, tags=(KeyValue("child", "yes"),))
            code = 0 if backend.http is not client else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    backend.log_batch(run_id, tags=(KeyValue("parent", "yes"),))
    assert {"child", "parent"} <= {tag.key for tag in backend.get_run(run_id).tags}
    assert backend.http is client


def test_static_prefix(tmp_path: Path, server: MlflowServer) -> None:
    """The path of the URL stays in front of every request."""
    backend = RestBackend(f"{server.url}/")
    assert backend.http.build_request("GET", "api/x").url == f"{server.url}/api/x"
    prefixed = RestBackend("http://Host:80/pre/fix/")
    assert str(prefixed.http.build_request("GET", "api/x").url) == "http://host/pre/fix/api/x"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="the platform can't acknowledge at once")
def test_stock_server_does_not_stall(tmp_path: Path) -> None:
    """On a stock server of four workers, acknowledging at once makes a request several times quicker."""
    with mlflow_server(tmp_path, workers=4) as stock:
        medians = []
        for quick_ack in (True, False):
            backend = RestBackend(stock.url, quick_ack=quick_ack)
            times = []
            for _ in range(30):
                started = time.perf_counter()
                backend.http.get("health")
                times.append(time.perf_counter() - started)
            medians.append(statistics.median(times))
            backend.close()
    assert medians[0] < medians[1] / 3


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("HTTP://Host:5000/", "http://host:5000"),
        ("https://host:443", "https://host"),
        ("http://host:80/a/b//", "http://host/a/b"),
        ("https://me:pw@host/p", "https://host/p"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        (" http://host ", "http://host"),
    ],
)
def test_url(uri: str, expected: str) -> None:
    """URLs of one server are one store, whatever their spelling."""
    assert parse_server_url(uri).url == expected


@pytest.mark.parametrize(
    "uri",
    [
        "http://",
        "http:///x",
        "http://:5000",
        "http://host:port",
        "http://host:99999",
        "http://host?x=1",
        "http://host#f",
        "http://ho st",
        "http://[::1",
        "ftp://host",
        "host:5000",
    ],
)
def test_bad_url(uri: str) -> None:
    """What is no server's URL is refused with an example of one."""
    with pytest.raises(InvalidArgument, match="http://host:5000"):
        RestBackend(uri)


@pytest.mark.parametrize(
    "uri", ["http://me:s3cr3t@host:port", "http://me:s3c/r3t@host", "http://me:s3cr3t@ho st"]
)
def test_bad_url_with_a_password(uri: str) -> None:
    """The refusal of a URL does not show the password in it."""
    with pytest.raises(InvalidArgument) as caught:
        RestBackend(uri)
    assert "s3c" not in str(caught.value)
    assert "r3t" not in str(caught.value)
