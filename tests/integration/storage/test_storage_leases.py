"""Leases are measured with a clock that all competitors for them share, and that nobody can set (I8)."""

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import Float, column, create_engine, literal, select, table
from sqlalchemy.dialects import postgresql

from trackside.app.storage._rows import leases as leases_module
from trackside.app.storage._rows.leases import (
    DATABASE_SECONDS,
    MAX_LEASE_SECONDS,
    LeaseClock,
    has_ended,
    machine_clock,
    read_clock,
    seconds_left,
)

NOW = LeaseClock("this start", 1_000.0)


class Lease(NamedTuple):
    clock: str | None
    lease_until: float | None
    lease_seconds: float | None


LEASES = {
    "it goes on": ("this start", 1_000.5, 15.0, 0.5),
    "it ends now": ("this start", 1_000.0, 15.0, 0.0),
    "it has ended": ("this start", 999.0, 15.0, 0.0),
    "the machine was restarted": ("the start before", 1_010.0, 15.0, 0.0),
    "the clock was set back a little": ("this start", 1_030.0, 15.0, 30.0),
    "the clock was set back": ("this start", 1_030.5, 15.0, 0.0),
    "it is as long as can be": ("this start", 1_000.0 + MAX_LEASE_SECONDS, None, MAX_LEASE_SECONDS),
    "the clock was set back, and how long it is nobody knows": ("this start", 1_000.5 + MAX_LEASE_SECONDS, None, 0.0),
}


@pytest.mark.parametrize(("clock", "until", "given", "left"), LEASES.values(), ids=LEASES.keys())
def test_a_lease_ends_with_its_time_and_with_its_clock(
    clock: str, until: float, given: float | None, left: float
) -> None:
    assert seconds_left(Lease(clock, until, given), NOW) == left

    columns = literal(clock).label("clock"), literal(until).label("lease_until")
    leases = select(*columns, literal(given, Float).label("lease_seconds")).subquery()
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        ended = connection.scalar(select(has_ended(leases, NOW)))
    engine.dispose()
    assert ended == (left == 0.0)


def test_nobody_holds_a_lease_that_was_never_given() -> None:
    assert seconds_left(Lease(None, None, None), NOW) == 0.0


def test_processes_of_one_machine_have_one_clock() -> None:
    tell = "from trackside.app.storage._rows.leases import machine_clock; print(*machine_clock())"

    before = machine_clock()
    clock, seconds = subprocess.run(
        [sys.executable, "-c", tell], capture_output=True, text=True, check=True
    ).stdout.split()
    after = machine_clock()

    assert {clock} == {before.clock, after.clock}
    assert before.seconds < float(seconds) < after.seconds


def test_whoever_sets_the_wall_clock_moves_no_lease() -> None:
    before = time.monotonic()  # nobody can set this clock
    assert before <= machine_clock().seconds <= time.monotonic()


def test_a_system_that_does_not_name_its_starts_has_one_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(leases_module, "_BOOT_ID", tmp_path / "no such file")
    assert leases_module.boot_id.__wrapped__() == "machine"


def test_whoever_only_reads_has_the_clock_of_the_database() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        assert read_clock(connection).clock == machine_clock().clock
    engine.dispose()


def test_postgresql_is_asked_for_a_clock_that_goes_on_within_a_transaction() -> None:
    asked = str(DATABASE_SECONDS.compile(dialect=postgresql.dialect()))
    assert "clock_timestamp()" in asked
    leases = table("workers", column("clock"), column("lease_until"), column("lease_seconds"))
    condition = has_ended(leases, NOW)
    assert "now()" not in str(condition.compile(dialect=postgresql.dialect()))
