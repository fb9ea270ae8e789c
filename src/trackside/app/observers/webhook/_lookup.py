"""Looks names up in its own threads: a late or missing answer holds up nobody, and no process that ends."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, override

from aiohttp.abc import AbstractResolver, ResolveResult

from trackside.app.daemon_threads import DaemonThreads

__all__ = ["SystemResolver"]


class SystemResolver(AbstractResolver):
    """Asks what this machine asks: its hosts file and its name servers."""

    def __init__(self) -> None:
        self._threads = DaemonThreads("trackside-webhook-lookup", one_by_one=True)

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host.

        Raises:
            OSError: it could not be looked up.
        """
        ask = partial(
            socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [
            ResolveResult(
                hostname=host,
                host=_text_of(address),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    @override
    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _text_of(address: tuple[Any, ...]) -> str:
    """The address alone, with the number of its interface if it means something only there."""
    host, _, *more = address
    return f"{host}%{more[1]}" if len(more) == 2 and more[1] else str(host)
