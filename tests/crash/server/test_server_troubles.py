"""What happens to a server, short of death: while it cannot it says 503 and why; then it goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from forking import Forkery
from postgres_server import PostgresServer
from served_lives import Lives
from served_load import Load
from trackside_server import TracksideServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID"),
]
PATIENCE = 60.0


async def until_ready(server: TracksideServer, status: int) -> Any:
    """Wait until the server says that it is ready, or that it is not; returns what it says."""
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client, asyncio.timeout(PATIENCE):
        while (answer := await client.get("/health/ready")).status_code != status:
            await asyncio.sleep(0.2)
    return answer.json()


async def until_more(load: Load, turns: int = 20) -> None:
    """Wait until clients have finished this many more turns."""
    wanted = load.done.total() + turns
    async with asyncio.timeout(PATIENCE):
        while load.done.total() < wanted:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def limited(server: TracksideServer, what: int, most: int) -> AsyncIterator[None]:
    """Limit the server's process for a while."""
    _, hard = resource.prlimit(server.pid, what)
    before = resource.prlimit(server.pid, what, (most, hard))
    try:
        yield
    finally:
        resource.prlimit(server.pid, what, before)


@pytest.fixture
def lives(tmp_path: Path, forkery: Forkery) -> Lives:
    return Lives(f"sqlite:///{tmp_path}/runs.db", tmp_path, seed=random.randrange(2**32), forkery=forkery)


async def test_a_database_that_somebody_else_has_locked_for_ten_seconds(lives: Lives, tmp_path: Path) -> None:
    async def lock(server: TracksideServer, load: Load) -> None:
        await until_more(load)
        with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None, timeout=30)) as database:
            database.execute("BEGIN EXCLUSIVE")
            says = await until_ready(server, 503)
            database.execute("COMMIT")
        assert [reason["check"] for reason in says["reasons"]] == ["database"]
        await until_ready(server, 200)
        await until_more(load)

    await lives.go_through(trouble=lock)


async def test_a_disk_that_is_full_for_a_while(lives: Lives, tmp_path: Path) -> None:
    async def fill(server: TracksideServer, load: Load) -> None:
        for _ in range(1):
            await until_more(load)
            size = (tmp_path / "runs.db-wal").stat().st_size
            async with (
                limited(server, resource.RLIMIT_FSIZE, size),
                httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client,
            ):
                says = await until_ready(server, 503)
                refused = await client.post("/threads", json={})
                read = await client.post("/threads/search", json={})
            assert [reason["check"] for reason in says["reasons"]] == ["database"]
            assert (refused.status_code, read.status_code) == (503, 200)
            assert "again" in refused.json()["detail"]
            assert refused.headers["retry-after"]
            await until_ready(server, 200)

    await lives.go_through(trouble=fill)


@pytest.mark.long
async def test_descriptors_that_clients_without_a_word_have_used_up(lives: Lives) -> None:
    async def use_up(server: TracksideServer, load: Load) -> None:
        await until_more(load)
        used = len([*Path(f"/proc/{server.pid}/fd").iterdir()])
        async with limited(server, resource.RLIMIT_NOFILE, used + 20):
            with crowd(server, 60):
                await asyncio.sleep(1)  # no event says that it cannot take connections
        await until_ready(server, 200)
        await until_more(load)

    await lives.go_through(trouble=use_up)


@contextlib.contextmanager
def crowd(server: TracksideServer, size: int) -> Iterator[list[socket.socket]]:
    """Clients that connect, and say nothing."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(size)]


@pytest.mark.long
async def test_a_postgres_server_that_is_stopped_and_started(
    own_postgres_server: PostgresServer, postgres_names: Iterator[str], tmp_path: Path, forkery: Forkery
) -> None:
    postgres = own_postgres_server
    lives = Lives(
        postgres.create_database(next(postgres_names)), tmp_path, seed=random.randrange(2**32), forkery=forkery
    )

    async def stop(server: TracksideServer, load: Load) -> None:
        for _ in range(2):
            await until_more(load)
            await asyncio.to_thread(postgres.stop, "immediate")
            says = await until_ready(server, 503)
            async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
                refused = await client.post("/threads", json={})
            assert [reason["check"] for reason in says["reasons"]] == ["database"] * len(says["reasons"])
            assert refused.status_code == 503
            await asyncio.to_thread(postgres.start)
            await until_ready(server, 200)
        await until_more(load)

    await lives.go_through(trouble=stop)
