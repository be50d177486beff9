"""Regular expressions: what MongoDB's mean, in Python's."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from tests.query import pcre2
from withrun.errors import InvalidArgument
from withrun.providers.mlflow.filter_words import Words, literal_beginning
from withrun.query.language import parse
from withrun.query.match import compile_query
from withrun.query.regex import compile_pattern

WORDS = r"""
a b A k K s ſ ß i İ ı I ü 1 ٣ _ % - é Σ
\. \\ \d \D \w \W \s \S \b \B \A \Z \z \h \H \V \N \x41 \x{e9} \_ \Qa.b\E \E \e \cA \101 \o{101} \g{1}
[ab] [^a] [[:digit:]] [[:alpha:]x] [^[:^word:]i] [[:upper:]] [\w-] [^\w] [\W_] [a-z] [^a-z] [^i] [ı]
[]a] [\d.] [[a] [a&&b] [[:print:]] [\x41-\x{5a}] [a-] {2} {0,1} * + ? *? ^ $ . (a) (?:b)
(?i) (?-i) (?i:k) ( (?=a) (?!b) (?<=a) (?<!b) ) | # \# (?#x) (?s) (?m) (?x) (*UCP)
"""
PARTS = (*WORDS.split(), " ", "\n", "\u212a")
LETTERS = "abAkK\u212asSſßẞiİıIüÜ1٣_%- \n\r\t.*\\][{&#x\x85\u2028éÉσςΣ\x1b\x01"


@pytest.mark.parametrize(
    ("pattern", "options", "text", "expected"),
    [
        (r"^[[:digit:]]+$", "", "123", True),
        (r"^[[:digit:]]+$", "", "12d", False),
        (r"^[^[:space:]]+$", "", "a b", False),
        (r"^\d+$", "", "٣٤", False),
        (r"^\w+$", "", "ünï", False),
        (r"^[\w-]+$", "i", "\u212a", False),
        (r"(*UCP)^\w+$", "", "ünï", True),
        (r"^ünï$", "i", "ÜNÏ", True),
        (r"^i$", "i", "İ", False),
        (r"a\z", "", "a\n", False),
        (r"a\Z", "", "a\n", True),
        (r"a$", "", "a\n", True),
        (r"^$", "m", "a\n", False),
        (r"^b", "m", "a\nb", True),
        (r"a.b", "s", "a\nb", True),
        ("a b # c", "x", "ab", True),
        (r"\Qa.b\E$", "", "a.b", True),
        (r"\h\R", "", "\u3000\r\n", True),
        (r"a(?i)b|c", "", "C", True),
        (r"(?<x>a)\k<x>", "", "aa", True),
        ("[[a]", "", "[", True),
    ],
)
def test_a_text_is_a_pattern_of_mongodbs(pattern: str, options: str, text: str, expected: bool) -> None:
    """A pattern given as a text means what MongoDB's manual and PCRE2 say, not what Python would."""
    query = {"params.a": {"$regex": pattern, "$options": options}}
    assert compile_query(parse(query, "runs"))({"params": {"a": text}}) is expected


def test_a_compiled_pattern_is_pythons() -> None:
    """What the user compiled keeps Python's meaning, and options are added to its own flags."""
    for query in (re.compile(r"^\w+$"), {"$regex": re.compile(r"^\w+$")}, {"$in": [re.compile(r"^\w+$")]}):
        assert compile_query(parse({"params.a": query}, "runs"))({"params": {"a": "ünï"}})
    added = {"$regex": re.compile("^X"), "$options": "i"}
    assert compile_query(parse({"params.a": added}, "runs"))({"params": {"a": "x"}})


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            r"\p{L}",
            "(?R)",
            "(?1)",
            "(*SKIP)",
            "[[:foo:]]",
            "[[.a.]]",
            "(?<=a*)b",
            "[",
            "a\\",
            r"\y",
            "(?|a)",
        ),
        *(r"\c", r"a\cé", r"\x{41", r"\x{}", r"\u0041", r"[\U00000041]"),
        *(r"[\d-z]", "[[:digit:]-z]", r"[a\W-\]]", "[:digit:]"),
    ],
)
def test_what_python_cannot_say_is_refused(pattern: str) -> None:
    """A pattern that could only mean something else here is an error that names it."""
    with pytest.raises(InvalidArgument) as caught:
        parse({"params.a": {"$regex": pattern}}, "runs")
    assert repr(pattern) in str(caught.value)


def test_patterns_find_what_pcre2_finds() -> None:
    """Thousands of generated patterns find the same as PCRE2 itself, or are refused."""
    library = pcre2.find_library()
    if library is None:
        pytest.skip("the system has no PCRE2 to compare with")
    rng = random.Random(14)
    compared = 0
    for _ in range(4000):
        source = "".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 7)))
        options = "".join(letter for letter in "imsx" if rng.random() < 0.25)
        finds = pcre2.compile_pattern(library, source, options)
        try:
            pattern = compile_pattern(source, options)
        except re.error:
            continue
        for _ in range(5 if finds else 0):
            text = "".join(rng.choice(LETTERS) for _ in range(rng.randrange(6)))
            found = pattern.search(text) is not None
            assert found is (finds is not None and finds(text)), (source, options, text)
            compared += 1
    assert compared > 5000


@pytest.mark.parametrize(
    ("pattern", "options", "expected"),
    [
        (r"^adam\d+", "", ("adam", True)),
        (r"^adam[\w-]+x|y", "", None),
        (r"^adam(w|x)", "", ("adam", True)),
        (r"^adam[|]", "", ("adam", True)),
        (r"^Initial", "i", ("Initial", True)),
        (r"^li?", "i", ("l", True)),
        (r"^ada m # name", "x", ("adam", True)),
        (r"^adam", "m", ("adam", False)),
        (r"\Qa.b\E", "", ("a.b", False)),
    ],
)
def test_the_beginning_of_a_translated_pattern_is_seen(pattern: str, options: str, expected: Any) -> None:
    """What is pushed down of a pattern is its literal beginning, also where it had to be translated."""
    assert literal_beginning(compile_pattern(pattern, options)) == expected


def test_a_store_is_asked_for_no_more_than_it_can_see() -> None:
    """SQLite's LIKE ends at U+0000, so what is asked of it ends there too."""
    words = Words(like_spans_lines=True)
    assert words.equal_to("a\0b") == "LIKE 'a%'"
    assert words.like(compile_pattern("^a\0b")) == "LIKE 'a%'"
