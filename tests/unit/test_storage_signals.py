"""Hints of commits elsewhere: whoever listens again misses none, and nobody looks while nobody listens."""

import asyncio
import threading

import pytest
from tests.unit.full_executor import full_executor

from trackside.app.storage._databases.signals import PolledSignals


class Mark:
    """Something that others change."""

    def __init__(self) -> None:
        self.value = 0
        self.failure: Exception | None = None
        self.closed = 0
        self.threads: set[str] = set()

    def look(self) -> int:
        self.threads.add(threading.current_thread().name)
        if self.failure is not None:
            raise self.failure
        return self.value

    def close(self) -> None:
        self.closed += 1


class Ear:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.told += 1
        self._event.set()

    async def hear(self) -> None:
        self._event.clear()
        await asyncio.wait_for(self._event.wait(), 60)


@pytest.fixture
def mark() -> Mark:
    return Mark()


@pytest.fixture
async def signals(mark: Mark):
    signals = PolledSignals(mark, every=0.001)
    yield signals
    await signals.aclose()


async def looks(signals: PolledSignals, count: int) -> None:
    until = signals.looks + count
    while signals.looks < until:
        await asyncio.sleep(0)


async def test_whoever_listens_hears_of_each_change_and_of_nothing_else(signals: PolledSignals, mark: Mark) -> None:
    ear = Ear()
    signals.listen(ear)
    await looks(signals, 3)
    told = ear.told
    assert told >= 1  # what was committed before has to be read after the listening begins

    await looks(signals, 5)
    assert ear.told == told

    for _ in range(3):
        mark.value += 1
        await ear.hear()
    await looks(signals, 2)
    assert ear.told == told + 3
    assert len(mark.threads) == 1
    assert threading.current_thread().name not in mark.threads


async def test_nobody_looks_while_nobody_listens(signals: PolledSignals, mark: Mark) -> None:
    ear = Ear()
    signals.listen(ear)
    await looks(signals, 2)
    signals.stop_listening(ear)
    signals.stop_listening(ear)
    await asyncio.wait_for(signals._looking, 60)

    before, told = signals.looks, ear.told
    mark.value += 1
    signals.announce()
    assert (signals.looks, ear.told) == (before, told)

    signals.listen(ear)
    await ear.hear()
    assert ear.told == told + 1


async def test_a_hint_that_came_while_only_another_listened_is_told_to_who_comes_back(
    signals: PolledSignals, mark: Mark
) -> None:
    always, sometimes = Ear(), Ear()
    signals.listen(always)
    signals.listen(sometimes)
    await looks(signals, 3)
    signals.stop_listening(sometimes)
    told = sometimes.told
    mark.value += 1
    await always.hear()
    assert sometimes.told == told

    signals.listen(sometimes)
    await sometimes.hear()

    assert sometimes.told == told + 1


async def test_what_cannot_be_looked_at_may_have_changed(signals: PolledSignals, mark: Mark) -> None:
    ear = Ear()
    signals.listen(ear)
    await looks(signals, 2)
    mark.failure = OSError("gone")
    await ear.hear()
    await ear.hear()
    assert mark.closed >= 1  # the next look starts afresh

    mark.failure = None
    await ear.hear()
    told = ear.told
    await looks(signals, 3)
    assert ear.told <= told + 1


async def test_closed_signals_tell_nothing_more(mark: Mark) -> None:
    signals, ear, others = PolledSignals(mark, every=0.001), Ear(), {*threading.enumerate()}
    signals.listen(ear)
    await looks(signals, 2)
    await signals.aclose()
    await signals.aclose()
    told = ear.told

    mark.value += 1
    signals.listen(ear)
    signals.announce()
    await asyncio.sleep(0)

    assert ear.told == told
    assert mark.closed
    left = {*threading.enumerate()} - others
    assert not [thread for thread in left if thread.name.startswith("trackside-signals")]


async def test_plain_functions_that_fill_the_loops_threads_do_not_hold_up_closing(mark: Mark) -> None:
    signals = PolledSignals(mark, every=0.001)
    async with full_executor():
        await signals.aclose()
    assert mark.closed
