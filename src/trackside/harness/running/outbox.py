"""What a run says while its agent runs, from any thread, until its supervisor announces it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from trackside.harness.emitter import Draft
from trackside.harness.types import JsonObject


class Outbox:
    """Drafts that wait for the supervisor of a run, and what wakes it. Made on the supervisor's event loop."""

    __slots__ = ("_loop", "_thread", "_wake", "drafts")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._wake: asyncio.Future[None] | None = None
        self.drafts: list[Draft] = []
        """The drafts that wait, in order."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the caller is on another thread than the event loop's."""
        return threading.get_ident() != self._thread

    def on_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call something on the event loop: now, or from another thread as soon as the loop turns."""
        if self.is_elsewhere:
            self._loop.call_soon_threadsafe(call, *arguments)
        else:
            call(*arguments)

    def post(self, drafts_of: Callable[[Sequence[JsonObject]], Sequence[Draft]], message: JsonObject) -> None:
        """Have a message announced, from any thread; its draft, if there is one, is made on the event loop."""
        self.on_loop(self._add, drafts_of, message)

    def take(self) -> list[Draft]:
        """Take out all drafts that wait."""
        drafts, self.drafts = self.drafts, []
        return drafts

    def wake(self) -> asyncio.Future[None]:
        """A future that is done as soon as there is something to look at."""
        wake = self._wake = self._loop.create_future()
        return wake

    def rouse(self) -> None:
        """Have the supervisor look."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _add(self, drafts_of: Callable[[Sequence[JsonObject]], Sequence[Draft]], message: JsonObject) -> None:
        self.drafts += drafts_of([message])
        self.rouse()
