"""What subscriptions have done with the events of one run."""

from typing import Any

import pytest
from tests.integration.storage.test_storage_plans import assert_no_table_is_read_as_a_whole, plans_of

from trackside.app.storage import Store
from trackside.app.storage._subscriptions import deliveries


async def told(store: Store, run_id: str) -> list[tuple[Any, ...]]:
    found, _ = await store.subscriptions.deliveries(run_id)
    return [
        (
            one.subscription,
            one.wanted,
            one.delivered,
            one.waiting,
            [(p.position, p.attempts, p.error) for p in one.parked],
        )
        for one in found
    ]


async def test_events_of_a_run_are_delivered_wait_or_are_parked(
    store: Store, script, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subs, run, other = store.subscriptions, script(), script()
    await store.append(run.whole())
    await store.append(other.whole())
    await subs.open("all", start="beginning")
    await subs.open("ends", types=["run_completed", "run_failed"], start="beginning")
    await subs.open("of another", run_id=other.run_id, start="beginning")
    await subs.open("of its thread", thread_id=run.thread_id, start="now")
    await subs.open("of another agent", agent="research", start="beginning")
    consumer = await subs.acquire("all")
    await consumer.read()
    await consumer.acknowledge(1)
    await consumer.park(2, "no", attempts=3)
    await consumer.acknowledge(3)
    again = await subs.acquire("ends")
    await again.read()
    await again.park(4, "away")

    assert await told(store, run.run_id) == [
        ("all", 5, 2, 2, [(2, 3, "no")]),
        ("ends", 1, 0, 0, [(4, 1, "away")]),
        ("of its thread", 5, 5, 0, []),
    ]
    assert [one[:4] for one in await told(store, other.run_id)] == [
        ("all", 5, 0, 5),
        ("ends", 1, 0, 1),
        ("of another", 5, 0, 5),
    ]
    assert await told(store, "nowhere") == []
    plans = await plans_of(store, dialect, lambda: subs.deliveries(run.run_id))
    assert_no_table_is_read_as_a_whole(dialect, [plan for plan in plans if "subscriptions" not in str(plan)])

    await subs.seek("all", "beginning")
    assert (await told(store, run.run_id))[0] == ("all", 5, 0, 4, [(2, 3, "no")])

    monkeypatch.setattr(deliveries, "MOST_EVENTS", 2)
    found, truncated = await subs.deliveries(run.run_id)
    assert truncated
    assert [one.wanted for one in found] == [2, 1, 2]
