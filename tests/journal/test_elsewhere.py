"""Journals that refer to one another: what a run needs may be in one that is delivered later, or held."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withrun.journal import ExperimentIntent, Journal, new_uid, waiting
from withrun.journal.recovery import Recovered

from .conftest import intent


@pytest.fixture
def two(tmp_path: Path, store_uri: str) -> tuple[Journal, Journal]:
    """Two offline journals, the first of which comes first."""
    journals = Journal(tmp_path / "journal", store_uri), Journal(tmp_path / "journal", store_uri)
    for journal in journals:
        assert journal.owner
        time.sleep(0.005)  # they sort by the millisecond of their first record
    return journals


def log_in_both(first: Journal, second: Journal) -> tuple[str, str]:
    """A child in the first journal, of an experiment and a parent that the second one starts."""
    exp, parent, child = new_uid(), new_uid(), new_uid()
    second.ensure_experiment(ExperimentIntent(exp, "later"))
    second.owned.create_locally(intent("parent", uid=parent, experiment_id=exp)).status("FINISHED", 2)
    tags = {"mlflow.parentRunId": parent}
    first.owned.create_locally(intent("child", uid=child, experiment_id=exp, tags=tags)).status("FINISHED", 2)
    first.run(parent, uid=parent).params({"from": "first"})
    return parent, child


def check(client: Any, parent: str, child: str) -> None:
    experiment = client.get_experiment_by_name("later")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"parent", "child"}
    assert runs["child"].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    assert runs["parent"].data.params == {"from": "first"}
    assert {runs[name].data.tags["withrun.uid"] for name in runs} == {parent, child}


def test_what_comes_later_is_waited_for(
    two: tuple[Journal, Journal], deliver: Callable[[], Recovered], client: Any
) -> None:
    """A child arrives in its parent's experiment and under its parent, though its journal comes first."""
    first, second = two
    names = log_in_both(first, second)
    first.close()
    second.close()
    report = deliver()
    assert (report.journals, report.left, report.refused) == (2, {}, 0)
    check(client, *names)


def test_what_is_held_is_waited_for(
    two: tuple[Journal, Journal],
    deliver: Callable[[], Recovered],
    client: Any,
    tmp_path: Path,
    store_uri: str,
) -> None:
    """While the other journal is held, the first is left as it is, and told why; others go through."""
    first, second = two
    names = log_in_both(first, second)
    first.close()
    third = Journal(tmp_path / "journal", store_uri)
    third.owned.create_locally(intent("third")).status("FINISHED", 2)
    third.close()
    report = deliver()
    [reason] = report.left.values()
    assert (report.journals, report.refused) == (1, 0)
    assert "another journal" in reason
    assert [run.info.run_name for run in client.search_runs(["0"])] == ["third"]
    assert len(waiting(tmp_path / "journal", store_uri)) == 2
    second.close()
    assert deliver().left == {}
    check(client, *names)


def test_what_was_refused_is_not_waited_for(
    two: tuple[Journal, Journal], deliver: Callable[[], Recovered], client: Any
) -> None:
    """If the other's experiment is refused, so are the runs in it, all kept aside, and nothing waits."""
    first, second = two
    client.delete_experiment(client.create_experiment("later"))
    log_in_both(first, second)
    first.close()
    second.close()
    report = deliver()
    assert (report.journals, report.left) == (2, {})
    assert report.refused >= 4
    assert all(Path(path).exists() for path in report.kept)
    assert len(report.kept) == 2
