"""RestBackend: a tracking server, spoken to in MLflow's REST API itself, without MLflow.

A method is one request: what to send, what the call is about (for errors), how to read the answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import msgspec

from withrun.backend import FilterGrammar, Page, RunRecord, ServerInfo
from withrun.errors import NotFound, ServerError

from . import refusals as about
from . import rest_codec as codec
from .grammar import are_of_database, grammar_of, logged_model_id, release
from .http import HttpConnection
from .replay import send_metrics_once
from .server_url import parse_server_url
from .settings import ClientSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from withrun.backend import (
        DatasetInput,
        ExperimentRecord,
        KeyValue,
        LoggedModelRecord,
        Metric,
        ModelRecord,
        VersionRecord,
        ViewType,
    )

    from .http import Params
    from .refusals import Subject

__all__ = ["RestBackend"]

_API = "api/2.0/mlflow"
_VERSION = re.compile(r"\d+\.\d+[\w.+\-]{0,40}", re.ASCII)

T = TypeVar("T")


class RestBackend:
    """A `Backend` over HTTP.

    Connects at the first call, not before. Threads share its pool of connections; a forked child gets
    its own.

    Args:
        tracking_uri: the server's URL; user information in it is taken as credentials.
        settings: how to talk to it; None for the defaults.
        quick_ack: acknowledge answers at once where the platform can; False is for measurements.
    """

    def __init__(
        self, tracking_uri: str, settings: ClientSettings | None = None, *, quick_ack: bool = True
    ) -> None:
        server = parse_server_url(tracking_uri)
        self._store_uri = server.url
        self._connection = HttpConnection(server, settings or ClientSettings(), quick_ack=quick_ack)
        self._grammar: FilterGrammar | None = None
        self._info: ServerInfo | None = None

    def __repr__(self) -> str:
        return f"RestBackend({self._store_uri!r})"

    @property
    def store_uri(self) -> str:
        """The server's normalised URL without credentials."""
        return self._store_uri

    @property
    def http(self) -> httpx.Client:
        """The client, for other requests to the same server with the same credentials (proxied artifacts).

        Look it up for each use: a forked child has another one.
        """
        return self._connection.client

    @property
    def grammar(self) -> FilterGrammar:
        """What this server's filter strings can say; asks for its version and store at the first use."""
        if self._grammar is None:
            version = self._server_version()
            self._grammar = grammar_of(version, database=self._keeps_database(version))
        return self._grammar

    @property
    def known_info(self) -> ServerInfo | None:
        """What the server said that it is, when it was asked last."""
        return self._info

    def close(self) -> None:
        """Let go of connections; the backend can't be used afterwards."""
        self._connection.close()

    def server_info(self) -> ServerInfo:
        """Ask the server what it is; raises `ServerError` if it is no MLflow server."""
        version = self._server_version()
        self._info = ServerInfo(version, self._capabilities(version).multipart_uploads_enabled)
        return self._info

    def _capabilities(self, version: str) -> codec.ServerCapabilities:
        """What the server says it can do; of one that says nothing, the least."""
        if not version or release(version) < (3, 0):
            return codec.ServerCapabilities()
        try:
            body = self._connection.request(
                "GET", "api/3.0/mlflow/server-info", call="server_info", repeatable=True
            )
        except ServerError as exc:
            # Early releases of MLflow 3, and servers that pass on the documented calls alone, don't have it.
            if exc.status in (404, 405):
                return codec.ServerCapabilities()
            raise
        return codec.decode(body, codec.ServerCapabilities, self._store_uri)

    def _keeps_database(self, version: str) -> bool:
        """Whether the server is known to keep its runs in a database, and not in files."""
        store = self._capabilities(version).store_type
        if store:
            return store == "SqlStore"
        page = self.search_experiments(view_type="ALL", max_results=100)
        return are_of_database(record.experiment_id for record in page.items)

    def _server_version(self) -> str:
        try:
            body = self._connection.request(
                "GET", "version", call="server_info", repeatable=True, is_api=False
            )
        except ServerError as exc:
            if exc.status not in (404, 405):
                raise
            body = b""
        text = body[:60].decode("ascii", "replace").strip()
        if _VERSION.fullmatch(text):
            return text
        # No version: a proxy that passes on the API alone, or no MLflow at all. The API's own answer tells.
        try:
            body = self._get(
                "experiments/get", "server_info", about.experiment_subject("0"), {"experiment_id": "0"}
            )
        except NotFound:
            return ""
        codec.decode(body, codec.ExperimentAnswer, self._store_uri)
        return ""

    # --- experiments ---

    def create_experiment(
        self, name: str, *, artifact_location: str | None = None, tags: tuple[KeyValue, ...] = ()
    ) -> str:
        """Create an experiment, return its ID."""
        body: dict[str, object] = {"name": name, "tags": tags}
        if artifact_location is not None:
            body["artifact_location"] = artifact_location
        answer = self._post(
            "experiments/create", "create_experiment", about.named_experiment(name), body, repeatable=False
        )
        return self._decode(answer, codec.CreatedExperiment).experiment_id

    def get_experiment(self, experiment_id: str) -> ExperimentRecord:
        """Fetch an experiment by ID."""
        subject = about.experiment_subject(experiment_id)
        answer = self._get("experiments/get", "get_experiment", subject, {"experiment_id": experiment_id})
        return self._decode(answer, codec.ExperimentAnswer).experiment

    def get_experiment_by_name(self, name: str) -> ExperimentRecord | None:
        """Fetch an experiment by name; None if there is none."""
        params: Params = {"experiment_name": name}
        try:
            answer = self._get(
                "experiments/get-by-name", "get_experiment_by_name", about.named_experiment(name), params
            )
        except NotFound:
            return None
        return self._decode(answer, codec.ExperimentAnswer).experiment

    def search_experiments(
        self,
        filter_string: str = "",
        *,
        view_type: ViewType = "ACTIVE_ONLY",
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[ExperimentRecord]:
        """Search experiments."""
        body = _search_body(filter_string, max_results, order_by, page_token) | {"view_type": view_type}
        answer = self._post("experiments/search", "search_experiments", None, body)
        page = self._decode(answer, codec.ExperimentsAnswer)
        return Page(page.experiments, page.next_page_token)

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set one tag."""
        body = {"experiment_id": experiment_id, "key": key, "value": value}
        subject = about.experiment_subject(experiment_id)
        self._write("experiments/set-experiment-tag", "set_experiment_tag", subject, body)

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Delete one tag."""
        body = {"experiment_id": experiment_id, "key": key}
        subject = about.experiment_subject(experiment_id)
        try:
            self._write("experiments/delete-experiment-tag", "delete_experiment_tag", subject, body)
        except NotFound:
            # The tag, or the experiment? The answer's code is the same.
            self.get_experiment(experiment_id)

    def delete_experiment(self, experiment_id: str) -> None:
        """Mark an experiment and its runs deleted."""
        subject = about.experiment_subject(experiment_id)
        self._write("experiments/delete", "delete_experiment", subject, {"experiment_id": experiment_id})

    def restore_experiment(self, experiment_id: str) -> None:
        """Undo `delete_experiment`."""
        subject = about.experiment_subject(experiment_id)
        self._write("experiments/restore", "restore_experiment", subject, {"experiment_id": experiment_id})

    # --- runs ---

    def create_run(
        self, experiment_id: str, *, run_name: str | None, start_time: int, tags: tuple[KeyValue, ...] = ()
    ) -> RunRecord:
        """Create a RUNNING run."""
        user = next((tag.value for tag in tags if tag.key == "mlflow.user"), "unknown")
        body: dict[str, object] = {
            "experiment_id": experiment_id,
            "user_id": user,
            "start_time": start_time,
            "tags": tags,
        }
        if run_name:
            body["run_name"] = run_name
        subject = about.experiment_subject(experiment_id)
        answer = self._post("runs/create", "create_run", subject, body, repeatable=False)
        return self._decode(answer, codec.RunAnswer).record(answer)

    def get_run(self, run_id: str) -> RunRecord:
        """Fetch a run."""
        answer = self._get("runs/get", "get_run", about.run_subject(run_id), {"run_id": run_id})
        return self._decode(answer, codec.RunAnswer).record(answer)

    def update_run(
        self,
        run_id: str,
        *,
        status: str | None = None,
        end_time: int | None = None,
        run_name: str | None = None,
    ) -> None:
        """Change status, end time or name."""
        changes = {"status": status, "end_time": end_time, "run_name": run_name}
        body = {"run_id": run_id} | {key: value for key, value in changes.items() if value is not None}
        self._write("runs/update", "update_run", about.run_subject(run_id), body)

    def delete_run(self, run_id: str) -> None:
        """Mark a run deleted."""
        self._write("runs/delete", "delete_run", about.run_subject(run_id), {"run_id": run_id})

    def restore_run(self, run_id: str) -> None:
        """Undo `delete_run`."""
        self._write("runs/restore", "restore_run", about.run_subject(run_id), {"run_id": run_id})

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: tuple[Metric, ...] = (),
        params: tuple[KeyValue, ...] = (),
        tags: tuple[KeyValue, ...] = (),
    ) -> None:
        """Write metrics, params and tags in one request."""
        body = {"run_id": run_id, "params": params, "tags": tags}
        subject = about.run_subject(run_id)

        def send(metrics: tuple[Metric, ...]) -> None:
            self._write(
                "runs/log-batch", "log_batch", subject, body | {"metrics": codec.wire_metrics(metrics)}
            )

        send_metrics_once(metrics, send)

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete one tag of a run."""
        try:
            self._write(
                "runs/delete-tag", "delete_tag", about.run_subject(run_id), {"run_id": run_id, "key": key}
            )
        except NotFound:
            # The tag, or the run? The answer's code is the same.
            self.get_run(run_id)

    def search_runs(
        self,
        experiment_ids: tuple[str, ...],
        filter_string: str = "",
        *,
        view_type: ViewType = "ACTIVE_ONLY",
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[RunRecord]:
        """Search runs of those experiments."""
        if not experiment_ids:
            return Page(())
        body = _search_body(filter_string, max_results, order_by, page_token)
        body |= {"experiment_ids": experiment_ids, "run_view_type": view_type}
        answer = self._post("runs/search", "search_runs", about.experiments_subject(experiment_ids), body)
        return self._decode(answer, codec.RunsAnswer).page(answer)

    def metric_history(
        self, run_id: str, key: str, *, max_results: int = 25_000, page_token: str = ""
    ) -> Page[Metric]:
        """Fetch a page of all points of one metric; servers that know no pages send all of them."""
        params: dict[str, str | int | tuple[str, ...]] = {
            "run_id": run_id,
            "metric_key": key,
            "max_results": max_results,
        }
        if page_token:
            params["page_token"] = page_token
        answer = self._get("metrics/get-history", "metric_history", about.run_subject(run_id), params)
        return self._decode(answer, codec.HistoryAnswer).page(answer)

    def log_inputs(self, run_id: str, datasets: tuple[DatasetInput, ...]) -> None:
        """Record which datasets a run used."""
        body = {
            "run_id": run_id,
            "datasets": [
                {
                    "tags": dataset.tags,
                    "dataset": {
                        "name": dataset.name,
                        "digest": dataset.digest,
                        "source_type": dataset.source_type,
                        "source": dataset.source,
                        "schema": dataset.schema,
                        "profile": dataset.profile,
                    },
                }
                for dataset in datasets
            ],
        }
        self._write("runs/log-inputs", "log_inputs", about.run_subject(run_id), body)

    # --- registered models ---

    def create_model(
        self, name: str, *, tags: tuple[KeyValue, ...] = (), description: str = ""
    ) -> ModelRecord:
        """Create a registered model."""
        body = {"name": name, "tags": tags, "description": description}
        subject = about.model_subject(name)
        answer = self._post(
            "registered-models/create",
            "create_model",
            subject._replace(well_formed=True),
            body,
            repeatable=False,
        )
        return self._decode(answer, codec.ModelAnswer).registered_model.record()

    def get_model(self, name: str) -> ModelRecord:
        """Fetch a registered model."""
        answer = self._get("registered-models/get", "get_model", about.model_subject(name), {"name": name})
        return self._decode(answer, codec.ModelAnswer).registered_model.record()

    def search_models(
        self,
        filter_string: str = "",
        *,
        max_results: int = 100,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[ModelRecord]:
        """Search registered models."""
        params = _search_params(filter_string, max_results, order_by, page_token)
        answer = self._get("registered-models/search", "search_models", None, params)
        page = self._decode(answer, codec.ModelsAnswer)
        return Page(tuple(model.record() for model in page.registered_models), page.next_page_token)

    def set_model_tag(self, name: str, key: str, value: str) -> None:
        """Set one tag."""
        body = {"name": name, "key": key, "value": value}
        self._write("registered-models/set-tag", "set_model_tag", about.model_subject(name), body)

    def delete_model_tag(self, name: str, key: str) -> None:
        """Delete one tag."""
        body = {"name": name, "key": key}
        self._delete("registered-models/delete-tag", "delete_model_tag", about.model_subject(name), body)

    # --- model versions ---

    def create_version(
        self,
        name: str,
        source: str,
        *,
        run_id: str = "",
        tags: tuple[KeyValue, ...] = (),
        description: str = "",
    ) -> VersionRecord:
        """Register the artifact at `source` as the next version of a model."""
        body: dict[str, object] = {"name": name, "source": source, "tags": tags, "description": description}
        if run_id:
            body["run_id"] = run_id
        if model_id := logged_model_id(source):
            # The server refuses a logged model's URI unless it is told the model's ID as well.
            body["model_id"] = model_id
        subject = about.model_subject(name)
        answer = self._post("model-versions/create", "create_version", subject, body, repeatable=False)
        return self._decode(answer, codec.VersionAnswer).model_version

    def get_version(self, name: str, version: str) -> VersionRecord:
        """Fetch a model version."""
        params: Params = {"name": name, "version": version}
        answer = self._get("model-versions/get", "get_version", about.version_subject(name, version), params)
        return self._decode(answer, codec.VersionAnswer).model_version

    def get_version_by_alias(self, name: str, alias: str) -> VersionRecord:
        """Fetch the version that an alias names."""
        params: Params = {"name": name, "alias": alias}
        subject = about.alias_subject(name, alias)
        answer = self._get("registered-models/alias", "get_version_by_alias", subject, params)
        return self._decode(answer, codec.VersionAnswer).model_version

    def version_download_uri(self, name: str, version: str) -> str:
        """Where the version's artifact lies, as the server resolves it."""
        subject = about.version_subject(name, version)
        params: Params = {"name": name, "version": version}
        answer = self._get("model-versions/get-download-uri", "version_download_uri", subject, params)
        return self._decode(answer, codec.DownloadUri).artifact_uri

    def search_versions(
        self,
        filter_string: str = "",
        *,
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[VersionRecord]:
        """Search model versions."""
        params = _search_params(filter_string, max_results, order_by, page_token)
        page = self._decode(
            self._get("model-versions/search", "search_versions", None, params), codec.VersionsAnswer
        )
        return Page(page.model_versions, page.next_page_token)

    def delete_version(self, name: str, version: str) -> None:
        """Delete a model version; one that is absent counts as deleted."""
        body = {"name": name, "version": version}
        try:
            for alias in self.get_version(name, version).aliases:
                self.delete_alias(name, alias)  # MLflow 2 would leave it, naming nothing
            self._delete(
                "model-versions/delete", "delete_version", about.version_subject(name, version), body
            )
        except NotFound:
            return

    def set_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set one tag."""
        body = {"name": name, "version": version, "key": key, "value": value}
        self._write("model-versions/set-tag", "set_version_tag", about.version_subject(name, version), body)

    def delete_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete one tag."""
        body = {"name": name, "version": version, "key": key}
        subject = about.version_subject(name, version)
        self._delete("model-versions/delete-tag", "delete_version_tag", subject, body)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        body = {"name": name, "alias": alias, "version": version}
        self._write("registered-models/alias", "set_alias", about.version_subject(name, version), body)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias."""
        body = {"name": name, "alias": alias}
        self._delete("registered-models/alias", "delete_alias", about.model_subject(name), body)

    # --- logged models ---

    def get_logged_model(self, model_id: str) -> LoggedModelRecord:
        """Fetch a logged model."""
        subject = about.logged_model_subject(model_id)
        if not subject.well_formed:
            # It goes into the path, where a malformed one would name another resource.
            raise NotFound(
                f"{subject.label} does not exist in {self._store_uri}: no logged model has such an ID"
            )
        try:
            answer = self._get(f"logged-models/{quote(model_id, safe='')}", "get_logged_model", subject, None)
        except ServerError as exc:
            if exc.status == 404:
                raise NotFound(
                    f"{subject.label} does not exist: {self._store_uri} keeps no logged models"
                ) from exc
            raise
        record = self._decode(answer, codec.LoggedModelAnswer).model.info
        return msgspec.structs.replace(record, status=record.status.removeprefix("LOGGED_MODEL_"))

    # --- requests ---

    def _get(self, path: str, call: str, subject: Subject | None, params: Params | None) -> bytes:
        return self._connection.request(
            "GET", f"{_API}/{path}", call=call, subject=subject, params=params, repeatable=True
        )

    def _post(
        self,
        path: str,
        call: str,
        subject: Subject | None,
        body: Mapping[str, object],
        *,
        repeatable: bool = True,
    ) -> bytes:
        content = codec.encode(body)
        return self._connection.request(
            "POST", f"{_API}/{path}", call=call, subject=subject, content=content, repeatable=repeatable
        )

    def _write(self, path: str, call: str, subject: Subject, body: Mapping[str, object]) -> None:
        """Post what MLflow only acknowledges; another's answer must not pass for that."""
        self._decode(self._post(path, call, subject, body), codec.Done)

    def _delete(self, path: str, call: str, subject: Subject, body: Mapping[str, object]) -> None:
        content = codec.encode(body)
        answer = self._connection.request(
            "DELETE", f"{_API}/{path}", call=call, subject=subject, content=content, repeatable=True
        )
        self._decode(answer, codec.Done)

    def _decode(self, body: bytes, kind: type[T]) -> T:
        return codec.decode(body, kind, self._store_uri)


def _search_body(
    filter_string: str, max_results: int, order_by: tuple[str, ...], page_token: str
) -> dict[str, object]:
    body: dict[str, object] = {"max_results": max_results}
    if filter_string:
        body["filter"] = filter_string
    if order_by:
        body["order_by"] = order_by
    if page_token:
        body["page_token"] = page_token
    return body


def _search_params(
    filter_string: str, max_results: int, order_by: tuple[str, ...], page_token: str
) -> dict[str, str | int | tuple[str, ...]]:
    params: dict[str, str | int | tuple[str, ...]] = {"max_results": max_results}
    if filter_string:
        params["filter"] = filter_string
    if order_by:
        params["order_by"] = order_by
    if page_token:
        params["page_token"] = page_token
    return params
