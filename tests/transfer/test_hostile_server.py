"""A server that answers to do harm: nothing is written outside the target, no credential goes elsewhere."""

from __future__ import annotations

import gzip
import json
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from withrun.errors import ArtifactNotFound, IllegalPath, ServerUnreachable, TransferError, WithrunError
from withrun.providers.mlflow.http import HttpConnection
from withrun.providers.mlflow.server_url import ServerUrl
from withrun.providers.mlflow.settings import ClientSettings
from withrun.transfer import FileTransfer

ft = FileTransfer(prog_bar=False)

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers every request with `answer`, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answer: Answer = lambda handler: None
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                length = int(self.headers.get("Content-Length", "0"))
                self.rfile.read(length)
                outer.answer(self)

            do_PUT = do_POST = do_GET  # noqa: N815 - http.server's names

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def reply(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"http://127.0.0.1:{server.port}",
        trust_env=False,
        headers={"Authorization": "Bearer secret"},
    ) as client:
        yield client


def lists(*files: dict[str, Any]) -> Answer:
    """At the top those files, below it nothing; every file is four bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        if parts.query:
            top = parts.query in ("path=run", "path=")
            reply(handler, json.dumps({"files": list(files) if top else []}).encode())
        else:
            reply(handler, b"evil")

    return answer


NAMES = [
    "../x", "../../x", "..", ".", "", "/etc/cron.d/x", "/", "a/../../x", "a/b", "..\\x", "a\\b", "\\x", "x\0y",  # noqa: E501
    "a/..", "./x", "../" * 20 + "tmp/x", "//x", "C:\\x", "x/", "\udc80",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("is_dir", [False, True])
def test_listed_names(server: Server, http: httpx.Client, tmp_path: Path, name: str, is_dir: bool) -> None:
    """A listing with such a name is refused by ls and pull before any file is written."""
    server.answer = lists({"path": "fine", "is_dir": False, "file_size": 4}, {"path": name, "is_dir": is_dir})
    for call in (lambda: ft.pull("mlflow-artifacts:/run", tmp_path / "t", http=http),
                 lambda: ft.ls("mlflow-artifacts:/run", recursive=True, http=http)):  # fmt: skip
        with pytest.raises((IllegalPath, TransferError)):
            call()
    assert list(tmp_path.iterdir()) == []


def test_links_in_the_target_are_not_followed(server: Server, http: httpx.Client, tmp_path: Path) -> None:
    """A partial target with planted symlinks is written to without leaving it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("mine")
    target = tmp_path / "t"
    target.mkdir()
    (target / "f").symlink_to(outside / "f")
    server.answer = lists({"path": "f", "is_dir": False, "file_size": "4"})
    ft.pull("mlflow-artifacts:/run", target, http=http)
    assert (outside / "f").read_text() == "mine"
    assert (target / "f").read_bytes() == b"evil"
    assert not (target / "f").is_symlink()


def test_endless_folders(server: Server, http: httpx.Client, tmp_path: Path) -> None:
    """A listing that nests without end is given up."""
    server.answer = lambda handler: reply(handler, b'{"files": [{"path": "a", "is_dir": true}]}')
    with pytest.raises(TransferError, match="folders within one another"):
        ft.pull("mlflow-artifacts:/run", tmp_path / "t", http=http)


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"files": 3}', b'{"files": [{"path": 3}]}', b"[]", b'{"files": [{}]}']
)
def test_nonsense(server: Server, http: httpx.Client, body: bytes) -> None:
    """An answer that is no listing is TransferError."""
    server.answer = lambda handler: reply(handler, body)
    with pytest.raises(TransferError):
        ft.ls("mlflow-artifacts:/run", http=http)


def test_names_twice(server: Server, http: httpx.Client, tmp_path: Path) -> None:
    """A listing that names a path as a file and as a folder is refused."""
    server.answer = lists({"path": "a", "is_dir": True}, {"path": "a", "is_dir": False, "file_size": 4})
    with pytest.raises(TransferError, match="twice"):
        ft.pull("mlflow-artifacts:/run", tmp_path / "t", http=http)


def test_wrong_sizes(
    server: Server, http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that arrives with another size than was listed is an error, after retries, and is not kept."""
    monkeypatch.setattr("withrun.transfer.requests.ATTEMPTS", 2)
    server.answer = lists({"path": "a", "is_dir": False, "file_size": 5})
    with pytest.raises(TransferError, match="4 bytes"):
        ft.pull("mlflow-artifacts:/run", tmp_path / "t", http=http)
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.parametrize("url", ["mlflow-artifacts://127.0.0.1:{port}/run", "mlflow-artifacts://user:pw@localhost:{port}/run",
                                 "http://127.0.0.1:{port}/api/2.0/mlflow-artifacts/artifacts/run"])  # fmt: skip  # noqa: E501
def test_credentials_stay_with_their_server(server: Server, url: str) -> None:
    """Another host in an artifact URL is asked, without the tracking server's credentials."""
    server.answer = lists({"path": "a", "is_dir": False, "file_size": 4})
    with httpx.Client(
        base_url="http://tracking.example:5000", headers={"Authorization": "Bearer secret"}
    ) as own:
        assert ft.ls(url.format(port=server.port), http=own)
    assert server.seen
    assert all("authorization" not in headers for _, _, headers in server.seen)


def test_redirects_are_not_followed(server: Server, http: httpx.Client, tmp_path: Path) -> None:
    """A redirect, which would carry a request elsewhere, is an error."""
    server.answer = lambda handler: reply(handler, b"", 302, Location="http://evil.example/")
    with pytest.raises(TransferError, match="302"):
        ft.ls("mlflow-artifacts:/run", http=http)


@pytest.mark.parametrize("status", [503, 429, 500])
def test_what_may_pass_is_retried(server: Server, http: httpx.Client, tmp_path: Path, status: int) -> None:
    """Answers that say "later" are followed by another attempt; the upload then counts once."""
    (tmp_path / "f").write_bytes(b"x" * 100)
    answers = iter([status, status, 200])
    # After a 500 it is looked whether something is in the file's way.
    server.answer = lambda handler: (
        reply(handler, b"{}") if handler.command == "GET" else reply(handler, b"", next(answers))
    )
    ft.push(tmp_path / "f", "mlflow-artifacts:/run/f", http=http)
    assert [method for method, _, _ in server.seen if method == "PUT"] == ["PUT"] * 3


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [(403, TransferError, "credentials"), (404, ArtifactNotFound, "gone"), (413, TransferError, "larger"), (507, TransferError, "full")],  # noqa: E501
)  # fmt: skip
def test_refusals(
    server: Server, http: httpx.Client, tmp_path: Path, status: int, kind: type[WithrunError], words: str
) -> None:
    """A refusal is raised at once with the server's words and the way out, without credentials."""
    (tmp_path / "f").write_bytes(b"x" * 100)
    server.answer = lambda handler: reply(handler, b'{"message": "gone"}', status)
    with pytest.raises(kind, match=words) as caught:
        ft.push(tmp_path / "f", "mlflow-artifacts:/run/f", http=http)
    assert len(server.seen) == 1
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["mlflow-artifacts:/a/../../b", "mlflow-artifacts:/..", "mlflow-artifacts://h:1/../x"]
)
def test_climbing_urls(http: httpx.Client, server: Server, url: str) -> None:
    """An artifact URL that climbs is refused before a request."""
    with pytest.raises(IllegalPath):
        ft.ls(url, http=http)
    assert server.seen == []


@pytest.mark.parametrize("verb", ["list", "get", "put"])
@pytest.mark.parametrize(
    "settings",
    [{"token": "SECRET-TOKEN-123"}, {"username": "me", "password": "SECRET-TOKEN-123"},
     {"headers": {"X-Key": "SECRET-TOKEN-123"}}, None],
    ids=["token", "basic", "header", "plain client"],
)  # fmt: skip
def test_credentials_that_a_server_repeats(
    server: Server, tmp_path: Path, verb: str, settings: dict[str, Any] | None
) -> None:
    """A refusal that repeats the request's headers is told without the credentials in them."""
    (tmp_path / "f").write_bytes(b"x")
    listing = json.dumps({"files": [{"path": "f", "is_dir": False, "file_size": 1}]}).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if verb != "list" and "?path=" in handler.path:
            reply(handler, listing if handler.path.endswith("=run") else b"{}")
            return
        # 480 characters first: a token that is cut off must not be told either.
        said = "bad " * 120 + "".join(f"{name}: {value} " for name, value in handler.headers.items())
        reply(handler, json.dumps({"message": said}).encode(), 403)

    server.answer = answer
    url = f"http://127.0.0.1:{server.port}"
    http = (
        HttpConnection(ServerUrl(url, None, None), ClientSettings.model_validate(settings)).client
        if settings is not None
        else httpx.Client(base_url=url, trust_env=False, headers={"Authorization": "Bearer SECRET-TOKEN-123"})
    )
    calls: dict[str, Callable[[], object]] = {
        "list": lambda: ft.ls("mlflow-artifacts:/run", http=http),
        "get": lambda: ft.pull("mlflow-artifacts:/run/f", tmp_path / "t", http=http),
        "put": lambda: ft.push(tmp_path / "f", "mlflow-artifacts:/run/f", http=http),
    }
    with http, pytest.raises(TransferError, match="credentials") as caught:
        calls[verb]()
    told = str(caught.value)
    assert "bad bad" in told
    assert "SECRET" not in told
    assert b64encode(b"me:SECRET-TOKEN-123").decode()[:8] not in told


def test_another_base_path_is_another_server(server: Server) -> None:
    """An artifact URL below another path of the same host is asked there, without credentials."""
    server.answer = lists({"path": "a", "is_dir": False, "file_size": 4})
    base = f"http://127.0.0.1:{server.port}"
    with httpx.Client(base_url=f"{base}/team-b", headers={"Authorization": "Bearer secret"}) as own:
        for team in ("team-a", "team-b"):
            assert ft.ls(f"{base}/{team}/api/2.0/mlflow-artifacts/artifacts/run", http=own)
    assert [(path.split("/")[1], "authorization" in headers) for _, path, headers in server.seen] == [
        ("team-a", False),
        ("team-b", True),
    ]


def test_other_servers_are_reached_the_configured_way(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server is asked through the instance's proxy and none from the environment, uncredentialed."""
    server.answer = lists({"path": "a", "is_dir": False, "file_size": 4})
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    here = f"127.0.0.1:{server.port}"
    with httpx.Client(base_url="http://tracking.example", trust_env=False) as plain:
        assert ft.ls(f"mlflow-artifacts://{here}/run", http=plain)
    assert ft.ls(f"http://{here}/api/2.0/mlflow-artifacts/artifacts/run")
    settings = ClientSettings.model_validate({"token": "SECRET-TOKEN-123", "proxy": f"http://{here}"})
    with HttpConnection(ServerUrl("http://tracking.example", None, None), settings).client as own:
        assert ft.ls("mlflow-artifacts://other.example/run", http=own)
    assert server.seen[-1][1].startswith("http://other.example/api/")
    assert all("authorization" not in headers for _, _, headers in server.seen)


def test_asking_for_multipart_uploads_is_retried(
    server: Server, http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large upload asks again when the server is busy, and goes in one piece where there are no parts."""
    monkeypatch.setattr("withrun.transfer.multipart.THRESHOLD", 10)
    (tmp_path / "f").write_bytes(b"x" * 100)
    answers = iter([503, 404, 200])
    server.answer = lambda handler: reply(handler, b"", next(answers))
    ft.push(tmp_path / "f", "mlflow-artifacts:/run/f", http=http)
    assert [method for method, _, _ in server.seen] == ["GET", "GET", "PUT"]
    monkeypatch.setattr("withrun.transfer.requests.ATTEMPTS", 1)
    with (
        httpx.Client(base_url="http://127.0.0.1:9", trust_env=False) as dead,
        pytest.raises(ServerUnreachable),
    ):
        ft.push(tmp_path / "f", "mlflow-artifacts:/run/f", http=dead)


@pytest.mark.parametrize("broken", [False, True])
def test_a_body_compressed_unasked(
    server: Server, http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """A compressed answer arrives decoded; one that can't be decoded is TransferError."""
    monkeypatch.setattr("withrun.transfer.requests.ATTEMPTS", 1)
    listing = lists({"path": "a", "is_dir": False, "file_size": 4})

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if "?" in handler.path:
            listing(handler)
        else:
            reply(handler, b"junk" if broken else gzip.compress(b"evil"), Content_Encoding="gzip", ETag='"1"')

    server.answer = answer
    if broken:
        with pytest.raises(TransferError, match="broke off"):
            ft.pull("mlflow-artifacts:/run", tmp_path / "t", http=http)
    else:
        ft.pull("mlflow-artifacts:/run", tmp_path / "t", http=http)
        assert (tmp_path / "t" / "a").read_bytes() == b"evil"


def test_a_failure_does_not_wait_for_others_retries(
    server: Server, http: httpx.Client, tmp_path: Path
) -> None:
    """When one file is refused, those that the server asked to come back in 30 seconds end at once."""
    (tmp_path / "d").mkdir()
    for name in ("later1", "later2", "refused"):
        (tmp_path / "d" / name).write_text("x")

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("refused"):
            time.sleep(0.5)
            reply(handler, b"no", 403)
        else:
            reply(handler, b"later", 503, Retry_After="30")

    server.answer = answer
    started = time.monotonic()
    with pytest.raises(TransferError, match="403"):
        ft.push(tmp_path / "d", "mlflow-artifacts:/run", http=http)
    assert time.monotonic() - started < 10
