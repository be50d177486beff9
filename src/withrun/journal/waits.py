"""Waiting for a journal's delivery, and why it does not come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from withrun.errors import WithrunError

if TYPE_CHECKING:
    from withrun.journal.background import BackgroundRecovery
    from withrun.journal.live import Live
    from withrun.journal.run_log import RunLog
    from withrun.journal.run_logs import RunLogs

__all__ = ["Waits"]

logger = logging.getLogger("withrun.journal")


class Waits:
    """The waits for one journal.

    Args:
        store_uri: what it is delivered to.
        logs: its runs' accounts.
        live: gives what it holds open, None if that is nothing.
        recovery: delivers other journals, as far as that was asked for.
    """

    def __init__(
        self,
        store_uri: str,
        logs: RunLogs,
        live: Callable[[], Live | None],
        recovery: Callable[[], BackgroundRecovery | None],
    ) -> None:
        self._store_uri = store_uri
        self._logs = logs
        self._live = live
        self._recovery = recovery

    def for_run(
        self,
        log: RunLog,
        position: int,
        exit_timeout: float | None,
        timeout: float | None,
        tell: Callable[[], None] | None,
    ) -> bool:
        """Wait until a run's first `position` values are settled; see `Journal.wait`."""
        is_endless = timeout is None and exit_timeout is None
        self._wait(
            lambda: log.settled >= position or (is_endless and self._is_stuck(log.no)),
            exit_timeout,
            timeout,
            tell,
        )
        return log.settled >= position

    def for_all(self, timeout: float | None, exit_timeout: float | None, *, apart: bool) -> bool:
        """Wait until all that is in the journal now is settled; see `Journal.flush`."""
        live = self._live()
        if live is None:
            return True
        drain, position = live.drain, live.writer.position
        if drain is None:
            return False
        is_endless = timeout is None and exit_timeout is None

        def is_done() -> bool:
            waits = apart and bool(drain.apart) and not (is_endless and self._is_stuck())
            return drain.done >= position and not waits

        return self._wait(is_done, exit_timeout, timeout) and not (apart and drain.apart)

    def _wait(
        self,
        settled: Callable[[], bool],
        exit_timeout: float | None,
        timeout: float | None,
        tell: Callable[[], None] | None = None,
    ) -> bool:
        live = self._live()
        drain = live.drain if live else None
        return self._logs.progress.wait(settled, drain, exit_timeout=exit_timeout, timeout=timeout, tell=tell)

    def _is_stuck(self, no: int | None = None) -> bool:
        """Whether a run, or any, waits for another journal, which nobody is delivering."""
        live = self._live()
        drain = live.drain if live else None
        return drain is not None and drain.apart.is_stuck(no) and not self.is_recovering

    @property
    def is_recovering(self) -> bool:
        """Whether other journals are being delivered just now, as this one asked for."""
        recovery = self._recovery()
        return recovery is not None and not recovery.wait(0)

    # --- why ---
    def is_apart(self, log: RunLog) -> bool:
        """Whether a run waits for another journal."""
        live = self._live()
        return live is not None and live.drain is not None and log.no in live.drain.apart

    @property
    def trouble(self) -> WithrunError | None:
        """Why no records go through; None while they do."""
        live = self._live()
        return live.drain.trouble if live and live.drain else None

    def held_up(self, live: Live | None) -> WithrunError | None:
        """Why some records wait; None if all go through."""
        recovery = self._recovery()
        if live is None or live.drain is None:
            return None if recovery is None else recovery.trouble
        apart = live.drain.apart.why()
        # What other journals hold waits for the server, too.
        behind = apart if apart is None or recovery is None else (recovery.trouble or apart)
        return live.drain.trouble or behind

    def warn_kept(self, live: Live | None) -> None:
        """Say that what is pending is not delivered yet, and what becomes of it; once, until it goes on."""
        if live is None or self._logs.warned:
            return
        self._logs.warned = True
        reason = self.held_up(live)
        logger.warning(
            "about %d logged values are not on the server %s yet%s. They, and what follows till it goes on, "
            "are kept in %s; the next program that uses this store, or `withrun sync`, delivers them.",
            self._logs.pending,
            self._store_uri,
            f" ({reason})" if reason is not None else "",
            live.folder.path,
        )
