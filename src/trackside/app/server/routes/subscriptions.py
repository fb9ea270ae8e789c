"""Durable subscriptions, for operators: how they stand, where they go on, and what they could not handle."""

from __future__ import annotations

from typing import Any

from msgspec import convert

from trackside.app.delivery import OUR_SUBSCRIPTIONS
from trackside.app.server.authorizing import OPERATION
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Reply, empty, json_reply
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.subscriptions import (
    ParkedChoice,
    ParkedDecided,
    ParkedInfo,
    ParkedQuery,
    RunDeliveries,
    SubscriptionCreate,
    SubscriptionInfo,
    SubscriptionSeek,
    parked_on_wire,
    subscription_on_wire,
)
from trackside.harness.errors import UnknownRunError

routes = Routes("Subscriptions")

_PATH = "/subscriptions/{name}"


@routes.get("/subscriptions", Permission.admin, about=OPERATION, answers={200: list[SubscriptionInfo]})
async def list_subscriptions(call: Call[None, None]) -> Any:
    """List all subscriptions, by name, and how each one stands."""
    return [subscription_on_wire(found) for found in await call.parts.store.subscriptions.all()]


@routes.post(
    "/subscriptions", Permission.admin, about=OPERATION, body=SubscriptionCreate, answers={200: SubscriptionInfo}
)
async def create_subscription(call: Call[SubscriptionCreate, None]) -> Any:
    """Create a subscription. One that exists and wants the same goes on where it was.

    The response is 409 if there is one of this name that wants something else.
    """
    body = call.body
    if "/" in body.name:
        raise HttpError(
            status=422, detail=f"no path can name {body.name!r:.80}: leave the / out of a subscription's name"
        )
    if body.name in OUR_SUBSCRIPTIONS:
        raise HttpError(status=422, detail=f"{body.name} is the server's own subscription: give this one another name")
    made = await call.parts.store.subscriptions.open(
        body.name,
        types=body.types,
        run_id=body.run_id,
        thread_id=body.thread_id,
        agent=body.agent,
        start=body.start,
        on_failure=body.on_failure,
    )
    return subscription_on_wire(made)


@routes.get(_PATH, Permission.admin, about=OPERATION, answers={200: SubscriptionInfo})
async def get_subscription(call: Call[None, None]) -> Any:
    """Get a subscription, and how it stands."""
    return await _standing(call)


@routes.delete(_PATH, Permission.admin, about=OPERATION, answers={204: None})
async def delete_subscription(call: Call[None, None]) -> Any:
    """Delete a subscription, with its place in the log and what it has parked."""
    await call.parts.store.subscriptions.delete(call.path["name"])
    return empty()


@routes.post(f"{_PATH}/pause", Permission.admin, about=OPERATION, answers={200: SubscriptionInfo})
async def pause_subscription(call: Call[None, None]) -> Any:
    """Pause a subscription: it delivers nothing until it is resumed."""
    await call.parts.store.subscriptions.pause(call.path["name"])
    return await _standing(call)


@routes.post(f"{_PATH}/resume", Permission.admin, about=OPERATION, answers={200: SubscriptionInfo})
async def resume_subscription(call: Call[None, None]) -> Any:
    """Resume a subscription: it goes on where it was."""
    await call.parts.store.subscriptions.resume(call.path["name"])
    return await _standing(call)


@routes.post(f"{_PATH}/seek", Permission.admin, about=OPERATION, body=SubscriptionSeek, answers={200: SubscriptionInfo})
async def seek_subscription(call: Call[SubscriptionSeek, None]) -> Any:
    """Move a subscription: it goes on behind another position.

    If you move it back, events are delivered again. If you move it ahead, those in between are not delivered.
    """
    await call.parts.store.subscriptions.seek(call.path["name"], call.body.position)
    return await _standing(call)


@routes.get(f"{_PATH}/parked", Permission.admin, about=OPERATION, query=ParkedQuery, answers={200: list[ParkedInfo]})
async def list_parked(call: Call[None, ParkedQuery]) -> Any:
    """List the events that a subscription has parked, in order of position.

    `X-Pagination-Next` is the value to pass as `after` for the next page.
    """
    query = call.query
    found = await call.parts.store.subscriptions.parked(call.path["name"], after=query.after, limit=query.limit + 1)
    page = found[: query.limit]
    more = {"X-Pagination-Next": str(page[-1].stored.position)} if len(found) > len(page) else None
    return json_reply([parked_on_wire(event) for event in page], headers=more)


@routes.post(
    f"{_PATH}/parked/retry", Permission.admin, about=OPERATION, body=ParkedChoice, answers={200: ParkedDecided}
)
async def retry_parked(call: Call[ParkedChoice, None]) -> Any:
    """Have a parked event delivered again, or all parked events."""
    which, subscriptions = call.body, call.parts.store.subscriptions
    return ParkedDecided(await subscriptions.retry_parked(call.path["name"], which.position, until=which.until))


@routes.post(f"{_PATH}/parked/drop", Permission.admin, about=OPERATION, body=ParkedChoice, answers={200: ParkedDecided})
async def drop_parked(call: Call[ParkedChoice, None]) -> Any:
    """Give up a parked event, or all of them. They stay in the log."""
    which, subscriptions = call.body, call.parts.store.subscriptions
    return ParkedDecided(await subscriptions.drop_parked(call.path["name"], which.position, until=which.until))


@routes.get("/runs/{run_id}/deliveries", Permission.admin, about=OPERATION, answers={200: list[RunDeliveries]})
async def list_deliveries(call: Call[None, None]) -> Any:
    """List what each subscription that wants events of a run did with them.

    Of a run with more than 10,000 events, the server looks at the last ones, and `X-Truncated: true` says so.
    """
    store, run_id = call.parts.store, call.run_id
    if await store.run(run_id, removed=True) is None:
        raise UnknownRunError(run_id=run_id)
    found = await store.subscriptions.deliveries(run_id)
    shown = [convert(one, RunDeliveries, from_attributes=True) for one in found.deliveries]
    return json_reply(shown, headers={"X-Truncated": "true"} if found.truncated else None)


async def _standing(call: Call[Any, Any]) -> Reply:
    return json_reply(subscription_on_wire(await call.parts.store.subscriptions.get(call.path["name"])))
