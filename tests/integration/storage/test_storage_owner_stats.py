"""Totals of one owner's runs: they are found through his threads, and no more than a bounded number of these."""

from datetime import timedelta
from typing import Any

import pytest
from tests.integration.storage.test_storage_plans import plans_of

from trackside.app.storage import Store
from trackside.app.storage._reading import owner_stats
from trackside.app.storage.errors import TooManyRunsError

MODELS = {"m": {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25}}


@pytest.fixture
async def hers(store: Store, script, database: Any) -> None:
    """Append twelve runs an hour apart, every other one Ada's; one of her threads is removed."""
    for number in range(12):
        owner = ("ada", "bob")[number % 2]
        run = script(start=script().start + timedelta(hours=number), thread_id=f"{owner}{number}", run_id=f"r{number}")
        opening = [run.started(("chat", "research")[number // 6]), run.thread("busy")]
        data = {"token_usage_by_model": MODELS, "cost_usd": 0.25, "duration_seconds": float(number)}
        end = run.completed(**data) if number % 4 else run.failed(completion_data=data)
        await store.append([*opening, end, run.thread("idle")])
    for owner in ("ada", "bob"):  # not through a thread made now, since that would have something happen now
        database.execute(f"UPDATE threads SET owner = '{owner}' WHERE thread_id LIKE '{owner}%'").fetchall()
    await store.threads_of("ada").remove("ada8")


async def test_they_are_those_of_his_threads_alone(store: Store, hers: None, script) -> None:
    start = script().start
    everything = await store.stats(owner="ada")
    recent = await store.stats(start + timedelta(hours=5), owner="ada", agent="research")
    failed = await store.stats(owner="ada", status="error", until=start + timedelta(hours=5))
    hourly = await store.timeline(start, start + timedelta(hours=12), owner="ada", width=timedelta(hours=4))
    nobodys = await store.stats(owner="carol")

    assert everything.total.by_status == {"success": 3, "error": 3}
    assert everything.total.cost_usd == 1.5
    assert everything.by_model["m"].input_tokens == 60
    assert everything.total.duration_p50 == 4.0
    assert recent.total.runs == 3
    assert failed.total.runs == 2
    assert [bucket.total.runs for bucket in hourly] == [2, 2, 2, 0]
    assert [bucket.by_model["m"].input_tokens for bucket in hourly[:3]] == [20, 20, 20]
    assert nobodys.total.runs == 0


async def test_more_than_are_added_up_one_by_one_are_refused_and_those_of_a_shorter_time_are_not(
    store: Store, hers: None, script, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = script().start + timedelta(hours=9)
    monkeypatch.setattr(owner_stats, "MOST_OWNED", 4)
    with pytest.raises(TooManyRunsError):
        await store.stats(owner="ada")
    assert (await store.stats(since, owner="ada")).total.runs == 1
    for filters in ({}, {"since": since}):
        plans = await plans_of(store, dialect, lambda filters=filters: store.stats(owner="bob2", **filters))
        if dialect == "sqlite":
            lines = [str(row[-1]) for plan in plans for row in plan if row[-1].startswith("SCAN")]
            assert {
                line for line in lines if "active_runs" not in line and "(" not in line and "anon_" not in line
            } <= {"SCAN CONSTANT ROW"}
