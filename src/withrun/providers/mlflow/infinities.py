"""Infinite metrics: MLflow's SQL stores keep the largest float in their place."""

from __future__ import annotations

import math
import sys

from withrun.backend import Metric

__all__ = ["restore_infinity"]

_LARGEST = sys.float_info.max


def restore_infinity(metric: Metric) -> Metric:
    """The metric as it was logged: the largest float, of either sign, stands for an infinity."""
    value = metric.value
    if value == _LARGEST or value == -_LARGEST:
        return Metric(metric.key, math.copysign(math.inf, value), metric.timestamp, metric.step)
    return metric
