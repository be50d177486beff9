"""Progress bars for transfers that take longer than a moment.

A bar costs nothing until a second has passed; then it appears on stderr if that is a terminal, or in the
notebook's cell. All bars of a process share one display, because a terminal has one bottom line.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "in_notebook", "shown_somewhere"]

APPEARS_AFTER = 1.0
"""Seconds a transfer may take without a bar."""


class Bar:
    """The progress of one transfer, thread-safe; used as a context manager.

    Args:
        title: what is being done to what, such as `Uploading model.pt`; no credentials.
        enabled: False makes a bar that never shows.
        unit: what is counted; None: bytes.
    """

    def __init__(self, title: str, *, enabled: bool = True, unit: str | None = None) -> None:
        self._title = title
        self._unit = unit
        self._enabled = enabled and shown_somewhere()
        self._lock = threading.Lock()
        self._total: int | None = None
        self._done = 0
        self._task: TaskID | None = None
        self._starts = time.monotonic() + APPEARS_AFTER

    @property
    def done(self) -> int:
        """The bytes that were reported so far."""
        return self._done

    def total(self, size: int) -> None:
        """Say how many bytes there are in all."""
        with self._lock:
            self._total = size
            self._draw()

    def advance(self, count: int) -> None:
        """Say that `count` more bytes are through; a negative count takes some back before a retry."""
        with self._lock:
            self._done += count
            self._draw()

    def set(self, done: int, total: int | None = None) -> None:
        """Say how many bytes are through by now, and how many there are."""
        with self._lock:
            self._done = done
            self._total = total if total is not None else self._total
            self._draw()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._enabled = False
            if self._task is not None:
                _display.remove(self._task)
                self._task = None

    def _draw(self) -> None:
        if not self._enabled or (self._task is None and time.monotonic() < self._starts):
            return
        if self._task is None:
            self._task = _display.add(self._title, self._unit)
        _display.update(self._task, self._done, self._total)


class _Display:
    """The process' one live display; alive while it has a task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._tasks = 0

    def add(self, title: str, unit: str | None) -> TaskID:
        with self._lock:
            if self._progress is None:
                self._progress = _new_progress()
                self._progress.start()
            self._tasks += 1
            return self._progress.add_task(title, total=None, unit=unit)

    def update(self, task: TaskID, done: int, total: int | None) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.update(task, completed=done, total=total)

    def remove(self, task: TaskID) -> None:
        with self._lock:
            if self._progress is None:
                return
            self._progress.remove_task(task)
            self._tasks -= 1
            if self._tasks == 0:
                self._progress.stop()
                self._progress = None


_display = _Display()


def _new_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Title(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.description)

    class Amount(DownloadColumn):
        def render(self, task: Task) -> Text:
            unit = task.fields["unit"]
            if unit is None:
                return super().render(task)
            return Text(f"{int(task.completed):,} of {int(task.total or 0):,} {unit}")

    return Progress(
        Title(),
        BarColumn(),
        Amount(binary_units=True),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def shown_somewhere() -> bool:
    """Whether there is a place for a bar: stderr is a terminal, or this is a notebook that has widgets."""
    if in_notebook():
        # Without ipywidgets rich prints a warning and a frame of HTML in place of a bar.
        return importlib.util.find_spec("ipywidgets") is not None
    return bool(sys.stderr and sys.stderr.isatty())


def in_notebook() -> bool:
    """Whether this code runs in a Jupyter kernel (not in a terminal's IPython)."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None
