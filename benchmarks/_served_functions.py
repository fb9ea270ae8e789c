"""Functions to serve, without anything of a framework in the process."""

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
    """Wait for the file, as long as there is a folder in which it could be: a thread that waits on keeps no server."""
    while not file.exists() and file.parent.exists():
        time.sleep(0.02)


async def talking(input: Any, run: Any) -> dict[str, bool]:
    """Say what time it is, as often as wanted, once there is a file of this name."""
    begin = Path(input["begin"])
    await asyncio.to_thread(_until_there, begin)
    for _ in range(input["parts"]):
        run.send({"at": time.perf_counter_ns()})
        await asyncio.sleep(input["pause"])
    return {"done": True}
