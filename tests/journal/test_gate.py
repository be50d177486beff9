"""The gate: no fork falls into the middle of a backend call."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from withrun.journal import gate as gates
from withrun.journal.gate import Gate

# Python 3.12 and later warn of forks beside threads, which are what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_no_child_is_forked_in_the_middle_of_a_call() -> None:
    """While threads make calls all the time, forks of two threads at once find none of them under way."""
    gate = Gate()
    under_way: set[int] = set()
    stop = threading.Event()
    failed: list[int] = []

    def call() -> None:
        while not stop.is_set():
            with gate:
                under_way.add(threading.get_ident())
                time.sleep(0.001)
                under_way.discard(threading.get_ident())

    def fork() -> None:
        for _ in range(15):
            child = os.fork()
            if child == 0:
                try:
                    os._exit(1 if under_way or gates.was_forked_in_a_call() else 0)
                finally:
                    os._exit(2)
            failed.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    callers = [threading.Thread(target=call) for _ in range(3)]
    forkers = [threading.Thread(target=fork) for _ in range(2)]
    for thread in callers + forkers:
        thread.start()
    for thread in forkers:
        thread.join()
    stop.set()
    for thread in callers:
        thread.join()
    assert failed == [0] * 30
    assert gates._forks == {}


def test_a_fork_in_a_handler_that_interrupts_a_fork() -> None:
    """Gates open again in the parent and in both children when a handler forks while its thread parks."""
    gate = Gate()
    entered, leave = threading.Event(), threading.Event()

    def call() -> None:
        with gate:
            entered.set()
            leave.wait(10)

    inner: list[int] = []

    def handler(*_: object) -> None:
        leave.set()
        inner.append(os.fork())

    def passes() -> bool:
        through = threading.Event()

        def pass_through() -> None:
            with gate:
                through.set()

        threading.Thread(target=pass_through, daemon=True).start()
        return through.wait(5)

    caller = threading.Thread(target=call)
    caller.start()
    entered.wait(10)
    parent = os.getpid()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        outer = os.fork()  # waits for the call; the handler interrupts that
        if os.getpid() != parent:
            try:
                code = 0 if passes() else 1
                if outer:  # the child of the handler's fork, gone on with this one
                    code |= os.waitstatus_to_exitcode(os.waitpid(outer, 0)[1])
                os._exit(code)
            finally:
                os._exit(2)
    finally:
        if os.getpid() == parent:
            signal.signal(signal.SIGALRM, before)
    children = [outer, *inner]
    assert len(children) == 2
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert passes()
    caller.join()
