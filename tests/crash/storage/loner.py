"""Runs an agent with `run_agent`, which no coordinator knows about, until the agent kills its process.

It reads addresses of databases from its standard input. For each it forks a child, and goes on when that is dead.
"""

import os
import signal
from typing import Any

from obeying import obey, say

from trackside import run_agent
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store


async def die(input: Any) -> None:
    say("runs")
    os.kill(os.getpid(), signal.SIGKILL)


async def run_and_die(url: str) -> None:
    async with Store.open(url) as store:
        await run_agent(die, "do", run_id="r-1", thread_id="t-1", observer=StorageObserver(store))


if __name__ == "__main__":
    obey(run_and_die)
