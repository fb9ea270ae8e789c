"""Runs that fail or are cancelled, and when they have ended."""

import asyncio
import contextlib
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError, NodeTimeoutError
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy
from tests.contract.ways_to_run import ByManager, virtual
from tests.integration.langgraph.conftest import Stage
from tests.integration.langgraph.waiting_graphs import (
    State,
    cancelled,
    graph_of,
    in_parallel,
    say_waiting,
    step,
    wait,
    waiting,
)

from trackside import RunManager, RunSpec, RunStatus, current_run, run_agent
from trackside.harness.adapters.langgraph import LangGraphAgent
from trackside.testing import RecordingObserver, assert_run_order


class Broken(Exception):
    pass


async def test_what_a_node_raises_comes_out_as_it_is(stage: Any, run_context: Any) -> None:
    error = Broken("at the third tooth")

    async def fail(state: State) -> State:
        raise error

    graph = graph_of(step, fail)
    with pytest.raises(Broken) as caught:
        await LangGraphAgent(graph).run(run_context({"notes": []}))
    assert caught.value is error
    outcome = await stage.play(graph, {"notes": []})
    assert outcome.status is RunStatus.error
    assert (outcome.end["error_type"], outcome.end["error"]) == ("Broken", "at the third tooth")
    assert outcome.values == {"notes": ["step"]}


async def test_too_many_steps_are_a_recursion_error(stage: Any, run_context: Any) -> None:
    builder = StateGraph(State).add_node("step", step).add_edge(START, "step").add_edge("step", "step")
    graph = builder.compile()
    with pytest.raises(GraphRecursionError):
        await LangGraphAgent(graph).run(run_context({"notes": []}, config={"recursion_limit": 3}))
    outcome = await stage.play(graph, {"notes": []}, config={"recursion_limit": 3})
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "GraphRecursionError"


def test_a_node_that_leaves_the_process_leaves_its_run_ended() -> None:
    async def leave(state: State) -> State:
        raise SystemExit(3)

    recorder = RecordingObserver()
    with pytest.raises(SystemExit):  # asyncio lets it through every task that LangGraph makes
        asyncio.run(run_agent(graph_of(leave), {"notes": []}, observer=recorder))
    assert_run_order(recorder.events)


async def test_a_cancelled_error_of_a_node_is_a_failure_and_not_a_cancel(stage: Any) -> None:
    async def fail(state: State) -> State:
        raise asyncio.CancelledError

    outcome = await stage.play(graph_of(fail), {"notes": []})
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "NodeCancelledError"


@virtual
async def test_a_timeout_stops_the_graph() -> None:
    recorder = RecordingObserver()
    async with RunManager(observers=[recorder]) as manager:
        outcome = await Stage(manager, recorder).play(graph_of(step, wait), {"notes": []}, timeout=0.05)
    assert outcome.status is RunStatus.timeout
    assert outcome.values == {"notes": ["step"]}


class Cleaning:
    """A node that waits, and once cancelled has something left to do before it ends."""

    def __init__(self) -> None:
        self.cancels = 0
        self.may_end = asyncio.Event()
        self.cleaning = asyncio.Event()
        self.ended = False

    async def node(self, state: State) -> State:
        say_waiting()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancels += 1
            self.cleaning.set()
            await self.may_end.wait()
            self.ended = True
        return {}


def settle_in_parallel(node: Any, *, parallel: bool, **compiled: Any) -> Any:
    node.__func__.__name__ = "node"
    return in_parallel(node, step, **compiled) if parallel else graph_of(node, **compiled)


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_cancel_waits_until_the_nodes_have_cleaned_up(stage: Any, parallel: bool) -> None:
    cleaning = Cleaning()
    handle = await stage.start(
        settle_in_parallel(cleaning.node, parallel=parallel), {"notes": []}, stream_mode="custom"
    )
    await waiting(handle)
    before = asyncio.all_tasks()
    await handle.cancel()
    await cleaning.cleaning.wait()
    record = await stage.manager.get(handle.run_id)
    assert record.status is RunStatus.running
    cleaning.may_end.set()
    outcome = await stage.outcome(handle)
    assert outcome.status is RunStatus.cancelled
    assert cleaning.ended
    assert not [task for task in asyncio.all_tasks() & before if "trackside-graph" in task.get_name()]


def timed(node: Any, timeout: float, **options: Any) -> Any:
    return StateGraph(State).add_node("node", node, timeout=timeout, **options).add_edge(START, "node").compile()


async def test_a_cancel_waits_for_a_node_with_a_timeout(stage: Any) -> None:
    cleaning = Cleaning()
    handle = await stage.start(timed(cleaning.node, 60), {"notes": []}, stream_mode="custom")
    await waiting(handle)
    await handle.cancel()
    await cleaning.cleaning.wait()
    assert await goes_on(handle)
    cleaning.may_end.set()
    assert (await stage.outcome(handle)).status is RunStatus.cancelled
    assert cleaning.ended


@pytest.mark.parametrize("tried_again", [False, True])
@virtual
async def test_a_run_waits_for_a_node_that_took_too_long(tried_again: bool) -> None:
    cleaning = Cleaning()

    async def node(state: State) -> State:
        return {} if cleaning.cleaning.is_set() else await cleaning.node(state)

    policy = RetryPolicy(initial_interval=0.01, jitter=False, retry_on=NodeTimeoutError)
    graph = timed(node, 0.1, retry_policy=policy if tried_again else None)
    recorder = RecordingObserver()
    async with RunManager(observers=[recorder]) as manager:
        stage = Stage(manager, recorder)
        handle = await stage.start(graph, {"notes": []})
        await cleaning.cleaning.wait()
        assert await goes_on(handle)
        cleaning.may_end.set()
        assert (await stage.outcome(handle)).status is (RunStatus.success if tried_again else RunStatus.error)
    assert cleaning.ended


class SlowSaver(InMemorySaver):
    """Takes its time over writing a checkpoint, or over noting that a node was cancelled."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        self._slow = slow
        self.writing = asyncio.Event()
        self.may_write = asyncio.Event()

    async def _take_time(self) -> None:
        self.writing.set()
        await self.may_write.wait()

    async def aput(self, *args: Any, **kwargs: Any) -> Any:
        if self._slow == "checkpoint":
            await self._take_time()
        return await super().aput(*args, **kwargs)

    async def aput_writes(self, config: Any, writes: Any, *args: Any, **kwargs: Any) -> None:
        if self._slow == "cancelled node" and any(isinstance(value, asyncio.CancelledError) for _, value in writes):
            await self._take_time()
        await super().aput_writes(config, writes, *args, **kwargs)


async def goes_on(handle: Any) -> bool:
    """Whether the run is still going after the loop has had nothing else to do for a while."""
    result = asyncio.ensure_future(handle.result())
    done, _ = await asyncio.wait({result}, timeout=0.05)
    result.cancel()
    return not done


async def test_a_second_cancel_does_not_break_off_the_writing_of_checkpoints(stage: Any) -> None:
    saver = SlowSaver("checkpoint")
    graph = in_parallel(wait, step, checkpointer=saver)
    handle = await stage.start(graph, {"notes": ["given"]}, thread_id="t", stream_mode="custom")
    await waiting(handle)
    await saver.writing.wait()
    for _ in range(3):
        await handle.cancel()
        assert await goes_on(handle)
    saver.may_write.set()
    assert (await stage.outcome(handle)).status is RunStatus.cancelled
    assert (await graph.aget_state({"configurable": {"thread_id": "t"}})).values == {"notes": ["given", "step"]}


@pytest.mark.parametrize("modes", [["custom"], ["custom", "events"]], ids=str)
async def test_a_node_that_will_not_stop_is_waited_for_however_often_it_is_cancelled(stage: Any, modes: Any) -> None:
    may_end = asyncio.Event()

    async def stubborn(state: State) -> State:
        say_waiting()
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()
        return {}

    handle = await stage.start(in_parallel(stubborn, step), {"notes": []}, stream_mode=modes)
    await waiting(handle)
    for _ in range(3):
        await handle.cancel()
        assert await goes_on(handle)
    may_end.set()
    assert (await stage.outcome(handle)).status is RunStatus.cancelled


@pytest.mark.parametrize("config", [{}, {"max_concurrency": 4}], ids=str)
@pytest.mark.parametrize("fails", [False, True])
async def test_a_run_ends_after_the_last_write_of_its_checkpointer(stage: Any, config: Any, fails: bool) -> None:
    may_fail = asyncio.Event()

    async def fail(state: State) -> State:
        await may_fail.wait()
        raise Broken("beside a node that waits")

    saver = SlowSaver("cancelled node")
    graph = in_parallel(wait, fail, checkpointer=saver)
    handle = await stage.start(graph, {"notes": []}, thread_id="t", stream_mode="custom", config=config)
    await waiting(handle)
    if fails:
        may_fail.set()
    else:
        await handle.cancel()
    await saver.writing.wait()
    assert await goes_on(handle)
    saver.may_write.set()
    outcome = await stage.outcome(handle)
    assert outcome.status is (RunStatus.error if fails else RunStatus.cancelled)


async def test_a_node_that_swallows_the_cancel_ends_the_run_with_its_step(stage: Any) -> None:
    went_on = []

    async def swallow(state: State) -> State:
        say_waiting()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {"notes": ["swallowed"]}

    async def next_step(state: State) -> State:
        went_on.append("next")
        return {}

    outcome = await cancelled(stage, graph_of(swallow, next_step), {"notes": []})
    assert outcome.status is RunStatus.cancelled
    assert went_on == []


@pytest.mark.parametrize("modes", [["custom"], ["custom", "events"]], ids=str)
@pytest.mark.parametrize("config", [{}, {"max_concurrency": 4}], ids=str)
async def test_a_node_that_swallows_one_cancel_gets_the_next(stage: Any, config: Any, modes: Any) -> None:
    async def stubborn(state: State) -> State:
        say_waiting()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            run = current_run()
            assert run is not None
            run.send("still here")
            await asyncio.Event().wait()
        return {}

    handle = await stage.start(graph_of(stubborn), {"notes": []}, stream_mode=modes, config=config)
    async for part in handle.stream(modes=["custom"]):
        assert part.data in {"waiting", "still here"}
        await handle.cancel()
    assert (await stage.outcome(handle)).status is RunStatus.cancelled


async def test_nothing_of_the_graph_runs_on_after_a_cancel(stage: Any, saver: Any) -> None:
    async def slow(state: State) -> State:
        await asyncio.Event().wait()
        return {}

    graph = in_parallel(wait, slow, step, checkpointer=saver)
    before = asyncio.all_tasks()
    outcome = await cancelled(stage, graph, {"notes": []}, thread_id="t", stream_mode=["custom", "messages"])
    assert outcome.status is RunStatus.cancelled
    left = [task for task in asyncio.all_tasks() - before if "langgraph" in repr(task)]
    assert left == []


@virtual
async def test_a_cancelled_run_does_not_wait_for_a_run_that_a_node_has_started() -> None:
    reached, may_end = asyncio.Event(), asyncio.Event()

    async def reach(state: State) -> State:
        reached.set()
        await may_end.wait()
        return {"notes": ["reached"]}

    async def plain(input: Any) -> Any:
        return await in_parallel(reach, step).ainvoke({"notes": []})

    async with ByManager() as runs:

        async def start(state: State) -> State:
            await (await runs.manager.start(RunSpec(plain, run_id="below"))).result()
            return {}

        await runs.start(graph_of(start), {"notes": []}, run_id="above")
        await reached.wait()
        await runs.manager.cancel("above", wait=True)
        assert (await runs.manager.get("below")).status is RunStatus.running
        may_end.set()
        assert (await runs.manager.result("below")).output == {"notes": ["reached", "step"]}


async def test_a_cancelled_run_keeps_what_was_done_and_the_thread_goes_on(stage: Any, saver: Any) -> None:
    graph = graph_of(step, wait, checkpointer=saver)
    outcome = await cancelled(stage, graph, {"notes": ["first"]}, thread_id="t", stream_mode=["values", "custom"])
    assert outcome.values == {"notes": ["first", "step"]}
    state = await graph.aget_state({"configurable": {"thread_id": "t"}})
    assert state.values == {"notes": ["first", "step"]}
    assert state.next == ("wait",)
