"""An event to log, and an observer that logs it."""

import asyncio
from pathlib import Path
from typing import Any

from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.observers.logging import LoggingObserver
from trackside.testing.events import make_event

DATA = {
    "total_tokens": 52,
    "total_input_tokens": 12,
    "total_output_tokens": 40,
    "cost_usd": 0.5,
    "duration_seconds": 1.5,
}


def failed(error: str = "it broke", **says: Any) -> RunLifecycleEvent:
    payload = {
        "agent": "support",
        "status": "error",
        "error": error,
        "error_type": "ValueError",
        "completion_data": DATA,
    }
    return make_event(LifecycleEventType.RUN_FAILED, payload=payload | says)


async def made(file: Path, **options: Any) -> LoggingObserver:
    """An observer, made in a thread, since it looks at its file."""
    return await asyncio.to_thread(lambda: LoggingObserver(**{"format": "json", "file": str(file)} | options))
