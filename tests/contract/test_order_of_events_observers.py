"""The order of events when an observer fails, hangs or tries to take the process with it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from tests.contract.ways_to_run import (
    ByManager,
    ByRunAgent,
    Gate,
    Way,
    both_ways,
    end_of,
    required,
    short_of,
    told,
    virtual,
)

from trackside.harness import (
    CallbackObserver,
    CompositeObserver,
    DispatchPolicy,
    LifecycleEventType,
    ObserverBinding,
    RunContext,
    RunLifecycleEvent,
    RunResult,
    RunStatus,
    run_agent,
)
from trackside.harness.errors import ObserverExitError
from trackside.harness.observing.bounding import IN_LINE
from trackside.testing import (
    Misbehaviour,
    RecordingBatchObserver,
    RecordingObserver,
    assert_run_order,
    run_virtual,
)

STARTED = LifecycleEventType.RUN_STARTED
COMPLETED = LifecycleEventType.RUN_COMPLETED
BINDINGS = [RecordingObserver, RecordingBatchObserver]
LIMIT = 5.0


class StoreDownError(Exception):
    """What a required observer raises in this module."""


def thread_becomes(status: str) -> Callable[[RunLifecycleEvent], bool]:
    return lambda event: event.event_type == "thread_status_updated" and event.payload["status"] == status


def says(text: str) -> Callable[[RunLifecycleEvent], bool]:
    return lambda event: event.event_type == "human_message" and event.payload["message"]["content"] == text


# Where the observer fails, and how the run ends otherwise.
PLACES = {
    "run_started": (STARTED, "success"),
    "busy": (thread_becomes("busy"), "success"),
    "human_message": (says("hello"), "success"),
    "human_message later": (says("and this"), "success"),
    "run_completed": (COMPLETED, "success"),
    "run_failed": (LifecycleEventType.RUN_FAILED, "error"),
    "run_cancelled": (LifecycleEventType.RUN_CANCELLED, "cancelled"),
    "idle": (thread_becomes("idle"), "success"),
}
BEFORE_THE_AGENT = {"run_started", "busy", "human_message"}
BEFORE_THE_END = {*BEFORE_THE_AGENT, "human_message later"}


class Agent:
    """Says one more thing, then ends as it is told."""

    name = "agent"

    def __init__(self, ends: str) -> None:
        self._ends = ends
        self.called = asyncio.Event()

    async def __call__(self, input: str, run: RunContext) -> str:
        run.message({"type": "human", "content": "and this"})
        self.called.set()
        if self._ends == "error":
            raise ValueError
        await asyncio.sleep(3_600 if self._ends == "cancelled" else 10)
        return "done"


async def run_past(
    way: Way, agent: Agent, *observers: RecordingObserver, retry_for: float = 0.0
) -> RunResult | BaseException:
    async with way(*map(required, observers), policy=DispatchPolicy(retry_for=retry_for)) as runs:
        run = await runs.start(agent, "hello")
        if agent._ends == "cancelled":
            await agent.called.wait()
            await asyncio.sleep(1)
            await run.cancel()
        return await run.ended()


@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize("place", PLACES)
@virtual
async def test_a_required_observer_that_recovers_inside_the_deadline_costs_nothing_but_time(
    place: str, kind: type[RecordingObserver]
) -> None:
    on, ends = PLACES[place]
    failing = kind(Misbehaviour(how=StoreDownError(), on=on, times=3))
    before, after = RecordingObserver(), RecordingObserver()
    result = await run_past(ByManager, Agent(ends), before, failing, after, retry_for=1.0)

    assert isinstance(result, RunResult)
    assert result.status == ends
    assert_run_order(before.events)
    assert before.events == failing.events == after.events
    assert len(failing.offered) > len(failing.events)


@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize("place", PLACES)
@virtual
async def test_a_required_observer_without_retries_gets_what_it_missed_before_the_next_event(
    place: str, kind: type[RecordingObserver]
) -> None:
    on, ends = PLACES[place]
    failing = kind(Misbehaviour(how=StoreDownError(), on=on, times=1))
    before = RecordingObserver()
    ended = await run_past(ByRunAgent, Agent(ends), before, failing)

    assert isinstance(ended, asyncio.CancelledError if ends == "cancelled" else StoreDownError)
    assert_run_order(before.events)
    if place in BEFORE_THE_END:
        assert failing.events == before.events
    else:
        assert failing.events == [e for e in before.events if e.sequence <= len(failing.events)]


@both_ways
@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize("place", PLACES)
@virtual
async def test_a_required_observer_that_always_fails_on_an_event(
    way: Way, place: str, kind: type[RecordingObserver]
) -> None:
    on, ends = PLACES[place]
    failing = kind(Misbehaviour(how=StoreDownError("disk full"), on=on))
    before, after, agent = RecordingObserver(), RecordingObserver(), Agent(ends)
    ended = await run_past(way, agent, before, failing, after)

    # Observers bound before it have the whole run: one end, which is what really happened.
    assert_run_order(before.events)
    end = end_of(before.events)
    if place in BEFORE_THE_END:
        assert told([end]) == ["run_failed error"]
        assert end.payload["error"] == "a required observer failed: disk full"
        assert end.payload["error_type"] == "StoreDownError"
    else:
        assert end.event_type is PLACES[place][0] or end.event_type is COMPLETED
    assert agent.called.is_set() == (place not in BEFORE_THE_AGENT), "I14: not taken, so the agent is never called"

    # It sees the events in order, each once, and no observer behind it sees any that it did not take.
    assert [e.sequence for e in failing.events] == sorted({e.sequence for e in failing.events})
    assert not any(failing._plan[0].means(event) for event in failing.events)
    assert set(map(id, after.events)) <= set(map(id, failing.events))
    assert [e.sequence for e in after.events] == sorted({e.sequence for e in after.events})

    took_the_end = end in failing.events
    if way is ByRunAgent:
        assert isinstance(ended, asyncio.CancelledError if ends == "cancelled" else StoreDownError)
    elif took_the_end:
        assert isinstance(ended, RunResult)
        assert told([end])[0].endswith(ended.status)
    else:
        assert isinstance(ended, RunResult)
        assert ended.status is RunStatus.error
        assert "a required observer did not take that: disk full" in (ended.error or "")
    if kind is RecordingObserver and place in BEFORE_THE_END:
        assert took_the_end, "an observer that takes events one by one misses only what it refuses"


@virtual
async def test_what_never_reached_a_required_observer_is_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    failing = RecordingObserver(Misbehaviour(how=StoreDownError(), on=COMPLETED))
    with caplog.at_level(logging.ERROR, "trackside.dispatch"):
        await run_past(ByManager, Agent("success"), failing)
    (record,) = caplog.records
    assert record.getMessage().endswith("the required observer RecordingObserver never took: run_completed (5)")


@virtual
async def test_an_error_that_cannot_be_retried_is_not_retried() -> None:
    class RefusedError(Exception):
        retryable = False

    failing = RecordingObserver(Misbehaviour(how=RefusedError(), on=STARTED))
    result = await run_past(ByManager, Agent("success"), failing, retry_for=100.0)
    assert isinstance(result, RunResult)
    assert result.status is RunStatus.error
    assert [e.sequence for e in failing.offered] == [1, 1, 2, 3, 4, 5]  # once, and once more before the end


@virtual
async def test_an_event_that_is_refused_again_is_not_offered_behind_later_ones() -> None:
    refusing = RecordingObserver(Misbehaviour(how=StoreDownError(), on=lambda e: e.sequence == 1, times=2))
    gate = Gate(LifecycleEventType.RUN_FAILED)
    async with ByManager(required(refusing), required(gate)) as runs:
        first = await runs.start(Agent("success"), "hello", thread_id="t", run_id="first")
        second = await runs.start(Agent("success"), "hello", thread_id="t", run_id="second")
        # Another run waits when the first one settles, so the thread's status has a later dispatch of its own.
        await gate.reached.wait()
        await second.cancel()
        await second.ended()
        gate.opened.set()
        await first.ended()
    assert [e.sequence for e in refusing.offered if e.run_id == "first"] == [1, 1, 2, 3, 4, 5]
    assert [e.sequence for e in refusing.events if e.run_id == "first"] == [2, 3, 4, 5]


@both_ways
@virtual
async def test_the_warning_about_an_optional_observer_names_it_and_the_event(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    offered = []

    async def clumsy(event: RunLifecycleEvent) -> None:
        offered.append(event.sequence)
        raise ValueError(event.sequence)

    async with way(CallbackObserver(clumsy)) as runs:
        await runs.run(Agent("success"), "hello")
    assert offered == [1, 2, 3, 4, 5, 6], "an optional observer gets each event once"
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 6
    assert "clumsy failed on run_started of run" in caplog.records[0].getMessage()
    assert all(r.exc_info and isinstance(r.exc_info[1], ValueError) for r in caplog.records)


MISDEEDS: list[Any] = [
    pytest.param(StoreDownError(), id="Exception"),
    pytest.param(SystemExit(1), id="SystemExit"),
    pytest.param(asyncio.CancelledError(), id="I16-CancelledError"),
    pytest.param(GeneratorExit(), id="GeneratorExit"),
    pytest.param("hang", id="hang"),
    pytest.param("swallow", id="swallow"),
]


@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize("buffer", [False, True], ids=["in line", "buffered"])
@pytest.mark.parametrize("how", MISDEEDS)
@pytest.mark.parametrize("times", [1, None])
@virtual
async def test_an_optional_observer_can_do_nothing_to_a_run(
    how: Any, buffer: bool, times: int | None, kind: type[RecordingObserver]
) -> None:
    bad = kind(Misbehaviour(how=how, times=times))
    before, after = RecordingObserver(), RecordingObserver()
    policy = DispatchPolicy(call_limit=LIMIT, buffer=buffer)
    loop = asyncio.get_running_loop()
    async with ByManager(required(before), bad, required(after), policy=policy, shutdown_grace=100.0) as runs:
        result = await runs.run(Agent("success"), "hello")
        took = loop.time() - 10  # minus the agent's own time
        assert result.status is RunStatus.success
        assert_run_order(before.events)
        assert after.events == before.events
        if buffer:
            assert took <= 0.25, "I13"
        else:
            # Each event is offered at most once alone and once in a batch.
            assert took <= 2 * LIMIT * len(before.events), "I15"
    bad.release()
    await asyncio.sleep(0)
    first_offers = list(dict.fromkeys(e.sequence for e in bad.offered))
    # An observer that is stuck in several calls at once gets no more events.
    assert first_offers == [e.sequence for e in before.events][: len(first_offers)], "I12"
    assert len(first_offers) >= 4
    if how != "swallow":
        assert [e.sequence for e in bad.events] == sorted({e.sequence for e in bad.events})


@both_ways
@virtual
async def test_a_call_that_was_left_behind_gets_no_further_events(way: Way) -> None:
    """An observer without `on_events` gets a batch one by one, in one call: past the limit the call must not go on."""
    stuck = RecordingObserver(Misbehaviour(how="swallow", on=STARTED))
    seen = RecordingObserver()

    async def agent(input: str) -> str:
        stuck.release()
        await asyncio.sleep(1)
        return "done"

    async with way(stuck, required(seen), policy=IN_LINE) as runs:
        await runs.run(agent, "hello")
    assert told(seen.events)[-2:] == ["run_completed success", "thread_status_updated idle"]
    assert [e.sequence for e in stuck.offered] == [1, 2, 3, 4, 5]


@both_ways
@pytest.mark.parametrize("how", MISDEEDS)
@pytest.mark.parametrize("on", [STARTED, COMPLETED], ids=str)
@virtual
async def test_whatever_a_required_observer_does_the_run_ends_once(way: Way, how: Any, on: LifecycleEventType) -> None:
    bad, before = RecordingObserver(Misbehaviour(how=how, on=on)), RecordingObserver()
    async with way(required(before), required(bad), policy=DispatchPolicy(call_limit=LIMIT, retry_for=0.0)) as runs:
        ended: Any
        try:
            ended = await runs.run(Agent("success"), "hello")
        except BaseException as raised:
            ended = raised
    bad.release()
    assert_run_order(before.events)
    assert end_of(before.events).event_type is (COMPLETED if on is COMPLETED else LifecycleEventType.RUN_FAILED)
    if way is ByManager:
        assert isinstance(ended, RunResult)
        assert ended.status is RunStatus.error
    elif isinstance(how, StoreDownError | SystemExit):
        assert ended is how, "what a required observer raised reaches the caller as it is"
    else:
        assert isinstance(ended, Exception), "not something that looks like a cancel of the caller (I16)"


@virtual
async def test_a_generator_exit_of_a_required_observer_is_told_apart_from_the_callers_own() -> None:
    bad = RecordingObserver(Misbehaviour(how=GeneratorExit(), on=STARTED))
    with pytest.raises(ObserverExitError, match="RecordingObserver tried to end the process"):
        await run_agent(Agent("success"), observer=CompositeObserver([required(bad)]))


@both_ways
@pytest.mark.parametrize("is_required", [False, True])
def test_keyboard_interrupt_in_an_observer_is_raised_after_the_terminal_event(way: Way, is_required: bool) -> None:
    seen, bad = RecordingObserver(), RecordingObserver(Misbehaviour(how=KeyboardInterrupt(), on=STARTED, times=1))

    async def story() -> None:
        async with way(required(seen), ObserverBinding(bad, is_required), policy=IN_LINE) as runs:
            try:
                await runs.run(Agent("success"), "hello")
            finally:
                assert told(seen.events)[-2:] == ["run_failed error", "thread_status_updated error"]
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run_virtual(story())
    assert_run_order(seen.events)
    assert end_of(seen.events).payload["error"] == "Ctrl-C hit an observer"


@both_ways
@pytest.mark.parametrize("kind", BINDINGS)
@pytest.mark.parametrize("on", [STARTED, LifecycleEventType.HUMAN_MESSAGE])
def test_what_was_given_to_a_required_observer_that_ctrl_c_hits_is_given_to_it_again_before_the_end(
    way: Way, on: LifecycleEventType, kind: type[RecordingObserver]
) -> None:
    hit, after = kind(Misbehaviour(how=KeyboardInterrupt(), on=on, times=1)), RecordingObserver()

    async def story() -> None:
        async with way(required(hit), required(after)) as runs:
            await (await runs.start(Agent("success"), "hello")).ended()
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run_virtual(story())
    for observer in (hit, after):
        assert_run_order(observer.events)
        assert told(observer.events) == short_of(way, messages=1, ends="run_failed error", thread="error")


@both_ways
@pytest.mark.parametrize(
    ("on", "messages", "ends", "thread"),
    [(STARTED, 1, "run_failed error", "error"), (COMPLETED, 2, "run_completed success", "idle")],
    ids=["run_started", "run_completed"],
)
def test_those_behind_an_optional_observer_that_ctrl_c_hits_are_told_all_the_same(
    way: Way, on: LifecycleEventType, messages: int, ends: str, thread: str
) -> None:
    hit = RecordingObserver(Misbehaviour(how=KeyboardInterrupt(), on=on, times=1))
    log, last = RecordingObserver(), RecordingObserver()

    async def story() -> None:
        async with way(hit, required(log), last, policy=IN_LINE) as runs:
            await (await runs.start(Agent("success"), "hello")).ended()
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run_virtual(story())
    for observer in (log, last):
        assert_run_order(observer.events)
        assert told(observer.events) == short_of(way, messages=messages, ends=ends, thread=thread)


@both_ways
@virtual
async def test_a_run_that_never_starts_because_of_a_required_observer_still_ends_for_those_before_it(way: Way) -> None:
    before = RecordingObserver()
    dead = RecordingObserver(Misbehaviour(how=StoreDownError()))
    after = RecordingObserver()
    async with way(required(before), required(dead), required(after)) as runs:
        run = await runs.start(Agent("success"), "hello")
        ended = await run.ended()
    assert told(before.events) == [
        "run_started",
        "thread_status_updated busy",
        "human_message",
        "run_failed error",
        "thread_status_updated error",
    ]
    assert dead.events == after.events == []
    assert isinstance(ended, StoreDownError) or ended.status is RunStatus.error
