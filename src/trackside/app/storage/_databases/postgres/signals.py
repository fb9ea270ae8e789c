"""PostgreSQL: processes tell each other of their commits on a channel of the bus, beside the connections that write.

What is told may be lost, with the process or the connection; listeners therefore look now and then without having been
told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, override

from trackside.app.storage._databases.postgres.bus import COMMITS, Notice, PostgresBus
from trackside.app.storage._databases.signals import CommitSignals

_UNTOLD_LOOK: Final = 5.0  # seconds after which a process that was told nothing looks for itself
_GATHER: Final = 0.005  # seconds for which a commit after a notice waits for the next one


class PostgresSignals(CommitSignals):
    """Says once that something was committed, however much that was since the last time.

    Owns the bus, which is closed with it.
    """

    def __init__(self, bus: PostgresBus) -> None:
        super().__init__()
        self._bus = bus
        self._told_at = 0.0
        self._telling: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self.notifications = 0
        """How many were sent."""
        bus.on_lost.append(self._hint)  # a listener that reads learns what is wrong
        bus.on_sent.append(self._note_sent)

    @property
    def bus(self) -> PostgresBus:
        """The bus on which processes tell each other of commits, and of whatever else they want to."""
        return self._bus

    @override
    def announce(self) -> None:
        if self._telling is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_at(max(loop.time(), self._told_at + _GATHER), self._notify)

    def _notify(self) -> None:
        self._telling = None
        self._bus.notify(COMMITS)

    def _note_sent(self, notices: Sequence[Notice]) -> None:
        if (COMMITS, "") in notices:
            self._told_at = asyncio.get_running_loop().time()
            self.notifications += 1

    @override
    def _attend(self) -> None:
        if self._looking is None:
            self._bus.listen(COMMITS, self._hear, own=False, on_gap=self._hint)
            self._look_later()

    def _hear(self, payload: str) -> None:
        self._hint()

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(_UNTOLD_LOOK, self._look)

    def _look(self) -> None:
        self._look_later()
        self._hint()

    @override
    async def aclose(self) -> None:
        await super().aclose()
        if self._looking is not None:
            self._looking.cancel()
        if self._telling is not None:
            self._telling.cancel()
            self._notify()
        await self._bus.aclose()
