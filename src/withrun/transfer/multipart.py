"""Multipart uploads: a large file's parts go straight to the storage behind the server, in parallel.

MLflow's server offers this where it keeps artifacts in a cloud: it hands out one signed URL a part, so the
bytes don't pass through it. The signed URLs belong to another host and are asked without our credentials.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec

from withrun.errors import TransferError, WithrunError
from withrun.transfer.content import FileContent
from withrun.transfer.requests import RETRYABLE, client_for_others, request_json, retrying, send
from withrun.transfer.workers import Check, for_each

__all__ = ["THRESHOLD", "upload"]

THRESHOLD = 500 << 20
"""Bytes from which a file is sent in parts; MLflow's own limit."""

PART = 100 << 20
"""Bytes a part; S3 takes 5 MiB to 5 GiB and at most 10,000 parts."""

_MAX_PARTS = 10_000

_TELLING = tuple(status for status in (*range(200, 500), 501) if status not in RETRYABLE)
"""Answers that say whether the server has a page; others may pass, or mean that it is broken."""


class _Credential(msgspec.Struct):
    url: str
    part_number: int
    headers: dict[str, str] = {}


class _Created(msgspec.Struct):
    credentials: list[_Credential]
    upload_id: str | None = None


class _ServerInfo(msgspec.Struct):
    multipart_uploads_enabled: bool = False


def upload(
    http: httpx.Client, file: Path, size: int, path: str, check: Check, advance: Callable[[int], None]
) -> bool:
    """Send the file in parts; False, and nothing done, where the server has no multipart uploads."""
    if not _offered(http, check):
        return False
    part = max(PART, -(-size // _MAX_PARTS))
    count = -(-size // part)
    folder, _, name = path.rpartition("/")
    created = _create(http, folder, name, count)
    try:
        with client_for_others(http, timeout=httpx.Timeout(60, read=300)) as storage:

            def put(item: tuple[int, _Credential], inner: Check) -> dict[str, object]:
                index, credential = item

                def both() -> None:
                    check()
                    inner()

                start = index * part
                etag = _put_part(storage, file, start, min(part, size - start), credential, both, advance)
                return {"part_number": credential.part_number, "etag": etag, "url": credential.url}

            parts = for_each(put, list(enumerate(created.credentials)))
        _post(http, "complete", folder, {"path": name, "upload_id": created.upload_id, "parts": parts})
    except BaseException:
        # The storage keeps and bills the parts of an upload that is neither completed nor aborted. The
        # failure that led here is the one to tell.
        with contextlib.suppress(WithrunError):
            _post(http, "abort", folder, {"path": name, "upload_id": created.upload_id})
        raise
    return True


def _offered(http: httpx.Client, check: Check) -> bool:
    def attempt() -> httpx.Response:
        request = http.build_request("GET", "api/3.0/mlflow/server-info")
        return send(http, request, "ask the server whether it takes uploads in parts", ok=_TELLING)

    answer = retrying(attempt, check)
    if answer.status_code != 200:
        return False  # a server of before 3.5, say: it has no such page, and takes the file in one piece
    try:
        return msgspec.json.decode(answer.content, type=_ServerInfo).multipart_uploads_enabled
    except msgspec.DecodeError:
        return False


def _create(http: httpx.Client, folder: str, name: str, count: int) -> _Created:
    answer = _post(http, "create", folder, {"path": name, "num_parts": count})
    try:
        created = msgspec.json.decode(answer, type=_Created, strict=False)
    except msgspec.DecodeError as error:
        raise TransferError(
            f"The server's answer to a multipart upload of {name!r} can't be read: {error}."
        ) from error
    created.credentials.sort(key=lambda credential: credential.part_number)
    if len(created.credentials) != count:
        raise TransferError(
            f"The server gave {len(created.credentials)} upload URLs for the {count} parts of {name!r}."
        )
    for credential in created.credentials:
        if httpx.URL(credential.url).scheme not in ("http", "https"):
            raise TransferError(f"The server gave an upload URL for {name!r} that is not http or https.")
    return created


def _post(http: httpx.Client, step: str, folder: str, body: object) -> bytes:
    url = f"api/2.0/mlflow-artifacts/mpu/{step}/{quote(folder, safe='/')}"
    return request_json(
        http, "POST", url.rstrip("/"), json=body, what=f"{step} a multipart upload in {folder!r}"
    )


def _put_part(
    storage: httpx.Client,
    file: Path,
    start: int,
    size: int,
    credential: _Credential,
    check: Check,
    advance: Callable[[int], None],
) -> str:
    def attempt() -> str:
        content = FileContent(file, start, size, check, advance)
        headers = {**credential.headers, "Content-Length": str(size)}
        request = storage.build_request(
            "PUT", credential.url, content=content, headers=headers, extensions={"check": check}
        )
        with content:
            what = f"upload part {credential.part_number} of {str(file)!r} to the storage"
            return str(send(storage, request, what).headers.get("etag", ""))

    return retrying(attempt, check)
