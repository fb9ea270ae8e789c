"""What is profiled: a process that does one thing until nobody wants it any more, or a server that is kept busy.

    python _hot_paths.py NAME

does a piece of work over and over, says `ready` when it is warm, and stops at the end of its input.
"""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial

from _databases import SqliteFiles
from _rounds import Work
from _servers import FUNCTION, Server, trackside
from append import stored
from dispatch import composite
from memory_runs import MANAGED, WAYS
from runs import durable
from serve_http import by_light_client
from serve_sse import FOLLOWERS, TALKING, followed

DISPATCH, APPEND, IN_MEMORY, DURABLE, WAIT, FAN_OUT = (
    "dispatch to 4 observers",
    "append on SQLite, 64 producers",
    "run in memory, 1 required observer, 32 at once",
    "durable run on SQLite, 32 at once",
    "HTTP wait, a function, 32 at once",
    "SSE, 1,000 followers of one run",
)

_WORKS: Mapping[str, tuple[int, Callable[[], AbstractAsyncContextManager[Work]]]] = {
    DISPATCH: (10_000, lambda: nullcontext(composite(4))),
    APPEND: (1_000, partial(stored, SqliteFiles(), 64)),
    IN_MEMORY: (1_000, partial(WAYS[MANAGED[1]], 32)),
    DURABLE: (300, partial(durable, SqliteFiles(), 32)),
}
"""How much is done between two looks whether to go on, and of what."""


async def _wait(server: Server) -> None:
    await by_light_client(server, at_once=32, runs=500)


async def _fan_out(server: Server) -> None:
    await followed(server, FOLLOWERS, 6)


_SERVED: Mapping[str, tuple[str, str, Callable[[Server], Awaitable[None]]]] = {
    WAIT: (FUNCTION, "_served_functions.py:noop", _wait),
    FAN_OUT: (TALKING, "_served_functions.py:talking", _fan_out),
}

NAMES: Sequence[str] = (DISPATCH, APPEND, IN_MEMORY, DURABLE, WAIT, FAN_OUT)


def working(name: str, under: Sequence[str] = ()) -> AbstractAsyncContextManager[int]:
    """The id of a process that does this as long as the context; `under` is the command of a profiler, if it has one."""
    return _served(name, under) if name in _SERVED else _by_itself(name, under)


@asynccontextmanager
async def _by_itself(name: str, under: Sequence[str]) -> AsyncGenerator[int]:
    command = [*(under or [sys.executable]), __file__, name]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{name} does not begin")
        yield process.pid
    finally:
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def _served(name: str, under: Sequence[str]) -> AsyncGenerator[int]:
    shown, agent, ask = _SERVED[name]
    with trackside(shown, [agent], under=under) as server:
        await ask(server)
        asking = asyncio.create_task(_forever(ask, server), name="ask")
        yield server.process.pid
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


async def _forever(ask: Callable[[Server], Awaitable[None]], server: Server) -> None:
    while True:
        await ask(server)


async def main(name: str) -> None:
    portion, opened = _WORKS[name]
    async with opened() as work:
        await work(portion)
        print("ready", flush=True)
        # In a thread: a dispatch never gives the loop a turn.
        until_its_end = threading.Thread(target=sys.stdin.read, name="input")
        until_its_end.start()
        while until_its_end.is_alive():
            await work(portion)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
