"""What is profiled inside a process of its own, which imports no more than it needs.

    python _hot_works.py NAME

does a piece of work over and over, says `ready` when it is warm, and stops at the end of its input.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial

from _counted import append, dispatch
from _databases import SqliteFiles
from _rounds import Work
from memory_runs import MANAGED, WAYS
from runs import durable

WORKS: Mapping[str, tuple[int, Callable[[], AbstractAsyncContextManager[Work]]]] = {
    "dispatch to 4 observers": (10_000, partial(dispatch, 4)),
    "append on SQLite, 64 producers": (1_000, partial(append, 64)),
    "run in memory, 1 required observer, 32 at once": (1_000, partial(WAYS[MANAGED[1]], 32)),
    "durable run on SQLite, 32 at once": (300, partial(durable, SqliteFiles(), 32)),
}
"""How much work is done between two checks whether to go on, and which work."""


async def main(name: str) -> None:
    portion, opened = WORKS[name]
    async with opened() as work:
        await work(portion)
        print("ready", flush=True)
        # In a thread, because a dispatch never gives the loop a turn.
        until_its_end = threading.Thread(target=sys.stdin.read, name="input")
        until_its_end.start()
        while until_its_end.is_alive():
            await work(portion)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
