"""ObjMeta: what a listing says of one file or folder, in the words of `rclone lsjson`."""

from __future__ import annotations

import mimetypes
from datetime import datetime
from typing import Union

from pydantic import BaseModel, ConfigDict

__all__ = ["ObjMeta", "guess_mime_type"]


class ObjMeta(BaseModel):
    """One file or folder in a listing.

    Attributes:
        Path: the path below the folder that was listed; the name, for a file that was listed itself.
        Name: the last segment of the path.
        Size: in bytes; -1 for folders, and where the store does not tell.
        MimeType: guessed from the name where the store does not tell; `inode/directory` for a folder.
        ModTime: when it was written, timezone-aware; None where the store does not tell.
        IsDir: whether it is a folder.
    """

    # `ignore`: lsjson adds what a backend has beside these (ID, Tier, Hashes).
    model_config = ConfigDict(frozen=True, extra="ignore")

    Path: str
    Name: str
    Size: int = -1
    MimeType: str = ""
    ModTime: Union[datetime, None] = None  # noqa: UP007 - pydantic evaluates it on Python 3.10
    IsDir: bool = False

    @classmethod
    def of(cls, path: str, *, is_dir: bool, size: int = -1, mod_time: datetime | None = None) -> ObjMeta:
        """Describe the file or folder at `path`, with its type guessed from its name."""
        name = path.rpartition("/")[2]
        mime = "inode/directory" if is_dir else guess_mime_type(name)
        return cls(
            Path=path, Name=name, Size=-1 if is_dir else size, MimeType=mime, ModTime=mod_time, IsDir=is_dir
        )


def guess_mime_type(name: str) -> str:
    """Guess a MIME type by the name's extension; `application/octet-stream` where it tells nothing."""
    return mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"
