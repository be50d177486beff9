"""Where the cache keeps what: the one place that turns IDs and paths into names on the disk.

```
cache_dir/
├── metadata/                       see `metadata.py`
├── artifacts/
│   └── OWNER/                      a run, by its ID, or an outside source, by the hash of its URL
│       ├── changes                 the log of what was published to the run
│       └── ENTRY/                  one artifact, by the hash of its path in the run
│           ├── path.json           that path
│           ├── current -> VERSION  what is served; in an export the version itself
│           ├── placed -> VERSION   what placed links lead to, served or not; only where there are any
│           ├── links               where those are
│           ├── VERSION/            named by when its pull began, so that the newer has the greater name
│           │   ├── manifest.json   path, sizes and hashes; empty until all is hashed and on the disk
│           │   ├── sealed.json     the same before that, with hashes if it is small; then empty
│           │   ├── lent            only where a user's own file became a link to this: its path
│           │   └── content/NAME    the artifact, under the last segment of its path
│           └── part/               a pull that is under way, or was cut off
├── staging/                        copies of what is being published just now, one folder each
└── locks/                          one file per artifact that was ever pulled here, or published as a version
```

IDs and paths come from servers and users. None is used as a name before it was checked or hashed, and no name
that the cache itself uses lies beside one that they choose.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

__all__ = ["HOMES", "ROOT_NAME", "Key", "overlap", "owner_of_run", "owner_of_source", "safe_name"]

ROOT_NAME = "artifacts"
"""How all of a run's artifacts are called as one folder."""

HOMES = ("metadata", "artifacts", "staging", "locks")
"""The folders in a `cache_dir`; it may hold others of the user's."""

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


def safe_name(text: str) -> str:
    """Return `text` if it is a harmless file name anywhere, else a hash of it that looks like none."""
    return text if _SAFE.fullmatch(text) else "~" + _digest(text)


def owner_of_run(run_id: str) -> str:
    """Return the name of the folder for a run."""
    return safe_name(run_id)


def owner_of_source(url: str) -> str:
    """Return the name of the folder for artifacts that lie below `url`, outside of any run."""
    return "@" + _digest(url)


@dataclass(frozen=True)
class Key:
    """An artifact: the owner's folder name, and a plain relative path, empty for all that the owner has."""

    owner: str
    path: str

    @property
    def folder(self) -> str:
        """The folder of the artifact, relative to `artifacts/`."""
        return f"{self.owner}/{_digest(self.path)}"

    @property
    def name(self) -> str:
        """The artifact's own name."""
        return self.path.rpartition("/")[2] or ROOT_NAME

    def above(self) -> Key:
        """The folder that holds this artifact."""
        return Key(self.owner, self.path.rpartition("/")[0])

    def overlaps(self, path: str) -> bool:
        """Whether one of the two holds, or is, the other."""
        return overlap(self.path, path)

    def __str__(self) -> str:
        return f"{self.path or 'all artifacts'!r} of {self.owner}"


def overlap(one: str, other: str) -> bool:
    """Whether one of two paths holds, or is, the other; the empty one holds all."""
    parts, others = _parts(one), _parts(other)
    shared = min(len(parts), len(others))
    return parts[:shared] == others[:shared]


def _parts(path: str) -> list[str]:
    return path.split("/") if path else []


def _digest(text: str) -> str:
    # `fsencode` takes what no Unicode is, too.
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]
