"""The proxied route, against a real `mlflow server`; what it stored is checked with MLflow's own client."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import httpx
import pytest
from mlflow.artifacts import download_artifacts
from tests.servers import MlflowServer
from tests.transfer.conftest import contents

from withrun.errors import ArtifactNotFound, InvalidArgument, ServerUnreachable, TransferError
from withrun.transfer import FileTransfer, ObjMeta, join_url

ft = FileTransfer(prog_bar=False)


def test_round_trip(
    http: httpx.Client, proxied_server: MlflowServer, remote: str, folder: Path, tmp_path: Path
) -> None:
    """A folder pushed and pulled is the same, and MLflow's own client downloads the same."""
    ft.push(folder, remote, http=http)
    ft.pull(remote, tmp_path / "pulled", http=http)
    assert contents(tmp_path / "pulled") == contents(folder)
    seen = download_artifacts(
        artifact_uri=remote, tracking_uri=proxied_server.url, dst_path=str(tmp_path / "seen")
    )
    assert contents(Path(seen)) == contents(folder)


@pytest.mark.parametrize(
    "form", ["mlflow-artifacts://{host}", "http://{host}/api/2.0/mlflow-artifacts/artifacts"]
)
def test_urls_that_name_the_server(
    http: httpx.Client, proxied_server: MlflowServer, folder: Path, tmp_path: Path, form: str
) -> None:
    """URLs with the server's own host lead to it, with and without the API's route."""
    url = form.format(host=proxied_server.url.removeprefix("http://")) + f"/{uuid.uuid4().hex}/m"
    ft.push(folder / "a.txt", url, http=http)
    ft.pull(url, tmp_path / "a", http=http)
    assert (tmp_path / "a").read_text() == "alpha"


def test_listing(http: httpx.Client, remote: str, folder: Path) -> None:
    """Folders give lists, files their ObjMeta, also where a folder holds just a file of its own name."""
    ft.push(folder, remote, http=http)
    top = ft.ls(remote, http=http)
    assert isinstance(top, list)
    assert [(m.Path, m.IsDir) for m in top] == [
        ("a b+ü&=.bin", False), ("a.txt", False), ("empty", False), ("link.txt", False), ("sub", True)
    ]  # fmt: skip
    everything = ft.ls(remote, recursive=True, http=http)
    assert isinstance(everything, list)
    sizes = {m.Path: m.Size for m in everything}
    assert sizes["sub/large.bin"] == 3_200_000
    assert (sizes["empty"], sizes["sub"]) == (0, -1)
    empty = ft.ls(join_url(remote, "empty"), http=http)
    assert isinstance(empty, ObjMeta)
    assert empty.Size == 0
    single = ft.ls(join_url(remote, "a.txt"), http=http)
    assert isinstance(single, ObjMeta)
    assert (single.Name, single.Size, single.IsDir) == ("a.txt", 5, False)
    ft.push(folder / "a.txt", join_url(remote, "same/same"), http=http)
    same = ft.ls(join_url(remote, "same"), http=http)
    assert isinstance(same, list)
    assert [m.Name for m in same] == ["same"]
    for missing in ("missing", "a.txt/x", "sub/none"):
        with pytest.raises(ArtifactNotFound):
            ft.ls(join_url(remote, missing), http=http)
        with pytest.raises(ArtifactNotFound):
            ft.pull(join_url(remote, missing), Path("never"), http=http)


def test_push_adds_and_replaces(http: httpx.Client, remote: str, folder: Path, tmp_path: Path) -> None:
    """A second push replaces same-named files and leaves the others."""
    ft.push(folder, remote, http=http)
    (tmp_path / "a.txt").write_text("new")
    ft.push(tmp_path / "a.txt", join_url(remote, "a.txt"), http=http)
    ft.pull(remote, tmp_path / "pulled", http=http)
    assert contents(tmp_path / "pulled") == contents(folder) | {"a.txt": b"new", "link.txt": b"alpha"}


def test_a_cut_off_pull_goes_on(http: httpx.Client, remote: str, folder: Path, tmp_path: Path) -> None:
    """After an interruption only the missing bytes are asked for, and complete files not again."""
    ft.push(folder, remote, http=http)
    target = tmp_path / "pulled"
    sent: list[httpx.Request] = []
    got: list[httpx.Response] = []
    large = "sub/large.bin"

    class CutError(Exception):
        pass

    def watch(number: int) -> None:
        if number and (target / large).stat().st_size > 1_000_000:
            raise CutError

    from withrun.transfer.http_files import download

    ft.pull(remote, target, http=http)
    (target / large).unlink()
    path = remote.removeprefix("mlflow-artifacts:/")
    with pytest.raises(CutError):
        download(http, f"{path}/{large}", target / large, 3_200_000, lambda: None, watch)
    assert 1_000_000 < (target / large).stat().st_size < 3_200_000
    http.event_hooks = {"request": [sent.append], "response": [got.append]}
    ft.pull(remote, target, http=http)
    assert contents(target) == contents(folder)
    ranges = {
        r.url.path.rpartition("/")[2]: r.headers.get("range") for r in sent if r.url.path.count("/") > 5
    }
    assert ranges["large.bin"].startswith("bytes=10")
    assert ranges["a.txt"] == "bytes=0-0"
    assert os.listxattr(target / large) == []


def test_a_changed_file_is_not_joined(http: httpx.Client, remote: str, tmp_path: Path) -> None:
    """If the file changed on the server since the interruption, the download starts again."""
    from withrun.transfer.partial import Partial

    (tmp_path / "f").write_bytes(b"new!" * 1000)
    ft.push(tmp_path / "f", remote, http=http)
    target = tmp_path / "t"
    with Partial(target) as partial:
        partial.start(200, "", '"validator-of-the-old-one"')
        partial.write(b"old " * 500)
    ft.pull(remote, target, http=http)
    assert target.read_bytes() == b"new!" * 1000


@pytest.mark.parametrize("below", ["", "sub/deeper"])
def test_a_folder_without_files(http: httpx.Client, remote: str, tmp_path: Path, below: str) -> None:
    """A folder that would be nowhere on the server is refused, and nothing is sent."""
    source = tmp_path / "d"
    (source / below).mkdir(parents=True)
    sent: list[httpx.Request] = []
    http.event_hooks = {"request": [sent.append]}
    with pytest.raises(InvalidArgument, match="holds no file"):
        ft.push(source, remote, http=http)
    assert sent == []


def test_a_file_in_a_folders_place(http: httpx.Client, remote: str, folder: Path) -> None:
    """A file where a folder lies, or the reverse, is refused at once; the error says what is in the way."""
    ft.push(folder, remote, http=http)
    sent: list[httpx.Request] = []
    http.event_hooks = {"request": [sent.append]}
    for place, kind, way in (
        ("sub", "folder", "sub"),
        ("a.txt/x", "file", "a.txt"),
        ("a.txt/x/y", "file", "a.txt"),
    ):
        with pytest.raises(TransferError, match=f"a {kind} lies at '[0-9a-f]*/{way}'"):
            ft.push(folder / "a.txt", join_url(remote, place), http=http)
    assert [request.method for request in sent].count("PUT") == 3


def test_without_a_server(folder: Path) -> None:
    """A proxied URL without a client says that the store was opened without its server."""
    with pytest.raises(InvalidArgument, match="tracking_uri"):
        ft.push(folder, "mlflow-artifacts:/x")


def test_a_dead_server_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer raises ServerUnreachable, which names the server and not the credentials."""
    monkeypatch.setattr("withrun.transfer.requests.ATTEMPTS", 2)
    with (
        httpx.Client(base_url="http://user:secret@127.0.0.1:9", trust_env=False) as dead,
        pytest.raises(ServerUnreachable) as caught,
    ):
        ft.push(folder, "mlflow-artifacts:/x", http=dead)
    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_shrinks_meanwhile(http: httpx.Client, remote: str, tmp_path: Path) -> None:
    """A source that gets shorter during its upload is an error, not a short artifact."""
    from withrun.transfer.http_files import upload

    (tmp_path / "f").write_bytes(b"x" * 10)
    with pytest.raises(TransferError, match="shorter while"):
        upload(http, tmp_path / "f", 20, "some/path", lambda: None, lambda _: None)


def test_a_pull_leaves_nothing_of_an_earlier_one(
    http: httpx.Client, proxied_server: MlflowServer, folder: Path, tmp_path: Path
) -> None:
    """A resumed pull removes what the server does not list, also what is of another kind there."""
    one, two = (f"mlflow-artifacts:/{uuid.uuid4().hex}" for _ in range(2))
    ft.push(folder, one, http=http)
    (tmp_path / "other" / "a.txt").mkdir(parents=True)
    (tmp_path / "other" / "a.txt" / "x").write_text("x")
    (tmp_path / "other" / "sub").write_text("a file now")
    ft.push(tmp_path / "other", two, http=http)
    target = tmp_path / "pulled"
    for url in (one, two, one):
        ft.pull(url, target, http=http)
        assert contents(target) == contents(folder if url == one else tmp_path / "other")
    ft.pull(join_url(one, "a.txt"), target, http=http)
    assert target.read_text() == "alpha"
