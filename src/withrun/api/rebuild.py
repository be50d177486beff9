"""Unpickling an API: through its own configuration, once per process."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from withrun.api.base import BaseMlflowApi

__all__ = ["rebuild"]

_lock = threading.Lock()
_rebuilt: weakref.WeakValueDictionary[str, BaseMlflowApi] = weakref.WeakValueDictionary()


def rebuild(cls: type[BaseMlflowApi], conf: dict[str, Any]) -> BaseMlflowApi:
    """The API of that configuration in this process; handles that are unpickled one by one share it.

    Credentials are not in a pickle: they come from the environment of this process, as in `get_api`.
    """
    from withrun.plugins import get_api  # above this layer: the factory alone reads the environment

    key = f"{cls.__module__}.{cls.__qualname__} {sorted((k, repr(v)) for k, v in conf.items())}"
    with _lock:
        api = _rebuilt.get(key)
        if api is None:
            api = _rebuilt[key] = get_api(cls=cls, conf=conf)
        return api
