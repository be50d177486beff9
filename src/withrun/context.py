"""What is active in the current context: the stack of runs and the stack of sessions.

The stacks are immutable tuples in context variables, so what a task or thread changes is never seen by
another. Leaving changes only the leaver's own entry, by identity: a token reset would bring finished runs
back when the blocks of two APIs interleave, and fails in another context than the one entered. Entries
are shared objects with a flag that says when their run is over, and every look-up skips those, so a run
that ended elsewhere is active nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from contextvars_extras import ContextVarsRegistry

__all__ = [
    "Activation",
    "Entry",
    "Frame",
    "Snapshot",
    "activate",
    "active",
    "deactivate",
    "enclosing_block",
    "innermost_entry",
    "is_active_here",
    "last",
    "pop_frame",
    "push_frame",
    "replace_frame",
    "session_frame",
    "snapshot",
]


class Activation:
    """One run made active by being started, resumed or entered; shared by all contexts that see it.

    Attributes:
        api: the API instance that the run belongs to.
        run: the handle that verbs go to.
        over: whether the run has ended, or its block was left, since; never reset.
        ends_as: the status that it is being ended with; None until then.
        is_ending: whether its end is on the way to the store just now.
        in_block: whether it was entered by `with`.
        pid: the process that owns it: ending it is left to that process.
        cell: the execution of a notebook cell that it was started in, or None.
    """

    __slots__ = ("__weakref__", "api", "cell", "ends_as", "in_block", "is_ending", "over", "pid", "run")

    def __init__(self, api: Any, run: Any, cell: Any = None) -> None:
        self.api = api
        self.run = run
        self.over = False
        self.ends_as: Any = None
        self.is_ending = False
        self.in_block = False
        self.pid = os.getpid()
        self.cell = cell

    @property
    def is_own(self) -> bool:
        """Whether this process is the one that owns the run, and not a fork of it."""
        return self.pid == os.getpid()


class Entry:
    """One time that a session was entered; shared by all contexts that see it.

    Attributes:
        left: whether it was left since; never reset.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = False


class Frame:
    """A session as one context has it: the API, and the experiment that runs without a named one go to.

    Attributes:
        entry: the block that it stands for; None for the default session of a context.
    """

    __slots__ = ("api", "entry", "experiment_id")

    def __init__(self, api: Any, entry: Entry | None, experiment_id: str | None = None) -> None:
        self.api = api
        self.entry = entry
        self.experiment_id = experiment_id

    @property
    def is_block(self) -> bool:
        """Whether it is a `session` block, inside which verbs see its API's runs alone."""
        return self.entry is not None

    @property
    def is_left(self) -> bool:
        """Whether its block was left, here or in another context."""
        return self.entry is not None and self.entry.left


class _Current(ContextVarsRegistry):  # type: ignore[misc]  # the package has no types
    # The registry makes a context variable of each attribute: `Any`, because they are then its descriptors.
    _registry_allocate_on_setattr = False

    runs: Any = ()  # tuple[Activation, ...], the innermost last
    frames: Any = ()  # tuple[Frame, ...], the innermost last
    last: Any = ()  # tuple[RunApi, ...], one per API, the latest last


# Bound once: looking `_Current.runs.get` up anew costs as much again as the call (0.06 us).
_get_runs: Callable[[], tuple[Activation, ...]] = _Current.runs.get
_get_frames: Callable[[], tuple[Frame, ...]] = _Current.frames.get
_get_last: Callable[[], tuple[Any, ...]] = _Current.last.get


_KEPT_LAST = 15
"""Of so many other APIs is the last run kept: a service may make an API for each request."""


# --- runs ---


def activate(activation: Activation) -> None:
    """Make a run the innermost active one of this context; moves it there if it is active already."""
    _Current.runs.set((*_others(activation), activation))
    others = tuple(run for run in _get_last() if run.api is not activation.api)
    _Current.last.set((*others[-_KEPT_LAST:], activation.run))


def deactivate(activation: Activation) -> None:
    """Remove just that run from this context, and mark it over for all others."""
    activation.over = True
    _Current.runs.set(_others(activation))


def _others(activation: Activation) -> tuple[Activation, ...]:
    # Runs that are over are dropped on the way, so that the tuple does not grow in a context that
    # inherited them.
    return tuple(a for a in _get_runs() if a is not activation and not a.over)


def active(api: Any = None) -> Any | None:
    """The innermost run that is active here, of `api` if given; None without one."""
    for activation in reversed(_get_runs()):
        if not activation.over and (api is None or activation.api is api):
            return activation.run
    return None


def enclosing_block(api: Any) -> Activation | None:
    """The innermost open block of a run of `api` around the caller, or None."""
    for activation in reversed(_get_runs()):
        if activation.in_block and not activation.over and activation.api is api:
            return activation
    return None


def is_active_here(activation: Activation) -> bool:
    """Whether this context sees the run as active."""
    return not activation.over and any(a is activation for a in _get_runs())


def last(api: Any = None) -> Any | None:
    """The run that was made active last in this context, of `api` if given, over or not."""
    return next((run for run in reversed(_get_last()) if api is None or run.api is api), None)


# --- sessions ---


def session_frame() -> Frame | None:
    """The innermost session of this context that was not left yet, or None."""
    return next((frame for frame in reversed(_get_frames()) if not frame.is_left), None)


def push_frame(frame: Frame) -> None:
    """Make a session the innermost one of this context."""
    _Current.frames.set((*(f for f in _get_frames() if not f.is_left), frame))


def innermost_entry(entries: Collection[Entry]) -> Entry | None:
    """The innermost of those entries that this context has; None if it has none of them."""
    return next((f.entry for f in reversed(_get_frames()) if f.entry in entries), None)


def pop_frame(entry: Entry) -> None:
    """Remove just that session from this context, and mark it left for all others."""
    entry.left = True
    _Current.frames.set(tuple(f for f in _get_frames() if f.entry is not entry))


def replace_frame(old: Frame, new: Frame) -> None:
    """Put another frame in one's place, for this context alone."""
    _Current.frames.set(tuple(new if f is old else f for f in _get_frames()))


# --- hand-over to threads, executors and callbacks ---


class Snapshot(NamedTuple):
    """What is active in a context, to be carried into another."""

    runs: tuple[Activation, ...]
    frames: tuple[Frame, ...]
    last: tuple[Any, ...]

    def restore(self) -> None:
        """Make it what is active here."""
        _Current.runs.set(self.runs)
        _Current.frames.set(self.frames)
        _Current.last.set(self.last)


def snapshot() -> Snapshot:
    """What is active here and now."""
    return Snapshot(_get_runs(), _get_frames(), _get_last())
