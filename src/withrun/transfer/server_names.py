"""Names as MLflow's server reads them, and as MLflow's own clients find them again.

The server reads the path that it is asked for as if it were a URL in itself: it decodes that until nothing
changes, then escapes control characters, and refuses `#`. Its clients read each name in a listing like that,
and write a path into a URL as it is. A name that one of them changes would be lost, or be another file's.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlparse, urlunparse

from withrun.errors import ArtifactNotFound, IllegalPath, TransferError
from withrun.transfer.copying import TEMP_PREFIX
from withrun.transfer.paths import check_name

__all__ = ["check_asked", "check_kept", "check_listed"]

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")

_UNKEPT = re.compile(r"[#?\\\x00-\x1f\x7f]")
"""Characters that a name on the server can't have: it refuses or changes them, or its clients cut there."""


def check_kept(path: str) -> None:
    """Refuse a path under which MLflow's server would not keep a file, or its clients would not find it.

    Raises:
        IllegalPath: says which name of the path it is, and why.
    """
    for name in path.split("/"):
        why = _why_not(name)
        if why:
            raise IllegalPath(
                f"An MLflow server can't keep an artifact at {path!r}: {why}. "
                "Rename the file, or give another path_in_run (of a model version, too)."
            )
    check_name(path, what="the artifact path")


def check_asked(path: str) -> None:
    """Tell that nothing can be at a path which the server would take for another one.

    What is percent-encoded passes: URLs that other tools registered are, and the server decodes them.

    Raises:
        ArtifactNotFound: there is no such name on an MLflow server.
    """
    plain = _unquoted(path)
    if _CONTROLS.search(path) or "#" in plain or ".." in plain.split("/") or _read(path) != _escaped(plain):
        raise ArtifactNotFound(
            f"There is no artifact at {path!r}: an MLflow server keeps none of that name, it would take it "
            "for another."
        )


def check_listed(path: str) -> None:
    """Refuse a path in a listing that the server would take for another one when it is asked for it.

    Raises:
        TransferError: another tool put it where the server keeps its files.
    """
    if "#" in path or _read(path) != path:
        raise TransferError(
            f"The server lists {path!r}, and takes that for another name when it is asked for it. "
            "Rename the file where the server keeps it."
        )


def _why_not(name: str) -> str:
    """Why a server does not keep a name; empty if it does."""
    found = _UNKEPT.search(name)
    if found:
        return f"{name!r} holds {found[0]!r}, where it or its clients cut a name off or change it"
    if name.startswith(" "):
        return f"its clients drop the blanks before {name!r}"
    if name[:5].lower() == "file:" or _read(name) != name:
        return f"it or its clients read {name!r} as part of a URL, and change it"
    if name.startswith(TEMP_PREFIX):
        return f"names that start with {TEMP_PREFIX!r} are those of its unfinished uploads"
    return ""


def _read(path: str) -> str:
    """What the server makes of a path that it is asked for; empty if it refuses it."""
    try:
        while (plain := urlunparse(urlparse(unquote(path)))) != path:
            path = plain
    except ValueError:  # brackets where a host would be
        return ""
    return _escaped(path)


def _escaped(path: str) -> str:
    return _CONTROLS.sub(lambda match: f"%{ord(match[0]):02x}", path)


def _unquoted(path: str) -> str:
    while (plain := unquote(path)) != path:
        path = plain
    return path
