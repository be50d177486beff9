"""The backend of an API in offline mode: every call says that it needs the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

from withrun.backend import Backend, FilterGrammar
from withrun.errors import OfflineError

__all__ = ["offline_backend"]


class _OfflineBackend:
    """Has a store's name, and no way to it."""

    def __init__(self, store_uri: str) -> None:
        self.store_uri = store_uri
        self.grammar = FilterGrammar(name="cached metadata")
        self.known_info = None

    def close(self) -> None:
        """Nothing is held."""

    def __getattr__(self, call: str) -> Callable[..., Any]:
        if call.startswith("_"):
            raise AttributeError(call)

        def refuse(*args: Any, **kwargs: Any) -> NoReturn:
            raise OfflineError(
                f"this needs the server ({call.replace('_', ' ')}), and the API is offline; "
                "use one that is not, or what was cached before"
            )

        return refuse


def offline_backend(store_uri: str) -> Backend:
    """A backend that raises `OfflineError` for every call."""
    return cast("Backend", _OfflineBackend(store_uri))
