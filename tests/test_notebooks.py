"""The notebooks, executed from first to last cell in a real kernel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.servers import clean_env

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


class ThisInterpreter(KernelSpecManager):  # type: ignore[misc]
    """Every kernel is one of the interpreter that runs the tests, installed nowhere."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name=kernel_name,
            language="python",
        )


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells with `folder` as the current one; raises `CellExecutionError` at the first that fails."""
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisInterpreter())
    client = NotebookClient(notebook, km=manager, timeout=120, resources={"metadata": {"path": str(folder)}})
    client.execute(env=clean_env(HOME=str(folder / "home"), IPYTHONDIR=str(folder / "ipython")))
    return notebook


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> NotebookNode:
    """One of the notebooks, read and found valid."""
    node = nbformat.read(request.param, as_version=4)
    nbformat.validate(node)
    return node


def output_of(cell: NotebookNode) -> str:
    """What a cell shows, as text."""
    return "".join(
        out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.get("outputs", [])
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_runs_from_first_to_last_cell(notebook: NotebookNode, tmp_path: Path) -> None:
    """Every cell works in a fresh kernel, and what is written stays in the notebook's folder."""
    execute(notebook, tmp_path)
    shown = [output_of(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert any("no run is active" in text for text in shown)
    assert {path.name for path in tmp_path.iterdir()} <= {"quickstart", "home", "ipython"}


def test_is_committed_without_outputs_or_paths(notebook: NotebookNode) -> None:
    """The file in the repository holds no outputs, and no path of a machine."""
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert not re.search(r"/(home|root|Users|tmp|work)/", json.dumps(notebook))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_re_run_cell_ends_its_earlier_run(tmp_path: Path) -> None:
    """A cell that is run again first ends the run that it had left open, with a notice."""
    start = (
        "import withrun\n"
        "api = withrun.get_api(conf={'tracking_uri': 'sqlite:///mlflow.db'})\n"
        "exp = api.get_or_create_exp('cells')\n"
        "started = []"
    )
    cell = "started.append(api.start_run(exp))"
    # The same cell, run twice: a notebook front end sends the ID of the cell with each execution.
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(start, id="a"),
            nbformat.v4.new_code_cell(cell, id="b"),
            nbformat.v4.new_code_cell(cell, id="c"),
            nbformat.v4.new_code_cell("print([run.status.value for run in started])", id="d"),
            nbformat.v4.new_code_cell("started[1].end_run(False)", id="e"),
        ]
    )
    execute(book, tmp_path)
    assert "it is FINISHED now" in output_of(book.cells[2])
    assert "['FINISHED', 'RUNNING']" in output_of(book.cells[3])
    status = (
        "from mlflow import MlflowClient as C\n"
        "client = C('sqlite:///mlflow.db')\n"
        "exp = client.get_experiment_by_name('cells').experiment_id\n"
        "print(sorted(run.info.status for run in client.search_runs([exp])))"
    )
    out = subprocess.run(
        [sys.executable, "-c", status],
        cwd=tmp_path,
        env=clean_env(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.splitlines()[-1] == "['FAILED', 'FINISHED']"
