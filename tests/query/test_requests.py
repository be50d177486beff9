"""How often a search asks the server: counted on a proxy between the API and a real server."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient

import withrun
from tests.faultproxy import FaultProxy, fault_proxy
from tests.servers import MlflowServer
from withrun import BaseMlflowApi


@pytest.fixture(scope="module")
def proxy(server: MlflowServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: MlflowServer) -> MlflowClient:
    """MLflow's own client on the store, past proxy and server."""
    return MlflowClient(server.store_uri, server.store_uri)


@pytest.fixture
def api(proxy: FaultProxy, tmp_path: Path) -> Iterator[BaseMlflowApi]:
    """A new API, which remembers nothing; its requests are counted from here on."""
    conf = {"tracking_uri": proxy.url, "cache_dir": tmp_path}
    with withrun.get_api(conf=conf) as made:
        made.explain()  # asks for the server's version
        proxy.requests.clear()
        yield made


def asked(proxy: FaultProxy) -> Counter[str]:
    """Requests by the last words of their paths."""
    count = Counter(path.partition("?")[0].split("mlflow/")[-1] for _, path in proxy.requests)
    proxy.requests.clear()
    return count


def test_explaining_asks_nothing(api: BaseMlflowApi, proxy: FaultProxy) -> None:
    """Neither `explain` nor making results sends a request; reading them does."""
    api.explain({"metrics.loss": 1, "exp.name": "x"})
    found = api.find_runs({"metrics.loss": 1})
    str(found.explain())
    assert not asked(proxy)
    list(found)
    assert asked(proxy)["runs/search"] == 1


def test_an_experiment_is_fetched_once_a_search(
    api: BaseMlflowApi, proxy: FaultProxy, client: MlflowClient
) -> None:
    """However many runs and pages, experiments take one request; the next search sees what was renamed."""
    first, second = (client.create_experiment(uuid.uuid4().hex) for _ in range(2))
    for number in range(230):
        client.create_run((first, second)[number % 2], start_time=number)
    assert len(list(api.find_runs({"exp": {"$in": [first, second]}}))) == 230
    assert asked(proxy) == {"runs/search": 2, "experiments/get": 2}
    assert len(list(api.find_runs({"exp.id": first}))) == 115
    assert asked(proxy) == {"runs/search": 1, "experiments/get": 1}
    assert len(list(api.find_runs({"exp.name": {"$exists": True}}))) >= 230
    assert asked(proxy)["experiments/get"] == 0
    client.rename_experiment(first, renamed := uuid.uuid4().hex)
    assert {run.exp.name for run in api.find_runs({"exp.id": first})} == {renamed}


def test_a_search_that_finds_much_is_replaced_by_narrower_ones(
    api: BaseMlflowApi, proxy: FaultProxy, client: MlflowClient
) -> None:
    """A number takes two requests where its param has numbers of one size, and more where it has others."""
    exp = client.create_experiment(uuid.uuid4().hex)

    def log(texts: Sequence[str]) -> None:
        for text in texts:
            client.log_param(client.create_run(exp, run_name=text).info.run_id, "n", text)

    def found() -> list[str]:
        return [run.name for run in api.find_runs({"params.n": 77, "exp.id": exp})]

    ways = ["77", "77.00", "7.7E1", "[1, 77.0]", "76.99999999999999999", "0.77e+2"]
    log([*ways, *map(str, range(60, 90))])
    assert Counter(found()) == Counter([*ways, "77"])
    assert asked(proxy)["runs/search"] == 2
    log([str(number) for number in range(7700, 7725)])
    assert Counter(found()) == Counter([*ways, "77"])
    assert asked(proxy)["runs/search"] == 8


def test_versions_fetch_each_model_and_run_once(
    api: BaseMlflowApi, proxy: FaultProxy, client: MlflowClient
) -> None:
    """100 versions of one model by 20 runs take five requests, and 20 models of one run take four."""
    exp = client.create_experiment(uuid.uuid4().hex)
    runs = [client.create_run(exp).info.run_id for _ in range(20)]
    client.delete_run(runs[3])
    name = uuid.uuid4().hex
    client.create_registered_model(name)
    for number in range(100):
        client.create_model_version(name, f"s3://bucket/{number}", runs[number % 20], await_creation_for=0)
    found = list(api.find_model_versions({"model": name, "run.status": "RUNNING"}))
    assert len(found) == 100
    assert {version.run.id for version in found if version.run} == set(runs)
    count = asked(proxy)
    assert count == {
        "model-versions/search": 1,
        "registered-models/get": 1,
        "experiments/search": 1,
        "runs/search": 1,
    }
    for _ in range(20):
        client.create_registered_model(other := uuid.uuid4().hex)
        client.create_model_version(other, "s3://bucket/x", runs[0], await_creation_for=0)
    assert len(list(api.find_model_versions({"run": runs[0]}))) == 25
    assert asked(proxy) == {
        "model-versions/search": 1,
        "registered-models/search": 1,
        "runs/get": 1,
        "experiments/get": 1,
    }


def test_versions_of_runs_that_are_lost_are_found(
    api: BaseMlflowApi, proxy: FaultProxy, client: MlflowClient
) -> None:
    """Versions whose runs were removed for good have no run, and each run is asked for once."""
    name = uuid.uuid4().hex
    client.create_registered_model(name)
    for number in range(20):
        client.create_model_version(name, "s3://bucket/x", f"{number % 5:032x}", await_creation_for=0)
    found = list(api.find_model_versions({"model": name, "run": None}))
    assert len(found) == 20
    assert sum(asked(proxy).values()) == 4


def test_a_long_value_is_fetched_only_if_its_preview_leaves_doubt(
    api: BaseMlflowApi, proxy: FaultProxy, server: MlflowServer, tmp_path: Path
) -> None:
    """A preview decides on kind, length and beginning; the whole is fetched where these leave doubt."""
    writer = withrun.get_api(conf={"tracking_uri": server.url, "cache_dir": tmp_path / "writer"})
    made = writer.create_exp(uuid.uuid4().hex)
    text = "x" * 9000
    for number in range(5):
        other = "abcd"[number % 4] * 9000
        made.create_run().log_params({"text": text if number == 4 else other, "n": number})
    writer.close()
    exp = api.get_exp(made.id)

    def artifacts() -> int:
        return sum("artifacts" in path and "path=" not in path for _, path in proxy.requests)  # no listings

    def fetched(query: object) -> tuple[int, int]:
        proxy.requests.clear()
        found = list(exp.find_runs(query))  # type: ignore[arg-type]
        return len(found), artifacts()

    assert fetched({"params.text": "another"}) == (0, 0)
    assert fetched({"params.text": {"$lt": 5}}) == (0, 0)
    assert fetched({"params.text": text[:-1]}) == (0, 0)
    assert fetched({"params.text": text}) == (1, 1)
    (found,) = exp.find_runs({"params.n": 4})
    assert found.params["text"] == text
