"""An agent that goes on until it is stopped, and how its run begins."""

import asyncio
from typing import Any

OPENING = ["run_started", "thread_status_updated busy"]


async def sleeper(input: Any) -> None:
    await asyncio.sleep(3_600)
