"""What somebody needs is not pruned: a question that is open, and what a subscription has not passed or has parked."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert
from tests.integration.storage.pruned_runs import DAY, LONG_AGO, removed
from tests.integration.storage.writer_works import Execute

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store, _removal
from trackside.app.storage._removal import Candidate, RemoveRuns
from trackside.app.storage._rows.tables import parked_events, subscriptions
from trackside.harness.ports import ThreadState


def subscription(name: str, cursor: int) -> Any:
    return insert(subscriptions).values(
        name=name,
        filter="{}",
        cursor=cursor,
        on_failure="block",
        state="active",
        created_at="2026-01-31T09:30:00.000000Z",
        updated_at="2026-01-31T09:30:00.000000Z",
        token=0,
        failures=0,
    )


async def test_a_question_to_a_human_stays_and_so_does_its_thread(store: Store, script) -> None:
    before, asking, failed = (script(thread_id="t", start=LONG_AGO + n * DAY) for n in range(3))
    question = {"status": "interrupted", "interrupts": [{"id": "1", "value": "Sure?"}]}
    asked = [asking.started(), asking.event("run_completed", **question), asking.thread("interrupted")]
    await store.append([*before.whole(), *asked])
    await store.append([failed.started(), failed.failed(), failed.thread("interrupted")])
    await store.thread_states().save("t", ThreadState({"x": 1}))

    assert await store.prune(older_than=DAY, dry_run=True) == removed(2, 8, waiting=1)
    assert await store.prune(older_than=DAY) == removed(2, 8, waiting=1)
    assert [run.run_id for run in await store.runs()] == [asking.run_id]
    assert await store.thread_states().load("t") is not None

    answered = script(thread_id="t", start=LONG_AGO + 3 * DAY)
    await store.append([answered.started(), answered.completed(), answered.thread("idle")])
    assert await store.prune(older_than=DAY) == removed(2, 6, 1)


async def test_a_question_on_a_thread_whose_time_is_over_is_nobodys_to_answer_and_goes(
    store: Store, script, database: Any
) -> None:
    question = {"status": "interrupted", "interrupts": [{"id": "1", "value": "Sure?"}]}
    for thread_id in ("over", "not over", "a run waits"):
        await store.threads_of(None).create(thread_id, ttl_minutes=60)
        run = script(thread_id=thread_id)
        await store.append([run.started(), run.event("run_completed", **question), run.thread("interrupted")])
        await store.thread_states().save(thread_id, ThreadState({"x": 1}))
    storage = [ObserverBinding(StorageObserver(store), required=True)]
    async with RunManager({"chat": print}, observers=storage, coordinator=store.coordinator()) as manager:
        later = await manager.start(RunSpec("chat", thread_id="a run waits", after_seconds=3_600))
        database.execute("UPDATE threads SET expires_at = '2020-01-01T00:00:00Z' WHERE thread_id <> 'not over'")

        assert await store.prune(older_than=timedelta(0), dry_run=True) == removed(1, 3, 1, waiting=2)
        assert await store.prune(older_than=timedelta(0)) == removed(1, 3, 1, waiting=2)
        await later.cancel()
    assert {thread.thread_id for thread in await store.threads()} == {"not over", "a run waits"}
    assert await store.thread_states().load("over") is None
    await store.append(script(thread_id="over").whole())


async def test_the_question_that_stays_is_the_one_that_was_asked_last_whoever_came_first(store: Store, script) -> None:
    late, early = script(thread_id="t", start=LONG_AGO), script(thread_id="t", start=LONG_AGO + DAY)
    await store.append([late.started(), early.started()])
    for run in (early, late):
        run.start = LONG_AGO + (2 if run is early else 3) * DAY
        await store.append([run.event("run_completed", status="interrupted"), run.thread("interrupted")])

    assert await store.prune(older_than=DAY) == removed(1, 3, waiting=1)
    assert [run.run_id for run in await store.runs()] == [late.run_id]


@pytest.mark.parametrize("looks_first", [True, False])
async def test_the_question_that_stays_is_the_one_that_the_log_has_last_whatever_clocks_said(
    store: Store, script, looks_first: bool
) -> None:
    """Of two machines, one of which is ahead by more than it took to answer."""
    answered, asking = script(thread_id="t", start=LONG_AGO + DAY), script(thread_id="t", start=LONG_AGO)
    for run in (answered, asking):
        await store.append([run.started(), run.thread("busy"), run.event("run_completed", status="interrupted")])
        await store.append([run.thread("interrupted")])

    if looks_first:
        assert await store.prune(older_than=DAY, dry_run=True) == removed(1, 4, waiting=1)
        assert await store.prune(older_than=DAY) == removed(1, 4, waiting=1)
    else:  # what was chosen before is looked at once more
        chosen = [Candidate(run.run_id, run.thread_id, LONG_AGO, 4, 0, asks=False) for run in (answered, asking)]
        assert await store._writer.write(RemoveRuns(chosen)) == (1, 4, 0)
    assert [run.run_id for run in await store.runs()] == [asking.run_id]


async def test_what_a_subscription_has_not_passed_or_has_parked_stays(store: Store, script) -> None:
    one, two, three = (script(start=LONG_AGO) for _ in range(3))
    await store.append([one.started(), one.completed()])  # positions 1, 2
    await store.append([two.started(), three.started(), three.completed(), two.completed()])  # 3, 4, 5, 6
    parked = insert(parked_events).values(
        subscription="parking", position=1, state="parked", attempts=3, error="no", parked_at="2026"
    )
    await store._writer.write(Execute(subscription("slow", 5), subscription("quick", 6), subscription("parking", 6)))
    await store._writer.write(Execute(parked))

    expected = removed(1, 2, 1, slow=1, parking=1)
    assert await store.prune(older_than=DAY, dry_run=True) == expected
    assert await store.prune(older_than=DAY) == expected

    assert {run.run_id for run in await store.runs()} == {one.run_id, two.run_id}


async def test_what_came_to_be_needed_after_it_was_chosen_stays(store: Store, script) -> None:
    asking, unread = script(start=LONG_AGO), script(start=LONG_AGO)
    await store.append([asking.started(), asking.event("run_completed", status="interrupted")])
    await store.append([asking.thread("interrupted"), unread.started(), unread.completed()])
    await store._writer.write(Execute(subscription("slow", 4)))
    chosen = [Candidate(run.run_id, run.thread_id, LONG_AGO, 2, 0, asks=False) for run in (asking, unread)]

    assert await store._writer.write(RemoveRuns(chosen)) == (0, 0, 0)
    assert len(await store.events()) == 5


async def test_what_is_needed_by_now_stays_although_it_was_free_when_it_was_chosen(store: Store, script) -> None:
    run = script(start=LONG_AGO)
    await store.append(run.whole())
    subscribed = asyncio.create_task(store._writer.write(Execute(subscription("new", 0))))
    pruned = asyncio.create_task(store.prune(older_than=DAY))
    await subscribed

    assert (await pruned).runs in {0, 1}
    assert len(await store.events()) in {0, 5}
    # Whoever was first: a run that is there is there whole, and is reported only if it has gone.
    assert (await pruned).events + len(await store.events()) == 5


async def test_what_is_parked_while_it_is_removed_stays(
    store: Store, dialect: str, url: str, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dialect == "sqlite":
        pytest.skip("one transaction at a time is all that there is")
    run = script(start=LONG_AGO).whole()
    await store.append(run)
    await store.subscriptions.open("mail")
    looked, going_on = threading.Event(), threading.Event()
    subtract = _removal._subtract

    def hold(*arguments: Any) -> None:
        looked.set()
        going_on.wait()
        subtract(*arguments)

    monkeypatch.setattr(_removal, "_subtract", hold)
    async with Store.open(url) as other:
        pruning = asyncio.create_task(store.prune(older_than=DAY))
        await asyncio.to_thread(looked.wait)
        try:
            await other.subscriptions.seek("mail", 0)
            consumer = await other.subscriptions.acquire("mail")
            await consumer.park((await consumer.read()).events[0].position, "no")
        finally:
            going_on.set()

        assert (await pruning).runs == 0
        assert len(await other.subscriptions.parked("mail")) == 1
        assert [event.event for event in await other.events()] == run
