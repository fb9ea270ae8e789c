"""Requests that offer a protocol which the server does not speak (`Upgrade`), as those of Java's own client do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from raw_connection import RawConnection, connected
from running_server import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQAAP__\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
SOCKET = (
    b"GET /socket HTTP/1.1\r\nHost: localhost\r\n"
    + WEBSOCKET
    + (
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"  # as in RFC 6455
    )
)


async def echo(request: Request) -> Response:
    return Response(b"%s %s" % (request.headers.get("x-number", "").encode(), await request.body()))


async def hello(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


APP = Starlette(routes=[Route("/echo", echo, methods=["GET", "POST"]), WebSocketRoute("/socket", hello)])


@asynccontextmanager
async def app_connected(*, websockets: bool = False) -> AsyncIterator[RawConnection]:
    async with serving(APP, websockets=websockets) as url, connected(url) as connection:
        yield connection


def with_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def in_chunks(body: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))
    return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nUpgrade: h2c\r\n\r\n"


def post(offer: bytes, rest: bytes, *, number: int = 0, version: bytes = b"1.1") -> bytes:
    return b"POST /echo HTTP/%s\r\nHost: localhost\r\nX-Number: %d\r\nX-Empty:\r\n" % (version, number) + offer + rest


@pytest.mark.parametrize("packet", [100_000, 50, 1])
@pytest.mark.parametrize("written", [with_length, in_chunks])
@pytest.mark.parametrize("offer", [
    H2C,
    b"connection: upgrade\r\nupgrade: foo/2, h2c\r\n",
    b"Upgrade: h2c\r\nUpgrade: foo\r\nConnection: keep-alive, Upgrade\r\n",
])  # fmt: skip
@pytest.mark.parametrize("websockets", [True, False])
async def test_a_body_is_read_whatever_is_offered_beside_it(
    websockets: bool, offer: bytes, written: Any, packet: int
) -> None:
    request = post(offer, written(b'{"customer": "nobody"}'), number=7)
    async with app_connected(websockets=websockets) as connection:
        for _ in range(2):
            await connection.send(*(request[at : at + packet] for at in range(0, len(request), packet)))
            assert await connection.answer() == (200, b'7 {"customer": "nobody"}')


@pytest.mark.parametrize("websockets", [True, False])
async def test_a_websocket_is_an_offer_like_others_where_there_are_none_or_it_has_a_body(websockets: bool) -> None:
    async with app_connected(websockets=websockets) as connection:
        await connection.send(post(WEBSOCKET, with_length(b"a body")))
        assert await connection.answer() == (200, b"0 a body")


@pytest.mark.parametrize("offer", [H2C, b"Connection: Upgrade\r\nUpgrade: foo\r\n"])
async def test_what_stands_in_a_body_is_no_request_of_somebody_else(offer: bytes) -> None:
    """Behind a proxy, the next requester on the connection would get its answer, or his request become its body."""
    inside = post(b"", b"Content-Length: 300\r\n\r\nsaid=", number=1)
    head, _, body = post(offer, with_length(inside)).partition(b"\r\n\r\n")
    async with app_connected() as connection:
        await connection.send(head + b"\r\n\r\n", body, post(b"", with_length(b"next"), number=2))
        assert await connection.answer() == (200, b"0 " + inside)
        assert await connection.answer() == (200, b"2 next")


@pytest.mark.parametrize("websockets", [True, False])
async def test_a_large_body_is_read_piece_by_piece(websockets: bool) -> None:
    body = b"x" * 3_000_000
    async with app_connected(websockets=websockets) as connection:
        await connection.send(post(H2C, with_length(body)))
        assert await connection.answer() == (200, b"0 " + body)


async def test_requests_behind_one_another_are_each_answered_whichever_offers() -> None:
    async with app_connected() as connection:
        offers = [H2C, b"", H2C, H2C, WEBSOCKET, b""] * 20
        requests = [post(offer, with_length(b"body"), number=at) for at, offer in enumerate(offers)]
        await connection.send(b"".join(requests))
        for at in range(len(offers)):
            assert await connection.answer() == (200, b"%d body" % at)


async def test_who_asks_before_he_sends_the_body_is_told_to_go_on() -> None:
    head, _, body = post(H2C + b"Expect: 100-continue\r\n", with_length(b"a body")).rpartition(b"\r\n\r\n")
    async with app_connected() as connection:
        await connection.send(head + b"\r\n\r\n")
        assert await connection.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(body)
        assert await connection.answer() == (200, b"0 a body")


@pytest.mark.parametrize("ends", [
    post(b"Connection: close, Upgrade\r\nUpgrade: h2c\r\nConnection: close\r\n", with_length(b"a body")),
    post(H2C, with_length(b"a body"), version=b"1.0"),
])  # fmt: skip
async def test_a_connection_that_ends_with_its_request_has_it_answered_before(ends: bytes) -> None:
    async with app_connected() as connection:
        await connection.send(ends)
        assert await connection.answer() == (200, b"0 a body")
        assert await connection.reader.read() == b""


@pytest.mark.parametrize("before", [b"", post(H2C, with_length(b"a body")), post(b"", with_length(b"a body"))])
async def test_a_websocket_is_opened_also_behind_a_request_with_another_offer(before: bytes) -> None:
    async with app_connected(websockets=True) as connection:
        if before:
            await connection.send(before)
            assert await connection.answer() == (200, b"0 a body")
        await connection.send(SOCKET)
        assert (await connection.head()).startswith(b"HTTP/1.1 101 ")
        assert await connection.reader.readexactly(7) == b"\x81\x05hello"


@pytest.mark.parametrize(("request_", "status"), [
    (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n" + H2C + b"\r\n", 400),
    (b"CONNECT /echo HTTP/1.1\r\nHost: localhost\r\n" + with_length(b"GET /echo HTTP/1.1\r\n\r\n"), 501),
    (b"CONNECT /echo HTTP/1.1\r\nHost: localhost\r\n" + H2C + with_length(b"GET /echo HTTP/1.1\r\n\r\n"), 501),
    (post(H2C, b"Transfer-Encoding: gzip\r\n\r\nx"), 400),
    (post(H2C, b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), 400),
    (post(H2C, b"x: %s\r\n\r\n" % (b"y" * 70_000)), 431),
    (post(H2C, b"x: y\r\n" * 100 + b"\r\n"), 431),
])  # fmt: skip
async def test_what_is_refused_is_refused_with_an_offer_too_and_ends_the_connection(
    request_: bytes, status: int
) -> None:
    async with app_connected() as connection:
        await connection.send(*request_.partition(b"\r\n\r\n"))
        assert (await connection.head()).startswith(b"HTTP/1.1 %d " % status)
        with contextlib.suppress(ConnectionResetError):  # if something was sent after what was refused
            assert b"HTTP/1.1" not in await connection.reader.read()


@pytest.mark.parametrize("field", [
    b"Cookie: " + b"x" * 9_000, b"Content-Length: 6\r\n\r\na body", b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
])  # fmt: skip
async def test_a_websocket_that_cannot_begin_is_refused_and_the_server_can_stop(field: bytes) -> None:
    async with app_connected(websockets=True) as connection:
        await connection.send(SOCKET.removesuffix(b"\r\n") + field + b"\r\n\r\n")
        assert (await connection.head()).startswith(b"HTTP/1.1 400 ")
        assert b"WebSocket" in await connection.reader.read()
