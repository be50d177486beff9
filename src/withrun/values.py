"""Typed values, to and from the strings that a store keeps.

A store such as MLflow's keeps flat keys (`keys.py`) and text. Here a value keeps its type and stays readable
in other clients: a string is stored as it is, every other value as JSON, and a string that would read back
as something else (`"1"`, `"true"`) is quoted. So `decode(encode(x)) == x`, and what other tools wrote reads
well. Datetimes are MongoDB Extended JSON (`{"$date": "2026-01-31T12:00:00Z"}`,
https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/).

Nested dicts flatten with dots. Keys under `mlflow.` belong to MLflow: raw strings both ways.

A text longer than the store takes is kept whole elsewhere (`services/long_values.py`), with a preview in its
place that names it (`previews.py`).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import numbers
import pathlib
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from withrun.errors import InvalidArgument
from withrun.keys import RAW_PREFIX, flatten, leaves, put, shortened, unflatten
from withrun.previews import Preview, PreviewText, is_preview, parse_preview

__all__ = [
    "as_datetime",
    "complete",
    "decode",
    "encode",
    "from_texts",
    "in_microseconds",
    "metric_from_store",
    "metric_value",
    "metrics_to_floats",
    "to_texts",
]

_JSON_SPACE = " \t\n\r"
_JSON_START = frozenset('-0123456789"tfn[{NI' + _JSON_SPACE)
_JSON_DELIMITED = frozenset('"[{')
_FINER = ("M8[ns]", "M8[ps]", "M8[fs]", "M8[as]")
_NEEDS_ESCAPE = re.compile("[\x00\ud800-\udfff]")  # no store or wire format takes these as they are

# A store without infinities keeps the largest double in their place (MLflow's SQL store does).
_CLAMPED = sys.float_info.max


# --- values ---


def encode(value: Any, key: str = "value") -> str:
    """The text to store for a value: strings as they are, everything else as JSON.

    Args:
        value: any JSON value or datetime; tuples, sets, enums, paths, UUIDs, decimals, dataclasses, pydantic
            models and whatever has `tolist()` or `item()` (numpy, torch) are taken for what they hold.
        key: what to call it in an error.

    Raises:
        InvalidArgument: the value is of another type, or a dict inside it has a key that is no string.
    """
    plain = value if type(value) in (str, int, float, bool) or value is None else _reduced(value, key)
    if isinstance(plain, str) and not _NEEDS_ESCAPE.search(plain) and _reads_back(plain):
        return plain
    try:
        text = json.dumps(
            plain, ensure_ascii=False, separators=(",", ":") if isinstance(plain, str) else None
        )
    except (ValueError, RecursionError) as exc:
        raise InvalidArgument(f"{key!r} can't be written as JSON: {exc}") from exc
    if _NEEDS_ESCAPE.search(text):
        text = json.dumps(plain, ensure_ascii=True)
    return text


def decode(text: str) -> Any:
    """The value that a stored text stands for: parsed if it is JSON, else the text itself.

    A number, a boolean or null between spaces or line breaks is taken for a text, so that few patterns say
    how a number may be written (`providers/mlflow/number_texts.py`).
    """
    if not text or text[0] not in _JSON_START:
        return text
    if (text[0] in _JSON_SPACE or text[-1] in _JSON_SPACE) and (
        text.lstrip(_JSON_SPACE)[:1] not in _JSON_DELIMITED
    ):
        return text
    try:
        value = json.loads(text, object_hook=_revive) if '"$date"' in text else json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _reads_back(text: str) -> bool:
    return decode(text) is text and not is_preview(text)


def _reduced(value: Any, key: str) -> Any:
    try:
        return _plain(value, key)
    except RecursionError:
        # Also an object that answers any question with one of its kind, such as a mock.
        raise InvalidArgument(f"{key!r} is nested too deeply, or within itself") from None


def _plain(value: Any, key: str) -> Any:
    """Reduce a value to what JSON can say."""
    match value:
        case enum.Enum():
            return _plain(value.value, key)
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case dt.datetime():
            moment = as_datetime(value)
            return None if moment is None else {"$date": _iso(moment)}
        case dt.date() | dt.time():
            return value.isoformat()
        case Mapping():
            return {_json_key(k, key): _plain(v, f"{key}.{k}") for k, v in value.items()}
        case list() | tuple():
            return _plain_items(value, key)
        case set() | frozenset():
            return _plain_items(sorted(value, key=repr), key)
        case pathlib.PurePath() | uuid.UUID() | decimal.Decimal():
            return str(value)
    return _plain_object(value, key)


def _plain_items(items: Iterable[Any], key: str) -> list[Any]:
    return [_plain(item, key) for item in items]


def _plain_object(value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, key)
    # Arrays, scalars and tensors of numpy, pandas and torch, and pydantic models: asked by what they can
    # do, so that none of these packages is imported.
    value = in_microseconds(value)
    for method in ("model_dump", "tolist", "item"):
        convert = getattr(value, method, None)
        if callable(convert) and not isinstance(value, type):
            return _plain(convert(), key)
    raise InvalidArgument(
        f"{key!r} is of type {type(value).__name__}, which has no JSON form; log a part of it, or str() of it"
    )


def as_datetime(value: dt.datetime) -> dt.datetime | None:
    """The moment without what a subclass adds, such as the nanoseconds of pandas, whose NaT is None."""
    if type(value) is dt.datetime:
        return value
    if value != value:
        return None
    day, clock = (value.year, value.month, value.day), (value.hour, value.minute, value.second)
    return dt.datetime(*day, *clock, value.microsecond, tzinfo=value.tzinfo, fold=value.fold)


def in_microseconds(value: Any) -> Any:
    """The value; times of numpy's that are finer, and would become numbers, in the unit of datetimes."""
    unit = getattr(getattr(value, "dtype", None), "str", "")
    numpys = type(value).__module__ == "numpy" and isinstance(unit, str)
    return value.astype("datetime64[us]") if numpys and unit[1:] in _FINER else value


def _json_key(key: Any, path: str) -> str:
    if isinstance(key, str):
        return key
    raise InvalidArgument(f"a dict inside {path!r} has the key {key!r}, which is no string")


def _iso(moment: dt.datetime) -> str:
    """ISO 8601 in UTC with as many digits as needed; a naive datetime means local time."""
    try:
        utc = moment.astimezone(dt.timezone.utc)
    except (OverflowError, ValueError) as exc:
        raise InvalidArgument(f"datetime {moment!r} has no UTC equivalent: {exc}") from exc
    return utc.replace(tzinfo=None).isoformat() + "Z"


def _revive(found: dict[str, Any]) -> Any:
    """Turn `{"$date": …}` into a datetime; any other dict, or a malformed one, stays what it is."""
    if len(found) != 1 or "$date" not in found:
        return found
    stamp = found["$date"]
    if isinstance(stamp, dict):
        stamp = stamp.get("$numberLong")
        stamp = int(stamp) if isinstance(stamp, str) and re.fullmatch(r"-?\d{1,18}", stamp) else None
    try:
        if isinstance(stamp, str):
            moment = dt.datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", stamp))
            return moment if moment.tzinfo else moment.replace(tzinfo=dt.timezone.utc)
        if isinstance(stamp, int) and not isinstance(stamp, bool):
            epoch = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
            return epoch + dt.timedelta(milliseconds=stamp)
    except (ValueError, OverflowError):
        return found
    return found


# --- whole mappings ---


def to_texts(mapping: Mapping[str, Any], kind: str = "key") -> dict[str, str]:
    """Flatten a nested mapping of params or tags and encode its leaves."""
    return {key: _encode_under(key, value) for key, value in flatten(mapping, kind).items()}


def _encode_under(key: str, value: Any) -> str:
    if key.startswith(RAW_PREFIX) and isinstance(value, str):
        return value
    return encode(value, key)


def from_texts(items: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Decode stored params or tags and nest their keys; a preview becomes a `PreviewText`."""

    def value_of(key: str, text: str) -> Any:
        if is_preview(text):
            return PreviewText(text)
        return text if key.startswith(RAW_PREFIX) else decode(text)

    return unflatten((key, value_of(key, text)) for key, text in items)


# --- metrics ---


def metric_value(key: str, value: Any) -> float:
    """The double that a metric's value is: any real number, or an array or tensor of one.

    Raises:
        InvalidArgument: it is no number (a bool is none), or too large for a double.
    """
    if type(value) is float:
        return value
    number = value
    if not isinstance(number, numbers.Real) and callable(getattr(number, "item", None)):
        try:
            number = number.item()
        except (ValueError, RuntimeError, TypeError) as exc:
            raise InvalidArgument(
                f"metric {key!r} got {type(value).__name__} of more than one element: {exc}"
            ) from exc
    if isinstance(number, bool) or not isinstance(number, (numbers.Real, decimal.Decimal)):
        raise InvalidArgument(
            f"metric {key!r} got {shortened(value)} of type {type(value).__name__}, which is no number; "
            "log other values as params or tags"
        )
    try:
        return float(number)
    except OverflowError as exc:
        raise InvalidArgument(f"metric {key!r} got {shortened(value)}, too large for a double") from exc


def metrics_to_floats(mapping: Mapping[str, Any]) -> dict[str, float]:
    """Flatten a nested mapping of metrics and check its leaves."""
    return {key: metric_value(key, value) for key, value in flatten(mapping, "metric").items()}


def metric_from_store(value: float) -> float:
    """A metric's value as it was logged: an infinity that the store clamped is an infinity again."""
    return math.copysign(math.inf, value) if abs(value) == _CLAMPED else value


def complete(nested: dict[str, Any], whole: Callable[[Preview], str | None]) -> None:
    """Put the values that previews stand for in their place; None leaves a preview there."""
    for key, text in list(leaves(nested, "", "key")):
        preview = parse_preview(text) if isinstance(text, PreviewText) else None
        if preview is not None:
            fetched = whole(preview)
            if fetched is None:
                continue
            completed = put(nested, key, fetched if key.startswith(RAW_PREFIX) else decode(fetched))
            if completed is not nested:
                nested.clear()
                nested.update(completed)
