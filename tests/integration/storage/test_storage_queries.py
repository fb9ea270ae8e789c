"""Looking things up: filters, order, pages, totals, and arguments that do not fit."""

from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.app.storage._reading import listings, queries
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.ids import new_id
from trackside.harness.types import LifecycleEventType, RunRecord, RunStatus, ThreadStatus


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


async def test_events_from_the_end_back_in_pages(store: Store, script) -> None:
    for _ in range(3):
        await store.append(script().whole())

    first = await store.events(newest_first=True, limit=4)
    second = await store.events(newest_first=True, before=first[-1].position, limit=100)

    assert [event.position for event in first + second] == list(range(15, 0, -1))
    assert [event.position for event in await store.events(after=3, before=6)] == [4, 5]
    assert [event.position for event in await store.events(after=3, before=6, newest_first=True)] == [5, 4]
    assert await store.events(before=1) == []


@pytest.mark.parametrize("few", [-1, queries.FEW_RUNS], ids=["through the log", "through the runs"])
async def test_events_by_the_agent_and_status_of_their_run_and_by_time(
    store: Store, script, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(queries, "FEW_RUNS", few)
    start = script().start
    chat, failed, going = (
        script(thread_id="shared"),
        script(thread_id="shared"),
        script(start=start + timedelta(hours=1)),
    )
    events = [chat.started("chat"), failed.started("research"), going.started("chat"), chat.completed()]
    events += [failed.failed(), failed.thread("idle")]
    for event in events:
        await store.append([event])

    async def positions(**filters: object) -> list[int]:
        return [event.position for event in await store.events(**filters)]

    assert await positions(agent="chat") == [1, 3, 4]
    assert await positions(agent="chat", newest_first=True, limit=2) == [4, 3]
    assert await positions(status="success") == [1, 4]
    assert await positions(status=["error", RunStatus.running]) == [2, 3, 5, 6]
    assert await positions(status="error", types="run_failed") == [5]
    assert await positions(agent="chat", status="running") == [3]
    assert await positions(agent="chat", thread_id="shared") == [1, 4]
    assert await positions(agent="chat", run_id=failed.run_id) == []
    assert await positions(agent="nobody") == []
    assert await positions(status=[]) == []
    assert await positions(since=start + timedelta(seconds=1)) == [3, 4, 5, 6]
    assert await positions(since=start + timedelta(hours=1)) == [3]


async def test_records_by_the_beginning_of_their_id(store: Store, script) -> None:
    ids = ["a", "a%", "a_b", "aB", "ab", "abc", "a\ud7ff!", "a\ue000", "b", "\U0010ffff", "\U0010ffffz"]
    start = script().start
    for minute, id_ in enumerate(ids):
        run = script(run_id=id_, thread_id=id_, start=start + timedelta(minutes=minute))
        await store.append([run.started()])

    for beginning in ["", "a", "ab", "abcd", "a%", "a_", "A", "a\ud7ff", "a\ue000", "\U0010ffff", "b", "c", "' OR 1"]:
        expected = [id_ for id_ in reversed(ids) if id_.startswith(beginning)]
        assert [run.run_id for run in await store.runs(id_prefix=beginning)] == expected, beginning
        assert [thread.thread_id for thread in await store.threads(id_prefix=beginning)] == expected, beginning
    assert [run.run_id for run in await store.runs(id_prefix="a", status="running", limit=2)] == ["a\ue000", "a\ud7ff!"]


async def test_threads_by_agent_and_id(store: Store, script) -> None:
    start = script().start
    for minute, (thread, agent) in enumerate([("one", "chat"), ("one", "research"), ("two", "chat"), ("three", "")]):
        run = script(thread_id=thread, start=start + timedelta(minutes=minute))
        await store.append([run.started(agent), run.completed(), run.thread("idle")])

    async def found(**filters: object) -> list[str]:
        return [thread.thread_id for thread in await store.threads(**filters)]

    assert await found(agent="chat") == ["two", "one"]
    assert await found(agent="research") == ["one"]
    assert await found(agent="") == ["three"]
    assert await found(agent="nobody") == []
    assert await found(thread_id="one") == ["one"]
    assert await found(thread_id="one", status="busy") == []
    assert await found(agent="chat", since=start + timedelta(minutes=2)) == ["two"]


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


async def test_runs_that_wait_for_a_human_and_have_one_of_no_statuses_are_none(store: Store, script) -> None:
    asking = script()
    await store.append([asking.started(), asking.event("run_completed", status="interrupted")])
    await store.append([asking.thread("interrupted")])

    async def found(**filters: object) -> list[str]:
        return [run.run_id for run in await store.runs(waiting=True, **filters)]

    assert await found() == await found(status="interrupted") == [asking.run_id]
    assert await found(status=[]) == await found(status="success") == []


@pytest.mark.parametrize("few", [True, False])
async def test_a_run_waits_for_a_human_also_behind_an_answer_that_failed(
    store: Store, script, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    monkeypatch.setattr(listings, "FEW", 100 if few else -1)
    start = script().start
    former = script(start=start)
    asking, wrong = (script(thread_id=former.thread_id, start=start + timedelta(minutes=n)) for n in (1, 2))
    await store.append([former.started(), former.event("run_completed", status="interrupted")])
    await store.append([asking.started(), asking.event("run_completed", status="interrupted")])
    await store.append([asking.thread("interrupted")])
    await store.append([wrong.started(), wrong.failed(), wrong.thread("interrupted")])

    assert [run.run_id for run in await store.runs(waiting=True)] == [asking.run_id]
    assert [run.run_id for run in await store.runs(waiting=True, metadata={})] == [asking.run_id]


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("another", [None, "fails then", "is cancelled before it begins"])
async def test_which_run_waits_for_a_human_is_said_by_the_log_and_by_no_clock(
    store: Store, script, monkeypatch: pytest.MonkeyPatch, another: str | None, few: bool
) -> None:
    monkeypatch.setattr(listings, "FEW", 100 if few else -1)
    asking = script()
    answered, wrong = (script(thread_id=asking.thread_id, start=asking.start + timedelta(days=n)) for n in (1, 2))
    for run in (answered, asking):  # the first on a machine whose clock is a day ahead
        await store.append([run.started(metadata={"user": "ada"})])
        if run is asking and another == "is cancelled before it begins":
            await store.append([wrong.event("run_cancelled")])
        await store.append([run.event("run_completed", status="interrupted"), run.thread("interrupted")])
    if another == "fails then":
        await store.append([wrong.started(), wrong.failed(), wrong.thread("interrupted")])

    for filters in ({}, {"metadata": {"user": "ada"}}, {"thread_id": asking.thread_id}):
        assert [run.run_id for run in await store.runs(waiting=True, **filters)] == [asking.run_id]


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("then", ["pending", "running", "success"])
async def test_a_run_does_not_wait_for_a_human_behind_which_another_closes_its_question(
    store: Store, script, monkeypatch: pytest.MonkeyPatch, then: str, few: bool
) -> None:
    monkeypatch.setattr(listings, "FEW", 100 if few else -1)
    asking = script()
    await store.append([asking.started(metadata={"user": "ada"}), asking.event("run_completed", status="interrupted")])
    await store.append([asking.thread("interrupted")])
    waiting: dict[str, Any] = {"waiting": True, "metadata": {"user": "ada"}}
    assert [run.run_id for run in await store.runs(**waiting)] == [asking.run_id]

    async with aclosing(store.coordinator()) as coordinator:
        if then == "pending":
            await coordinator.admit(
                RunRecord(
                    run_id=new_id(),
                    thread_id=asking.thread_id,
                    agent="chat",
                    status=RunStatus.pending,
                    created_at=datetime.now(UTC),
                )
            )
        else:
            answer = script(thread_id=asking.thread_id, start=asking.start + timedelta(minutes=1))
            await store.append([answer.started(), *([answer.completed()] if then == "success" else [])])
        thread = await store.thread(asking.thread_id)
        assert thread is not None
        assert thread.status is ThreadStatus.interrupted
        assert await store.runs(waiting=True) == await store.runs(**waiting) == []
        if then == "pending":  # where agents run, a run that has begun has also changed its thread's status
            assert (await store.live_counts()).waiting_for_human == 0


@pytest.mark.parametrize("few", [True, False])
async def test_an_answered_question_stays_closed_though_the_run_is_deleted_that_asked_behind_it(
    store: Store, script, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    monkeypatch.setattr(listings, "FEW", 100 if few else -1)
    first = script()
    second = script(thread_id=first.thread_id, start=first.start + timedelta(minutes=1))
    for run in (first, second):
        await store.append([run.started(metadata={"user": "ada"}), run.event("run_completed", status="interrupted")])
        await store.append([run.thread("interrupted")])
    await store.remove_run(second.thread_id, second.run_id)

    for filters in ({}, {"metadata": {"user": "ada"}}, {"thread_id": first.thread_id}):
        assert await store.runs(waiting=True, **filters) == []
    assert await store.asked_since(first.run_id) == second.run_id
    assert (await store.live_counts()).waiting_for_human == 1  # on a thread, an open question stays open


async def test_a_run_that_is_to_begin_later_closes_no_question_before_it_is_due(store: Store, script) -> None:
    asking = script()
    await store.append([asking.started(), asking.event("run_completed", status="interrupted")])
    await store.append([asking.thread("interrupted")])
    now = datetime.now(UTC)
    later = RunRecord(
        run_id=new_id(),
        thread_id=asking.thread_id,
        agent="chat",
        status=RunStatus.pending,
        created_at=now,
        due_at=now + timedelta(days=7),
    )
    async with aclosing(store.coordinator()) as coordinator:
        await coordinator.admit(later)
        assert [run.run_id for run in await store.runs(waiting=True)] == [asking.run_id]
        assert [run.run_id for run in await store.runs(waiting=True, thread_id=asking.thread_id)] == [asking.run_id]
        assert (await store.live_counts()).waiting_for_human == 1


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


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"agent": "chat"},
        {"thread_id": "shared"},
        {"status": "error"},
        {"status": [RunStatus.success, "running"]},
        {"minutes": 3},
        {"agent": "research", "status": "success", "thread_id": "shared", "minutes": 1},
        {"agent": "nobody"},
    ],
    ids=str,
)
async def test_stats_come_to_what_the_runs_under_the_same_filter_do(store: Store, script, filters) -> None:
    start = script().start
    for minute in range(12):
        run = script(start=start + timedelta(minutes=minute), thread_id="shared" if minute % 3 else f"t{minute}")
        await store.append([run.started("chat" if minute % 2 else "research")])
        name, tokens = f"model {minute % 2}", {"input_tokens": minute, "output_tokens": 1}
        data = {
            "total_input_tokens": minute,
            "total_output_tokens": 1,
            "llm_call_count": 2,
            "cost_usd": minute / 4,
            "duration_seconds": float(minute),
            "token_usage_by_model": {name: tokens},
        }
        if minute % 5 % 3 == 0:
            await store.append([run.completed(**data)])
        elif minute % 5 % 3 == 1:
            await store.append([run.failed(completion_data=data)])
    if "minutes" in filters:
        filters = {**filters, "since": start + timedelta(minutes=filters["minutes"])}
        del filters["minutes"]

    stats = await store.stats(**filters)
    runs = await store.runs(**filters, limit=100)

    total = stats.total
    assert total.runs == len(runs)
    assert total.by_status == Counter(run.status for run in runs)
    assert total.total_input_tokens == sum(run.total_input_tokens for run in runs)
    assert total.llm_call_count == sum(run.llm_call_count for run in runs)
    assert (total.cost_usd or 0) == sum(run.cost_usd or 0 for run in runs)
    assert {agent: totals.runs for agent, totals in stats.by_agent.items()} == Counter(run.agent for run in runs)
    by_model = Counter[str]()
    for run in runs:
        for model, tokens in run.completion_data.get("token_usage_by_model", {}).items():
            by_model[model] += tokens["input_tokens"]
    assert {model: tokens.input_tokens for model, tokens in stats.by_model.items()} == by_model
    durations = sorted(run.duration_seconds for run in runs if run.duration_seconds is not None)
    assert total.duration_p50 == (durations[(len(durations) - 1) // 2] if durations else None)


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
    ("events", {"types": [[]]}, "types"),
    ("events", {"before": -1}, "before"),
    ("events", {"before": "7"}, "before"),
    ("events", {"newest_first": 1}, "newest_first"),
    ("events", {"newest_first": None}, "newest_first"),
    ("events", {"agent": 1}, "agent"),
    ("events", {"agent": "\0"}, "agent"),
    ("events", {"status": "idle"}, "status"),
    ("events", {"status": 1}, "status"),
    ("events", {"since": datetime(2026, 1, 1)}, "since"),
    ("runs", {"status": "done"}, "status"),
    ("runs", {"status": ["success", None]}, "status"),
    ("runs", {"agent": object()}, "agent"),
    ("runs", {"since": datetime(2026, 1, 1)}, "since"),
    ("runs", {"since": "yesterday"}, "since"),
    ("runs", {"since": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, "since"),
    ("runs", {"id_prefix": 1}, "id_prefix"),
    ("runs", {"id_prefix": "\ud800"}, "id_prefix"),
    ("runs", {"thread_id": 1}, "thread_id"),
    ("runs", {"before": "01a2"}, "before"),
    ("runs", {"before": "0001-01-01T00:00:00+01:00/x"}, "before"),
    ("runs", {"before": "2026-01-01T00:00:00/x"}, "before"),
    ("runs", {"before": "/"}, "before"),
    ("runs", {"before": 5}, "before"),
    ("runs", {"limit": 1.5}, "limit"),
    ("threads", {"status": "pending"}, "status"),
    ("threads", {"before": ""}, "before"),
    ("threads", {"agent": b"chat"}, "agent"),
    ("threads", {"thread_id": 1}, "thread_id"),
    ("threads", {"id_prefix": "\0"}, "id_prefix"),
    ("stats", {"since": datetime(2026, 1, 1)}, "since"),
    ("stats", {"agent": 1}, "agent"),
    ("stats", {"thread_id": []}, "thread_id"),
    ("stats", {"status": "idle"}, "status"),
    ("run", {"run_id": None}, "run_id"),
    ("thread", {"thread_id": 1}, "thread_id"),
    ("place_of", {"run_id": 2**70}, "run_id"),
    ("place_of", {"run_id": "\ud800"}, "run_id"),
    ("place_of", {"run_id": None}, "run_id"),
]


@pytest.mark.parametrize(("method", "arguments", "field"), BAD)
async def test_an_argument_that_does_not_fit_is_named(store: Store, method, arguments, field) -> None:
    with pytest.raises(InvalidQueryError, match=field) as refused:
        await getattr(store, method)(**arguments)

    assert (refused.value.field, refused.value.fault) == (field, "caller")


async def test_half_a_character_finds_nothing_or_is_named(store: Store) -> None:
    with pytest.raises(InvalidQueryError, match="run_id"):
        await store.run("\ud83d")
