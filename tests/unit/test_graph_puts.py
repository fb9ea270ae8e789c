"""What a graph's run puts while the database is away: it is kept in order, put again, and given up in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual

from trackside.app.storage._graph.puts import Behind
from trackside.app.storage._graph.works import PutGraphRows
from trackside.app.storage._rows.graph_checkpoint_rows import WriteRow
from trackside.app.storage._writing.outages import LONGEST_OUTAGE
from trackside.app.storage._writing.work import Refused
from trackside.app.storage.errors import DatabaseFullError, ServerUnreachableError
from trackside.harness.errors import ClosedError, TracksideError


class AwayWriter:
    """A writer of a database that may be away, or full: it writes what it gets in order, each a moment later."""

    def __init__(self) -> None:
        self.failure: TracksideError | None = None
        self.written: list[str] = []
        self.leaves_at = inf

    def _do(self, work: PutGraphRows, done: asyncio.Future[Any]) -> None:
        failure = self.failure or (None if work.chain is None else work.chain.failure)
        if failure is None:
            self.written.append(work.thread_id)
        else:
            work.refused(failure)
        if not done.done():  # otherwise nobody waits any more
            done.set_result(None if failure is None else Refused(failure))

    async def defer(self, work: PutGraphRows) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        loop.call_later(0.01, self._do, work, done)
        return done

    async def write(self, work: PutGraphRows) -> None:
        outcome = await (await self.defer(work))
        if isinstance(outcome, Refused):
            raise outcome.error

    def extend(self, writing: Any, size: int) -> bool:
        return False

    def hurry(self, writing: Any = None) -> None:
        pass


def made(
    writer: AwayWriter,
    learn: Callable[[PutGraphRows, bool], object] = lambda work, refused: None,
    has_to_stop: Callable[[], bool] = lambda: False,
) -> Behind:
    return Behind(writer, learn, has_to_stop)  # type: ignore[arg-type]


def unreachable() -> TracksideError:
    return ServerUnreachableError(database="it", why="it is away")


class PatientWriter(AwayWriter):
    """Writes batch by batch, and takes a while to find that the database is away, as the store's writer does."""

    patience = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, TracksideError] = {}
        """By thread: how the next transaction that begins with its work fails, before any of that is written."""
        self._jobs: asyncio.Queue[tuple[PutGraphRows, asyncio.Future[Any]]] = asyncio.Queue()
        self._writing: asyncio.Task[None] | None = None

    async def defer(self, work: PutGraphRows) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((work, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return done

    async def _write(self) -> None:
        while True:
            work, done = await self._jobs.get()
            batch = [(work, done)]
            while self.failure is not None and not self._jobs.empty():
                batch.append(self._jobs.get_nowait())
            failure, own = self.failure, self.failures.pop(work.thread_id, None)
            await asyncio.sleep(self.patience if failure or own else 0.01)
            for work, done in batch:
                if own is not None:
                    work.refused(own)
                    done.set_result(Refused(own))
                elif failure is not None:
                    work.refused(failure)
                    done.set_result(Refused(failure))
                else:
                    self._do(work, done)


async def put(behind: Behind, *names: str, size: int = 100) -> None:
    for name in names:
        await behind.put(PutGraphRows(thread_id=name, run_id=None, writes=[]), size)


@virtual
async def test_what_is_put_while_the_database_is_away_is_written_in_its_order_when_it_is_back() -> None:
    writer = AwayWriter()
    behind = made(writer)
    await put(behind, "a")
    await asyncio.sleep(1)
    writer.failure = unreachable()
    await put(behind, "b", "c")
    await asyncio.sleep(30)
    await put(behind, "d")
    settling = asyncio.create_task(behind.settle(lambda: False))
    await asyncio.sleep(60)
    assert not settling.done()
    writer.failure = None
    await settling
    assert writer.written == ["a", "b", "c", "d"]


@virtual
async def test_a_database_that_is_away_for_too_long_is_given_up() -> None:
    learned: list[tuple[str, bool]] = []
    writer = AwayWriter()
    behind = made(writer, lambda work, refused: learned.append((work.thread_id, refused)))
    writer.failure = unreachable()
    await put(behind, "a", "b")
    with pytest.raises(ServerUnreachableError):
        await behind.settle(lambda: False)
    assert learned == [("a", True), ("b", True)]
    with pytest.raises(ServerUnreachableError):
        await put(behind, "c")


@virtual
async def test_who_is_hurried_gives_it_up_soon_and_what_does_not_pass_fails_at_once() -> None:
    writer = AwayWriter()
    behind = made(writer)
    writer.failure = unreachable()
    await put(behind, "a")
    began = asyncio.get_running_loop().time()
    with pytest.raises(ServerUnreachableError):
        await behind.settle(lambda: True)
    assert asyncio.get_running_loop().time() - began < 3 < LONGEST_OUTAGE

    behind = made(writer)
    writer.failure = DatabaseFullError(database="it", why="no room")
    await put(behind, "a")
    with pytest.raises(DatabaseFullError):
        await behind.settle(lambda: False)


@virtual
async def test_what_is_not_written_as_the_store_is_closed_is_said_to_be_so() -> None:
    class Closing(AwayWriter):
        async def write(self, work: PutGraphRows) -> None:
            raise ClosedError(what="store")

    writer = Closing()
    behind = made(writer)
    writer.failure = unreachable()
    await put(behind, "a")
    with pytest.raises(ClosedError):
        await behind.settle(lambda: False)


@virtual
async def test_a_run_that_has_put_much_meanwhile_waits() -> None:
    writer = AwayWriter()
    behind = made(writer)
    writer.failure = unreachable()
    large = [WriteRow("t", "", "c", "task", 0, "", "channel", "bytes", b"x" * 9_000_000)]
    await behind.put(PutGraphRows(thread_id="a", run_id=None, writes=large), 9_000_000)
    await asyncio.sleep(1)
    more = asyncio.create_task(behind.put(PutGraphRows(thread_id="b", run_id=None, writes=large), 9_000_000))
    await asyncio.sleep(5)
    assert not more.done()
    writer.failure = None
    await more
    await behind.settle(lambda: False)
    assert writer.written == ["a", "b"]


@virtual
async def test_what_is_put_while_it_is_found_out_that_the_database_is_away_is_written_in_its_order_too() -> None:
    kept: set[str] = set()

    def learn(work: PutGraphRows, is_kept: bool) -> None:
        (kept.add if is_kept else kept.remove)(work.thread_id)

    writer = PatientWriter()
    behind = made(writer, learn)
    writer.failure = unreachable()
    for name in "abcdefghijkl":
        await put(behind, name)
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)
    assert kept == {*"abcdefghijkl"}  # nobody assumes that any of it is there
    writer.failure = None
    await behind.settle(lambda: False)
    assert "".join(writer.written) == "abcdefghijkl"
    assert kept == set()


@virtual
async def test_what_is_put_while_all_is_written_again_comes_behind_that() -> None:
    writer = PatientWriter()
    behind = made(writer)
    writer.failure = unreachable()
    await put(behind, "a", "b", "c")
    await asyncio.sleep(0.6)
    writer.failure = None
    while not writer.written:
        await asyncio.sleep(0.005)
    await put(behind, "d")
    await behind.settle(lambda: False)
    await put(behind, "e")
    await behind.settle(lambda: False)
    assert writer.written == ["a", "b", "c", "d", "e"]


@virtual
async def test_what_finds_room_only_after_others_were_refused_comes_behind_them() -> None:
    class Full(PatientWriter):
        def __init__(self) -> None:
            super().__init__()
            self.has_room = asyncio.Event()

        async def defer(self, work: PutGraphRows) -> asyncio.Future[Any]:
            if work.thread_id == "b":
                await self.has_room.wait()
            return await super().defer(work)

    for waits in (1, 2):  # while the first is kept; then once it is written
        writer = Full()
        behind = made(writer)
        writer.failure = unreachable()
        await put(behind, "a")
        late = asyncio.create_task(put(behind, "b"))
        await asyncio.sleep(waits)
        if waits > 1:
            writer.failure = None
            await behind.settle(lambda: False)
        writer.has_room.set()
        await late
        writer.failure = None
        await put(behind, "c")
        await behind.settle(lambda: False)
        assert writer.written == ["a", "b", "c"]


@virtual
async def test_what_is_refused_otherwise_behind_what_is_kept_is_written_in_its_turn_or_fails_the_run() -> None:
    for fails_again in (False, True):
        writer = PatientWriter()
        behind = made(writer)
        full = DatabaseFullError(database="it", why="no room")
        writer.failures = {"a": unreachable(), "b": full}
        await put(behind, "a", "b", "c")
        await asyncio.sleep(1.1)
        await put(behind, "d")
        if fails_again:
            writer.failures = {"b": full}
            with pytest.raises(DatabaseFullError):
                await behind.settle(lambda: False)
            assert writer.written == ["a"]
            with pytest.raises(DatabaseFullError):
                await put(behind, "e")
        else:
            await behind.settle(lambda: False)
            assert writer.written == ["a", "b", "c", "d"]


@virtual
async def test_an_event_loop_that_closes_while_something_is_kept_leaves_no_hole_and_nobody_who_waits() -> None:
    for pause in (0.0, 0.1, 0.285):  # while it is put again, or is about to be
        writer = PatientWriter()
        behind = made(writer)
        writer.failures = {"a": unreachable()}
        await put(behind, "a", "b", "c")
        while (again := find("trackside-put-again")) is None:
            await asyncio.sleep(0.001)
        await asyncio.sleep(pause)
        again.cancel()  # as a closing event loop does, once, with each task that it finds
        await asyncio.wait([again])
        with pytest.raises(ClosedError):
            await behind.settle(lambda: False)
        with pytest.raises(ClosedError):
            await put(behind, "d")
        await asyncio.sleep(5)
        assert writer.written == [*"abc"[: len(writer.written)]]


def find(name: str) -> asyncio.Task[Any] | None:
    return next((task for task in asyncio.all_tasks() if task.get_name() == name), None)
