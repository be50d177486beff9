"""Values longer than the store takes: kept whole as artifacts of their run, with previews in the store."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, Protocol

from withrun.errors import ArtifactNotFound, InvalidArgument, TransferError
from withrun.schema import Run
from withrun.values import Preview, make_preview

__all__ = [
    "MAX_PARAM_LENGTH",
    "MAX_TAG_LENGTH",
    "OLD_MAX_TAG_LENGTH",
    "LongValues",
    "OnLongValue",
    "max_tag_length",
]

MAX_PARAM_LENGTH = 6000
"""Characters of a param's value, MLflow's limit since 2.8."""
MAX_TAG_LENGTH = 8000
"""Characters of a run tag's value, MLflow's limit since 2.19."""
OLD_MAX_TAG_LENGTH = 5000
"""Characters of a run tag's value before MLflow 2.19, which cut longer ones without an error."""

OnLongValue = Literal["artifact", "error"]


class ArtifactStore(Protocol):
    """What long values need of the artifact service."""

    def put_text(self, run: Run, path_in_run: str, text: str) -> None:
        """Publish a small text file, once."""

    def get(self, run: Run, path_in_run: str) -> Path:
        """A local path of an artifact."""


class LongValues:
    """Moves long values into artifacts and back.

    Args:
        artifacts: where the whole texts go.
        on_long_value: `"artifact"`, or `"error"` to refuse them.
    """

    def __init__(self, artifacts: ArtifactStore, on_long_value: OnLongValue) -> None:
        self._artifacts = artifacts
        self._on_long_value = on_long_value

    def shorten(self, texts: dict[str, str], limit: int, kind: str) -> tuple[dict[str, str], list[str]]:
        """The texts to store, with previews in place of long ones, and those whole, to be published.

        Raises:
            InvalidArgument: there is a long one, and they are errors by configuration.
        """
        stored, whole = dict(texts), []
        for key, text in texts.items():
            if len(text) <= limit:
                continue
            if self._on_long_value == "error":
                raise InvalidArgument(
                    f"{kind} {key!r} has {len(text)} characters and the store takes {limit}; "
                    'on_long_value="artifact" keeps such values whole as artifacts'
                )
            stored[key] = make_preview(text)[0]
            whole.append(text)
        return stored, whole

    def publish(self, run: Run, whole: list[str]) -> None:
        """Keep whole texts as artifacts of their run. To be done before a preview of them is stored."""
        for text in whole:
            self._artifacts.put_text(run, make_preview(text)[1].path, text)

    def whole(self, run: Run, preview: Preview) -> str:
        """Fetch the text that a preview stands for, and check that it is that text."""
        try:
            content = self._artifacts.get(run, preview.path).read_bytes()
        except ArtifactNotFound as exc:
            raise ArtifactNotFound(
                f"run {run.id} keeps a value of {preview.length} characters in {preview.path}, "
                "and that artifact is gone"
            ) from exc
        if hashlib.sha256(content).hexdigest() != preview.sha256:
            raise TransferError(f"{preview.path} of run {run.id} is not the value that was logged there")
        return content.decode()


def max_tag_length(server_version: str) -> int:
    """Characters of a run tag's value that a server of that version takes; the least if it doesn't tell."""
    parts = server_version.split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
        return OLD_MAX_TAG_LENGTH
    return MAX_TAG_LENGTH if (int(parts[0]), int(parts[1])) >= (2, 19) else OLD_MAX_TAG_LENGTH
