"""SIGTERM inside an open block: an exit that unwinds it, so that its run ends KILLED.

The handler is installed only while blocks are open, only from the main thread, and chained: a handler of
the program's own is called first, and if it returns, the program goes on.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Terminated", "block_closed", "block_opened", "was_terminated"]


class Terminated(SystemExit):
    """Raised in the main thread by SIGTERM while a block is open; the exit code is the shell's for it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class _State:
    """What this process has installed. One per process: so are signal handlers."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a handler may log, and so come back here
        self.open_blocks = 0
        self.installed = False
        self.previous: Any = None
        self.terminated = False
        self.calling_previous = False


_state = _State()


def block_opened() -> None:
    """Note that a block was entered; installs the handler with the first one of the main thread."""
    with _state.lock:
        _state.open_blocks += 1
        if threading.current_thread() is not threading.main_thread():
            return
        current = signal.getsignal(signal.SIGTERM)
        if current is None:  # installed by C code, and could not be put back
            return
        is_first = not _state.installed or _state.open_blocks == 1  # later, the program chose its own
        if current is not _on_sigterm and is_first:
            _state.previous = current
            signal.signal(signal.SIGTERM, _on_sigterm)
            _state.installed = True


def block_closed() -> None:
    """Note that a block was left; puts the program's own handler back with the last one."""
    with _state.lock:
        _state.open_blocks = max(0, _state.open_blocks - 1)
        if (
            _state.open_blocks == 0
            and _state.installed
            and threading.current_thread() is threading.main_thread()
        ):
            if signal.getsignal(signal.SIGTERM) is _on_sigterm:  # else the program has set its own since
                signal.signal(signal.SIGTERM, _state.previous)
            _state.installed = False


def was_terminated() -> bool:
    """Whether SIGTERM has asked this process to exit."""
    return _state.terminated


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    previous = _state.previous
    # A handler of the program's that was set inside a block may hand on to this one: then it asks for what
    # would be done without it.
    if callable(previous) and not _state.calling_previous:
        _state.calling_previous = True
        try:
            previous(signum, frame)
        finally:
            _state.calling_previous = False
        return
    if previous == signal.SIG_IGN:
        return
    if _state.open_blocks == 0:
        # The last block was left by another thread, which can't put handlers back: do what would be done.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        return
    _state.terminated = True
    raise Terminated


def _after_fork_in_child() -> None:
    # The blocks of the parent are not the child's to end; it gets the parent's own handling back.
    # A lock that another thread held stays held: start anew.
    global _state
    before, _state = _state, _State()
    if before.installed and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, before.previous)


os.register_at_fork(after_in_child=_after_fork_in_child)
