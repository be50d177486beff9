"""Where versions lie in runs, as it is remembered between questions to the registry."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from withrun.backend import VersionRecord
from withrun.errors import AlreadyExists, ServerUnreachable
from withrun.schema import Experiment, Run
from withrun.services.version_paths import VersionPaths

LIES_THERE = ("model", VersionRecord(name="m", version="1"))
RUN = Run(id="r", name="r", exp=Experiment(id="1", name="x"))


def test_a_question_without_an_answer_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """While the registry can't be asked a warning says so; when it answers again, versions are protected."""
    is_away = True

    def ask(run: Run) -> Iterator[tuple[str, VersionRecord]]:
        if is_away:
            raise ServerUnreachable("away")
        yield LIES_THERE

    paths = VersionPaths(ask, nullcontext)
    paths.check_kept(RUN, ["model/weights"])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    is_away = False
    with pytest.raises(AlreadyExists, match="version 1 of model 'm'"):
        paths.check_kept(RUN, ["model/weights"])


def test_an_answer_from_before_a_version_was_registered_is_not_remembered() -> None:
    """A version that this process registers while another thread asks is protected from the next call on."""
    asked, registered = threading.Event(), threading.Event()
    registry: list[tuple[str, VersionRecord]] = []

    def ask(run: Run) -> list[tuple[str, VersionRecord]]:
        answer = list(registry)
        asked.set()
        assert registered.wait(10)
        return answer

    paths = VersionPaths(ask, nullcontext)
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(paths.check_kept, RUN, ["log.txt"])
        assert asked.wait(10)
        registry.append(LIES_THERE)
        paths.forget(RUN)
        registered.set()
        checked.result()
    with pytest.raises(AlreadyExists):
        paths.check_kept(RUN, ["model/weights"])


def test_threads_that_publish_to_many_runs() -> None:
    """Threads that publish to more runs than are remembered do not disturb one another."""
    paths = VersionPaths(lambda run: [], nullcontext)

    def publish(worker: int) -> None:
        run = RUN.model_copy()
        for number in range(3_000):
            run.id = f"{worker}-{number}"
            paths.check_kept(run, ["x"])

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(publish, range(4)))
    finally:
        sys.setswitchinterval(before)
