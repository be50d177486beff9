"""Values longer than the store takes: kept whole as artifacts of their run, with previews in the store."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Literal

from withrun.errors import ArtifactNotFound, InvalidArgument, TransferError
from withrun.schema import Run
from withrun.services.artifacts import ArtifactService, of_run
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


class LongValues:
    """Moves long values into artifacts and back.

    Args:
        artifacts: where the whole texts go.
        on_long_value: `"artifact"`, or `"error"` to refuse them.
    """

    def __init__(self, artifacts: ArtifactService, on_long_value: OnLongValue) -> None:
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
            path = make_preview(text)[1].path
            # Named by its digest: what lies there already is that text, unless its upload was cut off.
            if self._artifacts.size(of_run(run, path)) != len(text.encode()):
                self._artifacts.log(run, partial(_write, text), path)

    def whole(self, run: Run, preview: Preview) -> str:
        """Fetch the text that a preview stands for, and check that it is that text."""
        try:
            content = self._artifacts.load(of_run(run, preview.path), Path.read_bytes)
        except ArtifactNotFound as exc:
            raise ArtifactNotFound(
                f"run {run.id} keeps a value of {preview.length} characters in {preview.path}, "
                f"which can't be read: {exc}"
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


def _write(text: str, target: Path) -> None:
    target.write_bytes(text.encode())
