"""Durable subscriptions on the wire, and the events that they have parked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from trackside.app.server.wire.log import Id, Limit, LogEvent, Position, Time, event_on_wire
from trackside.app.storage.subscriptions import OnFailure, ParkedEvent, ParkedState, Subscription, SubscriptionState
from trackside.harness.types import LifecycleEventType

type Start = Literal["now", "beginning"] | Position


class SubscriptionCreate(Struct, forbid_unknown_fields=True, kw_only=True):
    """A subscription to create. One that exists already and wants the same goes on where it was."""

    name: Id
    types: list[LifecycleEventType] | None = None
    run_id: Id | None = None
    thread_id: Id | None = None
    agent: Id | None = None
    start: Start = "now"
    on_failure: OnFailure = OnFailure.park


class SubscriptionSeek(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where a subscription goes on: with the first event behind this position."""

    position: Start


class ParkedChoice(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which parked events: the one at `position`; without it all, or with `until` all that were parked until then.

    With a subscription's `last_parked_at` as `until`, those are meant that it had parked when you read that value.
    """

    position: Position | None = None
    until: Time | None = None


class ParkedQuery(Struct, kw_only=True):
    """Which page of parked events."""

    after: Position = 0
    limit: Limit = 100


class SubscriptionInfo(Struct, frozen=True, kw_only=True):
    """How a subscription stands. All events up to `cursor` were handled, are parked, or are not wanted."""

    name: str
    filter: Mapping[str, Any]
    on_failure: OnFailure
    state: SubscriptionState
    cursor: int
    behind: int
    oldest_at: datetime | None
    parked: int
    last_parked_at: datetime | None
    """When the last of them was parked or tried once more in vain; as `until` it means those that are counted here."""
    to_retry: int
    """How many of them shall be tried again."""
    consumer: str | None
    failures: int
    last_error: str | None
    last_error_at: datetime | None
    created_at: datetime
    updated_at: datetime


class ParkedInfo(Struct, frozen=True, kw_only=True):
    """An event that could not be handled, and what its last try failed with."""

    event: LogEvent
    state: ParkedState
    attempts: int
    error: str
    parked_at: datetime


class ParkedHere(Struct, frozen=True, kw_only=True):
    """An event of a run that a subscription could not handle."""

    position: int
    attempts: int
    error: str
    parked_at: datetime


class RunDeliveries(Struct, frozen=True, kw_only=True):
    """What a subscription did with those events of a run that it wants."""

    subscription: str
    wanted: int
    delivered: int
    """Those that it is past; where it was begun later, or moved, it has not delivered all of them."""
    waiting: int
    parked: list[ParkedHere]


class ParkedDecided(Struct, frozen=True):
    """How many parked events were retried or dropped."""

    count: int


def subscription_on_wire(subscription: Subscription) -> SubscriptionInfo:
    """A subscription as it is said."""
    names = (name for name in SubscriptionInfo.__struct_fields__ if name != "filter")
    fields = {name: getattr(subscription, name) for name in names}
    return SubscriptionInfo(**fields, filter=subscription.filter.to_json())


def parked_on_wire(parked: ParkedEvent) -> ParkedInfo:
    """A parked event as it is said."""
    return ParkedInfo(
        event=event_on_wire(parked.stored),
        state=parked.state,
        attempts=parked.attempts,
        error=parked.error,
        parked_at=parked.parked_at,
    )
