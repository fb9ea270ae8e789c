"""A client that costs next to nothing, in a process of its own: the same request each time, over this many connections.

    python _light_client.py PORT PATH BODY CLIENTS REQUESTS

It prints as JSON how many requests a second were answered, and the milliseconds that they took. Any answer other than
200 ends it.
"""

import asyncio
import json
import sys
import time
from functools import partial
from typing import override


class Connection(asyncio.Protocol):
    """Sends the request again as soon as it is answered, until there are none left to send."""

    def __init__(self, request: bytes, left: list[int], took: list[float], done: asyncio.Future[None]) -> None:
        self._request = request
        self._left = left
        self._took = took
        self._done = done
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._asked_at = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a connection, which can write

    def ask(self) -> None:
        """Send the request once more, or report that all were answered."""
        if not self._left[0]:
            if not self._done.done():
                self._done.set_result(None)
            return
        self._left[0] -= 1
        self._asked_at = time.perf_counter()
        assert self._transport is not None
        self._transport.write(self._request)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if not ended:
            return
        _, _, length = head.lower().partition(b"content-length: ")
        # A long-running request is answered in chunks.
        is_whole = len(body) >= int(length.partition(b"\r\n")[0]) if length else body.endswith(b"0\r\n\r\n")
        if not is_whole:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(RuntimeError(f"answered {self._received[:500]!r}"))
            return
        self._received = b""
        self._took.append(time.perf_counter() - self._asked_at)
        self.ask()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))


async def measured(port: int, path: str, body: bytes, clients: int, requests: int) -> dict[str, object]:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    left, took = [requests], list[float]()
    connections: list[Connection] = []
    done: list[asyncio.Future[None]] = []
    for _ in range(clients):
        over = loop.create_future()
        make = partial(Connection, request, left, took, over)
        _, connection = await loop.create_connection(make, "127.0.0.1", port)
        connections.append(connection)
        done.append(over)
    begun = time.perf_counter()
    for connection in connections:
        connection.ask()
    await asyncio.gather(*done)
    seconds = time.perf_counter() - begun
    took.sort()
    return {
        "rate": len(took) / seconds,
        "p50_ms": took[len(took) // 2] * 1e3,
        "p99_ms": took[len(took) * 99 // 100] * 1e3,
    }


def main() -> None:
    import uvloop

    port, path, body, clients, requests = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measured(int(port), path, body.encode(), int(clients), int(requests)))))


if __name__ == "__main__":
    main()
