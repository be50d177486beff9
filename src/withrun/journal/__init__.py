"""The write path: a journal on disk that takes every record in microseconds, and a drain that delivers it.

What a process logs is appended to numbered segment files of its own journal (`RunLog`, `Journal`) and
survives its death. A thread packs it into the fewest calls and sends it (`drain`); what a dead process left,
`recover` sends the same way.
"""

from withrun.journal.disk import JournalFull
from withrun.journal.idle import Hold
from withrun.journal.journal import Durability, Journal
from withrun.journal.leftovers import Waiting, waiting
from withrun.journal.local_ids import LocalIds, looks_local, new_uid
from withrun.journal.publisher import Publisher
from withrun.journal.record import (
    ArtifactIntent,
    ExperimentIntent,
    ModelIntent,
    RunIntent,
    VersionIntent,
)
from withrun.journal.recovery import Recovered, recover
from withrun.journal.refused import Refusal
from withrun.journal.registry import Lease, before_closing, close_all, lease
from withrun.journal.run_log import Delivery, RunLog

__all__ = [
    "ArtifactIntent",
    "Delivery",
    "Durability",
    "ExperimentIntent",
    "Hold",
    "Journal",
    "JournalFull",
    "Lease",
    "LocalIds",
    "ModelIntent",
    "Publisher",
    "Recovered",
    "Refusal",
    "RunIntent",
    "RunLog",
    "VersionIntent",
    "Waiting",
    "before_closing",
    "close_all",
    "lease",
    "looks_local",
    "new_uid",
    "recover",
    "waiting",
]
