"""The receivers: HTTP endpoints that misbehave, and brokers; what arrived there, and when, without any of our code."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from random import Random
from threading import Thread
from time import time_ns
from typing import Any, NamedTuple, Self
from zlib import crc32

import nats
from redis.asyncio import Redis
from webhook_receiver import NEW, Connection, WebhookReceiver, reset, status

AT_ONCE = 500  # messages to ask for
FAILS, IS_AWAY, IS_SLOW = 0.02, 0.006, 0.05
"""How likely an endpoint fails in each way. It is rarely away: then it is left alone for a while, with all that waits."""


class Arrival(NamedTuple):
    """An event that a receiver took, at this time (nanoseconds of the wall clock)."""

    at: int
    event_id: str
    body: bytes


def is_refused(event_id: str) -> bool:
    """Whether endpoints refuse this very event, for good."""
    return crc32(event_id.encode()) % 59 == 0


class Endpoint:
    """Takes most of what is posted to it, at once or slowly, and now and then fails in one of the usual ways.

    It refuses a few events for good: half of them with 413, the others with 500 each time. All others get at most one
    500, so that they need not be parked.
    """

    def __init__(self, chance: Random) -> None:
        self.receiver = WebhookReceiver(NEW)
        self.receiver.otherwise = self._answer
        self.arrivals: list[Arrival] = []
        self.attempts: Counter[str] = Counter()
        self.unsigned = 0
        self.to_kill: tuple[int, str] | None = None
        """A process to kill at the next event: when it is "taken", before the endpoint says so, or when "answered"."""
        self.killed_at: int | None = None
        self._chance = chance
        self._failed: set[str] = set()

    async def _answer(self, connection: Connection) -> None:
        request = self.receiver.requests.pop()  # ours, as nothing has been awaited since it came
        event_id = request.headers["webhook-id"]
        self.attempts[event_id] += 1
        self.unsigned += request.verified != (True,)
        if is_refused(event_id):
            await status(413 if crc32(event_id.encode()) % 2 else 500)(connection)
            return
        mood = self._chance.random()
        if mood < FAILS and event_id not in self._failed:
            self._failed.add(event_id)
            await status(500)(connection)
        elif mood < FAILS + IS_AWAY / 3:
            await status(503, {"Retry-After": self._chance.choice(["0", "0", "1"])})(connection)
        elif mood < FAILS + IS_AWAY * 2 / 3:
            await reset(connection)
        else:
            self.arrivals.append(Arrival(time_ns(), event_id, request.body))
            self._kill("taken")
            await self._say_taken(connection, mood)
            self._kill("answered")

    async def _say_taken(self, connection: Connection, mood: float) -> None:
        if mood < FAILS + IS_AWAY:
            await reset(connection)
            return
        if mood > 1 - IS_SLOW:
            await asyncio.sleep(self._chance.uniform(0.01, 0.3))
        await status(200)(connection)

    def _kill(self, moment: str) -> None:
        if self.to_kill is not None and self.to_kill[1] == moment:
            with suppress(ProcessLookupError):  # its own fate was faster
                os.kill(self.to_kill[0], signal.SIGKILL)
            self.killed_at = time_ns()
            self.to_kill = None


class Endpoints:
    """Endpoints in a thread of their own, listening while this is entered."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self._endpoints = endpoints
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="endpoints")

    def __enter__(self) -> Self:
        self._thread.start()
        for endpoint in self._endpoints:
            self._do(endpoint.receiver.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        for endpoint in self._endpoints:
            self._do(endpoint.receiver.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result()


async def arrivals_in_jetstream(url: str, stream: str) -> list[Arrival]:
    """The messages that a stream keeps, in its order."""
    async with await nats.connect(url) as client:
        jetstream = client.jetstream()
        state = (await jetstream.stream_info(stream)).state
        assert state.first_seq <= 1, "the stream has lost something"
        messages = await _in_order(lambda number: jetstream.get_msg(stream, number), state.last_seq)
    return [
        Arrival(round(message.time.timestamp() * 1e9), message.headers["Nats-Msg-Id"], message.data)
        for message in messages
    ]


async def _in_order(get: Callable[[int], Coroutine[Any, Any, Any]], last: int) -> list[Any]:
    found: list[Any] = []
    for first in range(1, last + 1, AT_ONCE):
        found += await asyncio.gather(*map(get, range(first, min(first + AT_ONCE, last + 1))))
    return found


async def arrivals_in_valkey(url: str, key: str) -> list[Arrival]:
    """The entries that a stream keeps, in its order."""
    async with Redis.from_url(url, protocol=2) as client:
        entries = await client.xrange(key)
    return [
        Arrival(int(number.split(b"-")[0]) * 1_000_000, fields[b"event_id"].decode(), fields[b"event"])
        for number, fields in entries
    ]


def event_in(body: bytes) -> dict[str, Any]:
    """The event in a body, whether it was posted or published."""
    said = json.loads(body)
    event: dict[str, Any] = said.get("data", said)
    return event
