"""What it means that something could not be cached, told from the errors of the file system."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from withrun.cache.layout import Key
from withrun.errors import CacheError, WithrunError

__all__ = ["explained", "is_disk_full"]


@contextlib.contextmanager
def explained(key: Key, root: Path) -> Iterator[None]:
    """Make errors of the file system, within the block, ones that say what could not be cached."""
    try:
        yield
    except (WithrunError, ConnectionError, TimeoutError):
        raise  # a replaced `FileTransfer` may say by these that it did not get through
    except OSError as error:
        way_out = (
            "Make room (`withrun cache trim --max-size 10GB` trims it) or choose another `cache_dir`."
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "Make the cache folder writable, or choose another `cache_dir`."
        )
        raise CacheError(
            f"Can't keep {key} in the cache {str(root)!r}: {error.strerror or error}"
            f"{f' ({error.filename!r})' if error.filename else ''}. {way_out}"
        ) from error


def is_disk_full(error: BaseException, root: Path) -> bool:
    """Tell whether the disk of a cache is full, as an error says or as it looks."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, OSError) and at.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        at = at.__cause__
    # A subprocess that transfers says it in its own words.
    return shutil.disk_usage(root).free < 1 << 20
