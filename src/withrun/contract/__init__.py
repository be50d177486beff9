"""The contract: every public method of an API instance, abstract and documented."""

from __future__ import annotations

from withrun.contract.artifacts import ArtifactsContract
from withrun.contract.experiments import ExperimentsContract
from withrun.contract.models import ModelsContract
from withrun.contract.runs import RunsContract
from withrun.contract.searching import SearchingContract

__all__ = ["MlflowApiContract"]


class MlflowApiContract(
    ExperimentsContract, RunsContract, ModelsContract, ArtifactsContract, SearchingContract
):
    """Every operation on experiments, runs, models, versions and artifacts.

    Every method takes an entity, a handle or an identifier, checks its arguments before anything is sent, and
    raises a `withrun.errors` exception that says what was wrong and what to do about it.
    """
