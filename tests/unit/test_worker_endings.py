"""How a run ends when those that its worker asks about the end fail: the coordinator, and the agent."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, override

import pytest
from tests.contract.slow_ports import SlowCoordinator
from tests.contract.ways_to_run import (
    ByManager,
    ByRunAgent,
    StartedRun,
    Way,
    both_ways,
    end_of,
    required,
    told,
    virtual,
)
from unsayable import UnsayableError

from trackside.harness import (
    AgentResult,
    CallbackObserver,
    DispatchPolicy,
    ObserverBinding,
    RunContext,
    RunLifecycleEvent,
    RunResult,
    RunSpec,
    RunStatus,
)
from trackside.harness.errors import ThreadMemoryError
from trackside.harness.foreign.failures import text_of
from trackside.harness.memory import MemoryCoordinator, MemoryStream
from trackside.harness.ports import ThreadState
from trackside.harness.remembered import MemoryThreadStates
from trackside.testing import RecordingObserver, assert_run_order


class Slow:
    """An `Agent` that takes its time, and cannot say whether its thread waits for an answer."""

    name = "slow"

    def __init__(self, raises: BaseException) -> None:
        self.raises = raises
        self.began = asyncio.Event()

    async def human_messages(self, run: RunContext) -> tuple[()]:
        return ()

    async def run(self, run: RunContext) -> AgentResult:
        self.began.set()
        await asyncio.sleep(10.0)
        return AgentResult("done")

    async def rollback(self, run: RunContext) -> None: ...

    async def asks(self, run: RunContext) -> bool:
        raise self.raises


async def echo(input: Any) -> Any:
    return input


AT_WORST = [ConnectionError("database gone"), asyncio.CancelledError(), BaseExceptionGroup("two", [SystemExit(1)])]


@pytest.mark.parametrize("raises", AT_WORST, ids=repr)
@pytest.mark.parametrize("step", ["settle", "release"])
@virtual
async def test_a_coordinator_that_fails_at_the_end_takes_neither_the_end_nor_the_result_with_it(
    step: str, raises: BaseException
) -> None:
    seen = RecordingObserver()
    coordinator = SlowCoordinator()
    coordinator.broken[step] = raises
    async with ByManager(required(seen), coordinator=coordinator) as runs:
        result = await runs.run(echo)
    assert (result.status, result.error) == (RunStatus.success, None)
    assert_run_order(seen.events)
    assert end_of(seen.events).payload["status"] == "success"


@pytest.mark.parametrize(
    ("raises", "has_trace"), [(ThreadMemoryError(thread_id="t", why="the server is away"), False), (OSError("?"), True)]
)
@pytest.mark.parametrize("step", ["settle", "release"])
@virtual
async def test_the_log_shows_where_a_failure_at_the_end_came_from_unless_it_says_itself_what_it_is(
    step: str, raises: Exception, has_trace: bool, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = SlowCoordinator()
    coordinator.broken[step] = raises
    async with ByManager(required(RecordingObserver()), coordinator=coordinator) as runs:
        await runs.run(echo)
    (line,) = caplog.records
    assert str(raises).rstrip(".") in line.getMessage()
    assert bool(line.exc_info) == has_trace


@CallbackObserver
async def taking_out(event: RunLifecycleEvent) -> None:
    assert isinstance(event.payload, dict)
    for part in ("completion_data", "title", "status"):
        event.payload.pop(part, None)


IN_LINE = DispatchPolicy(buffer=False)


@pytest.mark.parametrize(
    "way",
    [
        partial(ByRunAgent, taking_out),
        partial(ByManager, taking_out, policy=IN_LINE),
        partial(ByManager, ObserverBinding(taking_out, required=True)),
    ],
    ids=["run_agent", "in line", "required"],
)
@virtual
async def test_an_observer_that_takes_parts_out_of_events_keeps_neither_result_nor_thread(way: Way) -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        run.set_title("A title")
        return input

    async with way() as runs:
        for words in ("one", "two"):
            result = await runs.run(agent, words, thread_id="t")
            assert (result.status, result.error, result.title) == (RunStatus.success, None, "A title")
            assert result.completion_data["message_count"] == 2


class EndsHeard(MemoryStream):
    """A stream that keeps what ends say, and then fails with `fails_with`."""

    def __init__(self, fails_with: BaseException | None = None) -> None:
        super().__init__()
        self.heard: list[Any] = []
        self.fails_with = fails_with

    @override
    def close(self, run_id: str, *, end: Mapping[str, Any] | None = None) -> None:
        self.heard.append(end)
        if self.fails_with is not None:
            raise self.fails_with


@virtual
async def test_a_stream_is_told_of_the_end_whatever_an_observer_takes_out_of_the_event() -> None:
    stream = EndsHeard()
    async with ByManager(taking_out, policy=IN_LINE, stream=stream) as runs:
        await runs.run(echo, "hello")
    (end,) = stream.heard
    assert end["status"] == "success"
    assert end["completion_data"]["message_count"] == 2


@pytest.mark.parametrize("raises", AT_WORST, ids=repr)
@virtual
async def test_a_stream_that_fails_with_anything_keeps_neither_result_nor_thread(raises: BaseException) -> None:
    stream = EndsHeard(raises)
    async with ByManager(stream=stream) as runs:
        for words in ("one", "two"):
            assert (await runs.run(echo, words, thread_id="t")).status is RunStatus.success


@pytest.mark.parametrize("raises", [*AT_WORST, UnsayableError()], ids=repr)
@virtual
async def test_a_coordinator_that_fails_to_claim_leaves_neither_caller_nor_follower_waiting(
    raises: BaseException,
) -> None:
    class Failing(MemoryCoordinator):
        immediate = False

        @override
        async def claim(self, run_id: str) -> Any:
            await asyncio.sleep(1)
            raise raises

    async with ByManager(coordinator=Failing()) as runs:
        run = await runs.manager.start(RunSpec(echo))
        assert [part async for part in run.stream()] == []
        result = await run.result()
    assert result.status is RunStatus.error
    assert result.error == f"it could not be executed: {text_of(raises)}"


@both_ways
@pytest.mark.parametrize("raises", AT_WORST, ids=repr)
@virtual
async def test_an_agent_that_cannot_say_whether_it_asks_has_its_cancelled_run_end(
    way: Way, raises: BaseException
) -> None:
    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        agent = Slow(raises)
        run = await runs.start(agent, thread_id="t")
        await agent.began.wait()
        await run.cancel()
        await run.ended()
        await runs.run(echo, thread_id="t")
    assert told(seen.events, run.run_id)[2] == f"run_cancelled {way.cancel_mode}"
    assert_run_order(seen.events)


@both_ways
@virtual
async def test_an_agent_that_never_says_whether_it_asks_has_its_cancelled_run_end(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    class Mute(Slow):
        @override
        async def asks(self, run: RunContext) -> bool:
            return await asyncio.Event().wait()

    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        agent = Mute(OSError())
        run = await runs.start(agent, thread_id="t")
        await agent.began.wait()
        await run.cancel()
        await asyncio.wait({run.waits}, timeout=60)
        assert told(seen.events, run.run_id)[2:] == [f"run_cancelled {way.cancel_mode}", "thread_status_updated idle"]
        assert (await runs.run(echo, thread_id="t")).status is RunStatus.success, "its thread is free"
    assert "it took longer than 30 s, and was left behind" in caplog.text
    assert_run_order(seen.events)


@both_ways
def test_a_ctrl_c_that_hits_whoever_is_asked_about_an_end_comes_after_the_end(way: Way) -> None:
    seen = RecordingObserver()
    started: list[StartedRun] = []

    async def story() -> None:
        agent = Slow(KeyboardInterrupt())
        run = await way(required(seen)).start(agent)
        started.append(run)
        await agent.began.wait()
        await run.cancel()
        await run.ended()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(story())
    started[0].waits.cancelled() or started[0].waits.exception()  # nobody else retrieves it
    assert told(seen.events)[2] == f"run_cancelled {way.cancel_mode}"
    assert_run_order(seen.events)


class Unfinished(Slow):
    """An `Agent` whose work comes to nothing, and which says what is complete of it, or fails to."""

    uses_thread_state = True

    def __init__(self, *, fails: BaseException | None = None, complete: BaseException | None = None) -> None:
        super().__init__(AssertionError("it says whether its thread waits"))
        self.fails = fails
        self.complete = complete

    @override
    async def run(self, run: RunContext) -> AgentResult:
        if self.fails is not None:
            raise self.fails
        return await super().run(run)

    @override
    async def asks(self, run: RunContext) -> bool:
        return False

    def partial(self, run: RunContext) -> Mapping[str, Any]:
        if self.complete is not None:
            raise self.complete
        return {"steps": 1}


class ForgetfulStates(MemoryThreadStates):
    """Threads remember nothing: the disk is full."""

    @override
    async def save(self, thread_id: str, state: ThreadState, *, run_id: str | None = None) -> None:
        raise OSError("the disk is full")


@both_ways
@pytest.mark.parametrize("raises", [ZeroDivisionError("nothing there"), asyncio.CancelledError()], ids=repr)
@virtual
async def test_an_agent_that_cannot_say_what_is_complete_hides_neither_its_failure_nor_how_it_was_stopped(
    way: Way, raises: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        failed = await runs.run(Unfinished(fails=PermissionError("nobody may"), complete=raises))
        late = await runs.run(Unfinished(complete=raises), timeout=1.0)
        agent = Unfinished(complete=raises)
        run = await runs.start(agent)
        await agent.began.wait()
        await run.cancel()
        await run.ended()
    assert (failed.status, failed.error) == (RunStatus.error, "nobody may")
    assert (late.status, late.error) == (RunStatus.timeout, "the run took longer than its timeout of 1 s")
    assert told(seen.events, run.run_id)[-2] == f"run_cancelled {way.cancel_mode}"
    assert f"run {failed.run_id} came to no result, and its thread does not remember" in caplog.text


@virtual
async def test_a_thread_that_does_not_remember_what_was_complete_does_not_hide_what_a_run_failed_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with ByManager(states=ForgetfulStates()) as runs:
        failed = await runs.run(Unfinished(fails=PermissionError("nobody may")))
        late = await runs.run(Unfinished(), timeout=1.0)
        agent = Unfinished()
        run = await runs.start(agent)
        await agent.began.wait()
        await run.cancel()
        stopped = await run.ended()
    assert (failed.status, failed.error) == (RunStatus.error, "nobody may")
    assert late.status is RunStatus.timeout
    assert "the disk is full" in caplog.text
    assert isinstance(stopped, RunResult)
    assert "the disk is full" in (stopped.error or ""), "it has no failure of its own that this could hide"
