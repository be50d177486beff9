"""Getting, caching, loading, placing, exporting, listing and cleaning."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.services.conftest import MakeService
from withrun.cache.artifacts import ArtifactCache
from withrun.cache.layout import Key
from withrun.cache.trim import list_artifacts, trim
from withrun.errors import (
    ArtifactNotCached,
    ArtifactNotFound,
    CacheError,
    IllegalPath,
    InvalidArgument,
    OfflineError,
)
from withrun.schema import Experiment, Model, ModelVersion, Run
from withrun.services.artifacts import ArtifactService, of_run, of_version


@pytest.fixture
def repo(run: Run) -> Path:
    """The run's folder, with some files."""
    root = Path(run.repo_url)
    (root / "a" / "deep").mkdir(parents=True)
    (root / "a" / "b.txt").write_text("b")
    (root / "a" / "deep" / "c.txt").write_text("c")
    (root / "top.txt").write_text("top")
    return root


def writable(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o222)


def test_local_repos_are_used_where_they_lie(direct: ArtifactService, run: Run, repo: Path) -> None:
    """By default `get` and `cache` of a local artifact return its path in the repo, unchanged."""
    assert direct.get(of_run(run, "a/b.txt")) == repo / "a/b.txt"
    assert direct.cache(of_run(run)) == repo
    assert writable(repo / "a/b.txt")


def test_cached_copies_are_protected(cached: ArtifactService, run: Run, repo: Path) -> None:
    """A cached copy's files are write-protected, its folders are not, and the repo is left as it was."""
    got = cached.get(of_run(run, "a"))
    assert got.name == "a"
    assert not got.is_relative_to(repo)
    assert not writable(got / "b.txt")
    assert writable(got / "deep")
    assert writable(repo / "a/b.txt")


def test_partial_caching(cached: ArtifactService, run: Run, repo: Path) -> None:
    """A cached file does not make its folder a hit; a cached folder makes hits of all in it."""
    cached.get(of_run(run, "a/b.txt"))
    assert sorted(p.name for p in cached.get(of_run(run, "a")).iterdir()) == ["b.txt", "deep"]
    (repo / "a/deep/c.txt").unlink()
    assert cached.get(of_run(run, "a/deep/c.txt")).read_text() == "c"
    assert (cached.get(of_run(run)) / "top.txt").read_text() == "top"


def test_the_newer_copy_counts(cached: ArtifactService, run: Run, repo: Path) -> None:
    """After a folder was pulled anew, its files are served from it, not from older copies of their own."""
    cached.get(of_run(run, "a/b.txt"))
    (repo / "a/b.txt").write_text("new")
    cached.cache(of_run(run, "a"))
    assert cached.get(of_run(run, "a/b.txt")).read_text() == "new"


def test_cache_pulls_again(cached: ArtifactService, run: Run, repo: Path) -> None:
    """`get` serves the copy, `cache` replaces it, and a path given out just before still reads."""
    old = cached.get(of_run(run, "a"))
    (repo / "a/b.txt").unlink()
    (repo / "a/new.txt").write_text("new")
    assert cached.get(of_run(run, "a")) == old
    new = cached.cache(of_run(run, "a"))
    assert sorted(p.name for p in new.iterdir()) == ["deep", "new.txt"]
    assert (old / "b.txt").read_text() == "b"
    assert cached.get(of_run(run, "a")) == new


def test_always_pull(make: MakeService, run: Run, repo: Path) -> None:
    """`always_pull_artifacts` fetches anew on a hit."""
    service = make(cache_local_artifacts=True, always_pull_artifacts=True)
    service.get(of_run(run, "top.txt"))
    (repo / "top.txt").write_text("again")
    assert service.load(of_run(run, "top.txt"), Path.read_text) == "again"


@pytest.mark.parametrize("cache_local", [True, False])
def test_missing(make: MakeService, run: Run, repo: Path, cache_local: bool) -> None:
    """What is not there is ArtifactNotFound for every verb, and leaves no trace in the cache."""
    service = make(cache_local_artifacts=cache_local)
    for verb in (service.get, service.cache, service.list):
        with pytest.raises(ArtifactNotFound, match="nope"):
            verb(of_run(run, "nope"))
    assert not service.exists(of_run(run, "nope"))
    assert service.exists(of_run(run, "a/b.txt"))


def test_run_without_artifacts(direct: ArtifactService, run: Run) -> None:
    """A run that has published nothing lists as empty."""
    assert direct.list(of_run(run)) == []
    assert not direct.exists(of_run(run))


def test_repo_symlink_out(direct: ArtifactService, run: Run, repo: Path, tmp_path: Path) -> None:
    """A symlink in a local repo that leads out of it is not followed."""
    (tmp_path / "secret").write_text("s")
    (repo / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(IllegalPath):
        direct.get(of_run(run, "link"))


def test_planted_links_are_not_listed_or_pulled(
    direct: ArtifactService, cached: ArtifactService, run: Run, repo: Path, tmp_path: Path
) -> None:
    """A link out of the run's folder is not followed, as the path asked for nor below it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("theirs")
    (repo / "pl").mkdir()
    (repo / "pl" / "sub").symlink_to(tmp_path / "outside")
    for call in (
        lambda: direct.list(of_run(run, "pl/sub")),
        lambda: direct.exists(of_run(run, "pl/sub")),
        lambda: cached.get(of_run(run, "pl/sub")),
        lambda: cached.get(of_run(run, "pl")),
    ):
        with pytest.raises(IllegalPath):
            call()
    assert not list((tmp_path / "cache").rglob("secret"))


def test_load(cached: ArtifactService, run: Run, repo: Path) -> None:
    """`load` returns what the loader returns, and its errors pass."""
    assert cached.load(of_run(run, "a/b.txt"), Path.read_text) == "b"
    with pytest.raises(json.JSONDecodeError):
        cached.load(of_run(run, "a/b.txt"), lambda path: json.loads(path.read_text()))


class TrimmedAtOnce(ArtifactCache):
    """A cache that is made empty right before each copy is taken hold of."""

    @contextlib.contextmanager
    def reading(self, key: Key) -> Iterator[Path | None]:
        trim(ArtifactCache(self.root), 0)
        with super().reading(key) as held:
            yield held


def test_what_is_read_is_whole(make: MakeService, run: Run, repo: Path, tmp_path: Path) -> None:
    """A folder that is trimmed away right before and during `load`, `place` or `export` is served whole."""
    cache = TrimmedAtOnce(tmp_path / "cache")
    service = make(cache=cache, cache_local_artifacts=True)

    def names(path: Path) -> list[str]:
        trim(cache, 0)
        return sorted(p.name for p in path.rglob("*"))

    whole = ["b.txt", "c.txt", "deep"]
    assert service.load(of_run(run, "a"), names) == whole
    assert service.load(of_run(run, "a/deep"), names) == ["c.txt"]
    assert names(service.place(of_run(run, "a"), tmp_path / "copied", link=False)) == whole
    assert names(service.place(of_run(run, "a"), tmp_path / "linked") / "") == whole
    assert names(service.export(of_run(run, "a"), tmp_path / "export")) == whole
    assert service.load(of_run(run, "a/b.txt"), Path.read_text) == "b"


def test_reading_beside_trimming(make: MakeService, run: Run, repo: Path, tmp_path: Path) -> None:
    """Threads that load a folder, while others trim without pause, see all of it each time."""
    for index in range(30):
        (repo / "a" / str(index)).write_text("x")
    service = make(cache_local_artifacts=True)
    until = time.monotonic() + 0.5

    def load(_: int) -> set[int]:
        seen = set()
        while True:  # once at least, however slow the machine is
            seen.add(service.load(of_run(run, "a"), lambda path: len(list(path.rglob("*")))))
            if time.monotonic() >= until:
                return seen

    with ThreadPoolExecutor(2) as pool:
        loading = pool.map(load, range(2))
        while time.monotonic() < until:
            trim(ArtifactCache(tmp_path / "cache"), 0)
        assert set().union(*loading) == {33}


def test_list(direct: ArtifactService, run: Run, repo: Path) -> None:
    """A folder lists as ObjMetas, a file as its own."""
    listed = direct.list(of_run(run, "a"))
    assert isinstance(listed, list)
    assert {(meta.Name, meta.IsDir) for meta in listed} == {("b.txt", False), ("deep", True)}
    one = direct.list(of_run(run, "a/b.txt"))
    assert not isinstance(one, list)
    assert (one.Name, one.Size) == ("b.txt", 1)


# --- place ---


@pytest.mark.parametrize("path", ["a", "a/b.txt"])
@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("cache_local", [True, False])
def test_place(
    make: MakeService, run: Run, repo: Path, tmp_path: Path, cache_local: bool, link: bool, path: str
) -> None:
    """Artifacts are placed as links or protected copies, never over what is there unless told so."""
    service = make(cache_local_artifacts=cache_local)
    target = tmp_path / "new" / "t"
    service.place(of_run(run, path), target, link=link)
    file = target / "b.txt" if path == "a" else target
    assert file.read_text() == "b"
    assert target.is_symlink() == link
    assert writable(file) == (link and not cache_local)
    assert writable(repo / "a/b.txt")
    with pytest.raises(FileExistsError, match="overwrite"):
        service.place(of_run(run, path), target, link=link)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("x")
    service.place(of_run(run, path), other, overwrite=True, link=not link)
    assert (other / "b.txt" if path == "a" else other).read_text() == "b"
    service.place(of_run(run, path), target, overwrite=True, link=not link)
    assert file.read_text() == "b"
    assert sorted(p.name for p in tmp_path.glob(".withrun*")) == []


def test_place_fails_whole(cached: ArtifactService, run: Run, repo: Path, tmp_path: Path) -> None:
    """When the artifact is missing, what is at the target stays."""
    (tmp_path / "t").write_text("mine")
    with pytest.raises(ArtifactNotFound):
        cached.place(of_run(run, "nope"), tmp_path / "t", overwrite=True)
    assert (tmp_path / "t").read_text() == "mine"


def test_place_over_itself(make: MakeService, run: Run, repo: Path, tmp_path: Path) -> None:
    """A target that holds, or lies in, the artifact's own home is refused."""
    for service, home in ((make(), repo), (make(cache_local_artifacts=True), tmp_path / "cache")):
        for target in (home, tmp_path, service.get(of_run(run, "a")) / "inner"):
            with pytest.raises(InvalidArgument, match="overlaps"):
                service.place(of_run(run, "a"), target, overwrite=True, link=False)
    assert (repo / "a/b.txt").read_text() == "b"


def test_place_over_the_caches_own(make: MakeService, run: Run, repo: Path, tmp_path: Path) -> None:
    """The folders of the cache and of the journal are no targets; other places in the cache folder are."""
    journal = tmp_path / "journal"
    for folder in ("metadata", "locks", "staging", "artifacts", "temp-artifacts"):
        (tmp_path / "cache" / folder).mkdir(parents=True, exist_ok=True)
    for cache_local in (True, False):
        service = make(
            cache_local_artifacts=cache_local,
            journal_dir=journal,
            temp_artifacts_dir=tmp_path / "cache" / "temp-artifacts",
        )
        for target in (*sorted((tmp_path / "cache").iterdir()), tmp_path / "cache/metadata/runs", journal):
            for link in (True, False):
                with pytest.raises(InvalidArgument, match="overlaps"):
                    service.place(of_run(run, "a"), target, overwrite=True, link=link)
        service.place(of_run(run, "a"), tmp_path / "cache" / "mine")
        (tmp_path / "cache" / "mine").unlink()


def test_placed_link_follows_new_copies(
    cached: ArtifactService, run: Run, repo: Path, tmp_path: Path
) -> None:
    """A placed link leads to the current copy, also after older ones are gone."""
    cached.place(of_run(run, "a/b.txt"), tmp_path / "t")
    for content in "123":
        (repo / "a/b.txt").write_text(content)
        cached.cache(of_run(run, "a/b.txt"))
        assert (tmp_path / "t").read_text() == content


def test_placed_link_outlives_publishing(
    cached: ArtifactService, run: Run, repo: Path, tmp_path: Path
) -> None:
    """A placed link leads to what it did though more was published to the run, and then to the next pull."""
    cached.place(of_run(run, "a"), tmp_path / "t")
    (tmp_path / "new").write_text("new")
    for index in range(2):
        cached.log(run, tmp_path / "new", f"a/new{index}", use_cache=False)
        assert (tmp_path / "t" / "b.txt").read_text() == "b"
    assert (cached.get(of_run(run, "a")) / "new1").read_text() == "new"
    assert (tmp_path / "t" / "new1").read_text() == "new"


def test_placed_link_outlives_trimming(cached: ArtifactService, run: Run, repo: Path, tmp_path: Path) -> None:
    """Trimming leaves what a placed link leads to, until the link is removed; an export's as well."""
    cached.place(of_run(run, "a"), tmp_path / "t")
    cached.log(run, repo / "top.txt", "a/top", use_cache=False)
    cache = ArtifactCache(tmp_path / "cache")
    assert [a.key and a.key.path for a in trim(cache, 0).in_use] == ["a"]
    assert (tmp_path / "t" / "b.txt").read_text() == "b"
    (tmp_path / "t").unlink()
    trim(cache, 0)
    assert list_artifacts(cache) == []


def test_placed_from_an_export(make: MakeService, run: Run, repo: Path, tmp_path: Path) -> None:
    """A link placed from an export keeps leading somewhere when the export becomes a cache."""
    make().export(of_run(run, "a"), tmp_path / "export")
    service = make(cache=ArtifactCache(tmp_path / "export"), cache_local_artifacts=True)
    service.place(of_run(run, "a"), tmp_path / "t")
    service.log(run, repo / "top.txt", "a/top", use_cache=False)
    assert (tmp_path / "t" / "b.txt").read_text() == "b"
    service.get(of_run(run, "a"))
    assert (tmp_path / "t" / "top").read_text() == "top"


def test_place_in_the_runs_folder(direct: ArtifactService, run: Run, repo: Path) -> None:
    """Nothing is placed in the run's own repo, where it would be an artifact."""
    with pytest.raises(InvalidArgument, match="overlaps"):
        direct.place(of_run(run, "a/b.txt"), repo / "other.txt")
    assert not (repo / "other.txt").exists()


# --- export, offline ---


def test_export_serves_offline(make: MakeService, run: Run, repo: Path, tmp_path: Path) -> None:
    """An export works as the cache of an offline service when the repo is gone, and holds no links."""
    target = tmp_path / "export"
    for service in (make(), make(cache_local_artifacts=True)):
        service.export(of_run(run, "a"), target)  # the second replaces the first
    at = make().export(of_run(run, "top.txt"), target)
    assert at.read_text() == "top"
    assert not any(p.is_symlink() for p in target.rglob("*"))
    repo.rename(tmp_path / "moved")
    offline = make(cache=ArtifactCache(target), offline_mode=True)
    assert offline.get(of_run(run, "a/deep/c.txt")).read_text() == "c"
    assert offline.load(of_run(run, "top.txt"), Path.read_text) == "top"
    listed = offline.list(of_run(run, "a"))
    assert isinstance(listed, list)
    assert {meta.Name for meta in listed} == {"b.txt", "deep"}


@pytest.mark.parametrize("first", ["a", "a/b.txt"])
def test_newest_export_counts(make: MakeService, run: Run, repo: Path, tmp_path: Path, first: str) -> None:
    """Where exports of a folder and of a file in it overlap, the newer one is served."""
    make().export(of_run(run, first), tmp_path / "export")
    (repo / "a/b.txt").write_text("new")
    make().export(of_run(run, "a/b.txt" if first == "a" else "a"), tmp_path / "export")
    offline = make(cache=ArtifactCache(tmp_path / "export"), offline_mode=True)
    assert offline.get(of_run(run, "a/b.txt")).read_text() == "new"


def test_export_into_the_cache(cached: ArtifactService, run: Run, repo: Path, tmp_path: Path) -> None:
    """The cache itself is no target for an export."""
    with pytest.raises(InvalidArgument, match="cache itself"):
        cached.export(of_run(run, "a"), tmp_path / "cache")


def test_offline_rules(make: MakeService, run: Run, repo: Path) -> None:
    """Offline, only what is cached is served, unless pulling is allowed; errors tell unknown from absent."""
    make(cache_local_artifacts=True).get(of_run(run, "a"))
    offline = make(cache_local_artifacts=True, offline_mode=True, always_pull_artifacts=True)
    assert offline.get(of_run(run, "a/b.txt")).read_text() == "b"
    with pytest.raises(ArtifactNotCached, match="pull_artifacts_in_offline_mode") as caught:
        offline.get(of_run(run, "top.txt"))
    assert isinstance(caught.value, OfflineError)
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(ArtifactNotFound) as absent:
        offline.get(of_run(run, "a/zzz"))
    assert not isinstance(absent.value, OfflineError)
    with pytest.raises(OfflineError):
        offline.cache(of_run(run, "top.txt"))
    pulling = make(cache_local_artifacts=True, offline_mode=True, pull_artifacts_in_offline_mode=True)
    assert pulling.get(of_run(run, "top.txt")).read_text() == "top"


# --- cleaning ---


def test_clean(cached: ArtifactService, run: Run, repo: Path, tmp_path: Path) -> None:
    """Cleaning removes the copies of an artifact, of what holds it and of what is in it, and no others."""
    for path in ("a/b.txt", "a/deep", "a", "top.txt"):
        cached.get(of_run(run, path))
    (repo / "a/b.txt").write_text("changed")
    (repo / "top.txt").write_text("changed")
    cached.clean(of_run(run, "a/b.txt"))
    assert cached.get(of_run(run, "a/b.txt")).read_text() == "changed"
    assert cached.get(of_run(run, "top.txt")).read_text() == "top"
    cached.clean_all()
    assert list((tmp_path / "cache" / "artifacts").rglob("*")) == []
    cached.clean_all()


# --- model versions ---


def test_versions(cached: ArtifactService, run: Run, repo: Path, tmp_path: Path) -> None:
    """A version's artifact is found in its run, or at a source outside of it, a single file by its name."""
    model = Model(name="m")
    inside = ModelVersion(version="1", model=model, run=run, path_in_run="a")
    assert (cached.get(of_version(inside)) / "b.txt").read_text() == "b"
    assert [m.Name for m in cached.list(of_version(inside).below("deep"))] == ["c.txt"]  # type: ignore[union-attr]
    outside = ModelVersion(version="2", model=model, source=(repo / "a").as_uri())
    assert (cached.get(of_version(outside)) / "b.txt").read_text() == "b"
    with pytest.raises(IllegalPath):
        of_version(inside).below("../x")
    with pytest.raises(ArtifactNotFound, match="model 'm'"):
        of_version(ModelVersion(version="3", model=model))


# --- speed ---


@pytest.mark.parametrize("path", ["top.txt", "a/deep/c.txt"])
def test_a_hit_is_quick(cached: ArtifactService, run: Run, repo: Path, path: str) -> None:
    """A warm `get` of a file takes under 100 us (median) and asks the repo nothing."""
    cached.get(of_run(run, path))
    repo.rename(repo.with_name("away"))
    times = []
    for _ in range(2000):
        start = time.perf_counter()
        cached.get(of_run(run, path))
        times.append(time.perf_counter() - start)
    assert sorted(times)[1000] < 100e-6


# --- hostile names ---

HOSTILE_IDS = [
    "..",
    ".",
    "../../x",
    "/etc",
    "a/b",
    "",
    "~",
    "@x",
    "A" * 400,
    "\0",
    "x\ny",
    "$(id)",
    "-rf",
    "é",
]


@pytest.mark.parametrize("run_id", HOSTILE_IDS)
def test_hostile_run_ids(cached: ArtifactService, run: Run, repo: Path, tmp_path: Path, run_id: str) -> None:
    """Whatever a server calls a run, its copies lie inside the cache and are told from others'."""
    hostile = Run(id=run_id, name="x", exp=Experiment(id="0", name="d"), repo_url=run.repo_url)
    got = cached.get(of_run(hostile, "a/b.txt"))
    assert Path(os.path.realpath(got)).is_relative_to(tmp_path / "cache" / "artifacts")
    assert got != cached.get(of_run(run, "a/b.txt"))
    cached.clean(of_run(hostile))
    assert (tmp_path / "repo").exists()


HOSTILE_NAMES = [
    ".lock", "current", "part", "changes", "manifest.json", "path.json", "lent", "content", "~", "-rf",
    "$(touch x)", "`id`", 'a"b',
    "new\nline", "ab:c", "...", "..a", " ", "%2e%2e", "é", "x" * 250, "v" + "0" * 16, "*", "?",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names(cached: ArtifactService, run: Run, tmp_path: Path, name: str) -> None:
    """Any name that a file system takes is served like another, as file, as folder and inside one."""
    root = Path(run.repo_url)
    (root / name).mkdir(parents=True)
    (root / name / name).write_text("x")
    (root / "f").mkdir()
    (root / "f" / name).write_text("y")
    assert cached.get(of_run(run, f"{name}/{name}")).read_text() == "x"
    assert (cached.get(of_run(run, name)) / name).read_text() == "x"
    assert cached.get(of_run(run, f"f/{name}")).read_text() == "y"
    assert (cached.get(of_run(run)) / name / name).read_text() == "x"
    assert cached.get(of_run(run, f"{name}/{name}")).is_relative_to(tmp_path / "cache")
    cached.clean(of_run(run, name))
    assert cached.get(of_run(run, f"f/{name}")).read_text() == "y"


def test_tampered_cache(cached: ArtifactService, run: Run, repo: Path, tmp_path: Path) -> None:
    """A pointer or file that somebody made a link to elsewhere is no hit; a pulled link is refused."""
    got = cached.get(of_run(run, "a/b.txt"))
    got.unlink()
    (tmp_path / "secret").write_text("s")
    got.symlink_to(tmp_path / "secret")
    assert cached.get(of_run(run, "a/b.txt")).read_text() == "b"
    with pytest.raises(CacheError):
        ArtifactCache(tmp_path / "c2").fill(of_run(run, "l").key, lambda at: at.symlink_to("/etc/passwd"))
