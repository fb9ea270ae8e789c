"""Starts the runs of crons: `cron_child.py URL STEP`, or a child for each `URL STEP` of standard input.

At the step it kills itself: "before start", "after start", which is before the cron goes on, or "after replace". At
"once" it starts what is due, and ends; at "on" it goes on until its standard input ends.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from obeying import obey

from trackside.app.server.crons import CronScheduler
from trackside.app.settings import Settings
from trackside.app.wiring import open_app


async def agent(input: Any) -> Any:
    return input


def fated(method: Callable[..., Awaitable[Any]], step: str) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **options: Any) -> Any:
        die_at(f"before {method.__name__}", step)
        result = await method(*args, **options)
        die_at(f"after {method.__name__}", step)
        return result

    return call


def die_at(place: str, step: str) -> None:
    if place == step:
        os.kill(os.getpid(), signal.SIGKILL)


async def start_runs(url: str, step: str) -> None:
    async with open_app(Settings(database_url=url), {"agent": agent}) as app:
        for of, name in ((app.manager, "start"), (app.store.crons, "replace")):
            setattr(of, name, fated(getattr(of, name), step))
        scheduler = CronScheduler(app.store.crons, app.manager, look_every=0.02)
        if step != "on":
            await scheduler._look()
            return
        scheduler.begin()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await scheduler.aclose()


async def start_as_ordered(line: str) -> None:
    await start_runs(*line.split(" ", 1))


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(start_runs(*sys.argv[1:]))
    else:
        obey(start_as_ordered)
