"""Many workers in one process, each with its own connections, to see them idle: as many processes would be too heavy.

As a program: `_fleet_crowd.py DATABASE ENGINE NUMBER`, with the book in the environment.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from _fleet_place import HERE, EngineName, Fleet, Place, cpu_of, fleet
from _fleet_runs import Soon, one_at_a_time, ours

from trackside.app.settings import EngineSettings, Settings
from trackside.app.wiring import open_app

_REST_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Idle:
    """What this many workers cost at rest, and what a run that one of them gets costs on top."""

    workers: int
    soon: Soon
    at_rest: float
    """Seconds of CPU time in a second, of all processes together."""
    of_a_run: dict[str, float]
    """Milliseconds of CPU time, by kind of process."""
    connections: int
    """Connections to PostgreSQL."""

    @property
    def of_all(self) -> float:
        """Milliseconds of CPU time that a run takes."""
        return sum(self.of_a_run.values())


async def idle(where: Place, engine: EngineName, *, workers: int, runs: int) -> Idle:
    """Measure a crowd that has next to nothing to do."""
    async with fleet(where, engine, workers=0) as it, _crowd(it, workers) as pid:

        def used() -> dict[str, float]:
            return {**it.cpu(), "workers": cpu_of([pid])}

        await one_at_a_time(it, ours(it), max(2, runs // 8))
        before, begun = used(), time.monotonic()
        await asyncio.sleep(_REST_SECONDS if runs > 8 else 0.1)
        after, seconds = used(), time.monotonic() - begun
        rest = {kind: (after[kind] - before[kind]) / seconds for kind in after}
        before, begun = used(), time.monotonic()
        soon = await one_at_a_time(it, ours(it), runs)
        after, seconds = used(), time.monotonic() - begun
        of_a_run = {kind: (after[kind] - before[kind] - rest[kind] * seconds) / runs * 1e3 for kind in after}
        ((connections,),) = await asyncio.to_thread(
            where.postgres.execute, f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{it.database_name}'"
        )
        return Idle(workers, soon, sum(rest.values()), of_a_run, connections)


@asynccontextmanager
async def _crowd(it: Fleet, workers: int) -> AsyncGenerator[int]:
    """The process that holds the workers."""
    command = [sys.executable, __file__, it.database, it.engine_url, str(workers)]
    environment = {
        **os.environ,
        "FLEET_BOOK": str(it.place.folder / "book"),
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }
    with (it.place.folder / "crowd.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=it.place.folder
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            if not await process.stdout.readline():
                raise RuntimeError((it.place.folder / "crowd.log").read_text()[-2_000:])
        yield process.pid
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _be(database: str, engine: str, number: int) -> None:
    from _fleet_agents import noop

    settings = Settings(database_url=database, engine=EngineSettings(url=engine))
    async with AsyncExitStack() as stack:
        for _ in range(number):
            await stack.enter_async_context(open_app(settings, {"noop": noop}, role="worker"))
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_be(sys.argv[1], sys.argv[2], int(sys.argv[3])))
