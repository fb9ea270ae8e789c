"""How processes on PostgreSQL tell each other of commits: seldom, beside the writes, and through lost connections."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest
from raw_postgres import RawConnection
from tests.integration.storage.following import look_untold_never

from trackside.app.storage import Store, StoredEvent
from trackside.app.storage._databases.postgres import signals as signals_module
from trackside.app.storage._databases.postgres.bus import COMMITS
from trackside.app.storage._databases.postgres.signals import PostgresSignals

SIGNALLERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^(LISTEN|SELECT pg_notify)'"
)


@pytest.fixture
def server(postgres_url: str) -> Iterator[RawConnection]:
    with closing(RawConnection(postgres_url)) as connection:
        yield connection


@pytest.fixture
async def here(postgres_url: str) -> AsyncIterator[Store]:
    async with Store.open(postgres_url) as store:
        yield store


@pytest.fixture
async def there(postgres_url: str, here: Store) -> AsyncIterator[Store]:
    async with Store.open(postgres_url) as store:
        yield store


@pytest.fixture
def nobody_looks_untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each hint mean that something was told."""
    look_untold_never(monkeypatch)


def signals_of(store: Store) -> PostgresSignals:
    assert isinstance(store._signals, PostgresSignals)
    return store._signals


async def following(store: Store) -> "asyncio.Task[StoredEvent]":
    """Start to wait for the next event; return that task once the store is sure to hear of events."""
    waiting = asyncio.ensure_future(anext(store.follow()))
    signals = signals_of(store)
    before = signals._hints
    async with asyncio.timeout(60):
        while not (store._feed._waiting and signals._hints > before):
            await asyncio.sleep(0)
        while store._feed._behind or not store._feed._reader.done():
            await asyncio.sleep(0)
    return waiting


@pytest.mark.usefixtures("nobody_looks_untold")
async def test_a_commit_is_told_to_other_processes_and_not_to_oneself(
    here: Store, there: Store, server: RawConnection, script
) -> None:
    waiting = await following(here)
    heard = signals_of(here)._hints

    (stored,) = await there.append([script().started()])

    async with asyncio.timeout(60):
        assert await waiting == stored
    assert signals_of(here)._hints > heard

    heard, sent = signals_of(here)._hints, signals_of(here).notifications
    await here.append([script().started()])
    while signals_of(here).notifications == sent:
        await asyncio.sleep(0)
    await asyncio.to_thread(server.execute, "SELECT 1")
    assert signals_of(here)._hints == heard


async def test_many_commits_make_few_notifications(here: Store, there: Store, script) -> None:
    waiting = await following(here)

    async def produce() -> None:
        for event in script().whole():
            await there.append([event])

    async with signals_of(there).bus._turn:  # the first notification is as good as on its way, however slow the commits
        for _ in range(20):
            await asyncio.gather(*(produce() for _ in range(20)))
    async with asyncio.timeout(60):
        await waiting
        while signals_of(there)._telling or signals_of(there).bus.waiting:
            await asyncio.sleep(0)

    assert signals_of(there).notifications <= 2  # for 2,000 events in 100 and more commits


async def test_a_lost_connection_is_made_again_and_what_was_committed_meanwhile_comes(
    here: Store, there: Store, server: RawConnection, script
) -> None:
    waiting = await following(here)
    hints = signals_of(here)._hints
    signals_of(there).announce = lambda: None  # type: ignore[method-assign]  # nobody announces anything

    killed = server.execute(f"SELECT pg_terminate_backend(pid) FROM ({SIGNALLERS}) AS found").fetchall()
    await there.append([script().started()])

    assert killed
    async with asyncio.timeout(60):
        assert (await waiting).position == 1
    assert signals_of(here)._hints > hints


async def test_a_notification_that_is_lost_costs_only_time(
    here: Store, there: Store, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals_module, "_UNTOLD_LOOK", 0.01)
    waiting = await following(here)
    signals_of(there).announce = lambda: None  # type: ignore[method-assign]

    await there.append([script().started()])

    async with asyncio.timeout(60):
        assert (await waiting).position == 1


async def test_what_is_committed_last_is_still_told(here: Store, there: Store, script) -> None:
    waiting = await following(here)
    sent = signals_of(there).notifications

    await there.append([script().started()])
    await there.aclose()

    assert signals_of(there).notifications > sent
    assert not signals_of(there).bus.waiting
    async with asyncio.timeout(60):
        await waiting


async def test_a_store_that_neither_writes_nor_waits_has_no_connection_for_it(
    here: Store, server: RawConnection, script
) -> None:
    assert await here.events() == []
    assert server.execute(SIGNALLERS).fetchall() == []

    await following(here)
    assert len(server.execute(SIGNALLERS).fetchall()) == 1
    await here.aclose()


async def test_anybody_may_notify(here: Store, there: Store, server: RawConnection, script) -> None:
    waiting = await following(here)
    signals_of(there).announce = lambda: None  # type: ignore[method-assign]
    await there.append([script().started()])

    server.execute(f"NOTIFY {COMMITS}, 'whatever'")

    async with asyncio.timeout(60):
        assert (await waiting).position == 1
