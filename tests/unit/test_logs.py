"""Log records name the run that they are about, and never another."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.contract.ways_to_run import ByManager, ByRunAgent, Way, both_ways, required, virtual

from trackside.harness import RunFieldsFilter, RunManager, RunSpec, StopPolicy, run_fields
from trackside.testing import VirtualClock

log = logging.getLogger("somebody's")

NOBODY = {"run_id": "", "thread_id": "", "agent": ""}


class Kept(logging.Handler):
    """Keeps what each record says, as a handler's format would show it."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(RunFieldsFilter())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, message: str) -> list[tuple[str, str, str]]:
        """The run, thread and agent of the records that contain this text."""
        return [
            (record.run_id, record.thread_id, record.agent)  # type: ignore[attr-defined]
            for record in self.records
            if message in record.getMessage()
        ]


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler, root = Kept(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def test_outside_a_run_the_fields_are_there_and_empty(kept: Kept) -> None:
    log.info("hello")
    assert kept.of("hello") == [("", "", "")]
    assert run_fields() == NOBODY
    run_fields()["run_id"] = "mine"
    assert run_fields() == NOBODY, "nobody shares the mapping"


def test_a_field_that_a_record_has_already_stays(kept: Kept) -> None:
    log.info("hello", extra={"agent": "smith"})
    assert kept.of("hello") == [("", "", "smith")]


@both_ways
@virtual
async def test_what_an_agent_its_tools_and_its_observers_log_is_their_runs(way: Way, kept: Kept) -> None:
    async def observer(event: Any) -> None:
        log.info("observed")

    async def tool() -> None:
        log.info("from a task")

    async def assistant(input: Any) -> None:
        log.info("from the agent")
        await asyncio.create_task(tool())
        assert run_fields() == {"run_id": "r", "thread_id": "t", "agent": "assistant"}

    async with way(required(_observer(observer))) as runs:
        await runs.run(assistant, "hello", run_id="r", thread_id="t")
        log.info("afterwards")
    for message in ("observed", "from a task", "from the agent"):
        assert set(kept.of(message)) == {("r", "t", "assistant")}
    assert kept.of("afterwards") == [("", "", "")]


def _observer(call: Any) -> Any:
    class Observer:
        async def on_event(self, event: Any) -> None:
            await call(event)

    return Observer()


@both_ways
@virtual
async def test_a_function_that_runs_in_a_thread_logs_as_its_run(way: Way, kept: Kept) -> None:
    def assistant(input: Any) -> None:
        log.info("from the thread")

    async with way() as runs:
        for run_id in "ab":
            await runs.run(assistant, "hello", run_id=run_id, thread_id="t")
    assert kept.of("from the thread") == [("a", "t", "assistant"), ("b", "t", "assistant")]


@virtual
async def test_runs_that_take_turns_do_not_log_as_each_other(kept: Kept) -> None:
    async def assistant(input: str) -> None:
        for _ in range(5):
            log.info("I am %s", input)
            await asyncio.sleep(1)

    async with RunManager({"assistant": assistant}, clock=VirtualClock(), shutdown_grace=1e3, max_running=3) as manager:
        for i in range(9):
            await manager.start(RunSpec("assistant", f"r{i}", run_id=f"r{i}", thread_id=f"t{i % 4}"))
        assert run_fields() == NOBODY
    for i in range(9):
        assert kept.of(f"I am r{i}") == [(f"r{i}", f"t{i % 4}", "assistant")] * 5


@virtual
async def test_a_buffered_observer_logs_as_the_run_whose_event_it_has_or_as_nobody(kept: Kept) -> None:
    async def observer(event: Any) -> None:
        log.info("observed %s", event.run_id)

    async def assistant(input: Any) -> None: ...

    async with RunManager({"assistant": assistant}, observers=[_observer(observer)], clock=VirtualClock()) as manager:
        for run_id in "ab":
            await (await manager.start(RunSpec("assistant", run_id=run_id))).result()
    for run_id in "ab":
        assert {fields[0] for fields in kept.of(f"observed {run_id}")} <= {run_id, ""}


@virtual
async def test_a_nested_run_logs_as_itself_and_its_starter_goes_on_as_before(kept: Kept) -> None:
    async def child(input: Any) -> None:
        log.info("child")

    async def parent(input: Any) -> None:
        run = await manager.start(RunSpec("child", run_id="c", thread_id="ct"))
        await run.result()
        log.info("parent")

    async with RunManager({"parent": parent, "child": child}, clock=VirtualClock()) as manager:
        await (await manager.start(RunSpec("parent", run_id="p", thread_id="pt"))).result()
    assert kept.of("child") == [("c", "ct", "child")]
    assert kept.of("parent") == [("p", "pt", "parent")]


@virtual
async def test_a_task_that_a_run_leaves_behind_stays_that_runs_and_nobody_elses(kept: Kept) -> None:
    left: list[asyncio.Task[None]] = []

    async def late() -> None:
        await asyncio.sleep(100)
        log.info("late")

    async def leaver(input: Any) -> None:
        if input:
            left.append(asyncio.create_task(late()))

    async with ByManager() as runs:
        await runs.run(leaver, True, run_id="a", thread_id="t")
        await runs.run(leaver, False, run_id="b", thread_id="t")
        await left[0]
    assert kept.of("late") == [("a", "t", "leaver")]


@virtual
async def test_what_the_harness_says_of_a_run_is_that_runs_whoever_asked_for_it(kept: Kept) -> None:
    """A run that cancels another one is not the one that is stuck."""

    async def rock(input: Any) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                continue

    async def killer(input: Any) -> None:
        await manager.cancel("victim")

    stopping = StopPolicy(stuck_after=5.0)
    async with RunManager({"rock": rock, "killer": killer}, clock=VirtualClock(), stopping=stopping) as manager:
        victim = await manager.start(RunSpec("rock", run_id="victim", thread_id="v"))
        await asyncio.sleep(1)
        await (await manager.start(RunSpec("killer", run_id="killer", thread_id="k"))).result()
        await victim.result()
    assert kept.of("does not stop") == [("victim", "v", "rock")]


@virtual
async def test_run_agent_does_not_leave_its_run_with_its_caller(kept: Kept) -> None:
    async def assistant(input: Any) -> None: ...

    async with ByRunAgent() as runs:
        await runs.run(assistant, "hello")
        assert run_fields() == NOBODY
