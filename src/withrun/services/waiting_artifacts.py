"""Where artifacts wait for a server that does not know their run yet, or just does not answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from withrun.journal import ArtifactIntent, Hold, Journal, RunLog, new_uid
from withrun.journal.disk import write_private
from withrun.journal.spool import artifact_folder, artifact_folders, complete

__all__ = ["Spool", "repo_in", "spool_file"]


@dataclass(frozen=True)
class Spool:
    """Where the artifacts of a run that the server does not know yet wait, and how they are announced.

    Attributes:
        folder: the run's artifact folder till then; what is published is to lie there first.
        log: the run's log.
        hold: keeps the journal that the folder lies in open, so that it takes the announcement too.
    """

    folder: Path
    log: RunLog
    hold: Hold

    def add(self, path_in_run: str) -> None:
        """Have what lies at that path published once the run is on the server."""
        with self.hold:
            self.log.artifact(ArtifactIntent(self.name(path_in_run), path_in_run))

    def name(self, path_in_run: str) -> str:
        """How the journal names what lies at that path."""
        return "/".join(("runs", self.log.run_id, "artifacts", *filter(None, [path_in_run])))


def repo_in(journal: Journal, run_id: str) -> Path:
    """The folder that keeps the artifacts of a run as long as the server does not know it.

    What was logged to the run before, by others or before a pause, is in it too.
    """
    folder = artifact_folder(journal.spool.parent, run_id)
    if not folder.is_dir():
        complete(folder, artifact_folders(journal.store_folder, run_id))
    journal.let_go()  # that of a run which is not open is not needed for its name alone
    return folder


def spool_file(journal: Journal, spool: Spool | None, log: RunLog, path_in_run: str, content: bytes) -> None:
    """Have a file of that content published to a run, after all that was logged before.

    Args:
        journal: the run's.
        spool: where its artifacts wait, if the server does not know it.
        log: the run's log.
        path_in_run: where it is to be.
        content: of the file.

    Raises:
        JournalError: it can't be kept on this machine's disk.
    """
    if spool is not None:
        write_private(spool.folder / path_in_run, content)
        spool.add(path_in_run)
        return
    name = f"values/{new_uid()}"
    with journal.hold():
        write_private(journal.spool / name, content)
        log.artifact(ArtifactIntent(name, path_in_run))
