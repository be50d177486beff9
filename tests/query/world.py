"""A real store full of awkward runs, experiments, models and versions, written by MLflow's own client."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from withrun.backend import Backend, ExperimentRecord, KeyValue, ModelRecord, RunRecord, VersionRecord
from withrun.keys import unflatten
from withrun.previews import Preview, PreviewText, make_preview, parse_preview
from withrun.providers.mlflow.pushdown import MlflowPushDown
from withrun.query.documents import as_document
from withrun.query.fields import Kind
from withrun.query.language import parse
from withrun.query.match import compile_query
from withrun.query.plan import make_plan
from withrun.query.pushing import PushDown
from withrun.query.search import Results
from withrun.query.sorting import parse_sorting, sort, sort_key
from withrun.query.sources import BackendSource
from withrun.schema import Experiment, Model, ModelVersion, Run, RunStatus
from withrun.values import complete, from_texts, metric_from_store

LONG_TEXTS = (
    "x" * 9000,
    "[" + "1, " * 3000 + '"adam"]',
    "adam" * 3000,
    '{"name": "' + "y" * 9000 + '"}',
)
WHOLE = {make_preview(text)[1].sha256: text for text in LONG_TEXTS}

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
    *("1e0", "10E-1", "0.99999999999999999999", "1\n", "-0.0", "[1e0]", "[true]", ' [1,\n"sgd"]\n'),
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
    *(make_preview(text)[0] for text in LONG_TEXTS),
)
PARAMS = ("opt", "opt.name", "opt.name.deep", "lr", "val/acc x-1", "é", "0")
TAGS = ("team", "opt.name", "mlflow.note", "mlflow")
METRICS = ("loss", "val", "val.acc", "val/acc x-1")
NUMBERS = (0.0, -0.1, 0.5, 1.0, 2.0**53, 1e-5, 1e20, 1e300, math.nan, math.inf, -math.inf, 5e-324)
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED", "SCHEDULED")
START = 1_700_000_000_000


def populate(uri: str) -> None:
    """Write the world into an empty store: every text once as a param and as a tag, the rest at random."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    rng = random.Random(20261122)
    client = MlflowClient(uri, uri)
    experiments = [
        client.create_experiment(name, tags={"kind": kind, "opt.name": "adam"})
        for name, kind in (("first", "a"), ('it\'s "2"', '"a"'), ("First/3", "[1]"), ("deleted", "a"))
    ]
    client.set_experiment_tag(experiments[0], "team", "x")
    made = []
    for number in range(len(TEXTS) + 5):
        run = client.create_run(
            experiments[number % 3 if number < len(TEXTS) else 3],
            start_time=START + rng.randrange(8) * 1000 + rng.randrange(3),
            run_name=rng.choice(["base", "Base-1", "it's", "a\\b", "é", 'q"q', "base_2"]),
        )
        run_id = run.info.run_id
        made.append(run_id)
        params = {"opt": TEXTS[number % len(TEXTS)]} | _some(rng, PARAMS[1:])
        tags = {"team": TEXTS[-1 - number % len(TEXTS)]} | _some(rng, TAGS[1:])
        client.log_batch(
            run_id,
            metrics=[Metric(k, rng.choice(NUMBERS), START, 0) for k in METRICS if rng.random() < 0.6],
            params=[Param(key, text) for key, text in params.items()],
            tags=[RunTag(key, text) for key, text in tags.items()],
        )
        status = rng.choice(STATUSES)
        if status != "RUNNING":
            client.set_terminated(run_id, status, end_time=START + rng.randrange(10_000))
    client.delete_tag(made[20], "mlflow.runName")
    client.delete_run(made[-6])
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


def _some(rng: random.Random, keys: Sequence[str]) -> dict[str, str]:
    """Random texts under about half of the keys."""
    return {key: rng.choice(TEXTS) for key in keys if rng.random() < 0.5}


@dataclass
class World:
    """A populated store behind one backend, and both ways to search it.

    Attributes:
        fetched: how often a long value was fetched.
    """

    backend: Backend
    fetched: int = 0

    def __post_init__(self) -> None:
        self.push_down: PushDown = MlflowPushDown(self.backend.grammar)
        self._documents: dict[Kind, list[dict[str, Any]]] = {}
        self._experiments: dict[str, Experiment] = {}
        self._runs: dict[str, Run] = {}

    def _whole(self, preview: Preview) -> str:
        self.fetched += 1
        return WHOLE[preview.sha256]

    def _data(self, items: Sequence[KeyValue], *, whole: bool) -> dict[str, Any]:
        data = from_texts((item.key, item.value) for item in items)
        if whole:
            complete(data, self._whole)
        return data

    def complete(self, entity: Any, only: PreviewText | None = None) -> Any:
        """Put whole texts in the place of previews, or of one."""
        wanted = None if only is None else parse_preview(only)
        for data in (entity.tags, getattr(entity, "params", {})):
            complete(data, lambda preview: self._whole(preview) if wanted in (None, preview) else None)
        return entity

    def entities(self, kind: Kind, *, whole: bool = False) -> Any:
        """Makes the entities of a page of records; long values are left out if not `whole`."""
        make = {
            "runs": self._run,
            "experiments": self._experiment,
            "models": self._model,
            "versions": self._version,
        }[kind]
        return lambda records: [make(record, whole=whole) for record in records]

    def _experiment(self, record: ExperimentRecord, *, whole: bool = False) -> Experiment:
        return Experiment(
            id=record.experiment_id, name=record.name, tags=self._data(record.tags, whole=whole)
        )

    def _run(self, record: RunRecord, *, whole: bool = False) -> Run:
        exp = self._experiments.get(record.experiment_id)
        if exp is None:
            exp = self._experiment(self.backend.get_experiment(record.experiment_id))
            self._experiments[record.experiment_id] = exp
        return Run(
            id=record.run_id,
            name=record.run_name,
            exp=exp,
            tags=self._data(record.tags, whole=whole),
            params=self._data(record.params, whole=whole),
            metrics=unflatten((m.key, metric_from_store(m.value)) for m in record.metrics),
            status=RunStatus(record.status),
            start_time=_moment(record.start_time),
            end_time=_moment(record.end_time),
        )

    def _model(self, record: ModelRecord, *, whole: bool = False) -> Model:
        return Model(name=record.name, tags=self._data(record.tags, whole=whole))

    def _version(self, record: VersionRecord, *, whole: bool = False) -> ModelVersion:
        run = self._runs.get(record.run_id)
        if run is None:
            run = self._runs[record.run_id] = self._run(self.backend.get_run(record.run_id), whole=True)
        return ModelVersion(
            version=record.version,
            model=Model(name=record.name),
            run=run,
            tags=self._data(record.tags, whole=whole),
        )

    def source(self, kind: Kind) -> BackendSource[Any, Any]:
        """Pages of the store."""
        return BackendSource(
            self.backend, kind, self.entities(kind), experiment=self._experiment, complete=self.complete
        )

    def documents(self, kind: Kind) -> list[dict[str, Any]]:
        """Every active entity as a document, in the store's own order; fetched once, with nothing pushed."""
        if kind not in self._documents:
            plan = make_plan(None, None, kind, self.push_down)
            build = self.entities(kind, whole=True)
            source: BackendSource[Any, Any] = BackendSource(self.backend, kind, build)
            self._documents[kind] = [as_document(entity) for entity in Results(plan, lambda: source)]
        return self._documents[kind]

    def search(self, kind: Kind, query: Any, sorting: Any = None, limit: int | None = None) -> Results[Any]:
        """A planned search."""
        plan = make_plan(query, sorting, kind, self.push_down, grammar=self.backend.grammar.name)
        return Results(plan, lambda: self.source(kind), limit=limit)

    def found(self, kind: Kind, query: Any, sorting: Any = None, limit: int | None = None) -> list[Any]:
        """The names of what a planned search finds, in order."""
        return [name_of(as_document(entity)) for entity in self.search(kind, query, sorting, limit)]

    def expected(self, kind: Kind, query: Any, sorting: Any = None, limit: int | None = None) -> list[Any]:
        """The same, by evaluating every document."""
        matches = compile_query(parse(query, kind))
        found = [document for document in self.documents(kind) if matches(document)]
        return [name_of(d) for d in sort(found, sort_key(parse_sorting(sorting, kind)), limit)]


def _moment(time: int | None) -> dt.datetime | None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
    return epoch + dt.timedelta(milliseconds=time) if time else None


def name_of(document: dict[str, Any]) -> Any:
    """What tells a document from others."""
    if "version" in document:
        return document["model"]["name"], document["version"]
    return document.get("id", document["name"])
