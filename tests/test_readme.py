"""The README's examples, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

from tests.servers import clean_env

README = Path(__file__).parent.parent / "README.md"


def test_the_first_example_does_what_its_comments_say(tmp_path: Path) -> None:
    """Pasted into an empty folder, it makes a run and its child, and each has its own metric."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    env = clean_env(HOME=str(tmp_path / "home"))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    exp = client.get_experiment_by_name("demo")
    assert exp is not None
    runs = {run.info.run_name: run for run in client.search_runs([exp.experiment_id])}
    assert runs["fit"].data.params == {"lr": "0.1"}
    assert runs["fit"].data.metrics == {"loss": 0.3}
    assert runs["fold-1"].data.metrics == {"loss": 0.2}
    assert runs["fold-1"].data.tags["mlflow.parentRunId"] == runs["fit"].info.run_id


def test_the_offline_example(tmp_path: Path) -> None:
    """What it exports by alias is loaded by the generic plugin from a folder that knows no server."""
    code = next(
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        if "generic" in block
    )
    before = """
import joblib, withrun
api = withrun.get_api()
with api.start_run(api.get_or_create_exp("digits")) as run:
    version = run.log_model_version("digits-classifier", lambda path: joblib.dump([1, 2], path))
    version.set_alias("champion")
"""
    env = clean_env(HOME=str(tmp_path / "home"))
    command = [sys.executable, "-c", before + code + "\nassert model == [1, 2]"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
