"""Places: how many runs execute at once, in total and for one agent, and which run is next."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.contract.ways_to_run import Gate, required, virtual

from trackside.harness import (
    AgentLimits,
    AgentResult,
    InvalidSpecError,
    LifecycleEventType,
    RunContext,
    RunLifecycleEvent,
    RunManager,
    RunSpec,
    RunStatus,
    UnknownAgentError,
)
from trackside.testing import VirtualClock


class Workshop:
    """A manager with agents that take ten seconds; notes who began in which order, and how many at once at most."""

    def __init__(self, **options: Any) -> None:
        self.began: list[str] = []
        self.most: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self.manager = RunManager(
            {name: self._agent(name) for name in ("slow", "quick", "other")},
            clock=VirtualClock(),
            shutdown_grace=1e6,
            **options,
        )

    def _agent(self, name: str) -> Any:
        async def agent(input: str) -> None:
            self.began.append(input)
            for who in (name, "all"):
                self._now[who] += 1
                self.most[who] = max(self.most[who], self._now[who])
            await asyncio.sleep(10)
            self._now -= Counter({name: 1, "all": 1})

        return agent


@virtual
async def test_an_agent_has_as_many_runs_at_once_as_its_limit_says() -> None:
    shop = Workshop(max_running=5, limits={"slow": AgentLimits(max_running=2), "quick": AgentLimits(timeout=100.0)})
    async with shop.manager as manager:
        for i in range(8):
            for agent in ("slow", "quick"):
                await manager.start(RunSpec(agent, f"{agent} {i}"))
    assert shop.most == {"slow": 2, "quick": 3, "all": 5}


@virtual
async def test_a_run_whose_agent_is_full_holds_up_nobody_elses() -> None:
    shop = Workshop(max_running=3, limits={"slow": AgentLimits(max_running=1)})
    async with shop.manager as manager:
        for i in range(3):
            await manager.start(RunSpec("slow", f"slow {i}"))
        for i in range(3):
            await manager.start(RunSpec("quick", f"quick {i}"))
        await asyncio.sleep(5)
        assert shop.began == ["slow 0", "quick 0", "quick 1"]
    assert sorted(shop.began[3:5]) == ["quick 2", "slow 1"]
    assert shop.began[5:] == ["slow 2"]


@virtual
async def test_a_thread_with_a_long_queue_does_not_keep_other_threads_from_their_places() -> None:
    shop = Workshop(max_running=2)
    async with shop.manager as manager:
        for i in range(100):
            await manager.start(RunSpec("slow", f"long {i}", thread_id="long"))
        for name in "abc":
            for i in range(2):
                await manager.start(RunSpec("quick", f"{name} {i}", thread_id=name))
        await asyncio.sleep(45)
        assert shop.began == ["long 0", "a 0", "b 0", "c 0", "long 1", "a 1", "b 1", "c 1", "long 2"]
        for run in manager._runs.all():
            await manager.cancel(run.run_id)


@virtual
async def test_a_run_that_is_cancelled_while_its_agent_is_full_leaves_the_line() -> None:
    shop = Workshop(max_running=9, limits={"slow": AgentLimits(max_running=1)})
    async with shop.manager as manager:
        runs = [await manager.start(RunSpec("slow", str(i))) for i in range(4)]
        await runs[1].cancel(wait=True)
        assert manager._runs._places.waiting == 2
        await runs[2].cancel(wait=True)
        assert (await runs[3].result()).status is RunStatus.success
    assert shop.began == ["0", "3"]
    assert manager._runs._places.taken == 0


@virtual
async def test_a_run_gets_no_place_while_its_end_is_being_told() -> None:
    gate = Gate(LifecycleEventType.RUN_CANCELLED)
    shop = Workshop(max_running=1, observers=[required(gate)])
    async with shop.manager as manager:
        await manager.start(RunSpec("slow", "first"))
        cancelled = await manager.start(RunSpec("slow", "cancelled"))
        cancels = asyncio.create_task(cancelled.cancel(wait=True))
        await gate.reached.wait()
        assert manager.stats().waiting_for_place == manager._runs._places.waiting == 0
        gate.opened.set()
        await cancels


@virtual
async def test_a_run_that_is_over_needs_no_place_while_its_observers_catch_up() -> None:
    loop, began = asyncio.get_running_loop(), list[float]()

    async def agent(_: Any) -> None:
        began.append(loop.time())

    async def slow(_: RunLifecycleEvent) -> None:
        await asyncio.sleep(0.1)

    async with RunManager({"a": agent}, observers=[slow], max_running=1, clock=VirtualClock()) as manager:
        runs = [await manager.start(RunSpec("a")) for _ in range(10)]
        for run in runs:
            await run.result()
        assert began == [0.0] * 10
        assert (manager.stats().running, manager.stats().ended_by_status) == (0, {RunStatus.success: 10})


@pytest.mark.parametrize("ends", ["by itself", "cancelled"])
@virtual
async def test_a_run_that_is_over_needs_no_place_while_its_agent_closes_what_it_has_opened(ends: str) -> None:
    loop, began, left = asyncio.get_running_loop(), list[float](), list[str]()

    class Opens:
        name = "opens"

        async def human_messages(self, run: RunContext) -> tuple[()]:
            return ()

        async def run(self, run: RunContext) -> AgentResult:
            began.append(loop.time())
            if ends == "cancelled":
                await manager.cancel(run.run_id)
                await asyncio.sleep(1e6)
            return AgentResult()

        async def rollback(self, run: RunContext) -> None: ...

        async def leave(self, run: RunContext) -> None:
            left.append(run.run_id)
            await asyncio.Event().wait()

    async with RunManager({"opens": Opens()}, max_running=1, clock=VirtualClock()) as manager:
        runs = [await manager.start(RunSpec("opens")) for _ in range(4)]
        await asyncio.sleep(1)
        assert (manager.stats().running, manager._runs._places.taken) == (0, 0)
        for run in runs:
            await run.result()
        assert began == [0.0] * 4
        assert left == [run.run_id for run in runs]
        assert loop.time() == 10.0, "who awaits a run does wait for this"


@virtual
async def test_runs_started_by_runs_need_no_place_of_their_agent() -> None:
    async def parent(depth: int) -> None:
        if depth:
            await (await manager.start(RunSpec("parent", depth - 1))).result()

    limits = {"parent": AgentLimits(max_running=1)}
    async with RunManager({"parent": parent}, limits=limits, max_running=1, clock=VirtualClock()) as manager:
        assert (await (await manager.start(RunSpec("parent", 5))).result()).status is RunStatus.success


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2"])
async def test_a_limit_that_lets_nothing_run_is_refused_by_its_name(limit: Any) -> None:
    with pytest.raises(InvalidSpecError, match=r"limits\['slow'\]\.max_running"):
        Workshop(limits={"slow": AgentLimits(max_running=limit)})
    with pytest.raises(UnknownAgentError, match="nobody"):
        Workshop(limits={"nobody": AgentLimits(max_running=1)})


@pytest.mark.parametrize("limits", [{"slow": {"max_running": 1}}, {"slow": None}, [AgentLimits()], 5])
async def test_what_are_no_limits_is_refused_and_said(limits: Any) -> None:
    with pytest.raises(InvalidSpecError, match=r"^limits.* does not fit a run: it has to be .*AgentLimits"):
        Workshop(limits=limits)


async def test_a_number_of_attempts_that_is_none_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidSpecError, match=r"limits\['slow'\]\.max_attempts"):
        Workshop(limits={"slow": AgentLimits(max_attempts=None)})  # type: ignore[arg-type]
