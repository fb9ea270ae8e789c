"""A fleet in this process: servers with clients of the SDK, and workers, that share only a database and an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from running_server import serving

from trackside.app.settings import EngineSettings, Settings
from trackside.app.wiring import App, open_app


class ServerHere:
    """A server that admits and answers, and executes nothing."""

    def __init__(self, app: App, url: str, client: LangGraphClient) -> None:
        self.app = app
        self.url = url
        self.client = client


class FleetHere:
    """The fleet's servers and workers."""

    def __init__(self, servers: list[ServerHere], workers: list[App]) -> None:
        self.servers = servers
        self.workers = workers


@asynccontextmanager
async def fleet_here(
    agents: Mapping[str, Any],
    database: str,
    engine: str,
    *,
    servers: int = 2,
    workers: int = 1,
    lease: float = 60.0,
    **settings: Any,
) -> AsyncGenerator[FleetHere]:
    """Run a fleet with these agents; its last process is closed first."""
    async with AsyncExitStack() as stack:
        chosen = Settings(database_url=database, engine=EngineSettings(url=engine, lease=lease), **settings)
        executing = [
            await stack.enter_async_context(open_app(chosen, dict(agents), role="worker")) for _ in range(workers)
        ]
        asked = []
        for _ in range(servers):
            app = await stack.enter_async_context(open_app(chosen, dict(agents), role="server"))
            url = await stack.enter_async_context(serving(app.asgi))
            client = await stack.enter_async_context(get_client(url=url, api_key=None))
            asked.append(ServerHere(app, url, client))
        yield FleetHere(asked, executing)
