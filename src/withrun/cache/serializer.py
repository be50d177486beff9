"""EntitySerializer: entities to bytes and back, with the type of every value.

The form is JSON. What JSON can't say is said as MongoDB's Extended JSON does: `{"$date": "…"}` is a datetime,
`{"$numberDouble": "NaN"}` a number that is none. A dict of the user's own that looks like one of these has
one `$` more.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from withrun import values
from withrun.schema import Experiment, Model, ModelVersion, Run

__all__ = ["EntitySerializer", "kind_of"]

E = TypeVar("E", Experiment, Run, Model, ModelVersion)

_KINDS: tuple[type[Experiment | Run | Model | ModelVersion], ...] = (Experiment, Run, Model, ModelVersion)
_DATE, _DOUBLE = "$date", "$numberDouble"
_SPECIAL = re.compile(r"\$+(date|numberDouble)")


class EntitySerializer(BaseModel):
    """Turns entities into bytes and back. To replace it, subclass and override `dumps` and `loads`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def dumps(self, entity: Experiment | Run | Model | ModelVersion) -> bytes:
        """Return the entity as bytes; of a handle, the entity that it stands for."""
        # ASCII escapes also carry what is no valid Unicode.
        return json.dumps(_plain(entity), allow_nan=False).encode()

    def loads(self, kind: type[E], data: bytes) -> E:
        """Return the entity of that kind.

        Raises:
            ValueError: the bytes are not such an entity.
        """
        # The hook costs a call per dict, and few entities need it.
        found = json.loads(data, object_hook=_revive) if b'"$' in data else json.loads(data)
        return kind.model_validate(found)


def kind_of(entity: object) -> type[Experiment | Run | Model | ModelVersion]:
    """Return the entity class of an entity or a handle."""
    for kind in _KINDS:
        if isinstance(entity, kind):
            return kind
    raise TypeError(f"{type(entity).__name__} is no entity")


def _plain(value: Any) -> Any:
    """Reduce a value to what JSON can say."""
    match value:
        case enum.Enum():
            return _plain(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return float(value) if math.isfinite(value) else {_DOUBLE: _name_of(value)}
        case dt.datetime():
            return {_DATE: value.astimezone().isoformat() if value.tzinfo is None else value.isoformat()}
        case BaseModel() if isinstance(value, _KINDS):
            return {name: _plain(getattr(value, name)) for name in kind_of(value).model_fields}
        case Mapping():
            plain = {key: _plain(item) for key, item in value.items()}
            if len(plain) == 1 and _SPECIAL.fullmatch(str(next(iter(plain)))):
                return {f"${key}": item for key, item in plain.items()}
            return plain
        case list() | tuple():
            return [_plain(item) for item in value]
    # Arrays, paths, dataclasses …: as they are logged, so they are cached.
    return _plain(values.decode(values.encode(value)))


def _name_of(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _revive(found: dict[str, Any]) -> Any:
    if len(found) != 1:
        return found
    (key, value), *_ = found.items()
    if not _SPECIAL.fullmatch(key):
        return found
    if key.startswith("$$"):
        return {key[1:]: value}
    return dt.datetime.fromisoformat(value) if key == _DATE else float(value)
