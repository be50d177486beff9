"""Runs in a real notebook kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import MlflowServer
from withrun import ExpApi

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture
def execute() -> Iterator[Callable[[str], dict[str, str]]]:
    """Run a cell in one kernel, as a front end does; what it wrote, by stream."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")

    def run(code: str) -> dict[str, str]:
        written: dict[str, str] = {"stdout": "", "stderr": ""}

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                written[content["name"]] += content["text"]

        reply = client.execute_interactive(code, output_hook=collect, timeout=60)
        assert reply["content"]["status"] == "ok", reply["content"]
        return written

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=False)


def test_cell_that_is_run_again(
    execute: Callable[[str], dict[str, str]],
    server: MlflowServer,
    other_exp: ExpApi,
    other_client: MlflowClient,
) -> None:
    """A run stays active from cell to cell; a cell run again ends the one it left open, saying so."""
    execute(
        "import withrun\n"
        f"api = withrun.MlflowApi(tracking_uri={server.url!r})\n"
        f"exp = api.get_exp({other_exp.id!r})"
    )
    other = execute("other = exp.start_run('other'); print(other.id)")["stdout"].strip()
    cell = "run = exp.start_run('again'); print(run.id)"
    first = execute(cell)
    execute("withrun.log_param('cell', 'next')")
    second = execute(cell)
    assert "left run 'again'" in second["stderr"]
    assert first["stderr"] == ""
    module_cell = "child = withrun.start_run(nested=True); print(child.id)"
    third, fourth = execute(module_cell), execute(module_cell)
    ids = [cell["stdout"].strip() for cell in (first, second, third, fourth)]
    statuses = [other_client.get_run(run_id).info.status for run_id in (other, *ids)]
    assert statuses == ["RUNNING", "FINISHED", "RUNNING", "FINISHED", "RUNNING"]
    assert other_client.get_run(ids[0]).data.params == {"cell": "next"}
    assert other_client.get_run(ids[3]).data.tags["mlflow.parentRunId"] == ids[1]
