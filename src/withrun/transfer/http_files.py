"""Listing, reading and writing single files over MLflow's artifact API.

A download goes on where it stopped if the server can tell that
the file is still the same one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec

from withrun.errors import ArtifactNotFound, IllegalPath, ServerUnreachable, TransferError, WithrunError
from withrun.transfer.body import read_body
from withrun.transfer.content import FileContent
from withrun.transfer.objmeta import guess_mime_type
from withrun.transfer.partial import Partial
from withrun.transfer.paths import check_name
from withrun.transfer.requests import Again, request_json, retrying, send
from withrun.transfer.workers import Check

__all__ = ["ARTIFACTS", "Listed", "download", "list_folder", "upload"]

ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"
"""The route of MLflow's artifact service, below the server's base URL."""

CHUNK = 1 << 20
"""Bytes read or written at a time; what a transfer holds in memory, per thread."""


class _Entry(msgspec.Struct):
    path: str
    is_dir: bool = False
    file_size: int | None = None


class _Listing(msgspec.Struct):
    files: list[_Entry] = []


class Listed(msgspec.Struct, frozen=True):
    """One checked entry of a folder; `size` is -1 for folders and where the server does not tell."""

    name: str
    is_dir: bool
    size: int


def list_folder(http: httpx.Client, path: str, check: Check = lambda: None) -> list[Listed]:
    """List one folder; empty for a file and for what is not there, as the API has it.

    Raises:
        IllegalPath: a name in the answer climbs, is absolute or empty, or has separators.
    """
    answer = request_json(
        http,
        "GET",
        ARTIFACTS,
        params={"path": path} if path else None,
        what=f"list {path!r}",
        check=check,
    )
    try:
        listing = msgspec.json.decode(answer, type=_Listing, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise TransferError(
            f"The server's listing of {path!r} is not what MLflow's artifact API answers: {error}. "
            "Is the tracking URI that of an MLflow server?"
        ) from error
    found = [_checked(entry, path) for entry in listing.files]
    if len({entry.name for entry in found}) != len(found):
        raise TransferError(f"The server's listing of {path!r} names a file twice; nothing was pulled.")
    return found


def _checked(entry: _Entry, folder: str) -> Listed:
    name = check_name(entry.path, what=f"the server's listing of {folder!r} holds the name")
    if "/" in name or "\\" in name:
        raise IllegalPath(
            f"The server's listing of {folder!r} holds {name!r}, which is a path and not a name."
        )
    size = entry.file_size if entry.file_size is not None and not entry.is_dir else -1
    return Listed(name, entry.is_dir, size)


def upload(
    http: httpx.Client, file: Path, size: int, path: str, check: Check, advance: Callable[[int], None]
) -> None:
    """Write a local file to `path` with one streamed PUT."""
    headers = {"Content-Type": guess_mime_type(file.name), "Content-Length": str(size)}
    # A server that keeps artifacts in a cloud answers when it has passed the file on: give it 10 MB/s.
    timeout = _patient(http, read=120 + size / 10e6)
    looked = False

    def attempt() -> None:
        nonlocal looked
        content = FileContent(file, 0, size, check, advance)
        request = http.build_request(
            "PUT",
            _file_url(path),
            content=content,
            headers=headers,
            timeout=timeout,
            extensions={"check": check},
        )
        try:
            with content:
                send(http, request, f"upload {str(file)!r} to {path!r}")
        except Again as again:
            if again.status == 500 and not looked:
                looked = True
                _check_place(http, path, again, check)
            raise

    retrying(attempt, check)


def _check_place(http: httpx.Client, path: str, again: Again, check: Check) -> None:
    """Raise if a folder lies at `path`, or a file above it.

    A server that keeps its files on a disk says no more than 500 then, at each attempt.
    """
    place = path
    while place:
        above, _, name = place.rpartition("/")
        try:
            entry = next((entry for entry in list_folder(http, above, check) if entry.name == name), None)
        except WithrunError:
            return  # what can't be listed explains nothing; the upload's own failure is the one to tell
        if entry is not None:
            if entry.is_dir == (place == path):
                kind = "folder" if entry.is_dir else "file"
                raise TransferError(
                    f"Can't put a file at {path!r} on {http.base_url.host}: a {kind} lies at {place!r}. "
                    "Choose another path."
                ) from again.error
            return
        place = above


def download(
    http: httpx.Client, path: str, target: Path, size: int, check: Check, advance: Callable[[int], None]
) -> None:
    """Read the file at `path` into `target`, going on from what an earlier download left there.

    Args:
        http: the server's client.
        path: the file, below the artifact root.
        target: its folder exists.
        size: the size that the listing told; -1 if it did not.
        check: see `withrun.transfer.workers.for_each`.
        advance: called with the number of bytes that have arrived.

    Raises:
        TransferError: what arrived has not the size that the listing or the answer told.
    """
    counted = 0

    def count(number: int) -> None:
        nonlocal counted
        counted += number
        advance(number)

    def attempt() -> None:
        count(-counted)
        with Partial(target) as partial:
            if partial.size == size == 0:
                partial.finish(0, None)
                return
            request = http.build_request(
                "GET",
                _file_url(path),
                headers=partial.range_headers(size),
                timeout=_patient(http, read=120),
                extensions={"check": check},
            )
            answer = send(http, request, f"download {path!r}", stream=True, ok=(200, 206, 416))
            with contextlib.closing(answer):
                if answer.status_code == 416:
                    partial.discard()
                    raise Again(TransferError(f"The server has no such range of {path!r}."))
                # What was compressed on the way can't be gone on with, nor its length be told beforehand.
                encoded = answer.headers.get("content-encoding", "identity") != "identity"
                validator = "" if encoded else answer.headers.get("etag", "")
                modified = _modified(answer.headers.get("last-modified", ""))
                whole = size if size >= 0 or encoded else _length(answer)
                if answer.status_code == 206 and partial.is_complete(whole, modified):
                    count(partial.size)
                    return
                start = partial.start(answer.status_code, answer.headers.get("content-range", ""), validator)
                if start is None:
                    raise Again(
                        TransferError(f"The server sent another range of {path!r} than was asked for.")
                    )
                count(start)
                for chunk in _chunks(answer, check):
                    partial.write(chunk)
                    count(len(chunk))
            if whole >= 0 and partial.size != whole:
                found = partial.size
                partial.discard()
                raise Again(
                    TransferError(f"{found:,} bytes of {path!r} arrived, where {whole:,} were announced.")
                )
            partial.finish(partial.size, modified)

    try:
        retrying(attempt, check)
    except OSError as error:
        if isinstance(error, (ServerUnreachable, ArtifactNotFound)):
            raise
        raise TransferError(
            f"Can't write {str(target)!r}: {error.strerror}. Make room or mend the permissions, and repeat; "
            "what has arrived is kept."
        ) from error


def _chunks(answer: httpx.Response, check: Check) -> Iterator[bytes | memoryview]:
    text = answer.headers.get("content-length", "")
    try:
        # Decoded, should a server compress what it was asked not to: the listing tells the decoded size.
        yield from read_body(answer, int(text) if text.isascii() and text.isdigit() else -1, check)
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise Again(TransferError(f"The download of {answer.url.path!r} broke off: {error}.")) from error


def _file_url(path: str) -> str:
    return f"{ARTIFACTS}/{quote(path, safe='/')}"


def _patient(http: httpx.Client, *, read: float) -> httpx.Timeout:
    own = http.timeout
    return httpx.Timeout(
        connect=own.connect, pool=None, read=max(read, own.read or 0), write=max(60, own.write or 0)
    )


def _modified(text: str) -> float | None:
    with contextlib.suppress(ValueError, TypeError):
        return parsedate_to_datetime(text).timestamp()
    return None


def _length(answer: httpx.Response) -> int:
    text = answer.headers.get("content-range", "").rpartition("/")[2] or answer.headers.get(
        "content-length", ""
    )
    return int(text) if text.isascii() and text.isdigit() else -1
