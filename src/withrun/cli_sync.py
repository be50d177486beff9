"""`withrun sync`: delivers what dead and offline processes left."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from withrun.cli_text import printable, readable, table
from withrun.errors import ServerError, ServerUnreachable, WithrunError

if TYPE_CHECKING:
    from withrun.api import BaseMlflowApi
    from withrun.journal import Recovered, Waiting

__all__ = ["sync"]

POLL = 5.0
"""Seconds between two rounds of `--watch`."""

PATIENCE = 30.0
"""Seconds that delivery waits for a server that goes away meanwhile."""


@click.command()
@click.option("--tracking-uri", help="The store; without it, the one that get_api() would use.")
@click.option(
    "--cache-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The cache_dir of the API that logged, if it was given one: its journals are in there.",
)
@click.option("--watch", is_flag=True, help="Go on, and deliver what comes, until Ctrl-C.")
@click.option("--dry-run", is_flag=True, help="Deliver nothing, ask no server, and show what waits.")
def sync(tracking_uri: str | None, cache_dir: Path | None, watch: bool, dry_run: bool) -> None:
    """Deliver what programs logged without the server, or were killed before they could deliver.

    Journals of programs that still run are left to them. What the server refuses is kept aside and listed.
    The exit code is 1 if something is left, refused or damaged; nothing that can be read is ever dropped.
    """
    if watch and dry_run:
        raise click.UsageError("--watch and --dry-run exclude one another")
    store = _Store.of(tracking_uri, cache_dir)
    if dry_run:
        store.show()
    elif watch:
        store.watch()
    else:
        try:
            complete = store.deliver()
        except KeyboardInterrupt:
            click.echo("interrupted; what is not delivered is kept for the next sync", err=True)
            raise click.exceptions.Exit(130) from None
        if not complete:
            raise click.exceptions.Exit(1)


@dataclass(frozen=True)
class _Store:
    """The store to deliver to, and where its journals are.

    Attributes:
        api: an offline one: it tells what the store is, and recovers nothing by itself.
    """

    api: BaseMlflowApi
    journal_dir: Path

    @classmethod
    def of(cls, tracking_uri: str | None, cache_dir: Path | None) -> _Store:
        from withrun.plugins import get_api

        conf: dict[str, Any] = {"offline_mode": True}
        if tracking_uri:
            conf["tracking_uri"] = tracking_uri
        if cache_dir is not None:
            conf |= {"cache_dir": cache_dir, "journal_dir": cache_dir / "journal"}
        api = get_api(conf=conf)
        assert api.journal_dir is not None  # noqa: S101 - every API has settled on one
        return cls(api, api.journal_dir.absolute())

    @property
    def uri(self) -> str:
        return self.api.store_uri

    def waiting(self) -> list[Waiting]:
        from withrun.journal import waiting

        return waiting(self.journal_dir, self.uri)

    # --- showing ---

    def show(self) -> None:
        """Print what waits."""
        found = self.waiting()
        if found:
            _show(found)
            records = sum(one.records for one in found)
            click.echo(
                f"{_count(len(found), 'journal')} of {self.uri}, {_count(records, 'record')} not delivered, "
                f"in {self.journal_dir}"
            )
        else:
            self._say_nothing_waits()
        self._show_others()

    def _say_nothing_waits(self) -> None:
        click.echo(f"nothing to sync: no journal of {self.uri} waits in {self.journal_dir}")

    def _show_others(self) -> None:
        """Say what waits for other stores; it takes another call."""
        from withrun.journal.leftovers import abandoned_by_store

        for uri, paths in sorted(abandoned_by_store(self.journal_dir).items()):
            if uri != self.uri:
                click.echo(
                    f"{_count(len(paths), 'journal')} of another store, {printable(uri)}, "
                    f"{'wait' if len(paths) > 1 else 'waits'} in the same folder: name it by --tracking-uri"
                )

    # --- delivering ---

    def deliver(self) -> bool:
        """Deliver once, and print what was done; False if something is left or was refused."""
        complete = True
        if self._some_are_free():
            report = self._recover()
            _tell(report, self.uri)
            complete = not (report.left or report.refused or report.damaged)
        elif not any(one.records for one in self.waiting()):
            self._say_nothing_waits()
        for one in self.waiting():
            if one.alive and one.records:
                complete = False
                click.echo(f"left: {_count(one.records, 'record')} in {one.path}, {_held_by(one)}")
        self._show_others()
        return complete

    def watch(self) -> None:
        """Deliver whatever is free, again and again."""
        click.echo(f"watching {self.journal_dir} for journals of {self.uri}; Ctrl-C ends")
        said = ""
        try:
            while True:
                if self._some_are_free():
                    try:
                        report = self._recover()
                    except (ServerUnreachable, ServerError) as error:
                        if str(error) != said:
                            click.echo(f"error: {error}", err=True)
                        said = str(error)
                    else:
                        reasons = str(sorted(report.left.items()))
                        if report.journals or reasons != said:
                            _tell(report, self.uri)
                        said = reasons
                time.sleep(POLL)
        except KeyboardInterrupt:
            click.echo("ended; what is not delivered is kept")

    def _some_are_free(self) -> bool:
        from withrun.journal.leftovers import some_are_free

        return some_are_free(self.journal_dir, self.uri)

    def _recover(self) -> Recovered:
        from withrun.journal import recover
        from withrun.services.delivery import publisher_factory

        api = self.api
        backend = api._connect()
        try:
            try:
                backend.server_info()
            except (ServerUnreachable, ServerError) as error:
                raise type(error)(
                    f"nothing was delivered, and all of it is kept in {self.journal_dir}: {error}"
                ) from error
            report = recover(
                self.journal_dir,
                self.uri,
                backend,
                publisher=publisher_factory(api.file_transfer, api.tag_keys)(backend),
                patience=PATIENCE,
                threads=api._delivery_threads(),
            )
        finally:
            backend.close()
        self._cache(report.runs.values())
        return report

    def _cache(self, run_ids: Collection[str]) -> None:
        """Keep the metadata of runs that started offline: the API that logged them can't read the server."""
        if not run_ids or self.api.cache_dir is None:
            return
        with (
            tempfile.TemporaryDirectory() as apart,  # it must not recover what this command reports on
            self.api.model_copy(
                update={"offline_mode": False, "healthcheck": False, "journal_dir": Path(apart)}
            ) as online,
        ):
            for run_id in run_ids:
                _cache(online, run_id)


def _cache(online: BaseMlflowApi, run_id: str) -> None:
    try:
        online.cache_run_meta(run_id)
    except WithrunError as error:
        click.echo(f"run {printable(run_id)} is delivered, but not cached: {error}", err=True)


def _show(found: Sequence[Waiting]) -> None:
    rows = [
        (
            "in use" if one.alive else "waits",
            printable(one.origin.host) if one.origin else "?",
            str(one.origin.pid) if one.origin else "?",
            _age(one),
            str(one.runs),
            str(one.records),
            readable(one.size),
            one.path.name,
        )
        for one in found
    ]
    table(("STATE", "HOST", "PID", "AGE", "RUNS", "RECORDS", "SIZE", "JOURNAL"), rows)


def _age(one: Waiting) -> str:
    if one.origin is None:
        return "?"
    seconds = max(time.time() - one.origin.started / 1000, 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _held_by(one: Waiting) -> str:
    if (one.path / "lock").exists():
        return f"which {_process(one)}, or another sync, holds"
    return (
        f"whose file `lock` is lost: whether {_process(one)} still logs there can't be told. If it does not, "
        "make an empty file of that name"
    )


def _process(one: Waiting) -> str:
    origin = one.origin
    return f"process {origin.pid} on {printable(origin.host)}" if origin else "its process"


def _tell(report: Recovered, uri: str) -> None:
    """Print what was done, a line each."""
    click.echo(
        f"{_count(report.journals, 'journal')}, {_count(report.delivered, 'value')} delivered to {uri}"
    )
    for local_id, run_id in report.runs.items():
        click.echo(f"run {local_id} is now {printable(run_id)}")
    for run_id in report.ended:
        click.echo(f"run {printable(run_id)} was ended FAILED: the process that it belonged to is gone")
    if report.damaged:
        click.echo(f"{report.damaged} bytes were damaged: what they said, and nothing else does, is lost")
    if report.refused:
        click.echo(f"{_count(report.refused, 'value')} refused, kept in:")
        for path in report.kept:
            click.echo(f"  {path}")
    for path, reason in report.left.items():
        click.echo(f"left: {path}: {printable(reason)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
