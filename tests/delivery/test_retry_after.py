"""Servers that ask to be left alone for a while, or for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.faultproxy import Fault, FaultProxy
from withrun import MlflowApi

pytestmark = pytest.mark.slow

MakeApi = Callable[..., MlflowApi]


@pytest.mark.parametrize("asked", ["3600", "10000000000", "9" * 18, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_long_pause_is_bounded(
    asked: str, proxy: FaultProxy, open_api: MakeApi, exp_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a pause is asked for, delivery goes on soon after the server is back, at the bound."""
    monkeypatch.setattr("withrun.journal.retry.LONGEST_ASKED", 1.0)
    api = open_api(proxy.url)
    run = api.start_run(exp_id)
    proxy.times(1, Fault(status=429, headers={"Retry-After": asked}), path="log-batch")
    started = time.monotonic()
    run.log_metric("m", 1.0)
    run.flush(10)
    assert 1.0 <= time.monotonic() - started < 5
    run.end_run()
    assert run.delivery.refused == 0


def test_a_pause_that_was_asked_for_is_kept(proxy: FaultProxy, open_api: MakeApi, exp_id: str) -> None:
    """Those who wait don't make it shorter: no request comes before the time is over."""
    api = open_api(proxy.url)
    run = api.start_run(exp_id)
    proxy.times(1, Fault(status=503, headers={"Retry-After": "2"}), path="log-batch")
    run.log_metric("m", 1.0)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            run.flush(0.3)
    assert sum("log-batch" in path for _, path in proxy.requests) == 1
    run.flush(10)
    run.end_run()


def test_a_start_does_not_wait_for_a_long_pause(proxy: FaultProxy, open_api: MakeApi, exp_id: str) -> None:
    """Asked to come back in an hour, a start that may go on without the server does so at once."""
    api = open_api(proxy.url, on_unreachable="offline", exit_timeout=0.5)
    proxy.plan = lambda _method, path: (
        Fault(status=503, headers={"Retry-After": "3600"}) if "runs/create" in path else None
    )
    started = time.monotonic()
    run = api.start_run(exp_id)
    assert time.monotonic() - started < 3
    proxy.always(None)
    assert run.id != ""
