"""A server in this process on each database, and real clients of LangGraph's SDK that know nothing about it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dialects import MOSTLY_SQLITE
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from running_server import serving
from tests.integration.server.cron_stage import JumpingClock, Scene, Stage, TimelessCrons
from tests.integration.server.handler_projects import Place, graph

from trackside.app.server import health
from trackside.app.settings import AccessSettings, Settings
from trackside.app.storage import Store
from trackside.app.wiring import App, open_app
from trackside.harness.ids import new_id
from trackside.testing import run_virtual
from trackside.testing.loop import VirtualTimeLoop

type ServeAgents = Callable[..., AbstractAsyncContextManager[Served]]


class Served:
    """A running server: the app behind it, its address, and a client of it."""

    def __init__(self, app: App, url: str, client: LangGraphClient) -> None:
        self.app = app
        self.url = url
        self.client = client


@asynccontextmanager
async def serve(agents: dict[str, Any], database: str, **settings: Any) -> AsyncIterator[Served]:
    """Serve agents on a database."""
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(open_app(Settings(database_url=database, **settings), agents))
        url = await stack.enter_async_context(serving(app.asgi))
        client = await stack.enter_async_context(get_client(url=url, api_key=None))
        yield Served(app, url, client)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that needs a database on SQLite, and at length on PostgreSQL, or on those in the module's `DIALECTS`."""
    if "database_url" in metafunc.fixturenames:
        metafunc.parametrize("dialect", getattr(metafunc.module, "DIALECTS", MOSTLY_SQLITE))


@pytest.fixture
def database_url(dialect: str, request: pytest.FixtureRequest) -> str:
    """The address of a database whose tables are empty."""
    if dialect == "sqlite":
        path = request.getfixturevalue("tmp_path") / "runs.db"
        shutil.copy(request.getfixturevalue("sqlite_with_tables"), path)
        return f"sqlite:///{path}"
    return str(request.getfixturevalue("postgres_with_tables"))


@pytest.fixture
def serve_agents(database_url: str) -> ServeAgents:
    """Serves agents, by their names, on a new database: `async with serve_agents({"chat": graph}) as served`."""

    def of(agents: dict[str, Any], **settings: Any) -> AbstractAsyncContextManager[Served]:
        return serve(agents, database_url, **settings)

    return of


@pytest.fixture
def serve_auth(serve_agents: ServeAgents, tmp_path: Path) -> Callable[[str], Any]:
    """Serves agents with what a project has of authorization, as code: `async with serve_auth(code) as place`."""

    @asynccontextmanager
    async def of(code: str, **agents: Any) -> AsyncIterator[Place]:
        file = tmp_path / f"project_auth_{new_id()}.py"  # a module is imported once
        file.write_text(code)
        access = AccessSettings(auth=f"{file}:auth")
        async with serve_agents({"chat": graph(), **agents}, access=access) as served:
            yield Place(served)

    return of


@pytest.fixture
def any_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a server that is slow as its machine is be ready, in tests of whether it can do its work at all."""
    monkeypatch.setattr(health, "_LAGS", 3_600.0)
    monkeypatch.setattr(health, "_STALLED", 3_600.0)
    monkeypatch.setattr(health, "_PATIENCE", 60.0)


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scene], None]:
    """Plays a scene on a new stage for crons, in virtual time: `play(scene)`."""

    async def on_stage(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        async with Store.open(f"sqlite:///{tmp_path}/crons.db") as store:
            stage = Stage(TimelessCrons(store.crons), JumpingClock())
            try:
                await scene(stage)
            finally:
                await stage.scheduler.aclose()
                await stage.manager.aclose()
                with loop.real_work():
                    await store.aclose()

    return lambda scene: run_virtual(on_stage(scene))
