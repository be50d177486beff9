"""What commands print: tables, sizes, and names that come from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import click

__all__ = ["printable", "readable", "table"]


def table(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows under a head."""
    # Columns of plain text, the last one of any width: made to be read by eyes and by `awk`.
    lines = [tuple(head), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    for line in lines:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=False)]
        click.echo("  ".join([*padded, line[-1]]))


def printable(text: str) -> str:
    """Text that changes nothing of the terminal: names come from servers."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def readable(size: float) -> str:
    """A number of bytes as people read it."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
