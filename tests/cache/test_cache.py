"""The cache itself: full disks, changes while pulling, trimming, verifying."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from withrun.cache.artifacts import ArtifactCache
from withrun.cache.layout import Key
from withrun.cache.trim import list_artifacts, trim, verify
from withrun.errors import CacheError


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


def put(cache: ArtifactCache, path: str, size: int = 1000, *, age: float = 0.0) -> Path:
    copy = cache.fill(Key("run", path), lambda at: at.write_bytes(os.urandom(size)) and None)
    then = time.time() - age
    os.utime(copy.parent.parent, (then, then))
    return copy


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(small_disk: Path) -> None:
    """On a full disk a fill is an error that says so, leaves nothing behind, and works when there is room."""
    cache = ArtifactCache(small_disk)
    put(cache, "small")
    free = os.statvfs(small_disk).f_bfree
    with pytest.raises(CacheError, match="No space left"):
        put(cache, "big", 8 << 20)
    assert cache.find(Key("run", "big")) is None
    assert os.statvfs(small_disk).f_bfree >= free - 8
    assert cache.find(Key("run", "small")) is not None
    put(cache, "big", 1 << 20)


def test_published_while_pulling(cache: ArtifactCache) -> None:
    """A pull during which something was published to the run starts again, and serves the new."""
    contents = iter(["old", "new"])

    def write(at: Path) -> None:
        content = next(contents)
        at.write_text(content)
        if content == "old":
            cache.forget(Key("run", "a/b"))

    assert cache.fill(Key("run", "a"), write).read_text() == "new"


def test_interrupted_fill_is_gone_on_with(cache: ArtifactCache) -> None:
    """A fill that failed half-way leaves its part for the next one, and no hit."""

    def half(at: Path) -> None:
        at.mkdir()
        (at / "1").write_text("1")
        raise ConnectionError

    def rest(at: Path) -> None:
        assert (at / "1").read_text() == "1"
        (at / "2").write_text("2")

    with pytest.raises(ConnectionError):
        cache.fill(Key("run", "a"), half)
    assert cache.find(Key("run", "a")) is None
    assert sorted(p.name for p in cache.fill(Key("run", "a"), rest).iterdir()) == ["1", "2"]


def test_trim_removes_the_least_recently_used(cache: ArtifactCache) -> None:
    """Trimming goes from the least recently used up, until the rest fits."""
    for index in range(5):
        put(cache, str(index), age=1000 * (5 - index))
    cache.find(Key("run", "0"))  # used now
    result = trim(cache, 3800)
    assert [artifact.key and artifact.key.path for artifact in result.removed] == ["1", "2"]
    assert result.left <= 3800
    assert [a.key.path for a in list_artifacts(cache) if a.key] == ["3", "4", "0"]


def test_trim_spares_what_is_used(cache: ArtifactCache, tmp_path: Path) -> None:
    """What is being read, filled, held open, or lent to a user stays, however little may."""
    for name in ("read", "open", "lent", "idle"):
        put(cache, name, age=5000)
    (tmp_path / "mine").write_text("mine")
    cache.lend(cache.fill(Key("run", "lent2"), lambda at: at.write_text("mine") and None), tmp_path / "mine")
    opened = cache.find(Key("run", "open"))
    assert opened is not None
    with cache.reading(Key("run", "read")), opened.open("rb"):
        trim(cache, 0)
    left = {artifact.key.path for artifact in list_artifacts(cache) if artifact.key}
    assert left - {"open"} == {"read", "lent2"}
    assert os.uname().sysname != "Linux" or "open" in left
    assert (tmp_path / "mine").read_text() == "mine"
    trim(cache, 0)
    assert {artifact.key.path for artifact in list_artifacts(cache) if artifact.key} == {"lent2"}


def test_trim_leaves_the_rest_of_the_folder(cache: ArtifactCache) -> None:
    """Journals and metadata beside the artifacts are not touched."""
    for name in ("journal", "metadata"):
        (cache.root / name).mkdir(parents=True)
        (cache.root / name / "f").write_text("x")
    put(cache, "a")
    trim(cache, 0)
    cache.clean_all()
    assert (cache.root / "journal/f").read_text() == (cache.root / "metadata/f").read_text() == "x"


def test_what_is_not_the_caches_stays(cache: ArtifactCache) -> None:
    """No cleaning touches an `artifacts/` of the user's own, whatever its folders are called."""
    mine = cache.artifacts / "mine"
    hashed = Key("mine", "x").folder.removeprefix("mine/")
    for name in ("x/part", "y/current", f"{hashed}/part", f"{hashed}a/links", "z/placed"):
        (mine / name).mkdir(parents=True)
        (mine / name / "precious").write_text("x")
    for name in ("empty", f"{hashed[::-1]}", "v" + "0" * 16):
        (mine / name).mkdir()
    before = sorted(mine.rglob("*"))
    put(cache, "own")
    trim(cache, 100 << 30)
    trim(cache, 0)
    cache.clean_all()
    assert sorted(mine.rglob("*")) == before
    assert cache.find(Key("run", "own")) is None


def test_verify(cache: ArtifactCache) -> None:
    """Verifying finds a changed byte, a lost file and an extra one; of an intact copy, nothing."""

    def write(at: Path) -> None:
        at.mkdir()
        for name in "abc":
            (at / name).write_text(name)

    copy = cache.fill(Key("run", "d"), write)
    (artifact,) = list_artifacts(cache)
    assert (artifact.files, artifact.status, verify(artifact)) == (3, "ok", [])
    (copy / "a").unlink()
    (copy / "b").chmod(0o644)
    (copy / "b").write_text("X")
    (copy / "extra").write_text("")
    assert len(verify(artifact)) == 3


def test_verify_large_files(cache: ArtifactCache) -> None:
    """A changed byte is found wherever it is in a large file; so are pieces in another order."""
    size = (64 << 20) + 5
    copy = put(cache, "large", size)
    (artifact,) = list_artifacts(cache)
    assert verify(artifact) == []
    copy.chmod(0o644)
    for at in (0, (32 << 20) - 1, 32 << 20, size - 1):
        with copy.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1]))
            file.flush()
            assert verify(artifact) == ["large: other content than was pulled"]
            file.seek(at)
            file.write(bytes([byte]))
    data = copy.read_bytes()
    copy.write_bytes(data[32 << 20 : 64 << 20] + data[: 32 << 20] + data[64 << 20 :])
    assert verify(artifact) == ["large: other content than was pulled"]
