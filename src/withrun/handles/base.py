"""What all handles share: the API behind them, identity, copies and pickles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel
from typing_extensions import Self

if TYPE_CHECKING:
    from withrun.api import BaseMlflowApi

__all__ = ["Handle", "deep_dict", "follow"]

H = TypeVar("H", bound="Handle")


class Handle(BaseModel):
    """An entity with an API behind it. Equal, and of the same hash, if the API's store and the ID are.

    Handles are made by an API, not by hand. They pickle: the copy reaches the same entity through an API of
    the same configuration, made in the process that unpickles it.
    """

    # A slot and no pydantic private attribute, which would cost a microsecond a look-up.
    __slots__ = ("_api",)

    if TYPE_CHECKING:
        _api: BaseMlflowApi

    @classmethod
    def of(cls, api: BaseMlflowApi, entity: BaseModel) -> Self:
        """A handle on an entity that the API gave."""
        return _made(cls, api, entity.__dict__)

    @property
    def api(self) -> BaseMlflowApi:
        """The API behind the handle."""
        return self._api

    def _bind(self, api: BaseMlflowApi) -> None:
        object.__setattr__(self, "_api", api)

    def _take(self, entity: BaseModel) -> Self:
        """Become what was fetched anew."""
        self.__dict__.update(type(self).of(self._api, entity).__dict__)
        return self

    def _identity(self) -> tuple[str, ...]:
        """What tells the entity among all of its kind in one store."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Handle) or type(self) is not type(other):
            return NotImplemented
        same_store = self._api.store_uri == other._api.store_uri
        return same_store and self.follow()._identity() == other.follow()._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._api.store_uri, self._identity()))

    def __copy__(self) -> Self:
        return type(self).of(self._api, self)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy whose dicts are its own; the API is shared."""
        copied = type(self).of(self._api, self)
        for field, value in self.__dict__.items():
            if isinstance(value, dict):
                copied.__dict__[field] = deep_dict(value)
        return copied

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickled, (type(self), self._api, dict(self.__dict__))

    def follow(self) -> Self:
        """In place of a local ID take the server's, once what started without it was delivered."""
        return self


def follow(entity: object) -> None:
    """Have a handle take the server's ID, once it has one; whatever else names an entity stays as it is."""
    if isinstance(entity, Handle):
        entity.follow()


def deep_dict(value: dict[str, Any]) -> dict[str, Any]:
    """A copy of a dict and of the dicts in it."""
    return {k: deep_dict(v) if isinstance(v, dict) else v for k, v in value.items()}


def _unpickled(cls: type[H], api: BaseMlflowApi, fields: dict[str, Any]) -> H:
    handle = _made(cls, api, fields)
    return handle.follow()


def _made(cls: type[H], api: BaseMlflowApi, fields: dict[str, Any]) -> H:
    # No validation: the fields are an entity's, and were checked when it was made.
    handle: H = cls.model_construct(**fields)  # type: ignore[assignment]
    handle._bind(api)
    return handle
