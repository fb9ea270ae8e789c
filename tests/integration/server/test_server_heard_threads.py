"""Threads of which a server hears from other processes, over a wire that delivers late."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from adverse_wire import AdverseWire, Adversity
from sqlalchemy import text
from tests.integration.storage.writer_works import OnSession
from told_ends import ToldEnds

from trackside.app.server.protocol.thread_events import ProtocolEvents
from trackside.app.server.thread_events import ThreadEvents
from trackside.app.streams import Mirrors, StreamHub
from trackside.app.streams.protocol import Wanted, read_events
from trackside.app.streams.relay import Relay
from trackside.testing.events import make_run

DIALECTS = ("sqlite",)


async def test_who_has_the_head_of_a_threads_stream_misses_nothing_that_happens_from_then_on(serve_agents: Any) -> None:
    wire, elsewhere = AdverseWire(), StreamHub()
    relay = Relay(elsewhere, wire)
    told = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            elsewhere.threads.note_state(thread.thread_id, b'{"values":"new"}')
        elif b"new" in message["body"]:
            told.set()

    async with serve_agents({}) as served:
        mirrors = Mirrors(served.app.streams, wire, ToldEnds())
        thread = await served.app.store.threads_of(None).create()
        elsewhere.threads.note_state(thread.thread_id, b'{"values":"old"}')  # the wire keeps this and delivers it late
        wire.adversity = Adversity(held_up=100)
        parts = replace(served.app.parts, mirrors=mirrors)
        events = ThreadEvents(parts=parts, thread=thread, modes={"state_update"}, last_event_id=None)
        answer = asyncio.create_task(events({}, asyncio.Event().wait, send))
        await asyncio.sleep(0)
        wire.adversity = Adversity()
        await asyncio.wait_for(told.wait(), 30)
        answer.cancel()
        await asyncio.wait((answer,))
        await mirrors.aclose()
    await relay.aclose()


async def test_an_end_that_the_database_cannot_tell_is_looked_at_again(
    serve_agents: Any, caplog: pytest.LogCaptureFixture
) -> None:
    unheard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: unheard.append(said["message"]))
    async with serve_agents({}) as served:
        store, parts = served.app.store, served.app.parts
        run = make_run()
        await store.append(run)
        states: Any = SimpleNamespace(thread=await store.thread(run[0].thread_id))
        wanted = Wanted(channels=("lifecycle",))
        events = ProtocolEvents(parts=parts, states=states, wanted=wanted, since=None)
        await store._writer.write(OnSession(partial(rename, "title", "away")))
        with read_events(parts.streams.threads, run[0].thread_id, wanted, None) as reader:
            events._follow_elsewhere(reader, run[0].run_id)
            assert events._elsewhere is not None
            await asyncio.wait((events._elsewhere,))
            gc.collect()
            moved = [*reader.log.moved]
        await store._writer.write(OnSession(partial(rename, "away", "title")))

    assert (moved, unheard) == ([run[0].run_id], [])
    assert f"how run {run[0].run_id} has ended is not announced yet" in caplog.text


def rename(column: str, to: str, session: Any) -> None:
    session.execute(text(f"ALTER TABLE runs RENAME COLUMN {column} TO {to}"))
