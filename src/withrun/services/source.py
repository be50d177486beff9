"""Where an artifact comes from: a path, or a dumper that writes it; and what becomes of it once published.

Nothing of the user's is lost: a source goes only after all of it was published, and only if it is still what
was published; what a dumper wrote is kept whenever publishing it did not succeed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from withrun.cache.locks import reading, removing
from withrun.errors import CacheError, IllegalPath, InvalidArgument
from withrun.transfer.copying import copy_file
from withrun.transfer.paths import check_relative
from withrun.transfer.tree import Tree, scan

__all__ = [
    "Choices",
    "Snapshot",
    "add_note",
    "choose",
    "clean_dumps",
    "delete",
    "dumped",
    "path_of",
    "remove",
    "replicate",
    "target_path",
]

_log = logging.getLogger("withrun")
_DUMP_PREFIX = "withrun-dump-"


@dataclass(frozen=True)
class Choices:
    """What becomes of a source: `keep` it, `use_cache` for a copy, make it a `link` to the copy."""

    keep: bool
    use_cache: bool
    link: bool


def choose(
    *,
    dumper: bool,
    local: bool,
    cache_exists: bool,
    cache_local: bool,
    keep_the_source: bool | None,
    allow_duplication: bool | None,
    use_cache: bool | None,
) -> Choices:
    """Settle the three options of publishing; what is not said is chosen so that it does the sensible thing.

    A source becomes a link only if `allow_duplication=False` was said: by default nothing of the user's
    changes but by what they asked for.

    Raises:
        InvalidArgument: what was said contradicts itself.
    """
    keep = keep_the_source if keep_the_source is not None else not dumper
    if use_cache and not cache_exists:
        raise InvalidArgument(
            "use_cache=True, but this API has no cache. Give it a `cache_dir`, or leave use_cache out."
        )
    link = keep and allow_duplication is False
    if link and use_cache is False:
        raise InvalidArgument(
            "keep_the_source=True, allow_duplication=False and use_cache=False contradict one another: "
            "without a duplicate, the kept source would be a link into the cache. Leave one of them out."
        )
    if use_cache is None:
        use_cache = cache_exists and (cache_local or not local)
    return Choices(keep=keep, use_cache=use_cache, link=link)


def path_of(source: object) -> Path | None:
    """Return a source that is a path; None if it is a dumper."""
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if not isinstance(text, str) or not text or "\0" in text:
            raise InvalidArgument(
                f"source {source!r} is no path: give text that is not empty and holds no NUL."
            )
        return Path(text)
    if callable(source):
        return None
    raise InvalidArgument(
        f"source is of type {type(source).__name__}; give a path, or a callback that writes to a given path."
    )


def target_path(source: Path | None, path_in_run: str | None) -> str:
    """Return where in the run a source goes: as said, else under its own name."""
    if path_in_run:
        return check_relative(path_in_run, what="path_in_run")
    if source is None:
        raise IllegalPath(
            "path_in_run is empty, and what a callback writes has no name of its own. Give path_in_run."
        )
    name = source.name if source.name not in ("", "..") else Path(os.path.realpath(source)).name
    return check_relative(name, what="the source's name")


# --- what was there when publishing began ---


class Snapshot:
    """The files of a source as they were before they were published.

    Raises:
        ArtifactNotFound: there is no source.
        TransferError: it holds what can't be published (a broken or looping link, a device).
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.tree: Tree = scan(source)
        self._states = self._look(self.tree)

    def holds(self) -> bool:
        """Tell whether the source is still what it was."""
        try:
            return self._look(scan(self.source)) == self._states
        except OSError:
            return False

    @staticmethod
    def _look(tree: Tree) -> dict[str, tuple[int, int, int]]:
        def state(path: Path) -> tuple[int, int, int]:
            status = path.stat()
            return status.st_size, status.st_mtime_ns, status.st_ino

        return {file.relative: state(file.path) for file in tree.files}


def replicate(source: Path, target: Path, check: Callable[[], None] = lambda: None) -> None:
    """Make `target` a copy of the file or folder `source`, its links followed; replaces what is there.

    Args:
        source: what to copy.
        target: where to.
        check: raises to give up; called between chunks.
    """
    delete(target)
    tree = scan(source)
    if not tree.is_file:
        target.mkdir()
    for folder in tree.folders:
        (target / folder).mkdir()
    for file in tree.files:
        place = target / file.relative if file.relative else target
        copy_file(file.path, place, advance=lambda _: check(), atomic=False)


def remove(snapshot: Snapshot) -> None:
    """Remove a published source; of a link, just the link. What changed meanwhile is kept, with a warning."""
    source = snapshot.source
    if not snapshot.holds():
        _log.warning("Kept %s: it changed while it was being published, so not all of it was.", source)
        return
    delete(source)


def delete(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link; nothing may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- dumpers ---


@contextlib.contextmanager
def dumped(dumper: Callable[[Path], Any], name: str, folder: Path) -> Iterator[Path]:
    """Let a dumper write an artifact called `name` into a fresh folder below `folder`; gives its path.

    Whatever goes wrong in the dumper passes, with a note that names what had been written. While the block
    runs, `clean_dumps` leaves it alone. The fresh folder is removed when nothing is left in it.
    """
    home = folder / (_DUMP_PREFIX + secrets.token_hex(8))
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
    for home in folder.glob(_DUMP_PREFIX + "*"):
        with contextlib.suppress(FileNotFoundError), removing(home) as free:
            if free:
                shutil.rmtree(home)


def add_note(error: BaseException, note: str) -> None:
    """Attach a note to an error that passes."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        # Python 3.10 keeps no notes; tools read this attribute, and its own traceback needs the log.
        error.__dict__.setdefault("__notes__", []).append(note)
        _log.error("%s: %s", type(error).__name__, note)
