"""The API on an exported cache: no server, no network, and never an import of MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from withrun.api import BaseMlflowApi
from withrun.backend import Backend
from withrun.errors import InvalidArgument
from withrun.services.offline import offline_backend

__all__ = ["GenericMlflowApi"]


class GenericMlflowApi(BaseMlflowApi):
    """Serves what was cached or exported, offline only.

    Attributes:
        cache_dir: the folder that something was exported to, or a cache; required.

    Example:
        >>> api = withrun.get_api("generic", conf={"cache_dir": "exported"})
        >>> model = api.load_model_artifact(("digits", "1"), joblib.load)
    """

    offline_mode: bool = True

    _has_store: ClassVar[bool] = False

    def model_post_init(self, context: Any, /) -> None:
        """Check that there is a cache to serve from, and that nothing else is asked for."""
        super().model_post_init(context)
        if self.cache_dir is None:
            raise InvalidArgument(
                "the generic plugin serves a cache: name the folder that was exported to as cache_dir"
            )
        if not self.offline_mode:
            raise InvalidArgument("the generic plugin has no server, so that offline_mode=False can't be")

    def _connect(self) -> Backend:
        return offline_backend(Path(self.cache_dir or "").absolute().as_uri())
