"""When runs of crons are started: hours go by in virtual time, on a real database."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trackside import RunContext, RunManager, RunSpec
from trackside.app.server import crons
from trackside.app.server.crons import CronScheduler
from trackside.app.storage import Store
from trackside.app.storage.crons import Cron, Crons
from trackside.app.storage.errors import DatabaseBusyError, UnknownSubscriptionError
from trackside.harness.errors import UnknownThreadError
from trackside.harness.ids import new_id
from trackside.testing import run_virtual
from trackside.testing.loop import EPOCH, VirtualClock, VirtualTimeLoop

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class JumpingClock(VirtualClock):
    """A clock whose hands somebody moves."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


class TimelessCrons(Crons):
    """Those of a database, during whose work no virtual time goes by. `fails` is what the next one fails with."""

    def __init__(self, crons: Crons) -> None:
        super().__init__(crons._writer, crons._readers)
        self.fails: list[Exception] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return _timeless(self, found) if inspect.iscoroutinefunction(found) else found


def _timeless(crons: TimelessCrons, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **options: Any) -> Any:
        if crons.fails:
            raise crons.fails.pop(0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with loop.real_work():
            return await method(*args, **options)

    return call


class Stage:
    """A scheduler, and when runs were started for which of its crons."""

    def __init__(self, crons: TimelessCrons, clock: JumpingClock) -> None:
        self.crons = crons
        self.clock = clock
        self.runs: list[tuple[str, timedelta]] = []
        self.manager = RunManager({"agent": self._agent, "holding": self._holding}, clock=clock)
        self.scheduler = self.another()

    def another(self, manager: RunManager | None = None) -> CronScheduler:
        return CronScheduler(self.crons, manager or self.manager, clock=self.clock)

    async def _agent(self, input: Any, run: RunContext) -> None:
        self.runs.append((str(run.metadata["name"]), self.clock.now() - EPOCH))

    async def _holding(self, input: Any, run: RunContext) -> None:
        await self._agent(input, run)
        await asyncio.sleep(90 * 60)

    async def keep(self, name: str, schedule: str, *, due: timedelta | None = MINUTE, **fields: Any) -> Cron:
        now = self.clock.now()
        said: dict[str, Any] = {"cron_id": new_id(), "agent": "agent", "schedule": schedule, "metadata": {"name": name}}
        said |= {"created_at": now, "updated_at": now, "next_run_at": None if due is None else EPOCH + due}
        cron = Cron(**said | fields)
        await self.crons.create(cron)
        return cron

    async def found(self, cron: Cron) -> Cron:
        found = await self.crons.get(cron.cron_id)
        assert found is not None
        return found

    def started(self, name: str) -> list[timedelta]:
        return [when for one, when in self.runs if one == name]


type Scene = Callable[[Stage], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scene], None]:
    async def on_stage(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        async with Store.open(f"sqlite:///{tmp_path}/crons.db") as store:
            stage = Stage(TimelessCrons(store.crons), JumpingClock())
            try:
                await scene(stage)
            finally:
                await stage.scheduler.aclose()
                await stage.manager.aclose()
                with loop.real_work():
                    await store.aclose()

    return lambda scene: run_virtual(on_stage(scene))


def minutes(*numbers: float) -> list[timedelta]:
    return [number * MINUTE for number in numbers]


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
