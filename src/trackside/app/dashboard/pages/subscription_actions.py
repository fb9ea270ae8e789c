"""What can be done with durable subscriptions, and the stream that says that they move.

A subscription's name may have any characters, so it is in forms, and never in a path.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, Literal

from trackside.app.dashboard.declaring import API, Form, action
from trackside.app.dashboard.live import Looks
from trackside.app.dashboard.rendering import FailurePage, Said
from trackside.app.server.authorizing import INSIDE
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.routes import subscriptions as api
from trackside.app.server.routing import EVENT_STREAM, Call, Routes
from trackside.app.server.wire.subscriptions import SubscriptionInfo
from trackside.harness.errors import TracksideError

routes = Routes("Console")

_LOOK_SECONDS: Final = 1.0
"""Seconds between looks at subscriptions while somebody has their page open: they move without an event in the log."""


class Named(Form, kw_only=True):
    """Which subscription."""

    name: str


class Parked(Form, kw_only=True):
    """Which of its parked events; without a position all that the page has counted."""

    name: str
    position: str = ""
    until: str | None = None


class Seek(Form, kw_only=True):
    """Where it shall go on: with the event at `position`, unless `to` says more."""

    name: str
    to: Literal["position", "beginning", "now"] = "position"
    position: str = ""


@action(routes, "/ui/subscription/pause", body=Named, needs=Permission.admin)
async def pause(call: Call[Named, None]) -> Any:
    """Deliver nothing until it is resumed."""
    await API.ask(call, api.pause_subscription, path=_path(call))
    return Said(f"{call.body.name} is paused.")


@action(routes, "/ui/subscription/resume", body=Named, needs=Permission.admin)
async def resume(call: Call[Named, None]) -> Any:
    """Go on where it was."""
    await API.ask(call, api.resume_subscription, path=_path(call))
    return Said(f"{call.body.name} is resumed.")


@action(routes, "/ui/subscription/seek", body=Seek, needs=Permission.admin)
async def seek(call: Call[Seek, None]) -> Any:
    """Go on elsewhere, and say how many events come again, or do not come."""
    before: SubscriptionInfo = (await API.ask(call, api.get_subscription, path=_path(call))).value
    body = {"position": _start(call.body)}
    after: SubscriptionInfo = (await API.ask(call, api.seek_subscription, path=_path(call), body=body)).value
    return Said(f"{call.body.name} {_moved(after.cursor - before.cursor)}.")


@action(routes, "/ui/subscription/delete", body=Named, needs=Permission.admin)
async def delete(call: Call[Named, None]) -> Any:
    """Forget it, and what it has parked."""
    await API.ask(call, api.delete_subscription, path=_path(call))
    return Said(f"{call.body.name} is deleted.", to="/ui/subscriptions")


@action(routes, "/ui/subscription/retry", body=Parked, needs=Permission.admin)
async def retry(call: Call[Parked, None]) -> Any:
    """Have a parked event delivered again, or all that were shown."""
    decided = (await API.ask(call, api.retry_parked, path=_path(call), body=_choice(call.body))).value
    return Said(f"{_events(decided.count)} will be delivered again.")


@action(routes, "/ui/subscription/drop", body=Parked, needs=Permission.admin)
async def drop(call: Call[Parked, None]) -> Any:
    """Give a parked event up, or all that were shown: of those that are parked since then nobody knows yet."""
    decided = (await API.ask(call, api.drop_parked, path=_path(call), body=_choice(call.body))).value
    return Said(f"{_events(decided.count)} dropped. They stay in the log.")


@routes.get("/ui/subscription/live", Permission.admin, about=INSIDE, media_type=EVENT_STREAM, failing=FailurePage)
async def follow_subscriptions(call: Call[None, None]) -> Any:
    """Server-sent events that say that subscriptions stand otherwise than before."""
    standings = await _standings(call)

    async def has_changed() -> bool:
        nonlocal standings
        with suppress(TracksideError):  # the database is away for now, as the page finds out itself
            before, standings = standings, await _standings(call)
            return bool(before != standings)
        return False

    return Looks(has_changed, call.parts.options, every=_LOOK_SECONDS)


async def _standings(call: Call[Any, Any]) -> Any:
    return (await API.ask(call, api.list_subscriptions)).value


def _path(call: Call[Any, None]) -> dict[str, str]:
    return {"name": call.body.name}


def _start(body: Seek) -> str | int:
    """The place in the API's terms: it goes on *after* a position, while people say with which event.

    Raises:
        HttpError: it is not a position.
    """
    return body.to if body.to != "position" else _number(body.position) - 1


def _choice(body: Parked) -> dict[str, Any]:
    return {"position": _number(body.position)} if body.position else {"until": body.until}


def _number(said: str) -> int:
    text = said.strip().replace(",", "")
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit()) or not 1 <= len(digits) <= 18:
        raise HttpError(status=422, detail=f"{said!r:.60} is not a position; write a whole number from 1 up")
    return int(digits)


def _moved(by: int) -> str:
    if by == 0:
        return "was there already"
    if by > 0:
        return f"moved ahead; up to {_events(by)} will be skipped"
    return f"moved back; up to {_events(-by)} will be delivered again"


def _events(number: int) -> str:
    return "1 event" if number == 1 else f"{number:,} events"
