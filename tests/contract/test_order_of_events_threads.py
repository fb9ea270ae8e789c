"""A thread's status is announced when it really changes; an interrupt pauses a thread until a human answers."""

import asyncio
from typing import Any

import pytest
from tests.contract.slow_ports import SlowStates
from tests.contract.ways_to_run import ByManager, Gate, Way, both_ways, end_of, required, told, virtual

from trackside.harness import LifecycleEventType, RunContext, RunManager, RunResult, RunSpec, RunStatus
from trackside.harness.ids import new_id
from trackside.harness.remembered import MemoryThreadStates
from trackside.testing import RecordingObserver, assert_run_order

BUSY = "thread_status_updated busy"
FIRST = ["run_started", BUSY, "human_message"]


async def agent(input: Any) -> str:
    await asyncio.sleep(1)
    if input == "fail":
        raise ValueError
    return "done"


@both_ways
@virtual
async def test_the_status_before_is_what_was_announced_last(way: Way) -> None:
    thread = new_id()
    seen = RecordingObserver()
    async with way(seen) as runs:
        await runs.run(agent, "fail", thread_id=thread, run_id="a")
        await runs.run(agent, "hello", thread_id=thread, run_id="b")
        await runs.run(agent, "hello", thread_id="other", run_id="c")
    changes = {
        run_id: [
            (e.payload["previous"], e.payload["status"])
            for e in seen.events
            if e.run_id == run_id and e.event_type is LifecycleEventType.THREAD_STATUS_UPDATED
        ]
        for run_id in "abc"
    }
    assert changes == {
        "a": [("idle", "busy"), ("busy", "error")],
        "b": [("error", "busy"), ("busy", "idle")],
        "c": [("idle", "busy"), ("busy", "idle")],
    }
    assert_run_order(seen.events)


@both_ways
@virtual
async def test_a_thread_stays_busy_while_another_run_waits_behind(way: Way) -> None:
    thread = new_id()
    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        started = [await runs.start(agent, "hello", thread_id=thread, run_id=f"run-{i}") for i in range(3)]
        for run in started:
            await run.ended()
    assert told(seen.events, "run-0") == [*FIRST, "run_completed success"]
    assert told(seen.events, "run-1") == ["run_started", "human_message", "run_completed success"]
    assert told(seen.events, "run-2")[-1] == "thread_status_updated idle"
    assert told(seen.events).count(BUSY) == 1
    assert [e.run_id for e in seen.events] == sorted(e.run_id for e in seen.events), "one active run per thread"
    assert_run_order(seen.events)


@both_ways
@pytest.mark.parametrize(("left", "becomes"), [("hello", "idle"), ("fail", "error")])
@virtual
async def test_when_the_run_that_waits_is_withdrawn_between_the_end_and_the_release(
    way: Way, left: str, becomes: str
) -> None:
    thread = new_id()
    gate = Gate(LifecycleEventType.RUN_COMPLETED if left == "hello" else LifecycleEventType.RUN_FAILED)

    async def agent(input: str) -> None:
        await asyncio.sleep(1)
        if input == "fail":
            raise ValueError

    async with way(required(gate)) as runs:
        first = await runs.start(agent, left, thread_id=thread, run_id="first")
        second = await runs.start(agent, "hello", thread_id=thread, run_id="second")
        await gate.reached.wait()  # it has settled as busy, since another run waits
        await second.cancel()
        await second.ended()
        gate.opened.set()
        await first.ended()
        third = await runs.start(agent, "hello", thread_id=thread, run_id="third")
        await third.ended()
    assert told(gate.events, "second") == [f"run_cancelled {way.cancel_mode}"]
    assert told(gate.events, "first")[-1] == f"thread_status_updated {becomes}"
    assert told(gate.events, "third")[:2] == ["run_started", BUSY]
    assert gate.events[-1].payload["status"] == "idle"
    assert_run_order(gate.events)


@virtual
async def test_a_run_that_is_withdrawn_after_its_thread_was_given_to_it_gives_it_back() -> None:
    """The first run left the thread busy for the second, which never starts: so the second one announces that."""
    thread = new_id()
    seen = RecordingObserver()

    async def long(input: Any) -> None:
        await asyncio.sleep(100)

    async with ByManager(required(seen), max_running=1) as runs:
        first = await runs.start(agent, "hello", thread_id=thread, run_id="first")
        second = await runs.start(agent, "hello", thread_id=thread, run_id="second")
        await runs.start(long, thread_id="other", run_id="blocker")  # takes the only place before the second run can
        await first.ended()
        await second.cancel()
        await second.ended()
    assert told(seen.events, "first") == [*FIRST, "run_completed success"]
    assert told(seen.events, "second") == ["run_cancelled interrupt", "thread_status_updated idle"]
    assert_run_order(seen.events)


@virtual
async def test_a_withdrawn_run_does_not_overwrite_the_status_of_its_thread() -> None:
    """Found by review: the withdrawn run's release restored the status that its thread had when it was withdrawn."""
    thread = new_id()
    gate = Gate(LifecycleEventType.RUN_CANCELLED)
    seen = RecordingObserver()
    go_on = asyncio.Event()

    async def agent(input: Any) -> None:
        await go_on.wait()
        raise ValueError

    async with ByManager(required(gate), required(seen)) as runs:
        first = await runs.start(agent, thread_id=thread, run_id="first")
        second = await runs.start(agent, thread_id=thread, run_id="second")
        await asyncio.sleep(1)
        cancel = asyncio.create_task(second.cancel())
        await gate.reached.wait()
        go_on.set()
        await first.ended()  # the thread is at rest, with status error
        gate.opened.set()
        await cancel
        await runs.run(agent, thread_id=thread, run_id="third")
    assert told(seen.events, "third") == ["run_started", BUSY, "run_failed error", "thread_status_updated error"]
    third = [e for e in seen.events if e.run_id == "third"]
    assert third[1].payload["previous"] == "error"


async def asks(input: str, run: RunContext) -> dict[str, Any]:
    first = run.interrupt({"question": "which city?"})
    second = run.interrupt("are you sure?")
    return {"input": input, "city": first, "sure": second}


@both_ways
@virtual
async def test_interrupt_and_resume_with_several_questions(way: Way) -> None:
    thread = new_id()
    seen = RecordingObserver()
    async with way(seen) as runs:
        one = await runs.run(asks, "hello", thread_id=thread, run_id="one")
        two = await runs.run(asks, command={"resume": "Rome"}, thread_id=thread, run_id="two")
        three = await runs.run(asks, command={"resume": True}, thread_id=thread, run_id="three")

    assert [r.status for r in (one, two, three)] == ["interrupted", "interrupted", "success"]
    assert told(seen.events, "one") == [*FIRST, "run_completed interrupted", "thread_status_updated interrupted"]
    assert told(seen.events, "two") == [*FIRST, "run_completed interrupted", "thread_status_updated interrupted"]
    assert told(seen.events, "three") == [*FIRST, "run_completed success", "thread_status_updated idle"]
    assert_run_order(seen.events)
    (asked,) = end_of(seen.events, "one").payload["interrupts"]
    assert asked["value"] == {"question": "which city?"}
    assert end_of(seen.events, "two").payload["interrupts"][0]["value"] == "are you sure?"
    messages = [e.payload["message"]["content"] for e in seen.events if e.event_type == "human_message"]
    assert messages == ["hello", "Rome", "true"], "the answer that resumes is a human message, too"
    previous = [e.payload["previous"] for e in seen.events if told([e]) == [BUSY]]
    assert previous == ["idle", "interrupted", "interrupted"]


@both_ways
@virtual
async def test_resume_by_the_id_of_the_question(way: Way) -> None:
    thread = new_id()
    seen = RecordingObserver()

    async def agent(input: str, run: RunContext) -> Any:
        return {"answer": run.interrupt("?"), "again": run.resume}

    async with way(required(seen)) as runs:
        await runs.run(agent, "hello", thread_id=thread, run_id="one")
        (asked,) = end_of(seen.events, "one").payload["interrupts"]
        result = await runs.run(agent, command={"resume": {asked["id"]: {"yes": 1}}}, thread_id=thread, run_id="two")
        again = await runs.run(asks, "x", thread_id=thread)
    assert result.status is RunStatus.success
    assert again.status is RunStatus.interrupted
    (message,) = [e.payload["message"] for e in seen.events if e.run_id == "two" and e.event_type == "human_message"]
    assert message["content"] == '{"yes": 1}'


@both_ways
@pytest.mark.parametrize("output", ["done", None, {"n": 1}], ids=str)
@virtual
async def test_resume_when_nothing_is_paused_fails_and_changes_nothing(way: Way, output: Any) -> None:
    thread = new_id()
    seen = RecordingObserver()
    values: list[Any] = []

    async def agent(input: str, run: RunContext) -> Any:
        values.append(dict(run.values))
        run.interrupt("?")
        return output

    async with way(seen) as runs:
        never = await runs.run(agent, command={"resume": "yes"}, thread_id=thread)
        await runs.run(agent, "hello", thread_id=thread)
        once = await runs.run(agent, command={"resume": "yes"}, thread_id=thread)
        twice = await runs.run(agent, command={"resume": "yes"}, thread_id=thread)
    assert [r.status for r in (never, once, twice)] == ["error", "success", "error"]
    assert "does not wait for an answer" in (never.error or "")
    assert "does not wait for an answer" in (twice.error or "")
    assert len(values) == 2
    assert_run_order(seen.events)


@both_ways
@virtual
async def test_a_run_with_an_input_takes_the_place_of_the_question(way: Way) -> None:
    thread = new_id()

    async def agent(input: str, run: RunContext) -> str | None:
        if input == "ask":
            run.interrupt("?")
        return None

    async with way() as runs:
        await runs.run(agent, "ask", thread_id=thread)
        other = await runs.run(agent, "something else", thread_id=thread)
        resumed = await runs.run(agent, command={"resume": "yes"}, thread_id=thread)
    assert other.status is RunStatus.success
    assert resumed.status is RunStatus.error


@both_ways
@virtual
async def test_a_failed_resume_can_be_tried_again(way: Way) -> None:
    thread = new_id()
    tries = 0

    async def agent(input: str, run: RunContext) -> str:
        nonlocal tries
        answer = run.interrupt("?")
        tries += 1
        if tries == 1:
            raise ConnectionError
        return str(answer)

    async with way() as runs:
        await runs.run(agent, "hello", thread_id=thread)
        results = [await runs.run(agent, command={"resume": "yes"}, thread_id=thread) for _ in range(2)]
    assert [r.status for r in results] == ["error", "success"]


@both_ways
@virtual
async def test_what_an_agent_does_to_its_values_is_not_remembered_unless_its_run_succeeds(way: Way) -> None:
    thread = new_id()
    seen: list[Any] = []

    async def agent(input: str, run: RunContext) -> Any:
        seen.append(run.values["items"][:] if run.values else None)
        if input == "spoil":
            run.values["items"].append("spoilt")
            raise ValueError
        return {"items": [input]}

    async with way() as runs:
        for given in ("a", "spoil", "b", "c"):
            await runs.run(agent, given, thread_id=thread)
    assert seen == [None, ["a"], ["a"], ["b"]]


@both_ways
@virtual
async def test_an_interrupt_passes_through_an_agents_own_exception_handling(way: Way) -> None:
    thread = new_id()

    async def agent(input: str, run: RunContext) -> str:
        try:
            return str(run.interrupt("?"))
        except Exception:
            return "swallowed"

    async with way() as runs:
        assert (await runs.run(agent, "hello", thread_id=thread)).status is RunStatus.interrupted


@both_ways
@virtual
async def test_an_interrupt_whose_question_cannot_be_read_is_an_error(way: Way) -> None:
    seen = RecordingObserver()

    class Unreadable:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    async def agent(input: str, run: RunContext) -> None:
        run.interrupt(Unreadable())

    async with way(seen) as runs:
        assert (await runs.run(agent, "hello")).status is RunStatus.error
    assert_run_order(seen.events)


@pytest.mark.parametrize("states", [MemoryThreadStates(), SlowStates(1.0)], ids=["at once", "slow"])
@pytest.mark.parametrize("seconds", [0, 0.5, 5])
@virtual
async def test_a_cancelled_run_leaves_the_question_of_its_thread_open(
    states: MemoryThreadStates, seconds: float
) -> None:
    """Found by a generated schedule: the thread was said to be idle, then the next run said it had been interrupted."""
    thread = new_id()
    seen = RecordingObserver()

    async def agent(input: str, run: RunContext) -> str:
        if input == "sleep":
            await asyncio.sleep(3_600)
        return str(run.interrupt("?"))

    async with RunManager(observers=[required(seen)], states=states) as manager:

        async def run(input: Any = None, **asked: Any) -> RunResult:
            return await (await manager.start(RunSpec(agent, input, thread_id=thread, **asked))).result()

        await run("ask")
        sleeping = await manager.start(RunSpec(agent, "sleep", thread_id=thread))
        await asyncio.sleep(seconds)
        await sleeping.cancel(wait=True)
        assert (await run(command={"resume": "yes"})).status is RunStatus.success
    changes = [e.payload for e in seen.events if e.event_type is LifecycleEventType.THREAD_STATUS_UPDATED]
    assert [c["previous"] for c in changes[1:]] == [c["status"] for c in changes[:-1]]
    assert [c["status"] for c in changes].count("idle") == 1
    assert_run_order(seen.events)
