"""A worker that executes, servers that mirror what its runs say, and what their readers are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from adverse_wire import AdverseWire, Adversity
from told_ends import ToldEnds

from trackside.app.streams import EndedStream, FeedReader, HubLimits, Reader, StreamHub
from trackside.app.streams.mirror import Mirrors
from trackside.app.streams.mirror_options import MirrorOptions
from trackside.app.streams.relay import Relay
from trackside.harness.types import RunRecord, RunSpec, RunStatus

THREAD, RUN = "thread-1", "run-1"
QUICK = MirrorOptions(linger=0.02, grace=0.05, patience=0.2, doubt=0.02)
SPEC = RunSpec("a", stream_mode=("values", "custom", "messages"))


def record(run_id: str = RUN, thread_id: str = THREAD) -> RunRecord:
    now = datetime.now(UTC)
    return RunRecord(run_id=run_id, thread_id=thread_id, agent="a", status=RunStatus.running, created_at=now)


class Fleet:
    """A worker that executes, and servers that clients ask."""

    def __init__(
        self, wire: AdverseWire, *, servers: int = 1, limits: HubLimits | None = None, options: MirrorOptions = QUICK
    ) -> None:
        self.wire = wire
        self.log = ToldEnds()
        self.hub = StreamHub(limits)
        self.relay = Relay(self.hub, wire)
        self.servers = [StreamHub(limits) for _ in range(servers)]
        self.mirrors = [Mirrors(server, wire, self.log, options) for server in self.servers]

    def begin(self, run_id: str = RUN, **more: Any) -> None:
        self.hub.begin(record(run_id), RunSpec("a", stream_mode=SPEC.stream_mode, **more))

    def say(self, *numbers: int, run_id: str = RUN) -> None:
        for number in numbers:
            self.hub.publish(run_id, "custom", number)

    def end(self, run_id: str = RUN, **says: Any) -> None:
        end = {"status": "success", **says}
        self.log.tell(run_id, **end)
        self.hub.close(run_id, end=end)


@asynccontextmanager
async def fleet(adversity: Adversity | None = None, seed: int = 0, **more: Any) -> AsyncGenerator[Fleet]:
    made = Fleet(AdverseWire(adversity, seed), **more)
    try:
        yield made
    finally:
        await made.relay.aclose(0.05)
        for mirrors in made.mirrors:
            await mirrors.aclose()


async def to_the_end(reader: Reader) -> tuple[list[Any], EndedStream]:
    """Everything a reader gets: bytes of parts, gaps as pairs; then the end."""
    got: list[Any] = []
    while True:
        if (gap := reader.gap()) is not None:
            got.append((gap.first, gap.last))
        batch = await asyncio.wait_for(reader.next(), 5)
        if isinstance(batch, EndedStream):
            return got, batch
        got += [(frame.id, frame.sse, frame.namespace, frame.said) for frame in batch]


def numbers_of(got: list[Any]) -> list[Any]:
    return [int(one[0].rpartition("-")[2]) if isinstance(one[0], str) else one for one in got]


def told(reader: FeedReader) -> list[tuple[str, str, Any]]:
    def what(item: Any) -> Any:
        return {"part": lambda: item.what.data, "ended": lambda: item.what["status"]}.get(item.kind, lambda: None)()

    return [(item.kind, item.run_id, what(item)) for item in reader.take()]


async def heard(reader: FeedReader, many: int) -> list[tuple[str, str, Any]]:
    got: list[tuple[str, str, Any]] = []
    async with asyncio.timeout(5):
        while len(got) < many:
            await reader.wait()
            got += told(reader)
    return got
