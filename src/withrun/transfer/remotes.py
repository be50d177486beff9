"""Remotes: how rclone reaches the storage that a URL names, with nothing configured for it.

The options follow that cloud's usual environment, read when a transfer starts. They are handed to rclone in
its environment (`RCLONE_CONFIG_<NAME>_<OPTION>`), so that no secret is ever on a command line or a disk;
where rclone itself reads the cloud's environment (`env_auth`), secrets don't pass through here at all.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from withrun.errors import InvalidArgument
from withrun.transfer.urls import has_password, redact, scheme_of

__all__ = ["OBJECT_STORES", "Remote", "build_remote", "configured_remote"]

logger = logging.getLogger("withrun.transfer")


@dataclass(frozen=True)
class Remote:
    """A storage as rclone is told of it.

    Attributes:
        path: the whole address, `name:path`.
        options: the remote's options; empty if the user's configuration has it.
        passwords: options that rclone wants obscured, in the clear.
        flags: further global flags.
        buckets: whether it is known to be an object store: no empty folders, and no other file can be in the
            way.
    """

    path: str
    options: dict[str, str] = field(default_factory=dict, repr=False)
    passwords: dict[str, str] = field(default_factory=dict, repr=False)
    flags: tuple[str, ...] = ()
    buckets: bool = True

    @property
    def name(self) -> str:
        """The remote's name, before the colon."""
        return self.path.partition(":")[0]


OBJECT_STORES = (
    "s3",
    "google cloud storage",
    "gcs",
    "azureblob",
    "b2",
    "swift",
    "oracleobjectstorage",
    "oos",
    "qingstor",
    "storj",
)
"""Types of remotes, as rclone calls them, that are object stores whatever their options are."""


def configured_remote(url: str, *, buckets: bool) -> Remote:
    """The remote that the user's rclone configuration has under the URL's scheme.

    Args:
        url: of the storage.
        buckets: whether that remote is known to be an object store.

    Raises:
        InvalidArgument: the URL holds a password, which would be part of the path on rclone's command line.
    """
    scheme = url.partition(":")[0]
    if has_password(url):
        raise InvalidArgument(
            f"{redact(url)!r} was given with a password, but rclone's configuration has a remote {scheme!r}, "
            "whose own is used. Leave user and password out of the URL."
        )
    return Remote(f"{scheme}:{_rest(url)}", buckets=buckets)


def build_remote(url: str, env: Mapping[str, str], home: Path) -> Remote:
    """Build the remote for a URL from that cloud's usual environment.

    Raises:
        InvalidArgument: the URL lacks its bucket or host, or no remote can be built for its scheme.
    """
    scheme = scheme_of(url)
    build = _BUILDERS.get(scheme)
    if build is None:
        raise InvalidArgument(
            f"There is no way to {redact(url)!r}: rclone's configuration has no remote {scheme!r}, "
            f"and none can be built for that scheme. Add one with `rclone config create {scheme} TYPE`, or "
            "name an existing one with `use_scheme` or `map_scheme`."
        )
    if not re.match(r"[^:]+://[^/]", url):
        raise InvalidArgument(
            f"{redact(url)!r} names no bucket or host; it must look like {scheme}://NAME/path."
        )
    return build(url, env, home)


def _rest(url: str) -> str:
    return url.partition(":")[2].removeprefix("//")


def _path(url: str) -> str:
    """The URL's path as it is, without its first slash: `?` and `#` are part of a name."""
    return _rest(url).partition("/")[2]


def _s3(url: str, env: Mapping[str, str], home: Path) -> Remote:
    endpoint = _first(env, "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    options = {
        "type": "s3",
        "provider": "Other" if endpoint else "AWS",
        "env_auth": "true",
        "endpoint": endpoint,
        "region": _first(env, "AWS_DEFAULT_REGION", "AWS_REGION"),
        # Creating a bucket is nothing that publishing an artifact should do.
        "no_check_bucket": "true",
        # One request with its MD5, which the storage verifies, costs rclone half of what parts cost it; the
        # HEAD after it would find nothing else. Parts are for what one request would repeat for too long.
        "no_head": "true",
        "upload_cutoff": "512M",
        "chunk_size": "16M",
        "upload_concurrency": "8",
    }
    addressing = env.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "")
    if addressing in ("path", "virtual"):
        options["force_path_style"] = "true" if addressing == "path" else "false"
    flags = []
    if env.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("true", "1"):
        flags.append("--no-check-certificate")
    if env.get("AWS_CA_BUNDLE"):
        flags.append(f"--ca-cert={env['AWS_CA_BUNDLE']}")
    return Remote(f"{scheme_of(url)}:{_rest(url)}", _given(options), flags=tuple(flags))


def _gs(url: str, env: Mapping[str, str], home: Path) -> Remote:
    options = {
        "type": "google cloud storage",
        "env_auth": "true",  # GOOGLE_APPLICATION_CREDENTIALS, gcloud's own, or the machine's
        "project_number": _first(env, "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"),
        "bucket_policy_only": "true",
        "no_check_bucket": "true",
    }
    return Remote(f"{scheme_of(url)}:{_rest(url)}", _given(options))


def _azure(url: str, env: Mapping[str, str], home: Path) -> Remote:
    parts = urlsplit(url)
    container, at, host = parts.netloc.rpartition("@")
    account = host.partition(".")[0]
    if not (at and container and account):
        raise InvalidArgument(
            f"{url.partition('?')[0]!r} is no Azure URL; it must look like "
            "wasbs://CONTAINER@ACCOUNT.blob.core.windows.net/path (or abfss:// and .dfs.)."
        )
    options = {"type": "azureblob", "account": account, "no_check_container": "true"}
    connection, key = (
        env.get("AZURE_STORAGE_CONNECTION_STRING", ""),
        _first(env, "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY"),
    )
    if connection:
        options = {"type": "azureblob", "connection_string": connection, "no_check_container": "true"}
    elif key:
        options["key"] = key
    elif env.get("AZURE_STORAGE_SAS_TOKEN"):
        options["sas_url"] = (
            f"https://{account}.blob.core.windows.net/?{env['AZURE_STORAGE_SAS_TOKEN'].lstrip('?')}"
        )
    else:
        options["env_auth"] = "true"  # AZURE_CLIENT_ID and its kin, a managed identity, or `az login`
    return Remote(f"{scheme_of(url)}:{container}/{_path(url)}", options)


def _sftp(url: str, env: Mapping[str, str], home: Path) -> Remote:
    parts = urlsplit(url)
    options = {"type": "sftp"} | _server(url, env)
    passwords = _password(parts.password)
    known_hosts = home / ".ssh" / "known_hosts"
    if known_hosts.is_file():
        options["known_hosts_file"] = str(known_hosts)
    else:
        _warn_of_unknown_host(options["host"], known_hosts)
    if not passwords and not env.get("SSH_AUTH_SOCK"):
        keys = (home / ".ssh" / name for name in ("id_ed25519", "id_ecdsa", "id_rsa"))
        options["key_file"] = next((str(key) for key in keys if key.is_file()), "")
    return Remote(f"{scheme_of(url)}:/{_path(url)}", _given(options), passwords, buckets=False)


@cache
def _warn_of_unknown_host(host: str, known_hosts: Path) -> None:
    logger.warning(
        "whether %s is the host that it says can't be told: there is no %s. `ssh` writes it at the first "
        "connection; a remote `sftp` in rclone's configuration can pin the host's key.",
        host,
        known_hosts,
    )


def _ftp(url: str, env: Mapping[str, str], home: Path) -> Remote:
    parts = urlsplit(url)
    options = {"type": "ftp", "tls": "true" if parts.scheme.lower() == "ftps" else ""} | _server(url, env)
    return Remote(
        f"{scheme_of(url)}:/{_path(url)}", _given(options), _password(parts.password), buckets=False
    )


def _webdav(url: str, env: Mapping[str, str], home: Path) -> Remote:
    parts = urlsplit(url)
    secure = parts.scheme.lower() in ("webdavs", "davs")
    options = {
        "type": "webdav",
        "vendor": "other",
        "url": f"{'https' if secure else 'http'}://{parts.netloc.rpartition('@')[2]}",
        "user": unquote(parts.username or ""),
    }
    return Remote(f"{scheme_of(url)}:{_path(url)}", _given(options), _password(parts.password), buckets=False)


def _http(url: str, env: Mapping[str, str], home: Path) -> Remote:
    parts = urlsplit(url)
    options = {"type": "http", "url": f"{parts.scheme}://{parts.netloc}"}
    return Remote(f"{scheme_of(url)}:{_path(url)}", options, buckets=False)


def _hdfs(url: str, env: Mapping[str, str], home: Path) -> Remote:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = unquote(parts.username or "") or env.get("HADOOP_USER_NAME", "")
    options = {"type": "hdfs", "namenode": host if ":" in host else f"{host}:8020", "username": user}
    return Remote(f"{scheme_of(url)}:/{_path(url)}", _given(options), buckets=False)


_BUILDERS: Mapping[str, Callable[[str, Mapping[str, str], Path], Remote]] = {
    "s3": _s3,
    "s3a": _s3,
    "s3n": _s3,
    "gs": _gs,
    "abfss": _azure,
    "abfs": _azure,
    "wasbs": _azure,
    "wasb": _azure,
    "sftp": _sftp,
    "ftp": _ftp,
    "ftps": _ftp,
    "webdav": _webdav,
    "webdavs": _webdav,
    "http": _http,
    "https": _http,
    "hdfs": _hdfs,
}


def _server(url: str, env: Mapping[str, str]) -> dict[str, str]:
    parts = urlsplit(url)
    try:
        port = str(parts.port or "")
    except ValueError as error:
        raise InvalidArgument(f"{redact(url)!r} has a port that is no number.") from error
    user = unquote(parts.username or "") or env.get("USER", "")
    return {"host": parts.hostname or "", "port": port, "user": user}


def _password(text: str | None) -> dict[str, str]:
    return {"pass": unquote(text)} if text else {}


def _first(env: Mapping[str, str], *names: str) -> str:
    return next((env[name] for name in names if env.get(name)), "")


def _given(options: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value}
