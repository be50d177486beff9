"""Sending a batch again to a store of MLflow 2, which takes a NaN that it holds already for a conflict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from withrun.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from withrun.backend import Metric

__all__ = ["send_metrics_once"]

_CONFLICT = ("unique constraint", "duplicate", "integrityerror")


def send_metrics_once(metrics: tuple[Metric, ...], send: Callable[[tuple[Metric, ...]], None]) -> None:
    """Send a batch's metrics, so that points which the store holds already are no error.

    MLflow's stores leave such points out of a batch themselves, but MLflow 2 looks for them by equality,
    which misses NaN: the database then refuses the whole batch. In that case each NaN is sent alone, after
    the rest, and one that is refused as a conflict is there.

    Args:
        metrics: what to send.
        send: sends one batch with these metrics.
    """
    try:
        send(metrics)
    except ServerError as exc:
        missing = [metric for metric in metrics if math.isnan(metric.value)]
        if not missing or not _is_conflict(exc):
            raise
        send(tuple(metric for metric in metrics if not math.isnan(metric.value)))
        for metric in missing:
            _send_if_absent(metric, send)


def _send_if_absent(metric: Metric, send: Callable[[tuple[Metric, ...]], None]) -> None:
    try:
        send((metric,))
    except ServerError as exc:
        if not _is_conflict(exc):
            raise


def _is_conflict(error: ServerError) -> bool:
    words = str(error).lower()
    return error.code in ("BAD_REQUEST", "INTERNAL_ERROR") and any(sign in words for sign in _CONFLICT)
