"""PostgreSQL: many commits, one soon after the other, make few notices, and the last of them is told as well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from trackside.app.storage._databases.postgres import signals as signals_module
from trackside.app.storage._databases.postgres.signals import PostgresSignals
from trackside.testing import run_virtual

GATHER = signals_module._GATHER


class PromptBus:
    """Sends each notice at once, and notes when."""

    def __init__(self) -> None:
        self.on_lost: list[Callable[[], object]] = []
        self.on_sent: list[Callable[[Any], object]] = []
        self.sent_at: list[float] = []

    def notify(self, channel: str) -> None:
        self.sent_at.append(asyncio.get_running_loop().time())
        for hear in self.on_sent:
            hear([(channel, "")])


def test_a_commit_soon_after_a_notice_waits_for_the_next_ones() -> None:
    async def check() -> None:
        bus: Any = PromptBus()
        signals = PostgresSignals(bus)
        for _ in range(1_000):
            signals.announce()
            await asyncio.sleep(GATHER / 10)
        last = asyncio.get_running_loop().time()
        await asyncio.sleep(GATHER)

        assert 90 <= signals.notifications == len(bus.sent_at) <= 102
        assert bus.sent_at[-1] >= last - GATHER / 10

    run_virtual(check())
