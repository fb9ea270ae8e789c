"""A program on DBOS whose workflows do nothing, durably; a process of its own, in the environment that has DBOS.

    python _dbos_program.py URL AT_ONCE

It prints `ready`. Then, for each line of its input, it does as many workflows as the line says, this many at once, and
answers with the nanoseconds of CPU time that they took.
"""

import asyncio
import sys
import time

from dbos import DBOS  # type: ignore[import-not-found]  # it has an environment of its own


@DBOS.step()  # type: ignore[untyped-decorator]
async def step() -> None:
    """Do nothing; the record that it was done is a commit."""


@DBOS.workflow()  # type: ignore[untyped-decorator]
async def workflow() -> None:
    """Take one step; begun, stepped and ended are three commits."""
    await step()


async def work(count: int, at_once: int) -> None:
    """Work as this many callers, each of which waits for its workflow to end before it starts the next."""
    left = iter(range(count))

    async def one() -> None:
        for _ in left:
            await workflow()

    await asyncio.gather(*(one() for _ in range(at_once)))


async def main(url: str, at_once: int) -> None:
    DBOS(config={"name": "benchmark", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})
    DBOS.launch()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        begun = time.process_time_ns()
        await work(int(line), at_once)
        print(time.process_time_ns() - begun, flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
