"""The log as it comes, newest first, and back into the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from trackside.app.dashboard.cutting import MOST_CHARS, json_text, seen_in
from trackside.app.dashboard.declaring import API, page, params_of
from trackside.app.dashboard.filters import Filters
from trackside.app.dashboard.live import heard
from trackside.app.dashboard.rendering import FailurePage, Page
from trackside.app.dashboard.wording import pretty
from trackside.app.server.authorizing import INSIDE
from trackside.app.server.failures import answer_of
from trackside.app.server.principal import Permission
from trackside.app.server.routes import events
from trackside.app.server.routing import EVENT_STREAM, Call, Routes
from trackside.app.server.wire.log import LogEvent
from trackside.harness.errors import TracksideError
from trackside.harness.types import LifecycleEventType

routes = Routes("Console")

LIMIT: Final = 100
"""Events on a page, to begin with."""
MOST_ROWS: Final = 2_000
"""Events that a live page keeps."""
MOST_CHARS_OF_ALL: Final = 400_000

FILTERS: Final = ("type", "run_id", "thread_id", "agent", "range", "since")
TYPES: Final = tuple(kind.value for kind in LifecycleEventType)
SAYS: Final[Mapping[str, Sequence[str]]] = {
    "run_started": ("agent", "trigger"),
    "run_completed": ("status", "title"),
    "run_failed": ("error_type", "error"),
    "run_cancelled": ("cancel_mode", "reason"),
    "human_message": ("message.content",),
    "thread_status_updated": ("previous", "status"),
}
"""The parts of an event's payload that its line shows; `log.js` shows the same for new events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event on the page."""

    event: LogEvent
    says: str
    payload: str
    is_cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the log, newest first."""

    events: Sequence[LogEvent] = ()
    after: int | None = None
    """Events after this position are followed; None: newer ones are in another part."""
    newer: int | None = None
    """The `after` of the part with newer events."""
    older: int | None = None
    """The `before` of the part with older events."""


@page(routes, "/ui/log")
async def show_log(call: Call[None, None]) -> Any:
    """The log as it comes, newest first, and back into the past."""
    given, now = params_of(call), datetime.now(UTC)
    filters, place = _filters(given, now), _place(given, now)
    part, problem = Part(), next(iter(place.problems.values()), None)
    if not (filters.problems or problem):
        try:
            part = await _part(call, filters.query, place.query)
        except TracksideError as exc:
            status, problem = answer_of(exc)[:2]
            if status not in {403, 404, 422}:
                raise
    twin = urlencode({**filters.query, "newest_first": "true", "limit": LIMIT}, doseq=True)
    return Page(
        "log",
        place="log",
        twins=(f"/events?{twin}",),
        filters=filters,
        types=TYPES,
        part=part,
        entries=_entries(part.events),
        problem=problem,
        stream=f"/ui/log/stream?{urlencode(filters.query, doseq=True)}",
        says=SAYS,
        most_rows=MOST_ROWS,
        most_chars=MOST_CHARS,
    )


@routes.get("/ui/log/stream", Permission.read, about=INSIDE, media_type=EVENT_STREAM, failing=FailurePage)
async def follow_log(call: Call[None, None]) -> Any:
    """The events of the log as `/events/stream` sends them, and heartbeats that the page hears."""
    query = {name: values if name == "type" else values[0] for name, values in params_of(call).items()}
    return heard((await API.ask(call, events.follow_log, query=query)).value)


def _filters(given: Mapping[str, Sequence[str]], now: datetime) -> Filters:
    filters = Filters(given, FILTERS, now, also={"thread": "thread_id", "run": "run_id"})
    filters.choices("type", TYPES)
    filters.text("run_id")
    filters.text("thread_id")
    filters.text("agent")
    filters.time(until=None)
    return filters


def _place(given: Mapping[str, Sequence[str]], now: datetime) -> Filters:
    place = Filters(given, ("before", "after"), now)
    place.position("before")
    place.position("after")
    return place


async def _part(call: Call[Any, Any], query: Mapping[str, Any], place: Mapping[str, int]) -> Part:
    if "before" in place:
        found, older = await _asked(call, query, before=place["before"])
        return Part(events=found, newer=found[0].position if found else place["before"] - 1, older=older)
    if "after" in place:
        answered = await API.ask(call, events.list_events, query={**query, "after": place["after"], "limit": LIMIT})
        if "X-Pagination-Next" in answered.headers:
            newest_first: list[LogEvent] = answered.value[::-1]
            return Part(events=newest_first, newer=newest_first[0].position, older=newest_first[-1].position)
    # Ask for the end first: events appended meanwhile are listed or followed, and one that is both has one position.
    end = await API.ask(call, events.list_events, query={**_scope_of(query), "newest_first": True, "limit": 1})
    found, older = await _asked(call, query)
    last = max((event.position for event in (*end.value, *found)), default=0)
    return Part(events=found, after=last, older=older)


def _scope_of(query: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that say whose events are meant: handlers may decide on a run or thread, not on the whole log."""
    return {name: query[name] for name in ("run_id", "thread_id") if name in query}


async def _asked(
    call: Call[Any, Any], query: Mapping[str, Any], before: int | None = None
) -> tuple[list[LogEvent], int | None]:
    asked = {**query, "before": before, "newest_first": True, "limit": LIMIT}
    answered = await API.ask(call, events.list_events, query=asked)
    found: list[LogEvent] = answered.value
    return found, found[-1].position if "X-Pagination-Next" in answered.headers else None


def _entries(found: Sequence[LogEvent]) -> list[Entry]:
    entries: list[Entry] = []
    left = MOST_CHARS_OF_ALL
    for event in found:
        payload = pretty(event.payload)
        most = min(MOST_CHARS, max(left, 500))
        left -= min(len(payload), most)
        entries.append(
            Entry(event=event, says=says(event), payload=seen_in(payload[:most]), is_cut=len(payload) > most)
        )
    return entries


def says(event: LogEvent) -> str:
    """What an event says, on one line."""
    kind = event.event_type.value
    found = (_at(event.payload, path.split(".")) for path in SAYS[kind])
    values = [one if isinstance(one, str) else json_text(one) for one in found if one is not None]
    texts = [" ".join(value[:400].split()) for value in values]
    # Many errors begin with their type.
    kept = [text for text, after in zip(texts, [*texts[1:], ""], strict=False) if not after.startswith(text)]
    return (" → " if kind == "thread_status_updated" else " · ").join(kept)[:300] or "payload"


def _at(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
