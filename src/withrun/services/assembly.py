"""The services of one API instance, put together once on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from withrun.backend import Backend
from withrun.cache.artifacts import ArtifactCache
from withrun.cache.metadata import MetadataCache
from withrun.cache.serializer import EntitySerializer
from withrun.journal import LocalIds
from withrun.journal.background import BackgroundRecovery
from withrun.journal.replay import LocalStore
from withrun.query.pushing import PushDown
from withrun.services.artifacts import ArtifactService
from withrun.services.delivery import publisher_factory
from withrun.services.entities import EntityBuilder
from withrun.services.experiments import ExperimentService
from withrun.services.local_backend import LocalBackend
from withrun.services.local_entities import LocalEntities
from withrun.services.local_names import LocalNames
from withrun.services.long_values import LongValues, OnLongValue
from withrun.services.metadata import MetadataService
from withrun.services.models import ModelService
from withrun.services.offline import offline_backend
from withrun.services.runs import RunService
from withrun.services.search import SearchService
from withrun.services.tag_keys import TagKeys
from withrun.services.translation import DataTranslation
from withrun.services.writes import WritePath, WritePolicy
from withrun.transfer.file_transfer import FileTransfer

if TYPE_CHECKING:
    import httpx

__all__ = ["Options", "Services", "assemble"]


@dataclass(frozen=True)
class Options:
    """What of an API's configuration the services need; see the fields of `BaseMlflowApi`."""

    cache_dir: Path | None
    temp_artifacts_dir: Path
    offline_mode: bool
    pull_artifacts_in_offline_mode: bool
    cache_local_artifacts: bool
    always_pull_artifacts: bool
    file_transfer: FileTransfer
    entity_serializer: EntitySerializer
    tag_keys: TagKeys
    data_translation: DataTranslation
    on_long_value: OnLongValue
    writes: WritePolicy | None


@dataclass(frozen=True)
class Delivery:
    """How a provider's store is delivered to.

    Attributes:
        connect: makes a backend of the journal's own: it outlives the API.
        threads: runs delivered side by side; 1 for a store that takes one writer.
        identity: tells users of one store apart, such as by a hash of their credentials: they share no
            journal.
    """

    connect: Callable[[], Backend]
    threads: int
    identity: str


@dataclass(frozen=True)
class Services:
    """What stands behind the methods of an API."""

    backend: Backend
    writes: WritePath
    recovery: BackgroundRecovery | None
    experiments: ExperimentService
    runs: RunService
    models: ModelService
    artifacts: ArtifactService
    metadata: MetadataService
    search: SearchService
    names: LocalNames


class _Journaled(NamedTuple):
    """What the journals on this machine know of a store."""

    store: LocalStore
    ids: LocalIds

    @classmethod
    def of(cls, journal_dir: Path, store_uri: str) -> _Journaled:
        store = LocalStore(journal_dir, store_uri)
        return cls(store, LocalIds(store.folder))


def assemble(
    connected: Backend,
    options: Options,
    delivery: Delivery,
    http: Callable[[], httpx.Client | None],
    push_down: Callable[[], PushDown],
) -> Services:
    """Put the services of one API together.

    Args:
        connected: the provider's backend; only its name is used in offline mode.
        options: the API's configuration.
        delivery: how the journal reaches the store.
        http: gives the tracking server's HTTP client, or None for a store without one.
        push_down: gives what the backend's filter strings can answer; called when something is searched.
    """
    backend = offline_backend(connected.store_uri) if options.offline_mode else connected
    cache_dir = options.cache_dir
    policy, keys = options.writes, options.tag_keys
    publisher = publisher_factory(options.file_transfer, keys)
    journaled = None if policy is None else _Journaled.of(policy.journal_dir, connected.store_uri)
    if journaled is not None:
        backend = LocalBackend(backend, journaled.store, journaled.ids, keys)
    recovery = None
    if policy is not None and not policy.offline:
        recovery = BackgroundRecovery(
            policy.journal_dir, connected.store_uri, delivery.connect, publisher, delivery.threads
        )
    names = LocalNames(None if journaled is None else journaled.ids, keys)
    writes = WritePath(
        connected.store_uri,
        policy,
        connect=delivery.connect,
        publisher=publisher,
        recovery=recovery,
        threads=delivery.threads,
        identity=delivery.identity,
    )
    artifacts = ArtifactService(
        transfer=options.file_transfer,
        cache=None if cache_dir is None else ArtifactCache(cache_dir),
        http=http,
        temp_artifacts_dir=options.temp_artifacts_dir,
        offline_mode=options.offline_mode,
        pull_artifacts_in_offline_mode=options.pull_artifacts_in_offline_mode,
        cache_local_artifacts=options.cache_local_artifacts,
        always_pull_artifacts=options.always_pull_artifacts,
        spool=writes.spool_of,
        reads_local_repos=policy is not None,
        check_kept=lambda run, paths: models.paths.check_kept(run, paths),
        journal_dir=None if policy is None else policy.journal_dir.absolute(),
    )
    long_values = LongValues(artifacts, writes, options.on_long_value)
    build = EntityBuilder(keys, options.data_translation, long_values.whole)
    experiments = ExperimentService(backend, writes, build, options.data_translation)
    runs = RunService(backend, writes, experiments, long_values, build, keys, options.data_translation)
    models = ModelService(backend, writes, runs, build, keys, options.data_translation)
    cached = None if cache_dir is None else MetadataCache(cache_dir, options.entity_serializer)
    local = None
    if journaled is not None:
        local = LocalEntities(journaled.store, journaled.ids, build, keys, cached)
    metadata = MetadataService(
        cache_dir, options.entity_serializer, options.offline_mode, experiments, runs, models, local
    )
    search = SearchService(
        backend,
        push_down,
        writes,
        build,
        experiments,
        runs,
        models,
        names,
        cached=metadata if options.offline_mode else None,
    )
    return Services(backend, writes, recovery, experiments, runs, models, artifacts, metadata, search, names)
