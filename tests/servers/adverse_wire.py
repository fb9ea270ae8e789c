"""A wire between hubs of one process; it keeps a little, and loses, delays and repeats messages as a seed says."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from trackside.app.streams.wire import Topic


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversity:
    """How bad the wire is: how many of a hundred messages it loses, repeats, holds up and refuses."""

    lost: int = 0
    repeated: int = 0
    held_up: int = 0
    refused: int = 0
    kept: int = 10_000
    """Messages that are kept for those who come later."""


class _Ear:
    def __init__(self, wire: AdverseWire, topic: Topic, hear: Callable[[bytes], object]) -> None:
        self.caught_up = asyncio.Event()
        self.topic = topic
        self.hear = hear
        self.waiting: deque[bytes] = deque()
        self.kept_left = 0
        self.closed = False
        self.is_held_up = False
        self._wire = wire

    def close(self) -> None:
        self.closed = True
        self._wire.ears.discard(self)

    def go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear the waiting messages soon; the messages of a run keep their order."""
        loop.call_soon(self._drain)

    def _drain(self) -> None:
        wire = self._wire
        while self.waiting and not self.closed:
            if wire.chance(wire.adversity.held_up):
                asyncio.get_running_loop().call_later(wire.random.random() / 200, self._drain)
                return
            self.hear(self.waiting.popleft())
            self.kept_left -= 1
        if self.kept_left <= 0:
            self.caught_up.set()


class AdverseWire:
    """What is said on it may or may not be heard. All messages of a run keep their order."""

    def __init__(self, adversity: Adversity | None = None, seed: int = 0) -> None:
        self.adversity = adversity or Adversity()
        self.random = random.Random(seed)
        self.on_writable: list[Callable[[], object]] = []
        self.ears: set[_Ear] = set()
        self.kept: deque[tuple[Topic, bytes]] = deque(maxlen=self.adversity.kept)
        self.said: list[bytes] = []
        self.is_away = False
        self.listens = 0

    def chance(self, of_a_hundred: int) -> bool:
        return self.random.random() * 100 < of_a_hundred

    def say(self, topic: Topic, message: bytes) -> bool:
        if self.is_away:
            return False
        if self.chance(self.adversity.refused):
            asyncio.get_running_loop().call_later(0.001, self._writable)
            return False
        self.said.append(message)
        times = 0 if self.chance(self.adversity.lost) else 2 if self.chance(self.adversity.repeated) else 1
        for _ in range(times):
            self.kept.append((topic, message))
            for ear in sorted(self.ears, key=id):
                if ear.topic in (topic, Topic(topic.thread_id)):
                    ear.waiting.append(message)
                    ear.go_on(asyncio.get_running_loop())
        return True

    def listen(self, topic: Topic, hear: Callable[[bytes], object]) -> _Ear:
        self.listens += 1
        ear = _Ear(self, topic, hear)
        ear.waiting.extend(data for of, data in self.kept if topic in (of, Topic(of.thread_id)))
        ear.kept_left = len(ear.waiting)
        self.ears.add(ear)
        ear.go_on(asyncio.get_running_loop())
        return ear

    def come_back(self) -> None:
        self.is_away = False
        self._writable()

    def _writable(self) -> None:
        for call in self.on_writable:
            call()
