"""Many clients that follow one stream of events and cost next to nothing, in a process of their own.

    python _followers.py PORT PATH FOLLOWERS PARTS

It prints a line when everybody is connected. At the end it prints as JSON how many milliseconds each part took to reach
each of them, counted from the time written in the part: the median, the 99th percentile, and the longest.
"""

import asyncio
import json
import re
import statistics
import sys
import time
from array import array
from typing import override

_AT = re.compile(rb'"at":\s*(\d+)')


class Everybody:
    """Who has connected, and who has received what."""

    def __init__(self, followers: int, parts: int) -> None:
        self.connected = asyncio.Event()
        self.done = asyncio.Event()
        self.took = array("q")
        self._not_connected = followers
        self._expected = followers * parts

    def one_is_there(self) -> None:
        self._not_connected -= 1
        if not self._not_connected:
            self.connected.set()

    def arrived(self, sent_at: int) -> None:
        self.took.append(time.perf_counter_ns() - sent_at)
        if len(self.took) == self._expected:
            self.done.set()


class Follower(asyncio.Protocol):
    """Reads everything that comes."""

    def __init__(self, request: bytes, everybody: Everybody) -> None:
        self._request = request
        self._everybody = everybody
        self._is_there = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]  # of a connection, which can write

    @override
    def data_received(self, data: bytes) -> None:
        if not self._is_there:
            self._is_there = True
            self._everybody.one_is_there()
        for found in _AT.finditer(data):
            self._everybody.arrived(int(found[1]))


async def follow(port: int, path: str, followers: int, parts: int) -> dict[str, float]:
    loop, everybody = asyncio.get_running_loop(), Everybody(followers, parts)
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n".encode()
    for _ in range(followers):
        await loop.create_connection(lambda: Follower(request, everybody), "127.0.0.1", port)
    await everybody.connected.wait()
    print("connected", flush=True)
    await everybody.done.wait()
    percentiles = statistics.quantiles(everybody.took, n=100, method="inclusive")
    return {"p50": percentiles[49] / 1e6, "p99": percentiles[98] / 1e6, "last": max(everybody.took) / 1e6}


def main() -> None:
    import resource

    import uvloop

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port, path, followers, parts = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(follow(int(port), path, int(followers), int(parts)))))


if __name__ == "__main__":
    main()
