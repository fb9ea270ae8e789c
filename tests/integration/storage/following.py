"""Followers of a log: what they give, who of them waits, and reads that are counted, delayed or fail."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trackside.app.storage import Follower, FollowOptions, Store, StoredEvent
from trackside.app.storage._databases.postgres import signals as postgres_signals
from trackside.app.storage._databases.postgres.bus import COMMITS
from trackside.app.storage._databases.postgres.signals import PostgresSignals
from trackside.app.storage.errors import StorageError

NO_LOOKING = FollowOptions(look_every=3600)
"""What other processes commit is never seen by itself: what comes, comes by push."""


def look_untold_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have stores on PostgreSQL, too, not look for what others commit unless they are told."""
    monkeypatch.setattr(postgres_signals, "_UNTOLD_LOOK", 3_600.0)


async def hears(store: Store, *, growth: bool = False) -> None:
    """Wait until a store that has a follower waiting hears what others commit, and has read what it may have missed.

    With `growth`, that follower only waits for the log to grow.
    """
    reading, signals = store._feed.growth if growth else store._feed, store._signals
    async with asyncio.timeout(60):
        while isinstance(signals, PostgresSignals) and COMMITS not in signals.bus._heard:
            await asyncio.sleep(0.005)
        while reading._reader is None or reading._behind or not reading._reader.done():
            await asyncio.sleep(0.005)


async def take(follower: Follower, count: int) -> list[StoredEvent]:
    async with asyncio.timeout(60):
        return [await anext(follower) for _ in range(count)]


async def positions(follower: Follower, count: int) -> list[int]:
    return [stored.position for stored in await take(follower, count)]


async def settle() -> None:
    """Let everything happen that needs no more than the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


def waiters(store: Store) -> int:
    return sum(map(len, store._feed._waiting.values()))


def looks(store: Store) -> int:
    """How often the database was looked at for commits of others; never where it tells of them."""
    return getattr(store._signals, "looks", 0)


def count_reads(store: Store) -> list[Any]:
    """Every read of the database from now on."""
    reads: list[Any] = []
    run = store._readers.run

    async def counted(read: Callable[..., Any]) -> Any:
        reads.append(read)
        return await run(read)

    store._readers.run = counted  # type: ignore[method-assign]
    return reads


def fail_to_read(store: Store, error: StorageError) -> Callable[[], None]:
    """Have every read of a store fail, until what this gives is called."""
    run = store._readers.run

    async def fail(read: Callable[..., Any]) -> Any:
        raise error

    def work() -> None:
        store._readers.run = run  # type: ignore[method-assign]

    store._readers.run = fail  # type: ignore[method-assign]
    return work


def around_the_next_read(
    store: Store,
    *,
    before: Callable[[], Awaitable[Any]] | None = None,
    after: Callable[[], Awaitable[Any]] | None = None,
) -> None:
    """Let something happen between the moment in which the store is about to read and the one that its read sees, or
    between that one and the answer."""
    run = store._readers.run

    async def hooked(read: Callable[..., Any]) -> Any:
        store._readers.run = run  # type: ignore[method-assign]
        if before is not None:
            await before()
        found = await run(read)
        if after is not None:
            await after()
        return found

    store._readers.run = hooked  # type: ignore[method-assign]


def collect(follower: Follower) -> tuple[list[StoredEvent], asyncio.Task[None]]:
    """What a follower gives, as it comes."""
    seen: list[StoredEvent] = []

    async def follow() -> None:
        async for stored in follower:
            seen.append(stored)  # noqa: PERF401  # a comprehension shows nothing before it ends

    return seen, asyncio.create_task(follow())
