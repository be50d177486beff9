"""The API instance: its configuration, and the services behind it."""

from __future__ import annotations

import difflib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import Self

from withrun.api.artifacts import ArtifactMethods
from withrun.api.experiments import ExperimentMethods
from withrun.api.models import ModelMethods
from withrun.api.rebuild import rebuild
from withrun.api.runs import RunMethods
from withrun.api.searching import SearchingMethods
from withrun.backend import Backend
from withrun.cache.serializer import EntitySerializer
from withrun.contract import MlflowApiContract
from withrun.errors import InvalidArgument
from withrun.handles import RunApi, lifecycle
from withrun.journal import Durability
from withrun.query.pushing import NoPushDown, PushDown
from withrun.services import identify
from withrun.services.assembly import Delivery, Options, Services, assemble
from withrun.services.long_values import OnLongValue
from withrun.services.tag_keys import TagKeys
from withrun.services.translation import DataTranslation
from withrun.services.writes import OnUnreachable, WritePolicy
from withrun.transfer.file_transfer import FileTransfer

if TYPE_CHECKING:
    import httpx

__all__ = ["BaseMlflowApi"]

_KEPT_HANDLES = 256
"""Handles of runs that are logged to by ID; older ones are fetched again."""


class BaseMlflowApi(
    ExperimentMethods,
    RunMethods,
    ModelMethods,
    ArtifactMethods,
    SearchingMethods,
    BaseModel,
    MlflowApiContract,
    ABC,
):
    """An experiment tracker and model registry. Instances are independent of each other and of all globals.

    A provider subclasses it with its configuration and `_connect`.

    Attributes:
        cache_dir: root of cached metadata and artifacts; None: the provider chooses.
        offline_mode: nothing talks to the tracking server; reads use cached metadata and artifacts.
        pull_artifacts_in_offline_mode: offline, still pull artifacts from storage.
        temp_artifacts_dir: where dumper callbacks write before publishing; None: inside the cache.
        cache_local_artifacts: use the cache even for artifacts on the local file system.
        always_pull_artifacts: sync with the run's artifact folder even on a cache hit.
        file_transfer: up- and downloads and listings.
        entity_serializer: how cached metadata is written.
        tag_keys: the tags in which relations between runs are kept.
        data_translation: how params and tags are written and read.
        on_long_value: a param or tag longer than the store takes becomes an artifact, or an error.
        journal_dir: where what is logged waits until the store has it; default: `journal` in the `cache_dir`
            that was given, else in the user's state folder. Cleaning the cache never touches it.
        exit_timeout: seconds without progress after which leaving a run, and interpreter exit, go on with a
            warning; what is not delivered is kept. None waits on.
        connect_timeout: seconds that starting a run, and the calls before it, wait for a server that is away
            or does not answer.
        on_unreachable: then raise `ServerUnreachable`, or start the run with a local ID ("offline"), to be
            delivered once the server is back.
        strict: leaving a run raises `Refused` if the store refused some of what was logged.
        durability: what is logged survives the death of the process, or also, a second later, a power cut.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    cache_dir: Path | None = None
    offline_mode: bool = False
    pull_artifacts_in_offline_mode: bool = False
    temp_artifacts_dir: Path | None = None
    cache_local_artifacts: bool = False
    always_pull_artifacts: bool = False
    file_transfer: FileTransfer = Field(default_factory=FileTransfer)
    entity_serializer: EntitySerializer = Field(default_factory=EntitySerializer)
    tag_keys: TagKeys = Field(default_factory=TagKeys)
    data_translation: DataTranslation = Field(default_factory=DataTranslation)
    on_long_value: OnLongValue = "artifact"
    journal_dir: Path | None = None
    exit_timeout: float | None = Field(default=30.0, ge=0)
    connect_timeout: float = Field(default=10.0, gt=0)
    on_unreachable: OnUnreachable = "raise"
    strict: bool = False
    durability: Durability = "process"

    _services: Services | None = PrivateAttr(default=None)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _handles: dict[str, RunApi] = PrivateAttr(default_factory=dict)
    _closed: bool = PrivateAttr(default=False)

    @classmethod
    def from_conf(cls, conf: Mapping[Any, Any]) -> Self:
        """Make an instance of a configuration whose names were not checked yet."""
        cls._refuse_unknown_fields(conf)
        return cls(**conf)

    def __init__(self, **conf: Any) -> None:
        self._refuse_unknown_fields(conf)
        if conf.get("cache_dir", ...) is None:
            del conf["cache_dir"]  # as if it was not given: the journal has its own default then
        try:
            super().__init__(**conf)
        except ValidationError as exc:
            raise InvalidArgument(self._explain(exc)) from None  # the original may hold credentials
        # After the provider chose a cache. Not counted as given: a copy with another cache has its own.
        object.__setattr__(self, "temp_artifacts_dir", self._temp_dir())
        object.__setattr__(self, "journal_dir", self._journals_home())
        _instances.add(self)
        if (recovery := self.services.recovery) is not None:
            recovery.start()

    @abstractmethod
    def _connect(self) -> Backend:
        """Make a backend; must not talk to the server yet.

        Called again for the journal, which delivers by a backend of its own that outlives the API.
        """

    _has_store: ClassVar[bool] = True
    """Whether there is a store that what is logged can be delivered to."""

    def _delivery_threads(self) -> int:
        """How many runs may be written to side by side."""
        return 1

    def _identity(self) -> str:
        """What tells users of the store apart, such as a hash of their credentials: they share no journal."""
        return ""

    def _http(self) -> httpx.Client | None:
        """The tracking server's HTTP client, for artifacts that it serves; None for a store without one."""
        return None

    def _push_down(self) -> PushDown:
        """What the backend's filter strings can answer; nothing, unless a provider says more."""
        return NoPushDown()

    def run_handle(self, run_id: str) -> RunApi:
        """A handle to log to a run by: the one that it is held open by, else one that was fetched once."""
        held = lifecycle.open_handle(self, identify.run_id(run_id))
        known = held or self._handles.get(run_id)
        if known is None:
            fetched = self.get_run(run_id)
            with self._lock:
                known = self._handles.setdefault(run_id, fetched)
                while len(self._handles) > _KEPT_HANDLES:
                    del self._handles[next(iter(self._handles))]
        return known

    @property
    def services(self) -> Services:
        """What stands behind the methods; put together on first use."""
        services = self._services
        if services is None:
            with self._lock:
                services = self._services
                if services is None:
                    services = self._services = self._assemble()
        return services

    @property
    def store_uri(self) -> str:
        """The store's normalised URI, without credentials."""
        return self.services.backend.store_uri

    @property
    def in_offline_mode(self) -> Self:
        """An offline copy of this API."""
        return self.model_copy(update={"offline_mode": True})

    def flush(self, timeout: float | None = None) -> None:
        """Return once all that was logged through this API is in the store.

        Args:
            timeout: seconds; None waits without limit.

        Raises:
            TimeoutError: it is not after that time; it stays to be delivered.
        """
        identify.check_timeout(timeout)
        self.services.writes.flush(None, timeout)

    def close(self) -> None:
        """End the runs that are open as handles, flush, and let go of connections; not to be used afterwards.

        Raises:
            RunAlreadyActive: a run of it is open as a block; nothing is closed then.
        """
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        if self._services is None:
            self._closed = True
            return
        lifecycle.refuse_open_blocks(self)
        try:
            lifecycle.end_handles(self, error)
        finally:
            self._closed = True
            self._services.writes.close()
            if self._services.recovery is not None:
                self._services.recovery.close()
            self._services.backend.close()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)

    def model_copy(self, *, update: Any = None, deep: bool = False) -> Self:
        """A copy with other field values, checked as new ones are; it runs its own services."""
        return type(self)(**{**self._own_conf(), **(update or {})})

    # An instance is itself and no other: contexts, handles and caches tell instances apart.
    __eq__ = object.__eq__

    # A function of our own: pydantic puts a hash of the fields in the place of `object.__hash__`.
    def __hash__(self) -> int:
        return object.__hash__(self)

    def __copy__(self) -> Self:
        return self.model_copy()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self  # immutable, and a copy of a handle stays with its API

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return rebuild, (type(self), self._portable_conf())

    def _temp_dir(self) -> Path:
        home = self.cache_dir or Path(platformdirs.user_cache_dir("withrun"))  # not the folder that all share
        return self.temp_artifacts_dir or home / "temp-artifacts"

    def _journals_home(self) -> Path:
        if self.journal_dir is not None:
            return self.journal_dir
        if self.cache_dir is not None and "cache_dir" in self.model_fields_set:
            return self.cache_dir / "journal"
        return Path(platformdirs.user_state_dir("withrun")) / "journal"

    def _own_conf(self) -> dict[str, Any]:
        """The configuration, credentials included, for a copy in this process."""
        # A default that was made for this instance (such as the store of the folder it was made in) stays.
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name in self.model_fields_set or field.default_factory is not None
        }

    def _portable_conf(self) -> dict[str, Any]:
        """The configuration that was given, less credentials, for a pickle."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    @classmethod
    def conf_from_pickle(cls, conf: dict[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
        """What of a pickled configuration is to be merged over the environment's."""
        return conf

    def _assemble(self) -> Services:
        return assemble(
            self._connect(),
            Options(
                cache_dir=self.cache_dir,
                temp_artifacts_dir=self._temp_dir(),
                offline_mode=self.offline_mode,
                pull_artifacts_in_offline_mode=self.pull_artifacts_in_offline_mode,
                cache_local_artifacts=self.cache_local_artifacts,
                always_pull_artifacts=self.always_pull_artifacts,
                file_transfer=self.file_transfer,
                entity_serializer=self.entity_serializer,
                tag_keys=self.tag_keys,
                data_translation=self.data_translation,
                on_long_value=self.on_long_value,
                writes=self._write_policy() if self._has_store else None,
            ),
            Delivery(self._twin()._connect, self._delivery_threads(), self._identity()),
            self._http,
            NoPushDown if self.offline_mode else self._push_down,
        )

    def _twin(self) -> Self:
        """What has this one's configuration and runs nothing: held by the journal, which may outlive this."""
        twin = BaseModel.__copy__(self)
        twin._services, twin._handles, twin._lock = None, {}, threading.Lock()
        return twin

    def _write_policy(self) -> WritePolicy:
        return WritePolicy(
            journal_dir=self._journals_home(),
            offline=self.offline_mode,
            exit_timeout=self.exit_timeout,
            connect_timeout=self.connect_timeout,
            on_unreachable=self.on_unreachable,
            strict=self.strict,
            durability=self.durability,
        )

    @classmethod
    def conf_schema(cls) -> dict[str, Any]:
        """The JSON schema of the configuration; a field that takes objects, such as a class, is left open."""
        return cls.model_json_schema(schema_generator=_OpenSchema)

    @classmethod
    def _refuse_unknown_fields(cls, conf: Mapping[Any, Any]) -> None:
        for name in (name for name in conf if name not in cls.model_fields):
            if not isinstance(name, str):
                raise InvalidArgument(f"configuration fields are named by strings, not by {name!r:.100}")
            hint = _nearest(name, cls)
            raise InvalidArgument(f"{cls.__name__} has no configuration field {name!r}; {hint}")

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'configuration'}: "
            f"{cls._problem(e['type'], e['loc'], e['msg'])}"
            for e in error.errors(include_url=False, include_input=False)
        ]
        return f"the configuration of {cls.__name__} is not valid: {'; '.join(problems)}"

    @classmethod
    def _problem(cls, kind: str, where: tuple[int | str, ...], message: str) -> str:
        if kind == "extra_forbidden":
            owner: type[BaseModel] = cls
            for name in where[:-1]:
                field = owner.model_fields.get(str(name))
                annotation = field.annotation if field is not None else None
                if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
                    return message  # not a model's, such as a part of a union
                owner = annotation
            return f"there is no such field; {_nearest(str(where[-1]), owner)}"
        return message.removeprefix("Value error, ")


def _nearest(name: str, owner: type[BaseModel]) -> str:
    """The field that was probably meant, or all that there are."""
    near = difflib.get_close_matches(name, owner.model_fields, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(owner.model_fields))}"


_instances: weakref.WeakSet[BaseMlflowApi] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A lock that another thread of the parent held would stay held for ever.
    for api in list(_instances):
        api._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


class _OpenSchema(GenerateJsonSchema):
    """Says "anything" of what JSON can't describe, where pydantic would raise or warn."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - pydantic's

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}
