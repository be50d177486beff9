"""The verbs of a run's handle that log to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self

from withrun.backend import Metric
from withrun.errors import InvalidArgument
from withrun.handles.base import Handle
from withrun.schema import Run
from withrun.services.identify import check_timeout
from withrun.values import drop, put, value_at

if TYPE_CHECKING:
    from withrun.api import BaseMlflowApi
    from withrun.services.runs import RunService

__all__ = ["LoggingVerbs"]

V = TypeVar("V")

_view_lock = threading.RLock()
"""Held while a handle's view changes, for microseconds. One for all, so that a fork has one to renew."""


def _after_fork_in_child() -> None:
    # A lock that another thread of the parent held would stay held for ever.
    global _view_lock
    _view_lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


class LoggingVerbs(Run, Handle):
    """Params, metrics and tags; what is logged shows at once in the handle's own fields of these names."""

    __slots__ = ("_param_texts",)

    if TYPE_CHECKING:
        _param_texts: dict[str, str]

    def _bind(self, api: BaseMlflowApi) -> None:
        super()._bind(api)
        object.__setattr__(self, "_param_texts", {})

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
        return self.log_metrics({key: value}, step, synchronous, timestamp)

    def log_metrics(
        self,
        metrics: Mapping[str, Any],
        step: int | None = None,
        synchronous: bool | None = None,
        timestamp: int | None = None,
    ) -> Self:
        """Log one point of each metric: nested dict of numbers; see `log_metric`."""
        self._show("metrics", self._runs.log_metrics(self.id, metrics, step, synchronous, timestamp))
        return self

    def set_tag(self, key: str, value: Any, synchronous: bool | None = None) -> Self:
        """Set one tag to any JSON value or datetime; keys under `mlflow.` take strings as they are."""
        return self.set_tags({key: value}, synchronous)

    def set_tags(self, tags: Mapping[str, Any], synchronous: bool | None = None) -> Self:
        """Set tags: nested dict of JSON values; other tags stay as they are."""
        runs = self._runs
        texts = runs.set_tags(self, tags, synchronous)
        self._show("tags", runs.values_of(texts))
        self.name = texts.get("mlflow.runName", self.name)  # the tag by which MLflow names a run
        return self

    def delete_tag(self, key: str) -> Self:
        """Delete one tag; one that is absent counts as deleted."""
        self._runs.delete_tag(self.id, key)
        held = value_at(self.tags, key)
        if isinstance(held, dict) and held:
            # One tag whose value is a dict, or several that nest: the store tells.
            self.__dict__["tags"] = self._runs.fetch(self.id).tags
        else:
            with _view_lock:
                self.__dict__["tags"] = drop(self.tags, key)
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
        return self

    def metric_history(self, key: str) -> list[Metric]:
        """All points of a metric, as the store gives them: `key`, `value`, `timestamp` (ms), `step`."""
        return self._runs.metric_history(self.id, key)
