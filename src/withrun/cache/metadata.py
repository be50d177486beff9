"""MetadataCache: what experiments, runs, models and versions were when they were last fetched, as JSON files.

```
cache_dir/metadata/
├── experiments/ID.json
├── runs/ID.json
├── models/NAME.json
├── versions/NAME/VERSION.json
└── aliases/NAME/ALIAS.json         the version that it named when that version was cached by it
```

A name that is not harmless as a file name is hashed. Each file holds its entity whole, with the entities that
it refers to, so that any one file can be understood; read back, these are the newer ones if there are such.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from withrun.cache.layout import safe_name
from withrun.cache.serializer import EntitySerializer, kind_of
from withrun.errors import CacheError
from withrun.schema import Experiment, Model, ModelVersion, Run

__all__ = ["Alias", "EntitySerializer", "MetadataCache"]

E = TypeVar("E", Experiment, Run, Model, ModelVersion)

_FOLDERS = {Experiment: "experiments", Run: "runs", Model: "models", ModelVersion: "versions"}
_ALIASES = "aliases"
_OWN = re.compile(r".*\.json|\.[0-9a-f]{16}", re.DOTALL)


@dataclass(frozen=True)
class Alias:
    """An alias by which a version was asked for.

    Attributes:
        name: the alias, without `@`.
        asked_at: when that was, in nanoseconds since 1970: it may name another version by now.
    """

    name: str
    asked_at: int = field(default_factory=time.time_ns)


class MetadataCache:
    """The metadata below a cache folder.

    Args:
        root: the `cache_dir`; made when something is first put there.
        serializer: turns entities into bytes and back.
    """

    def __init__(self, root: Path, serializer: EntitySerializer | None = None) -> None:
        self._root = root / "metadata"
        self._serializer = serializer or EntitySerializer()

    # --- writing ---

    def put(self, entity: Experiment | Run | Model | ModelVersion) -> Path:
        """Keep an entity and those that it refers to; returns the entity's file."""
        match entity:
            case ModelVersion():
                self.put(entity.model)
                if entity.run is not None:
                    self.put(entity.run)
                names = [entity.model.name, entity.version]
            case Run():
                self.put(entity.exp)
                names = [entity.id]
            case Model():
                names = [entity.name]
            case _:
                names = [entity.id]
        return self._write(self._file(_FOLDERS[kind_of(entity)], names), self._serializer.dumps(entity))

    def put_alias(self, model: str, alias: Alias, version: str) -> None:
        """Remember which version of a model an alias named, unless it was asked for again since then."""
        file = self._file(_ALIASES, [model, alias.name])
        with contextlib.suppress(OSError):  # there is none; or writing it will say what is wrong
            if file.stat().st_mtime_ns > alias.asked_at:
                return
        self._write(file, json.dumps(version).encode(), alias.asked_at)

    def clean(self) -> None:
        """Remove all metadata."""
        for folder in (*_FOLDERS.values(), _ALIASES):
            for file in (self._root / folder).rglob("*"):
                # Nothing but what is written here: the folder may be one that the user has other files in.
                if _OWN.fullmatch(file.name) and not file.is_dir():
                    file.unlink(missing_ok=True)

    # --- reading ---

    def experiment(self, exp_id: str) -> Experiment | None:
        """Return a cached experiment, or None."""
        return self._read(Experiment, [exp_id])

    def run(self, run_id: str) -> Run | None:
        """Return a cached run, or None."""
        run = self._read(Run, [run_id])
        return run and self._renewed(run, self.experiment)

    def model(self, name: str) -> Model | None:
        """Return a cached registered model, or None."""
        return self._read(Model, [name])

    def version(self, name: str, version: str) -> ModelVersion | None:
        """Return a cached model version, or None."""
        found = self._read(ModelVersion, [name, version])
        return found and self._joined(found, self.model, self.run)

    def alias(self, model: str, alias: str) -> str | None:
        """Return the version that an alias named when it was last cached, or None."""
        file = self._file(_ALIASES, [model, alias])
        try:
            version = json.loads(file.read_bytes() or b"null")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CacheError(
                f"The cached alias in {str(file)!r} is unreadable: {error}. Remove the file, and cache the "
                "version by its alias again."
            ) from error
        return version if isinstance(version, str) and version else None

    def experiments(self) -> Iterator[Experiment]:
        """Yield all cached experiments."""
        return self._all(Experiment)

    def runs(self, exp_ids: Iterable[str] | None = None) -> Iterator[Run]:
        """Yield all cached runs, or those of some experiments."""
        wanted = None if exp_ids is None else frozenset(exp_ids)
        experiment = _remembering(self.experiment)
        for run in self._all(Run):
            if wanted is None or run.exp.id in wanted:
                yield self._renewed(run, experiment)

    def models(self) -> Iterator[Model]:
        """Yield all cached registered models."""
        return self._all(Model)

    def versions(self, model: str | None = None) -> Iterator[ModelVersion]:
        """Yield all cached model versions, or those of one model."""
        get_model, get_run = _remembering(self.model), _remembering(self.run)
        for version in self._all(ModelVersion, None if model is None else safe_name(model)):
            yield self._joined(version, get_model, get_run)

    def _renewed(self, run: Run, experiment: Callable[[str], Experiment | None]) -> Run:
        run.exp = experiment(run.exp.id) or run.exp
        return run

    def _joined(
        self,
        version: ModelVersion,
        model: Callable[[str], Model | None],
        run: Callable[[str], Run | None],
    ) -> ModelVersion:
        version.model = model(version.model.name) or version.model
        if version.run is not None:
            version.run = run(version.run.id) or version.run
        return version

    # --- files ---

    def _file(self, folder: str, names: list[str]) -> Path:
        *above, last = (safe_name(name) for name in names)
        return self._root.joinpath(folder, *above, f"{last}.json")

    def _write(self, file: Path, data: bytes, modified: int | None = None) -> Path:
        fresh = file.with_name(f".{secrets.token_hex(8)}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(data)
            if modified is not None:
                os.utime(fresh, ns=(modified, modified))
            fresh.replace(file)
        except OSError as error:
            raise CacheError(
                f"Can't keep metadata in {str(file)!r}: {error.strerror or error}. Make room or mend the "
                "permissions, or choose another `cache_dir`."
            ) from error
        finally:
            with contextlib.suppress(OSError):  # the folder is none, which the error says
                fresh.unlink()
        return file

    def _read(self, kind: type[E], names: list[str]) -> E | None:
        return self._load(kind, str(self._file(_FOLDERS[kind], names)))

    def _all(self, kind: type[E], below: str | None = None) -> Iterator[E]:
        folder = self._root / _FOLDERS[kind] / (below or "")
        deep = kind is ModelVersion and below is None
        for path in sorted(_json_files(str(folder), deep=deep)):
            entity = self._load(kind, path)
            if entity is not None:
                yield entity

    def _load(self, kind: type[E], path: str) -> E | None:
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - thousands of them in a search
                data = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(f"Can't read cached metadata in {path!r}: {error.strerror}.") from error
        if not data:
            return None  # what a power cut may leave of a file that was just written
        try:
            return self._serializer.loads(kind, data)
        except ValueError as error:
            raise CacheError(
                f"The cached metadata in {path!r} is unreadable: {error}. Remove the file and fetch it again."
            ) from error


def _json_files(folder: str, *, deep: bool) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if deep and entry.is_dir():
            yield from _json_files(entry.path, deep=False)
        elif entry.name.endswith(".json"):
            yield entry.path


def _remembering(fetch: Callable[[str], E | None]) -> Callable[[str], E | None]:
    known: dict[str, E | None] = {}

    def get(name: str) -> E | None:
        if name not in known:
            known[name] = fetch(name)
        return known[name]

    return get
