"""Typed values and nested keys, to and from the strings that a store keeps.

A store such as MLflow's keeps flat keys and text. Here a value keeps its type and stays readable in other
clients: a string is stored as it is, every other value as JSON, and a string that would read back as
something else (`"1"`, `"true"`) is quoted. So `decode(encode(x)) == x`, and what other tools wrote reads
well. Datetimes are MongoDB Extended JSON (`{"$date": "2026-01-31T12:00:00Z"}`,
https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/).

Nested dicts flatten with dots. Keys under `mlflow.` belong to MLflow: raw strings both ways.

A text longer than the store takes is kept whole elsewhere (`services/long_values.py`), with a preview in its
place that names it; `parse_preview` tells one.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import json
import math
import numbers
import pathlib
import posixpath
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from withrun.errors import InvalidArgument

__all__ = [
    "MAX_KEY_LENGTH",
    "Preview",
    "PreviewText",
    "check_key",
    "complete",
    "decode",
    "drop",
    "encode",
    "flatten",
    "from_texts",
    "is_preview",
    "make_preview",
    "metric_from_store",
    "metric_value",
    "metrics_to_floats",
    "parse_preview",
    "put",
    "to_texts",
    "unflatten",
    "value_at",
]

MAX_KEY_LENGTH = 250
"""Characters; MLflow's limit for params, metrics and tags."""

RAW_PREFIX = "mlflow."

_LEGAL_KEY = re.compile(r"[/\w.\- :]+")  # mlflow/utils/validation.py, validate_param_and_metric_name
_ILLEGAL_CHARACTER = re.compile(r"[^/\w.\- :]")
_JSON_SPACE = " \t\n\r"
_JSON_START = frozenset('-0123456789"tfn[{NI' + _JSON_SPACE)
_JSON_DELIMITED = frozenset('"[{')
_NEEDS_ESCAPE = re.compile("[\x00\ud800-\udfff]")  # no store or wire format takes these as they are

# A store without infinities keeps the largest double in their place (MLflow's SQL store does).
_CLAMPED = sys.float_info.max


# --- keys ---


def check_key(key: object, kind: str = "key") -> str:
    """Return `key` if MLflow's stores take it.

    Args:
        key: the flat key of a param, metric or tag.
        kind: what to call it in the error.

    Raises:
        InvalidArgument: naming the character, the length or the rule that it breaks.
    """
    if not isinstance(key, str):
        raise InvalidArgument(
            f"{kind} {key!r} is of type {type(key).__name__}, and keys are strings: "
            f"use {str(key)!r} if that is meant"
        )
    if not _LEGAL_KEY.fullmatch(key):
        bad = _ILLEGAL_CHARACTER.search(key)
        what = f"holds {bad.group()!r} at position {bad.start()}" if bad else "is empty"
        raise InvalidArgument(
            f"{kind} {_shortened(key)} {what}; allowed are letters, digits, '_', '-', '.', ' ', ':' and '/'"
        )
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidArgument(
            f"{kind} {_shortened(key)} has {len(key)} characters; at most {MAX_KEY_LENGTH} are allowed"
        )
    normal = posixpath.normpath(key)
    if normal != key or normal.startswith(("..", "/")) or normal == ".":
        raise InvalidArgument(
            f"{kind} {key!r} reads as the path {normal!r}, which MLflow refuses; "
            "leave out leading, doubled and trailing slashes and '.' or '..' as a part"
        )
    return key


def flatten(mapping: Mapping[str, Any], kind: str = "key") -> dict[str, Any]:
    """Flatten nested dicts to dotted keys, checking each key; an empty dict stays a value.

    Raises:
        InvalidArgument: a key that is no string or illegal, or two that flatten to the same one.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidArgument(f"{kind}s are given as a dict, not as {type(mapping).__name__}")
    flat: dict[str, Any] = {}
    for key, value in _leaves(mapping, "", kind):
        check_key(key, kind)
        if key in flat:
            raise InvalidArgument(
                f"{kind} {key!r} is given twice, nested and with a dot; both flatten to the same key"
            )
        flat[key] = value
    return flat


def _leaves(mapping: Mapping[str, Any], prefix: str, kind: str) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if type(key) is not str:
            check_key(key, kind)
        if isinstance(value, Mapping) and value:
            try:
                yield from _leaves(value, f"{prefix}{key}.", kind)
            except RecursionError:
                raise InvalidArgument(
                    f"{kind} {prefix + key!r} is nested too deeply, or within itself"
                ) from None
        else:
            yield prefix + key, value


def unflatten(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Nest dotted keys; where `a` and `a.b` are both there, `a.b` stays flat beside `a`.

    Example:
        >>> unflatten([("model.depth", 3), ("a", 1), ("a.b", 2)])
        {'model': {'depth': 3}, 'a': 1, 'a.b': 2}
    """
    flat = dict(items)
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        if "." not in key:
            nested[key] = value
            continue
        node, prefix, parts = nested, "", key.split(".")
        while len(parts) > 1:
            prefix += parts[0]
            if prefix in flat:  # a leaf of that name is there: the rest of the key stays flat beside it
                break
            node = node.setdefault(parts.pop(0), {})
            prefix += "."
        node[".".join(parts)] = value
    return nested


def put(nested: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """What `unflatten` made with one dotted key set, as if it had been there from the start.

    Returns:
        the same dict, changed; or a new one if other keys had to move, so that no reader finds it half done.
    """
    node, parts = nested, key.split(".")
    for part in parts[:-1]:
        child = node.get(part)
        if child is None and part not in node:
            child = node[part] = {}
        elif not isinstance(child, dict) or not child:
            break  # a leaf of that name is there
        node = child
    else:
        last = parts[-1]
        # A dict is the value of one key (JSON), and takes the place of the one before.
        if not isinstance(node.get(last), dict) or (isinstance(value, dict) and value):
            node[last] = value
            return nested
    return unflatten({**dict(_leaves(nested, "", "key")), key: value}.items())


def drop(nested: dict[str, Any], key: str) -> dict[str, Any]:
    """What `unflatten` made without one dotted key, as a new dict; one that is absent counts as removed."""
    return unflatten((k, v) for k, v in _leaves(nested, "", "key") if k != key)


def value_at(nested: dict[str, Any], key: str) -> Any:
    """What is found under a dotted key of nested dicts: a value, or a dict of those below; None without."""
    node: Any = nested
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return nested.get(key)
        node = node[part]
    return node


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
            return {"$date": _iso(value)}
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
    for method in ("model_dump", "tolist", "item"):
        convert = getattr(value, method, None)
        if callable(convert) and not isinstance(value, type):
            return _plain(convert(), key)
    raise InvalidArgument(
        f"{key!r} is of type {type(value).__name__}, which has no JSON form; log a part of it, or str() of it"
    )


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
            f"metric {key!r} got {_shortened(value)} of type {type(value).__name__}, which is no number; "
            "log other values as params or tags"
        )
    try:
        return float(number)
    except OverflowError as exc:
        raise InvalidArgument(f"metric {key!r} got {_shortened(value)}, too large for a double") from exc


def metrics_to_floats(mapping: Mapping[str, Any]) -> dict[str, float]:
    """Flatten a nested mapping of metrics and check its leaves."""
    return {key: metric_value(key, value) for key, value in flatten(mapping, "metric").items()}


def metric_from_store(value: float) -> float:
    """A metric's value as it was logged: an infinity that the store clamped is an infinity again."""
    return math.copysign(math.inf, value) if abs(value) == _CLAMPED else value


# --- previews of long values ---


@dataclasses.dataclass(frozen=True)
class Preview:
    """What stands in the store for a text that it could not take whole.

    Attributes:
        start: the beginning of the text, as much as the preview holds.
        length: characters of the whole text.
        sha256: of the whole text in UTF-8; also names the artifact.
    """

    start: str
    length: int
    sha256: str

    @property
    def path(self) -> str:
        """The artifact, inside its run, that holds the whole text."""
        return f"withrun/values/{self.sha256}.txt"


class PreviewText(str):
    """A preview where a value should be, to tell it from a string that reads alike; see `complete`."""

    __slots__ = ()


def complete(nested: dict[str, Any], whole: Callable[[Preview], str | None]) -> None:
    """Put the values that previews stand for in their place; None leaves a preview there."""
    for key, text in list(_leaves(nested, "", "key")):
        preview = parse_preview(text) if isinstance(text, PreviewText) else None
        if preview is not None:
            fetched = whole(preview)
            if fetched is None:
                continue
            completed = put(nested, key, fetched if key.startswith(RAW_PREFIX) else decode(fetched))
            if completed is not nested:
                nested.clear()
                nested.update(completed)


_PREVIEW_CHARACTERS = (
    350  # whole, a preview stays below 500 characters, the least that any MLflow store takes
)
_PREVIEW_END = '.txt"]'
# The path is quoted because a search for texts that hold a quote (`providers/mlflow/pushdown.py`), which any
# query for a string needs, then finds previews as well.
_PREVIEW = re.compile(
    r'(.*)… \[withrun: (\d{1,12}) characters, whole in "withrun/values/([0-9a-f]{64})\.txt"\]', re.DOTALL
)


def make_preview(text: str) -> tuple[str, Preview]:
    """The text to store in place of a long one, and what it says."""
    preview = Preview(
        start=text[:_PREVIEW_CHARACTERS], length=len(text), sha256=hashlib.sha256(text.encode()).hexdigest()
    )
    return f'{preview.start}… [withrun: {preview.length} characters, whole in "{preview.path}"]', preview


def is_preview(text: str) -> bool:
    """Whether a stored text stands for a longer one."""
    return text.endswith(_PREVIEW_END) and _PREVIEW.fullmatch(text) is not None


def parse_preview(text: str) -> Preview | None:
    """What a preview says, or None if the text is none."""
    found = _PREVIEW.fullmatch(text) if text.endswith(_PREVIEW_END) else None
    if found is None:
        return None
    return Preview(start=found.group(1), length=int(found.group(2)), sha256=found.group(3))


def _shortened(value: object, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
