"""APIs that this process shares: those unpickled, and the default ones, once per configuration."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from withrun.api.base import BaseMlflowApi

__all__ = ["rebuild", "shared"]

_lock = threading.Lock()
_shared: weakref.WeakValueDictionary[str, BaseMlflowApi] = weakref.WeakValueDictionary()


def rebuild(cls: type[BaseMlflowApi], conf: dict[str, Any]) -> BaseMlflowApi:
    """The API of that configuration in this process; handles that are unpickled one by one share it.

    Credentials are not in a pickle: they come from the environment of this process, as in `get_api`.
    """
    from withrun.plugins import unpickled_api  # above this layer: the factory alone reads the environment

    key = f"{cls.__module__}.{cls.__qualname__} {sorted((k, repr(v)) for k, v in conf.items())}"
    return shared(key, lambda: unpickled_api(cls, conf))


def shared(key: str, make: Callable[[], BaseMlflowApi]) -> BaseMlflowApi:
    """The API of that key as long as anything holds it and it is not closed, else one that is made."""
    with _lock:
        api = _shared.get(key)
        if api is None or api.is_closed:
            api = _shared[key] = make()
        return api


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held the lock: nobody would release it here.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
