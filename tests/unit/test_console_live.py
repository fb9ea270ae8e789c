"""What pages hear of changes that make no event of the log: that there was one, and else that they are still live."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.contract.ways_to_run import virtual

from trackside.app.dashboard.live import BEAT, Looks
from trackside.app.server.parts import ServerOptions

LONG = ServerOptions(heartbeat=60.0, patience=30.0)


class Client:
    """Records what it hears, and when; leaves after `stays` seconds, and takes nothing more after `takes` seconds."""

    def __init__(self, *, stays: float = 3_600.0, takes: float = 3_600.0) -> None:
        self.heard: list[tuple[float, str]] = []
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._stays = stays
        self._takes = takes

    @property
    def now(self) -> float:
        return round(self._loop.time() - self._began, 3)

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(self._stays)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.now >= self._takes:
            await asyncio.Event().wait()
        if message["type"] == "http.response.body":
            self.heard.append((self.now, message["body"].split()[1].decode()))


async def follow(client: Client, *changes: float, every: float = 1.0, options: ServerOptions = LONG) -> None:
    """Follow something that changes at these times."""
    left = [*changes]

    async def has_changed() -> bool:
        return bool(left) and client.now >= left[0] and bool(left.pop(0))

    await Looks(has_changed, options, every=every)({}, client.receive, client.send)


@virtual
async def test_a_page_hears_at_once_that_it_is_live_then_of_each_change_and_of_nothing_now_and_then() -> None:
    client = Client(stays=14.5)
    await follow(client, 2.5, 3.5)
    assert client.heard == [(0, "beat"), (3, "changed"), (4, "changed"), (4 + BEAT, "beat"), (4 + 2 * BEAT, "beat")]
    assert client.now == 14.5


@virtual
async def test_a_page_hears_it_as_often_as_the_server_says_that_connections_live() -> None:
    client = Client(stays=4.5)
    await follow(client, options=ServerOptions(heartbeat=2.0, patience=30.0))
    assert client.heard == [(0, "beat"), (2, "beat"), (4, "beat")]


@virtual
async def test_a_page_that_takes_nothing_is_let_go() -> None:
    client = Client(takes=1.0)
    await follow(client, 1.5)
    assert (client.heard, client.now) == ([(0, "beat")], 2 + LONG.patience)
