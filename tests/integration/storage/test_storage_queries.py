"""Looking things up: filters, order, pages, totals, and arguments that do not fit."""

from datetime import datetime, timedelta

import pytest

from trackside.app.storage import Store
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus


async def test_events_come_in_pages_by_position(store: Store, script) -> None:
    for _ in range(3):
        await store.append(script().whole())

    first = await store.events(limit=4)
    second = await store.events(after=first[-1].position, limit=4)

    assert [event.position for event in first + second] == list(range(1, 9))
    assert await store.events(after=15) == []


async def test_events_by_run_thread_and_type(store: Store, script) -> None:
    one, two, other = script(thread_id="shared"), script(thread_id="shared"), script()
    events = [one.started(), two.started(), other.started(), one.message(), two.completed(), other.completed()]
    for event in events:
        await store.append([event])

    async def positions(**filters: object) -> list[int]:
        return [event.position for event in await store.events(**filters)]

    assert await positions(run_id=one.run_id) == [1, 4]
    assert await positions(thread_id="shared") == [1, 2, 4, 5]
    assert await positions(thread_id="shared", after=1, limit=2) == [2, 4]
    assert await positions(run_id=one.run_id, thread_id=other.thread_id) == []
    assert await positions(types=["run_completed", LifecycleEventType.HUMAN_MESSAGE]) == [4, 5, 6]
    assert await positions(types=[]) == []
    assert await positions(run_id="none") == []


async def test_runs_newest_first_and_by_what_they_are(store: Store, script) -> None:
    start = script().start
    runs = [script(start=start + timedelta(minutes=minute)) for minute in range(4)]
    await store.append([runs[0].started("chat"), runs[0].completed()])
    await store.append([runs[1].started("chat"), runs[1].failed()])
    await store.append([runs[2].started("research")])
    await store.append([runs[3].started("research"), runs[3].failed("timeout")])

    async def found(**filters: object) -> list[int]:
        ids = [run.run_id for run in runs]
        return [ids.index(run.run_id) for run in await store.runs(**filters)]

    assert await found() == [3, 2, 1, 0]
    assert await found(limit=2) == [3, 2]
    assert await found(status="running") == [2]
    assert await found(status=[RunStatus.error, "timeout"]) == [3, 1]
    assert await found(agent="chat") == [1, 0]
    assert await found(agent="chat", status="error") == [1]
    assert await found(thread_id=runs[2].thread_id) == [2]
    assert await found(since=start + timedelta(minutes=2)) == [3, 2]


async def test_runs_page_by_cursor_though_they_began_in_the_same_moment(store: Store, script) -> None:
    runs = [script() for _ in range(7)]
    for run in runs:
        await store.append([run.started()])

    seen: list[str] = []
    page = await store.runs(limit=3)
    while page:
        seen += [run.run_id for run in page]
        page = await store.runs(limit=3, before=page[-1].cursor)

    assert seen == sorted((run.run_id for run in runs), reverse=True)


async def test_threads_by_last_activity(store: Store, script) -> None:
    start = script().start
    first, second = script(start=start), script(start=start + timedelta(minutes=1))
    await store.append([first.started(), first.thread("busy")])
    await store.append([second.started(), second.event("run_completed", status="interrupted", title="B")])
    await store.append([second.thread("interrupted")])
    again = script(thread_id=first.thread_id, start=start + timedelta(minutes=2))
    await store.append([again.started()])

    threads = await store.threads()

    assert [thread.thread_id for thread in threads] == [first.thread_id, second.thread_id]
    assert [thread.thread_id for thread in await store.threads(before=threads[0].cursor)] == [second.thread_id]
    assert [thread.title for thread in await store.threads(status=ThreadStatus.interrupted)] == ["B"]
    assert await store.threads(since=start + timedelta(minutes=2)) == threads[:1]
    assert len(await store.threads(limit=1)) == 1


async def test_stats_of_an_empty_store(store: Store) -> None:
    stats = await store.stats()

    assert (stats.total.runs, stats.total.by_status, stats.total.cost_usd) == (0, {}, None)
    assert (stats.total.duration_p50, stats.total.duration_p95) == (None, None)
    assert (stats.by_agent, stats.by_model, stats.by_caller) == ({}, {}, {})


async def test_stats_add_up_by_status_agent_model_and_caller(store: Store, script) -> None:
    def usage(tokens: int) -> dict[str, int]:
        return {"input_tokens": tokens, "output_tokens": 1, "cache_read_tokens": 2}

    def data(tokens: int, seconds: float, **more: object) -> dict[str, object]:
        return {
            "total_input_tokens": tokens,
            "total_output_tokens": 1,
            "llm_call_count": 1,
            "tool_call_count": 2,
            "message_count": 3,
            "duration_seconds": seconds,
            "token_usage_by_model": {"small": usage(tokens)},
            "token_usage_by_caller": {"lead_agent": usage(tokens)},
        } | more

    start = script().start
    for n in range(20):
        run = script(start=start + timedelta(minutes=n))
        await store.append([run.started("chat"), run.completed(**data(10, float(n + 1)))])
    run = script(start=start + timedelta(minutes=20))
    await store.append([run.started("chat"), run.failed(completion_data=data(5, 100.0, cost_usd=0.25))])
    run = script(start=start + timedelta(minutes=21))
    await store.append([run.started("research")])
    run = script(start=start + timedelta(minutes=22))
    await store.append([run.event("run_cancelled", cancel_mode="interrupt", completion_data={})])

    stats = await store.stats()

    assert stats.total.runs == 23
    assert stats.total.by_status == {
        RunStatus.success: 20,
        RunStatus.error: 1,
        RunStatus.running: 1,
        RunStatus.cancelled: 1,
    }
    assert (stats.total.total_input_tokens, stats.total.total_output_tokens) == (205, 21)
    assert (stats.total.llm_call_count, stats.total.tool_call_count, stats.total.message_count) == (21, 42, 63)
    assert stats.total.cost_usd == 0.25
    assert (stats.total.duration_p50, stats.total.duration_p95) == (11.0, 20.0)
    assert set(stats.by_agent) == {"chat", "research", None}
    assert stats.by_agent["research"].by_status == {RunStatus.running: 1}
    assert stats.by_agent["research"].duration_p50 is None
    assert stats.by_agent["chat"].duration_p95 == 20.0
    assert stats.by_model["small"] == stats.by_caller["lead_agent"]
    small = stats.by_model["small"]
    assert (small.input_tokens, small.output_tokens, small.cache_read_tokens, small.reasoning_tokens) == (
        205,
        21,
        42,
        0,
    )


async def test_stats_since_a_time(store: Store, script) -> None:
    old = script()
    new = script(start=old.start + timedelta(days=1))
    for run in (old, new):
        usage = {"m": {"input_tokens": 4, "output_tokens": 0}}
        await store.append([run.started(), run.completed(token_usage_by_model=usage, duration_seconds=1.0)])

    stats = await store.stats(since=new.start)

    assert stats.total.runs == 1
    assert stats.by_model["m"].input_tokens == 4


BAD = [
    ("events", {"after": -1}, "after"),
    ("events", {"after": "1"}, "after"),
    ("events", {"after": 2**63}, "after"),
    ("events", {"after": True}, "after"),
    ("events", {"limit": 0}, "limit"),
    ("events", {"limit": -5}, "limit"),
    ("events", {"limit": 2**70}, "limit"),
    ("events", {"limit": None}, "limit"),
    ("events", {"run_id": 7}, "run_id"),
    ("events", {"thread_id": b"x"}, "thread_id"),
    ("events", {"types": ["run_exploded"]}, "types"),
    ("events", {"types": 3}, "types"),
    ("runs", {"status": "done"}, "status"),
    ("runs", {"status": ["success", None]}, "status"),
    ("runs", {"agent": object()}, "agent"),
    ("runs", {"since": datetime(2026, 1, 1)}, "since"),
    ("runs", {"since": "yesterday"}, "since"),
    ("runs", {"before": "01a2"}, "before"),
    ("runs", {"before": "2026-01-01T00:00:00/x"}, "before"),
    ("runs", {"before": "/"}, "before"),
    ("runs", {"before": 5}, "before"),
    ("runs", {"limit": 1.5}, "limit"),
    ("threads", {"status": "pending"}, "status"),
    ("threads", {"before": ""}, "before"),
    ("stats", {"since": datetime(2026, 1, 1)}, "since"),
    ("run", {"run_id": None}, "run_id"),
    ("thread", {"thread_id": 1}, "thread_id"),
]


@pytest.mark.parametrize(("method", "arguments", "field"), BAD)
async def test_an_argument_that_does_not_fit_is_named(store: Store, method, arguments, field) -> None:
    with pytest.raises(InvalidQueryError, match=field) as refused:
        await getattr(store, method)(**arguments)

    assert (refused.value.field, refused.value.fault) == (field, "caller")


async def test_half_a_character_finds_nothing_or_is_named(store: Store) -> None:
    with pytest.raises(InvalidQueryError, match="run_id"):
        await store.run("\ud83d")
