"""Threads that a server hears of from other processes, on a wire that brings it late."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from adverse_wire import AdverseWire, Adversity
from told_ends import ToldEnds

from trackside.app.server.thread_events import ThreadEvents
from trackside.app.streams import Mirrors, StreamHub
from trackside.app.streams.relay import Relay

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
        elsewhere.threads.note_state(thread.thread_id, b'{"values":"old"}')  # which is kept, and comes late
        wire.adversity = Adversity(held_up=100)
        parts = replace(served.app.parts, mirrors=mirrors)
        events = ThreadEvents(parts=parts, thread=thread, modes={"state_update"}, last_event_id=None)
        answer = asyncio.create_task(events({}, asyncio.Event().wait, send))
        await asyncio.sleep(0)
        wire.adversity = Adversity()
        await asyncio.wait_for(told.wait(), 5)
        answer.cancel()
        await asyncio.wait((answer,))
        await mirrors.aclose()
    await relay.aclose()
