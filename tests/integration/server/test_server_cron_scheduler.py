"""When runs of crons are started: hours go by in virtual time, on a real database."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.server.cron_stage import HOUR, MINUTE, Stage, minutes

from trackside.app.server.crons import CronScheduler
from trackside.app.storage.errors import DatabaseBusyError, UnknownSubscriptionError
from trackside.harness.ids import new_id
from trackside.testing.loop import EPOCH


def test_runs_are_started_at_their_times_and_no_others(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        await stage.keep("often", "*/20 * * * *", due=20 * MINUTE)
        await stage.keep("hourly", "0 * * * *", due=HOUR)
        await stage.keep("never", "* * * * *", due=None, enabled=False)
        stage.scheduler.begin()
        await asyncio.sleep(2 * 3600 + 1)

        assert stage.started("often") == minutes(20, 40, 60, 80, 100, 120)
        assert stage.started("hourly") == minutes(60, 120)
        assert stage.started("never") == []

    play(scene)


def test_a_cron_that_is_made_or_changed_is_heard_of_at_once(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        stage.scheduler.begin()
        await asyncio.sleep(3)
        cron = await stage.keep("new", "0 0 * * *", due=timedelta(seconds=5))
        await asyncio.sleep(3)
        assert stage.started("new") == [timedelta(seconds=5)]

        seen = await stage.found(cron)
        await stage.crons.replace(seen, replace(seen, next_run_at=stage.clock.now() + timedelta(seconds=1)))
        await asyncio.sleep(2)
        assert stage.started("new") == [timedelta(seconds=5), timedelta(seconds=7)]

    play(scene)


def test_what_other_processes_change_is_seen_within_half_a_minute(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        stage.scheduler.begin()
        await asyncio.sleep(1)
        stage.crons.on_change.clear()
        await stage.keep("theirs", "0 0 * * *", due=timedelta(seconds=2))
        await asyncio.sleep(30)

        assert stage.started("theirs") == [timedelta(seconds=30)]
        stage.crons.on_change.append(stage.scheduler._changed.set)

    play(scene)


def test_all_that_was_missed_is_made_up_for_by_one_run(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        cron = await stage.keep("missed", "* * * * *")
        await asyncio.sleep(10 * 3600 + 5)
        stage.scheduler.begin()
        await asyncio.sleep(1)

        assert stage.started("missed") == [10 * HOUR + timedelta(seconds=5)]
        assert (await stage.found(cron)).next_run_at == EPOCH + 10 * HOUR + MINUTE

    play(scene)


def test_many_that_are_due_at_once_are_all_started(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        for number in range(250):
            await stage.keep(str(number), "0 0 * * *")
        stage.scheduler.begin()
        await asyncio.sleep(61)

        assert sorted(int(name) for name, _ in stage.runs) == list(range(250))
        assert {when for _, when in stage.runs} == {MINUTE}

    play(scene)


def test_after_its_end_a_cron_starts_nothing(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        end = EPOCH + timedelta(minutes=2, seconds=30)
        cron = await stage.keep("ends", "* * * * *", end_time=end)
        over = await stage.keep("over", "* * * * *", due=timedelta(minutes=-2), end_time=EPOCH - MINUTE)
        stage.scheduler.begin()
        await asyncio.sleep(600)

        assert stage.started("ends") == minutes(1, 2)
        assert stage.started("over") == []
        for one in (cron, over):
            found = await stage.found(one)
            assert (found.next_run_at, found.enabled) == (None, True)

    play(scene)


def test_what_is_due_at_its_very_end_a_cron_starts(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        stage.clock.ahead = timedelta(milliseconds=1)  # who looks comes a moment later
        cron = await stage.keep("last", "* * * * *", due=timedelta(), end_time=EPOCH)
        stage.scheduler.begin()
        await asyncio.sleep(600)

        assert len(stage.started("last")) == 1
        assert (await stage.found(cron)).next_run_at is None

    play(scene)


def test_a_clock_that_is_put_forward_skips_to_one_run(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        await stage.keep("jumps", "*/10 * * * *", due=10 * MINUTE)
        stage.scheduler.begin()
        await asyncio.sleep(15)
        stage.clock.ahead = 5 * HOUR
        await asyncio.sleep(31)
        first = stage.started("jumps")
        assert len(first) == 1
        assert 5 * HOUR < first[0] < 5 * HOUR + MINUTE
        await asyncio.sleep(600)

        assert stage.started("jumps")[1:] == [5 * HOUR + 10 * MINUTE]

    play(scene)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_is_put_back_holds_up_nothing(play: Any, restarted: bool) -> None:
    async def scene(stage: Stage) -> None:
        await stage.keep("back", "*/10 * * * *", due=10 * MINUTE)
        stage.scheduler.begin()
        await asyncio.sleep(5 * 60)
        stage.clock.ahead = 10 * HOUR
        await asyncio.sleep(60)
        assert len(stage.runs) == 1
        if restarted:
            await stage.scheduler.aclose()
        stage.clock.ahead = timedelta()
        if restarted:
            stage.scheduler = stage.another()
            stage.scheduler.begin()
        await asyncio.sleep(25 * 60)

        # That of minute 10 was started at ten o'clock.
        assert stage.started("back")[1:] == minutes(20, 30)

    play(scene)


def test_a_clock_that_is_put_back_repeats_nothing(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        await stage.keep("back", "*/10 * * * *", due=10 * MINUTE)
        stage.scheduler.begin()
        await asyncio.sleep(35 * 60)
        stage.clock.ahead = -30 * MINUTE  # it is minute 5 once more
        await asyncio.sleep(50 * 60)

        assert stage.started("back") == minutes(10, 20, 30, 40, 50)

    play(scene)


def test_two_schedulers_start_a_run_once(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        await stage.keep("shared", "*/10 * * * *", due=10 * MINUTE)
        other = stage.another()
        stage.scheduler.begin()
        other.begin()
        await asyncio.sleep(3601)
        await other.aclose()

        assert stage.started("shared") == minutes(10, 20, 30, 40, 50, 60)

    play(scene)


def test_a_cron_that_asks_for_something_else_since_its_run_was_started_goes_on(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        await stage.keep("changed", "*/10 * * * *", due=10 * MINUTE)
        stage.scheduler.begin()
        await asyncio.sleep(10 * 60 + 1)
        (cron,) = (await stage.crons.search()).crons
        # As if it had been changed, and its scheduler been killed, between the start and the next time.
        changed = replace(cron, payload={"input": {"new": True}}, next_run_at=EPOCH + 10 * MINUTE)
        assert await stage.crons.replace(cron, changed)
        await asyncio.sleep(10 * 60)

        assert stage.started("changed") == minutes(10, 20)
        assert (await stage.found(cron)).enabled

    play(scene)


def test_a_thread_that_is_busy_is_left_alone_if_that_is_asked_for(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        options = {"agent": "holding", "thread_id": new_id()}
        await stage.keep("busy", "0 * * * *", due=HOUR, payload={"multitask_strategy": "reject"}, **options)
        stage.scheduler.begin()
        await asyncio.sleep(4 * 3600 + 1)

        assert stage.started("busy") == minutes(60, 180)

    play(scene)


def test_a_store_that_is_away_is_waited_for(play: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        await stage.keep("patient", "*/10 * * * *", due=10 * MINUTE)
        stage.scheduler.begin()
        await asyncio.sleep(595)
        stage.crons.fails += [DatabaseBusyError(database="it", seconds=5) for _ in range(4)]
        await asyncio.sleep(125)

        (first,) = stage.started("patient")
        assert 10 * MINUTE < first < 11 * MINUTE
        await asyncio.sleep(600)
        assert stage.started("patient")[1:] == [20 * MINUTE]

    with caplog.at_level(logging.WARNING, logger="trackside.crons"):
        play(scene)
    assert "crons wait" in caplog.text


def test_a_mistake_with_one_cron_does_not_hold_up_the_others(play: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        await stage.keep("mistaken", "* * * * *")
        await stage.keep("good", "* * * * *")
        start = stage.manager.start

        async def mistaken(spec: Any) -> Any:
            if spec.metadata["name"] == "mistaken":
                raise RuntimeError("a mistake")
            return await start(spec)

        stage.manager.start = mistaken  # type: ignore[method-assign]  # a manager with a mistake
        stage.scheduler.begin()
        await asyncio.sleep(121)
        assert stage.started("good") == minutes(1, 2)

    play(scene)
    assert "a mistake" in caplog.text


def test_a_scheduler_ends_with_its_manager_and_may_be_closed_twice(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        await stage.keep("late", "* * * * *")
        stage.scheduler.begin()
        stage.scheduler.begin()
        task = stage.scheduler._task
        assert task is not None
        assert task.get_name() == "trackside-crons"
        await asyncio.sleep(1)
        await stage.manager.aclose()
        await asyncio.sleep(61)
        assert task.done()
        await stage.scheduler.aclose()
        await stage.scheduler.aclose()
        assert stage.crons.on_change == []
        assert stage.started("late") == []

    play(scene)


def test_a_run_is_started_though_nobody_can_see_to_it_that_its_webhook_is_told(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        async def keep_ends() -> None:
            raise UnknownSubscriptionError(name="run-webhooks")

        await stage.keep("told", "0 0 * * *", payload={"webhook": "https://example.com/hook"})
        scheduler = CronScheduler(stage.crons, stage.manager, clock=stage.clock, keep_ends=keep_ends)
        scheduler.begin()
        await asyncio.sleep(61)
        await scheduler.aclose()
        assert stage.started("told") == minutes(1)

    play(scene)


def test_each_outage_is_waited_for_from_a_second_to_a_minute(play: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        stage.scheduler.begin()
        for _ in range(2):
            stage.crons.fails += [DatabaseBusyError(database="it", seconds=5) for _ in range(8)]
            await asyncio.sleep(600)

    with caplog.at_level(logging.WARNING, logger="trackside.crons"):
        play(scene)
    pauses = [record.args[0] for record in caplog.records if record.msg.startswith("crons wait") and record.args]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] * 2


def test_a_run_waits_for_a_store_that_cannot_keep_its_end_for_now(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        away: list[Exception] = [DatabaseBusyError(database="it", seconds=5)]

        async def keep_ends() -> None:
            if away:
                raise away.pop()

        await stage.keep("told", "0 0 * * *", payload={"webhook": "https://example.com/hook"})
        scheduler = CronScheduler(stage.crons, stage.manager, clock=stage.clock, keep_ends=keep_ends)
        scheduler.begin()
        await asyncio.sleep(90)
        await scheduler.aclose()
        assert stage.started("told") == [MINUTE + timedelta(seconds=1)]

    play(scene)
