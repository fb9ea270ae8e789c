"""What a run of a graph puts while the database is away: kept in its order, put again, and given up in the end."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual

from trackside.app.storage._graph_checkpoint_rows import WriteRow
from trackside.app.storage._graph_checkpoint_work import PutGraphRows
from trackside.app.storage._graph_puts import LONGEST_OUTAGE, Behind
from trackside.app.storage._work import Refused
from trackside.app.storage.errors import DatabaseFullError, ServerUnreachableError
from trackside.harness.errors import ClosedError, TracksideError


class AwayWriter:
    """A writer of a database that may be away, or full: it writes what it is given in its order, each a moment later."""

    def __init__(self) -> None:
        self.failure: TracksideError | None = None
        self.written: list[str] = []
        self.leaves_at = inf

    def _do(self, work: PutGraphRows, done: asyncio.Future[Any]) -> None:
        failure = self.failure or (None if work.chain is None else work.chain.failure)
        if failure is None:
            self.written.append(work.thread_id)
            done.set_result(None)
        else:
            work.refused(failure)
            done.set_result(Refused(failure))

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


def unreachable() -> TracksideError:
    return ServerUnreachableError(database="it", why="it is away")


async def put(behind: Behind, *names: str, size: int = 100) -> None:
    for name in names:
        await behind.put(PutGraphRows(thread_id=name, run_id=None, writes=[]), size)


@virtual
async def test_what_is_put_while_the_database_is_away_is_written_in_its_order_when_it_is_back() -> None:
    writer = AwayWriter()
    behind = Behind(writer, lambda work, refused: None)  # type: ignore[arg-type]
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
    behind = Behind(writer, lambda work, refused: learned.append((work.thread_id, refused)))  # type: ignore[arg-type]
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
    behind = Behind(writer, lambda work, refused: None)  # type: ignore[arg-type]
    writer.failure = unreachable()
    await put(behind, "a")
    began = asyncio.get_running_loop().time()
    with pytest.raises(ServerUnreachableError):
        await behind.settle(lambda: True)
    assert asyncio.get_running_loop().time() - began < 3 < LONGEST_OUTAGE

    behind = Behind(writer, lambda work, refused: None)  # type: ignore[arg-type]
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
    behind = Behind(writer, lambda work, refused: None)  # type: ignore[arg-type]
    writer.failure = unreachable()
    await put(behind, "a")
    with pytest.raises(ClosedError):
        await behind.settle(lambda: False)


@virtual
async def test_a_run_that_has_put_much_meanwhile_waits() -> None:
    writer = AwayWriter()
    behind = Behind(writer, lambda work, refused: None)  # type: ignore[arg-type]
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
