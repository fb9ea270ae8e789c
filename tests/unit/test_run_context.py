"""What an agent, its tools and its observers see of their run, and that nobody sees another's (I21)."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
from tests.contract.ways_to_run import ByManager, Gate, Way, both_ways, required, virtual

from trackside.harness import (
    DispatchPolicy,
    LifecycleEventType,
    RunContext,
    RunLifecycleEvent,
    RunManager,
    RunSpec,
    RunStatus,
    current_run,
)
from trackside.harness.observing.bounding import IN_LINE

caller: ContextVar[str] = ContextVar("caller", default="nobody")


def current_id() -> str | None:
    run = current_run()
    return None if run is None else run.run_id


class Watching:
    """Records for each event whether the current run was the event's."""

    def __init__(self) -> None:
        self.saw: list[tuple[str, str | None]] = []
        self.callers: dict[str, set[str]] = {}

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await asyncio.sleep(0)
        self.saw.append((event.run_id, current_id()))
        self.callers.setdefault(event.run_id, set()).add(caller.get())

    def check(self) -> None:
        assert self.saw
        assert [event for event, run in self.saw if event != run] == []


class WatchingBatches(Watching):
    """The same for batches; a batch of several runs belongs to none."""

    async def on_events(self, events: list[RunLifecycleEvent]) -> None:
        ids = {event.run_id for event in events}
        for event in events:
            expected = event.run_id if len(ids) == 1 else None
            self.saw.append((event.run_id, event.run_id if current_id() == expected else current_id()))


OBSERVERS = [
    pytest.param(DispatchPolicy(), id="buffered"),
    pytest.param(IN_LINE, id="in line"),
]


@both_ways
@pytest.mark.parametrize("policy", OBSERVERS)
@pytest.mark.parametrize("kind", [Watching, WatchingBatches])
@virtual
async def test_observers_see_the_run_of_their_event(way: Way, policy: DispatchPolicy, kind: type[Watching]) -> None:
    optional, needed = kind(), kind()

    async def agent(input: str, run: RunContext) -> str:
        run.message({"type": "human", "content": "more"})
        await asyncio.sleep(1)
        return input

    async with way(optional, required(needed), policy=policy) as runs:
        started = [await runs.start(agent, "hello", run_id=f"run-{i}") for i in range(5)]
        started += [await runs.start(agent, "hello", run_id=f"shared-{i}", thread_id="shared") for i in range(3)]
        for run in started:
            await run.ended()
    optional.check()
    needed.check()
    assert current_run() is None


@both_ways
@virtual
async def test_agent_and_tools_see_the_run(way: Way) -> None:
    async def tool() -> str | None:
        await asyncio.sleep(0)
        return current_id()

    async def agent(input: Any, run: RunContext) -> None:
        assert current_run() is run
        assert await asyncio.gather(tool(), asyncio.create_task(tool()), asyncio.to_thread(current_id)) == [
            run.run_id,
            run.run_id,
            run.run_id,
        ]

    async with way() as runs:
        results = await asyncio.gather(*(runs.run(agent) for _ in range(3)))
    assert [r.error for r in results] == [None] * 3


@both_ways
async def test_plain_functions_and_generators_see_the_run_and_the_callers_context(way: Way) -> None:
    seen: list[Any] = []

    def in_thread(input: Any) -> None:
        seen.append((current_id(), caller.get(), threading.current_thread() is threading.main_thread()))
        caller.set("the agent")

    async def generator(input: Any) -> AsyncIterator[Any]:
        seen.append((current_id(), caller.get(), True))
        yield 1

    caller.set("ada")
    async with way() as runs:
        one = await runs.run(in_thread)
        two = await runs.run(generator)
    assert seen == [(one.run_id, "ada", False), (two.run_id, "ada", True)]
    assert caller.get() == "ada", "what an agent sets is its own"


@both_ways
@virtual
async def test_a_run_that_waited_keeps_its_starters_context(way: Way) -> None:
    """It does not get the context of the run that made room for it."""
    seen: dict[str, str] = {}

    async def agent(input: Any, run: RunContext) -> None:
        seen[run.run_id] = caller.get()
        caller.set(f"agent of {run.run_id}")
        await asyncio.sleep(1)

    async def start(runs: Any, run_id: str) -> Any:
        caller.set(f"caller of {run_id}")
        return await runs.start(agent, run_id=run_id, thread_id="t")

    async with way() as runs:
        started = [await asyncio.create_task(start(runs, run_id)) for run_id in ("a", "b", "c")]
        for run in started:
            await run.ended()
    assert seen == {run_id: f"caller of {run_id}" for run_id in ("a", "b", "c")}


@virtual
async def test_a_run_that_waited_for_a_place_keeps_its_starters_context() -> None:
    seen: dict[str, tuple[str, int]] = {}

    async def agent(input: Any, run: RunContext) -> None:
        seen[run.run_id] = (caller.get(), run.depth)
        await asyncio.sleep(1)

    async with RunManager(max_running=1) as manager:
        for run_id in ("a", "b", "c"):
            caller.set(run_id)
            await manager.start(RunSpec(agent, run_id=run_id))
    assert seen == {run_id: (run_id, 0) for run_id in ("a", "b", "c")}


@pytest.mark.parametrize("how", ["cancelled by a run", "displaced by a run", "closed by a run"])
@virtual
async def test_observers_of_a_run_that_never_started_see_it_and_not_who_ended_it(how: str) -> None:
    watching = Watching()
    go_on = asyncio.Event()

    async def waits(input: Any) -> None:
        await go_on.wait()

    async def meddles(input: Any) -> None:
        if how == "cancelled by a run":
            await manager.cancel("pending")
        elif how == "displaced by a run":
            await manager.start(RunSpec(waits, thread_id="t", run_id="next", multitask="interrupt"))
        else:
            asyncio.create_task(manager.aclose(grace=0))  # noqa: RUF006  # the manager keeps the closing itself

    async with RunManager(observers=[required(watching)]) as manager:
        await manager.start(RunSpec(waits, thread_id="t", run_id="active"))
        await manager.start(RunSpec(waits, thread_id="t", run_id="pending"))
        await (await manager.start(RunSpec(meddles, run_id="meddler"))).result()
        go_on.set()
        assert (await manager.get("pending")).status is RunStatus.cancelled
    watching.check()
    assert ("pending", "pending") in watching.saw


@virtual
async def test_nested_runs_see_themselves_and_give_the_current_run_back() -> None:
    watching = Watching()

    async def inner(input: Any) -> str | None:
        return current_id()

    async def outer(input: Any, run: RunContext) -> None:
        before = current_id()
        result = await (await manager.start(RunSpec(inner, run_id="inner"))).result()
        assert result.status is RunStatus.success
        assert current_id() == before == run.run_id

    async with RunManager(observers=[required(watching)]) as manager:
        assert (await (await manager.start(RunSpec(outer, run_id="outer"))).result()).error is None
    watching.check()


@virtual
async def test_an_observer_that_is_slow_sees_its_own_run_long_after_others_have_passed() -> None:
    gate, watching = Gate(LifecycleEventType.RUN_STARTED), Watching()

    class Slow(Watching):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            await gate.opened.wait()
            await super().on_event(event)

    slow = Slow()

    async def agent(input: Any) -> None: ...

    async with ByManager(slow, watching) as runs:
        for _ in range(3):
            await runs.run(agent, "hello")
        gate.opened.set()
    slow.check()
    watching.check()


async def capture(spec: RunSpec, **options: Any) -> RunContext:
    """The context that an agent gets for this spec."""
    kept: list[RunContext] = []

    async def agent(input: Any, run: RunContext) -> None:
        kept.append(run)

    async with RunManager({"agent": agent}, **options) as manager:
        result = await (await manager.start(spec)).result()
    assert result.error is None
    return kept[0]


@virtual
async def test_the_context_shows_what_was_asked_for() -> None:
    checkpointer = object()  # whatever an agent's framework accepts as one
    run = await capture(
        RunSpec(
            "agent",
            {"q": 1},
            thread_id="t",
            run_id="r",
            metadata={"team": "blue"},
            config={"recursion_limit": 5},
            context={"user": "ada"},
            stream_mode="custom",
            stream_subgraphs=True,
            interrupt_before=["tools"],
            interrupt_after="*",
        ),
        checkpointer=checkpointer,
    )
    assert (run.run_id, run.thread_id, run.agent) == ("r", "t", "agent")
    assert (run.input, run.metadata, run.config, run.context) == (
        {"q": 1},
        {"team": "blue"},
        {"recursion_limit": 5},
        {"user": "ada"},
    )
    assert (run.stream_modes, run.stream_subgraphs) == (frozenset({"custom"}), True)
    assert (run.interrupt_before, run.interrupt_after) == (["tools"], "*")
    assert run.checkpointer is checkpointer
    assert (run.values, run.resume, run.resuming, run.cancelled, run.depth) == ({}, None, False, False, 0)


@virtual
async def test_without_anything_asked_for_there_are_empty_values() -> None:
    run = await capture(RunSpec("agent"))
    assert (run.input, run.metadata, run.config, run.context, run.command) == (None, {}, {}, None, {})
    assert run.stream_modes == {"values"}


@both_ways
@virtual
async def test_cancelled_says_that_the_run_was_asked_to_stop(way: Way) -> None:
    said: list[bool] = []

    async def agent(input: Any, run: RunContext) -> None:
        said.append(run.cancelled)
        try:
            await asyncio.sleep(100)
        finally:
            said.append(run.cancelled)

    async with way() as runs:
        run = await runs.start(agent)
        await asyncio.sleep(1)
        await run.cancel()
        await run.ended()
    assert said == [False, True]


@both_ways
@pytest.mark.parametrize(
    ("say", "why"),
    [
        (lambda run: run.set_title(None), "title = None cannot be reported of a run: a title is a text."),
        (lambda run: run.set_title(7), "title = 7 cannot be reported of a run: a title is a text."),
        (
            lambda run: run.record_usage("m", input_tokens=1, output_tokens=1, answered=None),
            "answered = None is not the usage of a model: it is True, or False for a call that failed.",
        ),
        (
            lambda run: run.record_usage("m", input_tokens=1, output_tokens=1, call="search"),
            "call = 'search' does not describe a call: it is what `run.call` gives.",
        ),
        (
            lambda run: run.record_model_failure("overloaded"),
            "error = 'overloaded' cannot be reported of a run: it is the exception that the call failed with.",
        ),
        (lambda run: run.send("x", None), 'mode = None cannot be reported of a run: a mode is a text, as "custom".'),
        (
            lambda run: run.send("x", namespace="inner"),
            "namespace = 'inner' cannot be reported of a run: it is a sequence of the names of sub-graphs, outermost first.",
        ),
        (
            lambda run: run.send("x", namespace=None),
            "namespace = None cannot be reported of a run: it is a sequence of the names of sub-graphs, outermost first.",
        ),
        (
            lambda run: run.send("x", namespace=[1]),
            "namespace = [1] cannot be reported of a run: it is a sequence of the names of sub-graphs, outermost first.",
        ),
    ],
)
@virtual
async def test_what_an_agent_cannot_say_of_its_run_is_its_error_that_says_why(way: Way, say: Any, why: str) -> None:
    async def agent(input: Any, run: RunContext) -> None:
        say(run)

    async with way() as runs:
        result = await runs.run(agent)

    assert (result.status, result.error, result.title) == (RunStatus.error, why, None)
    assert result.completion_data["llm_call_count"] == 0


@both_ways
@pytest.mark.parametrize(
    ("tokens", "cost"), [({"input_tokens": -1}, None), ({"output_tokens": 1.5}, None), ({}, -0.1), ({}, float("nan"))]
)
@virtual
async def test_usage_that_cannot_be_is_the_agents_error(way: Way, tokens: dict[str, Any], cost: float | None) -> None:
    async def agent(input: Any, run: RunContext) -> None:
        run.record_usage("model", **{"input_tokens": 1, "output_tokens": 1} | tokens, cost_usd=cost)

    async with way() as runs:
        result = await runs.run(agent)
    assert result.status is RunStatus.error
    assert "tokens" in (result.error or "") or "cost_usd" in (result.error or "")
