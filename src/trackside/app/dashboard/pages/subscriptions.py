"""Durable subscriptions: how far they are, and what they could not deliver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from trackside.app.dashboard.cutting import MOST_CHARS
from trackside.app.dashboard.declaring import API, page, params_of
from trackside.app.dashboard.pages.nowhere import show_nothing
from trackside.app.dashboard.rendering import Page
from trackside.app.server.failures import HttpError
from trackside.app.server.routes import subscriptions as api
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.subscriptions import ParkedInfo, SubscriptionInfo
from trackside.app.storage.errors import UnknownSubscriptionError

routes = Routes("Console")

_PARKED: Final = 25
"""How many parked events a page shows."""
_LAST_POSITION: Final = 2**63 - 1


@page(routes, "/ui/subscriptions")
async def show_subscriptions(call: Call[None, None]) -> Any:
    """Durable subscriptions: how far they are, and what they could not deliver."""
    refused, found = await _asked(call, api.list_subscriptions)
    return Page(
        "subscriptions",
        place="subscriptions",
        twins=("/subscriptions",),
        refused=refused,
        found=found or [],
        parked=sum(one.parked for one in found or []),
        failing=[one for one in found or [] if one.failures],
        state_of=state_of,
    )


@page(routes, "/ui/subscriptions/{name:path}")
async def show_subscription(call: Call[None, None]) -> Any:
    """One subscription: where it stands, what it wants, what it has parked."""
    name = call.path["name"]
    if not name:  # the address has a slash too many
        return await show_nothing(call)
    try:
        refused, one = await _asked(call, api.get_subscription, path={"name": name})
    except UnknownSubscriptionError:
        if not name.endswith("/"):
            raise
        return await show_nothing(call)
    after, complaint = _after_of(call)
    parked: Sequence[ParkedInfo] = ()
    more = None
    if refused is None:
        query = {"after": after, "limit": _PARKED}
        answered = await API.ask(call, api.list_parked, path={"name": name}, query=query)
        parked, more = answered.value, answered.headers.get("X-Pagination-Next")
    twin = f"/subscriptions/{quote(name, safe='')}"
    return Page(
        "subscription",
        place="subscriptions",
        twins=(twin, f"{twin}/parked") if "/" not in name else (),
        name=name,
        refused=refused,
        one=one,
        parked=parked,
        after=after,
        more=more,
        complaint=complaint,
        longest=MOST_CHARS,
        state_of=state_of,
    )


def state_of(one: SubscriptionInfo) -> str:
    """The main fact about a subscription: `paused`, `failing`, `parked` or `active`.

    The last two deliver; a subscription that has parked something has not delivered everything.
    """
    if one.state != "active":
        return "paused"
    return "failing" if one.failures else "parked" if one.parked else "active"


async def _asked(call: Call[None, None], endpoint: Any, **given: Any) -> tuple[str | None, Any]:
    """Why the viewer may not see it, and what it is if they may."""
    try:
        return None, (await API.ask(call, endpoint, **given)).value
    except HttpError as exc:
        if exc.details["status"] != 403:
            raise
        return str(exc.details["detail"]), None


def _after_of(call: Call[None, None]) -> tuple[int, str | None]:
    """Which page of parked events was asked for, and what is wrong with that."""
    said = params_of(call).get("after", ["0"])[0]
    if said.isascii() and said.isdigit() and len(said) <= 19 and int(said) <= _LAST_POSITION:
        return int(said), None
    return 0, f"{said!r:.60} is not a position; parked events are shown from the first"
