"""Creating what must exist once: runs, experiments and models, also when an answer was lost.

A run carries the unique tag `withrun.uid`. Once an attempt to create it may have been applied, the tag is
searched for before the next attempt and checked again after it; of duplicates the first by ID stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from withrun.backend import Backend, ExperimentRecord, KeyValue, Page, RunRecord
from withrun.errors import AlreadyExists, InvalidArgument, NotFound, ServerError, ServerUnreachable
from withrun.journal.ledger import Ledger
from withrun.journal.record import ExperimentIntent, ModelIntent, RunIntent

__all__ = [
    "OWNER_TAG",
    "PARENT_TAG",
    "UID_TAG",
    "RunCreation",
    "ensure_experiment",
    "ensure_model",
    "find_owned",
    "find_run",
    "settle_intents",
]

T = TypeVar("T")

UID_TAG = "withrun.uid"
OWNER_TAG = "withrun.owner"
PARENT_TAG = "mlflow.parentRunId"

_UID = re.compile(r"[0-9a-f]{32}")


def find_run(backend: Backend, experiment_id: str, uid: str) -> RunRecord | None:
    """The run that carries a uid, deleted or not; of several the first by ID, and the others are deleted."""
    if not _UID.fullmatch(uid):
        raise InvalidArgument(f"a run's uid is 32 hex digits, not {uid!r}")
    page = backend.search_runs(
        (experiment_id,), f"tags.`{UID_TAG}` = '{uid}'", view_type="ALL", max_results=100
    )
    active = sorted(
        (run for run in page.items if run.lifecycle_stage == "active"), key=lambda run: run.run_id
    )
    for duplicate in active[1:]:
        backend.delete_run(duplicate.run_id)
    return active[0] if active else next(iter(page.items), None)


def find_owned(backend: Backend, owner: str) -> Iterator[RunRecord]:
    """The RUNNING runs of a store that carry an ownership tag, in whatever experiment."""
    wanted = f"tags.`{OWNER_TAG}` = '{owner}' and attributes.status = 'RUNNING'"
    for experiments in _pages(lambda token: backend.search_experiments(page_token=token)):
        ids = tuple(experiment.experiment_id for experiment in experiments)
        for runs in _pages(partial(_search_runs, backend, ids, wanted)):
            yield from runs


def _search_runs(backend: Backend, ids: tuple[str, ...], wanted: str, token: str) -> Page[RunRecord]:
    return backend.search_runs(ids, wanted, page_token=token)


def _pages(search: Callable[[str], Page[T]]) -> Iterator[tuple[T, ...]]:
    token = ""
    while True:
        page = search(token)
        if page.items:
            yield page.items
        token = page.next_token
        if not token:
            return


class RunCreation:
    """One run's creation, over as many attempts as it takes: `attempt` may be called until it succeeds.

    Args:
        backend: where.
        intent: what; its experiment and parent are the server's IDs by now.
        uncertain: an earlier process may have created it.
    """

    def __init__(self, backend: Backend, intent: RunIntent, *, uncertain: bool = False) -> None:
        self._backend = backend
        self._intent = intent
        self._uncertain = uncertain

    def attempt(self) -> RunRecord:
        """Create the run, or find it if it was created before."""
        intent = self._intent
        uncertain = self._uncertain
        run = find_run(self._backend, intent.experiment_id, intent.uid) if uncertain else None
        if run is None:
            run = self._create()
            if uncertain:
                # The lost attempt may have been applied after the search above.
                run = find_run(self._backend, intent.experiment_id, intent.uid) or run
        if intent.status != "RUNNING" and run.status != intent.status:
            self._uncertain = True
            self._backend.update_run(run.run_id, status=intent.status)
        return run

    def _create(self) -> RunRecord:
        intent = self._intent
        tags = tuple(KeyValue(key, value) for key, value in (intent.tags | {UID_TAG: intent.uid}).items())
        try:
            return self._backend.create_run(
                intent.experiment_id, run_name=intent.name, start_time=intent.start_time, tags=tags
            )
        except (ServerUnreachable, ServerError):
            self._uncertain = True
            raise


def settle_intents(backend: Backend, ledger: Ledger, *, abandoned: bool, delivered: bool = False) -> None:
    """Find out what became of runs whose creation was sent and never answered.

    One that was withdrawn is deleted if the server has it: its caller was told that it did not start. With
    the process gone (`abandoned`), any other is bound and owned, so that it is ended like the process's other
    runs.

    Args:
        backend: the store.
        ledger: what is known of them.
        abandoned: the process is gone.
        delivered: all of the journal has been.
    """
    for uid, experiment_id in list(ledger.intents.items()):
        if uid in ledger.local and not delivered:
            continue  # its CREATE record is still to be delivered, and looks for the uid itself
        if uid in ledger.withdrawn:
            run = _found(backend, experiment_id, uid)
            if run is not None and run.lifecycle_stage == "active":
                backend.delete_run(run.run_id)
            ledger.done(uid)
        elif abandoned:
            run = _found(backend, experiment_id, uid)
            if run is None:
                ledger.done(uid)
            else:
                ledger.bind(uid, run.run_id)
                ledger.own(run.run_id, run.start_time or 0)


def _found(backend: Backend, experiment_id: str, uid: str) -> RunRecord | None:
    try:
        return find_run(backend, experiment_id, uid)
    except NotFound:
        return None


def ensure_experiment(backend: Backend, intent: ExperimentIntent) -> str:
    """Find an experiment by name or create it; its ID."""
    return _ensure(lambda: _existing(backend, intent), lambda: _new_experiment(backend, intent))


def _existing(backend: Backend, intent: ExperimentIntent) -> str | None:
    found: ExperimentRecord | None = backend.get_experiment_by_name(intent.name)
    if found is None:
        return None
    if found.lifecycle_stage != "active":
        raise NotFound(
            f"experiment {intent.name!r} is deleted in {backend.store_uri}: restore it, then deliver again"
        )
    return found.experiment_id


def _new_experiment(backend: Backend, intent: ExperimentIntent) -> str:
    tags = tuple(KeyValue(key, value) for key, value in intent.tags.items())
    return backend.create_experiment(intent.name, artifact_location=intent.artifact_location, tags=tags)


def ensure_model(backend: Backend, intent: ModelIntent) -> None:
    """Create a registered model unless it exists."""

    def existing() -> str | None:
        try:
            return backend.get_model(intent.name).name
        except NotFound:
            return None

    tags = tuple(KeyValue(key, value) for key, value in intent.tags.items())
    _ensure(existing, lambda: backend.create_model(intent.name, tags=tags).name)


def _ensure(existing: Callable[[], str | None], create: Callable[[], str]) -> str:
    found = existing()
    if found is not None:
        return found
    try:
        return create()
    except AlreadyExists:
        # Another process was quicker.
        found = existing()
        if found is None:
            raise
        return found
