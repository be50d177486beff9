"""The `mlflow.user` and `mlflow.source.*` tags that MLflow sets on a run, told without importing it.

What they hold follows `mlflow/tracking/context/` (default, git and notebook providers).
"""

from __future__ import annotations

import getpass
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from withrun.services.notebook import notebook_name

__all__ = ["source_tags"]

_GIT_TIMEOUT = 5.0  # seconds; a repository on a network mount that hangs must not hold a run up for long


def source_tags() -> dict[str, str]:
    """Who runs what: user, main file or notebook, and the git commit that it stands at."""
    main_file = sys.argv[0] if sys.argv and sys.argv[0] else None
    notebook = notebook_name()
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": notebook or main_file or "<console>",
        "mlflow.source.type": "NOTEBOOK" if notebook else "LOCAL",
        **(_git_tags(main_file) if main_file else {}),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # no name in the environment and none in the user database
        return "unknown"


@lru_cache(maxsize=8)
def _git_tags(main_file: str) -> dict[str, str]:
    """Commit, branch and remote of the repository that holds the main file; empty without one."""
    folder = Path(main_file).resolve()
    folder = folder.parent if folder.is_file() else folder
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return {}  # most main files lie in no repository, and starting git costs milliseconds
    head = _git(folder, "rev-parse", "HEAD")
    if not head or _git(folder, "check-ignore", "--quiet", str(folder)) is not None:
        return {}
    tags = {"mlflow.source.git.commit": head}
    branch = _git(folder, "symbolic-ref", "--short", "--quiet", "HEAD")
    if branch:
        tags["mlflow.source.git.branch"] = branch
    remotes = _git(folder, "config", "--get-regexp", r"^remote\..*\.url$")
    if remotes:
        tags["mlflow.source.git.repoURL"] = _without_credentials(remotes.splitlines()[0].split(" ", 1)[-1])
    return tags


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, stripped; None if it fails or is not there."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program with fixed words and a folder
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the user's own git, from PATH
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url  # also `git@host:path`, where what is before the @ is no secret
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
