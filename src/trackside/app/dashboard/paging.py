"""Pages of what the API lists newest first, by places: `before` one is what is older, `after` it what is newer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trackside.app.dashboard.declaring import API
from trackside.app.server.routing import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion[R]:
    """A page; `older` and `newer` are the places of those beside it, None where there are none."""

    rows: Sequence[R] = ()
    older: str | None = None
    newer: str | None = None
    continues: str | None = None
    """Where the search goes on that found no whole page; None: it was no search, or has looked at all."""


async def portion_of(
    call: Call[Any, Any],
    endpoint: Any,
    query: Mapping[str, Any],
    *,
    before: str | None = None,
    after: str | None = None,
    limit: int,
) -> Portion[Any]:
    """What an endpoint of the API lists at a place, whose rows have a `cursor` each."""
    # Of newer rows one more than a page: whether there are newer ones yet. Older ones there are, as the page began with one.
    more = limit if after is None else limit + 1
    answered = await API.ask(call, endpoint, query={**query, "before": before, "after": after, "limit": more})
    rows = answered.value[-limit:]
    return Portion(
        rows=rows,
        older=answered.headers.get("X-Pagination-Next"),
        newer=rows[0].cursor if rows and (before is not None or len(answered.value) > limit) else None,
        continues=answered.headers.get("X-Search-Continues"),
    )
