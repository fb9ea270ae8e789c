"""The head of an answer goes out with what follows it, and waits for nobody."""

import asyncio
from collections.abc import Awaitable, Callable
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


class Answering(asyncio.Protocol):
    """Sends a lot to whoever connects, and closes."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writes = WholeWrites(cast("asyncio.Transport", transport), asyncio.get_running_loop())
        writes.write(b"x" * MUCH)
        writes.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def _read_nothing(reader: asyncio.StreamReader, answering: Answering) -> int:
    await answering.lost.wait()
    return 0


async def _read_slowly(reader: asyncio.StreamReader, answering: Answering) -> int:
    size = 0
    while piece := await reader.read(2_000_000):
        size += len(piece)
        await asyncio.sleep(0.02)  # as a client on a slow line does
    await answering.lost.wait()
    return size


async def _answer_to(read: Callable[[asyncio.StreamReader, Answering], Awaitable[int]]) -> int:
    answering = Answering()
    server = await asyncio.get_running_loop().create_server(lambda: answering, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        async with asyncio.timeout(30):
            size = await read(reader, answering)
        writer.transport.abort()
    return size


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(("read", "patience", "taken"), [(_read_nothing, 0.05, 0), (_read_slowly, 0.5, MUCH)])
def test_a_connection_closes_behind_whoever_takes_something_and_not_only_behind_him(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    read: Callable[[asyncio.StreamReader, Answering], Awaitable[int]],
    patience: float,
    taken: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(whole_writes, "TAKES_NOTHING_SECONDS", patience)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(_answer_to(read)) == taken
