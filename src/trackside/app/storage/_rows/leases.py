"""Leases: the right to look after something, until a moment that whoever holds it keeps moving ahead.

All who compete for a lease have to agree on the time, and no change of the wall clock may end or lengthen one (I8). In
PostgreSQL the time is the server's: `clock_timestamp()`, which goes on within a transaction; whoever sets the server's
clock sets it for all alike. Processes that share an SQLite file are on one machine, whose monotonic clock runs from its
start: that clock is named after the machine's start, and a lease by the clock of another start has ended.

A lease is stored as `clock`, `lease_until`, and `lease_seconds`, for how long it was given. The clock of a PostgreSQL
server may be set back all the same, or another server may take its place: a lease that would go on for more than twice
`lease_seconds` has ended. For a moment, so have the leases of living processes, until they renew them; the same happens
when the clock is set forward. Code that would therefore end somebody's runs, or give them to others, first asks whether
the clock was set (`Enrolment.trusts_leases`).

Inside a transaction `Session.clock()` tells the time:

    now = session.clock()
    free = has_ended(workers, now)   # a condition in a statement
    values = now.lease(lease_seconds)

Outside of one, `read_clock(connection)` does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import ColumnElement, Connection, Double, FromClause, Select, cast, func, or_, select

MAX_LEASE_SECONDS: Final = 3_600.0
"""No lease is given for longer. A lease of unknown length goes on for that long at most."""

_MOST: Final = 2.0
"""How many times its length a lease may seem to go on: clocks that read it may be a little behind."""

DATABASE_CLOCK: Final = "database"
"""The name of the clock of a PostgreSQL server."""

DATABASE_SECONDS: Final[Select[Any]] = select(cast(func.extract("epoch", func.clock_timestamp()), Double))
"""Asks a PostgreSQL server for the time, in seconds."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LeaseClock(NamedTuple):
    """A time, and the name of the clock that told it; only times of one clock can be compared."""

    clock: str
    seconds: float

    def lease(self, seconds: float) -> dict[str, Any]:
        """A lease from now on, as values of its columns."""
        return {"clock": self.clock, "lease_until": self.seconds + seconds, "lease_seconds": seconds}


class TrustsLeases(Protocol):
    """Whether an ended lease means that its worker is gone; `now` is what the clock of the leases says."""

    def __call__(self, now: LeaseClock | None = None) -> bool: ...


def machine_clock() -> LeaseClock:
    """The time since this machine was started: the same in all its processes."""
    return LeaseClock(boot_id(), monotonic())


@cache
def boot_id() -> str:
    """The name of this start of the machine; systems that do not name their starts have one name for all."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return "machine"


def wall_time(now: LeaseClock) -> datetime:
    """The time of day then: the database server's if that told the time, so that all hosts agree; else this machine's."""
    return datetime.fromtimestamp(now.seconds, UTC) if now.clock == DATABASE_CLOCK else datetime.now(UTC)


def read_clock(connection: Connection) -> LeaseClock:
    """The time by the clock of the leases in this database, for code that only reads."""
    if connection.dialect.name == "postgresql":
        return LeaseClock(DATABASE_CLOCK, connection.execute(DATABASE_SECONDS).scalar_one())
    return machine_clock()


def has_ended(leases: FromClause, now: LeaseClock) -> ColumnElement[bool]:
    """The condition that the lease in a row of `leases` has ended."""
    lease = leases.c
    too_far = lease.lease_until > now.seconds + func.coalesce(_MOST * lease.lease_seconds, MAX_LEASE_SECONDS)
    return or_(lease.clock != now.clock, lease.lease_until <= now.seconds, too_far)


def seconds_left(lease: Any, now: LeaseClock) -> float:
    """How long the lease in a row goes on; 0 if it has ended, or there is none."""
    if lease.clock != now.clock or lease.lease_until is None:
        return 0.0
    left = float(lease.lease_until - now.seconds)
    most = MAX_LEASE_SECONDS if lease.lease_seconds is None else _MOST * lease.lease_seconds
    return left if 0 < left <= most else 0.0


def seconds_since_given(lease: Any, now: LeaseClock) -> float | None:
    """How long ago the lease in a row was given or renewed; None if its clock or its length does not tell."""
    if lease.clock != now.clock or lease.lease_seconds is None:
        return None
    return max(0.0, float(lease.lease_seconds - (lease.lease_until - now.seconds)))
