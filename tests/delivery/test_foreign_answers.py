"""Answers that are none of MLflow's: a gateway's, a login page's. Nothing is lost by them, nor refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.faultproxy import Fault, FaultProxy
from withrun import MlflowApi
from withrun.errors import ServerError

pytestmark = pytest.mark.slow

MakeApi = Callable[..., MlflowApi]

LOGIN = b"<!doctype html><title>Sign in</title>"
FOREIGN = {
    "login page": Fault(status=200, headers={"Content-Type": "text/html"}, body=LOGIN),
    "empty": Fault(status=200, body=b""),
    "array": Fault(status=200, body=b"[]"),
    "half an object": Fault(status=200, body=b'{"a": '),
    "redirect": Fault(status=302, headers={"Location": "https://login.example/"}),
    "bad request": Fault(status=400),
    "default backend": Fault(status=404, body=b"404 default backend"),
    "too large": Fault(status=413),
}


def is_write(path: str) -> bool:
    """Whether a request is one of those by which a run's values arrive."""
    return any(call in path for call in ("log-batch", "runs/update", "delete-tag"))


@pytest.mark.parametrize("fault", FOREIGN.values(), ids=FOREIGN)
def test_what_meets_a_foreign_answer_is_kept(
    fault: Fault, proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """No write counts as delivered, and none is refused, until MLflow itself answers; then all is there."""
    api = open_api(proxy.url, exit_timeout=0.5)
    with api.start_run(exp_id) as run:
        run.set_tag("gone", "1").flush()
        proxy.plan = lambda _method, path: fault if is_write(path) else None
        run.log_metrics({f"m{i}": 1.0 for i in range(5)}).delete_tag("gone")
        run.log_param("p", 1)
    assert run.delivery.refused == 0
    assert run.delivery.pending > 0
    proxy.always(None)
    api.flush(20)
    assert run.delivery.refused == 0
    stored = client.get_run(run.id)
    assert stored.info.status == "FINISHED"
    assert len(stored.data.metrics) == 5
    assert stored.data.params == {"p": "1"}
    assert "gone" not in stored.data.tags


def test_the_error_says_what_came(proxy: FaultProxy, open_api: MakeApi) -> None:
    """A call that meets a login page names status, content type and first words, and never a secret."""
    secret = "s3cr3t-t0k3n-of-mine"
    settings = {"retries": 0, "token": secret}
    api = open_api(proxy.url, client_settings=settings)
    exp = api.get_or_create_exp("named")
    page = Fault(status=200, headers={"Content-Type": "text/html"}, body=f"<p>{secret}".encode() + LOGIN)
    proxy.always(page)
    calls: list[Callable[[], object]] = [lambda: api.get_exp(exp.id), lambda: exp.set_tags({"a": 1})]
    for call in calls:
        with pytest.raises(ServerError, match="text/html") as caught:
            call()
        assert caught.value.foreign
        assert "<p>***" in str(caught.value)
        assert secret not in str(caught.value)
    proxy.always(None)


def test_a_gateway_that_takes_small_requests_alone(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """Batches that are too large for it are sent in parts, and nothing is refused."""
    api = open_api(proxy.url)
    run = api.start_run(exp_id)
    proxy.largest = 4_000
    run.log_metrics({f"m{i}": 1.0 for i in range(200)})
    run.log_params({f"p{i}": "x" * 1_000 for i in range(10)})
    started = time.monotonic()
    run.end_run()
    assert time.monotonic() - started < 10
    assert run.delivery.refused == 0
    stored = client.get_run(run.id)
    assert (len(stored.data.metrics), len(stored.data.params)) == (200, 10)


def test_a_value_that_a_gateway_never_takes(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is refused for long while others are taken does not hold up the rest: it is set aside."""
    monkeypatch.setattr("withrun.journal.sending.SUSPICION", 1.0)
    api = open_api(proxy.url)
    run = api.start_run(exp_id)
    proxy.largest = 4_000
    run.log_params({"p": "short", "q": "x" * 5_000})
    run.end_run()
    assert run.delivery.refused == 1
    assert client.get_run(run.id).data.params == {"p": "short"}
