"""The contract on runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from withrun.contract.types import Exp, Query, RunLike, Sorting
from withrun.schema import RunStatus

if TYPE_CHECKING:
    from withrun.handles import RunApi
    from withrun.query.search import Results

__all__ = ["RunsContract"]


class RunsContract(ABC):
    """What an API does with runs."""

    @abstractmethod
    def create_run(
        self,
        exp: Exp,
        name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        repo: str | None = None,
        parent: RunLike | None = None,
    ) -> RunApi:
        """Declare a run, to be started later (status SCHEDULED).

        Args:
            exp: the experiment or its ID.
            name: the store makes one up if there is none.
            tags: nested dict of JSON values.
            repo: URL of the folder to keep the run's artifacts under, if not where the experiment keeps them.
            parent: the run that this one is a child of.
        """

    @abstractmethod
    def start_run(
        self,
        exp: Exp,
        name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        repo: str | None = None,
        parent: RunLike | None = None,
        *,
        nested: bool = False,
    ) -> RunApi:
        """Start a run and make it the active one of the current context for this API.

        As a block, leaving ends it: FINISHED, FAILED by an exception, KILLED by an interrupt. As a handle
        it stays active until `end_run`. One that is open when the interpreter exits ends as the program
        did: FINISHED, or FAILED by an uncaught exception. `sys.exit(3)` counts as FINISHED there, because
        nobody is told its code; a block sees it, and ends FAILED.

        Args:
            exp: the experiment or its ID.
            name: the store makes one up if there is none.
            tags: nested dict of JSON values.
            repo: URL of the folder to keep the run's artifacts under, if not where the experiment keeps them.
            parent: the run that this one is a child of.
            nested: make it a child of the run whose block encloses the call.

        Raises:
            RunAlreadyActive: inside a block of this API, without `nested` or `parent`.
            NotFound: there is no such experiment.

        Example:
            >>> with api.start_run(exp, name="fit") as run:
            ...     run.log_param("lr", 0.1)
        """

    @abstractmethod
    def resume_run(self, run: RunLike) -> RunApi:
        """Set a run RUNNING again, whatever its status, and make it the active one as `start_run` does."""

    @abstractmethod
    def end_run(self, run: RunLike, succeeded: bool | str | RunStatus = True) -> RunApi:
        """End a run, and wait until all that was logged is on the server.

        Args:
            run: the run or its ID.
            succeeded: FINISHED if true, else FAILED; or a status that ends a run.

        Raises:
            RunClosed: it is over already.
        """

    @abstractmethod
    def get_run(self, run: RunLike, *, force_cache_refresh: bool = False) -> RunApi:
        """Fetch a run; offline, from the cached metadata.

        Args:
            run: the run or its ID.
            force_cache_refresh: also write what was fetched to the cache.
        """

    @abstractmethod
    def find_runs(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[RunApi]:
        """Search runs; without `exp.id` in the query those of all experiments. Deleted runs are left out.

        Results are fetched in pages as they are read, and a store counts pages by how many matches come
        before: where what was read is no match any longer, others are passed over. So to change in a loop
        what the query asks for, read all first: `for run in list(api.find_runs(…))`.

        Args:
            query: a MongoDB query over the fields of `Run`, or an MLflow filter string. What values and
                patterns mean is said with `withrun.contract.types.Query`.
            sorting: such as `[("start_time", -1)]`.
            limit: at most that many; pages are sized for it.

        Raises:
            InvalidArgument: an unknown field or operator, or a value that it can't take; names the nearest.
                Or, while results are read, a filter string that the store refuses.
            OfflineError: the query is a filter string, and the API is offline.

        Example:
            >>> best = api.find_runs({"exp.id": exp.id}, sorting=[("metrics.loss", 1)]).first()
        """

    @abstractmethod
    def find_child_runs(self, parent: RunLike, *, limit: int | None = None) -> Results[RunApi]:
        """The runs that were started as children of `parent`, at most `limit`."""

    @abstractmethod
    def set_tags_on_run(self, run: RunLike, tags: Mapping[str, Any]) -> RunApi:
        """Set tags on a run; other tags stay as they are."""

    @abstractmethod
    def log_params(self, run: RunLike, params: Mapping[str, Any]) -> RunApi:
        """Log params: nested dict of JSON values. One that has another value already is an error."""

    @abstractmethod
    def log_metrics(self, run: RunLike, metrics: Mapping[str, Any]) -> RunApi:
        """Log metrics: nested dict of numbers, at step 0 and the current time."""

    @abstractmethod
    def get_run_url(self, run: RunLike, exp: Exp | None = None) -> str:
        """The run's page in the server's web interface.

        Args:
            run: the run or its ID.
            exp: its experiment; needed offline if the run is an ID that is not in the cache.
        """

    @abstractmethod
    def cache_run_meta(self, run: RunLike) -> RunApi:
        """Fetch a run and keep its metadata for offline use."""

    @abstractmethod
    def export_run_meta(self, run: RunLike, target: Path | str) -> Path:
        """Copy a run's metadata into the folder `target`, laid out as a cache.

        Returns:
            the file written.
        """
