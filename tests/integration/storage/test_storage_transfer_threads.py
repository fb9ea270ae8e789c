"""Threads whose runs are imported: where they rest, what they ask and when they end is what the whole log says of them."""

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.storage.exported_logs import LONG_AGO, Another, exported, made

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store, importing
from trackside.app.storage._rows.encoding import time_text
from trackside.harness.ids import new_id


@pytest.mark.parametrize(("status", "rests"), [("success", "idle"), ("interrupted", "interrupted")])
async def test_a_thread_rests_whose_last_run_was_exported_without_the_next(
    store: Store, another: Another, script, status: str, rests: str
) -> None:
    first, follows, goes_on = script(thread_id="t"), script(thread_id="t"), script(thread_id="u")
    await store.append([first.started(), first.thread("busy"), first.event("run_completed", status=status)])
    await store.append([follows.started()])
    await store.append([goes_on.started(), goes_on.thread("busy")])
    async with another() as copy:
        await copy.import_events(io.BytesIO(await exported(store, run_id=first.run_id)))
        await copy.import_events(io.BytesIO(await exported(store, run_id=goes_on.run_id)))
        assert {thread.thread_id: thread.status for thread in await copy.threads()} == {"u": "busy", "t": rests}


async def test_older_runs_that_are_imported_leave_a_thread_that_waits_as_it_is(store: Store, script) -> None:
    old = script(thread_id="t", start=LONG_AGO)
    asks = script(thread_id="t", start=LONG_AGO + timedelta(days=1))
    await store.append([old.started("old"), old.thread("busy"), old.completed("An old title"), old.thread("idle")])
    file = await exported(store)
    await store.append([asks.started("new"), asks.thread("busy")])
    await store.append([asks.event("run_completed", status="interrupted", title="A title", interrupts=[{"id": "1"}])])
    await store.append([asks.thread("interrupted")])
    assert (await store.prune(older_than=None)).runs == 1
    (before,) = await store.threads()

    report = await store.import_events(io.BytesIO(file))

    assert report.imported == 4
    assert await store.threads() == [before]
    assert (before.status, before.last_run_id, before.agent) == ("interrupted", asks.run_id, "new")
    kept = await store.prune(older_than=None)
    assert (kept.runs, kept.threads, kept.kept_waiting) == (1, 0, 1)


@pytest.mark.parametrize("rows", [2, 1_000])
async def test_a_thread_without_a_title_gets_that_of_the_newest_older_run_that_has_one(
    store: Store, another: Another, script, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(importing, "_BATCH_ROWS", rows)
    for days, title in enumerate(["First", "Second", None]):
        for thread_id in ("untitled", "titled"):
            run = script(thread_id=thread_id, start=LONG_AGO + timedelta(days=days))
            await store.append([run.started(), run.completed(title)])
    async with another() as other:
        for thread_id, title in (("untitled", None), ("titled", "Its own")):
            run = script(thread_id=thread_id)
            await other.append([run.started(), run.completed(title)])

        await other.import_events(io.BytesIO(await exported(store)))

        titles = {thread.thread_id: thread.title for thread in await other.threads()}
    assert titles == {"untitled": "Second", "titled": "Its own"}


async def test_a_thread_rests_as_the_log_has_it_whatever_clocks_said(store: Store, another: Another, script) -> None:
    answer = script(thread_id="t", start=LONG_AGO)
    asks = script(thread_id="t", start=LONG_AGO + timedelta(days=1))  # on a machine that is a day ahead
    await store.append([asks.started(), asks.thread("busy"), asks.event("run_completed", status="interrupted")])
    await store.append([answer.started(), answer.completed()])
    async with another() as copy:
        await copy.import_events(io.BytesIO(await exported(store)))
        assert [thread.status for thread in await copy.threads()] == ["idle"]


@pytest.mark.parametrize("then_fails", [True, False])
async def test_an_older_question_that_is_imported_is_not_the_one_that_is_open(
    store: Store, script, then_fails: bool
) -> None:
    old, asks, wrong = (script(thread_id="t", start=LONG_AGO + timedelta(days=days)) for days in range(3))
    await store.append([old.started(), old.event("run_completed", status="interrupted"), old.thread("interrupted")])
    file = await exported(store)
    await store.append([asks.started(), asks.event("run_completed", status="interrupted"), asks.thread("interrupted")])
    assert (await store.prune(older_than=None)).runs == 1
    if then_fails:
        await store.append([wrong.started(), wrong.failed(), wrong.thread("interrupted")])

    assert (await store.import_events(io.BytesIO(file))).imported == 3

    assert [run.run_id for run in await store.runs(waiting=True)] == [asks.run_id]
    await store.prune(older_than=None)
    assert asks.run_id in {run.run_id for run in await store.runs()}


async def test_newer_runs_that_are_imported_let_a_thread_go_on(store: Store, another: Another, script) -> None:
    old, new = script(thread_id="t", start=LONG_AGO), script(thread_id="t")
    async with another() as behind:
        await behind.append(script(start=LONG_AGO).whole())
        await store.append(old.whole())
        await behind.import_events(io.BytesIO(await exported(store)))
        await store.append([new.started("new"), new.thread("busy"), new.failed(), new.thread("error")])
        (thread,) = await store.threads()

        await behind.import_events(io.BytesIO(await exported(store)))

        assert (await behind.threads())[0] == thread


async def test_the_imported_end_of_a_run_that_goes_on_here_ends_its_thread_though_a_newer_run_was_imported(
    store: Store, script
) -> None:
    begun, opened = asyncio.Event(), asyncio.Event()

    async def wait(input: Any) -> None:
        begun.set()
        await opened.wait()

    observer = ObserverBinding(StorageObserver(store), required=True)
    async with RunManager({"wait": wait}, observers=[observer], coordinator=store.coordinator()) as manager:
        handle = await manager.start(RunSpec("wait", thread_ends=True))
        await begun.wait()
        file = [json.loads(line) for line in (await exported(store)).splitlines()[1:-1]]
        last = file[-1]
        newer = script(thread_id=handle.thread_id, start=datetime.now(UTC) + timedelta(days=1)).whole()
        others = [
            {
                "position": last["position"] + number,
                "event_id": event.event_id,
                "event_type": event.event_type,
                "run_id": event.run_id,
                "thread_id": event.thread_id,
                "sequence": event.sequence,
                "occurred_at": time_text(event.occurred_at),
                "payload": event.payload,
            }
            for number, event in enumerate(newer, 1)
        ]
        to = last["position"] + len(others) + 1
        end = last | {"position": to, "event_id": new_id(), "sequence": last["sequence"] + 1}
        end |= {"event_type": "run_failed", "payload": {"error": "lost", "error_type": "worker_lost"}}

        assert (await store.import_events(made(*others, to=to))).imported == len(others)
        assert (await store.import_events(made(end, to=to))).imported == 1

        thread = await store.thread(handle.thread_id, removed=True)
        assert thread is not None
        assert thread.removed_at is not None
        opened.set()
        await handle.result()
    assert [one.run_id for one in await store.runs(status="error", removed=True)] == [handle.run_id]


@pytest.mark.parametrize("rows", [1, 2, 3, 1_000])
async def test_a_run_that_was_cancelled_as_another_one_ran_leaves_an_imported_thread_as_it_was(
    store: Store, another: Another, script, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(importing, "_BATCH_ROWS", rows)
    asks, waits = script(thread_id="t"), script(thread_id="t", start=LONG_AGO + timedelta(days=9_000))
    await store.append([asks.started(), asks.thread("busy"), waits.event("run_cancelled", cancel_mode="interrupt")])
    await store.append([asks.event("run_completed", status="interrupted", interrupts=[{"id": "1", "value": "?"}])])
    await store.append([asks.thread("interrupted")])
    (thread,) = await store.threads()
    async with another() as other:
        await other.append(script(start=LONG_AGO).whole())

        await other.import_events(io.BytesIO(await exported(store)))

        assert (await other.threads())[0] == thread
