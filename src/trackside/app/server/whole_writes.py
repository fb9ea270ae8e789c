"""A connection's transport that sends the head of an answer together with what comes after it.

ASGI has the head and the body of an answer in two messages, and uvicorn writes each as it comes: two system calls, two
packets, and a client that wakes twice, for what is nearly always one piece. This transport also closes if the other
side stands still.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, Final

TAKES_NOTHING_SECONDS: Final = 20.0
"""How long the other side of a closing connection may take nothing of what is left for it."""


class WholeWrites:
    """Passes everything on to a transport. A head waits for what is written next, but not beyond this turn of the loop."""

    __slots__ = ("_call_later", "_call_soon", "_head", "_transport", "_write", "ends_at_once")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._write = transport.write
        self._call_soon = loop.call_soon
        self._call_later = loop.call_later
        self._head: bytes | None = None
        self.ends_at_once = False
        """Whether the other side learns of the end at once where all is written, not in a later turn of the loop."""

    def write(self, data: bytes) -> None:
        """Write this, behind the head that waits, if there is one. What looks like a head waits, too, and no longer."""
        head, self._head = self._head, None
        if head is not None:
            self._write(head + data)
        elif data.startswith(b"HTTP/1."):
            self._head = data
            self._call_soon(self._flush)
        else:
            self._write(data)

    def close(self) -> None:
        """Close the connection when everything is written, or the other side takes no more of it."""
        self._flush()
        if self.ends_at_once and not (self._transport.is_closing() or self._transport.get_write_buffer_size()):
            _end(self._transport.get_extra_info("socket").fileno())
        self._transport.close()
        if (left := self._transport.get_write_buffer_size()) > 0:
            self._call_later(TAKES_NOTHING_SECONDS, self._look, left)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _look(self, before: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left >= before:  # a side that stands still would keep the connection, and what is for it, for ever
            self._transport.abort()
        elif left > 0:
            self._call_later(TAKES_NOTHING_SECONDS, self._look, left)

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._write(head)


def _end(connection: int) -> None:
    """Tell the other side that nothing more comes: the transports of uvloop do that in a later turn of the loop, too."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection)) as same:  # the other side may have gone
        same.shutdown(socket.SHUT_WR)
