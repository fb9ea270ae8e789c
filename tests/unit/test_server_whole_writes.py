"""The head of an answer goes out with what follows it, and waits for nobody."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast, override

import pytest
import uvloop

from trackside.app.server import whole_writes
from trackside.app.server.whole_writes import WholeWrites

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Written(asyncio.Transport):
    """Keeps what is written, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    @override
    def write(self, data: object) -> None:
        self.pieces.append(bytes(data))  # type: ignore[call-overload]  # bytes, here

    @override
    def close(self) -> None:
        self.pieces.append(b"closed")

    @override
    def is_closing(self) -> bool:
        return self.pieces[-1:] == [b"closed"]

    @override
    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
def written() -> Written:
    return Written()


async def test_head_and_body_are_one_write(written: Written) -> None:
    transport = WholeWrites(written, asyncio.get_running_loop())

    transport.write(HEAD)
    transport.write(b"42")
    transport.write(b"more")
    await asyncio.sleep(0)

    assert written.pieces == [HEAD + b"42", b"more"]


async def test_head_goes_when_the_loop_comes_round(written: Written) -> None:
    transport = WholeWrites(written, asyncio.get_running_loop())

    transport.write(HEAD)
    assert written.pieces == []
    await asyncio.sleep(0)
    transport.write(b"42")

    assert written.pieces == [HEAD, b"42"]


async def test_two_heads_in_one_turn_keep_their_order(written: Written) -> None:
    transport = WholeWrites(written, asyncio.get_running_loop())

    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    transport.write(HEAD)
    transport.write(HEAD)
    transport.write(b"42")

    assert b"".join(written.pieces) == b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + HEAD + b"42"


async def test_head_is_written_before_the_connection_closes(written: Written) -> None:
    transport = WholeWrites(written, asyncio.get_running_loop())

    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)

    assert written.pieces == [HEAD, b"closed"]
    assert transport.is_closing()


MUCH = 30_000_000  # bytes: more than a connection's two ends keep


class Hours:
    """A loop for a transport, whose time passes when the test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.call_soon = loop.call_soon
        self.passed = 0
        self._due: list[Callable[[], object]] = []

    def call_later(self, seconds: float, call: Callable[..., object], *given: object) -> None:
        assert seconds == whole_writes.TAKES_NOTHING_SECONDS
        self._due.append(partial(call, *given))

    def pass_by(self) -> None:
        due, self._due = self._due, []
        self.passed += len(due)
        for call in due:
            call()


class Answering(asyncio.Protocol):
    """Sends a lot to whoever connects, and closes."""

    def __init__(self) -> None:
        self.time = Hours(asyncio.get_running_loop())
        self.lost = asyncio.Event()
        self.transport: asyncio.Transport
        self.looked_at = 0
        """What the other side had yet to take when the connection was closed, or when time passed."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        writes = WholeWrites(self.transport, cast("asyncio.AbstractEventLoop", self.time))
        writes.write(b"x" * MUCH)
        writes.close()
        self.looked_at = self.transport.get_write_buffer_size()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def let_time_pass_if_something_was_taken(self) -> None:
        if 0 < (left := self.transport.get_write_buffer_size()) < self.looked_at:
            self.looked_at = left
            self.time.pass_by()


async def _read_nothing(reader: asyncio.StreamReader, answering: Answering) -> int:
    while not answering.lost.is_set():
        answering.time.pass_by()
        await asyncio.sleep(0)
    return 0


async def _read_slowly(reader: asyncio.StreamReader, answering: Answering) -> int:
    size = 0
    while piece := await reader.read(2_000_000):
        size += len(piece)
        answering.let_time_pass_if_something_was_taken()  # a client on a slow line takes no more in this time
    await answering.lost.wait()
    assert answering.time.passed > 2
    return size


async def _answer_to(read: Callable[[asyncio.StreamReader, Answering], Awaitable[int]]) -> int:
    answering = Answering()
    server = await asyncio.get_running_loop().create_server(lambda: answering, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        try:
            async with asyncio.timeout(60):
                return await read(reader, answering)
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(("read", "taken"), [(_read_nothing, 0), (_read_slowly, MUCH)])
def test_a_connection_closes_behind_whoever_takes_something_and_not_only_behind_him(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    read: Callable[[asyncio.StreamReader, Answering], Awaitable[int]],
    taken: int,
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(_answer_to(read)) == taken
