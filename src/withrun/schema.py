"""The entities: what an experiment, a run, a model and a model version are, whatever store keeps them.

Tags, params and metrics are nested dicts. Leaves of tags and params are any JSON value or a datetime,
leaves of metrics are floats; times are timezone-aware.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Experiment", "Model", "ModelVersion", "Run", "RunStatus"]


class RunStatus(str, enum.Enum):
    """Where a run stands in its life. Values are the names that MLflow's stores keep."""

    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @property
    def is_over(self) -> bool:
        """Whether a run of this status has ended."""
        return self in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED)

    def __str__(self) -> str:
        return self.value


class _Entity(BaseModel):
    # `extra="forbid"`: a misspelt field in exported metadata is an error, not a silent loss.
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Experiment(_Entity):
    """A named group of runs."""

    id: str
    name: str
    tags: dict[str, Any] = Field(default_factory=dict)


class Run(_Entity):
    """One execution of some code: its inputs (params), results (metrics, artifacts) and notes (tags).

    Attributes:
        repo: URI of the folder under which the store keeps this run's artifact folder, as it names it;
            the folder itself is `repo_url`.
        repo_url: URL of the run's own artifact folder.
    """

    id: str
    name: str
    exp: Experiment
    repo: str = ""
    tags: dict[str, Any] = Field(default_factory=dict)
    params: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    status: RunStatus = RunStatus.RUNNING
    start_time: datetime | None = None
    end_time: datetime | None = None
    repo_url: str = ""


class Model(_Entity):
    """A registered model: a name under which versions are kept."""

    name: str
    tags: dict[str, Any] = Field(default_factory=dict)


class ModelVersion(_Entity):
    """One version of a registered model: the artifact at `path_in_run` of `run`.

    Attributes:
        run: the run that made it; None for a version that another tool registered without one.
        path_in_run: where its artifact lies in the run's artifact folder; empty if it lies elsewhere.
        source: URL of an artifact that lies outside the run, such as a logged model of MLflow 3; else empty.
    """

    version: str
    model: Model
    run: Run | None = None
    path_in_run: str = ""
    source: str = ""
    tags: dict[str, Any] = Field(default_factory=dict)
