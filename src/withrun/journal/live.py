"""Live: what a journal holds open from its first record until it is closed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from withrun.backend import Backend
from withrun.journal.apart import Apart
from withrun.journal.deliver import Deliverer
from withrun.journal.drain import Drain
from withrun.journal.folder import JournalFolder
from withrun.journal.local_ids import LocalIds
from withrun.journal.pool import Pool
from withrun.journal.refused import RefusedFile
from withrun.journal.retry import Retry
from withrun.journal.spool import Spool
from withrun.journal.syncer import Syncer
from withrun.journal.turns import Turns
from withrun.journal.writer import Writer

__all__ = ["Live", "kept_path", "refused_path"]

logger = logging.getLogger("withrun.journal")


def refused_path(store_folder: Path, journal_id: str) -> Path:
    """Where a journal's refused records are kept."""
    return store_folder / "refused" / f"{journal_id}.jsonl"


def kept_path(store_folder: Path, journal_id: str) -> Path:
    """Where the artifacts that a journal could not publish are kept."""
    return refused_path(store_folder, journal_id).with_suffix(".spool")


@dataclass
class Live:
    """A journal's folder on the disk, and the threads that serve it in this process.

    Attributes:
        in_doubt: whether it is left to recovery though all in it is settled.
    """

    folder: JournalFolder
    writer: Writer
    refused: RefusedFile
    spool: Spool
    turns: Turns
    drain: Drain | None = None
    pool: Pool | None = None
    syncer: Syncer | None = None
    in_doubt: bool = False

    @classmethod
    def create(cls, store_folder: Path, store_uri: str, local_ids: LocalIds, *, mapped: bool | None) -> Live:
        """Make a new journal; nothing is left of one that can't be made."""
        folder = JournalFolder.create(store_folder, store_uri)
        try:
            writer = Writer(folder.path, mapped=mapped)
        except BaseException:
            folder.delete()
            raise
        refused = RefusedFile(refused_path(store_folder, folder.id))
        spool = Spool(folder.spool, kept_path(store_folder, folder.id))
        return cls(folder, writer, refused, spool, Turns(folder, local_ids))

    def start_drain(
        self,
        deliverer: Deliverer,
        apart: Apart,
        retry: Retry,
        backend: Backend,
        on_window: Callable[[], None],
        on_waiting: Callable[[], object],
    ) -> None:
        """Deliver from now on, in a thread of its own."""
        drain = Drain(
            self.folder, self.writer, deliverer, apart, self.spool, retry, backend, on_window, on_waiting
        )
        try:
            drain.start()
        except RuntimeError as error:
            # The interpreter is exiting and takes no more threads: recovery delivers.
            logger.warning("journal %s will be delivered by the next program: %s", self.folder.path, error)
        else:
            self.drain = drain

    def start_syncing(self) -> None:
        """Force what is journaled to the disk from now on, at an interval."""
        self.syncer = Syncer(self.folder.path)

    def discard(self) -> None:
        """Delete the journal, to which nothing was written."""
        self.writer.seal()
        self.folder.delete()

    def leave(self) -> None:
        """In a forked child: let go of it, it is the parent's."""
        self.writer.seal()
        self.folder.release()

    def close(self, timeout: float) -> tuple[bool, bool]:
        """Stop all threads, and delete the journal if all in it is settled.

        Args:
            timeout: seconds to wait for a call that is under way.

        Returns:
            Whether all was settled, and whether no call is under way any more.
        """
        stopped = self.drain.stop(timeout) if self.drain else True
        position = self.writer.position
        settled = self.drain is not None and self.drain.done >= position and self.drain.is_through
        self.writer.seal()
        if self.pool is not None:
            self.pool.close()
        if self.syncer is not None:
            self.syncer.stop()
        if settled and stopped and not self.in_doubt:
            self.folder.delete()
        elif stopped:
            self.folder.release()
        # With a call still under way the lock stays with it, until the process ends.
        return settled and stopped, stopped
