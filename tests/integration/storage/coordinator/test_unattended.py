"""Runs that are in the log but belong to no coordinator, as `run_agent` records them and an import brings them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.runs.stage import Agents
from told_events import told

from trackside import run_agent
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage.maintenance import check_database
from trackside.harness.errors import EventOrderError, RunInUseError, ThreadInUseError
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import CancelAction, RunStatus, ThreadStatus
from trackside.testing import assert_run_order, make_run

OPENING = ["run_started", "thread_status_updated busy", "human_message"]


async def begin(store: Store, run_id: str, thread_id: str = "t") -> list[RunLifecycleEvent]:
    """Store only what a run announces before its end; return the events that it would have announced next."""
    events = make_run(run_id, thread_id=thread_id)
    await store.append(events[:3])
    return events[3:]


@pytest.mark.parametrize("action", CancelAction)
async def test_a_cancel_ends_it_at_once_and_for_good(store: Store, action: CancelAction) -> None:
    rest = await begin(store, "r-1")

    await store.request_cancel("r-1", action)
    await store.request_cancel("r-1", action)
    with pytest.raises(EventOrderError, match="does not follow"):
        await store.append(rest)

    run, thread = await store.run("r-1", removed=True), await store.thread("t")
    assert run is not None
    assert thread is not None
    assert (run.status, run.removed_at is not None) == (RunStatus.cancelled, action is CancelAction.rollback)
    assert thread.status is ThreadStatus.idle
    assert await told(store, "t") == [*OPENING, f"run_cancelled {action}", "thread_status_updated idle"]
    assert_run_order([stored.event for stored in await store.events(run_id="r-1")])


async def test_what_its_process_says_later_is_refused(store: Store) -> None:
    async def agent(input: Any, run: Any) -> str:
        await store.request_cancel(run.run_id)
        return "done"

    await run_agent(agent, "do", run_id="r-1", thread_id="t", observer=StorageObserver(store))

    assert await told(store, "t") == [*OPENING, "run_cancelled interrupt", "thread_status_updated idle"]


async def test_a_thread_that_another_run_holds_is_not_said_to_rest(worker: Any, agents: Agents) -> None:
    a = await worker()
    await begin(a.store, "r-1")
    run = await a.start("one", thread_id="t")
    await agents.until_running("one")

    await a.store.request_cancel("r-1")
    agents.let("one")
    await run.result()

    thread = [line for line in await a.told("t") if line.startswith(("thread", "run"))]
    assert thread[-3:] == ["run_cancelled interrupt", "run_completed success", "thread_status_updated idle"]


async def test_a_thread_goes_when_it_was_cancelled_and_leaves_nothing(store: Store) -> None:
    await begin(store, "r-1")
    threads = store.threads_of(None)

    with pytest.raises(ThreadInUseError, match="'r-1'"):
        await threads.remove("t")
    with pytest.raises(RunInUseError):
        await store.remove_run("t", "r-1")
    await store.request_cancel("r-1")
    await threads.remove("t")

    assert (await store.sweeper().sweep()).runs == 1
    assert await store.events() == []
    assert await store.thread("t", removed=True) is None


async def test_what_was_left_of_a_thread_that_went_before_goes_after_a_cancel(store: Store, database: Any) -> None:
    await begin(store, "r-1")
    await asyncio.to_thread(database.execute, "UPDATE threads SET removed_at = updated_at")
    await asyncio.to_thread(database.execute, "UPDATE runs SET removed_at = created_at")

    await store.sweeper().sweep()
    await store.request_cancel("r-1")

    assert (await store.sweeper().sweep()).runs == 1
    assert await store.events() == []


async def expire(database: Any) -> None:
    """Have the time of all threads run out."""
    await asyncio.to_thread(database.execute, "UPDATE threads SET expires_at = '2020-01-01T00:00:00.000000Z'")


async def say(database: Any, *, ago: timedelta) -> None:
    """Have all events said so long ago."""
    when = time_text(datetime.now(UTC) - ago)
    await asyncio.to_thread(database.execute, f"UPDATE events SET occurred_at = '{when}'")


async def test_they_end_with_the_time_of_their_thread(store: Store, database: Any, url: str) -> None:
    for run_id in ("r-1", "r-2"):
        await begin(store, run_id)
    await store.subscriptions.open("mail", start="beginning")
    await expire(database)

    assert (await store.sweeper().sweep()).expired == 1
    assert [run.status for run in await store.runs(removed=True)] == [RunStatus.cancelled] * 2
    assert await store.runs() == []
    assert (await told(store, "t"))[-3:] == [
        "run_cancelled interrupt",
        "thread_status_updated idle",
        "run_cancelled interrupt",
    ]
    assert await asyncio.to_thread(check_database, url, sample=None) == []

    await store.subscriptions.delete("mail")
    assert (await store.sweeper().sweep()).runs == 2
    assert await store.events() == []
    assert await store.thread("t", removed=True) is None


async def test_one_that_was_heard_of_lately_keeps_its_thread(store: Store, database: Any) -> None:
    await begin(store, "r-1")
    await say(database, ago=timedelta(hours=23))
    rest = await begin(store, "r-2")
    await expire(database)

    assert (await store.sweeper().sweep()).expired == 0
    assert [run.status for run in await store.runs()] == [RunStatus.running] * 2

    await store.append(rest)
    await say(database, ago=timedelta(hours=25))
    swept = await store.sweeper().sweep()
    assert (swept.expired, swept.runs) == (1, 2)
