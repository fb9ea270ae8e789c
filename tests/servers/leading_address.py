"""An address that leads now to one server and now to another, like one behind which servers replace each other.

async with LeadingAddress(one.port) as address:
    client = connect(address.port)
    address.leads_to = other.port
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self


class LeadingAddress:
    """A port of this machine. A connection stays with the server to which it was led when it was made."""

    def __init__(self, leads_to: int) -> None:
        self.leads_to = leads_to
        self.led = 0
        """How many connections were led to a server."""
        self._servers: list[asyncio.Server] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._servers[0].sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._servers.append(await asyncio.start_server(self._lead, "127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._servers[0].close()
        self._servers[0].close_clients()
        await self._servers[0].wait_closed()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.leads_to)
        except OSError:
            writer.close()
            return
        self.led += 1
        await asyncio.gather(_pass_on(reader, server_writer), _pass_on(server_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
