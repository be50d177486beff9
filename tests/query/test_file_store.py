"""Searching MLflow's file stores, whose patterns stop at line breaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import MlflowServer, clean_env, mlflow_server
from withrun.providers.mlflow.grammar import are_of_database
from withrun.providers.mlflow.rest import RestBackend

pytestmark = pytest.mark.slow

PROGRAM = r"""
import sys
import withrun
api = withrun.get_api(conf={"tracking_uri": sys.argv[1], "cache_dir": "cache"})
exp = api.get_or_create_exp("lines")
texts = ["a\nadam", "adam", 'say\n"adam"', "b"]
for text in texts:
    exp.create_run().log_params({"text": text, "both": [text], "n": 3}).end_run()

def found(query):
    return sorted(run.params["text"] for run in api.find_runs(query))

assert found({}) == sorted(texts)
for text in texts:
    assert found({"params.text": text}) == [text], text
    assert found({"params.both": text}) == [text], text
for pattern in ("adam", "^a", "^a\nad", "m\"$"):
    import re
    expected = sorted(text for text in texts if re.search(pattern, text))
    assert found({"params.text": {"$regex": pattern}}) == expected, pattern
assert found({"params.n": 3}) == sorted(texts)
assert not api.services.backend.grammar.like_spans_lines
print("passed")
"""


def passes(folder: Path, uri: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, uri],
        cwd=folder,
        env=clean_env(MLFLOW_ALLOW_FILE_STORE="true", HOME=str(folder)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "passed", result.stderr[-2000:]


def test_values_of_several_lines_are_found_in_a_file_store(tmp_path: Path) -> None:
    """Equality, lists and patterns find texts of several lines, which `%` alone would miss there."""
    passes(tmp_path, "mlruns")


def test_values_of_several_lines_are_found_by_a_server_over_files(tmp_path: Path) -> None:
    """A server over a file store is told from one over a database, by what it says and by its experiments."""
    with mlflow_server(tmp_path / "server", files=True) as server:
        passes(tmp_path, server.url)
        backend = RestBackend(server.url)
        assert not are_of_database(r.experiment_id for r in backend.search_experiments().items)
        backend.close()


def test_a_server_over_a_database_is_known_by_its_experiments(server: MlflowServer) -> None:
    """As an old server does not say what its store is, the numbers of its experiments do."""
    backend = RestBackend(server.url)
    backend.create_experiment("numbered")
    assert are_of_database(r.experiment_id for r in backend.search_experiments().items)
    assert backend.grammar.like_spans_lines
    backend.close()


@pytest.mark.parametrize(
    ("ids", "expected"),
    [(["0"], False), ([], False), (["0", "1"], True), (["0", "123456789012345678"], False), (["x"], False)],
)
def test_experiment_ids_tell_databases_from_files(ids: list[str], expected: bool) -> None:
    """Short numbers are a database's; where only the first experiment is there, nothing is assumed."""
    assert are_of_database(ids) is expected
