"""A receiver of webhooks: real HTTP, signatures verified by the library of Standard Webhooks, and every way to fail.

    async with WebhookReceiver(NEW) as receiver:
        receiver.answers.append(status(503, {"Retry-After": "7"}))  # once; then 200

As a program it serves until its standard input ends, and says its port first: `python webhook_receiver.py SECRET`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import struct
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Self

import uvloop
from standardwebhooks import Webhook, WebhookVerificationError

NEW, OLD, OTHER = ("whsec_" + base64.b64encode(name * 8).decode() for name in (b"new!", b"old!", b"else"))

type Answer = Callable[[Connection], Awaitable[None]]
"""Answers one request, or does something else to its connection."""

_DRIP_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. Header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    verified: tuple[bool, ...]
    """Whether the signature is that of each of the receiver's secrets."""


class Connection:
    """A client's connection, with what an answer may do to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, receiver: WebhookReceiver) -> None:
        self._reader = reader
        self._writer = writer
        self._receiver = receiver

    async def read_request(self) -> tuple[str, Mapping[str, str], bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return first.split(" ")[1], headers, body

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        self._receiver.sent_bytes += len(data)

    async def hung_up(self) -> None:
        """Wait until the client hangs up."""
        while await self._reader.read(65_536):
            pass

    def reset(self) -> None:
        self._writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def status(code: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
    """A well-formed answer."""
    lines = [f"{name}: {value}" for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items()]
    answer = "\r\n".join([f"HTTP/1.1 {code} Said", *lines, "", ""]).encode() + body
    return raw(answer)


def raw(answer: bytes) -> Answer:
    """An answer of these bytes, whatever they are."""
    return lambda connection: connection.send(answer)


async def silence(connection: Connection) -> None:
    """Take the request, and say nothing to it."""
    await connection.hung_up()


async def reset(connection: Connection) -> None:
    """Tear down the connection instead of answering."""
    connection.reset()


def reset_after(start: bytes) -> Answer:
    """An answer in the middle of which the connection is torn down."""

    async def answer(connection: Connection) -> None:
        await connection.send(start)
        connection.reset()

    return answer


def dripping(start: bytes, drop: bytes) -> Answer:
    """An answer that goes on, drop by drop, as long as somebody listens."""
    return _endless(start, drop, _DRIP_SECONDS)


def flooding(start: bytes, flood: bytes) -> Answer:
    """An answer that goes on without an end, as fast as somebody reads."""
    return _endless(start, flood, 0)


def _endless(start: bytes, more: bytes, pause: float) -> Answer:
    async def answer(connection: Connection) -> None:
        await connection.send(start)
        while True:
            await connection.send(more)
            await asyncio.sleep(pause)

    return answer


class WebhookReceiver:
    """Listens on a port of its own while it is entered, on this machine alone unless `host` says otherwise.

    `answers` are given one after the other, and `otherwise` when there are none left.
    """

    def __init__(
        self, *secrets: str, tls: ssl.SSLContext | None = None, keep: bool = True, host: str = "127.0.0.1"
    ) -> None:
        self.host = host
        self.requests: deque[Request] = deque(maxlen=None if keep else 0)
        self.answers: deque[Answer] = deque()
        self.otherwise: Answer = status(200)
        self.connections = 0
        self.sent_bytes = 0
        self.port = 0
        self._came = asyncio.Event()
        self._tls = tls
        self._verifiers = [Webhook(secret) for secret in secrets]
        self._open: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}/hook"

    async def until(self, number: int) -> None:
        """Wait for so many requests in all."""
        while len(self.requests) < number:
            self._came.clear()
            await self._came.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, ssl=self._tls, limit=1 << 26, backlog=1_024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in [*self._open]:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        connection = Connection(reader, writer, self)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
                while True:
                    path, headers, body = await connection.read_request()
                    verified = tuple(_verifies(verifier, headers, body) for verifier in self._verifiers)
                    self.requests.append(Request(path, headers, body, verified))
                    self._came.set()
                    await (self.answers.popleft() if self.answers else self.otherwise)(connection)
        finally:
            self._open.discard(task)
            writer.transport.abort()


def _verifies(verifier: Webhook, headers: Mapping[str, str], body: bytes) -> bool:
    try:
        verifier.verify(body, dict(headers))
    except WebhookVerificationError:
        return False
    return True


async def _main(secrets: list[str]) -> None:
    async with WebhookReceiver(*secrets, keep=False) as receiver:
        print(receiver.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]), loop_factory=uvloop.new_event_loop)
