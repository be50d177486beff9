"""Nested keys: dicts to flat keys joined by dots, as a store keeps them, and back."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from withrun.errors import InvalidArgument

__all__ = [
    "MAX_KEY_LENGTH",
    "RAW_PREFIX",
    "check_key",
    "drop",
    "flatten",
    "leaves",
    "put",
    "shortened",
    "unflatten",
    "value_at",
]

MAX_KEY_LENGTH = 250
"""Characters; MLflow's limit for params, metrics and tags."""

RAW_PREFIX = "mlflow."

_LEGAL_KEY = re.compile(r"[/\w.\- :]+")  # mlflow/utils/validation.py, validate_param_and_metric_name
_ILLEGAL_CHARACTER = re.compile(r"[^/\w.\- :]")


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
            f"{kind} {shortened(key)} {what}; allowed are letters, digits, '_', '-', '.', ' ', ':' and '/'"
        )
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidArgument(
            f"{kind} {shortened(key)} has {len(key)} characters; at most {MAX_KEY_LENGTH} are allowed"
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
    for key, value in leaves(mapping, "", kind):
        check_key(key, kind)
        if key in flat:
            raise InvalidArgument(
                f"{kind} {key!r} is given twice, nested and with a dot; both flatten to the same key"
            )
        flat[key] = value
    return flat


def leaves(mapping: Mapping[str, Any], prefix: str, kind: str) -> Iterator[tuple[str, Any]]:
    """What a nested mapping holds besides mappings, with flat keys."""
    for key, value in mapping.items():
        if type(key) is not str:
            check_key(key, kind)
        if isinstance(value, Mapping) and value:
            try:
                yield from leaves(value, f"{prefix}{key}.", kind)
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
    return unflatten({**dict(leaves(nested, "", "key")), key: value}.items())


def drop(nested: dict[str, Any], key: str, *, below: bool = False) -> dict[str, Any]:
    """What `unflatten` made without one dotted key, as a new dict; one that is absent counts as removed.

    Args:
        nested: the dict.
        key: the key.
        below: its value is a dict, which goes with it.
    """
    gone = (key + ".",) if below else ()
    return unflatten((k, v) for k, v in leaves(nested, "", "key") if k != key and not k.startswith(gone))


def value_at(nested: dict[str, Any], key: str) -> Any:
    """What is found under a dotted key of nested dicts: a value, or a dict of those below; None without."""
    node: Any = nested
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return nested.get(key)
        node = node[part]
    return node


def shortened(value: object, length: int = 80) -> str:
    """A value as errors show it."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
