"""Processes that append to the log and read it, without a manager: until SIGTERM, when they finish what they do."""

import asyncio
import random
import signal
from datetime import UTC, datetime

from crash_voice import Voice, digest_of, on_word

from trackside.app.storage import Store, StoredEvent
from trackside.app.storage.errors import StorageError
from trackside.harness import LifecycleEventType, RunLifecycleEvent
from trackside.harness.ids import new_id
from trackside.harness.types import JsonObject

PAUSE = 0.005  # seconds to wait where a reader found nothing new


def events_of_a_run(thread_id: str) -> list[RunLifecycleEvent]:
    """A run from its start to its end."""
    run_id = new_id()
    usage = {"input_tokens": random.randrange(100), "output_tokens": 1}
    data = {
        "token_usage_by_model": {"small": usage},
        "total_input_tokens": usage["input_tokens"],
        "total_output_tokens": 1,
    }
    kinds: list[tuple[str, JsonObject]] = [
        ("run_started", {"agent": "chat", "metadata": {"n": random.randrange(10)}}),
        *[("human_message", {"message": {"content": "x" * random.choice([10, 1_000])}})] * random.randrange(3),
        ("run_completed", {"status": "success", "completion_data": data}),
    ]
    return [
        RunLifecycleEvent(new_id(), LifecycleEventType(kind), run_id, thread_id, n, datetime.now(UTC), payload)
        for n, (kind, payload) in enumerate(kinds, 1)
    ]


async def append_runs(number: int, url: str, *, producers: int = 6) -> None:
    """Append runs, a few events at a time, and say which were acknowledged, and at which positions."""
    random.seed()
    (done,) = on_word(signal.SIGTERM)
    voice = Voice(number)

    async def produce(store: Store, thread_id: str) -> None:
        while not done.is_set():
            events = events_of_a_run(thread_id)
            while events:
                batch, events = events[: (size := random.randint(1, 3))], events[size:]
                for stored in await _append_at_last(store, batch, voice):
                    event = stored.event
                    voice.say(f"event {event.event_id} {digest_of(event.payload)} {stored.position}")

    async with Store.open(url) as store, asyncio.TaskGroup() as tasks:
        voice.say("ready")
        for producer in range(producers):
            tasks.create_task(produce(store, f"thread-{number}-{producer}"))


async def _append_at_last(store: Store, batch: list[RunLifecycleEvent], voice: Voice) -> list[StoredEvent]:
    """Append; while the store says that the same call may succeed later, repeat it (I4)."""
    while True:
        try:
            return await store.append(batch)
        except StorageError as exc:
            voice.say(f"refused {type(exc).__name__} {exc.retryable} {exc}")
            if not exc.retryable:
                raise
            await asyncio.sleep(PAUSE)


class Reader:
    """Checks that positions come one after another, and the events of a run in their order."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self.last = 0
        self._sequences: dict[str, int] = {}

    def see(self, stored: StoredEvent) -> None:
        """Take the next event."""
        run_id, sequence = stored.event.run_id, stored.event.sequence
        if stored.position != self.last + 1:
            self._voice.wrong(f"a reader saw position {stored.position} after {self.last}")
        if sequence != self._sequences.get(run_id, 0) + 1:
            self._voice.wrong(f"a reader saw sequence {sequence} of run {run_id} too early, at {stored.position}")
        self._sequences[run_id] = sequence
        self.last = stored.position


async def follow_log(number: int, url: str) -> None:
    """Follow the log, and say how far the reader has seen it."""
    await _read(number, url, follows=True)


async def page_log(number: int, url: str) -> None:
    """Read the log page by page, of any size, and say how far the reader has seen it."""
    await _read(number, url, follows=False)


async def _read(number: int, url: str, *, follows: bool) -> None:
    random.seed()
    (done,) = on_word(signal.SIGTERM)
    voice = Voice(number)
    async with Store.open(url) as store:
        reader = Reader(voice)
        read = _follow if follows else _page
        voice.say("ready")
        reading = asyncio.create_task(read(store, reader))
        await done.wait()
        (newest,) = await store.events(newest_first=True, limit=1)
        while reader.last < newest.position and not reading.done():
            await asyncio.sleep(PAUSE)
        reading.cancel()
        (outcome,) = await asyncio.gather(reading, return_exceptions=True)
        if isinstance(outcome, Exception):
            voice.wrong(f"a reader failed: {outcome}")
        voice.say(f"seen {reader.last}")


async def _follow(store: Store, reader: Reader) -> None:
    async for stored in store.follow():
        reader.see(stored)


async def _page(store: Store, reader: Reader) -> None:
    while True:
        page = await store.events(after=reader.last, limit=random.choice([1, 7, 100, 1_000]))
        for stored in page:
            reader.see(stored)
        if not page:
            await asyncio.sleep(PAUSE)
