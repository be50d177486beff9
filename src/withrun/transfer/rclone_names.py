"""Names as rclone writes them: control characters are shown as pictures (a newline as U+240A).

rclone uses this form on its command line and in its listings, whatever the storage keeps. A name that has
such a picture in it already has it marked with the quote U+201B. A name that has that quote itself can be
written in no form: rclone lists it doubled, and finds it neither so nor as it is.
"""

from __future__ import annotations

import re

from withrun.errors import IllegalPath

__all__ = ["from_rclone", "to_rclone"]

_QUOTE = "\u201b"
_PICTURES = {chr(code): chr(0x2400 + code) for code in range(1, 0x20)} | {"\x7f": "\u2421"}
_CONTROLS = {picture: control for control, picture in _PICTURES.items()}
_QUOTED = re.compile(f"{_QUOTE}([\u2401-\u241f\u2421{_QUOTE}])|([\u2401-\u241f\u2421])")


def to_rclone(path: str) -> str:
    """Return a path as rclone wants it.

    Raises:
        IllegalPath: rclone has no form for it.
    """
    if _QUOTE in path:
        raise IllegalPath(
            f"rclone can't move {path!r}: it uses the character {_QUOTE!r} (U+201B) for itself, and would "
            "take that for another name. Rename it."
        )
    return "".join(_PICTURES.get(c, _QUOTE + c if c in _CONTROLS else c) for c in path)


def from_rclone(path: str) -> str:
    """Return the path that a listing of rclone's means."""
    return _QUOTED.sub(lambda match: match[1] or _CONTROLS[match[2]], path)
