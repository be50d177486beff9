"""PCRE2, which MongoDB's regular expressions are, where the system has its library: an independent answer."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable

_FLAGS = {"i": 0x00000008, "m": 0x00000400, "s": 0x00000020, "x": 0x00000080}
_UTF = 0x00080000


def find_library() -> str | None:
    """The name of the library, or None if the system has none."""
    return ctypes.util.find_library("pcre2-8")


def compile_pattern(name: str, source: str, options: str) -> Callable[[str], bool] | None:
    """A function that says whether the pattern finds something in a text; None if it is no pattern."""
    library = ctypes.CDLL(name)
    library.pcre2_compile_8.restype = ctypes.c_void_p
    library.pcre2_match_data_create_8.restype = ctypes.c_void_p
    encoded = source.encode()
    error, offset = ctypes.c_int(), ctypes.c_size_t()
    flags = sum(_FLAGS[letter] for letter in options) | _UTF
    code = library.pcre2_compile_8(
        ctypes.c_char_p(encoded),
        ctypes.c_size_t(len(encoded)),
        ctypes.c_uint32(flags),
        ctypes.byref(error),
        ctypes.byref(offset),
        None,
    )
    if code is None:
        return None
    data = ctypes.c_void_p(library.pcre2_match_data_create_8(ctypes.c_uint32(1), None))

    def finds(text: str) -> bool:
        subject = text.encode()
        found = library.pcre2_match_8(
            ctypes.c_void_p(code),
            ctypes.c_char_p(subject),
            ctypes.c_size_t(len(subject)),
            ctypes.c_size_t(0),
            ctypes.c_uint32(0),
            data,
            None,
        )
        return bool(found >= 0)

    return finds
