"""The options of publishing: what is to become of the source, and whether a copy is kept in the cache."""

from __future__ import annotations

from dataclasses import dataclass

from withrun.errors import InvalidArgument

__all__ = ["Choices", "choose"]


@dataclass(frozen=True)
class Choices:
    """What becomes of a source: `keep` it, `use_cache` for a copy, make it a `link` to the copy."""

    keep: bool
    use_cache: bool
    link: bool


def choose(
    *,
    dumper: bool,
    local: bool,
    cache_exists: bool,
    cache_local: bool,
    keep_the_source: bool | None,
    allow_duplication: bool | None,
    use_cache: bool | None,
) -> Choices:
    """Settle the three options of publishing; what is not said is chosen so that it does the sensible thing.

    A source becomes a link only if `allow_duplication=False` was said: by default nothing of the user's
    changes but by what they asked for.

    Raises:
        InvalidArgument: what was said contradicts itself.
    """
    keep = keep_the_source if keep_the_source is not None else not dumper
    if use_cache and not cache_exists:
        raise InvalidArgument(
            "use_cache=True, but this API has no cache. Give it a `cache_dir`, or leave use_cache out."
        )
    link = keep and allow_duplication is False
    if link and use_cache is False:
        raise InvalidArgument(
            "keep_the_source=True, allow_duplication=False and use_cache=False contradict one another: "
            "without a duplicate, the kept source would be a link into the cache. Leave one of them out."
        )
    if use_cache is None:
        use_cache = cache_exists and (cache_local or not local)
    return Choices(keep=keep, use_cache=use_cache, link=link)
