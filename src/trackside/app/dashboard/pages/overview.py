"""What goes on, what it comes to, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from trackside.app.dashboard.asking import Part, part, parts_of
from trackside.app.dashboard.chart_series import OUTCOMES, charts_of, tones
from trackside.app.dashboard.declaring import page, params_of
from trackside.app.dashboard.pages.subscriptions import state_of
from trackside.app.dashboard.rendering import Page
from trackside.app.dashboard.time_ranges import LAST, TimeRange, time_range, usual_for
from trackside.app.server.routes import health, observers, records, subscriptions
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.stats import AgentTotals, RunStats, Totals
from trackside.app.server.wire.subscriptions import SubscriptionInfo
from trackside.app.storage.subscriptions import SubscriptionState
from trackside.harness.lifecycle import FAILED_STATUSES
from trackside.harness.types import RunStatus

routes = Routes("Console")

_BEFORE_ALL: Final = "1970-01-01T00:00:00Z/-"
"""A place in the listing of runs that comes before all of them."""
_REASONS: Final = 8
_AGENTS: Final = 25
_COST_SOMETHING: Final = "0.000001"
"""Dollars: anything that costs at least this costs something."""


@page(routes, "/ui")
async def show_overview(call: Call[None, None]) -> Any:
    """What goes on, what it comes to, and what is wrong."""
    given, now = params_of(call), datetime.now(UTC)
    agent = given.get("agent", [None])[0]
    if given.keys().isdisjoint({"range", "since", "until"}):
        given["range"] = [usual_for(await _oldest(call, agent), now)]
    time = time_range(given, now)
    said = await _asked(call, time, agent)
    stats = said["stats"].value
    values: dict[str, Any] = dict(said) if stats is None else {**said, **_shown(call.root, time, agent, said)}
    return Page(
        "overview",
        place="overview",
        twins=_twins(time, agent),
        period=time,
        ranges=LAST,
        agent=agent,
        here=_here(call.root, agent),
        runs=_runs_address(call.root, time, agent),
        state_of=state_of,
        troubled=troubled(said["subscriptions"].value or []),
        **values,
    )


async def _oldest(call: Call[None, None], agent: str | None) -> datetime | None:
    """When the oldest existing run was created."""
    query = {"agent": agent, "after": _BEFORE_ALL, "limit": 1}
    found = (await part(call, records.list_recorded_runs, query)).value
    return found[0].created_at if found else None


async def _asked(call: Call[None, None], time: TimeRange, agent: str | None) -> dict[str, Part]:
    query = {**time.query, "agent": agent}
    width = {"width": int(time.width.total_seconds())}
    return await parts_of(
        call,
        {
            "now": (records.get_now, {}),
            "stats": (records.get_stats, query),
            "timeline": (records.get_timeline, query | width),
            "failures": (records.list_failures, query | {"limit": _REASONS}),
            "newest": (records.list_recorded_runs, {"limit": 1}),
            "ready": (health.ready, {}),
            "subscriptions": (subscriptions.list_subscriptions, {}),
            "observers": (observers.list_observers, {}),
        },
    )


def _shown(root: str, time: TimeRange, agent: str | None, said: Mapping[str, Part]) -> dict[str, Any]:
    """What is shown about totals."""
    stats: RunStats = said["stats"].value
    buckets = said["timeline"].value or []
    runs = _runs_address(root, time, agent)
    charts = charts_of(buckets, stats, runs=runs(), zoom=_here(root, agent)())
    agents = sorted(stats.by_agent, key=lambda one: (-one.total.runs, one.agent or ""))
    return {
        "total": stats.total,
        "failed": failed_of(stats.total),
        "outcomes": [(status, stats.total.by_status.get(status, 0)) for status in OUTCOMES],
        "charts": charts,
        "charts_json": msgspec.json.encode(charts).decode(),
        "models": sorted(stats.by_model.items(), key=lambda one: (-(one[1].cost_usd or 0), one[0])),
        "callers": sorted(stats.by_caller.items(), key=lambda one: (-(one[1].cost_usd or 0), one[0])),
        "tones": tones(stats.by_model),
        "agents": [_row(one) for one in agents[:_AGENTS]],
        "more_agents": max(0, len(agents) - _AGENTS),
        "costs_something": _COST_SOMETHING,
        "seconds": _seconds,
    }


def _row(one: AgentTotals) -> dict[str, Any]:
    """One agent's totals, and where the layers of its bar begin and how wide they are, in percent."""
    layers: list[tuple[RunStatus, int, float, float]] = []
    begin = 0.0
    for status in OUTCOMES:
        if number := one.total.by_status.get(status, 0):
            width = 100 * number / one.total.runs
            layers.append((status, number, begin, width))
            begin += width
    return {"agent": one.agent, "total": one.total, "failed": failed_of(one.total), "layers": layers}


def failed_of(total: Totals) -> int:
    """How many runs ended in a way that nobody wants."""
    return sum(total.by_status.get(status, 0) for status in FAILED_STATUSES)


def _seconds(length: float | None) -> str | None:
    """A length of time for the list of runs, rounded down, so that runs that take exactly that long are also listed."""
    return None if length is None else f"{int(length * 1_000) / 1_000:.3f}"


def troubled(found: list[SubscriptionInfo]) -> list[SubscriptionInfo]:
    """Subscriptions, with those that somebody should look at first."""
    return sorted(found, key=lambda one: (one.state is SubscriptionState.active, -one.parked, -one.behind, one.name))


def _runs_address(root: str, time: TimeRange, agent: str | None) -> Callable[..., str]:
    """Makes addresses of the list of runs of this time: `runs(status="error", min_cost=1)`."""
    always: dict[str, Any] = {**time.query, "removed": "true"}  # the totals include runs that were deleted since
    if agent is not None:
        always["agent"] = agent

    def runs(**more: Any) -> str:
        wanted = {name: value for name, value in (always | more).items() if value is not None}
        return f"{root}/ui/runs?{urlencode(wanted, doseq=True)}"

    return runs


def _here(root: str, agent: str | None) -> Callable[..., str]:
    """Makes addresses of this page."""

    def here(address: str = "", agent: str | None = agent) -> str:
        parts = [address, "" if agent is None else urlencode({"agent": agent})]
        query = "&".join(part for part in parts if part)
        return f"{root}/ui?{query}" if query else f"{root}/ui"

    return here


def _twins(time: TimeRange, agent: str | None) -> tuple[str, ...]:
    chosen = {**time.query} if agent is None else {**time.query, "agent": agent}
    width = {"width": int(time.width.total_seconds())}
    return (
        f"/stats?{urlencode(chosen)}",
        f"/stats/timeline?{urlencode(chosen | width)}",
        f"/stats/failures?{urlencode(chosen)}",
        "/stats/now",
        "/health/ready",
        "/subscriptions",
        "/observers",
    )
