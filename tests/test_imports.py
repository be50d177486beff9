"""What gets imported, and when: `import withrun` is cheap, and a session on a server never needs MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.servers import clean_env, mlflow_server

HEAVY = {"mlflow", "pandas", "numpy", "rich", "IPython"}


def modules_after(code: str, cwd: Path) -> set[str]:
    """Names of all modules that a fresh interpreter holds after running `code`."""
    report = "\nimport sys, json; print('\\n' + json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code + report],
        cwd=cwd,
        env=clean_env(HOME=str(cwd / "home")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_brings_nothing_with_it(tmp_path: Path) -> None:
    """`import withrun` imports none of its dependencies: each comes with the first name that needs it."""
    modules = modules_after("import withrun", tmp_path)
    assert {name for name in modules if name.split(".")[0] == "withrun"} == {"withrun"}
    assert not HEAVY & modules


def test_every_public_name_can_be_had(tmp_path: Path) -> None:
    """Each name of `__all__` resolves, without importing MLflow, pandas, numpy or rich."""
    modules = modules_after("import withrun\nfor name in withrun.__all__: getattr(withrun, name)", tmp_path)
    assert not HEAVY & modules


def test_a_session_on_a_server_never_imports_mlflow(tmp_path: Path) -> None:
    """A first run against a server, with params, metrics, tags, artifacts and a version, needs no MLflow."""
    with mlflow_server(tmp_path / "server") as server:
        code = f"""
import withrun
api = withrun.get_api(conf={{"tracking_uri": {server.url!r}}})
with api.start_run(api.get_or_create_exp("light"), name="fit") as run:
    run.log_params({{"optimizer": {{"lr": 0.1}}}})
    withrun.log_metric("loss", 0.3, step=1)
    withrun.set_tag("team", "x")
    with run.start_child("fold"):
        withrun.log_metric("loss", 0.2)
    run.log_artifact(lambda path: path.write_text("a note"), "notes.txt")
    run.log_model_version("light", lambda path: path.write_text("weights"))
assert api.load_model_artifact(("light", "1"), lambda path: path.read_text()) == "weights"
assert [child.name for child in run.children] == ["fold"]
"""
        # httpx imports rich for a command line of its own, where rich is installed.
        heavy = HEAVY - {"rich"}
        modules = modules_after(code, tmp_path)
        assert not heavy & modules, sorted(heavy & modules)
        client = MlflowClient(server.url)
        exp = client.get_experiment_by_name("light")
        assert exp is not None
        runs = client.search_runs([exp.experiment_id])
    assert {(run.info.run_name, run.info.status) for run in runs} == {
        ("fit", "FINISHED"),
        ("fold", "FINISHED"),
    }


def test_an_export_is_served_without_mlflow(tmp_path: Path) -> None:
    """The `generic` plugin loads an exported model version without importing MLflow."""
    export = """
import withrun
api = withrun.get_api(conf={"tracking_uri": "sqlite:///mlflow.db"})
with api.start_run(api.get_or_create_exp("digits")) as run:
    run.log_model_version("digits", lambda path: path.write_text("weights")).export("exported")
"""
    modules_after(export, tmp_path)
    serve = """
import withrun
api = withrun.get_api("generic", conf={"cache_dir": "exported"})
assert api.load_model_artifact(("digits", "1"), lambda path: path.read_text()) == "weights"
"""
    assert not HEAVY & modules_after(serve, tmp_path)


@pytest.mark.parametrize("name", ["sessions", "plugins", "fluent", "api", "handles"])
def test_submodules_hide_no_public_name(name: str) -> None:
    """No submodule that gets imported is named like a public function, which it would replace."""
    import withrun

    assert name not in withrun.__all__
