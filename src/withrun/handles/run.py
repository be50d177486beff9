"""The handle on a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from typing_extensions import Self

from withrun.context import Activation
from withrun.contract import MlflowApiContract
from withrun.errors import InvalidArgument
from withrun.handles import lifecycle
from withrun.handles.experiment import ExpApi
from withrun.handles.run_artifacts import ArtifactVerbs
from withrun.handles.run_logging import LoggingVerbs
from withrun.schema import RunStatus

if TYPE_CHECKING:
    from withrun.api import BaseMlflowApi
    from withrun.query.search import Results

__all__ = ["RunApi"]


class RunApi(LoggingVerbs, ArtifactVerbs):
    """A run with an API behind it; as a block (`with run:`), leaving it ends the run.

    Example:
        >>> with api.start_run(exp, name="fit") as run:
        ...     run.log_param("lr", 0.1)
        ...     with run.start_child("fold-1") as fold:
        ...         fold.log_metric("loss", 0.3, step=1)
    """

    __slots__ = ("_activation",)

    if TYPE_CHECKING:
        exp: ExpApi
        _activation: Activation | None

    def _bind(self, api: BaseMlflowApi) -> None:
        super()._bind(api)
        object.__setattr__(self, "_activation", None)
        if not isinstance(self.exp, ExpApi) or self.exp.api is not api:
            self.__dict__["exp"] = ExpApi.of(api, self.exp)

    def _identity(self) -> tuple[str, ...]:
        return (self.id,)

    def follow(self) -> Self:
        """In place of a local ID take the server's, once the run was delivered; offline, it keeps its own."""
        if self._api.offline_mode:
            return self
        self.exp.follow()
        known_as = self._api.services.names.run(self.id)
        if known_as != self.id:
            # Where its artifacts lie is asked for when somebody wants to know.
            self.__dict__.update(id=known_as, repo="", repo_url="")
        return self

    # --- what it is ---

    @property
    def url(self) -> str:
        """The run's page in the server's web interface."""
        return self._api.get_run_url(self.follow())

    @property
    def parent_id(self) -> str | None:
        """ID of the run that this one is a child of, or None."""
        return self._api.services.runs.parent_id(self)

    @property
    def children(self) -> Results[RunApi]:
        """The runs that were started as children of this one."""
        return self._api.find_child_runs(self)

    @property
    def activation(self) -> Activation | None:
        """How this process holds the run active; None if it never did through this handle."""
        return self._activation

    def adopt(self, activation: Activation | None) -> None:
        """Take note of how the process holds the run active."""
        object.__setattr__(self, "_activation", activation)
        if activation is not None:
            self._keep_accounts()

    # --- its life ---

    def start_child(
        self,
        name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        repo: str | None = None,
    ) -> RunApi:
        """Start a child of this run in the same experiment; see `start_run` of the API."""
        return self._api.start_run(self.exp, name, tags, repo, parent=self)

    def create_child(
        self,
        name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        repo: str | None = None,
    ) -> RunApi:
        """Declare a child of this run, to be started later."""
        return self._api.create_run(self.exp, name, tags, repo, parent=self)

    def resume(self) -> Self:
        """Set the run RUNNING again and make it the active one; see `resume_run` of the API."""
        resumed = self._api.resume_run(self)
        if resumed is not self:
            self._take(resumed)
            if resumed.activation is not None:
                self.adopt(resumed.activation)
        return self

    def end_run(self, succeeded: bool | str | RunStatus = True) -> Self:
        """End the run, and wait until all that was logged is on the server.

        Args:
            succeeded: FINISHED if true, else FAILED; or a status that ends a run.

        Raises:
            RunClosed: it is over already.
        """
        self._api.end_run(self, succeeded)
        return self

    def __enter__(self) -> Self:
        lifecycle.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lifecycle.leave(self, error)

    async def __aenter__(self) -> Self:
        lifecycle.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await lifecycle.leave_async(self, error)

    # --- the rest ---

    def cache_meta(self) -> Self:
        """Fetch the run and keep its metadata for offline use."""
        return self._take(self._api.cache_run_meta(self))

    def export_meta(self, target: Path | str) -> Path:
        """Copy the run's metadata into the folder `target`, laid out as a cache."""
        return self._api.export_run_meta(self, target)

    def update(self) -> Self:
        """Fetch the run anew."""
        return self._take(self._api.get_run(self))

    def using(self, api: BaseMlflowApi) -> RunApi:
        """The same run behind another API instance, such as an offline copy of this one."""
        if not isinstance(api, MlflowApiContract):
            raise InvalidArgument(
                f"using() takes an API instance, not {api!r:.100} of type {type(api).__name__}"
            )
        return RunApi.of(api, self)

    def _take(self, entity: BaseModel) -> Self:
        # What this process holds of the run, and what it logged, stays known.
        self._series.clear()
        self.__dict__.update(RunApi.of(self._api, entity).__dict__)
        return self
