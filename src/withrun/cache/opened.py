"""Whether any process has a file open or mapped, as far as the platform tells."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from pathlib import Path

__all__ = ["is_open", "nothing_open_below"]


def is_open(path: Path) -> bool:
    """Tell whether a process has the file open or mapped; False where the platform can't tell."""
    if sys.platform != "linux":
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # A write lease is granted only on a file that nobody else has open, and mappings count. Who opens it
        # between these lines waits for the lease's end, and the kernel sends its holder a signal: one that
        # is ignored unless asked for, in place of SIGIO, which would end this process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EBUSY)
    finally:
        os.close(descriptor)
    return False


def nothing_open_below(folder: Path) -> bool:
    """Tell whether no file below the folder is open anywhere."""
    return not any(is_open(Path(top, name)) for top, _, names in os.walk(folder) for name in names)
