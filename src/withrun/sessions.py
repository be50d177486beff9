"""Sessions: which API the module's verbs use, and how a context is carried into threads and callbacks."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Generator
from contextvars import copy_context
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from withrun import context
from withrun.api import BaseMlflowApi
from withrun.context import Entry, Frame
from withrun.errors import InvalidArgument

__all__ = ["bind", "session"]

P = ParamSpec("P")
R = TypeVar("R")


class session:  # noqa: N801 - used like a function: `with withrun.session(api):`
    """Make an API the current one of the context, for the verbs of the module.

    Inside, `set_experiment` and `start_run` work without naming it, and verbs see its runs alone. Works with
    `with` and `async with`.

    Args:
        api: the API instance.

    Example:
        >>> with withrun.session(api):
        ...     withrun.set_experiment("demo")
        ...     with withrun.start_run():
        ...         withrun.log_param("lr", 0.1)
    """

    def __init__(self, api: BaseMlflowApi) -> None:
        if not isinstance(api, BaseMlflowApi):
            raise InvalidArgument(
                f"a session takes an API instance, as get_api() makes them; got {api!r:.100} "
                f"of type {type(api).__name__}"
            )
        self._api = api
        self._entries: list[Entry] = []  # of all contexts: tasks and threads may share this object

    def __enter__(self) -> BaseMlflowApi:
        entry = Entry()
        self._entries.append(entry)
        context.push_frame(Frame(self._api, entry))
        return self._api

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # This context's own innermost entry; one that another context made only if this one has none.
        entry = context.innermost_entry(self._entries) or self._entries[-1]
        self._entries.remove(entry)
        context.pop_frame(entry)

    async def __aenter__(self) -> BaseMlflowApi:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def bind(fn: Callable[P, R]) -> Callable[P, R]:
    """Carry the current session and active runs into a thread, an executor or a callback.

    Threads start with no active run; what `bind` returns runs `fn` as if it were called here. What it starts
    or ends there is not seen here. Works for functions, coroutine functions and generator functions.

    Args:
        fn: what to call there.

    Returns:
        a function of the same signature, to be called any number of times, also at once.

    Example:
        >>> with api.start_run(exp), ThreadPoolExecutor() as pool:
        ...     pool.map(withrun.bind(train_fold), folds)
    """
    if not callable(fn):
        raise InvalidArgument(f"bind takes a function, not {fn!r:.100} of type {type(fn).__name__}")
    if inspect.isasyncgenfunction(fn) or inspect.isasyncgenfunction(_call_of(fn)):
        raise InvalidArgument(
            f"{fn!r:.100} is an asynchronous generator, each step of which runs in its consumer's context: "
            "bind the coroutine function that consumes it"
        )
    carried = context.snapshot()

    def fresh() -> Any:
        # The callee's own context with our variables replaced, so that other libraries' stay as they are
        # there; a copy for each call, because a context can't be entered twice at once.
        here = copy_context()
        here.run(carried.restore)
        return here

    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(_call_of(fn)):

        @functools.wraps(fn)
        async def run_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
            # A task takes a copy of the context that creates it.
            return await fresh().run(asyncio.ensure_future, fn(*args, **kwargs))

        return cast("Callable[P, R]", run_coroutine)

    if inspect.isgeneratorfunction(fn) or inspect.isgeneratorfunction(_call_of(fn)):

        @functools.wraps(fn)
        def run_generator(*args: P.args, **kwargs: P.kwargs) -> Any:
            return _stepwise(fresh(), cast("Generator[Any, Any, Any]", fn(*args, **kwargs)))

        return cast("Callable[P, R]", run_generator)

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", fresh().run(fn, *args, **kwargs))

    return run


def _call_of(fn: Any) -> Any:
    """The method that calling an object calls; None for a class, whose call makes an instance."""
    return None if isinstance(fn, type) else getattr(type(fn), "__call__", None)  # noqa: B004 - not a test


def _stepwise(where: Any, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Drive a generator with each of its steps in that context."""
    step, given = generator.send, None
    try:
        while True:
            item = where.run(step, given)
            step, given = yield from _answer(generator, item)
    except StopIteration as stop:
        return stop.value
    finally:
        where.run(generator.close)


def _answer(generator: Generator[Any, Any, Any], item: Any) -> Generator[Any, Any, tuple[Any, Any]]:
    """Yield an item; the generator's method to go on with, and what to give it."""
    try:
        return generator.send, (yield item)
    except GeneratorExit:
        raise
    except BaseException as exc:  # noqa: BLE001 - handed on to the generator, whose business it is
        return generator.throw, exc
