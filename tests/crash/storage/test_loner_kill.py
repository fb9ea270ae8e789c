"""A script is killed in the middle of `run_agent`: nobody ends its run unasked; whoever cancels it gets rid of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from tests.crash.storage.forker import Forker

from trackside.app.storage import Store
from trackside.app.storage.health import database_health
from trackside.app.storage.maintenance import check_database
from trackside.harness.types import CancelAction, RunStatus


@pytest.fixture(scope="module")
def loner() -> Iterator[Forker]:
    with closing(Forker("loner.py")) as loner:
        yield loner


async def test_a_run_without_a_coordinator_is_cancelled_and_goes_with_its_thread(url: str, loner: Forker) -> None:
    assert await asyncio.to_thread(loner.killed_life, url, sys.maxsize, 0) == [("runs", "")]

    health = await asyncio.to_thread(database_health, url, now=datetime.now(UTC))
    assert health is not None
    assert [run.run_id for run in health.unattended] == ["r-1"]
    async with Store.open(url) as store:
        await store.coordinator().request_cancel("r-1", CancelAction.interrupt)
        run = await store.run("r-1")
        assert run is not None
        assert run.status is RunStatus.cancelled
        assert await asyncio.to_thread(check_database, url, sample=None) == []
        await store.threads_of(None).remove("t-1")
        await store.sweeper().sweep()
        assert await store.events() == []
        assert await store.runs(removed=True) == []
    assert await asyncio.to_thread(check_database, url, sample=None) == []
