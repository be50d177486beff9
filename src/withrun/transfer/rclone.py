"""The built-in tool for clouds: rclone, through rclone-python, a remote built where none is configured."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from withrun.errors import TransferError, WithrunError
from withrun.transfer.progress import Bar
from withrun.transfer.rclone_errors import translate
from withrun.transfer.rclone_names import from_rclone, to_rclone
from withrun.transfer.rclone_process import Launcher, find_binary, quoted, rclone_module, user_config_file
from withrun.transfer.remotes import OBJECT_STORES, Remote, build_remote, configured_remote
from withrun.transfer.urls import local_path, name_of, redact

__all__ = ["LARGE", "Rclone"]

_log = logging.getLogger("withrun.transfer.rclone")

LARGE = 64 << 20
"""Bytes from which a file goes its own way, because hashing it in a further reading takes too long.

To S3 it is streamed in one request, complete or refused by its length. Downwards it comes in parallel ranges
and is checked by its size. Smaller ones are hashed both ways.
"""

ONE_REQUEST = 512 << 20
"""Bytes up to which an upload to S3 is one request, see `remotes`."""

_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_SECRET",
    "RCLONE_CONFIG_PASS",
)


class Rclone:
    """Runs rclone for one FileTransfer.

    Args:
        extra_args: the user's arguments by function (`ls`, `copyto`, `sync`); they come last, so they win.
    """

    def __init__(self, extra_args: dict[str, list[str]]) -> None:
        self._extra_args = extra_args
        self._env = dict(os.environ)
        self._files: dict[str, bool] = {}
        config = user_config_file()
        if config:
            self._env["RCLONE_CONFIG"] = config

    @cached_property
    def _binary(self) -> str:
        """Looked for when something is to be started: names can be judged without."""
        return find_binary()

    def entries(self, url: str, *, recursive: bool) -> list[dict[str, Any]]:
        """List a folder, or tell a file's metadata.

        Which of the two is asked for first is guessed from the name, because starting rclone takes as long as
        moving some 50 MB. (An object store may have both of one name; the one asked for first is found then.)
        """
        flags = [*_LIST_FLAGS, "--recursive"] if recursive else _LIST_FLAGS
        if not self._remote(url).buckets:
            return _named(self._ls(url, flags))
        itself: list[dict[str, Any]] = []
        refused: TransferError | None = None
        looks_like_a_file = PurePosixPath(name_of(url)).suffix != ""
        if looks_like_a_file:
            try:
                itself = self._stat(url)
            except TransferError as error:  # who may list need not have the right to read
                refused = error
        # The slash says "folder": else rclone asks for a file first, which some stores hash for their answer.
        found = itself or _named(self._ls(url.rstrip("/") + "/", flags))
        if not found and refused is not None:
            raise refused
        if not found and name_of(url) and not looks_like_a_file:
            found = itself = self._stat(url)
        self._files[url] = bool(itself)
        return found

    def _stat(self, url: str) -> list[dict[str, Any]]:
        """Return the metadata of the file at that URL; nothing if there is none."""
        found = self._ls(url, ["--stat", *_LIST_FLAGS])
        return _named([found]) if isinstance(found, dict) and not found.get("IsDir") else []

    def is_file(self, url: str) -> bool:
        """Ask for the object itself, where listing it has not told."""
        if url not in self._files:
            self._files[url] = bool(self._stat(url))
        return self._files[url]

    def has_empty_folders(self, url: str) -> bool:
        """True for SFTP, WebDAV and their kin, and for a configured remote whose storage says so."""
        remote = self._remote(url)
        if remote.buckets or remote.options:
            return not remote.buckets
        return self._keeps_empty_folders(remote)

    def _keeps_empty_folders(self, remote: Remote) -> bool:
        """Ask rclone: what an `alias`, `crypt` or `union` can do is for the storages below it to say."""
        done = subprocess.run(  # noqa: S603 - no argument comes from outside
            [self._binary, "backend", "features", f"{remote.name}:", "--ask-password=false"],
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        try:
            return bool(json.loads(done.stdout)["Features"]["CanHaveEmptyDirectories"])
        except (ValueError, LookupError, TypeError) as error:
            raise translate(
                done.stderr, asked=f"ask what the remote {remote.name!r} can do", url=f"{remote.name}:"
            ) from error

    def check_names(self, url: str, names: Iterable[str]) -> None:
        """Refuse what rclone has no form for."""
        for path in (url, *names):
            to_rclone(path)

    def copyto(self, source: str, target: str, bar: Bar, sizes: Mapping[str, int]) -> None:
        """Upload or download with `rclone copyto`; a large file to S3 with `rclone rcat`."""
        if local_path(target) is not None:
            is_large = sizes.get("", 0) >= LARGE
            self._transfer("copyto", source, target, _PULL_LARGE if is_large else _PULL_FLAGS, bar)
            return
        flags = self._push_flags(target)
        alone = self._streamed(target, sizes)
        if alone is not None:
            below = f"/{alone}" if alone else ""
            self._stream(source + below, target.rstrip("/") + below, sizes[alone], bar)
            if len(sizes) == 1:
                return
            flags.append(f"--max-size={LARGE - 1}B")
        if Path(source).is_dir():
            # The slash says "folder". Without it rclone looks whether a file lies there: that takes a request
            # and, on S3, a right that who may write need not have.
            target = target.rstrip("/") + "/"
        self._transfer("copyto", source, target, flags, bar)

    def sync(self, source: str, target: str, bar: Bar, sizes: Mapping[str, int]) -> None:
        """Download with `rclone sync`, after `rclone copy` of the large files, which are not hashed."""
        if any(size >= LARGE for size in sizes.values()):
            # `sync` finds them there, with their sizes and times, and passes over them.
            flags = [*_PULL_LARGE, f"--min-size={LARGE}B"]
            self._transfer("copy", source, target, flags, bar, arguments_of="sync")
        self._transfer("sync", source, target, _PULL_FLAGS, bar)

    def _streamed(self, url: str, sizes: Mapping[str, int]) -> str | None:
        """The one file that is to be streamed, if there is one.

        Several large files are hashed in parallel, and the user's arguments and remotes are `copyto`'s.
        """
        if self._remote(url).options.get("type") != "s3" or self._extra("copyto"):
            return None
        large = [relative for relative, size in sizes.items() if size >= LARGE]
        return large[0] if len(large) == 1 and sizes[large[0]] <= ONE_REQUEST else None

    def _stream(self, source: str, url: str, size: int, bar: Bar) -> None:
        """Upload a file as the body of one request of exactly its size; what goes wrong is left to `copyto`.

        `copyto` would first read the whole file to send its MD5, and hash it again while sending.
        """
        remote = self._remote(url)
        paths = (to_rclone(remote.path),)
        before = bar.done
        with (
            open(source, "rb") as stream,  # noqa: PTH123 - the path is a string all the way to rclone
            Launcher(self._binary, self._child_env(remote), paths, stdin=stream) as launcher,
        ):
            arguments = " ".join([f"--size={size}", "--buffer-size=64M", *remote_flags(remote), *_LOG_FLAGS])
            process, _ = rclone_module(launcher).utils.rclone_progress(
                f'rclone rcat "{quoted(paths[0])}" {arguments}',
                "",
                show_progress=False,
                listener=lambda update: bar.set(before + int(update["sent"])),
            )
            if process.wait() == 0:
                return
        # rcat can't repeat what it has read. copyto can, and if that fails too, its words make the error.
        _log.debug("streaming %r failed, rclone copyto takes over", source)
        bar.set(before)
        self._transfer("copyto", source, url, self._push_flags(url), bar)

    def _push_flags(self, url: str) -> list[str]:
        flags = [*_COMMON_FLAGS, "--copy-links"]
        # Like MLflow, replace without a look at what is there. A configured remote may be of a kind that
        # keeps two files of one name (Google Drive): there rclone must look, and replace in any case.
        if self._remote(url).options:
            # rclone's own splitting of large files goes by its own limits, and not by the remote's.
            return [*flags, "--no-check-dest", "--multi-thread-streams=0"]
        return [*flags, "--ignore-times"]

    def _ls(self, url: str, flags: list[str]) -> Any:
        remote = self._remote(url)
        paths = (to_rclone(remote.path),)
        args = ["--retries=2", "--low-level-retries=3", *remote_flags(remote), *flags, *self._extra("ls")]
        with Launcher(self._binary, self._child_env(remote), paths) as launcher:
            return self._call(launcher, "ls", f"list {redact(url)!r}", url, remote, paths, args=args)

    def _transfer(
        self,
        name: str,
        source: str,
        target: str,
        flags: list[str],
        bar: Bar,
        *,
        arguments_of: str | None = None,
    ) -> None:
        url = source if local_path(source) is None else target
        remote = self._remote(url)
        paths = tuple(to_rclone(remote.path if path is url else path) for path in (source, target))
        verb = f"upload {source!r} to {redact(target)!r}" if url is target else f"download {redact(source)!r}"
        args = [*remote_flags(remote), *flags, *self._extra(arguments_of or name)]
        before = bar.done

        def listen(update: dict[str, Any]) -> None:
            # rclone's own total leaves out what lies there already; it knows nothing of other runs.
            bar.set(before + int(update["sent"]), before + int(update["total"]))

        with Launcher(self._binary, self._child_env(remote), paths) as launcher:
            self._call(
                launcher, name, verb, url, remote, paths, show_progress=False, listener=listen, args=args
            )

    def _call(
        self,
        launcher: Launcher,
        name: str,
        asked: str,
        url: str,
        remote: Remote,
        paths: tuple[str, ...],
        **options: Any,
    ) -> Any:
        module = rclone_module(launcher)
        try:
            return getattr(module, name)(*map(quoted, paths), **options)
        except WithrunError:
            raise
        except module.utils.RcloneException as error:
            secrets = [*remote.passwords.values(), *(self._env.get(name, "") for name in _SECRET_VARIABLES)]
            secrets += [value for key, value in remote.options.items() if key in ("key", "sas_url")]
            # `from None`: rclone-python's own message repeats the words, secrets included.
            raise translate(
                error.error_msg,
                asked=asked,
                url=url,
                secrets=secrets,
                buckets=remote.buckets,
                listing=name == "ls",
            ) from None
        except ValueError as error:
            raise TransferError(f"Could not {asked}: rclone's answer can't be read: {error}.") from error

    def _extra(self, name: str) -> list[str]:
        return list(self._extra_args.get(name, ()))

    def _remote(self, url: str) -> Remote:
        scheme = url.partition(":")[0]
        configured = _configured(self._binary, self._env)
        if scheme in configured:
            return configured_remote(url, buckets=configured[scheme])
        return build_remote(url, self._env, Path.home())

    def _child_env(self, remote: Remote) -> dict[str, str]:
        env = dict(self._env)
        options = dict(remote.options)
        options.update((name, _obscured(self._binary, text)) for name, text in remote.passwords.items())
        for name, value in options.items():
            # What the user has set for this remote by rclone's own variables wins.
            env.setdefault(f"RCLONE_CONFIG_{remote.name.upper()}_{name.upper()}", value)
        return env


_LIST_FLAGS = ["--use-server-modtime", "--no-mimetype"]

_COMMON_FLAGS = ["--retries=2", "--low-level-retries=5", "--transfers=16", "--checkers=16"]

# `--inplace`: a killed download leaves a file of its own name, which the next one replaces, and no other.
# One stream a file: its hash is then checked on the way. After several streams the whole file would be read
# again for it, which takes twice as long as the download of 256 MiB in all.
_PULL_FLAGS = [*_COMMON_FLAGS, "--inplace", "--use-server-modtime", "--multi-thread-streams=0"]

_PULL_LARGE = [*_PULL_FLAGS[:-1], f"--multi-thread-cutoff={LARGE}B", "--ignore-checksum"]

# What rclone-python's own transfers are given, for its reading of their progress.
_LOG_FLAGS = ["--stats 0.1s", "--stats-unit bytes", "--use-json-log", "-v"]


def _named(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was listed, with the paths as they are in the store."""
    return [{**entry, "Name": "", "Path": from_rclone(str(entry.get("Path", "")))} for entry in entries]


def remote_flags(remote: Remote) -> list[str]:
    """The remote's global flags, as words of the command line that rclone-python builds."""
    return [f'"{quoted(flag)}"' for flag in remote.flags]


_remotes: dict[tuple[object, ...], dict[str, bool]] = {}
_remotes_lock = threading.Lock()


def _configured(binary: str, env: dict[str, str]) -> dict[str, bool]:
    """The user's remotes, and whether each is an object store; asked again when the configuration changes."""
    files = [env["RCLONE_CONFIG"]] if env.get("RCLONE_CONFIG") else _config_files(binary, env)
    stats = tuple((file, *_stamp(file)) for file in files)
    variables = tuple(sorted(name for name in env if name.startswith("RCLONE_CONFIG_")))
    if not variables and not any(size for _, _, size in stats):
        return {}
    key = (binary, stats, variables)
    with _remotes_lock:
        if key not in _remotes:
            _remotes[key] = _list_remotes(binary, env)
        return _remotes[key]


def _list_remotes(binary: str, env: dict[str, str]) -> dict[str, bool]:
    done = subprocess.run(  # noqa: S603 - no argument comes from outside
        [binary, "listremotes", "--long", "--ask-password=false"],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise translate(
            done.stderr,
            asked="read the remotes of rclone's configuration",
            url="rclone:",
            secrets=[env.get("RCLONE_CONFIG_PASS", "")],
        )
    remotes = {}
    for line in done.stdout.splitlines():
        name, _, kind = line.partition(":")
        # A description may follow, and both have blanks in them.
        remotes[name] = f"{kind.strip()} ".startswith(tuple(f"{store} " for store in OBJECT_STORES))
    return remotes


def _config_files(binary: str, env: dict[str, str]) -> list[str]:
    """Where rclone looks for its configuration, see `rclone help flags`, `--config`."""
    home = env.get("HOME") or str(Path.home())
    xdg = env.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return [str(Path(binary).parent / "rclone.conf"), f"{xdg}/rclone/rclone.conf", f"{home}/.rclone.conf"]


def _stamp(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)  # noqa: PTH116 - a plain string is what the environment holds
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _obscured(binary: str, text: str) -> str:
    """What rclone wants in place of a password; told by way of stdin, not on the command line."""
    done = subprocess.run(  # noqa: S603 - no argument comes from outside
        [binary, "obscure", "-"], input=text, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
