"""Agents that say what their tests want to hear."""

from __future__ import annotations

import asyncio
from typing import Any

from trackside import RunContext


async def counting(input: Any, run: RunContext) -> dict[str, Any]:
    for number in range(input["to"]):
        run.send({"n": number})
        await asyncio.sleep(0)
    return {"counted": input["to"]}


async def bursting(input: Any, run: RunContext) -> None:
    """Says this many parts of this length at once: nobody has a turn in between."""
    for number in range(input["parts"]):
        run.send({"n": number, "much": "x" * input["length"]})


class Held:
    """An agent that says a part each time it is told to, until it is told to end."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[Any] = asyncio.Queue()
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    def agent(self) -> Any:
        async def held(input: Any, run: RunContext) -> dict[str, Any]:
            self.started.set()
            try:
                while (step := await self.steps.get()) is not None:
                    run.send(step)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return {"done": True}

        return held

    def say(self, *steps: Any) -> None:
        for step in steps:
            self.steps.put_nowait(step)
