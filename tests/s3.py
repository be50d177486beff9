"""A real S3 endpoint for tests: `rclone serve s3` on loopback, started, waited for, always stopped."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers import clean_env, free_port, stop

KEY = "withrun-test-key"
BINARY = str(Path(sys.executable).parent / "rclone")
SECRET = "withrun/test+secret=="
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class S3Server:
    """A running endpoint: its URL, and the folder whose folders are its buckets."""

    url: str
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def env(self) -> dict[str, str]:
        """The usual environment of a client of this endpoint, MLflow's own among them."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str) -> str:
        """Make a bucket, by a request (the server caches which there are); return its URL."""
        options = {"TYPE": "s3", "PROVIDER": "Other", "ENV_AUTH": "true", "ENDPOINT": self.url}
        env = clean_env(**self.env, **{f"RCLONE_CONFIG_TEST_{key}": value for key, value in options.items()})
        subprocess.run([BINARY, "mkdir", f"test:{name}", "--config", "/dev/null"], env=env, check=True)
        return f"s3://{name}"


@contextlib.contextmanager
def s3_server(folder: Path, *, port: int | None = None) -> Iterator[S3Server]:
    """Serve the folders in `folder / "buckets"` as S3 buckets until the block is left."""
    root = folder / "buckets"
    root.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [BINARY, "serve", "s3", str(root), "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{KEY},{SECRET}", "--config", "/dev/null", "--vfs-cache-mode", "off"]
    log = folder / "s3.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=clean_env(), start_new_session=True)
    try:
        wait_until_listening(port, process, log)
        yield S3Server(f"http://127.0.0.1:{port}", root, process)
    finally:
        stop(process)


def wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when `rclone serve` takes connections; an error with its log if it does not."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"rclone on port {port} did not come up:\n{log.read_text()[-4000:]}")
