"""A run that waits for what can only come after its own end is told so, instead of hanging."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.contract.ways_to_run import required, virtual

from trackside.harness import (
    AgentResult,
    CallbackObserver,
    ClosesItselfError,
    LifecycleEventType,
    RunContext,
    RunHandle,
    RunLifecycleEvent,
    RunManager,
    RunSpec,
    RunStatus,
    WaitsForItselfError,
    current_run,
    run_agent,
)


async def sleeps(input: Any) -> None:
    await asyncio.sleep(100)


async def to_the_end(run: RunHandle) -> None:
    async for _ in run.stream():
        pass


async def in_a_task_of_its_own(run: RunHandle) -> Any:
    return await asyncio.create_task(run.result())


WAITING: dict[str, Callable[[RunManager, RunHandle], Awaitable[Any]]] = {
    "result of the handle": lambda manager, run: run.result(),
    "result of the manager": lambda manager, run: manager.result(run.run_id),
    "in a task": lambda manager, run: in_a_task_of_its_own(run),
    "stream": lambda manager, run: to_the_end(run),
}


@pytest.mark.parametrize("wait", WAITING.values(), ids=WAITING)
async def test_a_run_that_waits_for_the_next_of_its_thread_hears_that_this_would_be_for_ever(wait: Any) -> None:
    started: list[RunHandle] = []

    async def delegates(input: Any, run: RunContext) -> str:
        started.append(await manager.start(RunSpec("answers", thread_id=run.thread_id)))
        with pytest.raises(WaitsForItselfError, match=f"has to end before run '{started[0].run_id}'") as raised:
            await wait(manager, started[0])
        assert run.run_id in str(raised.value)
        return "goes on"

    async def answers(input: Any) -> str:
        return "later"

    async with RunManager({"delegates": delegates, "answers": answers}) as manager:
        result = await (await manager.start(RunSpec("delegates"))).result()
        assert (result.status, result.output) == (RunStatus.success, "goes on"), result.error
        assert (await started[0].result()).output == "later", "nobody is refused the result who is not in its way"


@pytest.mark.parametrize("above", WAITING.values(), ids=WAITING)
@pytest.mark.parametrize("wait", WAITING.values(), ids=WAITING)
async def test_a_run_hears_that_one_that_waits_for_it_is_before_what_it_waits_for(wait: Any, above: Any) -> None:
    behind: list[RunHandle] = []

    async def supervises(input: Any) -> Any:
        below = await manager.start(RunSpec("asks"))
        await above(manager, below)
        return (await below.result()).output

    async def asks(input: Any) -> Any:
        below = await manager.start(RunSpec("notes"))
        await above(manager, below)
        return (await below.result()).output

    async def notes(input: Any, run: RunContext) -> str:
        while len(manager._runs.waits._by_thread) < 2:  # until both wait: one of their tasks may not have begun
            await asyncio.sleep(0)
        behind.append(await manager.start(RunSpec("answers", thread_id="customer")))
        match = f"has to end before run '{behind[0].run_id}', which is waiting for this run through others"
        with pytest.raises(WaitsForItselfError, match=match):
            await wait(manager, behind[0])
        return "noted"

    async def answers(input: Any) -> str:
        return "later"

    agents = {"supervises": supervises, "asks": asks, "notes": notes, "answers": answers}
    async with RunManager(agents) as manager:
        result = await (await manager.start(RunSpec("supervises", thread_id="customer"))).result()
        assert (result.status, result.output) == (RunStatus.success, "noted"), result.error
        assert (await behind[0].result()).output == "later"
        assert manager._runs.waits._by_thread == {}


async def test_a_run_that_follows_another_hears_it_as_soon_as_that_waits_for_what_can_never_come() -> None:
    said = asyncio.Event()

    async def supervises(input: Any) -> list[Any]:
        heard = []
        with pytest.raises(WaitsForItselfError):
            async for part in (await manager.start(RunSpec("reports"))).stream(modes=["custom"]):
                heard.append(part.data)  # type: ignore[union-attr]  # it misses none
                await said.wait()
        return heard

    async def reports(input: Any, run: RunContext) -> Any:
        run.send("begun")
        behind = await manager.start(RunSpec("answers", thread_id="customer"))
        run.send("nobody asked for that", mode="debug")
        run.send("waits")
        asyncio.get_running_loop().call_soon(said.set)
        return (await behind.result()).output

    async def answers(input: Any) -> str:
        return "later"

    async with RunManager({"supervises": supervises, "reports": reports, "answers": answers}) as manager:
        result = await (await manager.start(RunSpec("supervises", thread_id="customer"))).result()
        assert result.output == ["begun", "waits"], result.error


async def test_a_run_that_follows_another_until_it_has_heard_enough_is_in_nobodys_way() -> None:
    below: list[RunHandle] = []

    async def supervises(input: Any) -> str:
        below.append(await manager.start(RunSpec("reports")))
        async for _ in below[0].stream():
            return "heard"
        return "heard nothing"

    async def reports(input: Any, run: RunContext) -> Any:
        await asyncio.sleep(0)  # until somebody waits for what it says
        behind = await manager.start(RunSpec("answers", thread_id="customer"))
        run.send("begun")
        return (await behind.result()).output

    async def answers(input: Any) -> str:
        return "later"

    async with RunManager({"supervises": supervises, "reports": reports, "answers": answers}) as manager:
        result = await (await manager.start(RunSpec("supervises", thread_id="customer"))).result()
        assert result.output == "heard", result.error
        assert (await below[0].result()).output == "later"
        assert manager._runs.waits._by_thread == {}


async def test_a_run_may_follow_itself_beside_its_work() -> None:
    following: list[asyncio.Task[None]] = []
    heard: list[Any] = []

    async def says(input: Any, run: RunContext) -> None:
        async def follow() -> None:
            heard.extend([part.data async for part in manager.stream(run.run_id)])  # type: ignore[union-attr]

        following.append(asyncio.create_task(follow()))
        await asyncio.sleep(0)
        run.send("a word")

    async with RunManager({"says": says}) as manager:
        await (await manager.start(RunSpec("says"))).result()
        await following[0]
        assert heard == ["a word"]


@pytest.mark.parametrize("wait", WAITING.values(), ids=WAITING)
async def test_a_run_that_comes_later_waits_for_its_turn_though_it_would_have_been_refused_now(wait: Any) -> None:
    later: list[RunHandle] = []

    async def delegates(input: Any, run: RunContext) -> None:
        spec = RunSpec("answers", thread_id=run.thread_id, after_seconds=0.01, multitask="reject")
        later.append(await manager.start(spec))
        with pytest.raises(WaitsForItselfError):
            await wait(manager, later[0])

    async def answers(input: Any) -> str:
        return "later"

    async with RunManager({"delegates": delegates, "answers": answers}) as manager:
        result = await (await manager.start(RunSpec("delegates"))).result()
        assert result.status is RunStatus.success, result.error
        assert (await later[0].result()).output == "later"


async def test_of_runs_that_wait_for_what_is_behind_each_other_the_last_hears_that_this_would_be_for_ever() -> None:
    both = asyncio.Barrier(2)

    async def crosses(other: str) -> str:
        await both.wait()
        following = await manager.start(RunSpec("answers", thread_id=other))
        await both.wait()
        try:
            return (await following.result()).output
        except WaitsForItselfError:
            return "goes on"

    async def answers(input: Any) -> str:
        return "an answer"

    async with RunManager({"crosses": crosses, "answers": answers}) as manager:
        runs = [await manager.start(RunSpec("crosses", other, thread_id=own)) for own, other in ("ab", "ba")]
        assert sorted([(await run.result()).output for run in runs]) == ["an answer", "goes on"]


@pytest.mark.parametrize("wait", WAITING.values(), ids=WAITING)
async def test_what_a_run_calls_in_place_waits_for_no_run_that_waits_for_its_caller(wait: Any) -> None:
    behind: list[RunHandle] = []

    async def calls(input: Any) -> Any:
        result = await run_agent(passes_on)
        return result.output or result.error

    async def passes_on(input: Any) -> Any:
        return (await run_agent(asks)).output

    async def asks(input: Any) -> str:
        behind.append(await manager.start(RunSpec("answers", thread_id="customer")))
        with pytest.raises(WaitsForItselfError, match=f"has to end before run '{behind[0].run_id}'"):
            await wait(manager, behind[0])
        return "goes on"

    async def answers(input: Any) -> str:
        return "later"

    async with RunManager({"calls": calls, "answers": answers}) as manager:
        result = await (await manager.start(RunSpec("calls", thread_id="customer"))).result()
        assert (result.status, result.output) == (RunStatus.success, "goes on"), result.error
        assert (await behind[0].result()).output == "later"


async def test_what_a_run_that_was_called_in_place_has_left_behind_may_wait_for_what_comes_behind_its_caller() -> None:
    heard: list[asyncio.Task[Any]] = []
    over, waits = asyncio.Event(), asyncio.Event()

    async def calls(input: Any) -> str:
        await run_agent(leaves)
        over.set()
        await waits.wait()
        return "called"

    async def leaves(input: Any) -> None:
        async def later() -> Any:
            await over.wait()
            behind = await manager.start(RunSpec("answers", thread_id="customer"))
            asyncio.get_running_loop().call_soon(waits.set)
            return (await behind.result()).output

        heard.append(asyncio.create_task(later()))

    async def answers(input: Any) -> str:
        return "later"

    async with RunManager({"calls": calls, "answers": answers}) as manager:
        result = await (await manager.start(RunSpec("calls", thread_id="customer"))).result()
        assert result.output == "called", result.error
        assert await heard[0] == "later"


async def test_a_run_hears_that_one_for_whose_result_it_waits_waits_for_it() -> None:
    async def asks(input: Any, run: RunContext) -> Any:
        return (await (await manager.start(RunSpec("asks back", run.run_id))).result()).error

    async def asks_back(asking: str) -> None:
        await manager.result(asking)

    async with RunManager({"asks": asks, "asks back": asks_back}) as manager:
        result = await (await manager.start(RunSpec("asks", run_id="first"))).result()
        assert "before run 'first', which is waiting for this run through others" in result.output


async def test_a_run_may_wait_for_those_behind_others_whatever_these_wait_for() -> None:
    begun = asyncio.Event()

    async def supervises(input: Any) -> list[Any]:
        first = await manager.start(RunSpec("asks", thread_id="shared"))
        await begun.wait()  # by then it waits for a run of its own
        second = await manager.start(RunSpec("answers", thread_id="shared"))
        again = await manager.start(RunSpec("answers", thread_id="shared", multitask="enqueue"))
        return [(await run.result()).output for run in (again, second, first)]

    async def asks(input: Any) -> Any:
        below = await manager.start(RunSpec("answers", thread_id="another"))
        begun.set()
        return (await below.result()).output

    async def answers(input: Any) -> str:
        return "an answer"

    async with RunManager({"supervises": supervises, "asks": asks, "answers": answers}) as manager:
        result = await (await manager.start(RunSpec("supervises", thread_id="own"))).result()
        assert result.output == ["an answer"] * 3, result.error


async def test_a_run_that_waits_for_itself_hears_that_this_would_be_for_ever() -> None:
    async def waits(input: Any, run: RunContext) -> None:
        await manager.result(run.run_id)

    async with RunManager({"waits": waits}) as manager:
        result = await (await manager.start(RunSpec("waits"))).result()
        assert result.status is RunStatus.error
        assert "which is itself" in str(result.error)


@pytest.mark.parametrize("in_place", [False, True], ids=["its own run", "the run that has called its run in place"])
@virtual
async def test_an_observer_that_waits_for_the_run_it_stops_hears_that_this_waits_for_the_observer(
    in_place: bool,
) -> None:
    heard: list[str] = []

    async def guards(event: RunLifecycleEvent) -> None:
        if event.event_type is LifecycleEventType.HUMAN_MESSAGE:
            with pytest.raises(WaitsForItselfError, match="before run 'guarded', which is itself"):
                await manager.cancel("guarded", wait=True)
            heard.append(event.run_id)

    async def calls(input: Any) -> None:
        await run_agent(sleeps, "forbidden", observer=guards)

    async with RunManager(observers=[] if in_place else [required(CallbackObserver(guards))]) as manager:
        run = await manager.start(RunSpec(calls if in_place else sleeps, "forbidden", run_id="guarded"))
        result = await run.result()
    assert (result.status, result.error) == (RunStatus.cancelled, None)
    assert len(heard) == 1


@virtual
async def test_what_a_run_does_not_wait_for_when_it_is_stopped_may_wait_for_its_end() -> None:
    ends: dict[str, RunStatus] = {}

    async def stops(run_id: str) -> None:
        ends[run_id] = (await manager.cancel(run_id, wait=True)).status

    async def watches(event: RunLifecycleEvent) -> None:
        if event.event_type is LifecycleEventType.HUMAN_MESSAGE and event.payload["message"]["content"] == "forbidden":
            await stops(event.run_id)

    async def lets_be(input: Any, run: RunContext) -> None:
        beside = asyncio.create_task(stops(run.run_id))
        await asyncio.sleep(100)
        await beside

    async def awaits(input: Any, run: RunContext) -> None:
        await asyncio.create_task(stops(run.run_id))

    async with RunManager(observers=[watches]) as manager:
        stopped = {"buffered": (sleeps, "forbidden"), "beside": (lets_be, "x"), "awaited": (awaits, "x")}
        for run_id, (agent, asked) in stopped.items():
            run = await manager.start(RunSpec(agent, asked, run_id=run_id))
            assert (await run.result()).status is RunStatus.cancelled
    assert ends == dict.fromkeys(("buffered", "beside"), RunStatus.cancelled), "the third is cancelled with its run"


async def test_an_agent_that_waits_for_its_manager_to_close_hears_that_this_waits_for_the_agent() -> None:
    closes: list[asyncio.Task[None]] = []

    async def closing(input: Any, run: RunContext) -> str:
        for _ in range(2):  # in its first step, and later
            with pytest.raises(ClosesItselfError, match=f"^Run '{run.run_id}' would wait for itself"):
                await manager.aclose()
            await asyncio.sleep(0)
        assert not manager.closing
        closes.append(asyncio.create_task(manager.aclose()))
        await asyncio.sleep(0)
        assert manager.closing
        return "the last"

    async def other(input: Any) -> None:
        async with RunManager() as own:
            await own.start(RunSpec(lambda _: None))

    manager = RunManager({"closing": closing, "other": other})
    assert (await (await manager.start(RunSpec("other"))).result()).status is RunStatus.success
    run = await manager.start(RunSpec("closing"))
    assert (await run.result()).output == "the last"
    await closes[0]


async def test_an_agent_hears_that_the_close_would_wait_for_it_whatever_its_task_is_called() -> None:
    async def renamed(input: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("of a framework")
        await asyncio.sleep(0)
        await manager.aclose()

    manager = RunManager({"renamed": renamed})
    result = await (await manager.start(RunSpec("renamed"))).result()
    assert "would wait for itself" in str(result.error)
    await manager.aclose()


async def test_an_agent_that_waits_for_the_close_in_a_task_below_its_own_stops_when_the_grace_is_over() -> None:
    async def gathering(input: Any) -> None:
        await asyncio.gather(manager.aclose(grace=0.0))

    manager = RunManager({"gathering": gathering}, shutdown_grace=3600.0)
    run = await manager.start(RunSpec("gathering"))
    result = await run.result()
    assert (result.status, result.error) == (RunStatus.cancelled, None)
    await manager.aclose()
    assert manager.stats().stuck_total == 0


async def test_an_agent_that_closes_before_it_begins_hears_it_too_and_what_it_has_started_may_close() -> None:
    closes: list[asyncio.Task[None]] = []

    class Preparing:
        name = "preparing"

        async def human_messages(self, run: RunContext) -> list[Any]:
            with pytest.raises(ClosesItselfError):
                await manager.aclose()
            return []

        async def run(self, run: RunContext) -> AgentResult:
            closes.append(asyncio.create_task(manager.aclose(), name=f"trackside-agent-{run.run_id}"))
            return AgentResult("run")

        async def rollback(self, run: RunContext) -> None: ...

    manager = RunManager({"preparing": Preparing()})
    result = await (await manager.start(RunSpec("preparing"))).result()
    assert (result.status, result.output) == (RunStatus.success, "run"), result.error
    await closes[0]
    assert manager.closing


async def test_a_run_may_wait_for_another_thread_and_for_what_has_ended_on_its_own() -> None:
    before: list[RunHandle] = []

    async def delegates(input: Any, run: RunContext) -> list[Any]:
        below = await manager.start(RunSpec("answers"))
        return [(await one.result()).output for one in (below, *before)]

    async def answers(input: Any) -> str:
        return "an answer"

    async with RunManager({"delegates": delegates, "answers": answers}) as manager:
        before.append(await manager.start(RunSpec("answers", thread_id="shared")))
        await before[0].result()
        result = await (await manager.start(RunSpec("delegates", thread_id="shared"))).result()
        assert result.output == ["an answer", "an answer"]


async def test_a_run_that_is_displaced_by_what_it_has_started_makes_room_for_it() -> None:
    started: list[RunHandle] = []

    async def makes_room(input: Any, run: RunContext) -> None:
        started.append(await manager.start(RunSpec("answers", thread_id=run.thread_id, multitask="interrupt")))
        await started[0].result()

    async def answers(input: Any) -> str:
        return "in its place"

    async with RunManager({"makes_room": makes_room, "answers": answers}) as manager:
        result = await (await manager.start(RunSpec("makes_room"))).result()
        assert result.status is RunStatus.cancelled
        assert (await started[0].result()).output == "in its place"


async def test_what_a_run_leaves_behind_may_wait_for_the_next_of_its_thread() -> None:
    go = asyncio.Event()
    heard: list[asyncio.Task[Any]] = []

    async def leaves(input: Any, run: RunContext) -> None:
        following = await manager.start(RunSpec("answers", thread_id=run.thread_id))

        async def later() -> Any:
            await go.wait()
            assert current_run() is run
            return (await following.result()).output

        heard.append(asyncio.create_task(later()))

    async def answers(input: Any) -> str:
        await go.wait()
        return "an answer"

    async with RunManager({"leaves": leaves, "answers": answers}) as manager:
        await (await manager.start(RunSpec("leaves"))).result()
        go.set()
        assert await heard[0] == "an answer"
