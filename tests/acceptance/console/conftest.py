"""The console in a real browser, against real server processes.

The tests here share an event loop, and with it one browser: `pytestmark = pytest.mark.asyncio(loop_scope="session")`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import run_pages
from browser import Visit, running_browser, visiting
from forking import Forkery
from playwright.async_api import Browser
from trackside_server import TracksideServer

type ServeConsole = Callable[..., Any]
type VisitServer = Callable[..., AbstractAsyncContextManager[Visit]]

AGENTS = Path(__file__).with_name("console_agents.py")
SETTINGS = "\n".join(
    [
        "[agents]",
        *(f'{name} = "console_agents.py:{name}"' for name in ("talks", "fails", "asks", "waits", "graph", "works")),
    ]
)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests of a process."""
    async with running_browser() as found:
        yield found


@pytest.fixture
def visit(browser: Browser) -> VisitServer:
    """`async with visit(server.url) as v: page = await v.go("/ui")`; takes Playwright's `new_context` options."""

    def of(url: str, **options: Any) -> AbstractAsyncContextManager[Visit]:
        return visiting(browser, url, **options)

    return of


@pytest.fixture
def serve(tmp_path: Path, forkery: Forkery) -> Iterator[ServeConsole]:
    """`server = await serve()` starts `trackside serve` with the agents of `console_agents.py`.

    It takes the arguments of `TracksideServer`.
    """
    with ExitStack() as stack:

        async def start(settings: str = SETTINGS, **options: Any) -> TracksideServer:
            (tmp_path / "console_agents.py").write_text(AGENTS.read_text("utf-8"), "utf-8")
            server = TracksideServer(tmp_path, settings=settings, forkery=forkery, **options)
            await asyncio.to_thread(stack.enter_context, server)
            return server

        yield start


@pytest.fixture
def serve_more(serve: ServeConsole, tmp_path: Path) -> ServeConsole:
    """`server = await serve_more()` starts a server with the agents of `thread_agents.py`."""

    async def start(**options: Any) -> TracksideServer:
        source = AGENTS.with_name("thread_agents.py").read_text("utf-8")
        (tmp_path / "thread_agents.py").write_text(source, "utf-8")
        names = ("chat", "babbles", "form", "huge", "counts", "decides", "hostile")
        settings = "\n".join(["[agents]", *(f'{name} = "thread_agents.py:{name}"' for name in names)])
        server: TracksideServer = await serve(settings, **options)
        return server

    return start


@pytest_asyncio.fixture(loop_scope="session")
async def serving(serve: ServeConsole, tmp_path: Path) -> AsyncIterator[Any]:
    """`server, api = await serving()` serves the agents of `console_agents.py` and `run_agents.py`."""
    async with AsyncExitStack() as stack:

        async def start(settings: str = run_pages.SETTINGS) -> tuple[TracksideServer, run_pages.Api]:
            own = Path(__file__).with_name("run_agents.py")
            await asyncio.to_thread(shutil.copy, own, tmp_path)
            server = await serve(settings)
            api = run_pages.Api(server.url)
            stack.push_async_callback(api.client.aclose)
            return server, api

        yield start
