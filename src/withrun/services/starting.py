"""Starting runs: on the server if it is there, else locally, as configured."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from withrun.errors import ServerError, ServerUnreachable, WithrunError
from withrun.journal import Journal, RunIntent, RunLog, looks_local
from withrun.journal.creation import PARENT_TAG
from withrun.journal.retry import is_passing

if TYPE_CHECKING:
    from withrun.backend import RunRecord

__all__ = ["Starts", "log_of", "server_id_of"]

logger = logging.getLogger("withrun")

_AWAY = 2.0
"""Seconds for which a server that was just found away is not waited for again."""


class Starts:
    """Starts the runs of one API, and remembers whether the server was there."""

    def __init__(self) -> None:
        self._told_of_local = False
        self._away_until = 0.0

    def found_away(self) -> None:
        """Don't wait for the server for a moment."""
        self._away_until = time.monotonic() + _AWAY

    def create(
        self,
        journal: Journal,
        intent: RunIntent,
        *,
        timeout: float,
        may_be_local: bool,
        must_start: bool = False,
    ) -> RunRecord | None:
        """Create a run that this process answers for; None if it has started without the server.

        Args:
            journal: delivers it.
            intent: what to create.
            timeout: seconds to wait for the server.
            may_be_local: go on with a local run if the server is away.
            must_start: do so, too, if the server takes these credentials no longer.

        Raises:
            ServerUnreachable: no answer, and the run may not be local.
        """
        may_be_local = may_be_local or must_start
        wanted = _with_server_ids(journal, intent)
        if wanted is None:
            journal.owned.create_locally(intent)
            return None
        trouble = "does not answer"
        if may_be_local and (_is_away(journal.trouble) or time.monotonic() < self._away_until):
            log = journal.owned.create_locally(intent)  # known to be away: why wait again
        else:
            try:
                log = journal.owned.create(
                    wanted, timeout=timeout, on_unreachable="offline" if may_be_local else "raise"
                )
            except ServerError as error:
                if not must_start or not is_passing(error):
                    raise
                trouble = "does not take these credentials any more"
                log = journal.owned.create_locally(intent)
        self._tell_of_local(log, journal, trouble)
        return log.record

    def _tell_of_local(self, log: RunLog, journal: Journal, trouble: str) -> None:
        """Warn that runs start without the server; once, until one starts with it again."""
        if log.record is None and not self._told_of_local:
            logger.warning(
                "%s %s: run %s, and those after it, start with local IDs. All that is logged is kept in %s, "
                "and delivered once the server takes it, by this process, the next one on this store, or "
                "`withrun sync`.",
                journal.store_uri,
                trouble,
                log.run_id,
                journal.store_folder,
            )
        self._told_of_local = log.record is None


def log_of(journal: Journal, run_id: str) -> RunLog:
    """Where to log to a run."""
    return journal.run(run_id, uid=run_id if looks_local(run_id) else "")


def server_id_of(journal: Journal, log: RunLog) -> str | None:
    """What the server calls a run; None as long as nobody has delivered it, this process or another."""
    if log.server_id is None:
        log.server_id = journal.local_ids.resolve("run", log.run_id)
    return log.server_id


def _with_server_ids(journal: Journal, intent: RunIntent) -> RunIntent | None:
    """A run to be created, with the server's IDs of what it refers to; None if it has not all of them."""
    exp_id: str | None = intent.experiment_id
    if looks_local(intent.experiment_id):
        exp_id = journal.local_ids.resolve("experiment", intent.experiment_id)
    parent_id = intent.tags.get(PARENT_TAG)
    if parent_id is not None and looks_local(parent_id):
        parent_id = server_id_of(journal, log_of(journal, parent_id))
        if parent_id is None:
            return None
    if exp_id is None:
        return None
    tags = intent.tags if parent_id is None else {**intent.tags, PARENT_TAG: parent_id}
    return msgspec.structs.replace(intent, experiment_id=exp_id, tags=tags)


def _is_away(trouble: WithrunError | None) -> bool:
    """Whether nothing gets through to the server: it does not answer, or a gateway does in its place."""
    return isinstance(trouble, ServerUnreachable) or getattr(trouble, "status", None) in (502, 503, 504)
