"""Location: where an artifact lies, as its repo and the cache each name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from withrun.cache.layout import Key, owner_of_run, owner_of_source
from withrun.errors import ArtifactNotFound, IllegalPath, InvalidArgument
from withrun.schema import ModelVersion, Run
from withrun.transfer.paths import check_name, check_relative, inside
from withrun.transfer.urls import join_url, local_path, scheme_of

__all__ = ["Location", "of_run", "of_run_id", "of_version"]


@dataclass(frozen=True)
class Location:
    """An artifact of a run, or of a model version.

    Attributes:
        key: what the cache calls it.
        root: URL of the folder that its path is relative to.
        owner: names the run or version in errors.
    """

    key: Key
    root: str
    owner: str

    @property
    def path(self) -> str:
        """The path below `root`; empty for all of it."""
        return self.key.path

    @property
    def url(self) -> str:
        """Where it lies.

        Raises:
            InvalidArgument: it lies nowhere yet.
            IllegalPath: its root is on this machine, and a symlink on its way leads out of that.
        """
        if not self.root:
            raise InvalidArgument(
                f"{self.owner} has no artifact folder on a store: it was not published yet, or its metadata "
                "is incomplete. Sync it (`withrun sync`) or fetch its metadata again."
            )
        if not self.path:
            return self.root
        self.local()  # raises if a symlink on the way leads out: the transfer knows the URL, not the root
        return join_url(self.root, self.path)

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's file system, or one mounted there."""
        return bool(self.root) and local_path(self.root) is not None

    def local(self) -> Path | None:
        """Return where it lies on this machine, proved not to lead out of its folder; None if it does not.

        Nothing may be there.
        """
        root = local_path(self.root) if self.root else None
        if root is None or not self.path:
            return root
        return inside(root, self.path)

    def below(self, suffix: str) -> Location:
        """Return the location of something inside this artifact."""
        if suffix in ("", "."):
            return self
        checked = check_relative(suffix, what="path_suffix")
        path = f"{self.path}/{checked}" if self.path else checked
        return Location(Key(self.key.owner, path), self.root, self.owner)

    def __str__(self) -> str:
        return f"{self.path!r} of {self.owner}" if self.path else f"artifact folder of {self.owner}"


def of_run(run: Run, path_in_run: str = "") -> Location:
    """Return the location of an artifact of a run; of all of them if the path is empty.

    Raises:
        IllegalPath: the path is absolute or climbs.
    """
    return of_run_id(run.id, run.repo_url, path_in_run)


def of_run_id(run_id: str, repo_url: str, path_in_run: str = "") -> Location:
    """Return the location of an artifact of a run by its ID; an empty `repo_url` is not known."""
    path = check_relative(path_in_run, what="path_in_run") if path_in_run not in ("", ".") else ""
    return Location(Key(owner_of_run(run_id), path), repo_url, f"run {run_id}")


def of_version(version: ModelVersion) -> Location:
    """Return the location of a model version's artifact: in its run, or at its source outside of it.

    Raises:
        ArtifactNotFound: the version says neither, or names what is no longer there.
    """
    owner = f"version {version.version} of model {version.model.name!r}"
    if version.source:
        _check_source(version.source, owner)
        # Split, so that a single file keeps its name in the cache.
        root, _, name = version.source.rstrip("/").rpartition("/")
        try:
            if not root.endswith(":/") and local_path(version.source) is None:
                return Location(Key(owner_of_source(root), check_name(name)), root, owner)
        except IllegalPath:
            pass  # the last segment can't be a name here; the whole URL is the folder then
        return Location(Key(owner_of_source(version.source), ""), version.source, owner)
    if version.run is None or not version.path_in_run:
        raise ArtifactNotFound(
            f"{owner} does not say where its artifact lies: it has no source and no run. Another tool "
            "registered it that way; log the model again."
        )
    found = of_run(version.run, version.path_in_run)
    return Location(found.key, found.root, owner)


def _check_source(source: str, owner: str) -> None:
    """Refuse a source that leads nowhere."""
    scheme = scheme_of(source) or source.partition(":")[0]
    if scheme in ("runs", "models"):
        raise ArtifactNotFound(
            f"The artifact of {owner} is lost: its source {source!r} names a {scheme.removesuffix('s')} that "
            "is no longer in the store. Restore that, or log the model again."
        )
    if not scheme_of(source) and not source.startswith("/"):
        # It would be taken from whatever folder this process happens to be in.
        raise ArtifactNotFound(
            f"The artifact of {owner} can't be found: its source {source!r} is a relative path, and nothing "
            "says what it is relative to. Log the model again."
        )
