"""Every error that withrun raises, in one tree.

```
WithrunError
├── NotFound (LookupError)                an experiment, run, model or version that is not there
├── AlreadyExists                         a name or version that is taken
│   └── TargetExists (FileExistsError)    something is where an artifact was to be placed
├── InvalidArgument (ValueError)          a key, value, query, option or field that can't be used
│   └── IllegalPath                       a path that is absolute, empty or climbs out of its folder
├── NoActiveRun                           a verb that needs an active run, and none is
├── RunAlreadyActive                      a run started inside another's block without saying how they relate
├── RunClosed                             a run that is over can't be entered or ended again
├── OfflineError                          the call needs the server, and the API is offline
│   └── NotCached (NotFound)              … and its cache does not hold the entity
├── ServerError                           the server answered, and refused or failed (.status, .code)
│   └── Refused                           … some of what was logged; all else went through (.refusals)
├── ServerUnreachable (ConnectionError)   no answer from the server
├── ArtifactNotFound (FileNotFoundError)  a run or version holds nothing at that path
│   ├── ArtifactNotCached (OfflineError)  … as far as the cache goes, and the API is offline
│   └── BucketNotFound (TransferError)    … nor does its storage have the bucket
├── FailedToPublishArtifact               publishing failed; .source names what was kept
├── TransferError                         an upload or download failed
├── CacheError                            the cache can't be used as asked
├── JournalError                          the journal can't take or give a record
└── MissingDependency (ImportError)       an optional package is needed; the message names the extra
```

A message says what was asked, what was found, and the way out. Credentials never appear in one. Beside these,
`flush(timeout)` raises Python's own `TimeoutError`, and loaders and dumpers pass whatever they raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AlreadyExists",
    "ArtifactNotCached",
    "ArtifactNotFound",
    "BucketNotFound",
    "CacheError",
    "FailedToPublishArtifact",
    "IllegalPath",
    "InvalidArgument",
    "JournalError",
    "MissingDependency",
    "NoActiveRun",
    "NotCached",
    "NotFound",
    "OfflineError",
    "Refused",
    "RunAlreadyActive",
    "RunClosed",
    "ServerError",
    "ServerUnreachable",
    "TargetExists",
    "TransferError",
    "WithrunError",
]


class WithrunError(Exception):
    """Root of all errors that withrun raises."""


class NotFound(WithrunError, LookupError):
    """An experiment, run, model or version does not exist; says what was asked."""


class AlreadyExists(WithrunError):
    """A name or version to be created is taken."""


class TargetExists(AlreadyExists, FileExistsError):
    """Something is at the path where an artifact was to be placed, and may not be replaced."""


class InvalidArgument(WithrunError, ValueError):
    """A key, value, path, query, option or configuration field can't be used as given."""


class IllegalPath(InvalidArgument):
    """A path inside a run or folder is absolute, empty where it may not be, or climbs out."""


class NoActiveRun(WithrunError):
    """A verb needs an active run, and the current context has none."""


class RunAlreadyActive(WithrunError):
    """A run was to start inside another's block without saying how the two relate."""


class RunClosed(WithrunError):
    """A run that is over was to be entered or ended again."""


class OfflineError(WithrunError):
    """The call needs the server's word, and the API is in offline mode."""


class ServerError(WithrunError):
    """The server answered, and refused or failed.

    Attributes:
        status: HTTP status of the answer; for an embedded store the one that MLflow gives such an error.
        code: the store's own error code, such as `RESOURCE_DOES_NOT_EXIST`; empty if it gave none.
        retry_after: seconds that the server asks to wait before the next attempt; None if it does not say.
        foreign: the answer is none of the store's: a gateway, a proxy or a login page gave it in its place.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "",
        retry_after: float | None = None,
        foreign: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.foreign = foreign


class Refused(ServerError):
    """The server would not take some of what was logged; all else went through.

    Attributes:
        refusals: what was refused: each with its `call`, `reason` and `run_id`.
    """

    def __init__(self, message: str, refusals: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.refusals = refusals


class ServerUnreachable(WithrunError, ConnectionError):
    """No answer came from the server within the time allowed."""


class NotCached(OfflineError, NotFound):
    """The API is offline, and its cache does not hold the experiment, run, model or version."""


class ArtifactNotFound(WithrunError, FileNotFoundError):
    """A run or model version holds nothing at that path."""


class ArtifactNotCached(OfflineError, ArtifactNotFound):
    """The API is offline, and its cache does not hold the artifact."""


class FailedToPublishArtifact(WithrunError):
    """An artifact could not be published; nothing of it was lost.

    Attributes:
        source: the file or folder that was to be published, kept where it is.
    """

    def __init__(self, message: str, *, source: Path) -> None:
        super().__init__(message)
        self.source = source


class TransferError(WithrunError):
    """An upload or download failed."""


class BucketNotFound(TransferError, ArtifactNotFound):
    """The bucket or container in an artifact's URL does not exist: nothing is there, nor can be put there."""


class CacheError(WithrunError):
    """The cache can't be used as asked."""


class JournalError(WithrunError):
    """The journal can't take or give back a record."""


class MissingDependency(WithrunError, ImportError):
    """An optional package is needed for this call; the message names the extra that brings it."""
