"""Pages of what the API lists newest first, by places: older rows are `before` a place, newer ones `after` it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trackside.app.dashboard.declaring import API
from trackside.app.server.routing import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion[R]:
    """A page; `older` and `newer` are the places of the pages beside it, None if there are none."""

    rows: Sequence[R] = ()
    older: str | None = None
    newer: str | None = None
    continues: str | None = None
    """Where a search that found no whole page goes on; None: it was not a search, or has looked at all."""


async def portion_of(
    call: Call[Any, Any],
    endpoint: Any,
    query: Mapping[str, Any],
    *,
    before: str | None = None,
    after: str | None = None,
    limit: int,
) -> Portion[Any]:
    """What an endpoint of the API lists at a place; each of its rows has a `cursor`."""
    # Ask for one more newer row than a page has, to see if there are more. Older ones exist: the page began with one.
    more = limit if after is None else limit + 1
    answered = await API.ask(call, endpoint, query={**query, "before": before, "after": after, "limit": more})
    rows = answered.value[-limit:]
    return Portion(
        rows=rows,
        older=answered.headers.get("X-Pagination-Next"),
        newer=rows[0].cursor if rows and (before is not None or len(answered.value) > limit) else None,
        continues=answered.headers.get("X-Search-Continues"),
    )
