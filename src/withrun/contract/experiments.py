"""The contract on experiments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from withrun.contract.types import Exp, Query, Sorting

if TYPE_CHECKING:
    from withrun.handles import ExpApi
    from withrun.query.search import Results

__all__ = ["ExperimentsContract"]


class ExperimentsContract(ABC):
    """What an API does with experiments."""

    @abstractmethod
    def create_exp(self, name: str, tags: Mapping[str, Any] | None = None) -> ExpApi:
        """Create an experiment.

        Args:
            name: its name, unique on the server.
            tags: nested dict of JSON values.

        Raises:
            AlreadyExists: the name is taken, maybe by a deleted experiment.
            OfflineError: the API is offline; `get_or_create_exp` works there.
        """

    @abstractmethod
    def get_or_create_exp(self, name: str) -> ExpApi:
        """Fetch the experiment of that name, creating it if there is none.

        Raises:
            InvalidArgument: the experiment of that name is deleted; says how to restore it.
        """

    @abstractmethod
    def get_exp(self, exp: Exp, *, force_cache_refresh: bool = False) -> ExpApi:
        """Fetch an experiment; offline, from the cached metadata.

        Args:
            exp: the experiment or its ID.
            force_cache_refresh: also write what was fetched to the cache.

        Raises:
            NotFound: there is none of that ID; says so if a name was given in its place.
        """

    @abstractmethod
    def find_exps(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ExpApi]:
        """Search experiments.

        Args:
            query: a MongoDB query over the fields of `Experiment`, or an MLflow filter string.
            sorting: such as `[("name", 1)]`.
            limit: at most that many; pages are sized for it.

        Example:
            >>> for exp in api.find_exps({"tags.team": "vision"}):
            ...     ...
        """

    @abstractmethod
    def set_tags_on_exp(self, exp: Exp, tags: Mapping[str, Any]) -> ExpApi:
        """Set tags on an experiment; other tags stay as they are."""

    @abstractmethod
    def get_exp_url(self, exp: Exp) -> str:
        """The experiment's page in the server's web interface."""

    @abstractmethod
    def cache_exp_meta(self, exp: Exp) -> ExpApi:
        """Fetch an experiment and keep its metadata for offline use."""

    @abstractmethod
    def export_exp_meta(self, exp: Exp, target: Path | str) -> Path:
        """Copy an experiment's metadata into the folder `target`, laid out as a cache.

        Returns:
            the file written.
        """
