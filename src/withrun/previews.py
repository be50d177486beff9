"""Previews: what stands in a store for a text that it does not take whole, and names where that is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import re

__all__ = ["Preview", "PreviewText", "is_preview", "make_preview", "parse_preview"]


@dataclasses.dataclass(frozen=True)
class Preview:
    """What stands in the store for a text that it could not take whole.

    Attributes:
        start: the beginning of the text, as much as the preview holds.
        length: characters of the whole text.
        sha256: of the whole text in UTF-8; also names the artifact.
    """

    start: str
    length: int
    sha256: str

    @property
    def path(self) -> str:
        """The artifact, inside its run, that holds the whole text."""
        return f"withrun/values/{self.sha256}.txt"


class PreviewText(str):
    """A preview where a value should be, to tell it from a string that reads alike; see `complete`."""

    __slots__ = ()


_PREVIEW_CHARACTERS = (
    350  # whole, a preview stays below 500 characters, the least that any MLflow store takes
)
_PREVIEW_END = '.txt"]'
# The path is quoted because a search for texts that hold a quote (`providers/mlflow/pushdown.py`), which any
# query for a string needs, then finds previews as well.
_PREVIEW = re.compile(
    r'(.*)… \[withrun: (\d{1,12}) characters, whole in "withrun/values/([0-9a-f]{64})\.txt"\]', re.DOTALL
)


def make_preview(text: str) -> tuple[str, Preview]:
    """The text to store in place of a long one, and what it says."""
    preview = Preview(
        start=text[:_PREVIEW_CHARACTERS], length=len(text), sha256=hashlib.sha256(text.encode()).hexdigest()
    )
    return f'{preview.start}… [withrun: {preview.length} characters, whole in "{preview.path}"]', preview


def is_preview(text: str) -> bool:
    """Whether a stored text stands for a longer one."""
    return text.endswith(_PREVIEW_END) and _PREVIEW.fullmatch(text) is not None


def parse_preview(text: str) -> Preview | None:
    """What a preview says, or None if the text is none."""
    found = _PREVIEW.fullmatch(text) if text.endswith(_PREVIEW_END) else None
    if found is None:
        return None
    return Preview(start=found.group(1), length=int(found.group(2)), sha256=found.group(3))
