"""Notes on errors that pass: what else the user is to know, said without wrapping the error."""

from __future__ import annotations

import logging
import sys

__all__ = ["add_note"]

_log = logging.getLogger("withrun")


def add_note(error: BaseException, note: str) -> None:
    """Attach a note to an error that passes."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        # Python 3.10 keeps no notes; tools read this attribute, and its own traceback needs the log.
        error.__dict__.setdefault("__notes__", []).append(note)
        _log.error("%s: %s", type(error).__name__, note)
