"""Records: what the journal keeps, and how one is framed on disk.

A record is a msgpack array `[kind, run number, …]`; NaN and infinities survive. A frame is eight bytes of
header and the encoded record: a marked length, and the CRC of the payload. A frame that was cut off, by a
kill or a full disk, doesn't verify and counts as none; after damage the mark helps to find the next one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from withrun.errors import InvalidArgument

__all__ = [
    "ArtifactIntent",
    "ExperimentIntent",
    "Kind",
    "ModelIntent",
    "RunIntent",
    "VersionIntent",
    "decode",
    "frame",
    "parse",
    "resync",
]


class Kind:
    """The kinds of record; plain ints, because one is encoded with every call."""

    RUN = 0
    """`[RUN, no, run ID, uid]`: introduces a run's number, in each segment before its first use."""
    METRIC = 1
    """`[METRIC, no, key, value, timestamp, step]`"""
    METRICS = 2
    """`[METRICS, no, timestamp, step, {key: value}]`"""
    PARAMS = 3
    """`[PARAMS, no, logged at, {key: value}]`"""
    TAGS = 4
    """`[TAGS, no, logged at, {key: value}]`"""
    DELETE_TAG = 5
    """`[DELETE_TAG, no, logged at, key]`"""
    STATUS = 6
    """`[STATUS, no, logged at, status, end time or None]`"""
    CREATE = 7
    """`[CREATE, no, logged at, RunIntent]`: a run that the server does not know yet."""
    INPUTS = 8
    """`[INPUTS, no, logged at, [DatasetInput]]`"""
    ARTIFACT = 9
    """`[ARTIFACT, no, logged at, ArtifactIntent]`"""
    VERSION = 10
    """`[VERSION, no, logged at, VersionIntent]`"""
    EXPERIMENT = 11
    """`[EXPERIMENT, 0, logged at, ExperimentIntent]`: get or create."""
    MODEL = 12
    """`[MODEL, 0, logged at, ModelIntent]`: get or create."""


class RunIntent(msgspec.Struct, frozen=True, array_like=True):
    """A run to be created.

    Attributes:
        uid: 32 hex digits, kept as the tag `withrun.uid`: by it the run is found again after a lost answer.
            The local ID of a run that started without the server.
        experiment_id: ID on the server, or the local ID of an `ExperimentIntent`.
        status: other than RUNNING is set right after the run is created.
        tags: all tags known at the start, MLflow's name and parent tags among them; a parent may be local.
    """

    uid: str
    experiment_id: str
    name: str | None
    start_time: int
    tags: dict[str, str] = {}
    status: str = "RUNNING"


class ArtifactIntent(msgspec.Struct, frozen=True, array_like=True):
    """An artifact to be published to a run.

    Attributes:
        spooled: file or folder to publish; a relative path lies in the journal's spool folder, is this
            intent's own, and is deleted once published.
        path_in_run: where it goes.
        uid: tells this intent from others.
        options: what the layer above needs to know besides; opaque here.
    """

    spooled: str
    path_in_run: str
    uid: str = ""
    options: dict[str, str] = {}


class VersionIntent(msgspec.Struct, frozen=True, array_like=True):
    """A model version to be registered from an artifact of the run.

    Attributes:
        uid: kept as the version's tag `withrun.uid`, so that it is registered once.
        local_version: the version number by which it was known without the server.
        spooled: file or folder to publish first, as for an artifact; empty if it was logged before.
    """

    uid: str
    model: str
    path_in_run: str
    tags: dict[str, str] = {}
    local_version: str = ""
    spooled: str = ""
    options: dict[str, str] = {}


class ExperimentIntent(msgspec.Struct, frozen=True, array_like=True):
    """An experiment to be found by name, or created."""

    local_id: str
    name: str
    tags: dict[str, str] = {}
    artifact_location: str | None = None


class ModelIntent(msgspec.Struct, frozen=True, array_like=True):
    """A registered model to be found by name, or created."""

    name: str
    tags: dict[str, str] = {}


HEADER = struct.Struct("<II")
MARK = 0xA5000000
MAX_PAYLOAD = 0x00FFFFFF
"""Bytes; what the marked length can hold."""

encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder().decode
pack_header: Callable[[int, int], bytes] = HEADER.pack
crc32 = zlib.crc32


def frame(record: object) -> bytes:
    """Encode and frame a record."""
    payload = encode(record)
    if len(payload) > MAX_PAYLOAD:
        raise InvalidArgument(
            f"a journal record of {len(payload):,} bytes was to be written; at most {MAX_PAYLOAD:,} fit. "
            "Log long values as artifacts, or in several calls."
        )
    return pack_header(len(payload) | MARK, crc32(payload)) + payload


def parse(buffer: bytes, position: int, payloads: list[bytes]) -> int:
    """Collect the payloads of the frames that follow one another; return where they stop.

    They stop at the end of `buffer`, at zeros (never written), at a frame that goes on beyond the buffer, or
    at one that does not verify.
    """
    unpack, end, add, check = HEADER.unpack_from, len(buffer), payloads.append, crc32
    while position + 8 <= end:
        marked, crc = unpack(buffer, position)
        start = position + 8
        stop = start + (marked & MAX_PAYLOAD)
        if marked & 0xFF000000 != MARK or stop > end:
            break
        payload = buffer[start:stop]
        if check(payload) != crc:
            break
        add(payload)
        position = stop
    return position


def resync(buffer: bytes, position: int) -> int:
    """Find the next frame that verifies at or after `position`; -1 if there is none."""
    end = len(buffer)
    at = buffer.find(b"\xa5", position + 3)
    while at != -1 and at + 7 <= end:
        begin = at - 3
        marked, crc = HEADER.unpack_from(buffer, begin)
        start, stop = begin + 8, begin + 8 + (marked & MAX_PAYLOAD)
        # Every record is a short array that starts with its kind: rules most chance marks out before the CRC.
        if (
            stop <= end
            and stop - start >= 2
            and buffer[start] & 0xF0 == 0x90
            and buffer[start + 1] <= Kind.MODEL
        ):
            payload = buffer[start:stop]
            if crc32(payload) == crc:
                return begin
        at = buffer.find(b"\xa5", at + 1)
    return -1


def strings(mapping: Mapping[str, str]) -> dict[str, str]:
    """A plain dict of a mapping, as the encoder takes it."""
    return mapping if type(mapping) is dict else dict(mapping)
