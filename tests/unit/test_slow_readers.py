"""What a client costs if it takes its data slowly, or not at all; that it gets all of it; how a server leaves it."""

from __future__ import annotations

import asyncio
import gc
import re
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from trackside.app.server.front import Front
from trackside.app.server.protocol.thread_events import ProtocolEvents
from trackside.app.server.run_events import RunEvents
from trackside.app.server.thread_events import ThreadEvents
from trackside.app.streams import StreamHub
from trackside.app.streams.protocol import Wanted
from trackside.harness.types import RunRecord, RunSpec, RunStatus, ThreadStatus

THREAD, RUN = "thread-1", "run-1"
PARTS, LENGTH = 1_500, 1_000
FOLLOWERS = 20
AT_ONCE = 262_144

type Answer = Callable[[Any, Any, Any], Any]


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


def talking(parts: int) -> StreamHub:
    """A hub in which a run has said a lot, and goes on."""
    hub = StreamHub()
    now = datetime.now(UTC)
    run = RunRecord(run_id=RUN, thread_id=THREAD, agent="a", status=RunStatus.running, created_at=now)
    hub.begin(run, RunSpec("a", stream_mode="custom"))
    for number in range(parts):
        hub.publish(RUN, "custom", f"part {number} " + "x" * LENGTH)
    return hub


def run_of(hub: StreamHub) -> Answer:
    return RunEvents(run_id=RUN, reader=hub.read(RUN), ended=never)


def thread_of(hub: StreamHub) -> Answer:
    return ThreadEvents(parts=parts_of(hub), thread=THREAD_ROW, modes=["run_modes"], last_event_id="-1")


def protocol_of(hub: StreamHub) -> Answer:
    states: Any = SimpleNamespace(thread=THREAD_ROW)
    return ProtocolEvents(parts=parts_of(hub), states=states, wanted=Wanted(channels=("custom",)), since=0)


THREAD_ROW: Any = SimpleNamespace(thread_id=THREAD, status=ThreadStatus.busy, last_run_id=None)


def parts_of(hub: StreamHub) -> Any:
    return SimpleNamespace(streams=hub, mirrors=None, options=SimpleNamespace(patience=30.0, heartbeat=5.0))


class Client:
    """A client that takes the head, but what follows only when the test lets it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.is_asked = asyncio.Event()
        self.may_take = asyncio.Event()
        self.ends: list[bool] = []

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.is_asked.set()
            await self.may_take.wait()
            self.bodies.append(message["body"])
            self.ends.append(not message["more_body"])


KINDS = pytest.mark.parametrize("answer_of", [run_of, thread_of, protocol_of])


@KINDS
async def test_what_slow_clients_have_not_taken_is_kept_once_for_all(answer_of: Callable[[StreamHub], Answer]) -> None:
    hub, first = talking(PARTS), Client()
    first.may_take.set()
    tasks = [asyncio.create_task(answer_of(hub)({}, never, first.send))]
    while b"part %d " % (PARTS - 1) not in b"".join(first.bodies[-1:]):  # by then everything shared is made
        await asyncio.sleep(0)
    clients = [Client() for _ in range(FOLLOWERS)]
    gc.collect()
    tracemalloc.start()
    try:
        tasks += [asyncio.create_task(answer_of(hub)({}, never, client.send)) for client in clients]
        for client in clients:
            await client.is_asked.wait()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held / FOLLOWERS < 2.5 * AT_ONCE < PARTS * LENGTH / 2
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@KINDS
async def test_a_slow_client_gets_all_in_order_and_in_bounded_pieces(answer_of: Callable[[StreamHub], Answer]) -> None:
    hub, client = talking(700), Client()
    hub.publish(RUN, "custom", "part 700 " + "x" * 3 * AT_ONCE)
    hub.publish(RUN, "custom", "part 701 ")
    task = asyncio.create_task(answer_of(hub)({}, never, client.send))
    await client.is_asked.wait()
    hub.close(RUN, end={"status": "success"})
    hub.threads.forget([THREAD])
    client.may_take.set()
    await task

    said = b"".join(client.bodies)
    assert re.findall(rb"part (\d+) ", said) == [b"%d" % number for number in range(702)]
    assert len(said) > 700 * LENGTH + 3 * AT_ONCE
    assert max(map(len, client.bodies)) <= AT_ONCE
    assert client.ends == [False] * (len(client.bodies) - 1) + [True]


@pytest.mark.parametrize("length", [1_000, 2 * AT_ONCE])
@KINDS
async def test_a_server_that_stops_cuts_slow_clients_off_so_that_they_come_back(
    answer_of: Callable[[StreamHub], Answer], length: int
) -> None:
    hub, client = talking(0), Client()
    front = Front(answer_of(hub))
    hub.publish(RUN, "custom", "x" * length)
    task = asyncio.create_task(front({"type": "http", "method": "GET", "path": "/"}, never, client.send))
    await client.is_asked.wait()

    front.begin_ending()
    hub.end_all()
    front.end_streams()
    client.may_take.set()
    await task

    assert True not in client.ends
