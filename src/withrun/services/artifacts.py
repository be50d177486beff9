"""ArtifactService: what an API does with artifacts of runs and of model versions.

Each verb takes a `Location` (`of_run`, `of_version`), so that there is one of each for both. Artifacts of a
local repo are used where they lie, unless `cache_local_artifacts`; all others go through the cache.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from withrun.cache.artifacts import ArtifactCache
from withrun.cache.manifest import protect
from withrun.errors import (
    ArtifactNotCached,
    ArtifactNotFound,
    BucketNotFound,
    CacheError,
    InvalidArgument,
    OfflineError,
)
from withrun.schema import Run
from withrun.services.choices import choose
from withrun.services.claims import claimed
from withrun.services.dumps import clean_dumps, dumped
from withrun.services.local_files import replicate
from withrun.services.location import Location, of_run, of_run_id, of_version
from withrun.services.placing import place
from withrun.services.publishing import Publisher, pull
from withrun.services.source import path_of, target_path
from withrun.transfer.urls import local_path

if TYPE_CHECKING:
    import httpx

    from withrun.contract.types import Source
    from withrun.services.waiting_artifacts import Spool
    from withrun.transfer.file_transfer import FileTransfer
    from withrun.transfer.objmeta import ObjMeta

__all__ = ["ArtifactService", "Location", "of_run", "of_run_id", "of_version"]

T = TypeVar("T")


class ArtifactService:
    """Publishes, pulls, places and lists artifacts, by the rules of one API's configuration.

    Args:
        transfer: moves and lists files.
        cache: the API's artifact cache; None if it has none.
        http: gives the tracking server's HTTP client, or None for a store without one. Called when an
            artifact is to be moved or listed, never for one that is in the cache.
        temp_artifacts_dir: where dumpers write.
        offline_mode: nothing is published, and nothing pulled but from local repos.
        pull_artifacts_in_offline_mode: offline, artifacts are pulled all the same.
        cache_local_artifacts: local repos are cached as remote ones are.
        always_pull_artifacts: what is cached is pulled again whenever it is asked for.
        spool: gives where what a run that the server does not know yet publishes is to wait; None for other
            runs.
        check_kept: refuses to publish files to paths of a run where a model version lies.
        journal_dir: holds those; what lies there goes once it is delivered.
        reads_local_repos: what is not in the cache is read from local repos, offline too. Not so for an
            export: a path that was a run's on another machine is anybody's here.
    """

    def __init__(
        self,
        *,
        transfer: FileTransfer,
        cache: ArtifactCache | None,
        http: Callable[[], httpx.Client | None],
        temp_artifacts_dir: Path,
        offline_mode: bool = False,
        pull_artifacts_in_offline_mode: bool = False,
        cache_local_artifacts: bool = False,
        always_pull_artifacts: bool = False,
        spool: Callable[[str], Spool | None] = lambda _: None,
        check_kept: Callable[[Run, Collection[str]], None] = lambda _, __: None,
        journal_dir: Path | None = None,
        reads_local_repos: bool = True,
    ) -> None:
        self._spool = spool
        self._check_kept = check_kept
        self._journals = journal_dir
        self._transfer = transfer
        self._cache = cache
        self._http = http
        self._temp = temp_artifacts_dir
        self._offline = offline_mode
        self._may_pull = pull_artifacts_in_offline_mode or not offline_mode
        self._cache_local = cache_local_artifacts
        self._reads_local = reads_local_repos or self._may_pull
        self._always_pull = always_pull_artifacts and self._may_pull

    # --- publishing ---

    def log(
        self,
        run: Run,
        source: Source,
        path_in_run: str | None = None,
        *,
        keep_the_source: bool | None = None,
        allow_duplication: bool | None = None,
        use_cache: bool | None = None,
        before: Callable[[Collection[str]], None] | None = None,
        register: Callable[[], str | None] | None = None,
        at_root: bool = False,
    ) -> Location:
        """Publish a file or folder to a run; adds and replaces file by file, deletes nothing.

        All that can be judged without the store (options, paths, the source) is judged before anything
        happens. Then `before` is asked, see `Publisher.publish`; by default, whether a model version would be
        changed. What is published can be registered by `register`, which is done before anything becomes of
        the source: if it fails, that is kept. It returns as what, in words for errors. With `at_root`, what a
        folder holds goes to the run's root.

        A copy that can't be cached is an error if it was asked for; else a warning says why, and the artifact
        is pulled when it is first asked for.

        Returns:
            where it lies now.

        Raises:
            InvalidArgument: the options contradict one another.
            IllegalPath: `path_in_run` is absolute, climbs, or is empty for a dumper.
            ArtifactNotFound: there is no source.
            CacheError: the source is in the cache; or it was published, and could not be cached though
                `use_cache` is True, or not be removed.
            FailedToPublishArtifact: names the source, or what the dumper wrote, which is kept.
            AlreadyExists: a model version lies there, which is never changed.
            OfflineError: the API is offline.
        """
        path = path_of(source)
        where = of_run(run, "" if at_root else target_path(path, path_in_run))
        spool = self._spool(run.id)
        if spool is not None:
            where = of_run_id(run.id, str(spool.folder), where.path)
            register = register or partial(spool.add, where.path)
        elif self._offline:
            raise OfflineError(
                f"Can't publish {where}: this API is offline, and the run was started on the server. Use an "
                "API that is not, or a run that is started offline."
            )
        choices = choose(
            dumper=path is None,
            local=where.is_local,
            waits=spool is not None,
            cache_exists=self._cache is not None,
            cache_local=self._cache_local,
            keep_the_source=keep_the_source,
            allow_duplication=allow_duplication,
            use_cache=use_cache,
        )
        publisher = Publisher(self._transfer, self._cache, self._client(where), where, choices)
        before = before or partial(self._check_kept, run)
        if callable(source):
            with dumped(source, where.key.name, self._temp) as written:
                publisher.publish(written, register, before)
        elif path is not None:
            publisher.publish(path, register, before)
        return where

    def claimed(self, where: Location) -> contextlib.AbstractContextManager[None]:
        """Keep others from publishing a model version there, within the block; waits for who is at it."""
        return claimed(where.key, None if self._cache is None else self._cache.root / "locks")

    # --- reading ---

    def get(self, where: Location) -> Path:
        """Return a local path of an artifact, pulled if it is not cached.

        Raises:
            ArtifactNotFound: nothing is there.
            ArtifactNotCached: offline, and the cache does not hold it.
        """
        # A cached copy first: this is the quick way, and it must stay so.
        if (
            self._cache is not None
            and not self._always_pull
            and (self._cache_local or not self._is_direct(where))
        ):
            found = self._cache.find(where.key)
            if found is not None:
                return found
        return self._get_slowly(where)

    def cache(self, where: Location) -> Path:
        """Pull an artifact into the cache, even if it is there; one in a local repo stays where it is."""
        if self._is_direct(where):
            return self._in_repo(where)
        if not self._may_pull and self._cache is not None and self._cache.find(where.key) is not None:
            raise OfflineError(
                f"Can't pull {where} anew: this API is offline. `get`, `load`, `place` and `export` serve "
                "the copy that is cached; set `pull_artifacts_in_offline_mode` to pull another."
            )
        self._check_may_pull(where)
        return self._pull(where, since=time.time_ns())

    def load(self, where: Location, loader: Callable[[Path], T]) -> T:
        """Return what `loader` makes of a local path of an artifact, which stays for as long as it reads."""
        with self._held(where) as path:
            return loader(path)

    def place(
        self, where: Location, target: Path | str, *, overwrite: bool = False, link: bool = True
    ) -> Path:
        """Put an artifact at `target`, as a link or as a write-protected copy.

        What waits to be published is copied: it does not stay where it is.

        Raises:
            TargetExists: something is at `target`, and `overwrite` is False.
        """
        goal = Path(target)
        with self._held(where) as path:
            in_cache = self._cache is not None and self._cache.holds(path)
            # All of the run's folder: what is placed in it would be one of its artifacts.
            home = local_path(where.root) if where.is_local else None
            clear = [home or path, *self._own_folders()]
            if link and not (self._journals and path.is_relative_to(self._journals)):
                aim = self._cache.lasting(path, goal) if self._cache is not None and in_cache else path
                place(goal, lambda at: at.symlink_to(aim.absolute()), overwrite=overwrite, keep_clear=clear)
            else:
                place(goal, lambda at: _copy_protected(path, at), overwrite=overwrite, keep_clear=clear)
        return goal

    def export(self, where: Location, target: Path | str) -> Path:
        """Copy an artifact into the folder `target`, laid out as a cache; returns its path there."""
        goal = Path(target)
        if self._cache is not None and goal.resolve() == self._cache.root.resolve():
            raise InvalidArgument(
                f"Can't export to {str(goal)!r}: it is the cache itself. Give another folder."
            )
        since = time.time_ns()
        with self._held(where) as path:
            return ArtifactCache(goal, portable=True).fill(
                where.key, lambda part: replicate(path, part), since=since
            )

    def list(self, where: Location) -> list[ObjMeta] | ObjMeta:
        """List what a folder holds; of a file, its own ObjMeta. Offline, of what `get` would give.

        Raises:
            ArtifactNotFound: nothing is there.
            BucketNotFound: nothing can be there.
            ArtifactNotCached: offline, and the cache does not hold it.
        """
        if self._offline and (not self._may_pull or (not self._always_pull and self.is_cached(where))):
            return self._transfer.ls(str(self.get(where)))
        try:
            return self._transfer.ls(where.url, http=self._client(where))
        except BucketNotFound:
            raise
        except ArtifactNotFound as error:
            if not where.path:
                return []  # nothing was published yet: stores make a run's folder with its first artifact
            raise ArtifactNotFound(f"There is no {where}: {error}") from error

    def is_cached(self, where: Location) -> bool:
        """Tell whether the cache would serve it."""
        return self._cache is not None and self._cache.find(where.key) is not None

    def exists(self, where: Location) -> bool:
        """Tell whether anything lies there in the repo."""
        try:
            return self._transfer.ls(where.url, http=self._client(where)) != []
        except ArtifactNotFound:
            return False

    def size(self, where: Location) -> int | None:
        """The bytes of a file in the repo; None if no file lies there."""
        try:
            found = self._transfer.ls(where.url, http=self._client(where))
        except ArtifactNotFound:
            return None
        return None if isinstance(found, list) else found.Size

    # --- cleaning ---

    def clean(self, where: Location) -> None:
        """Remove an artifact from the cache: its copy, and those of what holds it or lies in it."""
        if self._cache is not None:
            self._cache.clean(where.key)

    def clean_all(self) -> None:
        """Remove all artifacts from the cache."""
        if self._cache is not None:
            self._cache.clean_all()

    def clean_temp(self) -> None:
        """Remove what dumpers wrote and was not published, unless it is being written just now."""
        clean_dumps(self._temp)

    # --- within ---

    def _own_folders(self) -> Iterator[Path]:
        """The folders that are withrun's own: the journal's, and those in the cache folder."""
        if self._journals is not None:
            yield self._journals
        if self._cache is not None:
            yield from self._cache.homes
            if self._temp.absolute().is_relative_to(self._cache.root):  # elsewhere the user chose it
                yield self._temp

    def _is_direct(self, where: Location) -> bool:
        """Whether an artifact is used where it lies."""
        return not self._cache_local and self._reads_local and where.is_local

    def _in_repo(self, where: Location) -> Path:
        path = where.local()
        if path is None or not path.exists():
            root = local_path(where.root)
            if self._offline and root is not None and not root.exists():
                raise ArtifactNotCached(
                    f"{where} is not in the cache, and its run has its artifacts in {str(root)!r}, a folder "
                    "that is not on this machine. Cache or export it where that is."
                )
            raise ArtifactNotFound(
                f"There is no {where}: nothing is at {str(path)!r}. `list_run_artifacts` tells what is."
            )
        return path

    def _get_slowly(self, where: Location) -> Path:
        if self._offline and self._cache is not None and not self._always_pull:
            # An export serves what it holds though its runs' repos were local ones, on another machine.
            found = self._cache.find(where.key)
            if found is not None:
                return found
        if self._is_direct(where):
            return self._in_repo(where)
        self._check_may_pull(where)
        return self._pull(where, since=time.time_ns() if self._always_pull else 0)

    def _check_may_pull(self, where: Location) -> None:
        if self._may_pull:
            return
        if self._cache is not None and self._cache.covers(where.key):
            raise ArtifactNotFound(f"There is no {where} in what is cached of the folder that would hold it.")
        raise ArtifactNotCached(
            f"{where} is not in the cache, and this API is offline. Cache it while online, or set "
            "`pull_artifacts_in_offline_mode`."
        )

    def _pull(self, where: Location, *, since: int, hold: contextlib.ExitStack | None = None) -> Path:
        if self._cache is None:
            raise CacheError(
                f"Can't pull {where}: this API has no cache to pull it to. Give it a `cache_dir`."
            )
        return pull(self._transfer, self._cache, self._client(where), where, since=since, hold=hold)

    @contextlib.contextmanager
    def _held(self, where: Location) -> Iterator[Path]:
        """Give the path of an artifact, pulled if need be, that nothing removes within the block."""
        path = self.get(where)
        if self._cache is None or not self._cache.holds(path):
            yield path
            return
        with contextlib.ExitStack() as stack:
            held = stack.enter_context(self._cache.reading(where.key))
            if held is None:  # a trimming, or somebody who publishes there, removed it this very moment
                self._check_may_pull(where)
                held = self._pull(where, since=0, hold=stack)
            yield held

    def _client(self, where: Location) -> httpx.Client | None:
        return None if where.is_local else self._http()


def _copy_protected(source: Path, target: Path) -> None:
    replicate(source, target)
    protect(target)
