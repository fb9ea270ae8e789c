"""One HTTP/1.1 connection to a server, for tests of what is sent on it before, after and in the middle of requests."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from urllib.parse import urlsplit


class RawConnection:
    """A connection to a server, for a test that decides which bytes it sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send each piece in a packet of its own, if it is no larger than one."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def head(self) -> bytes:
        """The head of the next answer."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[int, bytes]:
        """The status and the body of the next answer."""
        head = await self.head()
        version, code, reason = head.partition(b"\r\n")[0].split(b" ", 2)
        status = HTTPStatus(int(code))
        assert (version, reason) == (b"HTTP/1.1", status.phrase.encode())
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is not None:
            return status, await self.reader.readexactly(int(length[1]))
        chunks = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):  # of a chunked answer
            chunks.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return status, b"".join(chunks).lstrip()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RawConnection]:
    """A connection to the server at this address, for 60 seconds at most.

    Raises:
        TimeoutError: it took longer.
    """
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        async with asyncio.timeout(60):
            yield RawConnection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()
