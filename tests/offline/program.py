"""Programs that log without a server, as processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.servers import clean_env

START = """
import json, os, sys
from pathlib import Path
from withrun import MlflowApi
uri, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
api = MlflowApi(tracking_uri=uri, offline_mode=True, cache_dir=folder / "cache")
exp = api.get_or_create_exp(name)
"""

RUNS = (
    START
    + """
source = folder / "source"
(source / "deep").mkdir(parents=True, exist_ok=True)
(source / "weights.bin").write_bytes(bytes(range(256)) * 100)
(source / "deep" / "note \\u00e9.txt").write_text("a note")
told = {"exp": exp.id, "versions": []}
with api.start_run(exp, name="parent", tags={"team": "x"}) as run:
    run.log_params({"lr": 0.1, "text": "x" * 7000, "nested": {"a": [1, None]}})
    for step in range(300):
        run.log_metric("loss", 1 / (step + 1), step)
    run.set_tag("gone", 1)
    run.delete_tag("gone")
    run.log_artifact(source, "data")
    with run.start_child("child") as child:
        child.log_metric("fold", 1.0)
        version = child.log_model_version(name, source, "model", tags={"stage": "first"})
        told["versions"].append(version.version)
    told |= {"parent": run.id, "child": child.id}
print(json.dumps(told), flush=True)
os.kill(os.getpid(), 9)
"""
)


def leave(program: str, uri: str, folder: Path, name: str) -> dict[str, object]:
    """Run a program that is killed when it has logged; what it told."""
    command = [sys.executable, "-c", program, uri, str(folder), name]
    done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told
