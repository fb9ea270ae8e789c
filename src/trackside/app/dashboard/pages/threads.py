"""Threads, the most recently active first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from trackside.app.dashboard.asking import served_agents
from trackside.app.dashboard.declaring import page, params_of
from trackside.app.dashboard.filters import Filters
from trackside.app.dashboard.paging import Portion, portion_of
from trackside.app.dashboard.rendering import Page
from trackside.app.server.failures import answer_of
from trackside.app.server.routes import thread_records
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.thread_records import RecordedThread
from trackside.harness.errors import TracksideError
from trackside.harness.types import ThreadStatus

routes = Routes("Console")

LIMIT: Final = 50
FILTERS: Final = ("status", "agent", "id_prefix", "metadata", "since", "until")
STATUSES: Final = tuple(status.value for status in ThreadStatus)


@page(routes, "/ui/threads")
async def show_threads(call: Call[None, None]) -> Any:
    """Threads, filtered, page by page."""
    given = params_of(call)
    filters = Filters(given, FILTERS, datetime.now(UTC), also={"thread": "id_prefix", "thread_id": "id_prefix"})
    filters.choices("status", STATUSES)
    for name in ("agent", "id_prefix"):
        filters.text(name)
    filters.time()
    _read_metadata(filters)
    listing: Portion[RecordedThread] = Portion()
    problem: str | None = None
    place: dict[str, str] = {name: given[name][0] for name in ("before", "after") if name in given}
    if not filters.problems:
        try:
            listing = await _listing(call, filters.query, place)
        except TracksideError as exc:
            status, problem = answer_of(exc)[:2]
            if status not in {403, 422}:
                raise
    return Page(
        "threads",
        place="threads",
        twins=(f"/threads?{urlencode({**filters.query, 'limit': LIMIT}, doseq=True)}",),
        filters=filters,
        listing=listing,
        is_first=not place,
        problem=problem,
        agents=await served_agents(call),
        statuses=STATUSES,
        shows_owner=call.principal.owner is None and any(thread.owner for thread in listing.rows),
    )


async def _listing(
    call: Call[None, None], query: Mapping[str, Any], place: Mapping[str, str]
) -> Portion[RecordedThread]:
    before, after = place.get("before"), place.get("after")
    found = await portion_of(call, thread_records.list_recorded_threads, query, before=before, after=after, limit=LIMIT)
    if "metadata" in query:  # then pages are counted off, and one can only go back to the first
        found = replace(found, newer=None)
    if after is not None and before is None and found.newer is None:
        return await _listing(call, query, {})  # the newest page, which begins with what came meanwhile
    return found


def _read_metadata(filters: Filters) -> None:
    """`customer=acme`, several of them with commas between, or a JSON object."""
    said = filters.said("metadata")
    if not said:
        return
    try:
        wanted = msgspec.json.decode(said, type=dict[str, Any]) if said.startswith("{") else _pairs(said)
    except (msgspec.DecodeError, RecursionError, ValueError):
        filters.problems["metadata"] = 'This is not metadata; write customer=acme, or {"customer": "acme"}.'
        return
    if filters.said("since") or filters.said("until") or filters.said("id_prefix"):
        filters.problems["metadata"] = "Metadata cannot be combined with times or an id."
        return
    filters.query["metadata"] = msgspec.json.encode(wanted).decode()


def _pairs(said: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in said.split(","):
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ValueError(pair)
        try:
            found[key.strip()] = msgspec.json.decode(value.strip())
        except msgspec.DecodeError:
            found[key.strip()] = value.strip()
    return found
