"""Many at once: places for runs, in all and by agent, the order of turns, and a thousand runs on a hundred threads."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.integration.runs.stage import PATIENCE, Agents, Backend, turns, within_patience

from trackside import RunSpec, RunStatus
from trackside.harness.types import AgentLimits


class Crowd:
    """Agents that count how many of them run at once, and wait for each other as long as `gate` is closed."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[Any] = []
        self.gate = asyncio.Event()

    def agent(self, name: str) -> Any:
        async def counted(input: Any) -> Any:
            self.order.append(input)
            for who in (name, "all"):
                self.now[who] += 1
                self.most[who] = max(self.most[who], self.now[who])
            await self.gate.wait()
            for who in (name, "all"):
                self.now[who] -= 1
            return input

        return counted

    async def until_full(self, count: int) -> None:
        """Wait until so many are running, and give others every chance to begin as well."""
        async with asyncio.timeout(PATIENCE):
            while self.now["all"] < count:
                await turns(1)
        await turns(100)


async def test_runs_of_different_threads_run_at_the_same_time_by_default(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        runs = [await stage.start("work", f"long {n}") for n in range(32)]
        for n in range(32):
            await agents.until_running(f"long {n}")
        for n in range(32):
            agents.let(f"long {n}")
        results = await within_patience(asyncio.gather(*(run.result() for run in runs)))
    assert {result.status for result in results} == {RunStatus.success}


async def test_no_more_runs_execute_at_once_than_there_are_places_and_all_places_are_used(backend: Backend) -> None:
    crowd = Crowd()
    agents = {"a": crowd.agent("a"), "b": crowd.agent("b")}
    async with backend.open(agents, max_running=5) as stage:
        runs = [await stage.start("ab"[n % 2], n) for n in range(60)]
        await crowd.until_full(5)
        assert crowd.now["all"] == 5
        crowd.gate.set()
        results = await within_patience(asyncio.gather(*(run.result() for run in runs)))
    assert {result.status for result in results} == {RunStatus.success}
    assert crowd.most["all"] == 5


@pytest.mark.parametrize("of_one_agent", [False, True])
async def test_places_are_given_in_the_order_in_which_runs_have_come(
    backend: Backend, agents: Agents, of_one_agent: bool
) -> None:
    limits = {"work": AgentLimits(max_running=2)} if of_one_agent else {}
    async with backend.open({"work": agents.work}, max_running=9 if of_one_agent else 2, limits=limits) as stage:
        names = [f"long {n}" for n in range(8)]
        runs = [await stage.start("work", name) for name in names]
        for name in names[:2]:
            await agents.until_running(name)
        # One place is free at a time, so that no run overtakes another on the way to its agent.
        for ends, follows in zip(names, names[2:], strict=False):
            agents.let(ends)
            await agents.until_running(follows)
            assert agents.begun[2:] == names[2 : len(agents.begun)]
        for name in names:
            agents.let(name)
        await within_patience(asyncio.gather(*(run.result() for run in runs)))


async def test_an_agent_has_no_more_places_than_its_own_and_leaves_the_others_to_others(backend: Backend) -> None:
    crowd = Crowd()
    agents = {"few": crowd.agent("few"), "many": crowd.agent("many")}
    async with backend.open(agents, max_running=5, limits={"few": AgentLimits(max_running=2)}) as stage:
        runs = [await stage.start("few", f"few {n}") for n in range(20)]
        runs += [await stage.start("many", f"many {n}") for n in range(20)]
        await crowd.until_full(5)
        assert crowd.now == {"few": 2, "many": 3, "all": 5}, "who has to wait keeps nobody else waiting"
        crowd.gate.set()
        results = await within_patience(asyncio.gather(*(run.result() for run in runs)))
    assert {result.status for result in results} == {RunStatus.success}
    assert (crowd.most["few"], crowd.most["all"]) == (2, 5)


async def test_a_place_is_given_back_however_a_run_of_a_limited_agent_ends(backend: Backend) -> None:
    never = asyncio.Event()

    async def agent(input: Any) -> Any:
        if input == "fail":
            raise ValueError("no")
        if input == "hang":
            await never.wait()
        return input

    async with backend.open({"agent": agent}, limits={"agent": AgentLimits(max_running=1)}) as stage:
        for _ in range(3):
            failed = await stage.start("agent", "fail")
            timed_out = await stage.start("agent", "hang", timeout=0.02)
            cancelled = await stage.start("agent", "hang")
            waits = await stage.start("agent", "waits")
            await within_patience(waits.cancel(wait=True))
            assert (await within_patience(timed_out.result())).status is RunStatus.timeout
            await within_patience(cancelled.cancel(wait=True))
            assert (await within_patience(failed.result())).status is RunStatus.error
        assert (await stage.run("agent", "fine")).status is RunStatus.success


async def test_a_thread_with_a_long_queue_keeps_no_other_thread_waiting(backend: Backend) -> None:
    crowd = Crowd()
    crowd.gate.set()
    async with backend.open({"a": crowd.agent("a")}, max_running=2) as stage:
        runs = [await stage.start("a", f"busy {n}", thread_id="busy") for n in range(30)]
        runs += [await stage.start("a", f"other {n}", thread_id=f"other {n}") for n in range(5)]
        await within_patience(asyncio.gather(*(run.result() for run in runs)))
    last_other = max(crowd.order.index(f"other {n}") for n in range(5))
    assert last_other < 20, crowd.order
    assert [name for name in crowd.order if name.startswith("busy")] == [f"busy {n}" for n in range(30)]


async def test_a_thousand_runs_at_once_on_a_hundred_threads(backend: Backend) -> None:
    """Closing the stage and judging the database check I1 to I3, I6 and that each thread has one run at a time."""
    crowd = Crowd()
    async with backend.open({"a": crowd.agent("a")}) as stage:
        specs = [RunSpec("a", n, thread_id=f"t{n % 100}") for n in range(1_000)]
        runs = await within_patience(asyncio.gather(*(stage.manager.start(spec) for spec in specs)))
        await crowd.until_full(100)
        crowd.gate.set()
        results = await within_patience(asyncio.gather(*(run.result() for run in runs)))
        assert Counter(result.status for result in results) == {RunStatus.success: 1_000}
        assert len(stage.events) == 1_000 * 2 + 100 * 2, "each start and end; each thread busy and idle once"
        if stage.store is not None:
            assert {thread.status for thread in await stage.store.threads(limit=200)} == {"idle"}
    assert sorted(crowd.order) == list(range(1_000))
    assert crowd.most["a"] == 100
    for thread in range(100):
        assert [n for n in crowd.order if n % 100 == thread] == list(range(thread, 1_000, 100))
