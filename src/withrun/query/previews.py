"""Long values, of which a store keeps a preview: what the preview decides, and when the whole is needed.

Fetching a long value costs a request, so a condition looks at the preview first. It tells the length and the
beginning, which settles most comparisons: with anything but a text, with a text of another length, or one
that begins otherwise. Where it does not, matching raises `Undecided`, and the search fetches the whole. A
whole that is gone leaves its preview, which is then a text like others (`as_texts`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from withrun.previews import Preview, PreviewText, parse_preview
from withrun.query.order import order_key

__all__ = [
    "PreviewText",
    "Undecided",
    "as_texts",
    "document_may_pass",
    "may_be_array",
    "may_hold_documents",
    "may_pass",
    "preview_in",
]

_JSON_BEGINS: Final = ("[", "{", '"')
"""How a text begins that does not stand for itself, once it is too long to be a number."""


class Undecided(Exception):
    """A preview does not tell whether the value matches.

    Attributes:
        preview: it; what it stands for is needed.
    """

    def __init__(self, preview: PreviewText) -> None:
        super().__init__(preview)
        self.preview = preview


def preview_in(value: Any) -> PreviewText | None:
    """The preview that a value is, or the first one inside a document; None if there is none.

    Lists and what is in them come out of one stored text, which is whole.
    """
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if type(one) is PreviewText:
            return one
        if type(one) is dict:
            waiting.extend(one.values())
    return None


def as_texts(document: Any, previews: Collection[PreviewText] | None = None) -> Any:
    """The document with those previews, or all, as the plain texts that they are; copied where it changes."""
    if preview_in(document) is None:
        return document
    if isinstance(document, Mapping):
        return {key: as_texts(value, previews) for key, value in document.items()}
    return str.__str__(document) if previews is None or document in previews else document


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
        return any(_text_may_equal(value, preview, item) for item in operand)
    if operator == "$eq":
        return _text_may_equal(value, preview, operand)
    if operator == "$regex":
        return True
    if not isinstance(operand, str):
        return False  # the value is a text, and texts are in no order with other values
    beginning = operand[: len(preview.start)]
    if beginning == preview.start[: len(beginning)]:
        return True
    return (preview.start > beginning) is (operator in ("$gt", "$gte"))


def document_may_pass(value: Mapping[str, Any], operator: str, operand: Any) -> bool:
    """Whether a document with previews inside may pass the test once they are whole; False is certain."""
    if operator == "$in":
        return any(document_may_pass(value, "$eq", item) for item in operand)
    if not isinstance(operand, Mapping):
        return False
    return operator != "$eq" or _document_may_equal(value, operand)


def _document_may_equal(value: Any, operand: Any) -> bool:
    if type(value) is PreviewText:
        return may_pass(value, "$eq", operand)
    if isinstance(value, Mapping) and isinstance(operand, Mapping):
        return value.keys() == operand.keys() and all(
            _document_may_equal(inner, operand[key]) for key, inner in value.items()
        )
    return order_key(value) == order_key(operand)


def _may_be_number(value: PreviewText) -> bool:
    return value[:1] in "-0123456789" or value[:1].isspace()


def _text_may_equal(value: PreviewText, preview: Preview, operand: Any) -> bool:
    if isinstance(operand, re.Pattern):
        return True
    if not isinstance(operand, str):
        return False
    # The preview itself is what is found where the whole is gone.
    return operand == value or (len(operand) == preview.length and operand.startswith(preview.start))
