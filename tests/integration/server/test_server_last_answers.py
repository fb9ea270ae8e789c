"""The last answers of an ending server: no request falls between them and the ends of their connections, and nobody who
has connected goes without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets import CloseCode
from websockets.asyncio.client import connect

from trackside.app.cli.serving.process import new_event_loop
from trackside.app.server.http import HttpServer

type Loop = Callable[[], asyncio.AbstractEventLoop]

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
TIMES = 50
PATIENCE = 60.0  # seconds
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="this system cannot hold back the end of an answer")
@pytest.mark.parametrize("loop_factory", LOOPS)
@pytest.mark.parametrize(("times", "stands_still"), [(TIMES, 0.0), (1, 0.5)], ids=["often", "standing still"])
def test_the_end_of_an_answer_that_had_begun_comes_with_the_end_of_its_connection(
    loop_factory: Loop, times: int, stands_still: float
) -> None:
    async def stop() -> list[bytes | None]:
        answer, follows = Begun(stands_still), list[bytes | None]()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            address = listening.getsockname()
            async with HttpServer(answer, [listening]) as server:
                for _ in range(times):
                    asking = asyncio.create_task(asyncio.to_thread(answer_and_what_follows, address))
                    await answer.begun.wait()
                    server.close_after_answers()
                    answer.may_end.set()
                    follows.append(await asking)
        return follows

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(stop()) == [b""] * times


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_an_answer_that_had_begun_comes_to_its_end_at_a_unix_socket_too(loop_factory: Loop, tmp_path: Path) -> None:
    async def stop() -> bytes:
        answer = Begun()
        with listening_at(tmp_path / "socket") as listening:
            async with HttpServer(answer, [listening]) as server:
                reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
                writer.write(REQUEST)
                await answer.begun.wait()
                server.close_after_answers()
                answer.may_end.set()
                said = await reader.read()
                writer.close()
        return said

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(stop()).endswith(b"to the end\r\n0\r\n\r\n")


async def test_a_websocket_is_closed_with_the_server_and_not_waited_for() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = "ws://{}:{}/".format(*listening.getsockname())
        async with HttpServer(app, [listening], websockets=True) as server, connect(address) as client:
            await server.stop_accepting_for_good()
            server.close_after_answers()
            assert await server.finish(PATIENCE)
            await client.wait_closed()
    assert client.close_code == CloseCode.SERVICE_RESTART


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_all_who_wait_in_the_sockets_of_a_server_that_stops_are_answered(loop_factory: Loop, tmp_path: Path) -> None:
    async def stop() -> set[bytes]:
        with contextlib.ExitStack() as stack:
            listening = [
                stack.enter_context(socket.create_server(("127.0.0.1", 0))),
                stack.enter_context(socket.create_server(("127.0.0.1", 0))),
                stack.enter_context(listening_at(tmp_path / "socket")),
            ]
            async with HttpServer(says_well, listening) as server:
                addresses = [(one.family, one.getsockname()) for one in listening]
                clients = [stack.enter_context(asking(*one)) for one in addresses for _ in range(TIMES)]
                await server.stop_accepting_for_good()
                assert server.connections == len(clients)
                for one in addresses:
                    with pytest.raises(ConnectionRefusedError):
                        asking(*one)
                return await answers_to(clients)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(stop()) == {b"HTTP/1.1 200 OK"}


def test_nobody_is_reset_by_a_server_that_stops_while_more_come_in_each_turn_of_its_loop() -> None:
    async def stop() -> set[bytes]:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = listening.getsockname()
            clients: list[socket.socket] = []

            def come() -> None:
                with contextlib.suppress(ConnectionRefusedError):  # a balancer would try another server
                    clients.extend(stack.enter_context(asking(socket.AF_INET, address)) for _ in range(2))
                    loop.call_soon(come)

            async with HttpServer(says_well, [listening]) as server:
                loop.call_soon(come)
                for _ in range(TIMES):
                    await asyncio.sleep(0)
                await server.stop_accepting_for_good()
                return await answers_to(clients)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(stop()) == {b"HTTP/1.1 200 OK"}


async def test_who_waits_in_the_socket_of_a_server_that_begins_anew_is_left_to_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with HttpServer(says_well, [listening]) as server:
            client = asking(socket.AF_INET, listening.getsockname())
            server.stop_accepting()
            assert await server.finish(PATIENCE)
        with client:
            async with HttpServer(says_well, [listening]):
                assert await answers_to([client]) == {b"HTTP/1.1 200 OK"}


class Begun:
    """Answers in two parts, the second when it may; then its event loop may stand still for some seconds."""

    def __init__(self, stands_still: float = 0.0) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self._stands_still = stands_still

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        self.begun.set()
        await self.may_end.wait()
        self.begun.clear()
        self.may_end.clear()
        await send({"type": "http.response.body", "body": b"to the end"})
        time.sleep(self._stands_still)


async def says_well(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"well"})


def listening_at(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    return listening


def asking(family: socket.AddressFamily, address: Any) -> socket.socket:
    client = socket.socket(family)
    client.settimeout(PATIENCE)
    try:
        client.connect(address)
        client.sendall(REQUEST)
    except OSError:
        client.close()
        raise
    return client


async def answers_to(clients: list[socket.socket]) -> set[bytes]:
    return set(await asyncio.gather(*[asyncio.to_thread(status_of, client) for client in clients]))


def status_of(client: socket.socket) -> bytes:
    return client.recv(1_000).partition(b"\r\n")[0]


def answer_and_what_follows(address: tuple[str, int]) -> bytes | None:
    """What follows on a client's connection the moment it has the answer; None if the connection is still open."""
    with socket.create_connection(address) as client:
        client.sendall(REQUEST)
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            got += client.recv(1_000)
        client.setblocking(False)  # the socket then raises `BlockingIOError` if nothing is there
        try:
            return client.recv(1)
        except BlockingIOError:
            return None
