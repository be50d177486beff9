"""What a user's type checker must make of withrun: checked by mypy in `make check`, never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

import withrun


def uses_an_api() -> None:
    api = withrun.get_api(conf={"tracking_uri": "http://localhost:5000"})
    assert_type(api, withrun.BaseMlflowApi)
    exp = api.get_or_create_exp("demo")
    assert_type(exp, withrun.ExpApi)
    with api.start_run(exp, name="fit") as run:
        assert_type(run, withrun.RunApi)
        assert_type(run.log_param("lr", 0.1), float)
        assert_type(run.log_metrics({"loss": 0.1}).set_tag("team", "x"), withrun.RunApi)
        assert_type(run.load_artifact(lambda path: len(path.read_bytes()), "notes.txt"), int)
        version = run.log_model_version("model", Path("model"))
        assert_type(version, withrun.ModelVersionApi)
        assert_type(version.run, withrun.RunApi | None)
    assert_type(run.status, withrun.RunStatus)
    for child in run.children:
        assert_type(child, withrun.RunApi)


async def uses_an_async_block(api: withrun.BaseMlflowApi, exp: withrun.ExpApi) -> None:
    async with api.start_run(exp) as run:
        assert_type(run, withrun.RunApi)


def uses_the_verbs_of_the_module() -> None:
    with withrun.start_run(run_name="fit", nested=True) as run:
        assert_type(run, withrun.RunApi)
        assert_type(withrun.log_param("optimizer", {"name": "adam"}), dict[str, str])
    assert_type(withrun.active_run(), withrun.RunApi | None)


def carries_its_signature(rate: float, *, epochs: int = 1) -> list[int]:
    return [epochs]


def binds() -> None:
    bound = withrun.bind(carries_its_signature)
    assert_type(bound(0.1, epochs=2), list[int])
    bound("0.1")  # type: ignore[arg-type]


def loads(api: withrun.BaseMlflowApi) -> Any:
    return api.load_model_artifact(("model", "@champion"), lambda path: json.loads(path.read_text()))
