"""Long values, of which a store keeps a preview: what the preview decides, and when the whole is needed.

Fetching a long value costs a request, so a condition looks at the preview first. It tells the length and the
beginning, which settles most comparisons: with anything but a text, with a text of another length, or one
that begins otherwise. Where it does not, matching raises `Undecided`, and the search fetches the whole.
"""

from __future__ import annotations

import re
from typing import Any, Final

from withrun.previews import Preview, PreviewText, parse_preview

__all__ = ["PreviewText", "Undecided", "may_be_array", "may_hold_documents", "may_pass"]

_JSON_BEGINS: Final = ("[", "{", '"')
"""How a text begins that does not stand for itself, once it is too long to be a number."""


class Undecided(Exception):
    """A preview does not tell whether the value matches."""


def may_hold_documents(value: PreviewText) -> bool:
    """Whether a path may go on below the value."""
    return value.startswith(("[", "{"))


def may_be_array(value: PreviewText) -> bool:
    """Whether the value may be a list."""
    return value.startswith("[")


def may_pass(value: PreviewText, operator: str, operand: Any) -> bool:
    """Whether the whole value may pass the test; False is certain."""
    preview = parse_preview(value)
    if preview is None or value.startswith(_JSON_BEGINS) or _may_be_number(value):
        return True
    if operator == "$in":
        return any(_text_may_equal(preview, item) for item in operand)
    if operator == "$eq":
        return _text_may_equal(preview, operand)
    if operator == "$regex":
        return True
    if not isinstance(operand, str):
        return False  # the value is a text, and texts are in no order with other values
    beginning = operand[: len(preview.start)]
    if beginning == preview.start[: len(beginning)]:
        return True
    return (preview.start > beginning) is (operator in ("$gt", "$gte"))


def _may_be_number(value: PreviewText) -> bool:
    return value[:1] in "-0123456789" or value[:1].isspace()


def _text_may_equal(preview: Preview, operand: Any) -> bool:
    if isinstance(operand, re.Pattern):
        return True
    return isinstance(operand, str) and len(operand) == preview.length and operand.startswith(preview.start)
