"""What an overview asks of a store: why runs failed, and what is going on now; in bounded work."""

from datetime import timedelta
from typing import Any

import pytest
from tests.integration.storage.test_storage_plans import assert_no_table_is_read_as_a_whole, plans_of

from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage._reading import failure_reasons, live_counts, reads
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness import ObserverBinding, RunManager, RunSpec


async def fail(store: Store, script: Any, number: int, *, agent: str = "chat", **ending: Any) -> Any:
    run = script(start=script().start + timedelta(minutes=number), run_id=f"r{number:02}", thread_id=f"t{number:02}")
    opening = [run.started(agent), run.thread("busy")]
    await store.append([*opening, run.failed(**ending), run.thread("error")])
    return run


async def test_reasons_are_counted_and_ranked_with_the_newest_to_look_at(
    store: Store, script, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = script().start
    for number in range(6):
        await fail(store, script, number, error=f"no {number}\nmore", error_type="ValueError")
    await fail(store, script, 6, status="timeout", error="too long", error_type=None)
    await fail(store, script, 7, agent="research", error="\n", error_type="ValueError")
    done = script(start=start, run_id="done")
    await store.append(done.whole())
    await store.remove_run("t05", "r05")

    reasons, truncated = await store.failures()
    recent, _ = await store.failures(start + timedelta(minutes=4), agent="chat")
    few, _ = await store.failures(limit=1)
    none = await store.failures(owner="ada")

    assert [(one.error_type, one.error, one.status, one.agent, one.count, one.run_id) for one in reasons] == [
        ("ValueError", "no 4", "error", "chat", 6, "r04"),
        ("ValueError", None, "error", "research", 1, "r07"),
        (None, "too long", "timeout", "chat", 1, "r06"),
    ]
    assert not truncated
    assert reasons[0].last_at == start + timedelta(minutes=5, seconds=2)
    assert [one.count for one in recent] == [2, 1]
    assert few == reasons[:1]
    assert none == ([], False)
    with pytest.raises(InvalidQueryError, match="limit"):
        await store.failures(limit=0)

    monkeypatch.setattr(reads, "MOST_FAILURES", 3)
    reasons, truncated = await store.failures()
    monkeypatch.setattr(failure_reasons, "FEW", -1)
    of_owner = await store.failures(owner="ada")

    assert sum(one.count for one in reasons) == 3
    assert truncated
    assert of_owner == ([], True)
    for filters in ({}, {"agent": "chat", "since": start}, {"owner": "ada"}):
        plans = await plans_of(store, dialect, lambda filters=filters: store.failures(**filters))
        assert_no_table_is_read_as_a_whole(dialect, plans)


async def test_what_a_deleted_run_failed_with_is_not_told_and_what_one_that_went_with_its_thread_is(
    store: Store, script
) -> None:
    await fail(store, script, 1, error="of ada", error_type="ValueError")
    await fail(store, script, 2, error="of eve", error_type="KeyError")
    await store.remove_run("t01", "r01")
    await store.threads_of(None).remove("t02")

    async def failing(input: Any) -> None:
        raise RuntimeError("of nobody")

    observer = ObserverBinding(StorageObserver(store), required=True)
    async with RunManager({"failing": failing}, observers=[observer], coordinator=store.coordinator()) as manager:
        handle = await manager.start(RunSpec("failing", thread_ends=True))
        await handle.result()

    assert await store.thread(handle.thread_id) is None
    reasons, _ = await store.failures()
    assert {one.error_type: (one.error, one.count) for one in reasons} == {
        "ValueError": (None, 1),
        "KeyError": (None, 1),
        "RuntimeError": ("of nobody", 1),
    }


async def test_threads_that_wait_for_a_human_are_counted_and_no_table_is_read_as_a_whole_for_it(
    store: Store, script, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = script(run_id="asked", thread_id="asked")
    await store.append([asked.started(), asked.thread("busy"), asked.completed(), asked.thread("interrupted")])
    plans: list[Any] = []
    found = []
    for few in (2_000, -1):
        monkeypatch.setattr(live_counts, "FEW", few)
        for owner in (None, "ada"):
            found.append((await store.live_counts(owner=owner)).waiting_for_human)
            plans += await plans_of(store, dialect, lambda owner=owner: store.live_counts(owner=owner))

    assert found == [1, 0, 1, 0]
    if dialect == "sqlite":  # all active runs are read: they are few, whatever the log has
        plans = [[row for row in plan if row[-1] != "SCAN active_runs"] for plan in plans]
        assert_no_table_is_read_as_a_whole(dialect, plans)
