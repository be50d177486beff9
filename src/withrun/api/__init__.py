"""BaseMlflowApi: the contract, carried out by services on a backend that a provider connects."""

from __future__ import annotations

from withrun.api.base import BaseMlflowApi

__all__ = ["BaseMlflowApi"]
