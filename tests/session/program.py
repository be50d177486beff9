"""Run small programs that use withrun on a store, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass

PREAMBLE = """
import os, signal, sys, threading, time
import withrun
api = withrun.MlflowApi(tracking_uri=os.environ["STORE"])
exp = api.get_exp(os.environ["EXPERIMENT"])

def say(*words):
    print(*words, flush=True)
"""


@dataclass
class Program:
    """A running program."""

    process: subprocess.Popen[str]

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def finish(self) -> tuple[int, str, str]:
        """Wait for it: exit code, what it still said, and its errors."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def start(code: str, store: str, experiment: str) -> Program:
    """Start a program; `api`, `exp` and `say` are there for it."""
    env = {**os.environ, "STORE": store, "EXPERIMENT": experiment, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    return Program(process)


def run(code: str, store: str, experiment: str) -> tuple[int, str, str]:
    """Run a program to its end."""
    return start(code, store, experiment).finish()
