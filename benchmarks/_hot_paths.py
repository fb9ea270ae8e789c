"""What is profiled: a process that does one thing until it is stopped, or a server that is kept busy."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from _hot_works import WORKS
from _servers import FUNCTION, Server, trackside
from serve_http import by_light_client
from serve_sse import FOLLOWERS, PARTS, TALKING, followed

_PROGRAM = Path(__file__).with_name("_hot_works.py")


async def _wait(server: Server) -> None:
    await by_light_client(server, at_once=32, runs=500)


async def _fan_out(server: Server) -> None:
    await followed(server, FOLLOWERS, PARTS)


_SERVED: Mapping[str, tuple[str, str, Callable[[Server], Awaitable[None]]]] = {
    "HTTP wait, a function, 32 at once": (FUNCTION, "_served_functions.py:noop", _wait),
    f"SSE, {FOLLOWERS:,} followers of one run": (TALKING, "_served_functions.py:talking", _fan_out),
}

NAMES: Sequence[str] = (*WORKS, *_SERVED)


def working(name: str, under: Sequence[str] = ()) -> AbstractAsyncContextManager[int]:
    """The id of a process that does this as long as the context; `under` is a profiler's command, if there is one."""
    return _served(name, under) if name in _SERVED else _by_itself(name, under)


@asynccontextmanager
async def _by_itself(name: str, under: Sequence[str]) -> AsyncGenerator[int]:
    command = [*(under or [sys.executable]), str(_PROGRAM), name]
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
