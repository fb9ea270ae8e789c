"""A process is killed at any place between a thread's removal and its last trace; whoever sweeps next goes on from there."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.crash.storage.forker import Forker

from trackside.app.storage import Store
from trackside.app.storage.maintenance import check_database
from trackside.app.storage.threads import ThreadQuery

PLACES = ["before sweeping", "while forgetting", "before the log", "within the log"]


@pytest.fixture(scope="module")
def sweeper() -> Iterator[Forker]:
    with closing(Forker("sweeper.py")) as sweeper:
        yield sweeper


@pytest.mark.parametrize("place", PLACES)
async def test_a_sweep_that_was_killed_is_gone_on_with(url: str, place: str, sweeper: Forker) -> None:
    said = await asyncio.to_thread(sweeper.killed_life, f"{url} {place}", sys.maxsize, 0)
    assert said == [("removed", "")]

    async with Store.open(url) as store:
        assert await store.thread("deleted") is None
        assert (await store.threads_of(None).search(ThreadQuery())).threads[0].thread_id == "kept"
        await store.sweeper().sweep()
        assert await store.thread("deleted", removed=True) is None
        assert await store.runs(thread_id="deleted", removed=True) == []
        assert await store.events(thread_id="deleted") == []
        assert [await store.thread_states().load(thread_id) for thread_id in ("deleted", "ended")] == [None, None]
        assert await store.thread_states().load("kept") is not None
        assert {len(await store.events(thread_id=thread_id)) for thread_id in ("ended", "kept")} == {4, 12}
        assert await store.sweeper().sweep() == (0, 0, 0)
    assert await asyncio.to_thread(check_database, url, sample=None) == []
