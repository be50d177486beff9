"""Values longer than the store takes: kept whole as artifacts of their run, with previews in the store."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Literal

from withrun.errors import ArtifactNotFound, InvalidArgument, TransferError
from withrun.previews import Preview, make_preview
from withrun.schema import Run
from withrun.services.artifacts import ArtifactService, of_run
from withrun.services.writes import WritePath

__all__ = [
    "MAX_PARAM_LENGTH",
    "MAX_TAG_LENGTH",
    "OLD_MAX_TAG_LENGTH",
    "LongValues",
    "OnLongValue",
    "max_tag_length",
]

logger = logging.getLogger("withrun")

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
        artifacts: where the whole texts are read.
        writes: how they get there.
        on_long_value: `"artifact"`, or `"error"` to refuse them.
    """

    def __init__(self, artifacts: ArtifactService, writes: WritePath, on_long_value: OnLongValue) -> None:
        self._artifacts = artifacts
        self._writes = writes
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

    def publish(self, run_id: str, whole: list[str]) -> None:
        """Keep whole texts as artifacts of their run, in the order of logging, before their previews."""
        for text in whole:
            self._writes.spool_file(run_id, make_preview(text)[1].path, text.encode())

    def whole(self, run: Run, preview: Preview) -> str | None:
        """Fetch the text that a preview stands for, and check that it is that text.

        None, with a warning, if it is gone: that one value must not make its run unreadable, nor every search
        that meets the run. The preview, which says that it is one, stays.
        """
        try:
            content = self._artifacts.load(of_run(run, preview.path), Path.read_bytes)
        except ArtifactNotFound as exc:
            logger.warning(
                "run %s keeps a value of %d characters in %s, which can't be read: %s",
                run.id,
                preview.length,
                preview.path,
                exc,
            )
            return None
        if hashlib.sha256(content).hexdigest() != preview.sha256:
            raise TransferError(f"{preview.path} of run {run.id} is not the value that was logged there")
        return content.decode()


def max_tag_length(server_version: str) -> int:
    """Characters of a run tag's value that a server of that version takes; the least if it doesn't tell."""
    parts = server_version.split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
        return OLD_MAX_TAG_LENGTH
    return MAX_TAG_LENGTH if (int(parts[0]), int(parts[1])) >= (2, 19) else OLD_MAX_TAG_LENGTH
