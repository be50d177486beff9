"""Many threads and tasks on two stores at once: every param, metric and tag in the run it was meant for."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import withrun
from withrun import BaseMlflowApi, ExpApi

if TYPE_CHECKING:
    from mlflow import MlflowClient

THREADS, RUNS, TASKS = 8, 50, 500


def log(label: str, number: int) -> None:
    """Log what tells the run from all others, through the module's verbs."""
    withrun.log_params({"label": label, "number": number})
    withrun.log_metric("number", number)


def check(client: MlflowClient, exp: ExpApi, ids: dict[str, str], numbers: dict[str, int]) -> None:
    """Each run of the experiment holds exactly what its label says, and no other run is there."""
    stored = client.search_runs([exp.id], max_results=5000)
    assert {run.info.run_id for run in stored} == set(ids.values())
    labels = {run_id: label for label, run_id in ids.items()}
    for run in stored:
        label = labels[run.info.run_id]
        assert run.data.params == {"label": label, "number": str(numbers[label])}
        assert run.data.metrics == {"number": numbers[label]}
        assert {k: v for k, v in run.data.tags.items() if not k.startswith(("mlflow.", "withrun."))} == {
            "label": label
        }
        assert run.info.run_name == label
        assert run.info.status == "FINISHED"


def test_threads(
    api: BaseMlflowApi,
    other_api: BaseMlflowApi,
    exp: ExpApi,
    other_exp: ExpApi,
    client: MlflowClient,
    other_client: MlflowClient,
) -> None:
    """8 threads of 50 runs each, blocks of both APIs open at once in each: nothing lands in another's run."""
    half = RUNS // 2

    def work(thread: int) -> tuple[dict[str, str], dict[str, str]]:
        here: dict[str, str] = {}
        there: dict[str, str] = {}
        for number in range(half):
            label, other_label = f"t{thread}-{number}", f"o{thread}-{number}"
            with exp.start_run(label, {"label": label}) as run, other_exp.start_run(other_label) as other:
                log(other_label, number)
                withrun.set_tag("label", other_label)
                with withrun.session(api):
                    log(label, number)
            here[label], there[other_label] = run.id, other.id
        return here, there

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(THREADS)))
    here = {label: run_id for result in results for label, run_id in result[0].items()}
    there = {label: run_id for result in results for label, run_id in result[1].items()}
    assert len(here) + len(there) == THREADS * RUNS
    check(client, exp, here, {label: int(label.split("-")[1]) for label in here})
    check(other_client, other_exp, there, {label: int(label.split("-")[1]) for label in there})


@pytest.mark.slow
def test_tasks(exp: ExpApi, other_exp: ExpApi, client: MlflowClient, other_client: MlflowClient) -> None:
    """500 tasks, half on each store, switching between start, log and end: none mixes with another."""
    ids: tuple[dict[str, str], dict[str, str]] = {}, {}

    async def work(number: int) -> None:
        which = number % 2
        label = f"a{number}"
        run = (exp, other_exp)[which].start_run(label, {"label": label})
        await asyncio.sleep(0)
        async with run:
            await asyncio.sleep(0)
            assert withrun.active_run() is run
            log(label, number)
            await asyncio.sleep(0)
            assert withrun.active_run() is run
        assert withrun.active_run() is None
        ids[which][label] = run.id

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(TASKS)))

    asyncio.run(main())
    for which, (store, experiment) in enumerate([(client, exp), (other_client, other_exp)]):
        assert len(ids[which]) == TASKS // 2
        check(store, experiment, ids[which], {label: int(label[1:]) for label in ids[which]})
