r"""Regular expressions as MongoDB reads them, which are PCRE2's in UTF mode, for Python's `re`.

A text given to `$regex` is translated, so that it means here what it means there; what `re` can't say is
refused. Where the two differ:

- `\w \d \s \b` and the POSIX classes (`[[:digit:]]`) know ASCII alone, as MongoDB's manual says, unless the
  pattern begins with `(*UCP)`. With `i`, letters fold beyond ASCII too; `ı` and `İ` are no forms of `i`.
- `\z` is the end, `\Z` and `$` are that or before a last line break; with `m`, `^` is not behind the last.
- `\h \H \v \V \R \N`, `\Q…\E`, `\x{…}`, `(?<name>…)`, and `(?i)` wherever it stands, are PCRE's.
- Refused: properties (`\p{L}`), recursion, verbs other than `(*UCP)` and `(*UTF)`, references to groups that
  come later, and looking back over a variable length.

A compiled pattern is Python's, and keeps the meaning that Python gives it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

__all__ = ["LINE_START", "NOT_TURKISH", "compile_pattern"]

LINE_START: Final = r"(?:^|(?<=\n)(?!\Z))"
"""What `^` becomes with the option `m`."""

NOT_TURKISH: Final = "(?-i:(?<![ıİ]))"
"""Put behind an `i` without case, which Python finds in these too."""

_SPACE: Final = r"\t-\r "
_HORIZONTAL: Final = "\\t \xa0\u1680\u180e\u2000-\u200a\u202f\u205f\u3000"
_VERTICAL: Final = "\\n-\\r\x85\u2028\u2029"

_SETS: Final = {"d": "0-9", "s": _SPACE, "w": "0-9A-Z_a-z", "h": _HORIZONTAL, "v": _VERTICAL}
"""Escapes for one of a set of characters, as what a class holds; a capital is for one of all others."""

_POSIX: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": _SPACE,
    "upper": "A-Z",
    "word": "0-9A-Z_a-z",
    "xdigit": "0-9A-Fa-f",
}
_CONTROLS: Final = {"a": "\a", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_PLACES: Final = {"A": r"\A", "z": r"\Z", "Z": r"(?=\n?\Z)"}
_ANY: Final = "(?s:.)"
_LINE_BREAK: Final = r"(?:\r\n|\r(?!\n)|[\n\x0b\f\x85" + "\u2028\u2029])"

_VERB: Final = re.compile(r"\(\*(UCP|UTF8?)\)")
_QUANTIFIER: Final = re.compile(r"[*+?]|\{[0-9]+(?:,[0-9]*)?\}")
_NUMBERED: Final = re.compile(r"x\{([0-9a-fA-F]{1,6})\}|x(?!\{)([0-9a-fA-F]{0,2})|N\{U\+([0-9a-fA-F]{1,6})\}")
_OCTAL: Final = re.compile(r"o\{([0-7]{1,7})\}|(0[0-7]{0,2})")
_OCTAL_IN_CLASS: Final = re.compile(r"o\{([0-7]{1,7})\}|([0-7]{1,3})")
_REFERENCE: Final = re.compile(r"k(?:<(\w+)>|'(\w+)'|\{(\w+)\})|g\{?([0-9]{1,2})\}?|g\{(\w+)\}|([1-9][0-9]*)")
_NAMED: Final = re.compile(r"\(\?(?:P?<([A-Za-z_]\w*)>|'([A-Za-z_]\w*)')")
_FLAGS: Final = re.compile(r"\(\?([imsx]*)(?:-([imsx]+))?([:)])")
_PLAIN_GROUP: Final = re.compile(r"\(\?(?:[=!>]|<[=!]|\(\w+\))")
_NAMED_REFERENCE: Final = re.compile(r"\(\?P=\w+\)")
_POSIX_CLASS: Final = re.compile(r"\[:(\^?)(\w+):\]")
_X_SPACE: Final = " \t\n\r\f\v\x85\u200e\u200f\u2028\u2029"


def compile_pattern(source: str, options: str = "") -> re.Pattern[str]:
    """Compile a pattern of MongoDB's with its options.

    Raises:
        re.error: it is no pattern, or says what Python can't.
    """
    return _Translator(source, options).compiled()


@dataclass
class _Scope:
    """A group, or the whole pattern: the options in force, and the groups opened for options inside it."""

    options: frozenset[str]
    opened: list[str] = field(default_factory=list)


class _Translator:
    """Reads a pattern from left to right, and writes each part as Python's."""

    def __init__(self, source: str, options: str) -> None:
        self.source = source
        self.at = 0
        """How far it is read."""
        self.out: list[str] = []
        self.scopes = [_Scope(frozenset(options))]
        self.unicode = False
        """Whether `\\w` and its kin know all of Unicode."""

    def compiled(self) -> re.Pattern[str]:
        while found := _VERB.match(self.source, self.at):
            self.unicode = self.unicode or found.group(1) == "UCP"
            self.at = found.end()
        # Flags at the very beginning hold for all, and leave the rest of the pattern easy to read.
        while (found := _FLAGS.match(self.source, self.at)) and found.group(3) == ")":
            self.scopes[0].options = self._changed(found)
            self.at = found.end()
        folded = self.folds
        while self.at < len(self.source):
            self._part()
        self.out.append(")" * len(self.scopes[0].opened))
        return re.compile("".join(self.out), re.IGNORECASE if folded else 0)

    # --- where it stands ---

    @property
    def options(self) -> frozenset[str]:
        """The options in force here."""
        return self.scopes[-1].options

    @property
    def folds(self) -> bool:
        """Whether case does not matter here."""
        return "i" in self.options

    def _error(self, what: str) -> re.error:
        return re.error(what, self.source, min(self.at, len(self.source)))

    def _changed(self, flags: re.Match[str]) -> frozenset[str]:
        return (self.options | set(flags.group(1))) - set(flags.group(2) or "")

    def _taken(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What the pattern finds here, which is then read."""
        found = pattern.match(self.source, self.at)
        if found:
            self.at = found.end()
        return found

    # --- the parts of a pattern ---

    def _part(self) -> None:
        here = self.source[self.at]
        if "x" in self.options and here in _X_SPACE:
            self.at += 1
        elif "x" in self.options and here == "#":
            end = self.source.find("\n", self.at)
            self.at = len(self.source) if end < 0 else end + 1
        elif here == "\\":
            self.at += 1
            self._escape()
        elif found := _POSIX_CLASS.match(self.source, self.at):
            raise self._error(f"{found.group()} alone: it stands in a class, as in [{found.group()}]")
        elif here == "[":
            self.at += 1
            self.out.append(self._class())
        elif here == "(":
            self._open()
        elif found := self._taken(_QUANTIFIER):
            if self.out and self.out[-1].endswith(NOT_TURKISH):
                self.out[-1] = f"(?:{self.out[-1]})"
            self.out.append(found.group())
        else:
            self.at += 1
            self._plain(here)

    def _plain(self, here: str) -> None:
        lines = "m" in self.options
        scope = self.scopes[-1]
        if here == ")":
            self.out.append(")" * len(scope.opened) + ")")
            if len(self.scopes) > 1:
                self.scopes.pop()
        elif here == "|":
            # Options that are changed between bars hold for what follows the next ones too.
            self.out.append(")" * len(scope.opened) + "|" + "".join(scope.opened))
        elif here == ".":
            self.out.append(_ANY if "s" in self.options else ".")
        elif here == "^":
            self.out.append(LINE_START if lines else "^")
        elif here == "$":
            self.out.append(r"(?=\n|\Z)" if lines else "$")
        else:
            self._literal(here)

    def _literal(self, character: str) -> None:
        text = character if character.isalnum() or character in "_-" else re.escape(character)
        if self.folds and character in "ıİ":
            text = f"(?-i:{text})"
        elif self.folds and character in "iI":
            text += NOT_TURKISH
        self.out.append(text)

    def _open(self) -> None:
        source, at = self.source, self.at
        if source.startswith("(?#", at):
            self.at = source.find(")", at) + 1
            if not self.at:
                raise self._error("a comment without an end")
        elif found := self._taken(_FLAGS):
            options = self._changed(found)
            opening = "(?:" if ("i" in options) is self.folds else "(?i:" if "i" in options else "(?-i:"
            self.out.append(opening)
            if found.group(3) == ":":
                self.scopes.append(_Scope(options))
            else:
                self.scopes[-1].options = options
                self.scopes[-1].opened.append(opening)
        elif found := self._taken(_NAMED):
            self._group(f"(?P<{found.group(1) or found.group(2)}>")
        elif found := self._taken(_PLAIN_GROUP):
            self._group(found.group())
        elif found := self._taken(_NAMED_REFERENCE):
            self.out.append(found.group())
        elif source.startswith(("(?", "(*"), at):
            raise self._error(f"no {source[at : at + 3]!r} here: recursion, verbs and the like")
        else:
            self.at += 1
            self._group("(")

    def _group(self, opening: str) -> None:
        self.scopes.append(_Scope(self.options))
        self.out.append(opening)

    def _escape(self) -> None:
        here = self.source[self.at : self.at + 1]
        if found := self._taken(_REFERENCE):
            name = found.group(1) or found.group(2) or found.group(3) or found.group(5)
            number = found.group(4) or found.group(6)
            self.out.append(f"(?P={name})" if name else f"(?:\\{number})")
        elif (character := self._character(_OCTAL)) is not None:
            self._literal(character)
        else:
            self.at += 1
            if here in ("b", "B"):
                boundary = r"\b" if self.unicode else r"(?a:\b)"
                # Python's own \B is never in an empty text.
                self.out.append(boundary if here == "b" else f"(?!{boundary})")
            elif here.lower() in _SETS:
                held = f"[{'^' if here.isupper() else ''}{self._set(here)}]"
                self.out.append(f"(?-i:{held})" if self._folds_in(self._set(here)) else held)
            elif here in _PLACES:
                self.out.append(_PLACES[here])
            elif here == "N":
                self.out.append(r"[^\n]")
            elif here == "R":
                self.out.append(_LINE_BREAK)
            elif here == "Q":
                for one in self._quoted():
                    self._literal(one)
            elif here != "E":
                raise self._unknown(here)

    def _character(self, octal: re.Pattern[str]) -> str | None:
        """The character that an escape stands for, which is then read; None for another escape."""
        here = self.source[self.at : self.at + 1]
        code = -1
        for numbered, base in ((_NUMBERED, 16), (octal, 8)):
            if found := self._taken(numbered):
                code = int(next(filter(None, found.groups()), "0"), base)
                break
        if code < 0:
            if here in _CONTROLS:
                self.at += 1
                return _CONTROLS[here]
            if here == "c" and " " <= self.source[self.at + 1 : self.at + 2] <= "~":
                self.at += 2
                return chr(ord(self.source[self.at - 1].upper()) ^ 64)
            if here and not (here.isascii() and here.isalnum()):
                self.at += 1
                return here
            return None
        if code > 0x10FFFF:
            raise self._error("no such character")
        return chr(code)

    def _quoted(self) -> str:
        r"""What stands between `\Q` and `\E`, as it is."""
        quoted, end, _ = self.source[self.at :].partition("\\E")
        self.at += len(quoted) + len(end)
        return quoted

    def _unknown(self, here: str) -> re.error:
        if here in ("p", "P"):
            return self._error("properties of characters, such as \\p{L}, are not known")
        if here in ("u", "U", "x"):
            return self._error(f"no escape \\{here} like this: a character by its number is \\x{{41}}")
        return self._error(f"no escape \\{here}" if here else "a backslash at the end")

    def _set(self, letter: str) -> str:
        r"""The characters of `\d` and the like, as what a class holds; those of `\D` are the same."""
        small = letter.lower()
        return f"\\{small}" if self.unicode and small in "dsw" else _SETS[small]

    # --- classes ---

    def _class(self) -> str:
        """A class, from behind its opening bracket to behind its closing one."""
        start = self.at
        negated = self.source.startswith("^", self.at)
        self.at += negated
        inside: list[str] = []
        beside: list[str] = []
        last = ""  # a character with which a range may begin
        first = True
        after_set = False
        while first or not self.source.startswith("]", self.at):
            if self.at >= len(self.source):
                self.at = start
                raise self._error("a class without an end")
            first = False
            dash = self.source.startswith("-", self.at) and not self.source.startswith("-]", self.at)
            if dash and after_set:
                raise self._error("a range of characters that begins with a set of some")
            if dash and last:
                self.at += 1
                end = self._member(inside, beside)
                if not end or end < last:
                    raise self._error("a range of characters that is none")
                inside[-1:] = []
                inside[-1] += f"-{_in_class(end)}"
                last = ""
            else:
                last = self._member(inside, beside)
                after_set = not last
        self.at += 1
        return self._put_together("".join(inside), beside, negated=negated)

    def _member(self, inside: list[str], beside: list[str]) -> str:
        """Read one part of a class: a single character, which is returned, or a set of some."""
        here = self.source[self.at : self.at + 1]
        if found := self._taken(_POSIX_CLASS):
            inverted, name = found.groups()
            if self.unicode or name not in _POSIX:
                raise self._error(f"no class [:{name}:]" + " with (*UCP)" * self.unicode)
            held = _POSIX["alpha" if self.folds and name in ("lower", "upper") else name]
            self._add(held, inside, beside, inverted=bool(inverted))
            return ""
        if self.source.startswith(("[.", "[="), self.at):
            raise self._error("no collating elements")
        self.at += 1
        if here == "\\":
            character = self._character(_OCTAL_IN_CLASS)
            if character is None:
                here = self.source[self.at : self.at + 1]
                self.at += 1
                if here.lower() in _SETS:
                    self._add(self._set(here), inside, beside, inverted=here.isupper())
                    return ""
                if here != "b":
                    raise self._unknown(here)
                character = "\b"
            here = character
        inside.append(_in_class(here))
        return here

    def _add(self, held: str, inside: list[str], beside: list[str], *, inverted: bool) -> None:
        """Add a set to a class: into it, or beside it where it is inverted or case would change it."""
        if inverted or self._folds_in(held):
            beside.append(f"(?-i:[{'^' if inverted else ''}{held}])")
        else:
            inside.append(held)

    def _folds_in(self, held: str) -> bool:
        """Whether a set would grow where case does not matter, as PCRE's sets don't."""
        return self.folds and not self.unicode and re.match(f"[{held}]", "k", re.IGNORECASE) is not None

    def _put_together(self, inside: str, beside: list[str], *, negated: bool) -> str:
        held = f"[{inside}]"
        if self.folds and inside:
            # Python finds `i` in `[ı]` and the other way round, PCRE does not.
            alike = [re.search(held, c, re.IGNORECASE) for c in "iIıİ"]
            same = [re.search(held, c) for c in "iIıİ"]
            meant = [same[0] or same[1], same[0] or same[1], same[2], same[3]]
            wrong = "".join(c for c, a, m in zip("iIıİ", alike, meant, strict=True) if a and not m)
            if wrong:
                beside = [*beside, f"(?-i:(?![{wrong}])){held}"]
                inside = ""
        if not beside:
            return f"[{'^' if negated else ''}{inside}]"
        either = "|".join([*([held] if inside else []), *beside])
        return f"(?:(?!{either}){_ANY})" if negated else f"(?:{either})"


def _in_class(character: str) -> str:
    """A character as a class holds it, without the doubled signs that Python warns of."""
    return "\\" + character if character in "\\]^-[&~|" else character
