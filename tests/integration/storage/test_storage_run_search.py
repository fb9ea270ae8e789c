"""Searches for runs by what they say, cost or took: in bounded steps, and none is missed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import nan
from typing import Any

import pytest
from tests.integration.storage.test_storage_plans import assert_no_table_is_read_as_a_whole, plans_of

from trackside.app.storage import Store, StoredRun
from trackside.app.storage._reading import listings, run_search
from trackside.app.storage.errors import InvalidQueryError


@pytest.fixture
async def said_runs(store: Store, script) -> list[StoredRun]:
    """Thirty runs and one that goes on: every fifth failed; each cost a tenth of its number and took its number."""
    for number in range(30):
        start = script().start + timedelta(minutes=number // 2)
        run = script(start=start, thread_id=f"t{number % 7}", run_id=f"r{number:02}")
        metadata = {"tags": ["deep", {"in": f"Ticket-{number}"}]} if number % 3 == 0 else {"n": number}
        agent = "Straße" if number == 4 else "chat"
        opening = [run.started(agent, metadata=metadata), run.thread("busy")]
        data = {"cost_usd": number / 10, "duration_seconds": float(number)}
        end = run.failed(completion_data=data) if number % 5 == 0 else run.completed(**data)
        await store.append([*opening, end, run.thread("idle")])
    going_on = script(start=datetime.now(UTC) - timedelta(hours=1), thread_id="t-on", run_id="on")
    await store.append([going_on.started("chat"), going_on.thread("busy")])
    return await store.runs(limit=100)


def numbers(runs: Any) -> list[str]:
    return [run.run_id for run in runs]


async def searched(store: Store, *, back: bool = False, limit: int = 4, **wanted: Any) -> tuple[list[str], int]:
    """Everything that a search finds when it is continued to its end, and the number of steps."""
    found, steps = [], 0
    place: dict[str, str] = {"after": "2000-01-01T00:00:00Z/"} if back else {}
    while True:
        steps += 1
        page = await store.search_runs(limit=limit, **place, **wanted)
        assert page.runs == sorted(page.runs, key=lambda run: (run.created_at, run.run_id), reverse=True)
        found += numbers(reversed(page.runs) if back else page.runs)
        if page.continues is None and len(page.runs) < limit:
            return found, steps
        cursor = page.continues or page.runs[0 if back else -1].cursor
        place = {"after" if back else "before": cursor}


WANTED: list[tuple[dict[str, Any], Callable[[StoredRun], bool]]] = [
    ({"text": "TICKET-1"}, lambda run: "Ticket-1" in str(run.metadata)),
    ({"text": "deep"}, lambda run: "tags" in run.metadata),
    ({"text": "strasse"}, lambda run: run.agent == "Straße"),
    ({"text": "tags"}, lambda run: False),  # keys are not searched
    ({"text": "17"}, lambda run: run.metadata.get("n") == 17),
    ({"text": "09"}, lambda run: run.run_id == "r09" or run.metadata.get("n") == 9),
    ({"text": "…09"}, lambda run: run.run_id == "r09"),
    ({"text": "-ON"}, lambda run: run.thread_id == "t-on"),
    ({"text": "T3"}, lambda run: run.thread_id == "t3"),
    ({"min_cost": 2.5}, lambda run: run.cost_usd is not None and run.cost_usd >= 2.5),
    ({"min_duration": 26}, lambda run: run.duration_seconds is None or run.duration_seconds >= 26),
    ({"min_cost": 1, "status": "error"}, lambda run: run.status == "error" and (run.cost_usd or 0) >= 1),
    ({"text": "deep", "min_cost": 1, "agent": "chat"}, lambda run: "tags" in run.metadata and (run.cost_usd or 0) >= 1),
    ({"text": "deep", "status": []}, lambda run: False),
]


@pytest.mark.parametrize("looked_at", [3, run_search.LOOKED_AT])
async def test_what_is_found_is_what_fits_both_ways_however_few_are_looked_at_once(
    store: Store, said_runs, monkeypatch: pytest.MonkeyPatch, looked_at: int
) -> None:
    monkeypatch.setattr(run_search, "LOOKED_AT", looked_at)
    monkeypatch.setattr(run_search, "_FIRST_LOOK", 2)
    for wanted, fits in WANTED:
        expected = numbers(filter(fits, said_runs))

        found, steps = await searched(store, **wanted)
        back, _ = await searched(store, back=True, **wanted)

        assert [*dict.fromkeys(found)] == expected, wanted
        assert back == expected[::-1], wanted
        if looked_at == 3 and "status" not in wanted:
            assert steps >= len(said_runs) // looked_at, wanted


async def test_a_run_named_by_its_id_is_found_at_once_however_old(
    store: Store, said_runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_search, "LOOKED_AT", 5)

    by_run = await store.search_runs(text="R02")
    by_thread = await store.search_runs(text="t1", limit=2)
    dear = await store.search_runs(text="r02", min_cost=5)
    of_another = await store.search_runs(text="r02", owner="ada")
    monkeypatch.setattr(listings, "FEW", 1)
    many = await store.search_runs(text="r0")

    assert numbers(by_run.runs) == ["r02"]
    assert by_run.continues is not None
    assert numbers(by_thread.runs) == ["r29", "r22"]
    assert not dear.runs
    assert not of_another.runs
    assert not many.runs
    assert many.continues is not None


async def test_a_run_named_by_an_id_that_has_capitals_is_found_at_once_however_old(
    store: Store, said_runs, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_search, "LOOKED_AT", 5)
    for run_id, thread_id in (("ORDER-17", "t-17"), ("order-18", "T-18"), ("Order-19", "t-19")):
        run = script(start=script().start - timedelta(days=1), run_id=run_id, thread_id=thread_id)
        await store.append(run.whole())

    for text, found in (
        ("ORDER-17", ["ORDER-17"]),
        ("order-17", ["ORDER-17"]),
        ("Order-17", ["ORDER-17"]),
        ("ORDER-18", ["order-18"]),
        ("T-18", ["order-18"]),
        ("t-18", ["order-18"]),
        ("Order-19", ["Order-19"]),
        ("ORDER-1", ["order-18", "ORDER-17"]),
        ("ORDER-20", []),
    ):
        page = await store.search_runs(text=text)
        assert numbers(page.runs) == found, text
        assert page.continues is not None
    assert len((await store.search_runs(text="order-1", limit=1)).runs) == 1


async def test_no_more_is_looked_at_than_a_bound_and_an_index_leads_to_it(
    store: Store, dialect: str, said_runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_search, "LOOKED_AT", 5)
    for wanted in ({"text": "r02"}, {"min_cost": 99, "agent": "chat"}, {"min_duration": 99, "thread_id": "t1"}):
        plans = await plans_of(store, dialect, lambda wanted=wanted: store.search_runs(**wanted))
        assert_no_table_is_read_as_a_whole(dialect, plans)


@pytest.mark.parametrize("wanted", [{"min_cost": -1}, {"min_duration": nan}, {"min_cost": True}, {"text": "\0"}])
async def test_a_search_that_makes_no_sense_is_refused_by_name(store: Store, wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidQueryError, match=next(iter(wanted))):
        await store.search_runs(**wanted)
