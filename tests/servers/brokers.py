"""What a broker keeps, read as any consumer would: behind one interface, so that each promise is tested on both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import nats
from kept_server import StopSignal
from nats_server import NatsServer
from redis.asyncio import Redis
from valkey_server import ValkeyServer

from trackside.app.delivery import LONGEST_TRY
from trackside.app.observers.broker import BrokerObserver

_ATTRIBUTES = ("event_type", "run_id", "thread_id", "sequence")


class Kept(NamedTuple):
    """A message that a broker keeps."""

    topic: str
    event_id: str
    body: bytes
    attributes: Mapping[str, str]


class BrokerStage:
    """A broker, and observers that publish to a place of their own there. `settings` are those of the server."""

    scheme: ClassVar[str]
    topic: ClassVar[str]

    def __init__(self, server: Any, name: str) -> None:
        self.server = server
        self.name = name
        self._observers: list[BrokerObserver] = []

    def observer(self, **options: Any) -> BrokerObserver:
        """An observer that is closed with the stage, and has the longest time for what it publishes."""
        here = {"url": self.server.url, "topic": self.topic.replace("NAME", self.name), "timeout": LONGEST_TRY}
        here |= self.place()
        self._observers.append(BrokerObserver(**here | options))
        return self._observers[-1]

    def place(self) -> dict[str, Any]:
        """Further options of an observer that has its own place."""
        return {}

    async def kept(self) -> list[Kept]:
        """What the broker keeps, in its order; Redis has an order within each stream, and milliseconds."""
        raise NotImplementedError

    def restart(self, signal: StopSignal = "KILL") -> None:
        """Stop the server, and start it again; blocks."""
        self.server.restart(signal)

    async def aclose(self) -> None:
        """Close the observers."""
        for observer in self._observers:
            await observer.aclose()


class NatsStage(BrokerStage):
    scheme = "nats"
    topic = "NAME.{event_type}"
    server: NatsServer

    def place(self) -> dict[str, Any]:
        return {"stream": self.name}

    async def kept(self) -> list[Kept]:
        async with await nats.connect(self.server.url, connect_timeout=60) as client:
            stream = client.jetstream(timeout=60)
            state = (await stream.stream_info(self.name)).state
            messages = [
                await stream.get_msg(self.name, number) for number in range(state.first_seq, state.last_seq + 1)
            ]
        kept: list[Kept] = []
        for message in messages:
            headers = message.headers or {}
            said = {name: headers[f"Trackside-{name.replace('_', '-').title()}"] for name in _ATTRIBUTES}
            assert message.subject is not None
            kept.append(Kept(message.subject, headers["Nats-Msg-Id"], message.data or b"", said))
        return kept


class RedisStage(BrokerStage):
    scheme = "redis"
    topic = "NAME:{event_type}"
    server: ValkeyServer

    async def kept(self) -> list[Kept]:
        kept: list[tuple[Any, Kept]] = []
        async with Redis.from_url(self.server.url, protocol=2, driver_info=None, socket_timeout=60) as client:
            async for key in client.scan_iter(f"{self.name}*", _type="stream"):
                for number, fields in await client.xrange(key):
                    said = {name: fields[name.encode()].decode() for name in _ATTRIBUTES}
                    message = Kept(key.decode(), fields[b"event_id"].decode(), fields[b"event"], said)
                    kept.append(((*map(int, number.split(b"-")), message.topic), message))
        return [message for _, message in sorted(kept, key=lambda each: each[0])]
