"""`withrun cache`: what the cache holds, whether that is intact, and making it smaller."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from withrun.cli_text import printable, readable, table
from withrun.errors import CacheError

if TYPE_CHECKING:
    from withrun.cache.artifacts import ArtifactCache
    from withrun.cache.trim import CachedArtifact

__all__ = ["cache"]

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("KMGTP", 1)
    for kind, base in (("", 1000), ("B", 1000), ("IB", 1024))
}
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)")

F = TypeVar("F", bound=Callable[..., Any])


def _size(text: str) -> int:
    """A number of bytes from text such as `500MB`, `1.5GiB` or `0`."""
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise click.BadParameter(f"{text!r} is no size; give one such as 500MB, 1.5GiB or 0")
    return int(float(match[1]) * unit)


def _which_cache(command: F) -> F:
    """Add the options that say which cache is meant."""
    folder = click.option(
        "--cache-dir",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="The cache folder, as an API's cache_dir names it, or a folder that was exported to.",
    )
    store = click.option(
        "--tracking-uri", help="The store whose default cache it is; without both, what get_api() would use."
    )
    return folder(store(command))


@click.group()
def cache() -> None:
    """Look after cached artifacts. What is logged and not delivered yet is never touched."""


@cache.command("list")
@_which_cache
def list_(cache_dir: Path | None, tracking_uri: str | None) -> None:
    """List what is cached, the least recently used first."""
    from withrun.cache.trim import list_artifacts

    opened = _open(cache_dir, tracking_uri)
    artifacts = list_artifacts(opened)
    _show(artifacts)
    total = sum(artifact.size for artifact in artifacts)
    click.echo(f"{_counted(artifacts)}, {readable(total)}, in {opened.root}")


@cache.command()
@_which_cache
@click.option("--remove", is_flag=True, help="Remove what is damaged, so that it is pulled anew when needed.")
def verify(cache_dir: Path | None, tracking_uri: str | None, remove: bool) -> None:
    """Compare what is cached with its size and hash of when it was pulled.

    The exit code is 1 if something damaged stays.
    """
    from withrun.cache.trim import list_artifacts
    from withrun.cache.trim import verify as differences

    opened = _open(cache_dir, tracking_uri)
    artifacts = list_artifacts(opened)
    damaged, left = 0, 0
    for artifact in artifacts:
        found = differences(artifact)
        if not found:
            continue
        damaged += 1
        removed = remove and opened.discard(artifact.folder)
        left += not removed
        note = " (removed)" if removed else " (in use, kept)" if remove else ""
        click.echo(f"damaged: {_name(artifact)}{note}")
        for difference in found:
            click.echo(f"  {printable(difference)}")
    click.echo(f"{_counted(artifacts)} compared, {damaged} damaged, in {opened.root}")
    if left:
        raise click.exceptions.Exit(1)


@cache.command()
@_which_cache
@click.option(
    "--max-size",
    required=True,
    type=_size,
    metavar="SIZE",
    help="How much may stay: 10GB, 500MiB, 0 for nothing.",
)
@click.option(
    "--spare-recent",
    type=click.FloatRange(min=0),
    default=0,
    metavar="SECONDS",
    help="Keep what was used within that time too.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing, and show what would be.")
def trim(
    cache_dir: Path | None, tracking_uri: str | None, max_size: int, spare_recent: float, dry_run: bool
) -> None:
    """Remove the least recently used artifacts until the rest fits, but never what is being used.

    The exit code is 1 if what is being used takes more than that.
    """
    from withrun.cache.trim import trim as shrink

    opened = _open(cache_dir, tracking_uri)
    result = shrink(opened, max_size, spare_recent=spare_recent, dry_run=dry_run)
    _show(result.removed)
    would = "would be " if dry_run else ""
    click.echo(f"{_counted(result.removed)} {would}removed, {readable(result.freed)}, from {opened.root}")
    click.echo(f"{readable(result.left)} {'would be ' if dry_run else ''}left")
    if result.left > max_size:
        click.echo(f"more than {readable(max_size)}: {_counted(result.in_use)} in use, kept", err=True)
        raise click.exceptions.Exit(1)


def _open(cache_dir: Path | None, tracking_uri: str | None) -> ArtifactCache:
    from withrun.cache.artifacts import ArtifactCache

    if cache_dir is None:
        from withrun.plugins import get_api

        # Offline, so that no server need be there for its cache to be looked after.
        conf = {"offline_mode": True} | ({"tracking_uri": tracking_uri} if tracking_uri else {})
        cache_dir = get_api(conf=conf).cache_dir
    elif tracking_uri is not None:
        raise click.UsageError("--cache-dir and --tracking-uri each name a cache; give one of them")
    if cache_dir is None:
        raise CacheError("the API that the environment configures has no cache; name one by --cache-dir")
    return ArtifactCache(cache_dir)


def _show(artifacts: Iterable[CachedArtifact]) -> None:
    rows = [
        (
            readable(artifact.size),
            str(artifact.files),
            artifact.last_use.astimezone().strftime("%Y-%m-%d %H:%M") if artifact.last_use else "-",
            artifact.status,
            _name(artifact),
        )
        for artifact in artifacts
    ]
    if rows:
        table(("SIZE", "FILES", "LAST USE", "STATUS", "ARTIFACT"), rows)


def _name(artifact: CachedArtifact) -> str:
    if artifact.key is None:
        return f"? in {printable(str(artifact.folder))}"
    return printable(f"{artifact.key.owner}/{artifact.key.path or '(all artifacts)'}")


def _counted(artifacts: Sequence[CachedArtifact]) -> str:
    return f"{len(artifacts)} artifact{'' if len(artifacts) == 1 else 's'}"
