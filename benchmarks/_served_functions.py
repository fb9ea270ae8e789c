"""Functions to serve, without any framework in the process."""

import asyncio
import time
from pathlib import Path
from typing import Any


async def noop(input: Any) -> dict[str, bool]:
    return {"done": True}


async def sleeping(input: Any) -> dict[str, bool]:
    await asyncio.sleep(input["seconds"])
    return {"done": True}


def _until_there(file: Path) -> None:
    """Wait for the file as long as its folder exists: a thread that waits on would keep the server from ending."""
    while not file.exists() and file.parent.exists():
        time.sleep(0.02)


async def talking(input: Any, run: Any) -> dict[str, bool]:
    """Send the time as often as asked, once the named file exists."""
    begin = Path(input["begin"])
    await asyncio.to_thread(_until_there, begin)
    for _ in range(input["parts"]):
        run.send({"at": time.perf_counter_ns()})
        await asyncio.sleep(input["pause"])
    return {"done": True}
