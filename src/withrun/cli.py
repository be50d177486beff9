"""The command line. Each command imports what it needs when it runs, so that `withrun --help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import click

from withrun import __version__
from withrun.cli_cache import cache
from withrun.cli_sync import sync
from withrun.errors import WithrunError

__all__ = ["main"]


class _Refusal(click.ClickException):
    """A `WithrunError` as the command line shows it: its message, exit code 1, no traceback."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


class _Commands(click.Group):
    """A group whose commands may raise withrun's errors, which are addressed to the user as they are."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WithrunError as exc:
            raise _Refusal(str(exc)) from exc


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="withrun")
def main() -> None:
    """Experiment tracking and model registry on MLflow backends."""


main.add_command(cache)
main.add_command(sync)


@main.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("withrun-demo"),
    show_default=True,
    help="Folder that takes the store (mlflow.db) and, beside it, the artifacts.",
)
def demo(folder: Path) -> None:
    """Train classifiers of handwritten digits and track them in a store of their own.

    A parent run, six child runs side by side, their params, metrics, figures and models, and the best model
    registered, loaded back and scored again. Needs no server. Running it again adds to the same store.
    """
    from withrun.demo import demonstrate

    demonstrate(folder)


if __name__ == "__main__":
    main()
