"""A process's one connection for all notices: what it sends together, what it drops, and how it comes back."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from postgres_server import PostgresServer
from raw_postgres import RawConnection

from trackside.app.storage import PostgresBus, Store
from trackside.app.storage._databases.postgres import bus as bus_module
from trackside.app.storage._databases.postgres.bus import BusLimits
from trackside.app.storage._databases.postgres.connections import PostgresDatabase
from trackside.app.storage.errors import ConnectionLostError, NoBusError, StorageError
from trackside.harness.errors import ClosedError

DIALECTS = ["postgresql"]

OF_BUSES = "datname = current_database() AND query ~ '^(LISTEN|UNLISTEN|SELECT pg_notify|SELECT coalesce)'"
END = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OF_BUSES}"


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


class Ear:
    """Listens to a channel, and counts its gaps."""

    def __init__(self, bus: PostgresBus, channel: str, *, own: bool = True) -> None:
        self.heard: list[str] = []
        self.gaps = 0
        self._bus, self._channel = bus, channel
        bus.listen(channel, self._hear, own=own, on_gap=self._gap)

    def _hear(self, payload: str) -> None:
        self.heard.append(payload)

    def _gap(self) -> None:
        self.gaps += 1

    def close(self) -> None:
        self._bus.unlisten(self._channel, self._hear)


@pytest.fixture
def server(postgres_url: str) -> Iterator[RawConnection]:
    with closing(RawConnection(postgres_url)) as connection:
        yield connection


@pytest.fixture
async def bus(postgres_url: str) -> AsyncIterator[Callable[..., PostgresBus]]:
    made: list[PostgresBus] = []

    def make(url: str = postgres_url, **limits: int) -> PostgresBus:
        made.append(PostgresBus(PostgresDatabase.from_url(url), limits=BusLimits(**limits)))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()
        await one.aclose()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "trackside-bus"]


async def test_a_notice_is_heard_by_all_who_listen_to_its_channel(bus) -> None:
    here, there = bus(), bus()
    own, foreign, both = Ear(here, "a"), Ear(here, "a", own=False), Ear(there, "a")
    other = Ear(there, "b")
    await until(lambda: own.gaps and both.gaps and other.gaps)

    assert here.notify("a", "of here")
    assert there.notify("a", "of there")
    await until(lambda: len(own.heard) + len(foreign.heard) + len(both.heard) == 5)
    assert sorted(own.heard) == sorted(both.heard) == ["of here", "of there"]
    assert foreign.heard == ["of there"]
    assert other.heard == []

    own.close()
    own.close()
    there.notify("a", "after it")
    await until(lambda: "after it" in foreign.heard)
    assert "after it" not in own.heard


async def test_a_channel_can_have_any_name_that_is_not_too_long(bus) -> None:
    here, there = bus(), bus()
    for name in ["A b", 'with "quotes"', "ünï", "'; DROP TABLE runs; --", "x" * 54]:
        ear = Ear(there, name)
        await until(lambda ear=ear: ear.gaps)
        here.notify(name, "näher {} \\ '")
        await until(lambda ear=ear: ear.heard)
        assert ear.heard == ["näher {} \\ '"]
    for name, payload in [("", ""), ("x" * 55, ""), ("a\0", ""), ("a", "b\0"), ("a", "x" * 8000), ("a", "\ud800")]:
        with pytest.raises(ValueError, match="."):
            here.notify(name, payload)
    here.notify("x" * 54, "x" * 7999)
    await until(lambda: len(ear.heard) == 2)


async def test_what_comes_while_a_statement_is_on_its_way_goes_in_the_next_one(bus) -> None:
    here, there = bus(), bus()
    ear = Ear(there, "a")
    sent: list[int] = []
    here.on_sent.append(lambda notices: sent.append(len(notices)))
    await until(lambda: ear.gaps)
    async with here._turn:  # the statement is as good as on its way
        here.notify("a", "first")
        await until(lambda: here._sending)
        for number in range(300):
            here.notify("a", str(number))
            here.notify("a", "again")
        here.notify("a", "first")  # about something that arose after the statement was sent
    await until(lambda: not here.waiting)
    await until(lambda: len(ear.heard) == 303)

    assert ear.heard == ["first", "0", "again", *map(str, range(1, 300)), "first"]
    assert sent == [1, 302]
    assert here._bytes == 0


async def test_what_cannot_be_kept_while_the_server_is_away_is_dropped_and_counted(
    bus, own_postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_postgres_server.create_database("runs")
    await asyncio.to_thread(own_postgres_server.stop, "immediate")
    here = bus(url, waiting=10, waiting_bytes=1_000)
    with caplog.at_level(logging.WARNING):
        assert [here.notify("a", str(number)) for number in range(12)] == [True] * 10 + [False] * 2
        await until(lambda: here.status.since)
    assert not here.status.connected
    assert "cannot be reached" in here.status.why
    assert here.dropped_total == 2
    with pytest.raises(ConnectionLostError) as failed:
        await here.fetch("SELECT 1")
    assert str(failed.value).count("ry again") == 1

    await asyncio.to_thread(own_postgres_server.start)
    await until(lambda: here.status.connected)
    await until(lambda: here.sent_total == 10)
    assert (here.waiting, here._bytes) == (0, 0)
    assert not here.notify("a", "x" * 2_000)
    assert [record.exc_info for record in caplog.records] == [None]


async def test_a_lost_connection_is_made_anew_and_whoever_listens_is_told(bus, server: RawConnection) -> None:
    here, there = bus(), bus()
    ears = [Ear(there, f"channel {number}") for number in range(5)]
    lost: list[bool] = []
    there.on_lost.append(lambda: lost.append(there.status.connected))
    here.notify("a")
    await until(lambda: all(ear.gaps for ear in ears) and here.sent_total)

    for round_ in range(1, 4):
        assert server.execute(END).fetchall()
        await until(lambda round_=round_: all(ear.gaps == round_ + 1 for ear in ears))
        await until(lambda round_=round_: here.connections_total == round_ + 1)
        here.notify("channel 3", str(round_))
        await until(lambda round_=round_: ears[3].heard == [*map(str, range(1, round_ + 1))])

    assert set(lost) == {False}
    assert there.status.connected


async def test_a_server_that_is_restarted_again_and_again_loses_nothing_that_waits(
    bus, own_postgres_server: PostgresServer
) -> None:
    url = own_postgres_server.create_database("runs")
    here = bus(url, waiting=1_000_000)  # however long a restart takes
    said = 0
    sent: list[str] = []
    here.on_sent.append(lambda notices: sent.extend(payload for _, payload in notices))
    for mode in ("fast", "immediate"):
        restart = asyncio.ensure_future(asyncio.to_thread(own_postgres_server.restart, mode))
        while not restart.done():
            assert here.notify("a", str(said))
            said += 1
            await asyncio.sleep(0.002)
        await restart
    await until(lambda: not here.waiting)

    assert sent == [str(number) for number in range(said)]


async def test_a_connection_that_does_not_answer_is_given_up(
    bus, own_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "_SILENCE", 0.05)
    here = bus(own_postgres_server.create_database("runs"))
    ear = Ear(here, "a")
    await until(lambda: ear.gaps)
    ((pid,),) = await here.fetch("SELECT pg_backend_pid()")

    gaps = ear.gaps
    os.kill(pid, signal.SIGSTOP)
    try:
        with monkeypatch.context() as changes:
            changes.setattr(bus_module, "_PATIENCE", 0.2)
            await until(lambda: ear.gaps > gaps)
        here.notify("a", "on another one")
        await until(lambda: ear.heard)
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_what_the_database_refuses_does_no_harm_to_the_rest(bus) -> None:
    here = bus()
    ear = Ear(here, "a")
    await until(lambda: ear.gaps)

    with pytest.raises(StorageError, match="division"):
        await here.fetch("SELECT 1 / 0")
    here.notify("a", "goes on")
    await until(lambda: ear.heard)

    assert await here.fetch("SELECT $1::int + 1", 1) == [(2,)]
    assert here.connections_total == 1


async def test_a_statement_that_is_cancelled_leaves_the_connection_to_others(bus) -> None:
    here = bus()
    ear = Ear(here, "a")
    await until(lambda: ear.gaps)
    slow = asyncio.ensure_future(here.fetch("SELECT pg_sleep(60)"))
    await until(here._turn.locked)
    await asyncio.sleep(0)

    slow.cancel()
    here.notify("a", "goes on")
    await until(lambda: ear.heard)

    assert slow.cancelled()


async def test_schemas_of_a_database_do_not_hear_each_other(bus, server: RawConnection, postgres_url: str) -> None:
    server.execute("CREATE SCHEMA one; CREATE SCHEMA two")
    mark = "&" if "?" in postgres_url else "?"
    one, two = (bus(f"{postgres_url}{mark}search_path={name}") for name in ("one", "two"))
    ear, other = Ear(one, "a"), Ear(two, "a")
    commits = Ear(one, bus_module.COMMITS)
    await until(lambda: ear.gaps and other.gaps and commits.gaps)

    two.notify("a", "of two")
    two.notify(bus_module.COMMITS, "of two")
    await until(lambda: other.heard and commits.heard)

    assert ear.heard == []


async def test_who_listens_while_others_do_begins_with_a_gap_of_his_own(bus) -> None:
    here = bus()
    first = Ear(here, "a")
    await until(lambda: first.gaps)

    second = Ear(here, "a")
    await until(lambda: second.gaps)

    assert first.gaps == 1
    assert here.connections_total == 1


async def test_what_waits_is_sent_before_it_is_closed_and_nothing_after(bus) -> None:
    here, there = bus(), bus()
    ear = Ear(there, "a")
    await until(lambda: ear.gaps)

    here.notify("a", "last")
    await here.aclose()
    await until(lambda: ear.heard == ["last"])

    assert not here.notify("a", "too late")
    assert not here.status.connected
    Ear(here, "a")
    with pytest.raises(ClosedError):
        await here.fetch("SELECT 1")


async def test_a_bus_that_is_closed_while_the_server_is_away_does_not_wait_for_it(
    bus, own_postgres_server: PostgresServer
) -> None:
    url = own_postgres_server.create_database("runs")
    here = bus(url)
    here.notify("a")
    await until(lambda: here.sent_total)
    await asyncio.to_thread(own_postgres_server.stop, "immediate")
    here.notify("a", "in vain")
    await until(lambda: here._pausing)

    async with asyncio.timeout(4):
        await here.aclose()


async def test_what_is_told_while_the_address_leads_to_a_standby_is_sent_by_who_takes_writes(
    bus, own_postgres_server: PostgresServer
) -> None:
    url = await asyncio.to_thread(own_postgres_server.create_database, "runs")
    await asyncio.to_thread(own_postgres_server.become_standby)
    here = bus(url)
    here.notify("a", "kept")
    await until(lambda: "it is a standby" in (here.status.why or "") or here.dropped_total)

    await asyncio.to_thread(own_postgres_server.execute, "SELECT pg_promote()")
    await until(lambda: here.sent_total or here.dropped_total)
    assert (here.sent_total, here.dropped_total) == (1, 0)


async def test_a_store_has_one_connection_for_commits_and_all_else(
    postgres_url: str, server: RawConnection, script
) -> None:
    async with Store.open(postgres_url) as store:
        ear = Ear(store.bus(), "a")
        waiting = asyncio.ensure_future(anext(store.follow()))
        await store.append([script().started()])
        await waiting
        await until(lambda: ear.gaps)
        await until(lambda: not store.bus().waiting)
        assert store.bus() is store.bus()
        await asyncio.to_thread(server.execute, "SELECT 1")
        assert len(server.execute(f"SELECT pid FROM pg_stat_activity WHERE {OF_BUSES}").fetchall()) == 1
    assert not store.bus().status.connected


async def test_a_file_has_no_bus(tmp_path) -> None:
    async with Store.open(f"sqlite:///{tmp_path}/runs.db") as store:
        with pytest.raises(NoBusError, match="PostgreSQL"):
            store.bus()
