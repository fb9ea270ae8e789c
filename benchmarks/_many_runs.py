"""A process that does runs and reports its memory meanwhile: after each tenth of them, one line in MB."""

import asyncio
import gc
import os
import sys
from pathlib import Path

from _databases import SqliteFiles
from runs import at_once, durable_manager, start_and_wait

from trackside import RunManager

CONCURRENT = 32
PARTS = 10
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


async def agent(value: object) -> None:
    """Do nothing."""


def resident_mb() -> float:
    """This process's resident memory, once the garbage is gone."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB


async def report(manager: RunManager, count: int) -> None:
    work = at_once(start_and_wait(manager), CONCURRENT)
    for _ in range(PARTS):
        await work(count // PARTS)
        print(f"{resident_mb():.3f}", flush=True)


async def main(where: str, count: int) -> None:
    if where == "memory":
        async with RunManager({"agent": agent}) as manager:
            await report(manager, count)
    else:
        async with durable_manager(SqliteFiles()) as manager:
            await report(manager, count)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
