"""What remembers threads for graphs that have no checkpointer of their own: the store, or LangGraph's own saver."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from trackside.app.settings import Settings
from trackside.app.wiring.database import blaming
from trackside.app.wiring.errors import MissingExtraError
from trackside.harness import as_agent
from trackside.harness.powers import lacks_checkpointer

if TYPE_CHECKING:
    from trackside.app.storage import Store


async def opened_checkpointer(
    settings: Settings, agents: Mapping[str, Any], store: Store, stack: AsyncExitStack
) -> Any:
    """What remembers threads for graphs that have no checkpointer of their own; None if no agent needs it.

    It is in the same database as all the rest, and closed with the stack.

    Raises:
        SettingsError: the database cannot be used for that.
        MissingExtraError: it is not installed.
    """
    if not any(_needs_checkpointer(agent) for agent in agents.values()):
        return None
    if settings.checkpoints_saver == "store":
        return store.checkpointer()
    await asyncio.to_thread(check_saver, settings, agents)  # which imports it, and so reads files
    try:
        with blaming(settings):
            file = settings.sqlite_file
            saver = _postgres_saver(settings.database_url) if file is None else _sqlite_saver(file)
            return await stack.enter_async_context(saver)
    except ImportError as exc:  # of a part of it, such as its driver
        raise _saver_missing(settings) from exc


def check_saver(settings: Settings, agents: Mapping[str, Any]) -> None:
    """See that what remembers threads for the agents is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if settings.checkpoints_saver == "store" or not any(_needs_checkpointer(agent) for agent in agents.values()):
        return
    dialect = "postgres" if settings.sqlite_file is None else "sqlite"
    try:
        importlib.import_module(f"langgraph.checkpoint.{dialect}.aio")
    except ImportError as exc:
        raise _saver_missing(settings) from exc


def _saver_missing(settings: Settings) -> MissingExtraError:
    dialect = "postgres" if settings.sqlite_file is None else "sqlite"
    what = f'checkpoints.saver = "{settings.checkpoints_saver}"'
    return MissingExtraError(what=what, package=f"langgraph-checkpoint-{dialect}", extra=f"langgraph-{dialect}")


@asynccontextmanager
async def _sqlite_saver(file: str) -> AsyncGenerator[Any]:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async with AsyncSqliteSaver.from_conn_string(file) as saver:
        yield saver


@asynccontextmanager
async def _postgres_saver(url: str) -> AsyncGenerator[Any]:
    from trackside.app.storage.langgraph_savers import open_checkpoints

    async with open_checkpoints(url) as saver:
        yield saver


def _needs_checkpointer(agent: Any) -> bool:
    return lacks_checkpointer(as_agent(agent))
