"""How long a connection may take to send its request, by a clock that the test advances, and how much beside it."""

from __future__ import annotations

import asyncio
from typing import Any, override

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from trackside.app.server.guarded_protocol import HEAD_SECONDS, MOST_HEAD_BYTES, WHOLE_SECONDS, GuardedProtocol
from trackside.app.server.guest import Guest
from trackside.testing.loop import run_virtual

ASKED = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ANSWERED = b"at last"


class Connection(asyncio.Transport):
    """Takes what is written, until it is closed."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    @override
    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    @override
    def close(self) -> None:
        self.closed = True

    @override
    def is_closing(self) -> bool:
        return self.closed

    @override
    def get_write_buffer_size(self) -> int:
        return 0

    @override
    def pause_reading(self) -> None:
        """Nothing to do: no data comes by itself."""

    @override
    def resume_reading(self) -> None:
        """Nothing to do: no data comes by itself."""


async def answer_late(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(2 * WHOLE_SECONDS)
        await send({"type": "websocket.send", "bytes": ANSWERED})
        await receive()
        return
    while (await receive())["more_body"]:
        pass
    await asyncio.sleep(2 * WHOLE_SECONDS)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": ANSWERED})


def connected(app: Any = answer_late) -> tuple[GuardedProtocol, Connection]:
    config = Config(
        app,
        http=GuardedProtocol,
        ws="auto",
        ws_ping_interval=None,
        lifespan="off",
        log_config=None,
        timeout_keep_alive=3_600,
    )
    config.load()
    protocol, connection = GuardedProtocol(config, ServerState(), app_state={}), Connection()
    protocol.connection_made(connection)
    return protocol, connection


@pytest.mark.parametrize(
    "pieces",
    [[ASKED], [ASKED[:5], ASKED[5:]], [UPGRADE], [UPGRADE[:5], UPGRADE[5:]]],
    ids=["whole", "in pieces", "a WebSocket", "a WebSocket in pieces"],
)
def test_an_answer_may_take_longer_than_its_request(pieces: list[bytes]) -> None:
    async def ask() -> tuple[bytes, bool]:
        protocol, connection = connected()
        for piece in pieces:
            protocol.data_received(piece)
            await asyncio.sleep(HEAD_SECONDS / 4)
        await asyncio.sleep(3 * WHOLE_SECONDS)
        return connection.written, connection.closed

    written, closed = run_virtual(ask())
    assert (ANSWERED in written, closed) == (True, False)


@pytest.mark.parametrize("beside", [b"1;", b"1\r\nx\r\n0\r\nx: "], ids=["an extension", "a trailer"])
def test_what_comes_beside_a_body_has_a_bound(beside: bytes) -> None:
    async def send() -> tuple[int, bool]:
        protocol, connection = connected()
        protocol.data_received(b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + beside)
        sent = 0
        while not connection.closed and sent < 2 * MOST_HEAD_BYTES:
            protocol.data_received(b"x" * 1_024)
            sent += 1_024
        return sent, connection.closed

    sent, closed = run_virtual(send())
    assert (sent <= MOST_HEAD_BYTES + 1_024, closed) == (True, True)


class Uploads:
    """A guest that starts reading a body after this long, and reports its size; or reports at once, without reading."""

    def __init__(self, *, begins_after: float = 0.0, reads: bool = True) -> None:
        self._begins_after = begins_after
        self._reads = reads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, self._reads
        await asyncio.sleep(self._begins_after)
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"took %d" % size})


UPLOAD = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"


def test_an_upload_to_a_guest_takes_as_long_as_something_of_it_comes() -> None:
    async def upload() -> tuple[bytes, bool]:
        protocol, connection = connected(Guest(Uploads(), {}))
        protocol.data_received(UPLOAD % 10)
        for _ in range(10):
            await asyncio.sleep(0.7 * WHOLE_SECONDS)
            protocol.data_received(b"x")
        await asyncio.sleep(3 * WHOLE_SECONDS)
        return connection.written, connection.closed

    written, closed = run_virtual(upload())
    assert (b"took 10" in written, closed) == (True, False)


@pytest.mark.parametrize("silent", [0.9, 1.1])
def test_an_upload_to_a_guest_of_which_nothing_comes_is_closed(silent: float) -> None:
    async def upload() -> bool:
        protocol, connection = connected(Guest(Uploads(), {}))
        protocol.data_received(UPLOAD % 10)
        for _ in range(3):
            await asyncio.sleep(0.7 * WHOLE_SECONDS)
            protocol.data_received(b"x")
        await asyncio.sleep(silent * WHOLE_SECONDS)
        closed = connection.closed
        protocol.connection_lost(None)
        return closed

    assert run_virtual(upload()) is (silent > 1)


def test_what_comes_behind_the_answer_of_a_guest_has_its_time() -> None:
    async def upload() -> tuple[bytes, int]:
        protocol, connection = connected(Guest(Uploads(reads=False), {}))
        protocol.data_received(UPLOAD % 1_000)
        pieces = 0
        while not connection.closed and pieces < 1_000:
            protocol.data_received(b"x")
            pieces += 1
            await asyncio.sleep(1)
        return connection.written, pieces

    written, pieces = run_virtual(upload())
    assert (b"took 0" in written, pieces <= WHOLE_SECONDS + 1) == (True, True)


def test_an_upload_waits_for_a_guest_that_takes_no_more_of_it_yet() -> None:
    async def upload() -> tuple[bytes, bool]:
        protocol, connection = connected(Guest(Uploads(begins_after=3.5 * WHOLE_SECONDS), {}))
        protocol.data_received(UPLOAD % 100_001 + 100_000 * b"x")
        await asyncio.sleep(3.6 * WHOLE_SECONDS)
        protocol.data_received(b"x")
        await asyncio.sleep(1)
        return connection.written, connection.closed

    written, closed = run_virtual(upload())
    assert (b"took 100001" in written, closed) == (True, False)
