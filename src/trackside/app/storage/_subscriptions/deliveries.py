"""What each subscription did with the events of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, select

from trackside.app.storage._rows.tables import events, parked_events, runs
from trackside.app.storage._subscriptions.reads import read_standing
from trackside.app.storage._subscriptions.records import Subscription

MOST_EVENTS: Final = 10_000
"""At most this many events of a run, the last ones, are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedHere:
    """An event of the run that a subscription could not handle."""

    position: int
    attempts: int
    error: str
    parked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDeliveries:
    """How far a subscription is with the events of a run: those that it wants are delivered, wait, or are parked.

    Those that it is past count as delivered. It may have gone past some without delivering them, if it was begun later,
    or moved.
    """

    subscription: str
    wanted: int
    delivered: int
    waiting: int
    parked: Sequence[ParkedHere]


class DeliveriesOfRun(NamedTuple):
    """What all subscriptions that want something of a run did, by name; and whether earlier events were left out."""

    deliveries: Sequence[RunDeliveries]
    truncated: bool


def read_deliveries(run_id: str) -> Callable[[Connection], DeliveriesOfRun]:
    """A function that reads what subscriptions did with the events of a run; nothing, if the run is not there."""
    of_run = (
        select(events.c.position, events.c.event_type)
        .where(events.c.run_id == run_id)
        .order_by(events.c.sequence.desc())
        .limit(MOST_EVENTS + 1)
    )

    def read(connection: Connection) -> DeliveriesOfRun:
        run = connection.execute(select(runs.c.thread_id, runs.c.agent).where(runs.c.run_id == run_id)).first()
        if run is None:
            return DeliveriesOfRun([], False)
        found = [(row.position, row.event_type) for row in connection.execute(of_run)]
        looked_at = found[:MOST_EVENTS]
        standing = [one for one in read_standing(None)(connection) if _may_want(one, run_id, run)]
        parked = _parked(connection, run_id) if any(one.parked for one in standing) else {}
        deliveries = [_of(one, looked_at, parked.get(one.name, [])) for one in standing]
        return DeliveriesOfRun([one for one in deliveries if one.wanted], len(found) > MOST_EVENTS)

    return read


def _may_want(subscription: Subscription, run_id: str, run: Row[*tuple[Any, ...]]) -> bool:
    wanted = subscription.filter
    return (
        wanted.run_id in (None, run_id)
        and wanted.thread_id in (None, run.thread_id)
        and wanted.agent in (None, run.agent)
    )


def _of(
    subscription: Subscription, looked_at: Iterable[tuple[int, str]], parked: Sequence[ParkedHere]
) -> RunDeliveries:
    types = subscription.filter.types
    wanted = [position for position, kind in looked_at if types is None or kind in types]
    here = {*wanted}
    its = [one for one in parked if one.position in here]
    passed = sum(position <= subscription.cursor for position in wanted)
    behind = sum(one.position > subscription.cursor for one in its)
    return RunDeliveries(
        subscription=subscription.name,
        wanted=len(wanted),
        delivered=passed - (len(its) - behind),
        waiting=len(wanted) - passed - behind,
        parked=its,
    )


def _parked(connection: Connection, run_id: str) -> dict[str, list[ParkedHere]]:
    # From the run's events to those of them that are parked: a whole subscription may have parked a lot.
    of_run = select(events.c.position).where(events.c.run_id == run_id)
    newest = of_run.order_by(events.c.sequence.desc()).limit(MOST_EVENTS).subquery()
    query = select(parked_events).where(parked_events.c.position.in_(select(newest.c.position)))
    found: dict[str, list[ParkedHere]] = defaultdict(list)
    for row in connection.execute(query.order_by(parked_events.c.position)):
        found[row.subscription].append(
            ParkedHere(position=row.position, attempts=row.attempts, error=row.error, parked_at=row.parked_at)
        )
    return found
