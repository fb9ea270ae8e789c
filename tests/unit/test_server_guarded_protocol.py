"""How long a connection may take to say what it asks for, by a clock that the test puts forward, and how much beside it."""

from __future__ import annotations

import asyncio
from typing import Any, override

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from trackside.app.server.guarded_protocol import HEAD_SECONDS, MOST_HEAD_BYTES, WHOLE_SECONDS, GuardedProtocol
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


def connected() -> tuple[GuardedProtocol, Connection]:
    config = Config(
        answer_late,
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
