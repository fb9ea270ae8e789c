"""One timer for whatever is to happen at times of the wall clock, which may be set meanwhile."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual
from tests.unit.set_clock import SetClock

from trackside.harness.due_times import LOOK_EVERY, DueTimes
from trackside.testing.loop import EPOCH


class Due:
    """Due times, what was due and when, and how many timers there are."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.came: list[tuple[float, Any]] = []
        self.times: DueTimes[Any] = DueTimes(self.on_due, now=self.clock.now)
        self._loop: Any = asyncio.get_running_loop()

    def on_due(self, what: Any) -> None:
        self.came.append((self._loop.time(), what))
        if what == "fails":
            raise ValueError(what)

    def add(self, what: Any, seconds: float) -> None:
        self.times.add(what, at(seconds))

    def timers(self) -> int:
        return sum(not handle.cancelled() for handle in self._loop._scheduled)


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


@virtual
async def test_each_comes_when_it_is_due_and_those_of_one_time_in_the_order_in_which_they_were_added() -> None:
    due = Due()
    for what, seconds in (("c", 500), ("a", 90.5), ("b", 90.5), ("past", -5), ("last", 86_400)):
        due.add(what, seconds)
    await asyncio.sleep(100_000)
    assert due.came == [(0, "past"), (90.5, "a"), (90.5, "b"), (500, "c"), (86_400, "last")]
    assert due.timers() == 0


@virtual
async def test_however_many_there_are_there_is_one_timer() -> None:
    due = Due()
    for n in range(10_000, 0, -1):
        due.add(n, 1_000 + n)
    assert due.timers() == 1
    await asyncio.sleep(6_000)
    assert len(due.came) == 5_000
    assert due.timers() == 1


@virtual
async def test_what_is_due_after_the_clock_was_set_forward_comes_at_the_next_look() -> None:
    due = Due()
    for what, seconds in (("a", 3_600), ("b", 3_600), ("later", 7_210)):
        due.add(what, seconds)
    await asyncio.sleep(LOOK_EVERY / 2)
    due.clock.ahead = timedelta(hours=1)
    await asyncio.sleep(LOOK_EVERY)
    assert due.came == [(LOOK_EVERY, "a"), (LOOK_EVERY, "b")]
    await asyncio.sleep(86_400)
    assert due.came[2:] == [(3_610, "later")]


@virtual
async def test_what_is_not_due_any_more_after_the_clock_was_set_back_comes_when_it_is() -> None:
    due = Due()
    due.add("a", 90)
    due.clock.ahead = timedelta(hours=-1)
    await asyncio.sleep(86_400)
    assert due.came == [(3_690, "a")]


@virtual
async def test_what_was_discarded_does_not_come_and_what_was_added_again_comes_once_at_its_new_time() -> None:
    due = Due()
    for what in ("a", "b", "c", "d"):
        due.add(what, 10)
    due.times.discard("a")
    due.times.discard("never there")
    due.add("b", 100)
    due.add("c", 5)
    assert ["a" in due.times, "b" in due.times] == [False, True]
    await asyncio.sleep(1_000)
    assert due.came == [(5, "c"), (10, "d"), (100, "b")]
    due.add("e", 5_000)
    due.times.discard("e")
    assert due.timers() == 0


@virtual
async def test_what_comes_may_add_and_discard_others() -> None:
    due = Due()

    def on_due(what: str) -> None:
        due.came.append((asyncio.get_running_loop().time(), what))
        if what == "a":
            due.times.discard("b")
            due.add("at once", 0)
            due.add("a", 20)

    due.times = DueTimes(on_due, now=due.clock.now)
    for what in ("a", "b", "c"):
        due.add(what, 10)
    await asyncio.sleep(15)
    assert due.came == [(10, "a"), (10, "at once"), (10, "c")]
    assert due.timers() == 1
    due.times.close()


@virtual
async def test_one_that_fails_costs_the_others_nothing() -> None:
    due = Due()
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(str(context["exception"])))
    for what in ("a", "fails", "b"):
        due.add(what, 10)
    await asyncio.sleep(20)
    assert [what for _, what in due.came] == ["a", "fails", "b"]
    assert heard == ["fails"]


@virtual
async def test_what_has_left_takes_no_room() -> None:
    due = Due()
    due.add("stays", 86_400)
    for n in range(10_000):
        due.add(n, 86_400 + n)
        due.times.discard(n)
    assert len(due.times._heap) < 100


@pytest.mark.parametrize("closes", [1, 2])
@virtual
async def test_closed_it_leaves_no_timer_and_takes_nothing_more(closes: int) -> None:
    due = Due()
    due.add("a", 10)
    for _ in range(closes):
        due.times.close()
    due.add("b", 10)
    assert due.timers() == 0
    await asyncio.sleep(20)
    assert due.came == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
