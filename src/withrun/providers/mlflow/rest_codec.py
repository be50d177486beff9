"""Answers of MLflow's REST API, decoded straight into the backend's records.

Decoding is lax in one way (`strict=False`): numbers may come as strings, because protobuf's JSON writes
64-bit integers, NaN and infinities so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from withrun.backend import (
    ExperimentRecord,
    KeyValue,
    LoggedModelRecord,
    Metric,
    ModelRecord,
    Page,
    RunRecord,
    VersionRecord,
)
from withrun.errors import InvalidArgument, ServerError

from .infinities import restore_infinity

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CreatedExperiment",
    "Done",
    "DownloadUri",
    "ExperimentAnswer",
    "ExperimentsAnswer",
    "HistoryAnswer",
    "LoggedModelAnswer",
    "ModelAnswer",
    "ModelsAnswer",
    "RunAnswer",
    "RunsAnswer",
    "ServerCapabilities",
    "VersionAnswer",
    "VersionsAnswer",
    "decode",
    "encode",
    "wire_metrics",
]

_LARGEST = b"1.7976931348623157"
"""How a JSON number starts that may stand for an infinity; bodies without it need no second look."""

T = TypeVar("T")


class _RunInfo(msgspec.Struct):
    run_id: str
    experiment_id: str
    run_name: str = ""
    user_id: str = ""
    status: str = "RUNNING"
    start_time: int | None = None
    end_time: int | None = None
    artifact_uri: str = ""
    lifecycle_stage: str = "active"


class _RunData(msgspec.Struct):
    params: tuple[KeyValue, ...] = ()
    metrics: tuple[Metric, ...] = ()
    tags: tuple[KeyValue, ...] = ()


class _Run(msgspec.Struct):
    info: _RunInfo
    data: _RunData = msgspec.field(default_factory=_RunData)

    def record(self, *, clamped: bool) -> RunRecord:
        info, data = self.info, self.data
        return RunRecord(
            info.run_id,
            info.experiment_id,
            info.run_name,
            info.user_id,
            info.status,
            info.start_time,
            # A run that goes on has none; some stores say 0.
            info.end_time or None,
            info.artifact_uri,
            info.lifecycle_stage,
            data.params,
            tuple(map(restore_infinity, data.metrics)) if clamped else data.metrics,
            data.tags,
        )


class RunAnswer(msgspec.Struct):
    """Of runs/get and runs/create."""

    run: _Run

    def record(self, body: bytes) -> RunRecord:
        """The run; `body` is what it was decoded from."""
        return self.run.record(clamped=_LARGEST in body)


class RunsAnswer(msgspec.Struct):
    """Of runs/search."""

    runs: list[_Run] = []
    next_page_token: str = ""

    def page(self, body: bytes) -> Page[RunRecord]:
        """The runs; `body` is what they were decoded from."""
        clamped = _LARGEST in body
        return Page(tuple([run.record(clamped=clamped) for run in self.runs]), self.next_page_token)


class HistoryAnswer(msgspec.Struct):
    """Of metrics/get-history."""

    metrics: tuple[Metric, ...] = ()
    next_page_token: str = ""

    def page(self, body: bytes) -> Page[Metric]:
        """The points; `body` is what they were decoded from."""
        metrics = tuple(map(restore_infinity, self.metrics)) if _LARGEST in body else self.metrics
        return Page(metrics, self.next_page_token)


class CreatedExperiment(msgspec.Struct):
    """Of experiments/create."""

    experiment_id: str


class ExperimentAnswer(msgspec.Struct):
    """Of experiments/get and get-by-name."""

    experiment: ExperimentRecord


class ExperimentsAnswer(msgspec.Struct):
    """Of experiments/search."""

    experiments: tuple[ExperimentRecord, ...] = ()
    next_page_token: str = ""


class _Alias(msgspec.Struct):
    alias: str
    version: str = ""


class _Model(msgspec.Struct):
    name: str
    description: str = ""
    creation_timestamp: int | None = None
    last_updated_timestamp: int | None = None
    aliases: list[_Alias] = []
    tags: tuple[KeyValue, ...] = ()

    def record(self) -> ModelRecord:
        return ModelRecord(
            self.name,
            self.description,
            self.creation_timestamp,
            self.last_updated_timestamp,
            tuple(KeyValue(alias.alias, alias.version) for alias in self.aliases),
            self.tags,
        )


class ModelAnswer(msgspec.Struct):
    """Of registered-models/get and create."""

    registered_model: _Model


class ModelsAnswer(msgspec.Struct):
    """Of registered-models/search."""

    registered_models: list[_Model] = []
    next_page_token: str = ""


class VersionAnswer(msgspec.Struct):
    """Of model-versions/get and create, and registered-models/alias."""

    model_version: VersionRecord


class VersionsAnswer(msgspec.Struct):
    """Of model-versions/search."""

    model_versions: tuple[VersionRecord, ...] = ()
    next_page_token: str = ""


class DownloadUri(msgspec.Struct):
    """Of model-versions/get-download-uri."""

    artifact_uri: str = ""


class _LoggedModel(msgspec.Struct):
    info: LoggedModelRecord


class LoggedModelAnswer(msgspec.Struct):
    """Of logged-models/ID."""

    model: _LoggedModel


class Done(msgspec.Struct):
    """Of a write that tells nothing but that it was done."""


class ServerCapabilities(msgspec.Struct):
    """Of server-info, which MLflow 3 answers.

    Attributes:
        store_type: what keeps the runs: `SqlStore`, `FileStore`; None for another, or if it is not said.
    """

    multipart_uploads_enabled: bool = False
    store_type: str | None = None


_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def decode(body: bytes, kind: type[T], url: str) -> T:
    """Decode an answer.

    Raises:
        ServerError: it is no JSON, or not the answer that MLflow gives to this call.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, strict=False)
    try:
        return decoder.decode(body)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ServerError(
            f"{url} answered with other JSON than MLflow gives to this call ({exc}); is there an MLflow "
            "server at this URL, and no login page or proxy before it?",
            status=200,
            foreign=True,
        ) from exc


def encode(body: Mapping[str, object]) -> bytes:
    """Encode a request; raises `InvalidArgument` for text that is no Unicode (lone surrogates)."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as exc:
        raise InvalidArgument(
            f"a text holds the lone surrogate {exc.object[exc.start]!r}, which no store can keep; "
            "decode it with errors='replace' first"
        ) from exc


def wire_metrics(metrics: tuple[Metric, ...]) -> tuple[object, ...]:
    """The metrics as JSON can carry them: NaN and infinities as the strings that protobuf reads so."""
    if all(math.isfinite(metric.value) for metric in metrics):
        return metrics
    return tuple(
        metric
        if math.isfinite(metric.value)
        else {
            "key": metric.key,
            "value": "NaN" if math.isnan(metric.value) else "Infinity" if metric.value > 0 else "-Infinity",
            "timestamp": metric.timestamp,
            "step": metric.step,
        }
        for metric in metrics
    )
