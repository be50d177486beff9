"""Handles: entities with an API behind them."""

from __future__ import annotations

from withrun.handles.experiment import ExpApi
from withrun.handles.model import ModelApi
from withrun.handles.model_version import ModelVersionApi
from withrun.handles.run import RunApi

__all__ = ["ExpApi", "ModelApi", "ModelVersionApi", "RunApi"]
