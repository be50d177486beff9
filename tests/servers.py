"""Real MLflow servers for tests: started on loopback, waited for, always stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

START_TIMEOUT = 90.0
"""Seconds; a server imports for several seconds on two busy cores."""


@dataclass(frozen=True)
class MlflowServer:
    """A running server: its URL, the database behind it, and where it keeps artifacts."""

    url: str
    database: Path
    artifacts: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def store_uri(self) -> str:
        """URI under which a plain `MlflowClient` sees the same store without the server."""
        return f"sqlite:///{self.database}"


def free_port() -> int:
    """A TCP port on loopback that nothing listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@cache
def _database_template(python: str) -> Path:
    """A migrated, empty database; made once, because the migrations take seconds."""
    folder = Path(tempfile.mkdtemp(prefix="withrun-template-"))
    code = (
        "from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as S;"
        f"S('sqlite:///{folder}/mlflow.db', 'mlflow-artifacts:/')"
    )
    subprocess.run([python, "-c", code], check=True, cwd=folder, capture_output=True, env=clean_env())
    return folder / "mlflow.db"


def clean_env(**extra: str) -> dict[str, str]:
    """The environment without any MLflow or withrun setting of the caller's."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "WITHRUN_"))}
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # A server's job runner starts six more Python processes, none of which answers for tracking.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return env | quiet | extra


@contextlib.contextmanager
def mlflow_server(
    folder: Path,
    *,
    artifact_root: str | None = None,
    destination: str | None = None,
    workers: int = 1,
    python: str = sys.executable,
    env: dict[str, str] | None = None,
    port: int | None = None,
    files: bool = False,
) -> Iterator[MlflowServer]:
    """Run `mlflow server` over a database in `folder` until the block is left.

    Args:
        folder: holds the database, the log and, by default, the artifacts.
        artifact_root: URL that clients reach themselves (`s3://…`); None: proxied by the server.
        destination: where a server that proxies artifacts keeps them; None: in `folder`.
        workers: server processes; 4 is what a stock server runs.
        python: interpreter whose MLflow serves, for other versions.
        env: further environment variables of the server.
        port: the port to listen on; None takes a free one. To restart a server, name its port and folder.
        files: keep runs in files (`mlruns`) and not in the database; MLflow's old kind of store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "mlflow.db"
    if not database.exists() and artifact_root is None:
        shutil.copyfile(_database_template(python), database)
    port = port or free_port()
    artifacts = artifact_root or destination or str(folder / "artifacts")
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    store = (folder / "mlruns").as_uri() if files else f"sqlite:///{database}"
    command += ["--workers", str(workers), "--backend-store-uri", store]
    if artifact_root is None:
        command += ["--artifacts-destination", artifacts]
    else:
        command += ["--no-serve-artifacts", "--default-artifact-root", artifact_root]
    if files:
        env = {"MLFLOW_ALLOW_FILE_STORE": "true", **(env or {})}
    log = folder / "server.log"
    url = f"http://127.0.0.1:{port}"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command, cwd=folder, stdout=sink, stderr=sink, env=clean_env(**env or {}), start_new_session=True
        )
    try:
        _wait_until_healthy(url, process, log)
        yield MlflowServer(url, database, artifacts, log, process)
    finally:
        stop(process)


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"mlflow server at {url} did not come up:\n{log.read_text()[-4000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and all of its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
