"""A real store full of awkward runs, experiments, models and versions, written by MLflow's own client."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from withrun.backend import Backend, ExperimentRecord, ModelRecord, RunRecord, VersionRecord
from withrun.providers.mlflow.pushdown import MlflowPushDown
from withrun.query.documents import as_document
from withrun.query.fields import Kind
from withrun.query.language import parse
from withrun.query.match import compile_query
from withrun.query.plan import make_plan
from withrun.query.pushing import PushDown
from withrun.query.search import Results
from withrun.query.sorting import parse_sorting, sort
from withrun.query.sources import BackendSource
from withrun.schema import Experiment
from withrun.services.entities import EntityBuilder
from withrun.services.tag_keys import DataTranslation, TagKeys
from withrun.values import make_preview

TEXTS: tuple[str, ...] = (
    # as withrun and other tools store them: one meaning may have many texts
    *(
        "adam",
        '"adam"',
        '"\\u0061dam"',
        '["adam", "sgd"]',
        '[" adam"]',
        '{"name": "adam"}',
        "Adam",
        "ADAM",
        "adamw",
    ),
    *("0.1", "0.10", "1e-1", "1", "1.0", '"1"', " 1", "01", "true", "True", '"true"', "null", "None", "NaN"),
    *("[1, [2]]", "[]", "{}", '{"name": [{"deep": 1}]}', '[{"name": "adam"}]', "[0.1, null]", "Infinity"),
    *(
        "",
        " ",
        "it's",
        'say "x"',
        "a'\"b",
        "a\\",
        "a\\b",
        "a\nadam",
        "a%b",
        "a_b",
        "axb",
        "[a]",
        "é",
        "É",
        "ﬁ",
    ),
    *("sgd K", "ſgd", "ıd", "ID", "a;b -- c", "x AND y = 'z'", "日本", "😀", "trailing ", "{adam", '{"a": 1'),
    '{"$date": "2024-01-01T00:00:00Z"}',
    "9007199254740993",
    make_preview("x" * 9000)[0],
    make_preview("[" + "1, " * 3000 + '"adam"]')[0],
    make_preview("adam" * 3000)[0],
    make_preview('{"name": "' + "y" * 9000 + '"}')[0],
)
PARAMS = ("opt", "opt.name", "opt.name.deep", "lr", "val/acc x-1", "é", "0")
TAGS = ("team", "opt.name", "mlflow.note", "mlflow")
METRICS = ("loss", "val", "val.acc", "val/acc x-1")
NUMBERS = (0.0, -0.1, 0.5, 1.0, 2.0**53, 1e-5, 1e20, 1e300, math.nan, math.inf, -math.inf, 5e-324)
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED", "SCHEDULED")
START = 1_700_000_000_000


def populate(uri: str, runs: int = 60) -> None:
    """Write the world into an empty store."""
    from mlflow import MlflowClient
    from mlflow.entities import ExperimentTag, Metric, Param, RunTag

    rng = random.Random(20261122)
    client = MlflowClient(uri, uri)
    experiments = [
        client.create_experiment(name, tags={"kind": kind, "opt.name": "adam"})
        for name, kind in (("first", "a"), ('it\'s "2"', '"a"'), ("First/3", "[1]"), ("deleted", "a"))
    ]
    client.set_experiment_tag(experiments[0], "team", "x")
    made = []
    for number in range(runs):
        run = client.create_run(
            experiments[number % 4],
            start_time=START + rng.randrange(8) * 1000 + rng.randrange(3),
            run_name=rng.choice(["base", "Base-1", "it's", "a\\b", "é", 'q"q', "base_2"]),
        )
        run_id = run.info.run_id
        made.append(run_id)
        client.log_batch(
            run_id,
            metrics=[Metric(k, rng.choice(NUMBERS), START, 0) for k in METRICS if rng.random() < 0.6],
            params=[Param(k, rng.choice(TEXTS)) for k in PARAMS if rng.random() < 0.5],
            tags=[RunTag(k, rng.choice(TEXTS)) for k in TAGS if rng.random() < 0.5],
        )
        status = rng.choice(STATUSES)
        if status != "RUNNING":
            client.set_terminated(run_id, status, end_time=START + rng.randrange(10_000))
    client.delete_tag(made[0], "mlflow.runName")
    client.delete_run(made[1])
    client.delete_experiment(experiments[3])
    for name in ("model", "Model 2", "it's", "base_x", "basexx"):
        client.create_registered_model(name, tags={k: rng.choice(TEXTS) for k in ("team", "opt.name")})
        for at in range(3):
            client.create_model_version(
                name,
                f"file:///tmp/{name}/{at}",
                made[at],
                tags={"team": rng.choice(TEXTS)},
                await_creation_for=0,
            )
    del ExperimentTag


@dataclass
class World:
    """A populated store behind one backend, and both ways to search it."""

    backend: Backend

    def __post_init__(self) -> None:
        self.build = EntityBuilder(TagKeys(), DataTranslation())
        self.push_down: PushDown = MlflowPushDown(self.backend.grammar)
        self._documents: dict[Kind, list[dict[str, Any]]] = {}
        self._experiments: dict[str, Experiment] = {}

    def entities(self, kind: Kind) -> Any:
        """Makes the entities of a page of records."""

        def build(records: Sequence[Any]) -> list[Any]:
            if kind == "experiments":
                return [self.build.experiment(record) for record in records]
            if kind == "models":
                return [self.build.model(record) for record in records]
            if kind == "versions":
                return [self._version(record) for record in records]
            return [self._run(record) for record in records]

        return build

    def _run(self, record: RunRecord) -> Any:
        exp = self._experiments.get(record.experiment_id)
        if exp is None:
            exp = self.build.experiment(self.backend.get_experiment(record.experiment_id))
            self._experiments[record.experiment_id] = exp
        return self.build.run(record, exp)

    def _version(self, record: VersionRecord) -> Any:
        model = self.build.model(ModelRecord(record.name))
        run = self._run(self.backend.get_run(record.run_id)) if record.run_id else None
        return self.build.version(record, model, run, record.source)

    def source(self, kind: Kind) -> BackendSource[Any, Any]:
        """Pages of the store."""
        return BackendSource(self.backend, kind, self.entities(kind), experiment=self._experiment)

    def _experiment(self, record: ExperimentRecord) -> Experiment:
        return self.build.experiment(record)

    def documents(self, kind: Kind) -> list[dict[str, Any]]:
        """Every active entity as a document, in the store's own order; fetched once, with nothing pushed."""
        if kind not in self._documents:
            self._documents[kind] = [as_document(entity) for entity in self.search(kind, None)]
        return self._documents[kind]

    def search(self, kind: Kind, query: Any, sorting: Any = None, limit: int | None = None) -> Results[Any]:
        """A planned search."""
        plan = make_plan(query, sorting, kind, self.push_down, grammar=self.backend.grammar.name)
        return Results(plan, self.source(kind), limit=limit)

    def found(self, kind: Kind, query: Any, sorting: Any = None, limit: int | None = None) -> list[Any]:
        """The names of what a planned search finds, in order."""
        return [name_of(as_document(entity)) for entity in self.search(kind, query, sorting, limit)]

    def expected(self, kind: Kind, query: Any, sorting: Any = None, limit: int | None = None) -> list[Any]:
        """The same, by evaluating every document."""
        matches = compile_query(parse(query, kind))
        found = [document for document in self.documents(kind) if matches(document)]
        by = parse_sorting(sorting, kind)
        return [name_of(document) for document in sort(found, by, lambda d: d, limit)]


def name_of(document: dict[str, Any]) -> Any:
    """What tells a document from others."""
    if "version" in document:
        return document["model"]["name"], document["version"]
    return document.get("id", document["name"])
