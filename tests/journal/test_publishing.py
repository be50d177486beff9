"""Publishing from the spool: tried again, refused, kept; by a publisher that copies real files."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from withrun.errors import FailedToPublishArtifact, InvalidArgument, TransferError, WithrunError
from withrun.journal import ArtifactIntent, Journal, RunLog, VersionIntent, recover
from withrun.providers.mlflow.store import StoreBackend

from .conftest import intent

OpenWith = Callable[..., Journal]


class Copier:
    """Publishes into a folder; fails first as often, and in the way, that it is told."""

    def __init__(self, repo: Path, failures: int = 0, error: WithrunError | None = None) -> None:
        self.repo = repo
        self.failures = failures
        self.error = error
        self.attempts = 0

    def publish_artifact(self, wanted: ArtifactIntent, source: Path, run_id: str) -> None:
        self.attempts += 1
        if self.error is not None and self.attempts <= self.failures:
            raise self.error
        target = self.repo / run_id / wanted.path_in_run
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    def publish_version(
        self, wanted: VersionIntent, source: Path | None, run_id: str, resolve: Callable[[str], str]
    ) -> str:
        raise InvalidArgument("this registry takes no versions")


@pytest.fixture
def open_with(tmp_path: Path, store_uri: str) -> Iterator[OpenWith]:
    made: list[Journal] = []

    def make(publisher: Copier) -> Journal:
        journal = Journal(
            tmp_path / "journal",
            store_uri,
            connect=lambda: StoreBackend(store_uri),
            publisher=lambda _: publisher,
            threads=1,
        )
        made.append(journal)
        return journal

    yield make
    for journal in made:
        journal.close(exit_timeout=0.5)


def spool_one(journal: Journal, log: RunLog) -> Path:
    spooled = journal.spool / "1" / "weights.bin"
    spooled.parent.mkdir(parents=True)
    spooled.write_bytes(b"123")
    log.artifact(ArtifactIntent("1/weights.bin", "model/weights.bin"))
    return spooled


def wrapped(cause: WithrunError) -> FailedToPublishArtifact:
    error = FailedToPublishArtifact("could not publish", source=Path("x"))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [TransferError("cut off"), wrapped(TransferError("cut off"))])
def test_a_transfer_that_fails_is_tried_again(
    open_with: OpenWith, tmp_path: Path, error: WithrunError
) -> None:
    """After three failures the file is published, nothing is refused, and its spooled copy is gone."""
    publisher = Copier(tmp_path / "repo", 3, error)
    journal = open_with(publisher)
    log = journal.owned.create(intent())
    spooled = spool_one(journal, log)
    assert journal.flush(exit_timeout=30)
    assert (log.delivery.refused, log.delivery.pending, publisher.attempts) == (0, 0, 4)
    assert (tmp_path / "repo" / log.run_id / "model" / "weights.bin").read_bytes() == b"123"
    assert not spooled.exists()


def test_what_is_refused_outlives_the_journal(open_with: OpenWith, tmp_path: Path) -> None:
    """A refused publish is not tried again; its file is kept, and named, when the journal is gone."""
    publisher = Copier(tmp_path / "repo", 1, InvalidArgument("not here"))
    journal = open_with(publisher)
    log = journal.owned.create(intent())
    spool_one(journal, log)
    (journal.spool / "v").write_bytes(b"456")
    log.version(VersionIntent("0" * 32, "digits", "model", spooled="v"))
    log.metric("x", 1.0, 1)
    assert journal.flush(exit_timeout=30)
    assert (publisher.attempts, log.delivery.refused, log.delivery.pending) == (1, 2, 0)
    assert journal.close()
    assert list(journal.store_folder.rglob("lock")) == []
    [listed] = journal.store_folder.glob("refused/*.jsonl")
    reasons = [json.loads(line)["reason"] for line in listed.read_text().splitlines()]
    kept = [Path(reason.rpartition(" kept in ")[2]) for reason in reasons]
    assert [path.read_bytes() for path in kept] == [b"123", b"456"]


def test_a_transfer_that_never_works_does_not_hold_up_recovery(
    tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery sets it aside after seven attempts, keeps the file, and delivers all else."""
    monkeypatch.setattr("withrun.journal.retry._FIRST", 0.01)
    offline = Journal(tmp_path / "journal", store_uri)
    log = offline.owned.create_locally(intent())
    spool_one(offline, log)
    log.metric("x", 1.0, 1)
    offline.close()
    publisher = Copier(tmp_path / "repo", 1_000, TransferError("denied"))
    backend = StoreBackend(store_uri)
    report = recover(tmp_path / "journal", store_uri, backend, publisher=publisher, patience=0.1, threads=1)
    backend.close()
    assert (report.journals, report.refused, report.left, publisher.attempts) == (1, 1, {}, 7)
    [kept] = offline.store_folder.glob("refused/*.spool/1/weights.bin")
    assert kept.read_bytes() == b"123"


def test_a_user_s_own_file_is_left_where_it_is(open_with: OpenWith, tmp_path: Path) -> None:
    """An intent that names a file outside the spool deletes or moves it neither published nor refused."""
    own = tmp_path / "own.bin"
    own.write_bytes(b"789")
    journal = open_with(Copier(tmp_path / "repo", 1, InvalidArgument("no")))
    log = journal.owned.create(intent())
    for _ in range(2):
        log.artifact(ArtifactIntent(str(own), "own.bin"))
    assert journal.flush(exit_timeout=30)
    assert (log.delivery.delivered, log.delivery.refused) == (1, 1)
    assert own.read_bytes() == b"789"


def test_a_power_cut_finds_every_segment_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two syncs every segment that was written, the ledger and the spool are forced to the disk."""
    synced: set[str] = set()

    def note(path: Path) -> None:
        synced.add(path.name)

    # What reaches the platter can't be seen from here; that each file is handed to fsync can.
    monkeypatch.setattr("withrun.journal.syncer._sync", note)
    journal = Journal(tmp_path / "journal", "https://nowhere.test", durability="power")
    log = journal.run("abc")
    for step in range(60_000):
        log.metric("loss", 1.0, 1_700_000_000_000, step)
    (journal.spool / "a").write_bytes(b"1")
    deadline = time.monotonic() + 10
    wanted = {path.name for path in journal.store_folder.rglob("*.seg")} | {"a", "runs.log", "spool"}
    assert len(wanted) > 5
    while not wanted <= synced and time.monotonic() < deadline:
        time.sleep(0.05)
    assert wanted <= synced
    journal.close()
