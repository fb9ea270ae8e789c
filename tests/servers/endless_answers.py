"""A server whose answers never end: a bit more of them comes every few milliseconds, for as long as somebody reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

_PAUSE = 0.005  # real seconds
_HEADS = {
    "head": b"HTTP/1.1 200 OK\r\nX-And-So-On: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    "refusal": b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\n",
}


@asynccontextmanager
async def endless_answers(endless: str) -> AsyncGenerator[str]:
    """The address of such a server.

    Args:
        endless: which part of an answer has no end: its "head"; its "body"; the body of a "refusal".
    """

    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_HEADS[endless])
            while True:
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(_PAUSE)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.transport.abort()
