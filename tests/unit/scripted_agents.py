"""An agent that does what it is told, and how its runs are told of."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from trackside.harness import AgentResult, RunContext

BUSY = "thread_status_updated busy"
FAILED = ["run_started", BUSY, "run_failed error", "thread_status_updated error"]


class Scripted:
    """An `Agent` that does what it is told."""

    name = "scripted"

    def __init__(
        self,
        gives: Any = AgentResult("done"),  # noqa: B008  # it is a value
        *,
        brings: Any = (),
        rolls_back_to: Any = None,
        seconds: float = 0,
    ) -> None:
        self.gives = gives
        self.brings = brings
        self.rolls_back_to = rolls_back_to
        self.seconds = seconds
        self.rolled_back = 0

    async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
        if isinstance(self.brings, BaseException):
            raise self.brings
        await asyncio.sleep(self.seconds)
        return self.brings

    async def run(self, run: RunContext) -> Any:
        await asyncio.sleep(self.seconds)
        return self.gives

    async def rollback(self, run: RunContext) -> str | None:
        self.rolled_back += 1
        await asyncio.sleep(self.seconds)
        if isinstance(self.rolls_back_to, BaseException):
            raise self.rolls_back_to
        return self.rolls_back_to
