"""What a thread remembers of a run: rolled back, and waited for while its store is away or said to be lost."""

import asyncio
from typing import Any

import pytest
from tests.contract.slow_ports import SlowStates
from tests.contract.ways_to_run import ByManager, end_of, required, told, virtual
from tests.unit.scripted_agents import BUSY, FAILED, Scripted

from trackside.harness import DispatchPolicy, RunContext, RunSpec, RunStatus, TracksideError
from trackside.testing import RecordingObserver, assert_run_order


@pytest.mark.parametrize("checkpoint", ["checkpoint-1", None])
@virtual
async def test_a_rollback_is_done_before_the_cancel_is_announced(checkpoint: str | None) -> None:
    seen = RecordingObserver()
    agent = Scripted(seconds=5.0, rolls_back_to=checkpoint)
    async with ByManager(required(seen)) as runs:
        run = await runs.start(agent)
        await asyncio.sleep(6)
        await runs.manager.cancel(run.run_id, action="rollback")
        await asyncio.sleep(1)
        assert agent.rolled_back == 1
        assert told(seen.events) == ["run_started", BUSY], "cancelled is said when the thread is as it was"
        assert (await runs.manager.get(run.run_id)).status is RunStatus.running
        await run.ended()
    end = end_of(seen.events)
    assert end.payload["cancel_mode"] == "rollback"
    assert end.payload.get("pre_run_checkpoint_id") == checkpoint


@virtual
async def test_a_run_that_never_started_has_nothing_to_roll_back() -> None:
    seen = RecordingObserver()
    agent = Scripted(seconds=5.0)
    async with ByManager(required(seen)) as runs:
        run = await runs.start(agent)
        await runs.manager.cancel(run.run_id, action="rollback", wait=True)
    assert told(seen.events) == ["run_cancelled rollback"]
    assert agent.rolled_back == 0


@virtual
async def test_a_rollback_that_fails_is_said_to_have_failed() -> None:
    seen = RecordingObserver()
    agent = Scripted(seconds=5.0, rolls_back_to=ConnectionError("checkpointer down"))
    async with ByManager(required(seen)) as runs:
        run = await runs.start(agent)
        await asyncio.sleep(6)
        record = await runs.manager.cancel(run.run_id, action="rollback", wait=True)
    assert told(seen.events) == FAILED
    assert end_of(seen.events).payload["error_type"] == "ThreadNotRolledBackError"
    assert (record.error or "").startswith("The agent was stopped, but its thread ")
    assert (record.error or "").endswith("may remember some of what it did: checkpointer down.")
    assert_run_order(seen.events)


async def remembers(input: Any, run: RunContext) -> dict[str, Any]:
    return {"n": run.values.get("n", 0) + 1}


@virtual
async def test_a_memory_that_cannot_be_written_fails_the_run_and_nothing_hangs() -> None:
    seen = RecordingObserver()
    states = SlowStates()
    async with ByManager(required(seen), states=states) as runs:
        await runs.run(remembers, thread_id="t")
        states.broken = OSError("disk full")
        failed = await runs.run(remembers, thread_id="t")
        states.broken = None
        await runs.run(remembers, thread_id="t")
    assert failed.error == "The agent has finished, but its thread 't' does not remember it: disk full."
    assert_run_order(seen.events)
    assert (await states.load("t")).values == {"n": 2}  # type: ignore[union-attr]


class Away(TracksideError):
    """The store
    is away."""

    retryable = True


PATIENT = DispatchPolicy(retry_for=20.0, first_pause=1.0, longest_pause=4.0)


async def after(seconds: float, states: SlowStates) -> None:
    await asyncio.sleep(seconds)
    states.broken = None


@pytest.mark.parametrize("loses", [False, True], ids=["to save", "to load and to save"])
@virtual
async def test_a_memory_that_is_away_for_a_while_is_tried_again(loses: bool) -> None:
    seen = RecordingObserver()
    states = SlowStates()
    states.broken, states.loses = Away(), loses
    async with ByManager(required(seen), states=states, policy=PATIENT) as runs:
        back = asyncio.create_task(after(15.0, states))
        result = await runs.run(remembers, thread_id="t")
        await back
    assert (result.status, result.error) == (RunStatus.success, None)
    assert (await states.load("t")).values == {"n": 1}  # type: ignore[union-attr]
    assert_run_order(seen.events)


@pytest.mark.parametrize(
    ("broken", "seconds"), [(Away(), (21, 27)), (OSError("away for good"), (2, 2))], ids=["may pass", "will not pass"]
)
@virtual
async def test_a_memory_that_stays_away_is_said_to_be_so_and_what_the_agent_did_is_kept(
    broken: Exception, seconds: tuple[float, float]
) -> None:
    seen = RecordingObserver()
    states = SlowStates()
    states.broken = broken

    async def answers(input: Any) -> dict[str, Any]:
        return {"messages": [{"type": "ai", "content": "the answer"}]}

    async with ByManager(required(seen), states=states, policy=PATIENT) as runs:
        result = await runs.run(answers, "hello", thread_id="t")
    end = end_of(seen.events).payload
    why = " ".join(str(broken).split()).rstrip(".")
    assert result.status is RunStatus.error
    assert result.error == end["error"] == f"The agent has finished, but its thread 't' does not remember it: {why}."
    assert end["error_type"] == "ThreadNotSavedError"
    assert "traceback" not in end
    assert end["completion_data"]["last_ai_message"] == "the answer"
    assert seconds[0] <= end["completion_data"]["duration_seconds"] <= seconds[1]


@virtual
async def test_a_memory_that_fails_only_after_a_while_is_tried_again() -> None:
    policy = DispatchPolicy()
    states = SlowStates(policy.retry_for + 3.0)  # as a database does that does not answer
    states.broken, states.loses = Away(), True
    async with ByManager(states=states, policy=policy) as runs:
        back = asyncio.create_task(after(states.seconds + 1.0, states))
        result = await runs.run(remembers, thread_id="t")
        await back
    assert (result.status, result.error) == (RunStatus.success, None)


@virtual
async def test_a_memory_that_cannot_be_read_means_that_the_agent_was_not_called() -> None:
    seen = RecordingObserver()
    states = SlowStates()
    states.broken, states.loses = Away(), True
    called = []

    async def agent(input: Any, run: RunContext) -> None:
        called.append(run.run_id)

    async with ByManager(required(seen), states=states, policy=PATIENT) as runs:
        result = await runs.run(agent, thread_id="t")
    assert called == []
    assert told(seen.events) == FAILED
    assert end_of(seen.events).payload["error_type"] == "ThreadNotLoadedError"
    assert (result.error or "").startswith("The agent was not called, and what its thread 't' remembers could not be")


@virtual
async def test_a_question_that_is_not_remembered_is_said_to_be_so() -> None:
    states = SlowStates()
    states.broken = OSError("disk full")

    async def asks(input: Any, run: RunContext) -> None:
        run.interrupt("Shall I?")

    async with ByManager(states=states) as runs:
        run = await runs.manager.start(RunSpec(asks, thread_id="t", stream_mode=["values", "updates"]))
        said, result = [part async for part in run.stream()], await run.result()
    assert said == []  # nobody could answer the question
    assert result.error == "The agent waits for an answer, but its thread 't' does not remember it: disk full."


@pytest.mark.parametrize("seconds", [0.0, 15.0])
@virtual
async def test_a_rollback_is_tried_again_while_its_store_is_away(seconds: float) -> None:
    seen = RecordingObserver()

    class BackAgain(Scripted):
        async def rollback(self, run: RunContext) -> str | None:
            self.rolled_back += 1
            if self.rolled_back < 3:
                await asyncio.sleep(seconds)
                raise Away
            return "checkpoint-1"

    async with ByManager(required(seen), policy=PATIENT) as runs:
        run = await runs.start(BackAgain(seconds=5.0))
        await asyncio.sleep(6)
        await runs.manager.cancel(run.run_id, action="rollback", wait=True)
    assert end_of(seen.events).payload["pre_run_checkpoint_id"] == "checkpoint-1"


@virtual
async def test_a_cancel_while_the_memory_is_waited_for_ends_the_run_as_cancelled() -> None:
    seen = RecordingObserver()
    states = SlowStates()
    states.broken, states.loses = Away(), True
    async with ByManager(required(seen), states=states, policy=PATIENT) as runs:
        run = await runs.start(remembers, thread_id="t")
        await asyncio.sleep(2.5)
        states.broken = None
        await run.cancel()
        await run.ended()
    assert told(seen.events) == ["run_started", BUSY, "run_cancelled interrupt", "thread_status_updated idle"]
