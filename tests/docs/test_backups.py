"""What the how-to about backups says of PostgreSQL is done, word for word, and what comes back is what was there."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blocks import DOCS, blocks_of
from postgres_server import PostgresServer, RunningServer

from trackside import run_agent
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store


@pytest.fixture
def restored_url(postgres_server: RunningServer, postgres_names: Iterator[str]) -> Iterator[str]:
    """The address of an empty database beside the one that is saved."""
    name = next(postgres_names)
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


async def answer(question: str) -> str:
    return "42"


async def leave_something(url: str) -> list[Any]:
    async with Store.open(url) as store:
        for run_id in ("one", "two"):
            await run_agent(answer, "Why?", run_id=run_id, observer=StorageObserver(store))
        await store.subscriptions.open("mail", start=3)
        return await store.events()


async def look_and_go_on(url: str) -> tuple[list[Any], int, list[int]]:
    """The events, the cursor of the subscription, and at which positions the next run is kept."""
    async with Store.open(url) as store:
        events = await store.events()
        mail = await store.subscriptions.get("mail")
        await run_agent(answer, "How?", run_id="three", observer=StorageObserver(store))
        return events, mail.cursor, [stored.position for stored in await store.events(run_id="three")]


def test_a_dump_of_postgresql_comes_back_whole_and_goes_on(
    postgres_server: RunningServer, postgres_url: str, restored_url: str, tmp_path: Path
) -> None:
    if not isinstance(postgres_server, PostgresServer):
        pytest.skip("the programs of a server elsewhere may be of another version")
    before = asyncio.run(leave_something(postgres_url))
    (said,) = (block.text for block in blocks_of(DOCS / "howto/backups.md") if "pg_restore" in block.text)
    commands = said.replace("createdb restored\n", "")  # it is there, by another name
    path = os.pathsep.join([str(postgres_server.bin), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "TRACKSIDE_DATABASE_URL": postgres_url, "RESTORED_URL": restored_url}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")

    after, cursor, positions = asyncio.run(look_and_go_on(restored_url))

    assert after == before
    assert cursor == 3
    assert positions == [len(before) + number for number in range(1, len(positions) + 1)]
