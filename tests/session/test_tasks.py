"""Tasks of asyncio: they inherit what is active, and never see each other's changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

import withrun
from withrun import BaseMlflowApi, ExpApi
from withrun.errors import NoActiveRun

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_async_with(exp: ExpApi, client: MlflowClient) -> None:
    """`async with` is a block as `with` is, for runs and sessions; an exception passes and ends it FAILED."""

    async def main() -> None:
        async with withrun.session(exp.api), exp.start_run() as run:
            withrun.log_param("a", 1)
        assert withrun.active_run() is None
        with pytest.raises(ZeroDivisionError):
            async with exp.start_run() as failed:
                raise ZeroDivisionError
        assert client.get_run(run.id).info.status == "FINISHED"
        assert client.get_run(failed.id).info.status == "FAILED"

    asyncio.run(main())


def test_leaving_does_not_hold_up_the_loop(exp: ExpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a block waits to be delivered, other tasks of the loop go on."""
    runs = exp.api.services.runs
    ending, go_on = threading.Event(), threading.Event()
    end = runs.end

    def slowly(*args: object) -> int:
        ending.set()
        assert go_on.wait(20)
        return end(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "end", slowly)

    async def main() -> None:
        async def block() -> None:
            async with exp.start_run():
                pass

        task = asyncio.create_task(block())
        while not ending.is_set():
            await asyncio.sleep(0.01)
        go_on.set()  # reached only because the loop is free
        await task

    asyncio.run(main())


def test_cancelled_task_ends_its_run_killed(exp: ExpApi, client: MlflowClient) -> None:
    """A cancelled task's run ends KILLED, with `with` and with `async with`."""

    async def main() -> None:
        started: list[withrun.RunApi] = []

        async def plain() -> None:
            with exp.start_run() as run:
                started.append(run)
                await asyncio.sleep(60)

        async def asynchronous() -> None:
            async with exp.start_run() as run:
                started.append(run)
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(plain()), asyncio.create_task(asynchronous())]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2
        assert [client.get_run(run.id).info.status for run in started] == ["KILLED"] * 2

    asyncio.run(main())


def test_tasks_inherit_and_do_not_leak(exp: ExpApi) -> None:
    """A task starts with its creator's run active; what it starts is not seen outside, nor the reverse."""

    async def main() -> None:
        opened, checked = asyncio.Event(), asyncio.Event()

        async def child() -> str | None:
            assert withrun.active_run() is parent
            async with parent.start_child() as run:
                opened.set()
                await checked.wait()
                assert withrun.active_run() is run
            assert withrun.active_run() is parent
            return run.parent_id

        async with exp.start_run() as parent:
            task = asyncio.create_task(child())
            await opened.wait()
            assert withrun.active_run() is parent
            checked.set()
            assert await task == parent.id

    asyncio.run(main())


def test_run_that_ended_is_active_nowhere(exp: ExpApi) -> None:
    """A task that inherited a run which has ended since has no active run, and a verb there raises."""

    async def main() -> None:
        ended = asyncio.Event()

        async def late() -> None:
            await ended.wait()
            assert withrun.active_run() is None
            with pytest.raises(NoActiveRun):
                withrun.log_param("a", 1)

        async with exp.start_run():
            task = asyncio.create_task(late())
        ended.set()
        await task

    asyncio.run(main())


def test_async_generator_closed_from_another_task(exp: ExpApi, client: MlflowClient) -> None:
    """An async generator whose block is left in another task ends its run, and removes just that run."""

    async def main() -> None:
        async def training() -> AsyncIterator[withrun.RunApi]:
            with parent.start_child() as run:
                yield run

        with exp.start_run() as parent:
            generator = training()
            run = await generator.__anext__()
            assert withrun.active_run() is run  # a suspended generator's block is seen by its consumer

            async def close() -> None:
                await generator.aclose()  # type: ignore[attr-defined]
                assert withrun.active_run() is parent

            await asyncio.create_task(close())
            assert client.get_run(run.id).info.status == "FINISHED"
            assert withrun.active_run() is parent
            withrun.log_param("after", 1)
        assert client.get_run(parent.id).data.params == {"after": "1"}

    asyncio.run(main())


def test_async_generator_of_async_blocks(exp: ExpApi, client: MlflowClient) -> None:
    """The same with `async with`, dropped without being closed: the loop's own shutdown ends the run."""
    runs: list[withrun.RunApi] = []

    async def training() -> AsyncIterator[int]:
        async with exp.start_run() as run:
            runs.append(run)
            yield 1
            yield 2

    async def main() -> None:
        async for _ in training():
            break
        await asyncio.sleep(0)

    asyncio.run(main())
    assert client.get_run(runs[0].id).info.status == "FINISHED"
    assert withrun.active_run() is None


def test_to_thread_inherits(exp: ExpApi, client: MlflowClient) -> None:
    """`asyncio.to_thread` carries the active run along."""

    async def main() -> str:
        async with exp.start_run() as run:
            await asyncio.to_thread(withrun.log_param, "a", 1)
        return run.id

    assert client.get_run(asyncio.run(main())).data.params == {"a": "1"}


def test_bound_coroutine_function(api: BaseMlflowApi, exp: ExpApi) -> None:
    """A bound coroutine function runs in the carried session wherever it is awaited, at once too."""

    async def work(number: int) -> int:
        active = withrun.active_run()
        await asyncio.sleep(0)
        assert withrun.active_run() is active is run
        async with withrun.start_run(nested=True):
            await asyncio.sleep(0)
        return number

    with exp.start_run() as run:
        bound = withrun.bind(work)

        def elsewhere() -> None:
            async def main() -> list[int]:
                assert withrun.active_run() is None
                return await asyncio.gather(*(bound(i) for i in range(3)))

            results.append(asyncio.run(main()))

        results: list[list[int]] = []
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert results == [[0, 1, 2]]
    assert len(list(run.children)) == 3
