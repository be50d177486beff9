"""`withrun cache`, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import withrun
from tests.servers import clean_env
from withrun.cache.artifacts import ArtifactCache
from withrun.cache.layout import Key

KB = 1000


def cli(*args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "withrun.cli", "cache", *map(str, args)],
        cwd=cwd,
        env=clean_env(**env),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def put(folder: Path, path: str, size: int, *, age: float = 0) -> Path:
    copy = ArtifactCache(folder).fill(Key("run", path), lambda at: at.write_bytes(bytes(size)) and None)
    then = time.time() - age
    os.utime(copy.parent.parent, (then, then))
    return copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache of three artifacts of 100 kB each, and metadata."""
    cache = tmp_path / "cache"
    for number in (1, 2, 3):
        put(cache, f"folder/{number}", 100 * KB, age=3600 * (4 - number))
    (cache / "metadata" / "runs").mkdir(parents=True)
    (cache / "metadata" / "runs" / "r.json").write_text("{}")
    return cache


def left(folder: Path) -> list[str]:
    cache = ArtifactCache(folder)
    return [str(n) for n in (1, 2, 3) if cache.covers(Key("run", f"folder/{n}"))]  # notes no use


def test_list(folder: Path, tmp_path: Path) -> None:
    """The listing has a line per artifact, the least recently used first, and a sum."""
    answer = cli("list", "--cache-dir", folder, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    head, *rows, total = answer.stdout.splitlines()
    assert head.split() == ["SIZE", "FILES", "LAST", "USE", "STATUS", "ARTIFACT"]
    assert [row.split()[-1] for row in rows] == ["run/folder/1", "run/folder/2", "run/folder/3"]
    assert all(row.startswith("100.") and " ok " in row for row in rows)
    assert total.startswith("3 artifacts, 300.")


def test_names_change_nothing_of_the_terminal(tmp_path: Path) -> None:
    """Control characters in a name are shown by their codes."""
    put(tmp_path / "cache", "a\x1b[31m\nb", 10)
    answer = cli("list", "--cache-dir", "cache", cwd=tmp_path)
    assert "run/a\\x1b[31m\\nb" in answer.stdout


def test_trim(folder: Path, tmp_path: Path) -> None:
    """Trimming removes the least recently used until the rest fits; a dry run tells the same."""
    for dry in (["--dry-run"], []):
        answer = cli("trim", "--max-size", "250kB", "--cache-dir", folder, *dry, cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr
        assert "run/folder/1" in answer.stdout
        assert "run/folder/2" not in answer.stdout
        assert ("would be removed" in answer.stdout) == bool(dry)
        assert left(folder) == (["1", "2", "3"] if dry else ["2", "3"])
    assert cli("trim", "--max-size", "0", "--cache-dir", folder, cwd=tmp_path).returncode == 0
    assert left(folder) == []
    assert (folder / "metadata" / "runs" / "r.json").exists()


def test_trim_spares_what_is_used(folder: Path, tmp_path: Path) -> None:
    """What is being read stays, and the exit code tells that the rest is too large; so with recent use."""
    with ArtifactCache(folder).reading(Key("run", "folder/1")):
        answer = cli("trim", "--max-size", "0", "--cache-dir", folder, cwd=tmp_path)
    assert (answer.returncode, left(folder)) == (1, ["1"])
    assert "1 artifact in use" in answer.stderr
    put(folder, "folder/2", 10)
    cli("trim", "--max-size", "0", "--spare-recent", "600", "--cache-dir", folder, cwd=tmp_path)
    assert left(folder) == ["1", "2"]  # 1 was just read


@pytest.mark.parametrize(
    ("size", "fits"),
    [("299kB", False), ("1MB", True), ("0.5 MiB", True), ("1g", True), ("1000", False), ("310k", True)],
)
def test_sizes(folder: Path, tmp_path: Path, size: str, fits: bool) -> None:
    """Sizes are bytes, or have a decimal or binary unit in any case."""
    answer = cli("trim", "--max-size", size, "--cache-dir", folder, "--dry-run", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("0 artifacts") == fits


@pytest.mark.parametrize("size", ["", "much", "-1", "1 XB", "1e3", "nan", "1.2.3MB"])
def test_no_size(folder: Path, tmp_path: Path, size: str) -> None:
    """What is no size is a usage error, and nothing is removed."""
    answer = cli("trim", f"--max-size={size}", "--cache-dir", folder, cwd=tmp_path)
    assert answer.returncode == 2
    assert "is no size" in answer.stderr
    assert left(folder) == ["1", "2", "3"]


def test_verify(folder: Path, tmp_path: Path) -> None:
    """Damage is named and makes the exit code 1; `--remove` removes what is damaged and nothing else."""
    assert cli("verify", "--cache-dir", folder, cwd=tmp_path).returncode == 0
    copy = ArtifactCache(folder).find(Key("run", "folder/2"))
    assert copy is not None
    copy.chmod(0o644)
    copy.write_bytes(b"x" * 100 * KB)
    answer = cli("verify", "--cache-dir", folder, cwd=tmp_path)
    assert answer.returncode == 1
    assert "damaged: run/folder/2" in answer.stdout
    answer = cli("verify", "--remove", "--cache-dir", folder, cwd=tmp_path)
    assert (answer.returncode, left(folder)) == (0, ["1", "3"])
    assert "(removed)" in answer.stdout


def test_default_cache_of_a_store(tmp_path: Path) -> None:
    """A store's URI, or none, means the cache that its API uses; the store need not be reachable."""
    home = {"XDG_CACHE_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)}
    uri = "http://127.0.0.1:9"
    answer = cli("list", "--tracking-uri", uri, cwd=tmp_path, **home)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("0 artifacts")
    cache = Path(answer.stdout.strip().rpartition(" in ")[2])
    assert cache.is_relative_to(tmp_path / "xdg")
    put(cache, "a", 10)
    assert "run/a" in cli("list", "--tracking-uri", uri, cwd=tmp_path, **home).stdout
    assert "run/a" in cli("list", cwd=tmp_path, **home, WITHRUN_CONF_TRACKING_URI=uri).stdout
    assert "run/a" in cli("list", cwd=tmp_path, **home, WITHRUN_CONF_CACHE_DIR=str(cache)).stdout
    assert cli("list", cwd=tmp_path, **home).stdout.startswith("0 artifacts")
    assert not (tmp_path / "mlflow.db").exists()


def test_bad_options(folder: Path, tmp_path: Path) -> None:
    """A folder that is not there, two caches at once and a missing size are usage errors."""
    for args in (
        ["list", "--cache-dir", tmp_path / "nothing"],
        ["list", "--cache-dir", folder, "--tracking-uri", "http://x"],
        ["trim", "--cache-dir", folder],
    ):
        answer = cli(*args, cwd=tmp_path)
        assert answer.returncode == 2, answer.stdout
        assert "Traceback" not in answer.stderr


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    """Where an `artifacts/` of the user's own lies in the cache folder, no cleaning touches it."""
    cache = tmp_path / "project"
    mine = cache / "artifacts" / "0" / ("a" * 32) / "artifacts" / "model.pkl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    notes = cache / "metadata" / "runs" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine too")
    put(cache, "a", 10)
    api = withrun.get_api("generic", conf={"cache_dir": cache})
    assert cli("trim", "--max-size", "0", "--cache-dir", cache, cwd=tmp_path).returncode == 0
    put(cache, "a", 10)
    api.clean_all_cache()
    assert ArtifactCache(cache).find(Key("run", "a")) is None
    assert (mine.read_text(), notes.read_text()) == ("mine", "mine too")
