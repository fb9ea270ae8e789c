"""Runs of all threads, filtered, and what can be done with several of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from msgspec import field

from trackside.app.dashboard.asking import served_agents
from trackside.app.dashboard.declaring import API, Form, action, page, params_of
from trackside.app.dashboard.filters import Filters
from trackside.app.dashboard.pages import _run_reading as reading
from trackside.app.dashboard.paging import portion_of
from trackside.app.dashboard.rendering import Page, Said, is_script
from trackside.app.dashboard.wording import visible
from trackside.app.server.failures import HttpError, answer_of
from trackside.app.server.routes import records, run_cancels, run_retries
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.log import RecordedRun
from trackside.harness.errors import TracksideError, UnknownRunError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import RunStatus

routes = Routes("Console")

LIMIT: Final = 50
"""Runs on a page."""
MOST_NEW: Final = 100
"""New runs that are counted; more are shown as `99+`."""
MOST_SELECTED: Final = 200

_MOST_OF_NAME: Final = 300

_TURNING: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Signs that make a text read in an order in which it is not written."""

FILTERS: Final = (
    "text",
    "status",
    "agent",
    "thread_id",
    "range",
    "since",
    "until",
    "min_cost",
    "min_duration",
    "waiting",
    "removed",
)
STATUSES: Final = tuple(status.value for status in RunStatus)
VIEWS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "All": (),
    "Failed today": (("status", "error"), ("status", "timeout"), ("since", "today")),
    "Running": (("status", "pending"), ("status", "running")),
    "Waiting for a human": (("waiting", "true"),),
    "Expensive: $0.10 and more": (("min_cost", "0.1"),),
    "Slow: 1 min and more": (("min_duration", "1m"),),
}
"""The filters of the views that exist before anybody saves one, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A page of runs and what is around it."""

    runs: Sequence[RecordedRun] = ()
    older: str | None = None
    """The `before` of the page of older runs."""
    newer: str | None = None
    """The `after` of the page of newer runs; None: these are the newest."""
    continues: str | None = None
    """Where a search that found no whole page goes on; None: it was not a search, or has looked at all."""
    is_backward: bool = True
    """Whether the search goes on to older runs."""
    unseen: int = 0
    """How many newer runs are held back."""


@page(routes, "/ui/runs")
async def show_runs(call: Call[None, None]) -> Any:
    """Runs of all threads, filtered, and what can be done with several of them."""
    given = params_of(call)
    filters = _read(given)
    listing, problem = Listing(), None
    if not filters.problems:
        try:
            listing = await _listing(call, filters.query, {name: values[0] for name, values in given.items()})
        except TracksideError as exc:
            if not _is_said_on_the_page(exc):
                raise
            problem = str(exc)
    agents = await served_agents(call)
    return Page(
        "runs",
        place="runs",
        twins=(f"/runs?{_twin(filters.query)}",),
        filters=filters,
        listing=listing,
        problem=problem,
        searches=not filters.query.keys().isdisjoint({"text", "min_cost", "min_duration"}),
        agents=agents,
        statuses=STATUSES,
        views=[(name, urlencode(pairs), _is_view(filters, pairs)) for name, pairs in VIEWS.items()],
        looked_until=None if listing.continues is None else _time_of(listing.continues),
        most_new=MOST_NEW,
        name_of=name_of,
        why_of=why_of,
        seconds_of=seconds_of,
        is_final=is_final,
    )


def name_of(run: RecordedRun) -> str | None:
    """A run's name, on one line, cut; None if nobody has named it."""
    words = " ".join((run.title or "").split())
    words = words if len(words) <= _MOST_OF_NAME else f"{words[:_MOST_OF_NAME]}…"
    is_seen = any(sign.isprintable() and not sign.isspace() for sign in words)
    return (words if is_seen and not _TURNING.search(words) else visible(words)) or None


def why_of(run: RecordedRun) -> str:
    """Why a run has failed, on one line; empty if it has not."""
    line, kind = first_line(run.error), first_line(run.error_type, 80)
    return line if not kind or line.startswith(kind.removesuffix("…")) else f"{kind}: {line}".removesuffix(": ")


def first_line(text: str | None, most: int = 300) -> str:
    """The first line of a text that is not blank, cut."""
    line = next((line.strip() for line in (text or "").splitlines() if line.strip()), "")
    return line if len(line) <= most else f"{line[:most]}…"


def seconds_of(run: RecordedRun) -> float | None:
    """How long a run took, or has taken so far."""
    if run.started_at is None or run.duration_seconds is not None or is_final(run.status):
        return run.duration_seconds
    return max((datetime.now(UTC) - run.started_at).total_seconds(), 0.0)


def _read(given: Mapping[str, Sequence[str]]) -> Filters:
    filters = Filters(given, FILTERS, datetime.now(UTC), also={"thread": "thread_id", "run": "text", "run_id": "text"})
    filters.text("text")
    filters.choices("status", STATUSES)
    filters.text("agent")
    filters.text("thread_id")
    filters.time()
    filters.dollars("min_cost")
    filters.seconds("min_duration")
    filters.flag("waiting")
    filters.flag("removed")
    return filters


async def _listing(call: Call[Any, Any], query: Mapping[str, Any], place: Mapping[str, str]) -> Listing:
    if "after" in place:
        listing = await _asked(call, query, after=place["after"])
        if listing.newer is not None or listing.continues is not None:
            return listing
    elif "before" in place:
        return await _asked(call, query, before=place["before"])
    elif "top" in place:
        try:
            return await _held(call, query, place["top"])
        except UnknownRunError:
            pass  # it was removed meanwhile: begin the page with the newest run there is
    return await _asked(call, query)


async def _asked(
    call: Call[Any, Any],
    query: Mapping[str, Any],
    *,
    before: str | None = None,
    after: str | None = None,
    limit: int = LIMIT,
) -> Listing:
    found = await portion_of(call, records.list_recorded_runs, query, before=before, after=after, limit=limit)
    return Listing(
        runs=found.rows,
        older=found.older,
        newer=found.newer,
        continues=found.continues,
        is_backward=after is None,
    )


async def _held(call: Call[Any, Any], query: Mapping[str, Any], top: str) -> Listing:
    """The newest page as it was when the run `top` was the newest; runs since then are only counted.

    Raises:
        UnknownRunError: that run no longer exists.
    """
    shown = {"removed": query.get("removed")}  # also a deleted one, if the list has those
    asked = await API.ask(call, records.get_recorded_run, path={"run_id": top}, query=shown)
    first: RecordedRun = asked.value
    rest, newer = await asyncio.gather(
        _asked(call, query, before=first.cursor, limit=LIMIT - 1),
        _asked(call, query, after=first.cursor, limit=MOST_NEW),
    )
    status = query.get("status")
    still = [first] if status is None or first.status in status else []
    if query.get("waiting") == "true":  # it may have been answered meanwhile
        still = [*(await _asked(call, {**query, "id_prefix": top}, limit=1)).runs]
    return Listing(runs=[*still, *rest.runs], older=rest.older, continues=rest.continues, unseen=len(newer.runs))


def _is_said_on_the_page(exc: TracksideError) -> bool:
    """Whether a failure is to be expected: the viewer may not see this, or a place in the address is invalid."""
    return answer_of(exc).status in {403, 422}


def _is_view(filters: Filters, pairs: Sequence[tuple[str, str]]) -> bool:
    here = sorted((name, value) for name in FILTERS for value in filters.all_said(name))
    return [(name, _day(value)) for name, value in here] == sorted(pairs)


def _day(value: str) -> str:
    """The same `today` for all zones."""
    return "today" if value.startswith("today") else value


def _time_of(cursor: str) -> datetime | None:
    """The moment with which a place in the listing begins."""
    try:
        when = datetime.fromisoformat(cursor.partition("/")[0])
    except ValueError:
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def _twin(query: Mapping[str, Any]) -> str:
    return urlencode({**query, "limit": LIMIT}, doseq=True)


class Selected(Form, kw_only=True):
    """Runs that somebody has selected."""

    run_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one of them."""

    run_id: str
    outcome: str
    is_done: bool
    new_run_id: str | None = None


@action(routes, "/ui/runs/cancel", body=Selected)
async def cancel_selected(call: Call[Selected, None]) -> Any:
    """Cancel several runs; what became of each."""
    run_ids = _selected(call)
    return _answer(call, "Cancelled", [await _cancelled(call, run_id) for run_id in run_ids])


@action(routes, "/ui/runs/retry", body=Selected)
async def retry_selected(call: Call[Selected, None]) -> Any:
    """Retry several runs; what became of each."""
    run_ids = _selected(call)
    answered = await API.ask(call, run_retries.retry_runs, body={"run_ids": run_ids})
    done = [
        Done(
            run_id=one.run_id,
            outcome="is retried" if one.error is None else one.error,
            is_done=one.error is None,
            new_run_id=one.new_run_id,
        )
        for one in answered.value
    ]
    return _answer(call, "Retried", done)


def _selected(call: Call[Selected, None]) -> list[str]:
    run_ids = list(dict.fromkeys(call.body.run_ids))
    if not run_ids:
        raise HttpError(status=422, detail="select a run first")
    if len(run_ids) > MOST_SELECTED:
        raise HttpError(status=422, detail=f"{len(run_ids):,} runs are selected; select at most {MOST_SELECTED}")
    return run_ids


async def _cancelled(call: Call[Any, Any], run_id: str) -> Done:
    try:
        run = await reading.last_attempt(call, await reading.details_of(call, run_id))
        if is_final(run.status):
            return Done(run_id=run_id, outcome=f"had already ended: {run.status.value}", is_done=False)
        await API.ask(call, run_cancels.cancel_runs, body={"thread_id": run.thread_id, "run_ids": [run.run_id]})
    except TracksideError as exc:
        return Done(run_id=run_id, outcome=str(exc), is_done=False)
    again = None if run.run_id == run_id else run.run_id
    return Done(run_id=run_id, outcome="is being cancelled", is_done=True, new_run_id=again)


def _answer(call: Call[Any, Any], what: str, done: Sequence[Done]) -> Any:
    if not is_script(call.scope):
        return Said("", to="/ui/runs")
    return Page("runs_done", what=what, done=done, count=sum(one.is_done for one in done))
