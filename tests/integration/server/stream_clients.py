"""Clients that follow streams and may be cut off at any point, and what their streams said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from langgraph_sdk.sse import SSEDecoder


async def new_thread(served: Any) -> str:
    return str((await served.app.store.threads_of(None).create()).thread_id)


async def counted(client: Any, thread_id: str, to: int) -> None:
    """A run of `counting` on a thread, which is asked for each number, too, and ends."""
    run = await client.runs.create(thread_id, "counting", input={"to": to}, stream_mode=["custom", "values"])
    await client.runs.join(thread_id, run["run_id"])


def events_in(text: bytes) -> list[tuple[str, Any, str | None]]:
    """The events of a stream, as the SDK reads them."""
    decoder = SSEDecoder()
    decoded = [decoder.decode(line) for line in text.replace(b"\r\n", b"\n").split(b"\n")]
    return [(part.event, part.data, part.id) for part in decoded if part is not None]


class RawClient:
    """A client on a bare socket, that reads as much as it likes and goes when it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.body = b""
        self.location = ""

    @classmethod
    @asynccontextmanager
    async def asking(
        cls, served: Any, method: str, path: str, body: Any = None, **headers: str
    ) -> AsyncIterator[RawClient]:
        host, port = served.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(content)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        client = cls(reader, writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            client.location = next((line[10:] for line in head if line.lower().startswith("location: ")), "")
            yield client
        finally:
            writer.transport.abort()

    async def read_chunk(self) -> bytes:
        """The next chunk of the body; empty at its end."""
        size = int(await self._reader.readline(), 16)
        data = (await self._reader.readexactly(size + 2))[:-2]
        self.body += data
        return data

    async def read_until(self, text: bytes) -> None:
        """Read until the body has this."""
        while text not in self.body:
            assert await self.read_chunk(), "the stream has ended before"

    async def rest(self) -> bytes:
        """What comes until the connection is closed, as it comes."""
        return await self._reader.read()


async def parts(stream: Any) -> list[tuple[str, Any]]:
    return [(part.event, part.data) async for part in stream]
