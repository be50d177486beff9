"""Names of artifacts on the proxied route: kept as they are, for MLflow's own clients too, or refused."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from tests.servers import MlflowServer
from tests.transfer.conftest import contents

from withrun.errors import ArtifactNotFound, IllegalPath, TransferError
from withrun.transfer import FileTransfer, ObjMeta, join_url

ft = FileTransfer(prog_bar=False)

FORMS = [
    "mlflow-artifacts:",
    "mlflow-artifacts://{host}",
    "http://{host}/api/2.0/mlflow-artifacts/artifacts",
]

CHANGED = [
    *("a#b", "fold #1.txt", "#", "a?b", "a?", "x?1=2", "x\ny", "tab\t", "r\rx", "\x01", "a\x7f", "a\\b"),
    *("a%20b", "%41", "%0a", "%2e%2e", "s;", " lead", "file:x", "Loss:best.pt", ".artifact.uploading.x"),
]

KEPT = [
    *(
        "50%",
        "%zz",
        "a&b=c;d",
        "s;1",
        "ü日本 x",
        "-rf",
        "$(id)",
        "`id`",
        'q"uote',
        "'",
        "~",
        "loss:best",
        "*",
    ),
    *("[x", "a+b", "trail ", "e\u0301", "a, b", "12:30", ".hidden", "<b>", "n\x85l"),
    "dog%step%0%timestamp%1712%gab",  # as MLflow 2 names images: %17 is a control character, escaped again
]


@pytest.fixture(params=FORMS)
def root(request: pytest.FixtureRequest, proxied_server: MlflowServer) -> str:
    """A fresh artifact folder on the server, in each form in which a URL may name it."""
    host = proxied_server.url.removeprefix("http://")
    return f"{request.param.format(host=host)}/{uuid.uuid4().hex}"


def test_names_that_the_server_would_change(http: httpx.Client, root: str, tmp_path: Path) -> None:
    """A name that would be another one on the server is refused before anything is sent, and never found."""
    fine = tmp_path / "fine"
    fine.write_text("x")
    sent: list[httpx.Request] = []
    http.event_hooks = {"request": [sent.append]}
    for number, name in enumerate(CHANGED):
        folder = tmp_path / str(number)
        (folder / "f").mkdir(parents=True)
        (folder / "f" / name).write_text("x")
        for source, target in ((fine, name), (fine, f"{name}/x"), (folder, "m")):
            with pytest.raises(IllegalPath, match="Rename the file, or give another path_in_run"):
                ft.push(source, join_url(root, target), http=http)
    assert sent == []
    for missing in (root, *(join_url(root, name) for name in CHANGED), join_url(root, "d#/x")):
        with pytest.raises(ArtifactNotFound):
            ft.ls(missing, http=http)
        with pytest.raises(ArtifactNotFound):
            ft.pull(missing, tmp_path / "pulled", http=http)


def test_names_that_are_kept(
    http: httpx.Client, proxied_server: MlflowServer, root: str, tmp_path: Path
) -> None:
    """Other odd names of files and folders are found again as they were, by MLflow's own client too."""
    source = tmp_path / "source"
    for name in KEPT:
        (source / "below" / name).mkdir(parents=True)
        (source / "below" / name / "x").write_text(name)
        (source / name).write_text(name)
    ft.push(source, root, http=http)
    ft.pull(root, tmp_path / "pulled", http=http)
    assert contents(tmp_path / "pulled") == contents(source)
    uri = f"mlflow-artifacts:/{root.rpartition('/')[2]}"
    seen = download_artifacts(
        artifact_uri=uri, tracking_uri=proxied_server.url, dst_path=str(tmp_path / "seen")
    )
    assert contents(Path(seen)) == contents(source)
    for name in KEPT:
        ft.push(source / name, join_url(root, f"alone/{name}"), http=http)
        ft.pull(join_url(root, f"alone/{name}"), tmp_path / "alone" / name, http=http)
        assert (tmp_path / "alone" / name).read_text() == name
        listed = ft.ls(join_url(root, f"alone/{name}"), http=http)
        assert isinstance(listed, ObjMeta)
        assert listed.Name == name
    mlflow = MlflowArtifactsRepository(uri, proxied_server.url)
    assert {found.path for found in mlflow.list_artifacts("alone")} == {f"alone/{name}" for name in KEPT}


@pytest.mark.parametrize("name", ["a%20b", "x#y", "tab\t"])
def test_names_that_others_put_there(
    http: httpx.Client, proxied_server: MlflowServer, remote: str, tmp_path: Path, name: str
) -> None:
    """What the server lists, and has another file for when asked, is an error of pulling, not that file."""
    kept = Path(proxied_server.artifacts) / remote.removeprefix("mlflow-artifacts:/")
    (kept / "files").mkdir(parents=True)
    (kept / "files" / name).write_text("this one")
    (kept / "files" / "a b").write_text("that one")
    (kept / "folders" / name).mkdir(parents=True)
    (kept / "folders" / name / "x").write_text("this one")
    for below in ("files", "folders"):
        with pytest.raises(TransferError, match="Rename the file where the server keeps it"):
            ft.pull(join_url(remote, below), tmp_path / below, http=http)
    listed = ft.ls(join_url(remote, "files"), http=http)
    assert isinstance(listed, list)
    assert {meta.Name for meta in listed} == {name, "a b"}
