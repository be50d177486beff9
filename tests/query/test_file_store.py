"""Searching MLflow's file stores, whose patterns stop at line breaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.servers import clean_env

PROGRAM = r"""
import withrun
api = withrun.get_api(conf={"tracking_uri": "mlruns", "cache_dir": "cache"})
exp = api.get_or_create_exp("lines")
texts = ["a\nadam", "adam", 'say\n"adam"', "b"]
for text in texts:
    exp.create_run().log_params({"text": text, "both": [text]}).end_run()

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
assert not api.services.backend.grammar.like_spans_lines
print("passed")
"""


def test_values_of_several_lines_are_found_in_a_file_store(tmp_path: Path) -> None:
    """Equality, lists and patterns find texts of several lines, which `%` alone would miss there."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=clean_env(MLFLOW_ALLOW_FILE_STORE="true", HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "passed", result.stderr[-2000:]
