"""What the shell completes beyond the parser's own words: ids and names from the database or the server.

It only reads, in bounded time, and stays silent whatever fails, because somebody is typing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from trackside.app.cli.loops import run as run_loop
from trackside.app.cli.records.fleet import EXECUTING

if TYPE_CHECKING:
    from trackside.app.cli.places import Place
    from trackside.app.cli.records.protocol import Records

MOST = 50
"""The most completions that are offered."""

PATIENCE = 1.0
"""Seconds after which completion gives up on the records; a database that answers takes a few milliseconds."""


def run_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of runs that begin with what was typed, the newest first."""

    async def read(records: Records) -> Sequence[str]:
        return [run.run_id for run in await records.runs(id_prefix=incomplete or None, limit=MOST)]

    return _offered(ctx, incomplete, read)


def thread_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of threads that begin with what was typed, those that changed last first."""

    async def read(records: Records) -> Sequence[str]:
        return [thread.thread_id for thread in await records.threads(id_prefix=incomplete or None, limit=MOST)]

    return _offered(ctx, incomplete, read)


def agents(ctx: typer.Context, incomplete: str) -> list[str]:
    """The agents of the newest runs."""

    async def read(records: Records) -> Sequence[str]:
        return [run.agent for run in await records.runs(limit=10 * MOST) if run.agent]

    return _offered(ctx, incomplete, read)


def subscriptions(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the subscriptions."""

    async def read(records: Records) -> Sequence[str]:
        return [found.name for found in await records.subscriptions()]

    return _offered(ctx, incomplete, read)


def worker_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of the workers that could be drained."""

    async def read(records: Records) -> Sequence[str]:
        return [one.worker_id for one in await records.workers() if one.kind == EXECUTING and one.is_alive]

    return _offered(ctx, incomplete, read)


def _offered(ctx: typer.Context, incomplete: str, read: Callable[[Records], Awaitable[Iterable[str]]]) -> list[str]:
    from trackside.app.cli.places import Place

    typed = {name: ctx.params.get(name) for name in ("database", "url", "api_key")}
    try:
        found = run_loop(_read, Place(**typed), read)
    except Exception:  # noqa: BLE001  # the command itself will report what is wrong with settings, database or server
        return []
    safe = [name for name in dict.fromkeys(found) if name.startswith(incomplete) and name.isprintable()]
    return safe[:MOST]


async def _read(place: Place, read: Callable[[Records], Awaitable[Iterable[str]]]) -> Iterable[str]:
    from trackside.app.cli.places import open_records

    if place.server is None:  # import first, so that imports do not use up the time
        import trackside.app.storage
        import trackside.app.wiring
    else:
        import trackside.app.cli.records.remote  # noqa: F401
    async with asyncio.timeout(PATIENCE), open_records(place, read_only=True) as records:
        return await read(records)
