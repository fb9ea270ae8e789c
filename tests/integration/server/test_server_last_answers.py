"""The last answers of a server that ends: no request falls between them and the ends of their connections."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from websockets import CloseCode
from websockets.asyncio.client import connect

from trackside.app.server.http import HttpServer

TIMES = 50
PATIENCE = 60.0  # seconds


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="this system cannot hold back the end of an answer")
async def test_the_end_of_an_answer_that_had_begun_comes_with_the_end_of_its_connection() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        begun.set()
        await may_end.wait()
        await send({"type": "http.response.body", "body": b"to the end"})

    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        async with HttpServer(app, [listening]) as server:
            for _ in range(TIMES):
                begun.clear()
                may_end.clear()
                asking = asyncio.create_task(asyncio.to_thread(answer_and_what_follows, address))
                await begun.wait()
                server.close_after_answers()
                may_end.set()
                assert await asking == b""


async def test_a_websocket_is_closed_with_the_server_and_not_waited_for() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = "ws://{}:{}/".format(*listening.getsockname())
        async with HttpServer(app, [listening], websockets=True) as server, connect(address) as client:
            server.stop_accepting()
            server.close_after_answers()
            assert await server.finish(PATIENCE)
            await client.wait_closed()
    assert client.close_code == CloseCode.SERVICE_RESTART


def answer_and_what_follows(address: tuple[str, int]) -> bytes | None:
    """What a client finds who looks at his connection in the moment in which he has the answer; None: it is open."""
    with socket.create_connection(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            got += client.recv(1_000)
        client.setblocking(False)  # a socket's own way to say it
        try:
            return client.recv(1)
        except BlockingIOError:
            return None
