"""The gate: no fork falls into the middle of a backend call."""

from __future__ import annotations

import os
import subprocess
import sys
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


NESTED = """
import os, signal, sys, threading
from withrun.journal.gate import Gate

gate, entered, leave, parent, inner = Gate(), threading.Event(), threading.Event(), os.getpid(), []

def call():
    with gate:
        entered.set()
        leave.wait(10)

def handler(*_):
    inner.append(os.fork())
    leave.set()

def passes():
    through = threading.Event()
    def pass_through():
        with gate:
            through.set()
    threading.Thread(target=pass_through, daemon=True).start()
    return through.wait(5)

signal.signal(signal.SIGALRM, handler)
threading.Thread(target=call, daemon=True).start()
entered.wait(10)
signal.setitimer(signal.ITIMER_REAL, 0.2)
code = 2
try:
    outer = os.fork()  # waits for the call; the handler interrupts that
    code = 0 if passes() else 1
    for child in filter(None, [outer, *inner]):
        code |= os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
finally:
    os._exit(code)
"""


@pytest.mark.slow
def test_a_fork_in_a_handler_that_interrupts_a_fork() -> None:
    """Gates open again in the parent and in all children when a handler forks while its thread parks."""
    # In a process without `concurrent.futures`, whose own hook around forks waits for itself there.
    command = [sys.executable, "-W", "ignore", "-c", NESTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_gates_within_gates() -> None:
    """A call that goes through two gates ends during a fork, whichever of them was closed first."""
    outer, inner = Gate(), Gate()
    entered, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        with outer:
            entered.set()
            go_on.wait(10)
            with inner:
                done.set()

    thread = threading.Thread(target=call)
    thread.start()
    entered.wait(10)
    assert inner.park(time.monotonic() + 10)
    go_on.set()
    assert outer.park(time.monotonic() + 10)
    assert done.is_set()
    for gate in (outer, inner):
        gate.open()
    thread.join(10)
