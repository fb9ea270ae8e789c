"""`StorageObserver`: the log as an observer, which is enough by itself to record anybody's harness."""

import asyncio

import pytest

from trackside.app.observers.storage import NotAnEventLogError, StorageObserver
from trackside.app.storage import Store
from trackside.harness.errors import EventOrderError
from trackside.harness.observer import BatchRunObserver, CompositeObserver, ObserverBinding


async def test_the_first_event_makes_the_rows_of_its_run_and_thread(store: Store, script) -> None:
    run = script()

    await StorageObserver(store).on_event(run.started("chat"))

    assert (await store.run(run.run_id)).agent == "chat"
    assert (await store.thread(run.thread_id)).last_run_id == run.run_id


async def test_a_batch_is_one_transaction(store: Store, script) -> None:
    observer = StorageObserver(store)
    assert isinstance(observer, BatchRunObserver)
    run = script()

    await observer.on_events(run.whole())
    with pytest.raises(EventOrderError) as refused:
        await observer.on_events([script().started(), run.message()])

    assert not refused.value.retryable
    assert len(await store.events()) == 5


async def test_nobody_bound_after_it_sees_an_event_that_is_not_stored(store: Store, script) -> None:
    seen: list[str] = []

    async def later(event) -> None:
        assert [stored.event.event_id for stored in await store.events()] == [*seen, event.event_id]
        seen.append(event.event_id)

    composite = CompositeObserver([ObserverBinding(StorageObserver(store), required=True), later])
    run = script()
    for event in run.whole():
        await composite.on_event(event)
    with pytest.raises(EventOrderError):
        await composite.on_event(run.message())

    assert len(seen) == 5


async def test_an_event_that_is_taken_again_after_its_reply_was_lost_is_stored_once(store: Store, script) -> None:
    observer = StorageObserver(store)
    event = script().started()
    lost = asyncio.ensure_future(observer.on_event(event))
    await asyncio.sleep(0)
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)

    await observer.on_event(event)

    assert len(await store.events()) == 1


@pytest.mark.parametrize("passed", [None, "sqlite:///runs.db", Store.open("sqlite:///runs.db"), Store])
def test_what_takes_no_events_is_refused(passed: object) -> None:
    with pytest.raises(NotAnEventLogError, match="async with Store"):
        StorageObserver(passed)
