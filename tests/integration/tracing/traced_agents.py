"""Agents whose runs are traced, and events of runs that nobody executed."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from trackside import RunContext, RunLifecycleEvent
from trackside.harness.ids import new_id
from trackside.harness.types import LifecycleEventType


def event(run_id: str, kind: str, sequence: int = 1, **says: Any) -> RunLifecycleEvent:
    now = datetime.now(UTC)
    return RunLifecycleEvent(new_id(), LifecycleEventType(kind), run_id, "thread", sequence, now, says)


async def works(_: Any, run: RunContext) -> str:
    with run.call("chat", "gpt-5-mini") as call:
        run.record_usage(
            "gpt-5-mini",
            input_tokens=12,
            output_tokens=40,
            cache_read_tokens=5,
            cache_write_tokens=3,
            reasoning_tokens=7,
            call=call,
        )
    with run.call("execute_tool", "search"):
        await asyncio.sleep(0)
    return "done"
