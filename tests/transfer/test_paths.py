"""What paths are let through, and that nothing gets out of its root."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from withrun.errors import IllegalPath
from withrun.transfer import check_relative, inside, join_url
from withrun.transfer.paths import check_name
from withrun.transfer.urls import has_password, local_path, name_of, redact, scheme_of

ILLEGAL = [
    "",
    ".",
    "./",
    "/",
    "//",
    "///x",
    "/etc/passwd",
    "..",
    "../x",
    "../../x",
    "a/../../x",
    "a/..",
    "a/../b",
    "./../x",
    "..\\x",
    "a\\..\\..\\x",
    "\\x",
    "\\\\host\\share",
    "C:\\x",
    "c:/x",
    "C:",
    "a\0b",
    "\0",
    "a/\udc80",
    "..\\",
]


@pytest.mark.parametrize("path", ILLEGAL, ids=ascii)
def test_illegal_paths_are_refused(path: str) -> None:
    """Absolute, climbing, empty and unencodable paths raise IllegalPath, which is a ValueError."""
    with pytest.raises(IllegalPath) as caught:
        check_relative(path)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("a", "a"),
        ("a/b.txt", "a/b.txt"),
        ("a//b/", "a/b"),
        ("./a/./b", "a/b"),
        ("...", "..."),
        ("..a/b..", "..a/b.."),
        (" ", " "),
        ("ü/日本", "ü/日本"),
        ("$(x)/`y`", "$(x)/`y`"),
        ("-rf", "-rf"),
        ("a\\b", "a\\b"),
        ("~", "~"),
    ],
)
def test_legal_paths_become_plain(path: str, plain: str) -> None:
    """Every other name is allowed, and comes back without redundant slashes and dots."""
    assert check_relative(path) == plain
    if "//" not in path:
        assert check_relative(PurePosixPath(path)) == plain


@pytest.mark.parametrize("name", ["a//b", "./a", "a/", "/a", "..", "", "a/./b", "x\0"], ids=ascii)
def test_listed_names_are_not_mended(name: str) -> None:
    """A listed name that is not plain already is refused."""
    with pytest.raises(IllegalPath):
        check_name(name)
    assert check_name("a:b/c") == "a:b/c"


def test_inside_follows_symlinks(tmp_path: Path) -> None:
    """A path that leads out through a symlink is refused, one within is not, and a missing one is fine."""
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to("real")
    (root / "up").symlink_to("../root/real/../..")
    assert inside(root, "in/x") == root / "in" / "x"
    assert inside(root, "missing/x") == root / "missing" / "x"
    for bad in ("out", "out/x", "up/x", "out/root/../../x"):
        with pytest.raises(IllegalPath):
            inside(root, bad)
    alias = tmp_path / "alias"
    alias.symlink_to(root)
    assert inside(alias, "real/x") == alias / "real" / "x"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/a/b", "/a/b"),
        ("file:///a%20b/%C3%BC", "/a b/ü"),
        ("file:/a/b", "/a/b"),
        ("file://localhost/a", "/a"),
        ("/a%20b", "/a%20b"),
        ("/a:b/c", "/a:b/c"),
        ("s3://bucket/key", None),
        ("mlflow-artifacts:/x", None),
    ],
)
def test_local_paths_of_urls(url: str, path: str | None) -> None:
    """Only file: URLs are percent-decoded, and only plain paths and file: URLs are local."""
    assert local_path(url) == (Path(path) if path else None)


def test_joining_and_naming() -> None:
    """A relative path joined to a URL is what name_of finds there, with encoding just for file: URLs."""
    assert join_url("file:///a", "b c/d%") == "file:///a/b%20c/d%25"
    assert local_path(join_url("file:///a", "b c/d%")) == Path("/a/b c/d%")
    assert join_url("s3://bucket/x/", "b c/d%") == "s3://bucket/x/b c/d%"
    assert [name_of(u) for u in ("s3://bucket", "s3://b/k/", "mlflow-artifacts:/1/m", "/a/b")] == [
        "",
        "k",
        "m",
        "b",
    ]
    assert scheme_of("a:b") == scheme_of("C:/x") == ""
    with pytest.raises(IllegalPath):
        join_url("s3://bucket/x", "../y")


def test_redacted_urls_show_no_credentials() -> None:
    """User, password and query never appear."""
    assert redact("s3://user:secret@host/p?sig=abc") == "s3://host/p"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sftp://u:p@ss@host/x", "sftp://host/x"),
        ("sftp://u:p/w@host:22/x", "sftp://host:22/x"),
        ("sftp://u:p?w#@host/x", "sftp://host/x"),
        ("sftp://u:p w@[::1]:22/x@y", "sftp://[::1]:22/x@y"),
        ("http://[::1]:80/me@here", "http://[::1]:80/me@here"),
        ("http://host:80/me@here", "http://host:80/me@here"),
        ("s3://bucket/a//x:y@z", "s3://bucket/a//x:y@z"),
    ],
)
def test_odd_passwords_are_redacted_and_paths_are_not(url: str, shown: str) -> None:
    """A password goes whole, also one with `@`, `/` or `?` in it; an `@` in the path stays."""
    assert redact(url) == shown
    assert has_password(url) == (url != shown)
