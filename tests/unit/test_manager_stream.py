"""The live output of runs, as their followers get it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual

from trackside.app.streams import StreamHub
from trackside.harness import (
    InvalidSpecError,
    MultitaskStrategy,
    RunContext,
    RunManager,
    RunSpec,
    RunStatus,
    StreamGap,
    StreamPart,
    ThreadBusyError,
    UnknownRunError,
)
from trackside.harness.memory import KEEP_PARTS, MemoryCoordinator, MemoryStream
from trackside.harness.ports import Admission
from trackside.harness.types import RunRecord


async def counts(input: int, run: RunContext) -> str:
    for i in range(input):
        run.send(i)
        await asyncio.sleep(1)
    return "done"


def data(parts: list[StreamPart | StreamGap], mode: str = "custom") -> list[Any]:
    return [part.data for part in parts if isinstance(part, StreamPart) and part.mode == mode]


async def collect(parts: AsyncIterator[StreamPart | StreamGap]) -> list[StreamPart | StreamGap]:
    return [part async for part in parts]


streams = pytest.mark.parametrize("stream", [MemoryStream, StreamHub])


@virtual
async def test_a_stream_that_cannot_be_closed_holds_up_no_run_of_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryStream):
        def close(self, run_id: str, *, end: object = None) -> None:
            raise OSError("no stream")

    async with RunManager(stream=Broken()) as manager:
        runs = [await manager.start(RunSpec(counts, 1, thread_id="t")) for _ in range(2)]
        results = [await run.result() for run in runs]

    assert [result.status for result in results] == [RunStatus.success] * 2
    assert [record.run_id for record in caplog.records] == [run.run_id for run in runs]
    assert "could not be closed; whoever follows it may wait in vain" in caplog.text


@virtual
async def test_a_follower_gets_every_part_as_it_comes_and_then_the_end() -> None:
    async with RunManager() as manager:
        run = await manager.start(RunSpec(counts, 3))
        loop, times = asyncio.get_running_loop(), []
        parts = []
        async for part in run.stream():
            times.append(loop.time())
            parts.append(part)
        assert (await run.result()).status is RunStatus.success
    assert data(parts) == [0, 1, 2]
    assert data(parts, "values") == [{"output": "done"}]
    assert [p.sequence for p in parts if isinstance(p, StreamPart)] == [1, 2, 3, 4]
    assert times == [0, 1, 2, 3]


async def changes_what_it_said(input: Any, run: RunContext) -> None:
    state = {"step": 0, "done": list[int]()}
    for n in range(3):
        state["step"] = n
        run.send(state)
        state["done"] = [*range(n + 1)]


def changes_in_a_thread(input: Any, run: RunContext) -> None:
    asyncio.run(changes_what_it_said(input, run))


class Detached:
    def __repr__(self) -> str:
        raise LookupError("its session is closed")


@streams
@virtual
async def test_a_mode_alone_is_that_mode_and_no_part_of_its_name(stream: type[MemoryStream | StreamHub]) -> None:
    async def agent(input: Any, run: RunContext) -> None:
        for mode in ("debug", "debug-more", "bug"):
            run.send(mode, mode)

    async with RunManager(stream=stream()) as manager:
        run = await manager.start(RunSpec(agent))
        await run.result()
        parts = await collect(run.stream(modes="debug-more"))
    assert [part.data for part in parts if isinstance(part, StreamPart)] == ["debug-more"]


@streams
@pytest.mark.parametrize("asked", [{"after": x} for x in (-1, "1", 1.5, True)] + [{"modes": x} for x in (5, [5], b"x")])
@virtual
async def test_what_cannot_be_followed_is_refused_by_name(stream: type[MemoryStream | StreamHub], asked: Any) -> None:
    async with RunManager(stream=stream()) as manager:
        run = await manager.start(RunSpec(counts, 1))
        with pytest.raises(InvalidSpecError, match=f"^{next(iter(asked))} = "):
            await collect(run.stream(**asked))


async def says_what_cannot_be_read(input: Any, run: RunContext) -> None:
    run.send({"row": Detached()})


def says_it_in_a_thread(input: Any, run: RunContext) -> None:
    run.send({"row": Detached()})


@streams
@pytest.mark.parametrize("agent", [changes_what_it_said, changes_in_a_thread])
async def test_what_was_said_stays_as_it_was_said(agent: Any, stream: type[MemoryStream | StreamHub]) -> None:
    async with RunManager(stream=stream()) as manager:
        run = await manager.start(RunSpec(agent))
        await run.result()
        parts = await collect(run.stream())
    assert data(parts) == [{"step": 0, "done": []}, {"step": 1, "done": [0]}, {"step": 2, "done": [0, 1]}]


@streams
@pytest.mark.parametrize("agent", [says_what_cannot_be_read, says_it_in_a_thread])
async def test_who_says_what_cannot_be_read_is_told_so(agent: Any, stream: type[MemoryStream | StreamHub]) -> None:
    async with RunManager(stream=stream()) as manager:
        result = await (await manager.start(RunSpec(agent))).result()
    assert result.status is RunStatus.error
    assert "its session is closed" in (result.error or "")


@pytest.mark.parametrize("when", ["before the first part", "in the middle", "after the end"])
@virtual
async def test_who_joins_late_gets_what_is_kept_and_the_end(when: str) -> None:
    async with RunManager() as manager:
        run = await manager.start(RunSpec(counts, 4))
        await asyncio.sleep({"before the first part": 0, "in the middle": 2.5, "after the end": 100}[when])
        assert data(await collect(run.stream())) == [0, 1, 2, 3]
        assert data(await collect(run.stream(after=2))) == [2, 3]
        assert await collect(run.stream(after=99)) == []


@virtual
async def test_many_followers_share_a_run_and_a_slow_or_lost_one_holds_nobody_up() -> None:
    async with RunManager() as manager:
        run = await manager.start(RunSpec(counts, 5))
        lost = asyncio.create_task(collect(run.stream()))
        followers = [asyncio.create_task(collect(run.stream())) for _ in range(20)]
        await asyncio.sleep(2.5)
        lost.cancel()
        slow = []
        async for part in run.stream():
            slow.append(part)
            await asyncio.sleep(10)
        assert data(slow) == [0, 1, 2, 3, 4]
        for follower in followers:
            assert data(await follower) == [0, 1, 2, 3, 4]


@virtual
async def test_modes_filter_and_positions_stay_those_of_all_parts() -> None:
    async def agent(input: Any, run: RunContext) -> None:
        for i in range(3):
            run.send(i)
            run.send(i, "debug")
            run.send(i, namespace=["sub", "graph"])

    async with RunManager() as manager:
        run = await manager.start(RunSpec(agent))
        await run.result()
        debug = await collect(run.stream(modes={"debug"}))
        everything = await collect(run.stream())
    assert [(p.sequence, p.data) for p in debug if isinstance(p, StreamPart)] == [(2, 0), (5, 1), (8, 2)]
    assert [p.namespace for p in everything if isinstance(p, StreamPart)][:3] == [(), (), ("sub", "graph")]


@virtual
async def test_who_is_too_slow_is_told_what_is_missing() -> None:
    async def floods(input: Any, run: RunContext) -> None:
        for i in range(KEEP_PARTS + 10):
            run.send(i)

    async with RunManager() as manager:
        run = await manager.start(RunSpec(floods))
        await run.result()
        parts = await collect(run.stream())
        assert parts[0] == StreamGap(1, 10)
        assert data(parts) == list(range(10, KEEP_PARTS + 10))
        assert (await collect(run.stream(after=4)))[0] == StreamGap(5, 10)
        assert not isinstance((await collect(run.stream(after=10)))[0], StreamGap)
        filtered = await collect(run.stream(modes={"nothing"}))
        assert filtered == [StreamGap(1, 10)], "a gap is told, whatever it had in it"


@virtual
async def test_a_follower_that_falls_behind_is_told_what_it_missed_meanwhile() -> None:
    async def floods(input: Any, run: RunContext) -> None:
        run.send("first")
        await asyncio.sleep(1)
        for i in range(10):
            run.send(i)
        await asyncio.sleep(100)

    async with RunManager(stream=MemoryStream(keep_parts=3)) as manager:
        run = await manager.start(RunSpec(floods))
        parts = []
        async for part in run.stream():
            parts.append(part)
            await asyncio.sleep(10)
    assert parts[1] == StreamGap(2, 8)
    assert data(parts) == ["first", 7, 8, 9]


@pytest.mark.parametrize("ends", ["success", "error", "cancelled before its start", "withdrawn"])
@virtual
async def test_a_run_that_never_published_ends_its_stream(ends: str) -> None:
    async def agent(input: Any) -> None:
        if ends == "error":
            raise ValueError

    async def sleeper(input: Any) -> None:
        await asyncio.sleep(50)

    async with RunManager() as manager:
        if ends == "withdrawn":
            await manager.start(RunSpec(sleeper, thread_id="t"))
        run = await manager.start(RunSpec(agent, thread_id="t"))
        early = asyncio.create_task(collect(run.stream()))
        await asyncio.sleep(0)
        if ends in {"cancelled before its start", "withdrawn"}:
            await run.cancel(wait=True)
        await run.result()
        assert await early == []
        assert await collect(run.stream()) == []


@virtual
async def test_a_finished_run_ends_its_stream_also_when_nothing_of_it_is_kept() -> None:
    async with RunManager(stream=MemoryStream(keep_runs=1)) as manager:
        runs = [await manager.start(RunSpec(counts, 1)) for _ in range(3)]
        for run in runs:
            await run.result()
        assert await collect(runs[0].stream()) == []
        assert await collect(runs[0].stream()) == []


@virtual
async def test_an_unknown_run_has_no_stream() -> None:
    async with RunManager() as manager:
        with pytest.raises(UnknownRunError):
            await anext(manager.stream("nobody"))


@virtual
async def test_a_run_that_is_not_let_in_yet_has_no_stream_that_would_never_end() -> None:
    class Slow(MemoryCoordinator):
        immediate = False

        async def admit(self, record: RunRecord, **asked: Any) -> Admission:
            await asyncio.sleep(1)
            return await super().admit(record, **asked)

    async with RunManager(coordinator=Slow()) as manager:
        await manager.start(RunSpec(counts, 5, thread_id="t"))
        asked = RunSpec(counts, 1, run_id="r", thread_id="t", multitask=MultitaskStrategy.reject)
        starting = asyncio.create_task(manager.start(asked))
        await asyncio.sleep(0.5)
        with pytest.raises(UnknownRunError):
            await collect(manager.stream("r"))
        with pytest.raises(ThreadBusyError):
            await starting


@virtual
async def test_a_run_that_goes_on_here_is_followed_though_its_coordinator_can_tell_nothing() -> None:
    class Away(MemoryCoordinator):
        async def get(self, run_id: str) -> RunRecord | None:
            raise ConnectionError("the database is away")

    async with RunManager(coordinator=Away()) as manager:
        run = await manager.start(RunSpec(counts, 2))
        assert data(await collect(run.stream())) == [0, 1]
        await run.result()
        with pytest.raises(ConnectionError):
            await anext(run.stream())


@virtual
async def test_what_comes_after_the_end_is_dropped() -> None:
    kept: list[RunContext] = []

    async def agent(input: Any, run: RunContext) -> None:
        kept.append(run)
        run.send("in time")

    stream = MemoryStream()
    async with RunManager(stream=stream) as manager:
        run = await manager.start(RunSpec(agent))
        await run.result()
        kept[0].send("too late")
        assert data(await collect(run.stream())) == ["in time"]
    assert stream._channels == {}


@virtual
async def test_only_the_modes_that_were_asked_for_are_streamed_by_an_agents_adapter() -> None:
    async with RunManager() as manager:
        for mode, values in (("values", [{"output": "done"}]), (["custom"], []), ((), [])):
            run = await manager.start(RunSpec(counts, 0, stream_mode=mode))  # type: ignore[arg-type]
            assert data(await collect(run.stream()), "values") == values
