"""`withrun demo` and the command line around it, run as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.servers import START_TIMEOUT, clean_env, free_port, stop

pytestmark = pytest.mark.timeout(600)

CHILDREN = 6
EPOCHS = 20


def withrun(*args: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as its own process, in an environment without settings and with an empty HOME."""
    home = {"HOME": str(cwd / "home"), "XDG_CACHE_HOME": "", "XDG_STATE_HOME": ""}
    command = [sys.executable, "-m", "withrun.cli", *args]
    return subprocess.run(
        command, cwd=cwd, env=clean_env(**home, **(env or {})), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def ran_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder in which the demo ran twice, and what it printed."""
    cwd = tmp_path_factory.mktemp("it's a place")
    results = [withrun("demo", "--dir", "my demo", cwd=cwd) for _ in range(2)]
    for result in results:
        assert result.returncode == 0, result.stdout + result.stderr
    return cwd / "my demo", [result.stdout for result in results]


def test_says_what_it_does(ran_twice: tuple[Path, list[str]]) -> None:
    """Output that is no terminal gets progress as lines, the table of the children, and no escape codes."""
    _, (out, again) = ran_twice
    assert len(re.findall(r"epoch \d+/20, accuracy 0\.\d+", out)) == CHILDREN * 4
    assert out.count("FINISHED") == CHILDREN
    assert "\x1b" not in out
    assert "version 1 of model" in out
    assert "version 2 of model" in again


def test_keeps_to_its_folder(ran_twice: tuple[Path, list[str]]) -> None:
    """The store is DIR/mlflow.db with the artifacts beside it, and nothing appears next to DIR."""
    folder, _ = ran_twice
    assert (folder / "mlflow.db").is_file()
    assert {path.name for path in folder.parent.iterdir()} <= {folder.name, "home"}


def test_mlflow_ui_shows_it_all(ran_twice: tuple[Path, list[str]]) -> None:
    """The command that the demo prints opens MLflow's UI on its runs, artifacts and versions."""
    folder, (out, _) = ran_twice
    command = out.strip().splitlines()[-1].strip()
    port = free_port()
    ui = subprocess.Popen(
        f"{command} --port {port} --workers 1",
        shell=True,
        cwd=folder.parent,
        env=clean_env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:
            wait_until_healthy(http, ui)
            assert_shown(http)
    finally:
        stop(ui)


def wait_until_healthy(http: httpx.Client, ui: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and ui.poll() is None:
        try:
            if http.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail("the command that the demo prints does not serve")


def assert_shown(http: httpx.Client) -> None:
    api = "/api/2.0/mlflow"
    by_name = http.get(f"{api}/experiments/get-by-name", params={"experiment_name": "digits"}).json()
    body = {"experiment_ids": [by_name["experiment"]["experiment_id"]], "max_results": 100}
    runs = http.post(f"{api}/runs/search", json=body).json()["runs"]
    assert len(runs) == 2 * (CHILDREN + 1)
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    children = [run for run in runs if any(tag["key"] == "mlflow.parentRunId" for tag in run["data"]["tags"])]
    assert len(children) == 2 * CHILDREN
    child = children[0]
    run_id = child["info"]["run_id"]
    params = {param["key"]: param["value"] for param in child["data"]["params"]}
    assert params["optimizer.name"] == "adam"
    history = http.get(f"{api}/metrics/get-history", params={"run_id": run_id, "metric_key": "loss"}).json()
    assert sorted(int(point["step"]) for point in history["metrics"]) == list(range(1, EPOCHS + 1))
    listing = http.get(f"{api}/artifacts/list", params={"run_id": run_id}).json()["files"]
    assert {"confusion_matrix.png", "model.joblib"} <= {file["path"] for file in listing}
    figure = http.get("/get-artifact", params={"path": "confusion_matrix.png", "run_uuid": run_id})
    assert figure.content.startswith(b"\x89PNG")
    version = {"name": "digits-classifier", "version": "2"}
    found = http.get(f"{api}/model-versions/get", params=version).json()["model_version"]
    assert found["status"] == "READY"
    assert found["run_id"] in {run["info"]["run_id"] for run in children}


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    """A folder below a file is one line of error and exit code 1, and no traceback."""
    (tmp_path / "file").touch()
    result = withrun("demo", "--dir", "file/below", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the folder file/below can't be made")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib", "joblib"])
def test_without_the_extra(tmp_path: Path, missing: str) -> None:
    """Without the demo extra the error names the package and how to install it."""
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('gone', name={missing!r})")
    result = withrun("demo", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert repr(missing) in result.stderr
    assert "pip install 'withrun[demo]'" in result.stderr
    assert not (tmp_path / "withrun-demo").exists()


def test_help_and_version_are_quick(tmp_path: Path) -> None:
    """`--help` and `--version` import none of the heavy packages."""
    heavy = {"mlflow", "pandas", "numpy", "rich", "httpx", "pydantic"}
    code = (
        "import sys\nfrom withrun.cli import main\n"
        "try: main(['OPTION'])\n"
        "except SystemExit as exit: assert exit.code == 0\n"
        f"print(sorted({heavy} & sys.modules.keys()))"
    )
    for option in ("--help", "--version"):
        out = subprocess.run(
            [sys.executable, "-c", code.replace("OPTION", option)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert out.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_in_a_terminal(tmp_path: Path) -> None:
    """In a terminal every run has a bar while it trains."""
    import pty

    leader, follower = pty.openpty()
    env = clean_env(HOME=str(tmp_path / "home"), TERM="xterm", COLUMNS="100")
    process = subprocess.Popen(
        [sys.executable, "-m", "withrun.cli", "demo"], cwd=tmp_path, env=env, stdout=follower, stderr=follower
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # how Linux says that the last writer has closed
        pass
    os.close(leader)
    assert process.wait() == 0, shown.decode()
    assert b"20/20" in shown
    assert b"mlp-64-0.002" in shown
