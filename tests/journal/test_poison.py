"""Values at which the server fails, and servers that fail at all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faultproxy import Fault, FaultProxy, fault_proxy
from tests.servers import MlflowServer
from withrun.journal import Journal, recover

from .conftest import intent, rest

pytestmark = pytest.mark.slow

MakeJournal = Callable[..., Journal]


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of suspicion in a second."""
    monkeypatch.setattr("withrun.journal.sending.SUSPICION", 1.0)


def test_a_value_at_which_the_server_fails_for_long_is_set_aside(
    proxy: FaultProxy, server_client: Any, open_journal: MakeJournal
) -> None:
    """Of a batch that meets lasting 500s the one value at fault is refused, and all others go through."""
    journal = open_journal(proxy.url)
    log = journal.owned.create(intent())
    proxy.poison = b"poisoned"
    log.metrics({f"m{i}": 1.0 for i in range(50)} | {"poisoned": 1.0}, 1, 1)
    log.params({f"p{i}": "1" for i in range(20)})
    assert log.wait(exit_timeout=30)
    assert log.delivery == (71, 70, 0, 1)
    assert [refusal.call[:22] for refusal in log.refusals] == ["log_metric('poisoned',"]
    run = server_client.get_run(log.run_id)
    assert len(run.data.metrics) == 50
    assert len(run.data.params) == 20
    assert "withrun.probe" not in run.data.tags


def test_the_only_value_of_a_run(proxy: FaultProxy, open_journal: MakeJournal) -> None:
    """A poisoned value that comes alone does not hold up delivery either."""
    journal = open_journal(proxy.url)
    log = journal.owned.create(intent())
    proxy.poison = b"poisoned"
    log.metric("poisoned", 1.0, 1)
    assert log.wait(exit_timeout=20)
    assert log.delivery == (1, 0, 0, 1)


def test_a_server_that_takes_no_writes_refuses_nothing(
    proxy: FaultProxy, server_client: Any, open_journal: MakeJournal
) -> None:
    """Where every write meets 500 while reads are answered, values wait, and arrive when that is over."""
    journal = open_journal(proxy.url)
    log = journal.owned.create(intent())
    proxy.plan = lambda method, _path: Fault(status=500) if method == "POST" else None
    log.metrics({f"m{i}": 1.0 for i in range(5)}, 1, 1)
    time.sleep(4)
    assert log.delivery == (5, 0, 5, 0)
    proxy.always(None)
    assert log.wait(exit_timeout=30)
    assert log.delivery == (5, 5, 0, 0)
    assert len(server_client.get_run(log.run_id).data.metrics) == 5


def test_recovery_sets_it_aside_too(proxy: FaultProxy, open_journal: MakeJournal) -> None:
    """A recovery, which is less patient than a live drain, gets past a poisoned value."""
    journal = open_journal(proxy.url)
    log = journal.owned.create(intent())
    proxy.poison = b"poisoned"
    log.metrics({"a": 1.0, "poisoned": 1.0, "b": 1.0}, 1, 1)
    assert not journal.close(exit_timeout=0.3)
    backend = rest(proxy.url)
    report = recover(journal.store_folder.parent, proxy.url, backend, patience=3)
    backend.close()
    assert (report.journals, report.refused, report.left) == (1, 1, {})
