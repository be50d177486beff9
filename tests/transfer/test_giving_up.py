"""Transfers that end while the server says nothing, and bodies that come slowly, break off, or are long."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.transfer.test_hostile_server import Server, reply

from withrun.errors import TransferError
from withrun.providers.mlflow.network import Transport
from withrun.transfer import FileTransfer
from withrun.transfer.body import LONG

pytestmark = pytest.mark.slow

ft = FileTransfer(prog_bar=False)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(transport=Transport(None), base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client


def serve(server: Server, files: dict[str, bytes], *, silent: bool = False, then: int | None = None) -> None:
    """Answer with files, or, of those called `slow…`, just with the beginning; `bad` is refused."""
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        if parts.query:
            listed = [{"path": name, "file_size": len(content)} for name, content in files.items()]
            top = parts.query == "path=run"
            return reply(handler, json.dumps({"files": listed if top else []}).encode())
        name = parts.path.rpartition("/")[2]
        if name == "bad":
            time.sleep(0.5)
            return reply(handler, b"{}", 403)
        if not name.startswith("slow"):
            return reply(handler, files[name])
        if not silent:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(files[name])))
            handler.end_headers()
            handler.wfile.write(files[name][: then or len(files[name]) // 2])
            handler.wfile.flush()
        over.wait(30)
        return None

    server.answer = answer


@pytest.mark.parametrize("silent", [True, False], ids=["no answer", "half a body"])
@pytest.mark.parametrize("size", [1000, LONG + 1000])
def test_a_failure_waits_for_no_server(
    server: Server, http: httpx.Client, tmp_path: Path, silent: bool, size: int
) -> None:
    """When one file is refused, those that the server is silent about are given up at once."""
    serve(server, {"bad": b"x" * 10 * size, "slow1": bytes(size), "slow2": bytes(size)}, silent=silent)
    start = time.monotonic()
    with pytest.raises(TransferError, match="403"):
        ft.pull("mlflow-artifacts:/run", tmp_path / "out", http=http)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("silent", [True, False], ids=["no answer", "half a body"])
@pytest.mark.parametrize("upload", [True, False])
def test_an_interrupt_waits_for_no_server(
    server: Server, http: httpx.Client, tmp_path: Path, silent: bool, upload: bool
) -> None:
    """Ctrl-C ends a transfer soon, though its threads wait for a server that says nothing."""
    files = {f"slow{number}": bytes(2000) for number in range(4)}
    serve(server, files, silent=silent)
    for name, content in files.items():
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_bytes(content)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    move = partial(ft.push, tmp_path / "source", "mlflow-artifacts:/run")
    if not upload:
        move = partial(ft.pull, "mlflow-artifacts:/run", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        move(http=http)
    assert time.monotonic() - start < 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("withrun-transfer")]


@pytest.mark.parametrize("size", [LONG - 1, LONG, LONG + 1, 3 * LONG + 12345])
def test_long_bodies(server: Server, http: httpx.Client, tmp_path: Path, size: int) -> None:
    """A body of any length arrives as it is, whichever way it is read; the client goes on after it."""
    content = os.urandom(size)
    serve(server, {"a": content, "b": content[:100]})
    for round_ in range(2):
        ft.pull("mlflow-artifacts:/run", tmp_path / str(round_), http=http)
        assert (tmp_path / str(round_) / "a").read_bytes() == content
        assert (tmp_path / str(round_) / "b").read_bytes() == content[:100]


def test_a_long_body_that_trickles(server: Server, http: httpx.Client, tmp_path: Path) -> None:
    """What comes in small pieces, with pauses in between, is not waited for in vain."""
    content = os.urandom(LONG)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if urlsplit(handler.path).query:
            files = [{"path": "f", "file_size": LONG}]
            return reply(handler, json.dumps({"files": files if "run/" not in handler.path else []}).encode())
        handler.send_response(200)
        handler.send_header("Content-Length", str(LONG))
        handler.end_headers()
        for start, end in (
            (0, 10),
            (10, 1000),
            (1000, LONG - 1500),
            (LONG - 1500, LONG - 1),
            (LONG - 1, LONG),
        ):
            handler.wfile.write(content[start:end])
            handler.wfile.flush()
            time.sleep(0.4)
        return None

    server.answer = answer
    ft.pull("mlflow-artifacts:/run", tmp_path / "out", http=http)
    assert (tmp_path / "out" / "f").read_bytes() == content


def test_a_long_body_that_breaks_off(server: Server, http: httpx.Client, tmp_path: Path) -> None:
    """A connection that is closed in the middle of a long body is an error that may pass, and passes."""
    content = os.urandom(2 * LONG)
    tries: list[int] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if urlsplit(handler.path).query:
            files = [{"path": "f", "file_size": len(content)}]
            return reply(handler, json.dumps({"files": files if "run/" not in handler.path else []}).encode())
        tries.append(1)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(content if len(tries) > 1 else content[: LONG + 100])
        handler.close_connection = True
        return None

    server.answer = answer
    ft.pull("mlflow-artifacts:/run", tmp_path / "out", http=http)
    assert (tmp_path / "out" / "f").read_bytes() == content
    assert len(tries) == 2
