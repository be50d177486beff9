"""The options of publishing: what is to become of the source, and whether a copy is kept in the cache."""

from __future__ import annotations

from dataclasses import dataclass

from withrun.errors import InvalidArgument

__all__ = ["Choices", "choose"]


@dataclass(frozen=True)
class Choices:
    """What becomes of a source.

    Attributes:
        keep: it stays.
        use_cache: a copy of it is kept in the cache.
        link: it becomes a link to that copy.
        needs_cache: the copy was asked for, not just chosen, so that it is an error if there can be none.
    """

    keep: bool
    use_cache: bool
    link: bool
    needs_cache: bool


def choose(
    *,
    dumper: bool,
    local: bool,
    waits: bool,
    cache_exists: bool,
    cache_local: bool,
    keep_the_source: bool | None,
    allow_duplication: bool | None,
    use_cache: bool | None,
) -> Choices:
    """Settle the three options of publishing; what is not said is chosen so that it does the sensible thing.

    A source becomes a link only if `allow_duplication=False` was said: by default nothing of the user's
    changes but by what they asked for. It becomes one to a copy in the cache, which nobody publishes over,
    never to what lies in a run; where there is no copy to lead to, it stays itself.

    Args:
        dumper: whether the source is what a callback wrote.
        local: whether it is published to this machine's file system.
        waits: whether it waits there to be published elsewhere.
        cache_exists: whether the API has a cache.
        cache_local: whether local repos are cached.
        keep_the_source: as the caller said; None if they did not.
        allow_duplication: the same.
        use_cache: the same.

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
    needs_cache = use_cache is True
    if use_cache is None:
        use_cache = cache_exists and not waits and (cache_local or not local or link)
    return Choices(keep=keep, use_cache=use_cache, link=link and use_cache, needs_cache=needs_cache)
