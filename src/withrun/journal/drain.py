"""The drain: one thread per journal that follows the segments and delivers what is in them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import pairwise

from withrun.backend import Backend
from withrun.errors import JournalError, WithrunError
from withrun.journal.apart import Apart
from withrun.journal.creation import settle_intents
from withrun.journal.deliver import Deliverer
from withrun.journal.folder import JournalFolder
from withrun.journal.pack import Window
from withrun.journal.position import Position
from withrun.journal.reader import JournalReader
from withrun.journal.retry import GaveUp, Retry
from withrun.journal.spool import Spool
from withrun.journal.writer import Writer

__all__ = ["Drain"]

logger = logging.getLogger("withrun.journal")

POLL = 0.05
"""Seconds between looks at the journal; appending wakes nobody, because that would cost it a system call."""

LINGER = 0.05
"""Seconds that fresh records may wait for company, unless somebody waits for them: fewer, fuller requests."""

BACKLOG = 1 << 16
"""Bytes that are worth a request without lingering."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before delivery is tried again after a failure that nobody expected."""


class Drain:
    """Delivers a live journal, window by window, in the order of writing.

    Attributes:
        kick: set to have it look at once.
        done: the position up to which all is settled, but for what is set apart.
        apart: the runs that wait for other journals.
        failure: what nobody expected to go wrong, until it goes well again.
    """

    def __init__(
        self,
        folder: JournalFolder,
        writer: Writer,
        deliverer: Deliverer,
        apart: Apart,
        spool: Spool,
        retry: Retry,
        backend: Backend,
        on_window: Callable[[], None],
        on_waiting: Callable[[], object],
    ) -> None:
        self.kick = retry.kick
        self.done = folder.acknowledged.position
        self.apart = apart
        self.failure: BaseException | None = None
        self._folder = folder
        self._writer = writer
        self._deliverer = deliverer
        self._spool = spool
        self._retry = retry
        self._backend = backend
        self._on_window = on_window
        self._on_waiting = on_waiting
        self._reader = JournalReader(folder, writer.limit)
        self._window: Window | None = None  # that is being delivered
        self._waiters = 0
        self._fresh_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="withrun-drain", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def trouble(self) -> WithrunError | None:
        """Why records wait; None while they go through."""
        return self._retry.trouble

    @property
    def is_through(self) -> bool:
        """Whether nothing up to `done` is needed any more: all is settled, and noted."""
        return not self.apart and self._deliverer.has_noted()

    def check(self) -> None:
        """Raise if delivery fails in a way that is no server's: nobody should wait for it."""
        if self.failure is not None:
            raise JournalError(
                f"delivery of journal {self._folder.path} fails ({self.failure!r}); nothing is lost: it is "
                "tried again now and then, and by the next program that uses this store, or `withrun sync`"
            ) from self.failure

    def hurry(self) -> _Hurry:
        """While in this block, records don't linger."""
        return _Hurry(self)

    def stop(self, timeout: float) -> bool:
        """End the thread after the call under way; False if that takes longer."""
        self._retry.stop.set()
        self.kick.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while not self._retry.stop.is_set():
                try:
                    if self.apart.is_time():
                        self._look_after_those_apart()
                    busy = self._due() and self._deliver_next()
                except GaveUp:
                    break
                except Exception as error:  # noqa: BLE001 - whatever it is, the records are there to be delivered
                    self._stumbled(error, pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
                    continue
                self.failure = None
                if busy:
                    pause = FIRST_PAUSE
                else:
                    self.kick.wait(POLL)
                    self.kick.clear()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self._reader.close()
            self._on_window()

    def _stumbled(self, error: Exception, pause: float) -> None:
        """Tell of a failure that is no server's (a bug, a disk), and wait: it may pass, or hit again."""
        self.failure = error
        logger.error(
            "delivery of journal %s failed, and is tried again in %g s; nothing is lost",
            self._folder.path,
            pause,
            exc_info=error,
        )
        if self._window is None:
            # It may have stopped halfway through what it was reading.
            self._reader.close()
            self._reader = JournalReader(self._folder, self._writer.limit, self.done)
        self._on_window()
        self._retry.stop.wait(pause)

    def _due(self) -> bool:
        """Whether there is something to deliver now."""
        written = self._writer.position
        if written <= self.done:
            self._fresh_since = None
            return False
        if (
            self._waiters
            or written.segment > self.done.segment
            or written.offset - self.done.offset > BACKLOG
        ):
            return True
        now = time.monotonic()
        if self._fresh_since is None:
            self._fresh_since = now
        return now - self._fresh_since >= LINGER

    def _deliver_next(self) -> bool:
        self._fresh_since = None
        window = self._window or self._reader.window()
        if window is None:
            # Nothing readable up to here: what was read is all there is.
            return False
        self._window = window
        self.apart.window = self.done
        self._deliverer.deliver(window)
        if self._folder.ledger.withdrawn:
            self._retry.call(lambda: settle_intents(self._backend, self._folder.ledger, abandoned=False))
        self._acknowledge(window.end)
        self._window = None
        return True

    def _acknowledge(self, done: Position) -> None:
        position = self.apart.acknowledged(done)
        if self._deliverer.has_noted():
            self._folder.acknowledged.move(position)
            self._folder.delete_segments(position.segment)
            if not self.apart:
                self._spool.sweep()  # else what was published is needed by whoever delivers all of this again
        self.done = done  # last: who waited for it may look at the folder
        self._on_window()

    # --- runs set apart ---
    def _look_after_those_apart(self) -> None:
        """Deliver what has become possible of the runs that wait for other journals."""
        able = {no: self.apart.begin(no) for no in self.apart.able(self._deliverer.is_settled)}
        for begin, end in pairwise([*sorted(set(able.values())), self.done]):
            self._deliver_again(begin, end, [no for no, start in able.items() if start <= begin])
        for no in able:
            self.apart.end(no)
        if able:
            self._acknowledge(self.done)
        if self.apart:
            self._on_waiting()

    def _deliver_again(self, begin: Position, end: Position, numbers: list[int]) -> None:
        """Deliver what a stretch of the journal holds of some runs, all others of which are delivered."""
        reader = JournalReader(
            self._folder, lambda segment: end.offset if segment == end.segment else None, begin
        )
        try:
            self.apart.window = begin
            while (window := reader.window()) is not None:
                self._deliverer.deliver(window.only(numbers))
                self.apart.window = window.end
                self.apart.delivered(numbers, window.end)
        finally:
            reader.close()


class _Hurry:
    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    def __enter__(self) -> None:
        self._drain._waiters += 1
        self._drain.kick.set()

    def __exit__(self, *_: object) -> None:
        self._drain._waiters -= 1
