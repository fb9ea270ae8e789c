"""Requests that no client would send: each is refused in a sentence, none is answered twice, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trackside.app.server import create_app, guarded_protocol, http, reading
from trackside.app.server.http import HttpServer
from trackside.app.settings import Settings
from trackside.app.wiring import open_app

DIALECTS = ("sqlite",)  # no request here gets to a database


async def echo(input: Any) -> Any:
    return input


class Talk:
    """A server, and raw connections to it."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def connect(self, said: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which this, which is small, has been sent before the server hears of it: it comes in time."""
        connected = socket.create_connection(("127.0.0.1", self.port))
        connected.sendall(said)
        return await asyncio.open_connection(sock=connected)

    async def say(self, *pieces: bytes, at_once: bytes = b"") -> bytes:
        """The answer to these pieces, up to the end of the connection; some may be there as soon as it is."""
        reader, writer = await self.connect(at_once)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(60):
                return await reader.read()
        except ConnectionError:  # a broken pipe, if the server had closed its end before
            return b"reset"
        finally:
            writer.close()

    async def is_well(self) -> bool:
        answer = await self.say(at_once=b"GET /ok HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return answer.startswith(b"HTTP/1.1 200") and answer.endswith(b'{"ok":true}')


@pytest.fixture
async def talk(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Talk]:
    monkeypatch.setattr(reading, "_PATIENCE", 0.2)  # with clients that announce a body and do not send it
    async with open_app(Settings(database_url=database_url), {"echo": echo}) as app:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            async with HttpServer(app.asgi, [listening]):
                yield Talk(listening.getsockname()[1])


HEAD = b"GET /ok HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /runs/wait HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MEGABYTE = 1_048_576


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /ok HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (HEAD + b"x: " + b"y" * 3 * MEGABYTE + b"\r\n\r\n", 431),
        (HEAD + b"x: " + b"y" * 3 * MEGABYTE, 431),
        (HEAD + b"".join(b"x%d: y\r\n" % number for number in range(101)) + b"\r\n", 431),
        (HEAD + b"".join(b"x%d: y\r\n" % number for number in range(100_000)), 431),
        (b"GET /ok?" + b"y" * 17_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET /" + b"y" * 3 * MEGABYTE, 414),
        (b"GET /ok HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\0" * 100, 400),
        (HEAD + b"x : y\r\n\r\n", 400),
        (HEAD + b"x: a\0b\r\n\r\n", 400),
        (HEAD + b"x: a\r\n folded\r\n\r\n", 400),
        (b"GET /ok HTTP/1.1\nHost: localhost\n\n", 400),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n{}", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"TRACE /ok HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", 415),
        (POST.replace(b"application/json", b"text/plain") + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}", 415),
        (POST + b"Content-Length: 99999999\r\n\r\n", 413),
        (POST + b"Content-Length: 2\r\nConnection: close\r\n\r\n\xff\xfe", 422),
        (POST + b"Content-Length: 100001\r\nConnection: close\r\n\r\n" + b"[" * 100_001, 422),
    ],
)  # fmt: skip
async def test_nonsense_is_refused_in_a_sentence(talk: Talk, request_: bytes, status: int) -> None:
    answer = await talk.say(request_)
    if answer != b"reset":  # it is if pieces are still under way when the server has seen enough
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
        head, _, body = answer.partition(b"\r\n\r\n")
        assert json.loads(body)["detail"]
        assert b"\r\nconnection: close" in head
        assert answer.count(b"HTTP/1.1 ") == 1
    assert await talk.is_well()


async def test_a_large_body_in_chunks_is_refused_without_being_kept(talk: Talk) -> None:
    chunk = b"100000\r\n" + b"x" * MEGABYTE + b"\r\n"
    answer = await talk.say(POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 20)
    assert answer == b"reset" or answer.startswith(b"HTTP/1.1 413 ")
    assert await talk.is_well()


async def test_a_body_that_is_as_large_as_may_be_is_read(talk: Talk) -> None:
    text = json.dumps({"assistant_id": "echo", "input": {"text": "x" * (16 * MEGABYTE - 100)}}).encode()
    answer = await talk.say(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(text), text)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_trailer_is_no_header(talk: Talk) -> None:
    chunks = b'26\r\n{"assistant_id": "echo", "input": "a"}\r\n0\r\n'
    trailer = b"Content-Type: text/plain\r\n\r\n"
    answer = await talk.say(POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks + trailer)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_requests_one_behind_another_are_answered_in_order(talk: Talk) -> None:
    last = b"GET /info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await talk.say((HEAD + b"\r\n") * 3 + last)
    assert answer.count(b"HTTP/1.1 200 ") == 4
    assert answer.rindex(b'{"ok":true}') < answer.index(b'"version"')


async def test_a_head_that_trickles_has_its_time(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_protocol, "HEAD_SECONDS", 0.2)
    reader, writer = await talk.connect(HEAD)

    async def trickle() -> None:
        while True:
            writer.write(b"x: y\r\n")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\r\n")
    trickling.cancel()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert await talk.is_well()


async def test_who_says_nothing_is_let_go(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_protocol, "HEAD_SECONDS", 0.1)
    assert await talk.say() == b""
    assert await talk.is_well()


async def test_many_who_say_nothing_keep_nobody_from_being_answered_and_are_let_go(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = [b"", HEAD, POST + b"Content-Length: 9\r\n\r\nno"] * 50
    async with AsyncExitStack() as stack:

        async def begin() -> list[asyncio.StreamReader]:
            readers = []
            for piece in begun:
                reader, writer = await asyncio.open_connection("127.0.0.1", talk.port)
                stack.callback(writer.close)
                writer.write(piece)
                readers.append(reader)
            return readers

        silent = await begin()
        assert [await talk.is_well() for _ in range(3)] == [True] * 3
        assert not any(reader.at_eof() for reader in silent[::3]), "they were there all the time"
        monkeypatch.setattr(guarded_protocol, "HEAD_SECONDS", 0.1)
        monkeypatch.setattr(guarded_protocol, "WHOLE_SECONDS", 0.3)
        async with asyncio.timeout(60):
            for reader in await begin():
                with suppress(ConnectionError):
                    await reader.read()  # to the end of the connection
        assert await talk.is_well()
    await asyncio.sleep(0)  # so that their transports close


@pytest.mark.parametrize("offer", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
@pytest.mark.parametrize("path", [b"/runs/wait", b"/ok"])
async def test_a_body_that_trickles_has_its_time(
    talk: Talk, path: bytes, offer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a body that nobody reads."""
    monkeypatch.setattr(guarded_protocol, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(guarded_protocol, "WHOLE_SECONDS", 0.3)
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + offer + b"Content-Length: 1000000\r\n\r\n"
    reader, writer = await talk.connect(head)

    async def trickle() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    try:
        async with asyncio.timeout(60):
            await reader.read()
    except ConnectionError:
        pass
    trickling.cancel()
    writer.close()
    assert await talk.is_well()


async def test_a_body_that_is_read_has_its_time_and_who_sends_it_is_told(database_url: str) -> None:
    async with open_app(Settings(database_url=database_url), {"echo": echo}) as app:
        parts = app.parts
        hasty = create_app(replace(parts, options=replace(parts.options, body_seconds=0.1)))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            async with HttpServer(hasty, [listening]):
                talk = Talk(listening.getsockname()[1])
                answer = await talk.say(POST + b"Content-Length: 1000\r\n\r\n" + b'{"assistant_id"')
                assert await talk.is_well()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body has not come in 0.1 seconds" in answer


async def test_who_comes_when_all_connections_are_taken_is_told_to_come_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_MOST_CONNECTIONS", 3)
    async with open_app(Settings(database_url=database_url), {"echo": echo}) as app, AsyncExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        await stack.enter_async_context(HttpServer(app.asgi, [listening]))
        talk = Talk(listening.getsockname()[1])
        idle = [await asyncio.open_connection("127.0.0.1", talk.port) for _ in range(2)]
        answer = await talk.say(b"GET /ok HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        for _, writer in idle:
            writer.close()
        while not await talk.is_well():
            await asyncio.sleep(0.01)
    assert answer.startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("ending", [b"\r\n", b""])
async def test_who_leaves_in_the_middle_leaves_nothing_behind(talk: Talk, ending: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", talk.port)
    writer.write(POST + b"Content-Length: 1000\r\n" + ending + b'{"assistant_id"')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await talk.is_well()


TOKEN = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789-_!#$%&'*+.^`|~"), min_size=1, max_size=40)
VALUE = st.binary(max_size=200)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(headers=st.lists(st.tuples(TOKEN, VALUE), max_size=20), known=st.sampled_from(["x-api-key", "authorization", "host",
    "origin", "accept", "content-type", "content-length", "transfer-encoding", "connection", "upgrade", "expect",
    "last-event-id", "prefer", "idempotency-key"]), value=VALUE)  # fmt: skip
async def test_whatever_is_in_headers_there_is_one_answer_and_no_failure(
    talk: Talk, headers: list[tuple[str, bytes]], known: str, value: bytes
) -> None:
    sent = [*headers, (known, value)]
    lines = b"".join(name.encode() + b": " + text + b"\r\n" for name, text in sent)
    answer = await talk.say(b"GET /info HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    assert answer.count(b"HTTP/1.1 ") == 1
