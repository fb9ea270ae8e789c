"""`run_agent`: one run in a script, and what its runs share."""

import asyncio
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop
from blockbuster import BlockBuster
from tests.contract.ways_to_run import end_of, required, told, virtual
from tests.unit.embedded_agents import echo

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
)
from trackside.harness import embedded as embedded_module
from trackside.harness.memory import KEEP_ENDED_RUNS
from trackside.testing import Misbehaviour, RecordingObserver, run_virtual


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


def test_on_uvloop_a_run_whose_time_is_over_in_a_moment_times_out() -> None:
    seen = RecordingObserver()

    async def waits(_: Any) -> None:
        await asyncio.Event().wait()

    result = uvloop.run(run_agent(waits, "x", observer=seen, timeout=1e-9))
    assert result.status is RunStatus.timeout
    assert end_of(seen.events).payload["status"] == "timeout"
