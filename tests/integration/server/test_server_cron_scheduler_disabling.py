"""Crons that can start nothing: which are disabled, and which are left to another process of the fleet."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.server.cron_stage import HOUR, MINUTE, Stage, minutes

from trackside import RunManager, RunSpec
from trackside.app.server import crons
from trackside.app.server.crons import CronScheduler
from trackside.harness.errors import UnknownThreadError
from trackside.harness.ids import new_id
from trackside.testing.loop import EPOCH


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"payload": {"from_another_version": 1}}, "from_another_version"),
        ({"payload": {"config": {"configurable": {"thread_id": 1}}, "command": {"resume": 1, "goto": 5, "x": 1}}}, "x"),
        ({"timezone": "Europe/Nowhere"}, "Europe/Nowhere"),
        ({"payload": {"langsmith_tracer": {"a": 1}}}, "langsmith_tracer"),
    ],
)
def test_a_cron_that_can_start_nothing_is_disabled_and_says_why(play: Any, fields: dict[str, Any], why: str) -> None:
    async def scene(stage: Stage) -> None:
        cron = await stage.keep("broken", "* * * * *", **fields)
        await stage.keep("good", "* * * * *")
        stage.scheduler.begin()
        await asyncio.sleep(181)

        found = await stage.found(cron)
        assert (found.enabled, found.next_run_at) == (False, None)
        assert why in (found.disabled_because or "")
        assert found.updated_at == EPOCH + MINUTE
        assert stage.started("good") == minutes(1, 2, 3)
        assert len(stage.started("broken")) <= 1

    play(scene)


@pytest.mark.parametrize("in_fleet", [False, True])
def test_what_an_agent_here_would_refuse_disables_a_cron_where_no_other_version_of_it_executes_its_runs(
    play: Any, in_fleet: bool
) -> None:
    async def plain(input: Any) -> Any:
        return input

    async def scene(stage: Stage) -> None:
        on_duty = (lambda: True) if in_fleet else None
        manager = RunManager({"agent": plain}, clock=stage.clock)
        scheduler = CronScheduler(stage.crons, manager, clock=stage.clock, on_duty=on_duty)
        cron = await stage.keep("graph", "* * * * *", payload={"interrupt_after": "look"})
        scheduler.begin()
        await asyncio.sleep(90)
        await scheduler.aclose()
        await manager.aclose()

        found = await stage.found(cron)
        assert found.enabled is in_fleet
        assert ("that is for graphs" in str(found.disabled_because)) is not in_fleet

    play(scene)


@pytest.mark.parametrize("payload", [{"from_another_version": 1}, {"langsmith_tracer": {"a": 1}}])
def test_a_cron_of_a_fleet_that_asks_for_what_is_not_known_here_is_left_alone(
    play: Any, caplog: pytest.LogCaptureFixture, payload: dict[str, Any]
) -> None:
    async def scene(stage: Stage) -> None:
        scheduler = CronScheduler(stage.crons, stage.manager, clock=stage.clock, on_duty=lambda: True)
        newer = await stage.keep("newer", "* * * * *", payload=payload)
        await stage.keep("good", "* * * * *")
        scheduler.begin()
        await asyncio.sleep(181)

        assert await stage.found(newer) == newer, "a process that knows it finds it due"
        assert stage.started("good") == minutes(1, 2, 3)
        changed = replace(newer, payload={}, updated_at=stage.clock.now())
        assert await stage.crons.replace(newer, changed)
        await asyncio.sleep(1)
        assert stage.started("newer") == [timedelta(seconds=181)]
        await scheduler.aclose()

    with caplog.at_level(logging.WARNING, logger="trackside.crons"):
        play(scene)
    assert caplog.text.count("stays due for a process that knows what it asks for") == 1
    assert next(iter(payload)) in caplog.text


def test_crons_that_are_left_alone_keep_no_others_waiting_however_many_they_are(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crons, "_AT_ONCE", 3)

    async def scene(stage: Stage) -> None:
        scheduler = CronScheduler(stage.crons, stage.manager, clock=stage.clock, on_duty=lambda: True)
        for number in range(3):
            await stage.keep(f"newer {number}", "* * * * *", payload={"from_another_version": 1})
        await stage.keep("good", "* * * * *")
        scheduler.begin()
        await asyncio.sleep(121)
        assert stage.started("good") == minutes(1, 2)
        await scheduler.aclose()

    play(scene)


def test_what_no_process_of_a_fleet_knows_disables_a_cron_after_a_while(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        scheduler = CronScheduler(stage.crons, stage.manager, clock=stage.clock, on_duty=lambda: True)
        payload = {"langsmith_tracer": {"a": 1}}
        stuck, deleted, started = [await stage.keep(str(n), "* * * * *", payload=payload) for n in range(3)]
        scheduler.begin()
        await asyncio.sleep(60 + 590)
        assert await stage.found(stuck) == stuck, "a process that knows it may be there soon"
        assert await stage.crons.delete(deleted.cron_id)
        assert await stage.crons.replace(started, replace(started, next_run_at=EPOCH + 11 * MINUTE))
        await asyncio.sleep(60)

        found = await stage.found(stuck)
        assert (found.enabled, found.next_run_at) == (False, None)
        assert "10 minutes" in str(found.disabled_because)
        assert "langsmith_tracer" in str(found.disabled_because)
        assert (await stage.found(started)).enabled, "another process has started its run meanwhile"
        assert [*scheduler._left] == [started.cron_id]
        await asyncio.sleep(600)
        assert not (await stage.found(started)).enabled
        assert scheduler._left == {}
        await scheduler.aclose()

    play(scene)


@pytest.mark.parametrize("is_server", [False, True])
def test_a_worker_that_is_on_duty_knows_not_of_all_agents_and_disables_no_cron_for_that(
    play: Any, is_server: bool
) -> None:
    async def theirs() -> list[str]:
        return ["agent"]

    async def scene(stage: Stage) -> None:
        of_server: dict[str, Any] = {"agents_on_duty": theirs} if is_server else {}
        scheduler = CronScheduler(stage.crons, stage.manager, clock=stage.clock, on_duty=lambda: True, **of_server)
        cron = await stage.keep("of others", "* * * * *", agent="report")
        scheduler.begin()
        await asyncio.sleep(60 + 700)
        assert (await stage.found(cron)).enabled is not is_server
        await scheduler.aclose()

    play(scene)


def test_a_server_beside_a_worker_that_is_on_duty_disables_crons_of_agents_that_are_gone(play: Any) -> None:
    async def theirs() -> list[str]:
        return ["agent"]

    async def scene(stage: Stage) -> None:
        worker = CronScheduler(stage.crons, stage.manager, clock=stage.clock, on_duty=lambda: True)
        of_server: dict[str, Any] = {"on_duty": lambda: False, "agents_on_duty": theirs}
        servers = [CronScheduler(stage.crons, stage.manager, clock=stage.clock, **of_server) for _ in range(2)]
        gone = await stage.keep("gone", "* * * * *", agent="report")
        goes_on = await stage.keep("goes on", "* * * * *")
        for one in (worker, *servers):
            one.begin()
        await asyncio.sleep(60 + 590)
        assert (await stage.found(gone)).enabled
        await asyncio.sleep(60)
        found = await stage.found(gone)
        assert (found.enabled, found.next_run_at) == (False, None)
        assert "no server had an agent 'report'" in str(found.disabled_because)
        assert (await stage.found(goes_on)).enabled
        assert stage.started("goes on") == minutes(*range(1, 12))
        for one in (worker, *servers):
            await one.aclose()

    play(scene)


def test_what_whoever_is_on_duty_leaves_alone_another_starts_a_minute_later(play: Any) -> None:
    async def theirs() -> list[str]:
        return ["agent"]

    async def scene(stage: Stage) -> None:
        of_fleet: dict[str, Any] = {"on_duty": lambda: False, "agents_on_duty": theirs}
        scheduler = CronScheduler(stage.crons, stage.manager, clock=stage.clock, **of_fleet)
        await stage.keep("newer", "0 * * * *")
        await stage.keep("theirs alone", "0 * * * *", agent="holding")
        scheduler.begin()
        await asyncio.sleep(119)
        assert stage.started("newer") == []
        assert len(stage.started("theirs alone")) == 1
        await asyncio.sleep(2)
        assert stage.started("newer") == [2 * MINUTE]
        await scheduler.aclose()

    play(scene)


@pytest.mark.parametrize("in_fleet", [False, True])
def test_a_process_that_closes_disables_no_cron_and_ends_with_crons(play: Any, in_fleet: bool) -> None:
    async def scene(stage: Stage) -> None:
        on_duty = (lambda: True) if in_fleet else None
        scheduler = CronScheduler(stage.crons, stage.manager, clock=stage.clock, on_duty=on_duty)
        scheduler.begin()
        await asyncio.sleep(1)
        await stage.manager.start(RunSpec("holding", metadata={"name": "long"}))
        closing = asyncio.create_task(stage.manager.aclose(grace=7200))
        newer = await stage.keep("newer", "* * * * *", payload={"from_another_version": 1})
        orphan = await stage.keep("orphan", "* * * * *", agent="another's")
        await asyncio.sleep(3600)

        assert not closing.done()
        assert [await stage.found(one) for one in (newer, orphan)] == [newer, orphan]
        assert scheduler._task is not None
        assert scheduler._task.done()
        await scheduler.aclose()
        await closing

    play(scene)


def test_a_cron_whose_thread_is_gone_is_disabled(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        thread_id = new_id()

        async def refuse(spec: Any) -> Any:
            raise UnknownThreadError(thread_id=spec.thread_id)

        monkeypatch.setattr(stage.manager, "start", refuse)
        cron = await stage.keep("lost", "* * * * *", thread_id=thread_id)
        stage.scheduler.begin()
        await asyncio.sleep(61)

        assert thread_id in str((await stage.found(cron)).disabled_because)

    play(scene)


def test_an_agent_that_no_server_has_for_long_disables_its_crons(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        cron = await stage.keep("orphan", "* * * * *", agent="gone")
        stage.scheduler.begin()
        await asyncio.sleep(60 + 590)
        assert (await stage.found(cron)).enabled, "another server may be there soon that has it"
        await asyncio.sleep(60)

        found = await stage.found(cron)
        assert (found.enabled, found.next_run_at) == (False, None)
        assert "'gone'" in str(found.disabled_because)

    play(scene)


def test_an_agent_that_another_server_has_is_left_to_it(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        cron = await stage.keep("elsewhere", "0 * * * *", due=HOUR, agent="other")
        elsewhere = RunManager({"other": stage._agent}, clock=stage.clock)
        there = stage.another(elsewhere)
        stage.scheduler.begin()
        await asyncio.sleep(3600 + 300)
        there.begin()
        await asyncio.sleep(4 * 3600)
        await there.aclose()
        await elsewhere.aclose()

        assert stage.started("elsewhere") == [65 * MINUTE, *minutes(120, 180, 240, 300)]
        assert (await stage.found(cron)).enabled

    play(scene)


def test_a_cron_whose_runs_another_server_starts_late_is_left_to_it(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        theirs = await stage.keep("theirs", "* * * * *", agent="report")
        stage.scheduler.begin()
        await asyncio.sleep(45)
        for minute in range(2, 20):  # half a minute after it was due, so that each look from here finds it
            await asyncio.sleep(60)
            theirs = await stage.found(theirs)
            assert await stage.crons.replace(theirs, replace(theirs, next_run_at=EPOCH + minute * MINUTE))

        found = await stage.found(theirs)
        assert (found.enabled, found.disabled_because) == (True, None)

    play(scene)
