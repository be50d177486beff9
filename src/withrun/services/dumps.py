"""Dumpers: callbacks that write an artifact to a path that they are given.

What a dumper wrote is kept whenever publishing it did not succeed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from withrun.cache.locks import reading, removing
from withrun.errors import CacheError, InvalidArgument
from withrun.services.notes import add_note

__all__ = ["clean_dumps", "dumped"]

_PREFIX = "withrun-dump-"


@contextlib.contextmanager
def dumped(dumper: Callable[[Path], Any], name: str, folder: Path) -> Iterator[Path]:
    """Let a dumper write an artifact called `name` into a fresh folder below `folder`; gives its path.

    Whatever goes wrong in the dumper passes, with a note that names what had been written. While the block
    runs, `clean_dumps` leaves it alone. The fresh folder is removed when nothing is left in it.
    """
    home = folder / (_PREFIX + secrets.token_hex(8))
    path = home / name
    try:
        with _home(home):
            try:
                dumper(path)
            except BaseException as error:
                written = _written(home)
                if written:
                    add_note(error, f"What the callback had written is kept: {', '.join(map(str, written))}")
                raise
            if not os.path.lexists(path):
                raise InvalidArgument(_missing(home, name))
            yield path
    finally:
        with contextlib.suppress(OSError):
            home.rmdir()


@contextlib.contextmanager
def _home(home: Path) -> Iterator[None]:
    """Make a dumper's folder and hold it against cleaning."""
    with contextlib.ExitStack() as stack:
        held = False
        while not held:
            try:
                home.mkdir(parents=True, exist_ok=True)
                held = stack.enter_context(reading(home))
            except FileNotFoundError:
                continue  # a cleaning removed it before it was held
            except OSError as error:
                raise CacheError(
                    f"Can't make the folder {str(home)!r} for what the callback writes: {error.strerror}. "
                    "Choose another `temp_artifacts_dir`."
                ) from error
            held = held and home.is_dir()
        yield


def _written(home: Path) -> list[Path]:
    return sorted(home.iterdir()) if home.is_dir() else []


def _missing(home: Path, name: str) -> str:
    written = ", ".join(repr(path.name) for path in _written(home))
    found = (
        f"it wrote {written} beside it, which is kept in {str(home)!r}. Write to exactly the path (some "
        "libraries add an extension of their own: then have it in path_in_run)"
        if written
        else "it wrote nothing. Write a file or folder to that path"
    )
    return f"The callback returned, and there is no {name!r} where it was to write it: {found}."


def clean_dumps(folder: Path) -> None:
    """Remove what dumpers wrote and was not published; not what is being written or published just now."""
    for home in folder.glob(_PREFIX + "*"):
        with contextlib.suppress(FileNotFoundError), removing(home) as free:
            if free:
                shutil.rmtree(home)
