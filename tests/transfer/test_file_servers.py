"""Storages that are no object stores: real SFTP, WebDAV and FTP servers (`rclone serve`) on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.s3 import BINARY, wait_until_listening
from tests.servers import clean_env, free_port, stop
from tests.transfer.conftest import contents

from withrun.errors import ArtifactNotFound, ServerUnreachable, TransferError
from withrun.transfer import FileTransfer

PASSWORD = "p@ss w:rd/#1"

ft = FileTransfer(prog_bar=False)


@dataclass(frozen=True)
class FileServer:
    """A running server: how URLs on it begin, and the folder that it serves."""

    scheme: str
    port: int
    root: Path

    def url(self, path: str, password: str = PASSWORD) -> str:
        return f"{self.scheme}://me:{quote(password, safe='')}@127.0.0.1:{self.port}/{path}"


@pytest.fixture(scope="module", params=["sftp", "webdav", "ftp"])
def file_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FileServer]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "root").mkdir()
    port, log = free_port(), folder / "log"
    command = [BINARY, "serve", request.param, str(folder / "root"), "--addr", f"127.0.0.1:{port}"]
    command += ["--user", "me", "--pass", PASSWORD, "--config", "/dev/null"]
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=sink,
            env=clean_env(HOME=str(folder), XDG_CACHE_HOME=str(folder)),
            start_new_session=True,
        )
    try:
        wait_until_listening(port, process, log)
        yield FileServer(request.param, port, folder / "root")
    finally:
        stop(process)


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No host keys and no rclone configuration of this machine's user."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RCLONE_CONFIG", raising=False)


def test_round_trip(file_server: FileServer, folder: Path, tmp_path: Path) -> None:
    """A folder and a lone file arrive as they were, with a password that a URL must escape."""
    ft.push(folder, file_server.url("store/run 1/ü"))
    assert contents(file_server.root / "store" / "run 1" / "ü") == contents(folder)
    ft.push(folder / "a.txt", file_server.url("store/other.name"))
    ft.pull(file_server.url("store/run 1/ü"), tmp_path / "pulled")
    ft.pull(file_server.url("store/other.name"), tmp_path / "deep" / "b.txt")
    assert contents(tmp_path / "pulled") == contents(folder)
    assert contents(tmp_path / "deep") == {"b.txt": b"alpha"}


def test_listing(file_server: FileServer, folder: Path) -> None:
    """A folder's entries and a file's own are told, with their sizes."""
    ft.push(folder, file_server.url("listed"))
    found = ft.ls(file_server.url("listed"))
    assert isinstance(found, list)
    assert {each.Name: each.IsDir for each in found} == {
        each.name: each.is_dir() for each in folder.iterdir()
    }
    one = ft.ls(file_server.url("listed/a.txt"))
    assert not isinstance(one, list)
    assert (one.Name, one.Size, one.IsDir) == ("a.txt", 5, False)


def test_a_configured_remote(
    file_server: FileServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote of rclone's configuration tells a file whose name has no suffix from a folder, too."""
    own = {"host": "127.0.0.1", "port": file_server.port, "url": f"http://127.0.0.1:{file_server.port}"}
    secret = subprocess.run(
        [BINARY, "obscure", "-"], input=PASSWORD, capture_output=True, text=True, check=True
    ).stdout.strip()
    options = own | {"type": file_server.scheme, "user": "me", "pass": secret}
    config = tmp_path / "rclone.conf"
    config.write_text("[nas]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()))
    monkeypatch.setenv("RCLONE_CONFIG", str(config))
    ft.push(folder / "a.txt", "nas://store/configured/digits")
    ft.pull("nas://store/configured/digits", tmp_path / "digits")
    assert (tmp_path / "digits").read_text() == "alpha"
    one = ft.ls("nas://store/configured/digits")
    assert not isinstance(one, list)
    assert (one.Name, one.Size) == ("digits", 5)
    ft.pull("nas://store/configured", tmp_path / "all")
    assert contents(tmp_path / "all") == {"digits": b"alpha"}
    with pytest.raises(ArtifactNotFound):
        ft.pull("nas://store/none", tmp_path / "none")


def test_what_is_missing(file_server: FileServer, tmp_path: Path) -> None:
    """A missing path is ArtifactNotFound, which speaks of no bucket, and pulls nothing."""
    url = file_server.url("nothing/here")
    for call in (lambda: ft.ls(url), lambda: ft.pull(url, tmp_path / "pulled")):
        with pytest.raises(ArtifactNotFound) as caught:
            call()
        assert "bucket" not in str(caught.value)
    assert not (tmp_path / "pulled").exists()


def test_a_wrong_password(file_server: FileServer) -> None:
    """Refused credentials are said to be that, and are not shown."""
    with pytest.raises(TransferError, match="the storage refused it") as caught:
        ft.ls(file_server.url("x", password="wrong-one"))
    assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["sftp", "webdav", "ftp"])
def test_nobody_listens(scheme: str) -> None:
    """A server that is away is ServerUnreachable, with its address and without the password."""
    url = FileServer(scheme, free_port(), Path()).url("x")
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1") as caught:
        ft.ls(url)
    assert "p%40ss" not in str(caught.value)
