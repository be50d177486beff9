"""What a store's refusal means: the same withrun error for the same situation, whatever the backend."""

from __future__ import annotations

import re
from typing import NamedTuple

from withrun.errors import AlreadyExists, NotFound, ServerError, WithrunError

__all__ = [
    "Refusal",
    "Subject",
    "alias_subject",
    "experiment_subject",
    "experiments_subject",
    "logged_model_subject",
    "model_subject",
    "named_experiment",
    "run_subject",
    "version_subject",
]

_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}", re.ASCII)
_MODEL_ID = _RUN_ID
_MAX_WORDS = 600
_RETRIABLE = frozenset({408, 425, 429})
_PERMISSION = frozenset({401, 403, 407})
_MISSING_CODES = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"})
_TAKEN_CODES = frozenset({"RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"})
_INVALID_CODES = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})


class Subject(NamedTuple):
    """The entity that a call is about.

    Attributes:
        label: how messages call it.
        well_formed: whether an entity of this kind can have such an ID at all. Stores answer a malformed
            ID in many ways (400, 500); to who asks it simply names nothing.
        invalid_means_missing: the store reports its absence as an invalid parameter.
        hint: a way out, for who finds it missing.
        empty: the ID is the empty string, which MLflow's SQL store takes for experiment 0.
    """

    label: str
    well_formed: bool = True
    invalid_means_missing: bool = False
    hint: str = ""
    empty: bool = False

    def missing(self, store_uri: str, said: str = "") -> NotFound:
        """The error that says so."""
        hint = f"; {self.hint}" if self.hint else ""
        return NotFound(f"{self.label} does not exist in {store_uri}{said}{hint}")


def experiment_subject(experiment_id: str) -> Subject:
    """An experiment by ID."""
    # Only a hint that it could be malformed: stores other than MLflow's own may use other IDs than numbers.
    numeric = experiment_id.isascii() and experiment_id.isdigit() and len(experiment_id) <= 18
    hint = (
        "" if numeric else "experiment IDs are numbers; if this is an experiment's name, look it up by name"
    )
    return Subject(f"experiment {experiment_id!r}", well_formed=numeric, hint=hint, empty=not experiment_id)


def experiments_subject(experiment_ids: tuple[str, ...]) -> Subject:
    """Several experiments by ID: the first that is malformed, or all."""
    subjects = [experiment_subject(experiment_id) for experiment_id in experiment_ids]
    malformed = (subject for subject in subjects if not subject.well_formed)
    return next(
        malformed, Subject(f"{len(subjects)} experiments" if len(subjects) > 1 else subjects[0].label)
    )


def named_experiment(name: str) -> Subject:
    """An experiment by name."""
    return Subject(
        f"experiment named {name!r}",
        well_formed=bool(name),
        hint="a deleted experiment keeps its name: restore it, or choose another",
    )


def run_subject(run_id: str) -> Subject:
    """A run by ID."""
    return Subject(f"run {run_id!r}", well_formed=_RUN_ID.fullmatch(run_id) is not None)


def model_subject(name: str) -> Subject:
    """A registered model by name."""
    return Subject(f"model {name!r}", well_formed=_is_model_name(name))


def version_subject(name: str, version: str) -> Subject:
    """A version of a registered model."""
    numeric = version.isascii() and version.isdigit() and len(version) <= 9
    return Subject(f"version {version!r} of model {name!r}", well_formed=_is_model_name(name) and numeric)


def alias_subject(name: str, alias: str) -> Subject:
    """The version of a registered model that an alias names."""
    return Subject(
        f"version @{alias} of model {name!r}", well_formed=_is_model_name(name), invalid_means_missing=True
    )


def logged_model_subject(model_id: str) -> Subject:
    """A logged model by ID."""
    return Subject(f"logged model {model_id!r}", well_formed=_MODEL_ID.fullmatch(model_id) is not None)


def _is_model_name(name: str) -> bool:
    return bool(name.strip()) and "/" not in name and ":" not in name and "\0" not in name


class Refusal(NamedTuple):
    """An answer that says no: the HTTP status (or the one that MLflow gives its error), code and words."""

    status: int
    code: str
    words: str
    retry_after: float | None = None

    @property
    def worth_repeating(self) -> bool:
        """Whether the same call may succeed a little later."""
        return self.status in _RETRIABLE or (self.status >= 500 and self.status != 501)

    def to_error(self, call: str, subject: Subject | None, store_uri: str) -> WithrunError:
        """The error to raise for it.

        Args:
            call: the backend's method, for the message.
            subject: what the call was about; None if it was about nothing in particular.
            store_uri: the store, without credentials.
        """
        words = _printable(self.words)
        said = f" (the store's words: {words})" if words else ""
        if subject is not None and self.code in _TAKEN_CODES:
            hint = f"; {subject.hint}" if subject.hint else ""
            return AlreadyExists(f"{subject.label} already exists in {store_uri}{said}{hint}")
        if subject is not None and self._means_missing(subject):
            return subject.missing(store_uri, said)
        about = "" if subject is None else f" for {subject.label}"
        code = f" {self.code}" if self.code else ""
        verb = "refused" if self.status < 500 and not self.worth_repeating else "failed at"
        return ServerError(
            f"{store_uri} {verb} {call}{about}: {self.status}{code}: {words or 'no reason given'}",
            status=self.status,
            code=self.code,
            retry_after=self.retry_after,
            foreign=not self.code,  # MLflow's errors all have one
        )

    def _means_missing(self, subject: Subject) -> bool:
        if self.code in _MISSING_CODES:
            return True
        if subject.invalid_means_missing and self.code in _INVALID_CODES:
            return True
        # A malformed ID makes some stores fail (500) rather than refuse; what has to do with permissions or
        # load says nothing of the ID.
        about_the_id = self.status not in _PERMISSION | _RETRIABLE and self.status not in (502, 503, 504)
        return not subject.well_formed and bool(self.code) and about_the_id


def _printable(words: str) -> str:
    """A server's words on one line, cut to a length that fits a message."""
    words = words.partition("[SQL: ")[0]  # MLflow appends the whole statement, and its data
    text = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}…"
