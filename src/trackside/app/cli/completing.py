"""What the shell completes beyond words of the parser: ids and names out of the database.

It only reads, in bounded time, and is silent whatever fails: somebody is typing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from trackside.app.storage import Store

MOST = 50
"""How many are offered."""

PATIENCE = 1.0
"""Seconds after which a database is left alone; one that answers takes some milliseconds."""

_URL_VARIABLE = "TRACKSIDE_URL"  # as in `options`, which needs what is here


def run_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of runs that begin so, the newest first."""

    async def read(store: Store) -> Sequence[str]:
        return [run.run_id for run in await store.runs(id_prefix=incomplete or None, limit=MOST)]

    return _offered(ctx, incomplete, read)


def thread_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of threads that begin so, those that changed last first."""

    async def read(store: Store) -> Sequence[str]:
        return [thread.thread_id for thread in await store.threads(id_prefix=incomplete or None, limit=MOST)]

    return _offered(ctx, incomplete, read)


def agents(ctx: typer.Context, incomplete: str) -> list[str]:
    """The agents of the newest runs."""

    async def read(store: Store) -> Sequence[str]:
        return [run.agent for run in await store.runs(limit=20 * MOST) if run.agent]

    return _offered(ctx, incomplete, read)


def subscriptions(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the subscriptions."""

    async def read(store: Store) -> Sequence[str]:
        return [found.name for found in await store.subscriptions.all()]

    return _offered(ctx, incomplete, read)


def _offered(ctx: typer.Context, incomplete: str, read: Callable[[Store], Awaitable[Iterable[str]]]) -> list[str]:
    if ctx.params.get("url") or (os.environ.get(_URL_VARIABLE) and not ctx.params.get("database")):
        return []  # a server's are not asked for while somebody types
    try:
        found = asyncio.run(_read(ctx.params.get("database"), read))
    except Exception:  # noqa: BLE001  # whatever is wrong with settings or database, the command will say it
        return []
    safe = [name for name in dict.fromkeys(found) if name.startswith(incomplete) and name.isprintable()]
    return safe[:MOST]


async def _read(database: str | None, read: Callable[[Store], Awaitable[Iterable[str]]]) -> Iterable[str]:
    import trackside.app.storage  # noqa: F401  # before the time counts
    from trackside.app.settings import load_settings
    from trackside.app.wiring import open_store

    settings = load_settings({"database.url": database})
    async with asyncio.timeout(PATIENCE), open_store(settings, read_only=True) as store:
        return await read(store)
