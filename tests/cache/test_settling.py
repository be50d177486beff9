"""Settling: what is served before it is on the disk, and what after the machine went down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.servers import clean_env
from withrun.cache.artifacts import ArtifactCache
from withrun.cache.layout import Key
from withrun.cache.settling import boot_id, is_unsettled, read_manifest, wait_until_settled
from withrun.cache.trim import list_artifacts, trim, verify
from withrun.errors import CacheError

pytestmark = pytest.mark.skipif(not boot_id(), reason="here, everything is settled when it is sealed")

LARGE = 32 << 20

# What a child process does: fill the cache, and end in the given way.
CHILD = """
import os, sys
from pathlib import Path
from withrun.cache.artifacts import ArtifactCache
from withrun.cache.layout import Key

root, path, size, end = sys.argv[1:]
data = os.urandom(int(size))
copy = ArtifactCache(Path(root)).fill(Key("run", path), lambda at: at.write_bytes(data))
exec(end)
"""


def fill_and(end: str, root: Path, size: int = LARGE) -> Path:
    """Fill the cache in a process that ends right then by `end`; return the version."""
    command = [sys.executable, "-c", CHILD, str(root), "a", str(size), end]
    subprocess.run(command, check=True, env=clean_env(), timeout=60)
    (version,) = (root / "artifacts").glob("run/*/v*")
    return version


def restart(version: Path) -> None:
    """Make a version look as if the machine had been started anew since."""
    note = version / "sealed.json"
    note.write_bytes(note.read_bytes().replace(boot_id().encode(), b"another"))


def test_settled_soon(tmp_path: Path) -> None:
    """A large copy is served at once; soon it is hashed and on the disk, and its last use is still that."""
    cache = ArtifactCache(tmp_path)
    copy = cache.fill(Key("run", "a"), lambda at: at.write_bytes(bytes(LARGE)))
    version = copy.parent.parent
    os.utime(version, (1e9, 1e9))
    assert wait_until_settled(60)
    manifest = read_manifest(version)
    assert manifest is not None
    assert manifest.is_hashed
    assert (manifest.boot, is_unsettled(version)) == ("", False)
    assert version.stat().st_mtime == 1e9
    restarted = ArtifactCache(tmp_path)
    assert restarted.find(Key("run", "a")) == copy


def test_the_end_of_a_process_waits(tmp_path: Path) -> None:
    """A process that ends as it should leaves nothing unsettled."""
    assert not is_unsettled(fill_and("", tmp_path))


def test_killed_before(tmp_path: Path) -> None:
    """What a process that was killed at once had pulled is served all the same, and settled by verifying."""
    version = fill_and("os._exit(0)", tmp_path)
    assert is_unsettled(version)
    cache = ArtifactCache(tmp_path)
    assert cache.find(Key("run", "a")) is not None
    (artifact,) = list_artifacts(cache)
    assert (artifact.status, verify(artifact)) == ("ok", [])
    assert not is_unsettled(version)


def test_large_copy_after_a_restart(tmp_path: Path) -> None:
    """A large copy that was not settled before the machine went down is no hit, and is pulled again."""
    version = fill_and("os._exit(0)", tmp_path)
    restart(version)
    cache = ArtifactCache(tmp_path)
    assert cache.find(Key("run", "a")) is None
    assert not cache.covers(Key("run", "a"))
    (artifact,) = list_artifacts(cache)
    assert artifact.status == "stale"
    assert "the machine stopped" in verify(artifact)[0]
    assert cache.fill(Key("run", "a"), lambda at: at.write_text("again")).read_text() == "again"
    assert cache.find(Key("run", "a")) is not None


@pytest.mark.parametrize("torn", [False, True])
def test_small_copy_after_a_restart(tmp_path: Path, torn: bool) -> None:
    """A copy that was hashed but not settled is served after a restart if it is what was hashed."""
    version = fill_and("os._exit(0)", tmp_path, 1 << 20)
    note = version / "sealed.json"
    if not is_unsettled(version):  # so small a one may be done before the process ends
        manifest = msgspec.json.decode((version / "manifest.json").read_bytes())
        note.write_bytes(msgspec.json.encode({**manifest, "boot": boot_id()}))
    (version / "manifest.json").write_bytes(b"")
    restart(version)
    content = version / "content" / "a"
    if torn:
        content.chmod(0o644)
        content.write_bytes(bytes(1 << 20))
    assert (ArtifactCache(tmp_path).find(Key("run", "a")) is None) == torn
    assert is_unsettled(version) == torn


@pytest.mark.parametrize("text", [b"", b'{"owner": "run", "pa', bytes(100)])
def test_torn_manifest(tmp_path: Path, text: bytes) -> None:
    """A copy whose manifest a power cut took is no hit."""
    version = fill_and("os._exit(0)", tmp_path)
    (version / "manifest.json").write_bytes(text)
    assert ArtifactCache(tmp_path).find(Key("run", "a")) is not None
    (version / "sealed.json").write_bytes(text)
    assert ArtifactCache(tmp_path).find(Key("run", "a")) is None


def test_changed_before_it_was_hashed(tmp_path: Path) -> None:
    """A file that was changed before it was hashed is found by verifying, and lent to nobody."""
    version = fill_and("os._exit(0)", tmp_path)
    content = version / "content" / "a"
    content.chmod(0o644)
    with content.open("r+b") as file:
        file.write(b"changed")
    cache = ArtifactCache(tmp_path)
    (artifact,) = list_artifacts(cache)
    assert verify(artifact) == ["a: other content than was pulled"]
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(CacheError, match="was changed"):
        cache.lend(content, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"


def test_removed_while_it_is_settled(tmp_path: Path) -> None:
    """Cleaning, trimming or deleting right after a pull waits for nothing, and leaves nothing."""
    cache = ArtifactCache(tmp_path / "cache")
    for round_ in range(12):
        cache.fill(Key("run", "a"), lambda at: at.write_bytes(bytes(LARGE)))
        if round_ % 3 == 0:
            cache.clean(Key("run", "a"))
        elif round_ % 3 == 1:
            assert len(trim(cache, 0).removed) == 1
        else:
            shutil.rmtree(cache.root)
        assert list_artifacts(cache) == []
        assert not list((cache.root / "artifacts").glob("run/*"))


def test_export_is_settled(tmp_path: Path) -> None:
    """What goes to other machines is hashed when it is made."""
    export = ArtifactCache(tmp_path, portable=True)
    copy = export.fill(Key("run", "a"), lambda at: at.write_bytes(bytes(LARGE)))
    manifest = read_manifest(copy.parent.parent)
    assert manifest is not None
    assert (manifest.boot, manifest.is_hashed) == ("", True)
