"""Runs: declare, start, resume, end, fetch, and log to them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from withrun.backend import Backend, KeyValue, Metric, RunRecord
from withrun.errors import InvalidArgument, OfflineError, ServerError, ServerUnreachable, WithrunError
from withrun.journal import RunIntent, new_uid
from withrun.journal.creation import OWNER_TAG
from withrun.keys import check_key, put, value_at
from withrun.previews import PreviewText
from withrun.schema import Experiment, Run, RunStatus
from withrun.services.entities import EntityBuilder, in_the_spool
from withrun.services.experiments import ExperimentService
from withrun.services.long_values import (
    MAX_PARAM_LENGTH,
    MAX_TAG_LENGTH,
    OLD_MAX_TAG_LENGTH,
    LongValues,
    max_tag_length,
)
from withrun.services.source_tags import source_tags
from withrun.services.tag_keys import TagKeys
from withrun.services.translation import DataTranslation
from withrun.services.writes import WritePath
from withrun.values import metrics_to_floats

__all__ = ["RunService", "now_ms"]


class RunService:
    """What an API does with runs, on a backend and a write path."""

    def __init__(
        self,
        backend: Backend,
        writes: WritePath,
        experiments: ExperimentService,
        long_values: LongValues,
        build: EntityBuilder,
        keys: TagKeys,
        translation: DataTranslation,
    ) -> None:
        self._backend = backend
        self._writes = writes
        self._experiments = experiments
        self._long_values = long_values
        self._build = build
        self._keys = keys
        self._translation = translation
        self._asked_for_limits = False

    # --- life ---

    def create(
        self,
        exp: Experiment,
        name: str | None,
        tags: Mapping[str, Any] | None,
        repo: str | None,
        parent_id: str | None,
        *,
        scheduled: bool = False,
        must_start: bool = False,
    ) -> Run:
        """Create a run: RUNNING, or SCHEDULED if it is only declared; if it `must_start`, also locally."""
        uid = new_uid()
        texts = source_tags() | self._translation.to_texts(tags or {}, "tag")
        texts[self._keys.uid] = uid
        if parent_id is not None:
            texts[self._keys.parent] = parent_id
        if repo is not None:
            texts[self._keys.repo] = repo
        stored, whole = self._shorten_tags(texts)
        status = RunStatus.SCHEDULED if scheduled else RunStatus.RUNNING
        intent = RunIntent(uid, exp.id, name or None, now_ms(), stored, status.value)
        record = self._writes.create_run(intent, must_start=must_start)
        if record is None:
            record = self._local_record(intent)
        else:
            self._learn_limits()
        run = self._build.run(record, exp, whole=False)
        run.status = status  # declared just now, which the record was too early for
        if whole:
            self._long_values.publish(run.id, whole)
            self._show_whole(run, texts)
        return run

    def _show_whole(self, run: Run, texts: dict[str, str]) -> None:
        """Show long tags as they were given: the artifacts that keep them whole are on their way."""
        for key, value in self.values_of(texts).items():
            run.tags = put(run.tags, key, value)

    def _local_record(self, intent: RunIntent) -> RunRecord:
        """A run that has started without the server, which names one that has no name; this name stays."""
        record = RunRecord(
            intent.uid,
            intent.experiment_id,
            intent.name or f"run-{intent.uid[:8]}",
            status=intent.status,
            start_time=intent.start_time,
            artifact_uri=str(self._writes.local_repo(intent.uid)),
            tags=tuple(KeyValue(*item) for item in intent.tags.items()),
        )
        return in_the_spool(record, self._keys)

    def set_running(self, run_id: str) -> None:
        """Set a declared run, or one that is over, RUNNING; this process answers for its end from then on."""

        def on_the_server(owner: str) -> None:
            # The tag first: nobody sees the run RUNNING in the name of a process that is gone.
            self._backend.log_batch(run_id, tags=(KeyValue(OWNER_TAG, owner),))
            self._backend.update_run(run_id, status=RunStatus.RUNNING.value)

        self._writes.resume(run_id, on_the_server)

    def end(self, run_id: str, status: RunStatus) -> int:
        """End a run once all that was logged is delivered; returns the end time in ms since the epoch."""
        end_time = now_ms()
        self._writes.end(run_id, status, end_time)
        return end_time

    def fetch(self, run_id: str) -> Run:
        """Fetch a run, with all that was logged to it here."""
        self._writes.show(run_id)
        record = self._backend.get_run(run_id)
        return self._build.run(record, self._experiments.known(record.experiment_id))

    def server_id(self, run_id: str) -> str | None:
        """What the server calls a run that started without it; None of others, and if it is unknown there."""
        return self._writes.server_id(run_id)

    def complete(self, run: Run, only: PreviewText | None = None) -> Run:
        """A run that a search found, with its long values; or with what one preview stands for."""
        return self._build.complete(run, only)

    def delete(self, run_id: str) -> None:
        """Mark a run deleted."""
        self._writes.show(run_id)
        self._backend.delete_run(run_id)

    def restore(self, run_id: str) -> None:
        """Undo `delete`."""
        self._backend.restore_run(run_id)

    def parent_id(self, run: Run) -> str | None:
        """ID of the run that this one is a child of, or None."""
        node: Any = run.tags
        for part in self._keys.parent.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node if isinstance(node, str) else None

    # --- logging ---

    def encode_params(self, params: Mapping[str, Any]) -> dict[str, str]:
        """Check params; returns their flat keys and whole texts."""
        return self._translation.to_texts(params, "param")

    def values_of(self, texts: dict[str, str]) -> dict[str, Any]:
        """The values by which whole texts of params or tags are read, by flat key."""
        read = self._translation.from_texts
        return {key: value_at(read([(key, text)]), key) for key, text in texts.items()}

    def log_params(self, run: Run, texts: dict[str, str], synchronous: bool | None = None) -> None:
        """Log params that `encode_params` made."""
        stored, whole = self._long_values.shorten(texts, MAX_PARAM_LENGTH, "param")
        if whole:
            self._long_values.publish(run.id, whole)
        log = self._writes.log_of(run.id)
        log.params(stored)
        if synchronous:
            self._writes.confirm(log)

    def set_tags(self, run: Run, tags: Mapping[str, Any], synchronous: bool | None = None) -> dict[str, str]:
        """Set tags; returns their flat keys and whole texts."""
        texts = self._translation.to_texts(tags, "tag")
        stored, whole = self._shorten_tags(texts)
        if whole:
            self._long_values.publish(run.id, whole)
        log = self._writes.log_of(run.id)
        log.tags(stored)
        if synchronous:
            self._writes.confirm(log)
        return texts

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete one tag; one that is absent counts as deleted."""
        self._writes.log_of(run_id).delete_tag(check_key(key, "tag"))

    def log_metrics(
        self,
        run_id: str,
        metrics: Mapping[str, Any],
        step: int | None = None,
        synchronous: bool | None = None,
        timestamp: int | None = None,
    ) -> dict[str, float]:
        """Log one point of each metric; returns their flat keys and values."""
        values = metrics_to_floats(metrics)
        moment = now_ms() if timestamp is None else _whole_number(timestamp, "timestamp", least=0)
        at = 0 if step is None else _whole_number(step, "step")
        log = self._writes.log_of(run_id)
        log.metrics(values, moment, at)
        if synchronous:
            self._writes.confirm(log)
        return values

    def metric_history(self, run_id: str, key: str) -> list[Metric]:
        """All points of one metric."""
        self._writes.show(run_id)
        points: list[Metric] = []
        token = ""
        while True:
            page = self._backend.metric_history(run_id, check_key(key, "metric"), page_token=token)
            points += page.items
            token = page.next_token
            if not token:
                return points

    def _shorten_tags(self, texts: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        longest = max(map(len, texts.values()), default=0)
        # Asked for only where the answer matters: it may take a request.
        limit = self._tag_limit() if longest > OLD_MAX_TAG_LENGTH else MAX_TAG_LENGTH
        return self._long_values.shorten(texts, limit, "tag")

    def _learn_limits(self) -> None:
        """Ask what the server is, unless that is known: now, because setting a tag must not wait for it."""
        if self._backend.known_info is None and not self._asked_for_limits:
            self._asked_for_limits = True
            with contextlib.suppress(WithrunError), self._writes.briefly():  # the run has started
                self._backend.server_info()

    def _tag_limit(self) -> int:
        info = self._backend.known_info
        if info is None and not self._writes.is_in_trouble:
            with contextlib.suppress(OfflineError, ServerError, ServerUnreachable):
                info = self._backend.server_info()
        return OLD_MAX_TAG_LENGTH if info is None else max_tag_length(info.version)  # the least: all take it


def now_ms() -> int:
    """The current time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _whole_number(value: Any, what: str, least: int = -(2**63)) -> int:
    """An int64, from anything that is one exactly."""
    number = value.item() if hasattr(value, "item") and not isinstance(value, (int, float)) else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    is_whole = isinstance(number, int) and not isinstance(number, bool)
    if is_whole and not -(2**63) <= number < 2**63:
        raise InvalidArgument(f"{what} {value!r:.100} is beyond the 64 bits that a store keeps")
    if not is_whole or number < least:
        raise InvalidArgument(
            f"{what} {value!r:.100} is no whole number" + ("" if least < 0 else f" from {least}")
        )
    return int(number)
