"""Several publishers to one place: the cached copy is what the repo holds, whoever came last."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.services.conftest import MakeService
from withrun.cache.artifacts import ArtifactCache
from withrun.cache.layout import Key
from withrun.schema import Run
from withrun.services.artifacts import of_run
from withrun.transfer.file_transfer import FileTransfer


class Hooked(FileTransfer):
    """Does something right before and right after each upload."""

    before: Callable[[], object] = bool
    after: Callable[[], object] = bool

    def push(self, source: Path, url: str, *, http: Any = None) -> None:
        self.before()
        super().push(source, url, http=http)
        self.after()


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """Two files of different content."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_text("mine")
    other.write_text("other")
    return mine, other


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("others_cache", [True, False])
@pytest.mark.parametrize("link", [True, False])
def test_published_meanwhile(
    make: MakeService, run: Run, sources: tuple[Path, Path], when: str, others_cache: bool, link: bool
) -> None:
    """Who finds that another published there during their own upload caches what the repo holds.

    Their source becomes no link to another's content.
    """
    mine, other = sources
    quick = make(cache_local_artifacts=True)
    hook = {when: lambda: quick.log(run, other, "x", use_cache=others_cache)}
    slow = make(cache_local_artifacts=True, transfer=Hooked(prog_bar=False, **hook))
    slow.log(run, mine, "x", allow_duplication=not link)
    held = (Path(run.repo_url) / "x").read_text()
    assert held == {"before": "mine", "after": "other"}[when]
    assert quick.is_cached(of_run(run, "x"))
    assert quick.get(of_run(run, "x")).read_text() == held
    assert (mine.read_text(), mine.is_symlink()) == ("mine", False)


def test_overlapping_uploads(make: MakeService, run: Run, sources: tuple[Path, Path]) -> None:
    """Of two that are in the midst of it at once, the one that is done first caches nothing that is wrong."""
    uploading, done = threading.Event(), threading.Event()
    slow = Hooked(prog_bar=False, before=uploading.set, after=lambda: done.wait(30))
    with ThreadPoolExecutor(1) as pool:
        service = make(cache_local_artifacts=True, transfer=slow)
        first = pool.submit(service.log, run, sources[0], "x")
        assert uploading.wait(30)
        make(cache_local_artifacts=True).log(run, sources[1], "x")
        done.set()
        first.result()
    assert service.get(of_run(run, "x")).read_text() == (Path(run.repo_url) / "x").read_text()


@pytest.mark.parametrize("folder", [False, True])
def test_many_publishers(make: MakeService, run: Run, tmp_path: Path, folder: bool) -> None:
    """However publishers and readers come in between each other, what is cached in the end is in the repo."""
    chance = random.Random(7)

    def rest() -> None:
        time.sleep(chance.random() * 0.01)

    def publish(number: int) -> None:
        service = make(
            cache=ArtifactCache(tmp_path / "cache"),
            cache_local_artifacts=True,
            transfer=Hooked(prog_bar=False, before=rest, after=rest),
        )
        source = tmp_path / f"source{number}"
        if folder:
            source.mkdir()
        for round_ in range(8):
            (source / "f" if folder else source).write_text(f"{number}.{round_}")
            if number % 4 == 3:
                service.load(of_run(run, "x"), lambda path: path.exists())
            else:
                service.log(run, source, "x", use_cache=number % 4 != 2)

    first = tmp_path / "first"
    first.mkdir()
    (first / "f").write_text("first")
    make().log(run, first if folder else first / "f", "x")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(publish, range(6)))
    where = of_run(run, "x/f" if folder else "x")
    held = (Path(run.repo_url) / where.path).read_text()
    for _ in range(2):
        assert make(cache_local_artifacts=True).get(where).read_text() == held


def test_other_paths_disturb_nothing(make: MakeService, run: Run, sources: tuple[Path, Path]) -> None:
    """What is published elsewhere in the run makes nobody pull what they published, or pull twice."""
    pulls: list[str] = []

    class Counting(Hooked):
        def pull(self, url: str, target: Path, *, http: Any = None) -> None:
            pulls.append(url)
            super().pull(url, target, http=http)
            elsewhere.log(run, sources[1], "z")

    elsewhere = make(cache_local_artifacts=True)
    beside = Counting(prog_bar=False, after=lambda: elsewhere.log(run, sources[1], "y"))
    service = make(cache_local_artifacts=True, transfer=beside)
    service.log(run, sources[0], "x")
    assert service.get(of_run(run, "x")).read_text() == "mine"
    assert pulls == []
    service.clean(of_run(run, "x"))
    assert service.get(of_run(run, "x")).read_text() == "mine"
    assert len(pulls) == 1


def test_a_long_log_of_changes(tmp_path: Path) -> None:
    """The log of a run that much is published to is begun anew, and pulls under way notice that."""
    cache = ArtifactCache(tmp_path)
    log = cache.log("run")
    cache.fill(Key("run", "a"), lambda at: at.write_text("x"))
    cache.forget(Key("run", "b"))
    mark = log.mark()
    assert not log.concerns(mark, "a")
    (tmp_path / "artifacts/run/changes").open("ab").write(b'["","c"]\n' * (1 << 17))
    assert not log.concerns(mark, "a")
    assert log.concerns(mark, "c/d")
    cache.forget(Key("run", "b"))
    assert (tmp_path / "artifacts/run/changes").stat().st_size < 100
    assert log.concerns(mark, "a")
    assert not log.concerns(log.mark(), "a")
