"""What is looked up for subscriptions: how they stand, what comes next, what is parked.

A filter that few events match must not make anybody read the whole log at once, so what comes next is looked for in
one stretch of positions at a time, and the cursor goes on with the stretches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from trackside.app.storage import errors
from trackside.app.storage._databases.growth import LOG_END
from trackside.app.storage._reading.landmarks import Landmark, look_for, sight_of
from trackside.app.storage._reading.queries import event_of
from trackside.app.storage._rows.leases import LeaseClock, read_clock, seconds_left
from trackside.app.storage._rows.records import StoredEvent
from trackside.app.storage._rows.tables import events, parked_events, subscriptions
from trackside.app.storage._subscriptions.records import (
    Batch,
    OnFailure,
    ParkedEvent,
    ParkedState,
    Subscription,
    SubscriptionFilter,
    SubscriptionState,
)
from trackside.harness.observing.weighing import weight_of

STRETCH: Final = 10_000
"""How many positions are looked through at once, which takes some milliseconds."""
_IS_RETRY: Final = parked_events.c.state == ParkedState.retry.value


def standing(name: str | None = None) -> Select[Any]:
    """How subscriptions stand: all of them by name, or one. The length of the log does not matter."""
    oldest = select(events.c.occurred_at).where(events.c.position > subscriptions.c.cursor)
    its_parked = parked_events.c.subscription == subscriptions.c.name
    query = select(
        subscriptions,
        (LOG_END - subscriptions.c.cursor).label("behind"),
        oldest.order_by(events.c.position).limit(1).scalar_subquery().label("oldest_at"),
        select(func.count()).where(its_parked).scalar_subquery().label("parked"),
        select(func.max(parked_events.c.parked_at)).where(its_parked).scalar_subquery().label("last_parked_at"),
        select(func.count()).where(its_parked, _IS_RETRY).scalar_subquery().label("to_retry"),
    ).order_by(subscriptions.c.name)
    return query if name is None else query.where(subscriptions.c.name == name)


def subscription_of(row: Row[Any], now: LeaseClock) -> Subscription:
    """The subscription in a row."""
    return Subscription(
        name=row.name,
        filter=SubscriptionFilter.from_json(row.filter),
        on_failure=OnFailure(row.on_failure),
        state=SubscriptionState(row.state),
        cursor=row.cursor,
        behind=row.behind,
        oldest_at=row.oldest_at,
        parked=row.parked,
        last_parked_at=row.last_parked_at,
        to_retry=row.to_retry,
        consumer=row.consumer if seconds_left(row, now) else None,
        failures=row.failures,
        last_error=row.last_error,
        last_error_at=row.last_error_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def read_standing(name: str | None) -> Callable[[Connection], list[Subscription]]:
    """A function that reads how subscriptions stand."""

    def read(connection: Connection) -> list[Subscription]:
        now = read_clock(connection)
        return [subscription_of(row, now) for row in connection.execute(standing(name))]

    return read


def seconds_until_free(name: str) -> Callable[[Connection], tuple[float, str | None]]:
    """A function that reads how long the lease of a subscription goes on (0 if anybody may have it), and whose it is.

    That function raises:
        UnknownSubscriptionError: there is no such subscription.
        SubscriptionPausedError: it is paused.
    """
    columns = [subscriptions.c[column] for column in ("state", "consumer", "clock", "lease_until", "lease_seconds")]
    query = select(*columns).where(subscriptions.c.name == name)

    def read(connection: Connection) -> tuple[float, str | None]:
        row = connection.execute(query).first()
        if row is None:
            raise errors.UnknownSubscriptionError(name=name)
        if row.state != SubscriptionState.active:
            raise errors.SubscriptionPausedError(name=name)
        return seconds_left(row, read_clock(connection)), row.consumer

    return read


def check_grant(name: str, *, consumer: str, token: int) -> Callable[[Connection], int]:
    """A function that checks that a consumer's token counts, and reads the cursor; raises as `read_batch` does."""
    query = select(subscriptions.c.token, subscriptions.c.state, subscriptions.c.cursor).where(
        subscriptions.c.name == name
    )

    def check(connection: Connection) -> int:
        row = connection.execute(query).first()
        if row is None or row.token != token:
            raise errors.SubscriptionLostError(name=name, consumer=consumer)
        if row.state != SubscriptionState.active:
            raise errors.SubscriptionPausedError(name=name)
        return int(row.cursor)

    return check


def read_batch(
    name: str,
    *,
    consumer: str,
    token: int,
    seen: Landmark,
    wanted: SubscriptionFilter,
    after: int,
    limit: int,
    max_bytes: int,
) -> Callable[[Connection], tuple[Batch, Landmark]]:
    """A function that reads what comes next for this consumer: `limit` events, or as many as come to `max_bytes`.

    It also returns a landmark of the place up to which the batch goes; `seen` is that of what was read before.

    That function raises:
        SubscriptionLostError: the token does not count any more, or the log is another one.
        SubscriptionPausedError: the subscription is paused.
    """
    check = check_grant(name, consumer=consumer, token=token)

    def read(connection: Connection) -> tuple[Batch, Landmark]:
        check(connection)
        # The end first: an event that is committed after this look lies behind it, and is not passed by mistake.
        sight = sight_of(seen, connection.execute(look_for(seen)).one())
        if sight.is_other:
            raise errors.SubscriptionLostError(name=name, consumer=consumer)
        end = sight.end.position
        first = connection.execute(first_position(after)).scalar()
        if first is None or first > end:
            return Batch((), max(after, end), at_end=True), sight.end
        through = end if wanted.run_id is not None else min(end, first + STRETCH - 1)
        query = wanted_events(wanted.conditions(), after, through)
        found, is_cut = _first_of(connection, query, limit, max_bytes, event_of, _weight)
        if is_cut:
            through = found[-1].position
        if through == end:
            place = sight.end
        elif found and found[-1].position == through:
            place = Landmark(through, found[-1].event.event_id)
        else:
            place = Landmark(through)
        return Batch(tuple(found), through, at_end=through >= end), place

    return read


def first_position(after: int) -> Select[Any]:
    """The first position after this one that has an event; what was pruned has left holes."""
    return select(events.c.position).where(events.c.position > after).order_by(events.c.position).limit(1)


def wanted_events(conditions: list[ColumnElement[bool]], after: int, through: int) -> Select[Any]:
    """Events in a stretch of the log."""
    position = events.c.position
    return select(events).where(position > after, position <= through, *conditions).order_by(position)


def read_retries(
    name: str, *, consumer: str, token: int, limit: int, max_bytes: int
) -> Callable[[Connection], list[ParkedEvent]]:
    """A function that reads parked events that this consumer is to try again; as `read_batch` does."""
    check = check_grant(name, consumer=consumer, token=token)

    def read(connection: Connection) -> list[ParkedEvent]:
        query = retries(name, through=check(connection))
        found, _ = _first_of(connection, query, limit, max_bytes, parked_of, lambda parked: _weight(parked.stored))
        return found

    return read


def retries(name: str, *, through: int) -> Select[Any]:
    """Parked events to try again; what lies after the cursor comes once more anyway."""
    position = parked_events.c.position
    query = _parked(name).where(_IS_RETRY, position <= through)
    return query.order_by(position)


def _first_of[T](
    connection: Connection,
    query: Select[Any],
    limit: int,
    max_bytes: int,
    make: Callable[[Row[Any]], T],
    weigh: Callable[[T], int],
) -> tuple[list[T], bool]:
    """The first events of a query, `limit` or as many as come to `max_bytes`, and whether there may be more."""
    if connection.dialect.name == "postgresql":
        # PostgreSQL sends all that it is asked for at once; SQLite gives one row after another.
        fitting, there = connection.execute(how_many_fit(query.limit(limit), max_bytes)).one()
        limit = fitting if fitting < there else limit
    found: list[T] = []
    size = 0
    with connection.execute(query.limit(limit)) as rows:
        for row in rows:
            found.append(make(row))
            size += weigh(found[-1])
            if size >= max_bytes:
                return found, True
    return found, len(found) == limit


def how_many_fit(query: Select[Any], max_bytes: int) -> Select[int, int]:
    """How many of the first events of a query come to `max_bytes`, as they are stored, and how many there are."""
    size = func.octet_length(events.c.payload)
    before = func.sum(size).over(order_by=events.c.position) - size
    sized = query.with_only_columns(before.label("before")).subquery()
    return select(func.count().filter(sized.c.before < max_bytes), func.count()).select_from(sized)


def _weight(stored: StoredEvent) -> int:
    return weight_of(stored.event)


def parked(name: str, *, after: int, limit: int) -> Select[Any]:
    """What a subscription has parked, in order of position."""
    return _parked(name).where(parked_events.c.position > after).order_by(parked_events.c.position).limit(limit)


def parked_of(row: Row[Any]) -> ParkedEvent:
    """The parked event in a row."""
    stored: StoredEvent = event_of(row)
    return ParkedEvent(
        stored=stored,
        state=ParkedState(row.state),
        attempts=row.attempts,
        error=row.error,
        parked_at=row.parked_at,
    )


def _parked(name: str) -> Select[Any]:
    told = (parked_events.c.state, parked_events.c.attempts, parked_events.c.error, parked_events.c.parked_at)
    joined = select(events, *told).join(parked_events, parked_events.c.position == events.c.position)
    return joined.where(parked_events.c.subscription == name)
