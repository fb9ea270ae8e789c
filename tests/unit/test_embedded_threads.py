"""`run_agent` and threads: runs of one thread take turns, none waits for ever, and a thread remembers."""

import asyncio
from functools import partial
from typing import Any

import pytest
from tests.contract.ways_to_run import Gate, end_of, required, told, virtual
from tests.unit.embedded_agents import echo

from trackside import RunManager, RunSpec, RunStatus, run_agent
from trackside.harness import (
    CompositeObserver,
    LifecycleEventType,
    RunContext,
    RunLifecycleEvent,
    RunResult,
    ThreadBusyError,
)
from trackside.harness.ids import new_id
from trackside.testing import RecordingObserver, assert_run_order


@virtual
async def test_runs_of_one_thread_take_turns_and_others_do_not_wait() -> None:
    seen = RecordingObserver()
    loop = asyncio.get_running_loop()

    async def agent(input: Any) -> None:
        await asyncio.sleep(10)

    async def run(run_id: str, thread_id: str) -> float:
        await run_agent(agent, observer=seen, run_id=run_id, thread_id=thread_id)
        return loop.time()

    times = await asyncio.gather(run("a", "t"), run("b", "t"), run("c", "t"), run("d", "other"))
    assert times == [10, 20, 30, 10]
    assert_run_order(seen.events)
    assert told(seen.events, "b") == ["run_started", "run_completed success"]


def nested(levels: int, *, thread_id: str) -> Any:
    """An agent that starts a chain of others, the last of them on this thread; none waits for itself."""

    async def agent(input: Any) -> Any:
        below, thread = (nested(levels - 1, thread_id=thread_id), None) if levels > 1 else (echo, thread_id)
        try:
            return (await run_agent(below, input, thread_id=thread)).output
        except ThreadBusyError as exc:
            return exc.details["run_id"]

    return agent


@pytest.mark.parametrize("levels", [1, 2, 3])
@virtual
async def test_a_run_whose_thread_a_run_above_it_holds_is_refused_instead_of_waiting_for_ever(levels: int) -> None:
    result = await run_agent(nested(levels, thread_id="t"), "x", thread_id="t")
    assert result.output == result.run_id
    assert (await run_agent(nested(levels, thread_id="other"), "x", thread_id="t")).output == "x"


@virtual
async def test_who_calls_an_agent_on_the_thread_of_his_own_run_is_told_to_take_another_thread() -> None:
    async def calls(input: Any) -> None:
        await run_agent(echo, thread_id="t")

    seen = RecordingObserver()
    result = await run_agent(calls, observer=seen, run_id="above", thread_id="t")
    says = (
        "Thread 't' is busy with run 'above', which cannot end before this call does, so the call would wait for ever; "
    )
    assert result.error == f"{says}leave `thread_id` out, or pass another thread's."
    assert end_of(seen.events).payload["error_type"] == "HeldByCallerError"


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("in_place", [False, True], ids=["by themselves", "by what they call"])
@virtual
async def test_of_runs_that_call_each_others_threads_the_last_is_refused_and_none_waits_for_ever(
    size: int, in_place: bool
) -> None:
    all_begun = asyncio.Barrier(size)

    async def asks(thread_id: str) -> Any:
        try:
            return (await run_agent(echo, "an answer", thread_id=thread_id)).output
        except ThreadBusyError as exc:
            return exc.details

    async def calls(place: int) -> Any:
        await all_begun.wait()
        await asyncio.sleep(size - place)  # the one with the first thread calls last, behind all others
        other = f"t{(place + 1) % size}"
        return (await run_agent(asks, other)).output if in_place else await asks(other)

    first, second, *others = await asyncio.gather(*(run_agent(calls, i, thread_id=f"t{i}") for i in range(size)))
    assert first.output == {"thread_id": "t1", "run_id": second.run_id}
    assert [result.output for result in (second, *others)] == ["an answer"] * (size - 1)


@pytest.mark.parametrize("levels", [1, 2])
@virtual
async def test_what_an_ended_run_has_left_behind_is_refused_the_thread_of_a_run_above_that_waits_for_it(
    levels: int,
) -> None:
    left: list[asyncio.Task[RunResult]] = []
    ended = asyncio.Event()

    async def follows_up() -> RunResult:
        await ended.wait()
        return await run_agent(nested(levels, thread_id="t"))

    async def leaves(input: Any) -> None:
        left.append(asyncio.create_task(follows_up()))

    async def calls(input: Any) -> Any:
        await run_agent(leaves)
        ended.set()
        return (await left[0]).output

    result = await run_agent(calls, thread_id="t")
    assert result.output == result.run_id


@virtual
async def test_what_a_run_has_a_manager_run_is_refused_its_thread_as_well() -> None:
    async def calls(input: Any) -> Any:
        return (await (await manager.start(RunSpec(nested(1, thread_id="t")))).result()).output

    async with RunManager() as manager:
        result = await run_agent(calls, thread_id="t")
    assert result.output == result.run_id


@virtual
async def test_a_run_whose_turn_does_not_come_as_its_task_was_cancelled_is_in_nobodys_way() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def calls(input: Any) -> Any:
        call = asyncio.create_task(run_agent(echo, thread_id="there", run_id="waits"))
        await begun.wait()
        next(task for task in asyncio.all_tasks() if task.get_name() == "trackside-run-waits").cancel()
        await asyncio.wait({call})
        cancelled.set()
        await asyncio.sleep(1)
        return "goes on"

    async def is_called(input: Any) -> Any:
        await asyncio.sleep(1)
        begun.set()
        await cancelled.wait()
        return (await run_agent(echo, "its turn", thread_id="here")).output

    runs = (run_agent(is_called, thread_id="there"), run_agent(calls, thread_id="here"))
    assert [run.output for run in await asyncio.gather(*runs)] == ["its turn", "goes on"]


@virtual
async def test_what_a_run_left_behind_may_have_its_thread_when_it_has_ended() -> None:
    left: list[asyncio.Task[RunResult]] = []
    ended = asyncio.Event()

    async def waits(input: Any) -> RunResult:
        await ended.wait()
        return await run_agent(echo, "after", thread_id="t")

    async def leaves(input: Any) -> None:
        left.append(asyncio.create_task(waits(input)))

    async def calls(input: Any) -> None:
        await run_agent(leaves)

    await run_agent(calls, thread_id="t")
    ended.set()
    assert (await left[0]).output == "after"


@pytest.mark.parametrize("managed", [False, True], ids=["run_agent", "RunManager"])
@virtual
async def test_what_a_run_left_behind_itself_may_have_its_thread_when_it_has_ended(managed: bool) -> None:
    left: list[asyncio.Task[RunResult]] = []
    ended = asyncio.Event()

    async def follows_up() -> RunResult:
        with pytest.raises(ThreadBusyError):
            await run_agent(echo, "before", thread_id="t")
        await ended.wait()
        return await run_agent(echo, "after", thread_id="t")

    async def leaves(input: Any) -> None:
        left.append(asyncio.create_task(follows_up()))
        await asyncio.sleep(1)

    if managed:
        async with RunManager() as manager:
            await (await manager.start(RunSpec(leaves, thread_id="t"))).result()
    else:
        await run_agent(leaves, thread_id="t")
    ended.set()
    assert (await left[0]).output == "after"


@virtual
async def test_an_observer_that_hears_of_the_end_may_have_the_thread_when_the_run_has_ended() -> None:
    titles: list[Any] = []

    async def follows_up(event: RunLifecycleEvent) -> None:
        if event.event_type is LifecycleEventType.RUN_COMPLETED:
            await asyncio.sleep(1)
            titles.append((await run_agent(echo, "a title", thread_id=event.thread_id)).output)

    async with RunManager(observers=[follows_up]) as manager:
        await (await manager.start(RunSpec(echo, thread_id="t"))).result()
    assert titles == ["a title"]


@virtual
async def test_runs_without_a_thread_have_one_each() -> None:
    results = [await run_agent(echo) for _ in range(3)]
    assert len({result.thread_id for result in results}) == 3


def test_what_a_thread_remembers_outlives_the_event_loop() -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        return {"sum": run.values.get("sum", 0) + input, "sure": run.interrupt("sure?") if input == 2 else None}

    thread = new_id()
    assert asyncio.run(run_agent(agent, 1, thread_id=thread)).status is RunStatus.success
    assert asyncio.run(run_agent(agent, 2, thread_id=thread)).status is RunStatus.interrupted
    resumed = asyncio.run(run_agent(agent, command={"resume": True}, thread_id=thread))
    assert resumed.status is RunStatus.success


async def test_of_two_answers_at_once_the_second_is_none_to_the_next_question() -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def agent(input: Any, run: RunContext) -> Any:
        for order in input:
            run.interrupt(f"Refund {order}?")
            reached.set()
            await go_on.wait()
        return "done"

    thread = new_id()
    await run_agent(agent, [7, 8], thread_id=thread)
    answer = partial(run_agent, agent, command={"resume": True}, thread_id=thread)
    tasks = [asyncio.create_task(answer()) for _ in range(2)]
    await reached.wait()
    go_on.set()
    first, second = await asyncio.gather(*tasks)
    assert (first.status, second.status) == (RunStatus.interrupted, RunStatus.error)


@virtual
async def test_a_cancel_that_hits_a_run_in_the_turn_in_which_it_gets_its_thread() -> None:
    seen = RecordingObserver()
    gate = Gate(LifecycleEventType.RUN_COMPLETED)
    first = asyncio.create_task(
        run_agent(echo, observer=CompositeObserver([required(seen), required(gate)]), thread_id="t", run_id="first")
    )
    await gate.reached.wait()
    second = asyncio.create_task(run_agent(echo, observer=seen, thread_id="t", run_id="second"))
    third = asyncio.create_task(run_agent(echo, observer=seen, thread_id="t", run_id="third"))
    await asyncio.sleep(1)
    gate.opened.set()
    second.cancel()
    await asyncio.wait({first, second, third})
    assert second.cancelled()
    assert_run_order(seen.events)
    assert told(seen.events, "second")[0] == "run_cancelled task_cancelled"
    assert told(seen.events, "third")[-2:] == ["run_completed success", "thread_status_updated idle"]
