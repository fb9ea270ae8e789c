"""The steps of subscriptions that write, each one transaction: nothing of a step is ever half done (I25).

A consumer has a token, a number that is given once. A step of a consumer first checks, in the transaction in which it
writes, that its token is still the one that counts, so a consumer that was replaced changes nothing. Whatever moves,
changes or ends what a consumer does gives the subscription another token.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Never, override

from sqlalchemy import delete, exists, insert, select, update

from trackside.app.storage import errors
from trackside.app.storage._databases.session import Session
from trackside.app.storage._reading.landmarks import Landmark, look_for, sight_of
from trackside.app.storage._rows.encoding import json_of, json_text
from trackside.app.storage._rows.leases import seconds_left
from trackside.app.storage._rows.tables import POSITION, TOKEN, counters, events, parked_events, subscriptions
from trackside.app.storage._subscriptions.records import (
    OnFailure,
    ParkedState,
    Start,
    SubscriptionFilter,
    SubscriptionState,
)
from trackside.app.storage._writing.work import UnitOfWork, Work

_STEP_BYTES: Final = 1_000
_MOMENT: Final = 0.1  # seconds after which a transaction that was under way is over
_NOBODY: Final = {"consumer": None, "clock": None, "lease_until": None, "lease_seconds": None}


class _Row(NamedTuple):
    """A subscription, as far as steps depend on it."""

    name: str
    filter: str
    cursor: int
    on_failure: str
    state: str
    consumer: str | None
    clock: str | None
    lease_until: float | None
    lease_seconds: float | None
    token: int
    failures: int


class Grant(NamedTuple):
    """The right to consume, and what is to be consumed."""

    token: int
    cursor: int
    filter: SubscriptionFilter
    on_failure: OnFailure


@dataclass(slots=True, eq=False, kw_only=True)
class SubscriptionWork(Work):
    """Something that is done to one subscription; `now` is the wall clock's time, for people to read."""

    name: str
    now: str

    @property
    @override
    def size(self) -> int:
        return _STEP_BYTES

    @override
    def apply(self, unit: UnitOfWork) -> Any:
        return self._take(unit.session)

    @abstractmethod
    def _take(self, session: Session) -> Any:
        """Do it.

        Raises:
            StorageError: it cannot be done; nothing was written.
        """

    def _find(self, session: Session, *, wait: bool = True) -> _Row | None:
        """The row, which nobody else changes until this transaction ends; unless `wait`, None if it is locked."""
        columns = [subscriptions.c[name] for name in _Row._fields]
        query = select(*columns).where(subscriptions.c.name == self.name)
        rows = session.execute(query.with_for_update(skip_locked=not wait))
        return _Row(*rows[0]) if rows else None

    def _load(self, session: Session) -> _Row:
        row = self._find(session)
        if row is None:
            raise errors.UnknownSubscriptionError(name=self.name)
        return row

    def _change(self, session: Session, **values: Any) -> None:
        changed = update(subscriptions).where(subscriptions.c.name == self.name)
        session.execute(changed.values(updated_at=self.now, **values))


@dataclass(slots=True, eq=False, kw_only=True)
class Open(SubscriptionWork):
    """Make a subscription unless it is there; "now" becomes a position, once and for all (I29)."""

    filter: SubscriptionFilter
    on_failure: OnFailure
    start: Start

    @override
    def _take(self, session: Session) -> None:
        if (row := self._find(session)) is not None:
            self._check_same(row)
            return
        columns = {
            "name": self.name,
            "filter": json_text(self.filter.to_json()),
            "on_failure": self.on_failure.value,
            "cursor": _position_of(session, "start", self.start),
            "state": SubscriptionState.active.value,
            "created_at": self.now,
            "updated_at": self.now,
            "token": 0,
            "failures": 0,
        }
        session.execute(insert(subscriptions).values(columns))

    def _check_same(self, row: _Row) -> None:
        found = SubscriptionFilter.from_json(json_of(row.filter)).to_json(), row.on_failure
        wanted = self.filter.to_json(), self.on_failure.value
        for what, is_there, asked in zip(("filter", "on_failure"), found, wanted, strict=True):
            if is_there != asked:
                raise errors.SubscriptionConflictError(name=self.name, field=what, found=is_there, wanted=asked)


@dataclass(slots=True, eq=False, kw_only=True)
class Update(SubscriptionWork):
    """Give a subscription another filter or policy; what is None stays. Whoever consumes has to begin again."""

    filter: SubscriptionFilter | None
    on_failure: OnFailure | None

    @override
    def _take(self, session: Session) -> None:
        self._load(session)
        changes: dict[str, Any] = {}
        if self.filter is not None:
            changes["filter"] = json_text(self.filter.to_json())
        if self.on_failure is not None:
            changes["on_failure"] = self.on_failure.value
        self._change(session, token=_next_token(session), **_NOBODY, **changes)


@dataclass(slots=True, eq=False, kw_only=True)
class SetState(SubscriptionWork):
    """Pause a subscription or let it go on. A consumer may still say what it has handled."""

    state: SubscriptionState

    @override
    def _take(self, session: Session) -> None:
        self._load(session)
        self._change(session, state=self.state.value)


@dataclass(slots=True, eq=False, kw_only=True)
class Seek(SubscriptionWork):
    """Move the cursor, back or ahead. Whoever consumes has to begin again."""

    to: Start

    @override
    def _take(self, session: Session) -> None:
        self._load(session)
        cursor = _position_of(session, "position", self.to)
        self._change(session, cursor=cursor, failures=0, token=_next_token(session), **_NOBODY)


@dataclass(slots=True, eq=False, kw_only=True)
class Delete(SubscriptionWork):
    """Remove a subscription and what it has parked."""

    _was_there: bool = False

    @override
    def undone(self) -> None:
        self._was_there = False

    @override
    def _take(self, session: Session) -> None:
        if self._find(session) is None and not self._was_there:  # the reply to an earlier commit may have been lost
            raise errors.UnknownSubscriptionError(name=self.name)
        self._was_there = True
        session.execute(delete(parked_events).where(parked_events.c.subscription == self.name))
        session.execute(delete(subscriptions).where(subscriptions.c.name == self.name))


@dataclass(slots=True, eq=False, kw_only=True)
class Acquire(SubscriptionWork):
    """Become the consumer, unless there is one whose lease goes on. Its result is a `Grant`."""

    consumer: str
    lease_seconds: float
    _given: tuple[str, float, int] | None = None

    @override
    def undone(self) -> None:
        self._given = None

    @override
    def _take(self, session: Session) -> Grant:
        # Whoever waits for a subscription does not wait for its row: two who want each other's would hold up everybody.
        row = self._find(session, wait=False) or self._being_changed(session)
        if (row.consumer, row.lease_until, row.token) != self._given:  # else it is ours, and the reply was lost
            row = self._give(session, row)
        filter_ = SubscriptionFilter.from_json(json_of(row.filter))
        return Grant(row.token, row.cursor, filter_, OnFailure(row.on_failure))

    def _being_changed(self, session: Session) -> Never:
        holder = session.execute(select(subscriptions.c.consumer).where(subscriptions.c.name == self.name))
        if not holder:
            raise errors.UnknownSubscriptionError(name=self.name)
        ((consumer,),) = holder
        raise errors.SubscriptionBusyError(name=self.name, consumer=consumer, seconds=_MOMENT)

    def _give(self, session: Session, row: _Row) -> _Row:
        if row.state != SubscriptionState.active:
            raise errors.SubscriptionPausedError(name=self.name)
        now = session.clock()
        if left := seconds_left(row, now):
            raise errors.SubscriptionBusyError(name=self.name, consumer=row.consumer, seconds=left)
        token, lease = _next_token(session), now.lease(self.lease_seconds)
        self._given = self.consumer, lease["lease_until"], token
        self._change(session, consumer=self.consumer, token=token, **lease)
        return row._replace(token=token)


@dataclass(slots=True, eq=False, kw_only=True)
class ConsumerWork(SubscriptionWork):
    """A step of the consumer with this token, and of no other."""

    consumer: str
    token: int
    seen: Landmark
    """How far the log was read."""
    parked_ahead: frozenset[int] = frozenset()
    """Positions that this consumer has parked without having passed what comes before them."""

    def _held(self, session: Session) -> _Row:
        row = self._find(session)
        if row is None or not self._is_held(row) or self._is_of_another_log(session):
            raise errors.SubscriptionLostError(name=self.name, consumer=self.consumer)
        return row

    def _is_held(self, row: _Row) -> bool:
        # Also by the name: a database that loses its last commits gives the last tokens again.
        return (row.token, row.consumer) == (self.token, self.consumer)

    def _is_of_another_log(self, session: Session) -> bool:
        (found,) = session.execute(look_for(self.seen))
        return sight_of(self.seen, found).is_other

    def _move(self, session: Session, row: _Row, cursor: int, **values: Any) -> None:
        """Go on to a position up to which all that is wanted is handled, including what was parked before a replay."""
        passed = parked_events.c.subscription == self.name, parked_events.c.position.between(row.cursor + 1, cursor)
        found = {position for (position,) in session.execute(select(parked_events.c.position).where(*passed))}
        if found - self.parked_ahead:
            # A parked event that is no longer wanted did not come, and stays for whoever decides about it.
            wanted = SubscriptionFilter.from_json(json_of(row.filter)).conditions()
            came = exists().where(events.c.position == parked_events.c.position, *wanted)
            here = parked_events.c.position.not_in(self.parked_ahead)
            session.execute(delete(parked_events).where(*passed, here, came))
        self._change(session, cursor=cursor, **values)


@dataclass(slots=True, eq=False, kw_only=True)
class Acknowledge(ConsumerWork):
    """Move the cursor to a position up to which all is handled; one that it has passed already is fine, too."""

    position: int

    @override
    def _take(self, session: Session) -> None:
        row = self._held(session)
        if self.position > row.cursor:
            self._move(session, row, self.position, failures=0)


@dataclass(slots=True, eq=False, kw_only=True)
class Renew(ConsumerWork):
    """Keep the lease, and move the cursor past what was looked at and is not wanted. Its result: is it paused?"""

    lease_seconds: float
    passed: int

    @override
    def _take(self, session: Session) -> bool:
        row = self._held(session)
        now = session.clock()
        lease = now.lease(self.lease_seconds)
        if self.passed > row.cursor:
            self._move(session, row, self.passed, **lease)
        else:
            self._change(session, **lease)
        return row.state == SubscriptionState.paused


@dataclass(slots=True, eq=False, kw_only=True)
class Release(ConsumerWork):
    """Give the lease back, and move the cursor past what was looked at and is not wanted."""

    passed: int

    @override
    def _take(self, session: Session) -> None:
        row = self._find(session)
        if row is not None and self._is_held(row):
            passed = row.cursor if self._is_of_another_log(session) else self.passed
            self._move(session, row, max(row.cursor, passed), **_NOBODY)


@dataclass(slots=True, eq=False, kw_only=True)
class Fail(ConsumerWork):
    """Note that the event that comes next has failed once more."""

    error: str
    attempts: int

    @override
    def _take(self, session: Session) -> None:
        self._held(session)
        self._change(session, failures=self.attempts, last_error=self.error, last_error_at=self.now)


@dataclass(slots=True, eq=False, kw_only=True)
class Park(ConsumerWork):
    """Put an event aside, and go past it if it comes next; one that was tried again stays where it is."""

    position: int
    attempts: int
    error: str
    is_next: bool

    @override
    def _take(self, session: Session) -> None:
        row = self._held(session)
        key = {"subscription": self.name, "position": self.position}
        told = {
            "state": ParkedState.parked.value,
            "attempts": self.attempts,
            "error": self.error,
            "parked_at": self.now,
        }
        if self.position > row.cursor:
            event = select(events.c.position).where(events.c.position == self.position)
            # After a seek back, it may just have been pruned: then there is nothing left to park.
            is_there = bool(session.execute(event.with_for_update(read=True, key_share=True)))
            cursor = self.position if self.is_next else row.cursor
            self._move(session, row, cursor, failures=0, last_error=self.error, last_error_at=self.now)
            # If it is there already, it was parked before a replay, or the reply to an earlier commit was lost.
            session.execute(delete(parked_events).filter_by(**key))
            if is_there:
                session.execute(insert(parked_events).values(**key, **told))
        else:
            self._change(session, last_error=self.error, last_error_at=self.now)
            session.execute(update(parked_events).filter_by(**key).values(**told))


@dataclass(slots=True, eq=False, kw_only=True)
class SettleRetry(ConsumerWork):
    """Note that a parked event was tried again, and handled."""

    position: int

    @override
    def _take(self, session: Session) -> None:
        self._held(session)
        session.execute(delete(parked_events).filter_by(subscription=self.name, position=self.position))


@dataclass(slots=True, eq=False, kw_only=True)
class DecideParked(SubscriptionWork):
    """Have parked events tried again, or drop them: one, or all that were parked until then. Its result is how many."""

    position: int | None
    until: str | None
    retry: bool
    _decided: set[int] = field(default_factory=set)

    @override
    def undone(self) -> None:
        self._decided.clear()

    @override
    def _take(self, session: Session) -> int:
        self._load(session)
        which = [parked_events.c.subscription == self.name]
        if self.position is not None:
            which.append(parked_events.c.position == self.position)
        if self.until is not None:
            which.append(parked_events.c.parked_at <= self.until)
        found = {position for (position,) in session.execute(select(parked_events.c.position).where(*which))}
        self._decided |= found  # what an earlier commit, whose reply was lost, has dropped counts as well
        if self.position is not None and not self._decided:
            raise errors.not_parked(self.name, self.position)
        if self.retry:
            session.execute(update(parked_events).where(*which).values(state=ParkedState.retry.value))
        else:
            session.execute(delete(parked_events).where(*which))
        return len(self._decided)


def _next_token(session: Session) -> int:
    session.execute(update(counters).where(counters.c.name == TOKEN).values(value=counters.c.value + 1))
    ((token,),) = session.execute(select(counters.c.value).where(counters.c.name == TOKEN))
    return int(token)


def _position_of(session: Session, argument: str, start: Start) -> int:
    """The position that callers mean by a start.

    Raises:
        InvalidSubscriptionError: it lies beyond the end of the log.
    """
    ((end,),) = session.execute(select(counters.c.value).where(counters.c.name == POSITION))
    match start:
        case "beginning":
            return 0
        case "now":
            return int(end)
        case _ if start > end:
            why = f"the last position in the log is {end}"
            raise errors.InvalidSubscriptionError(field=argument, value=start, why=why)
        case position:
            return position
