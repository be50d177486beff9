"""Small programs that log through the public API in processes of their own, and say what has happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREAMBLE = """
import json, logging, os, signal, sys, threading, time
from pathlib import Path
import withrun

api = withrun.MlflowApi(**json.loads(os.environ["CONF"]))
exp = api.get_exp(os.environ["EXPERIMENT"]) if os.environ["EXPERIMENT"] else None

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


@dataclass
class Program:
    """A running program."""

    process: subprocess.Popen[str]

    def line(self) -> str:
        """The next line that it says; empty once it is over."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it as nothing can be prepared for."""
        self.process.kill()
        self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def finish(self, timeout: float = 60) -> tuple[int, str, str]:
        """Wait for it: exit code, what it still said, and its errors."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err


def start(
    code: str, uri: str, experiment: str, journal: Path, *, env: dict[str, str] | None = None, **conf: Any
) -> Program:
    """Start a program; `api`, `exp` and `say` are there for it.

    Args:
        code: what it does; a line that it says is out when `say` returns.
        uri: the store.
        experiment: ID of `exp`; empty: there is none, and nothing is asked of the store for it.
        journal: the journal folder.
        env: further environment variables.
        conf: further fields of the API, as JSON takes them.
    """
    fields = {"tracking_uri": uri, "journal_dir": str(journal), **conf}
    settings = {"CONF": json.dumps(fields), "EXPERIMENT": experiment, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **settings, **(env or {})},
    )
    return Program(process)


def run(code: str, uri: str, experiment: str, journal: Path, **conf: Any) -> tuple[int, str, str]:
    """Run a program to its end."""
    return start(code, uri, experiment, journal, **conf).finish()
