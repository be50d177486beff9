"""Which tags hold what the store has no field for; replaceable."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["TagKeys"]


class TagKeys(BaseModel):
    """The tags in which a run's relations are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: str = "mlflow.parentRunId"
    """ID of the parent run; MLflow's own key, which its web interface nests runs by."""
    description: str = "mlflow.note.content"
    """MLflow's own key of a run's description."""
    uid: str = "withrun.uid"
    """Unique per created run; tells a repeated create from a new one."""
    repo: str = "withrun.repo"
    """URL of the folder that the run's artifacts are kept under, if not the experiment's."""
