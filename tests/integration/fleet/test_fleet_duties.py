"""Duties that one process has for all: never two at once, and never nobody for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from trackside.app.engine.duties import Duties, Duty
from trackside.app.storage import Store
from trackside.app.storage.errors import StorageError

NAMES = ("sweeper", "reaper")
LEASE = 0.6
"""Short, for the tests in which it ends."""


class Candidate:
    """A process that competes for duties, and tells at each piece of work of which duty it is and its own name."""

    def __init__(
        self, name: str, store: Store, tell: Callable[[str, str], object], lease_seconds: float = LEASE
    ) -> None:
        self.name = name
        duties = [Duty(duty, self._worker(duty, tell), 0.01) for duty in NAMES]
        self.duties = Duties(store.fleet, name, duties, lease_seconds=lease_seconds)

    def _worker(self, duty: str, tell: Callable[[str, str], object]) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            tell(duty, self.name)

        return work


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def stores(postgres_with_tables: str) -> AsyncGenerator[list[Store]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Store.open(postgres_with_tables)) for _ in range(3)]


async def test_one_process_has_a_duty_and_another_one_when_that_leaves(stores: list[Store]) -> None:
    done: set[str] = set()
    wrong: list[tuple[str, str, str]] = []

    def note(duty: str, name: str) -> None:
        done.add(duty)
        holders = [each for each, one in candidates.items() if one.duties.holds(duty)]
        wrong.extend((duty, name, each) for each in {name}.symmetric_difference(holders))

    candidates = {str(number): Candidate(str(number), store, note, 2 * LEASE) for number, store in enumerate(stores)}
    async with AsyncExitStack() as others:
        for candidate in candidates.values():
            await others.enter_async_context(candidate.duties)
        for _ in range(2):
            await until(lambda: sum(len(one.duties.held) for one in candidates.values()) == len(NAMES))
            holders = {name for name, one in candidates.items() if one.duties.held}
            done.clear()
            await until(lambda: done == {*NAMES})
            for name in holders:
                await candidates.pop(name).duties.__aexit__(None, None, None)
    assert wrong == [], "who is at a duty has it, and nobody else does, even if a stall has passed it on"


async def test_a_process_that_stands_still_has_no_duty_when_it_goes_on(stores: list[Store]) -> None:
    log: list[str] = []
    note = lambda _, name: log.append(name)
    first, second = (Candidate(name, store, note) for name, store in zip("ab", stores, strict=False))
    async with first.duties:
        await until(lambda: len(first.duties.held) == len(NAMES))
        competing = first.duties._tasks[0]
        competing.cancel()  # as if the machine had stopped the process: it renews nothing, and says nothing
        await until(lambda: not first.duties.held)  # by its own clock, whatever the database says
        async with second.duties:
            await until(lambda: len(second.duties.held) == len(NAMES))
            log.clear()
            await until(lambda: len(log) > 10)
            assert {*log} == {"b"}
            assert not first.duties.held


async def test_work_that_fails_is_done_again_and_the_duty_stays(stores: list[Store]) -> None:
    tries = 0

    async def fails() -> None:
        nonlocal tries
        tries += 1
        raise RuntimeError("a mistake of ours")

    async with Duties(stores[0].fleet, "a", [Duty("sweeper", fails, 0.01)], lease_seconds=10 * LEASE) as duties:
        await until(lambda: tries >= 3)
        assert duties.holds("sweeper")
        assert duties.standing() == {"sweeper": True}


async def test_who_cannot_reach_the_database_has_no_duty_any_more(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = stores[0].fleet
    async with Duties(fleet, "a", [Duty("sweeper", fleet.duties, 0.01)], lease_seconds=LEASE) as duties:
        await until(lambda: duties.holds("sweeper"))

        async def away(*_: object) -> set[str]:
            raise StorageError(database="it", why="is away")

        monkeypatch.setattr(fleet, "hold_duties", away)
        await until(lambda: not duties.holds("sweeper"))
        monkeypatch.undo()
        await until(lambda: duties.holds("sweeper"))
