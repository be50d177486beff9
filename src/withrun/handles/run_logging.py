"""The verbs of a run's handle that log to it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self

from withrun.backend import Metric
from withrun.errors import InvalidArgument, OfflineError, ServerUnreachable
from withrun.handles.base import Handle, deep_dict
from withrun.journal import Delivery
from withrun.keys import drop, leaves, put, value_at
from withrun.schema import Run
from withrun.services.identify import check_timeout

if TYPE_CHECKING:
    from withrun.api import BaseMlflowApi
    from withrun.journal import RunLog
    from withrun.services.runs import RunService

__all__ = ["LoggingVerbs"]

V = TypeVar("V")

Series = tuple[Callable[[str, float, int, int], None], dict[str, Any], str]
"""How a metric is logged again: to the run's log, and in the view where its last value shows, by that key."""


class _Shortcuts(dict[str, Series]):
    """What a handle has of that by key; its API clears it when it is closed."""

    __slots__ = ("__weakref__",)
    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]


_NUMBERS = frozenset({float, int})
_MAX_STEP = 2**63 - 1
_now = time.time

_view_lock = threading.RLock()
"""Held while a handle's view changes, for microseconds. One for all, so that a fork has one to renew."""


def _after_fork_in_child() -> None:
    # A lock that another thread of the parent held would stay held for ever.
    global _view_lock
    _view_lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _place_of(view: dict[str, Any], key: str) -> tuple[dict[str, Any], str] | None:
    """Where the number of that flat key stands in a view; None if it does not stand in one place yet."""
    if key in view:
        return (view, key) if type(view[key]) is float else None
    *path, leaf = key.split(".")
    for part in path:
        inner = view.get(part)
        if not isinstance(inner, dict):
            return None
        view = inner
    return (view, leaf) if type(view.get(leaf)) is float else None


class LoggingVerbs(Run, Handle):
    """Params, metrics and tags; what is logged shows at once in the handle's own fields of these names."""

    __slots__ = ("_log", "_param_texts", "_series", "_tag_keys")

    if TYPE_CHECKING:
        _log: RunLog | None
        _param_texts: dict[str, str]
        _series: _Shortcuts
        _tag_keys: set[str]  # flat ones, of the tags that were set through this handle

    def _bind(self, api: BaseMlflowApi) -> None:
        super()._bind(api)
        object.__setattr__(self, "_log", None)
        object.__setattr__(self, "_param_texts", {})
        object.__setattr__(self, "_series", _Shortcuts())
        object.__setattr__(self, "_tag_keys", set())
        # Changed in place, which what it was made of must not see.
        self.__dict__["metrics"] = deep_dict(self.metrics)

    @property
    def delivery(self) -> Delivery:
        """How what this process logged to the run stands: values accepted, delivered, pending, refused.

        Values are params, points of metrics, tags and ends, and what a run without the server takes besides.
        """
        return self._api.services.writes.delivery(self.id)

    def _keep_accounts(self) -> None:
        """Hold the run's log, which the journal forgets once nobody does and all of it is delivered."""
        if self._log is None:
            object.__setattr__(self, "_log", self._api.services.writes.log_of(self.id))

    @property
    def _runs(self) -> RunService:
        return self._api.services.runs

    def log_param(self, key: str, value: V, synchronous: bool | None = None) -> V:
        """Log one param; returns its value.

        Args:
            key: a dot in it nests.
            value: any JSON value or datetime; a dict flattens with dots.
            synchronous: return once the store has it.

        Raises:
            InvalidArgument: this handle logged another value under that key.
        """
        self.log_params({key: value}, synchronous)
        return value

    def log_params(self, params: Mapping[str, Any], synchronous: bool | None = None) -> Self:
        """Log params: nested dict of JSON values. A param is logged once; its value again changes nothing.

        Raises:
            InvalidArgument: this handle logged another value under one of the keys; nothing is logged then.
        """
        runs = self._runs
        texts = runs.encode_params(params)
        for key, text in texts.items():
            before = self._param_texts.get(key, text)
            if before != text:
                raise InvalidArgument(
                    f"param {key!r} of run {self.id} is {before:.200} and can't become {text:.200}: "
                    "a param is logged once; log what changes as a metric or a tag, or start a child run"
                )
        self._keep_accounts()
        runs.log_params(self, texts, synchronous)
        self._param_texts.update(texts)
        self._show("params", runs.values_of(texts))
        return self

    def log_metric(
        self,
        key: str,
        value: float,
        step: int | None = None,
        synchronous: bool | None = None,
        timestamp: int | None = None,
    ) -> Self:
        """Log one point of a metric.

        Args:
            key: a dot in it nests.
            value: any real number; NaN and infinities are kept as the store can.
            step: default 0.
            synchronous: return once the store has it.
            timestamp: milliseconds since the epoch; default now.
        """
        # The call that training loops make millions of times: what its first ones settled is not asked again.
        series = self._series.get(key) if type(key) is str else None
        if (
            series is None
            or type(value) not in _NUMBERS
            or not (step is None or (type(step) is int and -_MAX_STEP <= step <= _MAX_STEP))
            or timestamp is not None
            or synchronous
        ):
            return self.log_metrics({key: value}, step, synchronous, timestamp)
        log, view, leaf = series
        try:
            number = float(value)
            log(key, number, int(_now() * 1000), step or 0)
        except OverflowError:
            return self.log_metrics({key: value}, step)  # which says what is wrong
        view[leaf] = number
        return self

    def log_metrics(
        self,
        metrics: Mapping[str, Any],
        step: int | None = None,
        synchronous: bool | None = None,
        timestamp: int | None = None,
    ) -> Self:
        """Log one point of each metric: nested dict of numbers; see `log_metric`."""
        self._keep_accounts()
        self._show_metrics(self._runs.log_metrics(self.id, metrics, step, synchronous, timestamp))
        return self

    def _show_metrics(self, logged: Mapping[str, float]) -> None:
        """As `_show`, in place for metrics that were logged before, which take the quick way next."""
        fresh = {}
        self._api.services.writes.cut_when_closed(self._series)
        with _view_lock:
            for key, value in logged.items():
                place = _place_of(self.metrics, key)
                if place is None:
                    fresh[key] = value
                else:
                    view, leaf = place
                    view[leaf] = value
                    self._series[key] = (self._api.services.writes.log_of(self.id).metric, view, leaf)
            if fresh:
                self._series.clear()  # `_show` puts other dicts in the place of those that they write to
                self._show("metrics", fresh)

    def set_tag(self, key: str, value: Any, synchronous: bool | None = None) -> Self:
        """Set one tag to any JSON value or datetime; keys under `mlflow.` take strings as they are."""
        return self.set_tags({key: value}, synchronous)

    def set_tags(self, tags: Mapping[str, Any], synchronous: bool | None = None) -> Self:
        """Set tags: nested dict of JSON values; other tags stay as they are."""
        runs = self._runs
        self._keep_accounts()
        texts = runs.set_tags(self, tags, synchronous)
        self._tag_keys.update(texts)
        self._show("tags", runs.values_of(texts))
        self.name = texts.get("mlflow.runName", self.name)  # the tag by which MLflow names a run
        return self

    def delete_tag(self, key: str) -> Self:
        """Delete one tag; one that is absent counts as deleted."""
        self._keep_accounts()
        self._runs.delete_tag(self.id, key)
        held = value_at(self.tags, key)
        is_dict = isinstance(held, dict) and bool(held)
        if not is_dict or key in self._tag_keys:
            self._tag_keys.discard(key)
            with _view_lock:
                self.__dict__["tags"] = drop(self.tags, key, below=is_dict)
        elif not self._tag_keys.issuperset(leaf for leaf, _ in leaves(held, f"{key}.", "tag")):
            # One tag whose value is a dict, or several that nest: the store tells, if it can be asked.
            with contextlib.suppress(OfflineError, ServerUnreachable):
                self.__dict__["tags"] = self._runs.fetch(self.id).tags
        return self

    def _show(self, field: str, logged: Mapping[str, Any]) -> None:
        """Set what was logged, by flat key, in the handle's own view of it."""
        with _view_lock:
            view = self.__dict__[field]
            for key, value in logged.items():
                view = put(view, key, value)
            self.__dict__[field] = view

    def flush(self, timeout: float | None = None) -> Self:
        """Return once all that was logged to this run is in the store.

        Args:
            timeout: seconds; None waits without limit.

        Raises:
            TimeoutError: it is not after that time; it stays to be delivered.
        """
        check_timeout(timeout)
        self._api.services.writes.flush(self.id, timeout)
        return self.follow()

    def metric_history(self, key: str) -> list[Metric]:
        """All points of a metric, as the store gives them: `key`, `value`, `timestamp` (ms), `step`."""
        return self._runs.metric_history(self.id, key)
