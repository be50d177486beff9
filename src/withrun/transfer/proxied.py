"""The proxied route: artifacts that an MLflow server keeps and serves itself (`mlflow-artifacts:` URLs).

Files go in parallel, each streamed, so that memory does not grow with them. What the server lists is hostile
until checked: nothing is written outside the target, and our credentials go to that one server only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import httpx

from withrun.errors import ArtifactNotFound, InvalidArgument, TransferError
from withrun.transfer import multipart
from withrun.transfer.http_files import ARTIFACTS, Listed, download, list_folder, upload
from withrun.transfer.leftovers import clear_file, clear_folder, make_folder
from withrun.transfer.objmeta import ObjMeta
from withrun.transfer.paths import check_name
from withrun.transfer.progress import Bar
from withrun.transfer.requests import client_for_others
from withrun.transfer.server_names import check_asked, check_kept, check_listed
from withrun.transfer.tree import Tree, TreeFile, check_has_files, scan
from withrun.transfer.urls import redact, split_url
from withrun.transfer.workers import Check, for_each

__all__ = ["ls", "open_route", "pull", "push"]

_MAX_DEPTH = 64
"""Folders within folders that a listing may have: a hostile server can nest them without end."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


@contextlib.contextmanager
def open_route(url: str, http: httpx.Client | None) -> Iterator[tuple[httpx.Client, str]]:
    """Resolve an artifact URL to the client that may be asked and the path to ask it for.

    The client is `http` if the URL names its server or none; another one, also under another path of the
    same host, is asked without credentials.

    Raises:
        InvalidArgument: the URL names no server, and there is no `http`.
        IllegalPath: the URL's path climbs.
    """
    own_scheme, netloc, whole = split_url(url)
    base, path = _split(whole)
    elsewhere = base is not None and http is not None and base != http.base_url.path.rstrip("/")
    if path:
        check_name(path, what=f"the path of the artifact URL {redact(url)!r}")
    if not netloc or (http is not None and not elsewhere and _same_server(own_scheme, netloc, http.base_url)):
        if http is None:
            raise InvalidArgument(
                f"The artifacts at {redact(url)!r} are kept by an MLflow server, and this store was opened "
                "without one. Set `tracking_uri` to that server's URL (http://host:port)."
            )
        yield http, path
        return
    scheme = own_scheme if own_scheme in _DEFAULT_PORTS else (http.base_url.scheme if http else "http")
    host = netloc.rpartition("@")[2]
    timeout = http.timeout if http is not None else httpx.Timeout(30)
    with client_for_others(http, base_url=f"{scheme}://{host}{base or ''}", timeout=timeout) as anonymous:
        yield anonymous, path


def push(source: Path, http: httpx.Client, path: str, bar: Bar) -> None:
    """Publish the file or folder `source` at exactly `path`, file by file; nothing else there is touched."""
    tree, places = _examined(source, path)
    bar.total(tree.size)

    def send(file: TreeFile, check: Check) -> None:
        place = places[file]
        if file.size < multipart.THRESHOLD or not multipart.upload(
            http, file.path, file.size, place, check, bar.advance
        ):
            upload(http, file.path, file.size, place, check, bar.advance)

    # The largest first: a long one that starts last is what all would wait for.
    for_each(send, sorted(tree.files, key=lambda file: -file.size))


def pull(http: httpx.Client, path: str, target: Path, bar: Bar) -> None:
    """Bring the file or folder at `path` to `target`, going on from what an earlier pull left there."""
    found = _find(http, path)
    if isinstance(found, Listed):
        wanted = [(path, target, found.size)]
        clear_file(target)
        make_folder(target.parent)
    else:
        below = list(_walk(http, path, found))
        folders = [relative for relative, entry in below if entry.is_dir]
        files = [(relative, entry) for relative, entry in below if not entry.is_dir]
        for relative, _ in files:
            check_listed(relative)
        clear_folder(target, (relative for relative, _ in files), folders)
        # No folder is a symlink now, and parents come first.
        for relative in folders:
            make_folder(target / relative)
        wanted = [(_joined(path, relative), target / relative, entry.size) for relative, entry in files]
    bar.total(sum(max(size, 0) for _, _, size in wanted))

    def fetch(item: tuple[str, Path, int], check: Check) -> None:
        remote, place, size = item
        download(http, remote, place, size, check, bar.advance)

    for_each(fetch, sorted(wanted, key=lambda item: -item[2]))


def ls(http: httpx.Client, path: str, *, recursive: bool) -> list[ObjMeta] | ObjMeta:
    """List a folder; one ObjMeta for a file."""
    found = _find(http, path)
    if isinstance(found, Listed):
        return _meta(found.name, found)
    entries = _walk(http, path, found) if recursive else ((entry.name, entry) for entry in found)
    metas = [_meta(relative, entry) for relative, entry in entries]
    return sorted(metas, key=lambda meta: meta.Path)


def _meta(relative: str, entry: Listed) -> ObjMeta:
    # MLflow's answers leave a size of 0 out. A download does not rely on that, see `Listed`.
    return ObjMeta.of(relative, is_dir=entry.is_dir, size=max(entry.size, 0))


def _examined(source: Path, path: str) -> tuple[Tree, dict[TreeFile, str]]:
    """The source's tree and the place of each file, all of which the server keeps."""
    tree = scan(source)
    check_has_files(tree, source)
    if tree.is_file and not path:
        raise InvalidArgument(
            "A file can't be published as the root of a server's artifacts; give it a path there."
        )
    places = {file: _joined(path, file.relative) for file in tree.files}
    for place in places.values():
        check_kept(place)
    return tree, places


def _find(http: httpx.Client, path: str) -> list[Listed] | Listed:
    """Tell what is at `path`: a folder's entries, or a file's own entry in the folder above.

    The API lists a file as an empty folder, some versions as a folder with just itself: only the folder
    above tells them apart. That is asked first, and often alone, where the name looks like a file's.
    """
    check_asked(path)
    above, _, name = path.rpartition("/")
    looks_like_a_file = PurePosixPath(name).suffix != ""
    itself = _entry(http, above, name) if looks_like_a_file else None
    if itself is not None and not itself.is_dir:
        return itself
    found = list_folder(http, path)
    if not path or len(found) > 1 or (found and (found[0].is_dir or found[0].name != name)):
        return found
    if not looks_like_a_file:
        itself = _entry(http, above, name)
    if itself is None:
        if found:
            return found  # the folder above may not be listed, as at the top of a bucket; this one was
        raise ArtifactNotFound(f"There is no artifact at {path!r} on {http.base_url.host}.")
    return found if itself.is_dir else itself


def _entry(http: httpx.Client, folder: str, name: str) -> Listed | None:
    return next((entry for entry in list_folder(http, folder) if entry.name == name), None)


def _walk(http: httpx.Client, path: str, top: list[Listed]) -> Iterator[tuple[str, Listed]]:
    """All entries below `path` with their relative paths, level by level, a level's folders in parallel."""
    level = [(entry.name, entry) for entry in top]
    for _ in range(_MAX_DEPTH):
        yield from level
        folders = [relative for relative, entry in level if entry.is_dir]
        if not folders:
            return

        def listed(relative: str, check: Check) -> list[tuple[str, Listed]]:
            check()
            check_listed(relative)
            entries = list_folder(http, _joined(path, relative), check)
            return [(f"{relative}/{entry.name}", entry) for entry in entries]

        level = [item for found in for_each(listed, folders) for item in found]
    raise TransferError(f"The server lists more than {_MAX_DEPTH} folders within one another below {path!r}.")


def _split(path: str) -> tuple[str | None, str]:
    """Split a URL's path into the server's base path and the artifact's own, without outer slashes.

    The base is None where the URL does not say it, as MLflow's `mlflow-artifacts://host/path` does not.
    """
    base, route, rest = path.partition(f"/{ARTIFACTS}")
    if route and (not rest or rest.startswith("/")):
        return base, rest.strip("/")
    return None, path.strip("/")


def _same_server(scheme: str, netloc: str, base: httpx.URL) -> bool:
    expected = scheme if scheme in _DEFAULT_PORTS else base.scheme
    server = netloc.rpartition("@")[2]
    try:
        url = httpx.URL(f"{expected}://{server}")
    except httpx.InvalidURL as error:
        raise InvalidArgument(f"The artifact URL's server {server!r} is no host and port.") from error
    return _origin(url) == _origin(base)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme)


def _joined(path: str, relative: str) -> str:
    return "/".join(part for part in (path, relative) if part)
