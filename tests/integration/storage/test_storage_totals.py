"""Sums over runs are kept beside the runs: whatever happens to these, the sums equal what all rows together say."""

import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Table, select

from trackside.app.storage import Store
from trackside.app.storage._rows.tables import duration_totals, run_labels, run_totals, runs, usage, usage_totals
from trackside.app.storage._rows.totals import NO_AGENT, PERIODS, bin_of, middle_of, nano_dollars
from trackside.app.storage.errors import InvalidEventError
from trackside.harness import RunSpec
from trackside.harness.admission import record_of
from trackside.harness.errors import InvalidSpecError
from trackside.harness.lifecycle import FINAL_STATUSES

type Sums = dict[tuple[Any, ...], list[int]]

PROPERTY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
USED = ("total_input_tokens", "total_output_tokens", "llm_call_count", "tool_call_count", "message_count")
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")


def kept(connection: Connection, table: Table) -> Sums:
    key = len(table.primary_key)
    return {tuple(row[:key]): list(row[key:]) for row in connection.execute(select(table))}


def add(sums: Sums, key: tuple[Any, ...], amounts: Sequence[int]) -> None:
    sums[key] = [a + b for a, b in zip(sums.get(key, [0] * len(amounts)), amounts, strict=True)]


def price(cost: float | None) -> list[int]:
    return [0, 0] if cost is None else [1, nano_dollars(cost)]


def counted(connection: Connection) -> tuple[Sums, Sums, Sums]:
    """What the sums must be, by the rows of runs and usage."""
    of_runs: Sums = {}
    of_durations: Sums = {}
    of_usage: Sums = {}
    used_by = defaultdict(list)
    for row in connection.execute(select(usage)):
        used_by[row.run_id].append(row)
    for run in connection.execute(select(runs)):
        if run.status not in FINAL_STATUSES:
            continue
        for seconds in PERIODS:
            place = (seconds, int(run.created_at.timestamp()) // seconds, run.agent or NO_AGENT, run.status)
            add(of_runs, place, [1, *(getattr(run, name) for name in USED), *price(run.cost_usd)])
            if run.duration_seconds is not None:
                add(of_durations, (*place, bin_of(run.duration_seconds)), [1])
            for row in used_by[run.run_id]:
                amounts = [1, *(getattr(row, name) for name in TOKENS), *price(row.cost_usd)]
                add(of_usage, (*place, row.kind, row.name), amounts)
    return of_runs, of_durations, of_usage


async def assert_totals_are_right(store: Store) -> None:
    def look(connection: Connection) -> None:
        for table, expected in zip((run_totals, duration_totals, usage_totals), counted(connection), strict=True):
            assert {key: sums for key, sums in kept(connection, table).items() if any(sums)} == expected

    await store._readers.run(look)


COUNTS = st.integers(0, 3) | st.just(10**12)
COSTS = st.none() | st.sampled_from([0, 0.1, 0.25, 1e-9, 3])
ENTRIES = st.fixed_dictionaries({"input_tokens": COUNTS, "output_tokens": COUNTS, "cost_usd": COSTS})
DATA = st.fixed_dictionaries(
    {
        **dict.fromkeys(USED, COUNTS),
        "cost_usd": COSTS,
        "duration_seconds": st.none() | st.floats(0, 1e6),
        "token_usage_by_model": st.dictionaries(st.sampled_from(["small", "large", ""]), ENTRIES),
        "token_usage_by_caller": st.dictionaries(st.sampled_from(["lead_agent", "critic"]), ENTRIES),
    }
)
RUNS = st.fixed_dictionaries(
    {
        "agent": st.sampled_from(["chat", "research", "", None]),
        "minutes": st.integers(-90, 90),
        "starts": st.booleans(),
        "end": st.sampled_from(["success", "interrupted", "error", "timeout", "cancelled", None]),
        "data": DATA,
        "commits": st.lists(st.integers(1, 3), min_size=1, max_size=3),
        "repeats": st.booleans(),
    }
)


def history(script, plan: dict[str, Any]) -> list[Any]:
    script.start += timedelta(minutes=plan["minutes"])
    events = []
    if plan["starts"]:
        events += [script.started(plan["agent"]), script.message()]
    match plan["end"]:
        case "success" | "interrupted" as status:
            events.append(script.event("run_completed", status=status, completion_data=plan["data"]))
        case "error" | "timeout" as status:
            events.append(script.failed(status, completion_data=plan["data"]))
        case "cancelled":
            events.append(script.event("run_cancelled", cancel_mode="interrupt", completion_data=plan["data"]))
    return events


@PROPERTY
@given(plans=st.lists(RUNS, min_size=1, max_size=5))
async def test_sums_are_what_all_runs_come_to_whatever_happens(
    store: Store, script, plans: list[dict[str, Any]]
) -> None:
    waiting = [(history(script(), plan), [*plan["commits"]], plan["repeats"]) for plan in plans]
    while waiting:
        # The runs take turns, so that one transaction has one run's start and another's end.
        batch = []
        for events, commits, repeats in waiting:
            count = commits.pop(0) if commits else len(events)
            batch += events[:count]
            if repeats:
                batch += events[:count]
            del events[:count]
        if batch:
            await store.append(batch)
        waiting = [left for left in waiting if left[0]]

    await assert_totals_are_right(store)


async def test_a_run_that_was_sent_twice_counts_once(store: Store, script) -> None:
    run = script()
    events = [run.started(), run.completed(total_input_tokens=7, cost_usd=0.5)]

    await store.append(events)
    await store.append(events)

    await assert_totals_are_right(store)
    stats = await store.stats()
    assert (stats.total.runs, stats.total.total_input_tokens, stats.total.cost_usd) == (1, 7, 0.5)


@pytest.mark.parametrize("cost", [1e6 + 1, 1e300, 10**400, -1, True, "1"], ids=lambda cost: f"{cost!r:.10}")
async def test_a_cost_that_no_run_can_have_is_no_cost(store: Store, script, cost: Any) -> None:
    run = script()
    usage = {"m": {"input_tokens": 1, "cost_usd": cost}}

    await store.append([run.started(), run.completed(cost_usd=cost, token_usage_by_model=usage)])

    assert (await store.stats()).total.cost_usd is None
    await assert_totals_are_right(store)


async def test_names_that_are_longer_than_an_index_takes_are_none(store: Store, script) -> None:
    run = script()
    tokens = {"input_tokens": 1}

    await store.append(
        [run.started("a" * 300), run.completed(token_usage_by_model={"m" * 255: tokens, "m" * 256: tokens})]
    )

    stats = await store.stats()
    assert [*stats.by_agent] == [None]
    assert [*stats.by_model] == ["m" * 255]
    await assert_totals_are_right(store)


async def test_ids_and_names_that_have_as_many_bytes_as_they_may_are_indexed_and_no_others(
    store: Store, script: Any
) -> None:
    """On every database alike: a log may move from one to the other."""
    most, too_many = ([chr(first + number) for number in range(255)] for first in (0x4E00, 0x20000))
    random.Random(3).shuffle(most)  # that a text can be compressed is no use to an index either
    text, heavy = "".join(most), "".join(too_many)
    run = script(run_id=text, thread_id=text[::-1])

    await store.append([run.started(text), run.completed(token_usage_by_model={heavy: {"input_tokens": 1}})])
    assert ([*(await store.stats()).by_agent], [*(await store.stats()).by_model]) == ([text], [])
    for ids in ({"run_id": heavy, "thread_id": "t"}, {"run_id": "r", "thread_id": heavy}):
        with pytest.raises(InvalidEventError, match="765 bytes at most"):
            await store.append([script(**ids).started("chat")])
    with pytest.raises(InvalidSpecError, match="765 bytes at most"):
        record_of(RunSpec("chat", run_id=heavy), agent="chat", now=datetime.now(UTC), parent_run_id=None)
    await store.append([(other := script()).started(heavy), other.completed()])
    assert {*(await store.stats()).by_agent} == {text, None}


@given(duration=st.floats(1e-6, 1e12))
def test_the_middle_of_its_bin_is_at_most_a_64th_away_from_a_duration(duration: float) -> None:
    assert middle_of(bin_of(duration)) == pytest.approx(duration, rel=1 / 64)


@given(first=st.floats(0, 1e12), second=st.floats(0, 1e12))
def test_bins_are_in_the_order_of_durations(first: float, second: float) -> None:
    shorter, longer = sorted((first, second))
    assert bin_of(shorter) <= bin_of(longer)
    assert middle_of(bin_of(shorter)) <= middle_of(bin_of(longer))


def test_no_duration_is_in_the_middle_of_the_first_bin() -> None:
    assert middle_of(bin_of(0.0)) == 0.0


async def test_plain_values_of_metadata_become_labels_in_the_first_row_of_a_run(store: Store, script) -> None:
    run = script()
    metadata = {
        "user": "ann",
        "attempt": 2,
        "test": True,
        "none": None,
        "share": 0.5,
        "list": [1],
        "object": {"a": 1},
        "long": "x" * 1_000,
        "ü": "ß",
    }

    await store.append([run.started(metadata=metadata), run.completed()])

    labels = await store._readers.run(
        lambda connection: {row.key: row.value for row in connection.execute(select(run_labels))}
    )
    assert labels == {"user": '"ann"', "attempt": "2", "test": "true", "none": "null", "ü": '"ß"'}
