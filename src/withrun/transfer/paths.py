"""Relative paths that stay inside their root: the one place where a path is judged.

Paths inside a run come from users, names in a listing come from a server, and both end up joined to a
folder of this machine or to a URL. What passes here can climb out of neither.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path, PurePath

from withrun.errors import IllegalPath

__all__ = ["ABSENT", "check_link", "check_name", "check_relative", "inside"]

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
"""Errors of looking at a path that mean "nothing is there": below a file, or under too long a name."""

_DRIVE = re.compile(r"[A-Za-z]:")


def check_relative(path: str | PurePath, *, what: str = "path") -> str:
    """Return `path` as a plain relative POSIX path (`a/b`), or raise `IllegalPath`.

    Doubled and trailing slashes and `.` segments fall away, as `pathlib` drops them. Refused are paths
    that are absolute, empty, that hold a `..` segment (also one between backslashes), a drive letter, a
    NUL, or text that is no Unicode.

    Args:
        path: what was asked for.
        what: how the error calls it, such as `path_in_run`.
    """
    text = path.as_posix() if isinstance(path, PurePath) else path
    _check_text(text, what)
    if text.startswith(("/", "\\")):
        raise _illegal(what, text, "is absolute")
    if _DRIVE.match(text):
        raise _illegal(what, text, "starts with a drive letter")
    return _plain(text, what)


def check_name(name: str, *, what: str = "name in a listing") -> str:
    r"""Return a path that a server listed if it is plain and relative, or raise `IllegalPath`.

    Stricter than `check_relative` in that nothing is mended (a server has no reason to send `a//b`), and
    laxer in that `a:b` and `\a` are names: they can't climb on the platforms that this runs on.
    """
    _check_text(name, what)
    if name.startswith("/"):
        raise _illegal(what, name, "is absolute")
    if _plain(name, what) != name:
        raise _illegal(what, name, "has empty or `.` segments")
    return name


def inside(root: Path, relative: str | PurePath) -> Path:
    """Return `root / relative`, proved to lie inside `root` with all symlinks followed.

    Raises:
        IllegalPath: the path is not a plain relative one, or a symlink on its way leads out of `root`.
    """
    checked = check_relative(relative)
    found = Path(os.path.realpath(root / checked))
    real_root = Path(os.path.realpath(root))
    if not found.is_relative_to(real_root):
        raise _illegal("path", checked, f"leads out of {str(root)!r} through a symlink, to {str(found)!r}")
    return root / checked


def check_link(link: Path, root: Path) -> None:
    """Raise `IllegalPath` if the symlink `link`, found below `root`, leads out of it."""
    found = Path(os.path.realpath(link))
    if not found.is_relative_to(os.path.realpath(root)):
        raise IllegalPath(
            f"The symlink {str(link)!r} leads out of {str(root)!r}, to {str(found)!r}, and is not followed. "
            "Remove it; publish what it leads to, if that belongs there."
        )


def _check_text(text: str, what: str) -> None:
    if "\0" in text:
        raise _illegal(what, text, "holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _illegal(what, text, "can't be encoded as UTF-8") from error


def _plain(text: str, what: str) -> str:
    if any(segment == ".." for segment in re.split(r"[/\\]", text)):
        raise _illegal(what, text, "climbs with `..`")
    plain = "/".join(segment for segment in text.split("/") if segment not in ("", "."))
    if not plain:
        raise _illegal(what, text, "is empty")
    return plain


def _illegal(what: str, text: str, why: str) -> IllegalPath:
    return IllegalPath(
        f"{what} {text!r} {why}. Give a plain relative path with forward slashes, such as 'models/best.pt'."
    )
