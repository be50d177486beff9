"""FileTransfer: up- and downloads and listings, each by the route that fits the URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from withrun.transfer import cloud, local
from withrun.transfer.custom_tool import CustomTool
from withrun.transfer.objmeta import ObjMeta
from withrun.transfer.progress import Bar, shown_somewhere
from withrun.transfer.urls import is_proxied, local_path, scheme_of, with_scheme

if TYPE_CHECKING:
    import httpx

__all__ = ["FileTransfer"]

_BUILT_IN = "rclone_python.rclone"

# What rclone allows as the name of a remote, less the blank; every URL scheme is one.
_REMOTE = re.compile(r"[A-Za-z0-9_][\w.+@-]*")


class FileTransfer(BaseModel):
    """Moves files and folders between this machine and where artifacts are kept.

    Local paths are copied, `mlflow-artifacts:` goes over HTTP to the MLflow server, every other URL
    through rclone. To replace it, subclass and override `push`, `pull` and `ls`.

    Attributes:
        prog_bar: show progress bars on transfers that take longer than a second.
        tool: what moves files to and from clouds: the dotted path of a module, class or object, or the
            object itself, with `ls`, `copyto` and `sync` of rclone-python's signatures. One of your own
            is given plain paths and URLs.
        extra_args: further arguments by function, given to it as its `args`.
        use_scheme: replaces the scheme of every remote URL, so that `s3://b/x` is reached through the rclone
            remote of that name. `mlflow-artifacts:` URLs, which name no storage, are left as they are.
        map_scheme: the same by regular expression: the first that matches the beginning of the URL gives
            the scheme.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    prog_bar: bool = True
    tool: Any = _BUILT_IN
    extra_args: dict[str, list[str]] = Field(default_factory=lambda: {"sync": ["--copy-links"]})
    use_scheme: Union[str, None] = None  # noqa: UP007 - pydantic evaluates it on Python 3.10
    map_scheme: Union[dict[Union[str, re.Pattern[str]], str], None] = None  # noqa: UP007

    @field_validator("use_scheme")
    @classmethod
    def _check_use_scheme(cls, value: str | None) -> str | None:
        return value if value is None else _checked_scheme(value)

    @field_validator("map_scheme")
    @classmethod
    def _check_map_scheme(cls, value: dict[Any, str] | None) -> dict[Any, str] | None:
        for pattern, scheme in (value or {}).items():
            _checked_scheme(scheme)
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"map_scheme: {pattern!r} is no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _one_mapping(self) -> Self:
        if self.use_scheme is not None and self.map_scheme is not None:
            raise ValueError("use_scheme and map_scheme exclude one another; give one of them")
        return self

    def push(self, source: Path, url: str, *, http: httpx.Client | None = None) -> None:
        """Publish a file or folder at exactly that URL.

        Files are added and replaced one by one; nothing that lies there is deleted. The source's symlinks
        are followed.

        Args:
            source: the file or folder.
            url: where it is to lie: a path, or an artifact URL.
            http: the tracking server's client, credentials included; needed for `mlflow-artifacts:` URLs.

        Raises:
            ArtifactNotFound: there is no source.
            InvalidArgument: nothing was sent: the storage can't keep it, or not under that name.
            TransferError: it failed; what went through stays, and pushing again completes it.
        """
        source, url = Path(source), self.mapped(url)
        path = local_path(url)
        with Bar(f"Uploading {source.name}", enabled=self.prog_bar) as bar:
            if path is not None:
                local.push(source, path, bar)
            elif is_proxied(url):
                from withrun.transfer import proxied  # with httpx: only where it is needed

                with proxied.open_route(url, http) as (client, remote):
                    proxied.push(source, client, remote, bar)
            else:
                cloud.push(self._cloud_tool(), source, url, bar)

    def pull(self, url: str, target: Path, *, http: httpx.Client | None = None) -> None:
        """Bring the file or folder at that URL to the path `target`.

        What arrives is checked by size; by hash too where rclone brings a file of less than 64 MiB from a
        store that has one. `target` is meant not to exist or to be what an interrupted pull of the same URL
        left there, which is then gone on with: what else lies there is removed. Until this returns, it may
        be incomplete.

        Args:
            url: what to bring: a path, or an artifact URL.
            target: where it is to lie.
            http: as for `push`.

        Raises:
            ArtifactNotFound: nothing is at that URL.
            IllegalPath: the store lists a name that would lie outside `target`, or the folder at a local URL
                holds a symlink that leads out of it.
            TransferError: it failed; pulling again to the same target goes on.
        """
        target, url = Path(target), self.mapped(url)
        path = local_path(url)
        with Bar(f"Downloading {target.name}", enabled=self.prog_bar) as bar:
            if path is not None:
                local.pull(path, target, bar)
            elif is_proxied(url):
                from withrun.transfer import proxied  # with httpx: only where it is needed

                with proxied.open_route(url, http) as (client, remote):
                    proxied.pull(client, remote, target, bar)
            else:
                cloud.pull(self._cloud_tool(), url, target, bar)

    def ls(
        self, url: str, *, recursive: bool = False, http: httpx.Client | None = None
    ) -> list[ObjMeta] | ObjMeta:
        """List the folder at that URL, sorted by path; for a file, return its own ObjMeta instead of a list.

        Raises:
            ArtifactNotFound: nothing is at that URL. (Object stores and MLflow's servers have no empty
                folders: a run that has no artifacts yet is not found.)
            BucketNotFound: nor is its bucket there, in which that may change.
            TransferError: the listing failed.
        """
        url = self.mapped(url)
        path = local_path(url)
        if path is not None:
            return local.ls(path, recursive=recursive)
        if is_proxied(url):
            from withrun.transfer import proxied

            with proxied.open_route(url, http) as (client, remote):
                return proxied.ls(client, remote, recursive=recursive)
        return cloud.ls(self._cloud_tool(), url, recursive=recursive)

    def mapped(self, url: str) -> str:
        """Return the URL with its scheme replaced as `use_scheme` or `map_scheme` say."""
        scheme = scheme_of(url)
        if scheme in ("", "file"):
            return url
        if self.use_scheme is not None and scheme != "mlflow-artifacts":
            return with_scheme(url, self.use_scheme)
        for pattern, replacement in (self.map_scheme or {}).items():
            if re.match(pattern, url):
                return with_scheme(url, replacement)
        return url

    def _cloud_tool(self) -> cloud.CloudTool:
        if _is_built_in(self.tool):
            from withrun.transfer.rclone import Rclone

            return Rclone(self.extra_args)
        return CustomTool(self.tool, self.extra_args, show_progress=self.prog_bar and shown_somewhere())


def _is_built_in(tool: Any) -> bool:
    return (tool if isinstance(tool, str) else getattr(tool, "__name__", "")) == _BUILT_IN


def _checked_scheme(scheme: str) -> str:
    if not _REMOTE.fullmatch(scheme):
        raise ValueError(
            f"{scheme!r} is no URL scheme or remote name; give it without ':' and '/', such as 's3'"
        )
    return scheme
