"""What rclone says when it fails, as withrun's errors: what was asked, why it failed, the way out."""

from __future__ import annotations

import re
from collections.abc import Iterable

from withrun.errors import (
    ArtifactNotFound,
    BucketNotFound,
    InvalidArgument,
    ServerUnreachable,
    TransferError,
    WithrunError,
)
from withrun.transfer.urls import redact

__all__ = ["translate"]

_CREDENTIALS = re.compile(
    r"failed to refresh cached credentials|no EC2 IMDS role|NoCredentialProviders|"
    r"static credentials are empty|"
    r"could not find default credentials|DefaultAzureCredential|"
    r"couldn't find .*credentials|"
    r"failed to get shared config profile|need username|no password",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b40[13]\b|AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|"
    r"AuthorizationFailure|AuthenticationFailed|permission denied|Unauthorized|"
    r"unable to authenticate|\b530\b.*(?:password|log)",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    r"connection refused|no such host|i/o timeout|network is unreachable|connection reset|TLS handshake|"
    r"certificate|context deadline exceeded|no route to host",
    re.IGNORECASE,
)
_DISK_FULL = re.compile(
    r"no space left on device|disk quota exceeded|too big for remaining disk space", re.IGNORECASE
)
_NOISE = re.compile(
    r"(?:^|(?<=\n))(?:SDK )?\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?:NOTICE|ERROR|WARN|INFO|CRITICAL) ?:? ?|"
    r",? ?(?:RequestID|HostID): ?[^,]*"
)
_USAGE = re.compile(r"^Error: (.*)\nUsage:", re.MULTILINE)
"""How rclone refuses its command line."""

_BESIDE_THE_POINT = re.compile(r"not found - using defaults|No host key validation is being performed")
"""Notices that come with every call, whatever becomes of it."""


def translate(
    words: str,
    *,
    asked: str,
    url: str,
    secrets: Iterable[str] = (),
    buckets: bool = True,
    listing: bool = False,
) -> WithrunError:
    """Return the error that rclone's words mean.

    Args:
        words: what rclone wrote to stderr, or its log's errors, one a line.
        asked: what it was to do, such as `upload '/a' to 's3://b/x'`.
        url: the storage's URL.
        secrets: values that must not be shown.
        buckets: whether the storage has buckets.
        listing: whether it was a listing. A storage with buckets lists any folder, if only as empty: what is
            not found is the bucket.
    """
    refused = _USAGE.search(words)
    if refused:
        return InvalidArgument(
            f"Could not {asked}: rclone does not take its arguments: {_cleaned(refused[1], secrets)}. "
            "Mend `extra_args` of the FileTransfer; if they are right, install a newer rclone."
        )
    said = _cleaned(words, secrets)
    shown = repr(redact(url))
    bucket = repr(re.sub(r"^[^:]+:/*", "", redact(url)).partition("/")[0])
    failed = f"Could not {asked}"
    if _DISK_FULL.search(words):
        return TransferError(
            f"{failed}: the disk is full. Make room and repeat; what is through stays. ({said})"
        )
    if _CREDENTIALS.search(words):
        return TransferError(
            f"{failed}: no credentials for {shown} were found, or they can't be used. Set that cloud's "
            "usual environment (s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE), or add a "
            f"remote of the scheme's name to rclone's configuration (`rclone config`). ({said})"
        )
    no_bucket = r"NoSuchBucket|ContainerNotFound|bucket does not exist|bucket doesn't exist"
    if re.search(no_bucket, words) or (buckets and listing and "directory not found" in words):
        return BucketNotFound(
            f"{failed}: the bucket {bucket} does not exist. Create it, or mend the URL. ({said})"
        )
    if re.search(r"(directory|object) not found|NoSuchKey|StatusCode: 404|file does not exist", words):
        place = f", or no bucket {bucket}" if buckets else ""
        return ArtifactNotFound(f"{failed}: there is nothing at {shown}{place}. ({said})")
    if _REFUSED.search(words):
        return TransferError(
            f"{failed}: the storage refused it. Check that the credentials are right and may do this, "
            f"and that the endpoint and region are those of {bucket}. ({said})"
        )
    if _UNREACHABLE.search(words):
        return ServerUnreachable(
            f"{failed}: no answer from the storage of {shown}. Check the network, the endpoint and its "
            f"certificate; what is through stays. ({said})"
        )
    if re.search(r"section in config file|unable to decrypt|password", words, re.IGNORECASE):
        return TransferError(
            f"{failed}: rclone's configuration can't be used for it. See `rclone config show`; "
            f"an encrypted one needs RCLONE_CONFIG_PASS. ({said})"
        )
    return TransferError(f"{failed}: rclone says: {said}")


def _cleaned(words: str, secrets: Iterable[str]) -> str:
    """Rclone's words once each, without time stamps, request IDs and secrets."""
    text = _NOISE.sub("", words)
    for secret in sorted((secret for secret in secrets if secret), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"//[^/\s\"]*@", "//", text)
    lines = dict.fromkeys(
        line.strip() for line in text.splitlines() if line.strip() and not _BESIDE_THE_POINT.search(line)
    )
    # The last line is rclone's summary; the ones before it repeat it with attempts and counts.
    return " | ".join(list(lines)[:3])[:800] or "nothing"
