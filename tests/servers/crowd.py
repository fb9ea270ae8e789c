"""Many workers in one process, each with connections of its own: `python crowd.py HOW_MANY DATABASE ENGINE`.

It prints `ready` when all are there. For each line that it reads, it prints how many of them their engine serves now,
and how many bytes of memory the process has; it ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import fleet_agents

from trackside.app.settings import EngineSettings, Settings, WorkerSettings
from trackside.app.wiring import App, open_app

_PLACES = 4


async def _be_worker(settings: Settings, members: list[App], stopping: asyncio.Event) -> None:
    async with open_app(settings, {"talks": fleet_agents.talks}, role="worker") as app:
        members.append(app)
        await stopping.wait()


async def _main(count: int, database: str, engine: str) -> None:
    settings = Settings(
        database_url=database,
        engine=EngineSettings(url=engine),
        worker=WorkerSettings(concurrency=_PLACES),
    )
    members: list[App] = []
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as workers:
        for _ in range(count):
            workers.create_task(_be_worker(settings, members, stopping))
        while len(members) < count:
            await asyncio.sleep(0.02)
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            served = sum(app.engine is not None and app.engine.status().connected for app in members)
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
            print(served, pages * os.sysconf("SC_PAGE_SIZE"), flush=True)
        stopping.set()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
