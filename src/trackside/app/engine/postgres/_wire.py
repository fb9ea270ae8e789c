"""What runs say, from the process that executes them to those that follow: what waits is sent in one statement."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, overload

from trackside.app.engine.postgres._hearing import Counters, ThreadEar, TopicListening
from trackside.app.storage.errors import ConnectionLostError, StorageError
from trackside.app.storage.live_parts import LiveMessage, LiveParts, LiveRetention, token_of
from trackside.app.streams.wire import Topic
from trackside.harness.errors import ClosedError

if TYPE_CHECKING:
    from trackside.app.storage import PostgresBus

logger = logging.getLogger("trackside.engine")

GATHER: Final = 0.01  # seconds from one statement to the next
_TOGETHER: Final = 65_536  # bytes that wait for no others
_MOST_TOGETHER: Final = 1_048_576
_MOST_MESSAGES: Final = 1_000
_WAITING_BYTES: Final = 4 * 1_048_576
_WRITABLE_BYTES: Final = 2 * 1_048_576
_TRIES: Final = 5  # of one statement, if the connection is lost each time
_FLUSH: Final = 1.0  # seconds that there are to send what waits when it is closed
_READING_AT_ONCE: Final = 2


class PostgresWire:
    """Sends and hears messages of runs, from `begin` to `aclose`."""

    def __init__(self, bus: PostgresBus, parts: LiveParts) -> None:
        self._bus = bus
        self._parts = parts
        self._retention = LiveRetention()
        self._waiting: deque[LiveMessage] = deque()
        self._bytes = 0
        self._refused = False
        self._changed = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._ears: dict[str, ThreadEar] = {}
        self._counters = Counters(reading=asyncio.Semaphore(_READING_AT_ONCE))
        self._closed = False
        self.on_writable: list[Callable[[], object]] = []
        self.said_total = 0
        self.refused_total = 0

    @property
    def heard_total(self) -> int:
        """Messages that came to this process."""
        return self._counters.heard

    def begin(self) -> None:
        """Send what is said from now on."""
        self._bus.on_connected.append(self._note_connected)
        self._sender = asyncio.create_task(self._keep_sending(), name="trackside-live")

    def say(self, topic: Topic, message: bytes) -> bool:
        """Send a message soon. What is larger than all the room there is goes when nothing else waits."""
        is_full = self._bytes + len(message) > _WAITING_BYTES and self._waiting
        if self._closed or is_full or not self._bus.status.connected:
            self.refused_total += 1
            self._refused = True
            return False
        self._waiting.append(LiveMessage(*_tokens_of(topic.thread_id, topic.run_id or ""), message))
        self._bytes += len(message)
        self._changed.set()
        return True

    def listen(self, topic: Topic, hear: Callable[[bytes], object]) -> TopicListening:
        """Hear what was said and is kept, then what is said."""
        thread, run = _tokens_of(*topic)
        listening = TopicListening(self._parts, thread, run, hear, self._counters)
        if self._closed:
            return listening
        if (ear := self._ears.get(thread)) is None:
            ear = self._ears[thread] = ThreadEar(self._parts, thread, self._counters, self._forget)
        ear.add(listening)
        return listening

    async def remove_old(self) -> int:
        """Remove what is older or more than is to be kept, for all processes."""
        return await self._parts.remove_old(self._retention)

    def _forget(self, ear: ThreadEar) -> None:
        if self._ears.get(ear.thread) is ear:
            del self._ears[ear.thread]

    def _note_connected(self) -> None:
        self._changed.set()
        self._tell_writable()

    def _tell_writable(self) -> None:
        if self._refused and self._bytes <= _WRITABLE_BYTES and self._bus.status.connected and not self._closed:
            self._refused = False
            for tell in [*self.on_writable]:
                tell()

    async def _keep_sending(self) -> None:
        loop = asyncio.get_running_loop()
        sent_at = 0.0
        while True:
            while not (self._waiting and self._bus.status.connected):
                if self._closed:
                    return
                self._changed.clear()
                await self._changed.wait()
            if (pause := sent_at + GATHER - loop.time()) > 0 and not self._closed:
                await self._gather(pause)
            sent_at = loop.time()
            await self._send()

    async def _gather(self, seconds: float) -> None:
        """Wait for more messages to send along, unless there are enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._bytes < _TOGETHER and not self._closed:
                    self._changed.clear()
                    await self._changed.wait()

    async def _send(self) -> None:
        """Send some of what waits. It stays until it was sent: a lost connection is no reason to lose it."""
        batch: list[LiveMessage] = []
        size = 0
        for message in self._waiting:
            if batch and (size + len(message.message) > _MOST_TOGETHER or len(batch) == _MOST_MESSAGES):
                break
            batch.append(message)
            size += len(message.message)
        for tries_left in reversed(range(_TRIES)):
            try:
                await self._parts.keep(batch)
                self.said_total += len(batch)
                break
            except ConnectionLostError as exc:
                if not tries_left:
                    self._note_failed(len(batch), exc)
                    break
                await self._until_connected()
            except (StorageError, ClosedError) as exc:
                self._note_failed(len(batch), exc)
                break
        for _ in batch:
            self._waiting.popleft()
        self._bytes -= size
        self._tell_writable()

    async def _until_connected(self) -> None:
        while not self._bus.status.connected:
            self._changed.clear()
            await self._changed.wait()

    def _note_failed(self, count: int, exc: Exception) -> None:
        self.refused_total += count
        logger.warning("%d messages of runs were not sent: %s", count, exc)

    async def aclose(self) -> None:
        """Send what waits, for a moment, and hear no more. May be called again."""
        self._closed = True
        if (sender := self._sender) is not None:
            self._sender = None
            self._changed.set()
            if self._waiting and self._bus.status.connected:
                await asyncio.wait([sender], timeout=_FLUSH)
            sender.cancel()
            await asyncio.wait([sender])
            self._bus.on_connected.remove(self._note_connected)
        ears, self._ears = [*self._ears.values()], {}
        for ear in ears:
            await ear.aclose()
        self.on_writable.clear()


@overload
def _tokens_of(thread_id: str, run_id: str) -> tuple[str, str]: ...
@overload
def _tokens_of(thread_id: str, run_id: str | None) -> tuple[str, str | None]: ...
def _tokens_of(thread_id: str, run_id: str | None) -> tuple[str, str | None]:
    """What a thread and a run of it are called on the wire."""
    thread = token_of(thread_id)
    return thread, None if run_id is None else token_of(f"{thread} {run_id}")
