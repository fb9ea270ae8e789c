"""Totals of any time, agent and status, and totals over time, are what the runs say one by one."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trackside.app.storage import RunTotals, Store, StoredRun, TokenTotals
from trackside.app.storage._reading import stats as stats_module
from trackside.app.storage._reading.stats import divide
from trackside.app.storage._rows.totals import DAY, HOUR, MINUTE

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
LAST_MINUTE = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
USED = ("total_input_tokens", "total_output_tokens", "llm_call_count", "tool_call_count", "message_count")

# Around the runs of `some_runs`: at whole minutes and hours, just before and after them, and far away.
TIMES = st.builds(
    lambda hours, minutes, micros: NEW_YEAR + timedelta(hours=hours, minutes=minutes, microseconds=micros),
    st.sampled_from([-1, 0, 1, 2, 3, 5, -30, 30]),
    st.sampled_from([0, 0, 1, 30, 59]),
    st.sampled_from([0, 0, 1, 999_999, 30_000_000]),
)


@pytest.fixture
async def some_runs(store: Store, script) -> list[StoredRun]:
    """Runs from 23:30 to 02:54, three in one minute and then none for six."""
    for number in range(90):
        start = NEW_YEAR + timedelta(minutes=number // 3 * 7 - 30, microseconds=number % 3 * 59_999_999 // 2)
        run = script(start=start, thread_id=f"t{number % 4}")
        tokens = {"input_tokens": number, "output_tokens": 1, "cache_read_tokens": number // 2}
        if number % 4:
            tokens["cost_usd"] = number / 8
        data = {
            "total_input_tokens": number,
            "total_output_tokens": 1,
            "llm_call_count": 2,
            "message_count": number % 2,
            "duration_seconds": number * 1.5 + 0.1,
            "token_usage_by_model": {f"model {number % 2}": tokens},
            "token_usage_by_caller": {"lead_agent": tokens},
        }
        if number % 4:
            data["cost_usd"] = number / 8
        events = [run.started(None if number % 5 == 0 else "chat" if number % 2 else "research")]
        if number % 9:
            events.append(run.completed(**data) if number % 3 else run.failed(completion_data=data))
        await store.append(events)
    return await store.runs(limit=1_000)


def sums(runs: Sequence[StoredRun]) -> dict[str, Any]:
    """What `RunTotals` of these runs says, except for percentiles."""
    costs = [run.cost_usd for run in runs if run.cost_usd is not None]
    return {
        "runs": len(runs),
        "by_status": Counter(run.status for run in runs),
        "cost_usd": sum(costs) if costs else None,
        **{name: sum(getattr(run, name) for run in runs) for name in USED},
    }


def shown(totals: RunTotals) -> dict[str, Any]:
    return {name: getattr(totals, name) for name in ("runs", "by_status", "cost_usd", *USED)}


def percentile(runs: Sequence[StoredRun], percent: int) -> float | None:
    durations = sorted(run.duration_seconds for run in runs if run.duration_seconds is not None)
    return durations[-(-len(durations) * percent // 100) - 1] if durations else None


def models(runs: Sequence[StoredRun]) -> dict[str, TokenTotals]:
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for name, tokens in run.completion_data.get("token_usage_by_model", {}).items():
            found.setdefault(name, []).append(tokens)
    return {
        name: TokenTotals(
            input_tokens=sum(tokens["input_tokens"] for tokens in used),
            output_tokens=len(used),
            cache_read_tokens=sum(tokens["cache_read_tokens"] for tokens in used),
            reasoning_tokens=0,
            cost_usd=sum(tokens.get("cost_usd", 0) for tokens in used)
            if any("cost_usd" in tokens for tokens in used)
            else None,
        )
        for name, used in found.items()
    }


def is_exactly(value: float | None) -> Any:
    return value


def is_about(value: float | None) -> Any:
    return value if value is None else pytest.approx(value, rel=1 / 64)


@pytest.mark.parametrize(("few", "as_said"), [(1_000, is_exactly), (-1, is_about)], ids=["few runs", "many runs"])
@PROPERTY
@given(
    times=st.tuples(st.none() | TIMES, st.none() | TIMES),
    agent=st.sampled_from([None, "chat", "research", "nobody"]),
    status=st.sampled_from([None, "success", "running", ["error", "running"], []]),
    thread_id=st.sampled_from([None, None, None, "t1"]),
)
async def test_stats_of_any_time_are_what_the_runs_say(
    store: Store, some_runs, monkeypatch: pytest.MonkeyPatch, few, as_said, times, agent, status, thread_id
) -> None:
    monkeypatch.setattr(stats_module, "FEW_RUNS", few)
    since, until = times
    if since and until and until < since:
        since, until = until, since
    statuses = {"success", "error", "running"} if status is None else {status} if isinstance(status, str) else {*status}
    chosen = [
        run
        for run in some_runs
        if (since is None or run.created_at >= since)
        and (until is None or run.created_at < until)
        and agent in {None, run.agent}
        and thread_id in {None, run.thread_id}
        and run.status in statuses
    ]

    stats = await store.stats(since, until, agent=agent, status=status, thread_id=thread_id)

    assert shown(stats.total) == sums(chosen)
    assert stats.total.duration_p50 == as_said(percentile(chosen, 50))
    assert stats.total.duration_p95 == as_said(percentile(chosen, 95))
    assert {*stats.by_agent} == {run.agent for run in chosen}
    for name, totals in stats.by_agent.items():
        of_agent = [run for run in chosen if run.agent == name]
        assert shown(totals) == sums(of_agent)
        assert totals.duration_p50 == as_said(percentile(of_agent, 50))
    assert stats.by_model == models(chosen)


@pytest.mark.parametrize("minutes", [1, 5, 30, 60, 180, 24 * 60])
@pytest.mark.parametrize(("few", "as_said"), [(1_000, is_exactly), (-1, is_about)], ids=["few runs", "many runs"])
async def test_a_timeline_has_the_totals_of_each_bucket(
    store: Store, some_runs, monkeypatch: pytest.MonkeyPatch, minutes: int, few: int, as_said
) -> None:
    monkeypatch.setattr(stats_module, "FEW_RUNS", few)
    width = timedelta(minutes=minutes)
    since, until = NEW_YEAR - timedelta(minutes=70, seconds=5), NEW_YEAR + timedelta(hours=4, seconds=1)

    buckets = await store.timeline(since, until, width=width)

    assert buckets[0].start <= since < buckets[0].start + width
    assert buckets[-1].start < until <= buckets[-1].start + width
    assert {(bucket.start - EPOCH) % width for bucket in buckets} == {timedelta(0)}
    assert {later.start - earlier.start for earlier, later in pairwise(buckets)} <= {width}
    for bucket in buckets:
        within = [run for run in some_runs if bucket.start <= run.created_at < bucket.start + bucket.width]
        assert shown(bucket.total) == sums(within)
        assert bucket.total.duration_p95 == as_said(percentile(within, 95))
        assert {agent: totals.runs for agent, totals in bucket.by_agent.items()} == Counter(run.agent for run in within)
        assert bucket.by_model == models(within)


async def test_a_timeline_of_one_agent_and_status(store: Store, some_runs) -> None:
    until = NEW_YEAR + timedelta(hours=4)

    buckets = await store.timeline(NEW_YEAR, until, agent="chat", status="success")

    chosen = [run for run in some_runs if (run.agent, run.status) == ("chat", "success") and run.created_at >= NEW_YEAR]
    assert len(buckets) == 4
    assert sum(bucket.total.runs for bucket in buckets) == len(chosen) > 0
    assert {agent for bucket in buckets for agent in bucket.by_agent} == {"chat"}


async def test_the_totals_of_runs_whose_agent_has_no_name_leave_out_those_of_runs_without_an_agent(
    store: Store, script
) -> None:
    def used(tokens: int) -> dict[str, Any]:
        of_model = {"input_tokens": tokens, "output_tokens": 1, "cache_read_tokens": 0}
        return {"total_input_tokens": tokens, "duration_seconds": 1.5, "token_usage_by_model": {"model": of_model}}

    for number, agent in enumerate(["", None, "chat", "", None]):
        run = script(start=NEW_YEAR + timedelta(minutes=50 * number))
        await store.append([run.started(agent), run.completed(**used(10**number))])
    open_run = script(start=NEW_YEAR + timedelta(minutes=1))
    await store.append([open_run.started("")])
    until = NEW_YEAR + timedelta(hours=4)
    nameless = await store.runs(agent="")

    stats = await store.stats(NEW_YEAR, until, agent="")
    buckets = await store.timeline(NEW_YEAR, until, agent="")

    assert shown(stats.total) == sums(nameless)
    assert [bucket.total.runs for bucket in buckets] == [2, 0, 1, 0]
    for bucket in buckets:
        within = [run for run in nameless if bucket.start <= run.created_at < bucket.start + bucket.width]
        assert shown(bucket.total) == sums(within)
        assert bucket.total.duration_p95 == percentile(within, 95)
        assert bucket.by_model == models(within)


async def test_a_timeline_goes_up_to_now(store: Store, script) -> None:
    await store.append(script(start=datetime.now(UTC)).whole())

    buckets = await store.timeline(datetime.now(UTC) - timedelta(hours=1), width=timedelta(minutes=10))

    assert sum(bucket.total.runs for bucket in buckets) == 1


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("width", {"width": timedelta(seconds=30)}),
        ("width", {"width": timedelta(minutes=7)}),
        ("width", {"width": timedelta(minutes=90)}),
        ("width", {"width": timedelta(minutes=-60)}),
        ("width", {"width": 60}),
        ("width", {"width": timedelta(minutes=1), "until": NEW_YEAR + timedelta(minutes=1_001)}),
        ("since", {"since": datetime(1969, 12, 31, tzinfo=UTC)}),
        ("since", {"since": None}),
        ("since", {"since": datetime(2026, 1, 1)}),
        ("until", {"until": "now"}),
        ("until", {"until": NEW_YEAR - timedelta(days=1)}),
        (
            "until",
            {"since": datetime(9999, 12, 31, 23, tzinfo=UTC), "until": datetime(9999, 12, 31, 23, 30, tzinfo=UTC)},
        ),
        ("agent", {"agent": 1}),
        ("status", {"status": "gone"}),
    ],
    ids=str,
)
async def test_a_timeline_that_cannot_be_is_refused_by_the_name_of_what_is_wrong(
    store: Store, field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"Nothing can be looked up with {field}="):
        await store.timeline(**{"since": NEW_YEAR, "until": NEW_YEAR + timedelta(hours=1)} | arguments)


async def test_totals_since_the_last_minute_of_the_calendar_are_those_of_what_it_has(store: Store, script) -> None:
    run = script(start=LAST_MINUTE + timedelta(seconds=30))
    await store.append([run.started(), run.completed(duration_seconds=1.0)])

    counts = {second: (await store.stats(LAST_MINUTE + timedelta(seconds=second))).total.runs for second in (0, 29, 31)}

    assert counts == {0: 1, 29: 1, 31: 0}


def test_a_time_is_divided_into_hours_minutes_and_what_is_left_at_its_ends() -> None:
    since = EPOCH + timedelta(minutes=58, seconds=30)
    until = EPOCH + timedelta(hours=3, minutes=2, seconds=30)

    spans, edges = divide(since, until)

    assert sorted(spans) == [(MINUTE, 59, 60), (MINUTE, 180, 182), (HOUR, 1, 3)]
    assert edges == [(since, EPOCH + timedelta(minutes=59)), (until - timedelta(seconds=30), until)]


def test_a_time_within_a_minute_is_not_divided() -> None:
    since, until = EPOCH + timedelta(seconds=1), EPOCH + timedelta(seconds=2)

    assert divide(since, until) == ([], [(since, until)])


def test_a_time_from_within_the_last_minute_of_the_calendar_is_not_divided() -> None:
    since = LAST_MINUTE + timedelta(seconds=59)

    assert divide(since, None) == ([], [(since, None)])
    assert divide(LAST_MINUTE, None)[1] == []


def test_a_long_time_is_divided_into_days_as_far_as_possible() -> None:
    spans, edges = divide(EPOCH + timedelta(hours=23, minutes=59), EPOCH + timedelta(days=3))

    assert spans == [(MINUTE, 1439, 1440), (DAY, 1, 3)]
    assert edges == []


def test_all_times_are_days() -> None:
    assert divide(None, None) == ([(DAY, None, None)], [])
