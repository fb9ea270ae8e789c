"""`run_agent`: one run in a script, and what its runs share."""

import asyncio
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.contract.ways_to_run import Gate, end_of, required, told, virtual

from trackside import RunManager, RunSpec, RunStatus, run_agent
from trackside.harness import (
    CompositeObserver,
    DuplicateRunError,
    InvalidSpecError,
    LifecycleEventType,
    NotAnObserverError,
    RunContext,
    RunLifecycleEvent,
    RunResult,
    ThreadBusyError,
)
from trackside.harness import embedded as embedded_module
from trackside.harness.ids import new_id
from trackside.harness.memory import KEEP_ENDED_RUNS
from trackside.testing import Misbehaviour, RecordingObserver, assert_run_order, run_virtual


async def echo(input: Any) -> Any:
    return input


def test_the_example_of_the_readme() -> None:
    lines: list[tuple[int, str]] = []

    async def agent(input: Any, run: RunContext) -> dict[str, int]:
        run.record_usage("gpt-5-mini", input_tokens=12, output_tokens=40)
        return {"answer": 42}

    async def watch(event: RunLifecycleEvent) -> None:
        lines.append((event.sequence, event.event_type))

    result = asyncio.run(run_agent(agent, {"question": "?"}, observer=watch))
    assert result.status is RunStatus.success
    assert result.completion_data["total_tokens"] == 52
    assert lines == [
        (1, "run_started"),
        (2, "thread_status_updated"),
        (3, "run_completed"),
        (4, "thread_status_updated"),
    ]


@virtual
async def test_without_an_observer_nobody_is_told() -> None:
    assert (await run_agent(echo, "x")).status is RunStatus.success


@virtual
async def test_the_observer_has_seen_everything_when_it_returns() -> None:
    seen = RecordingObserver()
    await run_agent(echo, "x", observer=seen)
    assert told(seen.events)[-1] == "thread_status_updated idle"


@virtual
async def test_a_failing_agent_gives_a_result_and_no_exception() -> None:
    async def agent(input: Any) -> None:
        raise ValueError("no such city")

    result = await run_agent(agent)
    assert (result.status, result.error) == (RunStatus.error, "no such city")


@virtual
async def test_a_failing_required_observer_raises_after_the_terminal_event_was_tried() -> None:
    error = OSError("disk full")
    store = RecordingObserver(Misbehaviour(how=error, on=LifecycleEventType.RUN_STARTED))
    with pytest.raises(OSError, match="disk full") as caught:
        await run_agent(echo, "x", observer=CompositeObserver([required(store)]))
    assert caught.value is error
    assert end_of(store.offered).payload["error"] == "a required observer failed: disk full"


@virtual
async def test_a_failing_optional_observer_raises_nothing() -> None:
    async def watch(event: RunLifecycleEvent) -> None:
        raise OSError

    assert (await run_agent(echo, "x", observer=watch)).status is RunStatus.success


@pytest.mark.parametrize("is_required", [False, True])
@virtual
async def test_the_time_that_observers_take_to_hear_of_the_start_is_not_the_runs(is_required: bool) -> None:
    async def post(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(2)

    async def works(input: Any) -> str:
        await asyncio.sleep(4)
        return "done"

    observer = CompositeObserver()
    observer.add(post, required=is_required)

    result = await run_agent(works, "x", observer=observer, timeout=5)

    assert (result.status, result.output) == (RunStatus.success, "done")
    result = await run_agent(works, "x", observer=observer, timeout=3)
    assert (result.status, result.error) == (RunStatus.timeout, "the run took longer than its timeout of 3 s")


@virtual
async def test_an_observer_that_hangs_holds_a_run_up_but_not_with_each_event_again() -> None:
    hangs = RecordingObserver(Misbehaviour(how="hang"))

    result = await run_agent(echo, "x", observer=hangs, timeout=5)

    assert result.status is RunStatus.success
    assert [event.sequence for event in hangs.offered] == [1, 2, 3, 4, 5]
    assert asyncio.get_running_loop().time() == pytest.approx(30.0 + 4 * 3.0)


@virtual
async def test_everything_that_can_be_asked_for_reaches_the_agent() -> None:
    seen = RecordingObserver()
    kept: list[RunContext] = []

    async def agent(input: Any, run: RunContext) -> None:
        kept.append(run)

    await run_agent(
        agent,
        "x",
        observer=seen,
        run_id="r",
        thread_id="t",
        metadata={"a": 1},
        timeout=5,
        config={"c": 1},
        context={"user": "ada"},
    )
    (run,) = kept
    assert (run.run_id, run.thread_id, run.input) == ("r", "t", "x")
    assert (run.metadata, run.config, run.context) == ({"a": 1}, {"c": 1}, {"user": "ada"})
    assert seen.events[0].payload == {"agent": "agent", "metadata": {"a": 1}}


@pytest.mark.parametrize("observer", [5, "print", RecordingObserver, print, [RecordingObserver()]])
@virtual
async def test_what_is_no_observer_is_refused_before_anything_happens(observer: Any) -> None:
    async def agent(input: Any) -> None:
        raise AssertionError("never called")

    with pytest.raises(NotAnObserverError):
        await run_agent(agent, observer=observer)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"run_id": ""}, "run_id"),
        ({"thread_id": 5}, "thread_id"),
        ({"timeout": 0}, "timeout"),
        ({"metadata": 5}, "metadata"),
        ({"config": []}, "config"),
        ({"command": {"resume": 1}, "input": "x"}, "command"),
    ],
    ids=str,
)
@virtual
async def test_an_argument_that_does_not_fit_is_named(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        await run_agent(echo, **asked)
    assert caught.value.details["field"] == field


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
async def test_an_id_is_taken_also_after_the_end_of_its_run_until_many_others_have_ended() -> None:
    going_on = asyncio.Event()

    async def waits(input: Any) -> None:
        await going_on.wait()

    first = asyncio.create_task(run_agent(waits, run_id="same"))
    await asyncio.sleep(1)
    with pytest.raises(DuplicateRunError):
        await run_agent(echo, run_id="same")
    going_on.set()
    await first
    for _ in range(KEEP_ENDED_RUNS):
        with pytest.raises(DuplicateRunError, match=r"^Run id 'same' is taken: an id names one run\. Leave"):
            await run_agent(echo, run_id="same")
        await run_agent(echo)
    assert (await run_agent(echo, "x", run_id="same")).output == "x"


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


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_kept_of_runs_that_have_ended(seed: int) -> None:
    async def agent(input: Any) -> None:
        await asyncio.sleep(1)

    async def story() -> None:
        tasks = [asyncio.create_task(run_agent(agent, thread_id=f"t{i % 3}")) for i in range(30)]
        await asyncio.sleep(0.5)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks)
        shared = embedded_module._embedded[asyncio.get_running_loop()]
        coordinator = shared.services.coordinator
        assert shared._turns == shared._awaited == {}
        assert coordinator._runs == coordinator._threads == {}  # type: ignore[attr-defined]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(story(), seed=seed)


async def test_nothing_is_kept_of_what_runs_say_as_nobody_can_follow_them() -> None:
    async def agent(input: Any, run: RunContext) -> None:
        run.send({"a": "b"})

    assert (await run_agent(agent)).status is RunStatus.success
    stream = embedded_module._embedded[asyncio.get_running_loop()].services.stream
    assert not stream._channels  # type: ignore[attr-defined]
    assert not stream._ended  # type: ignore[attr-defined]


async def test_what_cannot_be_said_fails_a_run_in_a_script_as_well() -> None:
    class Unsayable:
        def model_dump(self, **_: Any) -> Any:
            raise RuntimeError("no")

    async def agent(input: Any, run: RunContext) -> None:
        run.send(Unsayable())

    alone = await run_agent(agent)
    async with RunManager({"agent": agent}) as manager:
        managed = await (await manager.start(RunSpec("agent"))).result()
    assert alone.status is managed.status is RunStatus.error
    assert alone.error == managed.error


def test_threads_may_run_agents_at_once(blockbuster: BlockBuster) -> None:
    """While one thread looks for ended event loops, another finds the same ones, and has a loop of its own."""
    blockbuster.deactivate()
    results: list[RunResult] = []

    def run() -> None:
        results.append(asyncio.run(run_agent(echo, "x")))

    class Watched(asyncio.SelectorEventLoop):
        looked_at = 0

        def is_closed(self) -> bool:
            if super().is_closed() and not self.looked_at:
                self.looked_at += 1
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(run).result()
            return super().is_closed()

    with asyncio.Runner(loop_factory=Watched) as runner:
        runner.run(run_agent(echo))
        loop = runner.get_loop()
    assert isinstance(loop, Watched)
    loop.looked_at = 0
    run()
    assert loop.looked_at == 1
    assert [result.output for result in results] == ["x", "x"]


def test_nothing_is_kept_of_event_loops_that_have_ended() -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def story() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await run_agent(echo)

    for _ in range(3):
        asyncio.run(story())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3
