"""Where LangGraph's graphs keep their threads in a PostgreSQL database: in tables of LangGraph's own, beside ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from trackside.app.storage._databases.postgres.connections import WRITES, PostgresDatabase
from trackside.harness.threads import in_own_thread

_SETUP_LOCK = 0x7452_6143_4865_634B
"""Whoever makes or changes LangGraph's tables holds this advisory lock of the database."""


@asynccontextmanager
async def open_checkpoints(url: str) -> AsyncGenerator[Any]:
    """LangGraph's checkpointer on the database at this address, `AsyncPostgresSaver`; makes its tables.

    It takes one connection, and another one when the server has closed that: LangGraph lets one checkpoint be read or
    written at a time.

    Raises:
        ImportError: langgraph-checkpoint-postgres or its driver is not installed.
        DatabaseUrlError: the address is not one of a PostgreSQL database.
        StorageError: the server cannot be reached, or does not let the tables be made.
    """
    saver_type, pool_type = await asyncio.to_thread(_load)  # reads files
    database = await in_own_thread(PostgresDatabase.from_url, url)  # looks where it is, if files are named
    address = await in_own_thread(database.address.resolved)  # may read a file, too
    conninfo = await in_own_thread(lambda: address.conninfo)
    pool = pool_type(
        conninfo,
        min_size=1,
        max_size=1,
        timeout=address.connect_timeout,
        # The first two are as on LangGraph's own connections.
        kwargs={"autocommit": True, "prepare_threshold": 0, "fallback_application_name": "trackside-checkpoints"},
        configure=_configure,
        check=_check,
        name="trackside-checkpoints",
        open=False,
    )
    async with pool:
        saver = saver_type(pool)
        async with database.locked(_SETUP_LOCK):  # LangGraph does not expect two processes to begin at once
            await saver.setup()
        yield saver


async def _configure(connection: Any) -> None:
    await connection.execute(WRITES)


async def _check(connection: Any) -> None:
    """Check that a connection works, and leads to a server that takes writes. After a failover an address may lead to a
    standby for a moment: such a connection is closed, and the pool makes another one.
    """
    found = await (await connection.execute("SELECT pg_is_in_recovery()")).fetchone()
    if found[0]:
        await connection.close()
        raise ConnectionError("it is a standby, which takes no writes")


def _load() -> tuple[Any, Any]:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg_pool import AsyncConnectionPool

    return AsyncPostgresSaver, AsyncConnectionPool
