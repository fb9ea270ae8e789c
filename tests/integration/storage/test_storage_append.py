"""What may be appended, what that changes, and what is refused: I1 to I6."""

import asyncio
import secrets
import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from trackside.app.storage import Store
from trackside.app.storage.errors import EventConflictError, InvalidEventError
from trackside.harness.errors import EventOrderError, PayloadError
from trackside.harness.ids import new_id
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus


async def test_positions_count_one_two_three_over_all_runs(store: Store, script) -> None:
    first, second = script(), script()
    for event in (first.started(), second.started(), second.completed(), first.completed()):
        await store.append([event])

    stored = await store.events()

    assert [event.position for event in stored] == [1, 2, 3, 4]
    assert [event.event.run_id for event in stored] == [first.run_id, second.run_id, second.run_id, first.run_id]


async def test_append_answers_with_what_the_log_then_gives_back(store: Store, script) -> None:
    answer = await store.append(script().whole())

    assert answer == await store.events()
    assert await store.append([]) == []


async def test_a_run_row_is_the_fold_of_its_events(store: Store, script) -> None:
    run = script()
    usage = {"gpt": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}}
    data = {
        "total_input_tokens": 7,
        "total_output_tokens": 5,
        "llm_call_count": 1,
        "tool_call_count": 2,
        "message_count": 3,
        "duration_seconds": 1.25,
        "cost_usd": 0.1,
        "token_usage_by_model": usage,
        "of_somebody_else": [1, None],
    }
    started = run.started("research", metadata={"user": "é"}, parent_run_id="p", trigger="cron")
    await store.append([started])
    running = await store.run(run.run_id)
    await store.append([run.message(), run.completed("A title", **data)])
    ended = await store.run(run.run_id)

    assert running is not None
    assert (running.status, running.last_sequence, running.ended_at) == (RunStatus.running, 1, None)
    assert (running.agent, running.metadata, running.parent_run_id, running.trigger) == (
        "research",
        {"user": "é"},
        "p",
        "cron",
    )
    assert running.created_at == running.started_at == started.occurred_at
    assert ended is not None
    assert (ended.status, ended.last_sequence, ended.title) == (RunStatus.success, 3, "A title")
    assert ended.ended_at == started.occurred_at + timedelta(seconds=2)
    assert ended.completion_data == data
    assert (ended.total_input_tokens, ended.total_output_tokens, ended.llm_call_count) == (7, 5, 1)
    assert (ended.tool_call_count, ended.message_count, ended.duration_seconds, ended.cost_usd) == (2, 3, 1.25, 0.1)
    assert (ended.agent, ended.metadata, ended.created_at) == ("research", {"user": "é"}, started.occurred_at)


@pytest.mark.parametrize(
    ("kind", "payload", "status"),
    [
        ("run_completed", {"status": "interrupted"}, RunStatus.interrupted),
        ("run_completed", {}, RunStatus.success),
        ("run_failed", {"status": "timeout", "error": "late", "error_type": "TimeoutError"}, RunStatus.timeout),
        ("run_failed", {}, RunStatus.error),
        ("run_cancelled", {"cancel_mode": "shutdown"}, RunStatus.cancelled),
    ],
)
async def test_the_terminal_event_sets_the_status(store: Store, script, kind, payload, status) -> None:
    run = script()
    await store.append([run.started(), run.event(kind, **payload)])

    stored = await store.run(run.run_id)

    assert stored is not None
    assert stored.status is status
    assert (stored.error, stored.error_type) == (payload.get("error"), payload.get("error_type"))


async def test_a_run_that_never_started_has_its_end_alone(store: Store, script) -> None:
    run = script()
    await store.append([run.event("run_cancelled", cancel_mode="interrupt", completion_data={"duration_seconds": 0.0})])

    stored = await store.run(run.run_id)

    assert stored is not None
    assert (stored.agent, stored.started_at, stored.status) == (None, None, RunStatus.cancelled)
    assert stored.created_at == stored.ended_at


async def test_the_thread_row_follows_its_runs(store: Store, script) -> None:
    first = script()
    await store.append([first.started(), first.thread("busy")])
    busy = await store.thread(first.thread_id)
    second = script(thread_id=first.thread_id, start=first.start + timedelta(minutes=1))
    await store.append([first.completed("About things"), first.thread("idle"), second.started(), second.completed()])
    after = await store.thread(first.thread_id)

    assert busy is not None
    assert (busy.status, busy.title, busy.last_run_id) == (ThreadStatus.busy, None, first.run_id)
    assert after is not None
    assert (after.status, after.title, after.last_run_id) == (ThreadStatus.idle, "About things", second.run_id)
    assert (after.created_at, after.updated_at) == (first.start, second.start + timedelta(seconds=1))


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_run_that_names_no_agent_leaves_its_thread_the_one_that_it_has(
    store: Store, script, at_once: bool
) -> None:
    named, nameless = script(thread_id="t"), script(thread_id="t")
    events = [named.started("chat"), nameless.event("run_cancelled", cancel_mode="interrupt")]
    for together in [events] if at_once else [[event] for event in events]:
        await store.append(together)

    (thread,) = await store.threads()
    assert (thread.agent, thread.last_run_id) == ("chat", nameless.run_id)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_run_that_never_began_leaves_its_thread_the_agent_that_it_has(
    store: Store, script, at_once: bool
) -> None:
    lost, began, cancelled = (script(thread_id="t") for _ in range(3))
    events = [
        lost.event("run_failed", agent="lost", error="its process is gone"),
        began.started("chat"),
        cancelled.event("run_cancelled", agent="other", cancel_mode="interrupt"),
    ]
    for together in [events] if at_once else [[event] for event in events]:
        await store.append(together)

    (thread,) = await store.threads()
    assert thread.agent == "chat"


async def test_a_thread_is_never_updated_before_it_was(store: Store, script) -> None:
    first = script()
    second = script(thread_id=first.thread_id, start=first.start - timedelta(days=1))
    await store.append([first.started()])
    await store.append([second.started()])

    thread = await store.thread(first.thread_id)

    assert thread is not None
    assert thread.updated_at == first.start


async def test_payload_values_of_the_wrong_kind_do_not_stop_the_log(store: Store, script) -> None:
    run = script()
    await store.append([run.event("run_started", agent=7, metadata="no", trigger=[])])
    data = {
        "total_input_tokens": "many",
        "total_output_tokens": -1,
        "llm_call_count": True,
        "message_count": 10**30,
        "cost_usd": "free",
        "duration_seconds": None,
        "token_usage_by_model": {"a": 1, "b": {"input_tokens": 2.5}},
        "token_usage_by_caller": [],
    }
    await store.append([run.event("run_completed", title=3, status="great", completion_data=data)])
    await store.append([run.event("thread_status_updated", status="sleepy")])

    stored = await store.run(run.run_id)

    assert stored is not None
    assert (stored.agent, stored.metadata, stored.status, stored.title) == (None, {}, RunStatus.success, None)
    assert (stored.total_input_tokens, stored.total_output_tokens, stored.llm_call_count) == (0, 0, 0)
    assert (stored.message_count, stored.cost_usd) == (0, None)
    assert stored.duration_seconds == 1.0  # by the clock, since nobody measured it
    assert (await store.stats()).by_model["b"].input_tokens == 0


async def test_an_id_that_no_index_takes_does_not_stop_the_log(store: Store, script) -> None:
    run, child = script(), script()
    await store.append([run.started(parent_run_id=secrets.token_hex(4_000), retry_of=secrets.token_hex(4_000))])
    await store.append([child.started(parent_run_id="p" * 255, retry_of=run.run_id)])

    stored = [await store.run(one.run_id) for one in (run, child)]

    assert [(one.parent_run_id, one.retry_of) for one in stored if one] == [(None, None), ("p" * 255, run.run_id)]


async def test_the_same_event_again_gives_what_is_stored(store: Store, script) -> None:
    events = script().whole()
    first = await store.append(events)

    assert await store.append(events) == first
    assert await store.append([events[2]]) == [first[2]]
    assert len(await store.events()) == len(events)


async def test_the_same_event_twice_in_one_append_is_stored_once(store: Store, script) -> None:
    event = script().started()

    first, second = await store.append([event, event])

    assert first == second
    assert len(await store.events()) == 1


async def test_an_append_that_overlaps_what_is_stored_adds_the_rest(store: Store, script) -> None:
    events = script().whole()
    await store.append(events[:3])

    assert [stored.position for stored in await store.append(events[1:])] == [2, 3, 4, 5]


async def test_an_append_whose_reply_was_lost_is_stored_once(store: Store, script) -> None:
    run = script()
    event = run.started()
    lost = asyncio.ensure_future(store.append([event]))
    await asyncio.sleep(0)  # now the append is in the queue
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lost

    (again,) = await store.append([event])

    assert again.position == 1
    assert await store.events() == [again]


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": {"agent": "another"}},
        {"payload": {"agent": "chat", "metadata": {}, "n": True}},
        {"sequence": 2, "event_type": LifecycleEventType.HUMAN_MESSAGE},
        {"run_id": "another"},
        {"event_type": LifecycleEventType.RUN_FAILED},
    ],
)
async def test_an_event_id_with_other_content_is_refused(store: Store, script, changes) -> None:
    event = script().started(n=1)
    await store.append([event])

    with pytest.raises(EventConflictError, match=event.event_id) as refused:
        await store.append([replace(event, **changes)])

    assert not refused.value.retryable
    assert len(await store.events()) == 1


async def test_an_event_id_that_another_run_uses_for_a_new_event_is_refused(store: Store, script) -> None:
    first, second = script(), script()
    event = first.started()
    await store.append([event])
    await store.append([second.started()])

    with pytest.raises(EventConflictError):
        await store.append([replace(second.message(), event_id=event.event_id)])


async def test_order_of_keys_is_no_difference(store: Store, script) -> None:
    event = script().event("run_started", a=1, b=2)
    await store.append([event])

    (again,) = await store.append([replace(event, payload={"b": 2, "a": 1})])

    assert again.position == 1


async def test_a_gap_in_the_sequence_is_refused(store: Store, script) -> None:
    run = script()
    await store.append([run.started()])
    run.message()

    with pytest.raises(EventOrderError, match="next sequence number is 2"):
        await store.append([run.message()])


async def test_a_sequence_number_that_another_event_has_is_refused(store: Store, script) -> None:
    run = script()
    await store.append([run.started(), run.message()])

    with pytest.raises(EventOrderError, match="next sequence number is 3"):
        await store.append([replace(run.message(), sequence=2)])


async def test_nothing_but_thread_status_follows_the_end(store: Store, script) -> None:
    run = script()
    await store.append([run.started(), run.completed()])

    for late in (run.message, run.completed, run.failed, run.started):
        with pytest.raises(EventOrderError, match="has ended"):
            await store.append([late()])
        run.sequence -= 1
    await store.append([run.thread("idle")])


async def test_a_run_begins_with_its_start_or_its_end(store: Store, script) -> None:
    with pytest.raises(EventOrderError, match="first event"):
        await store.append([script().message()])


async def test_an_event_of_another_thread_is_refused(store: Store, script) -> None:
    run = script()
    await store.append([run.started()])

    with pytest.raises(EventOrderError, match="its thread is 'another'"):
        await store.append([replace(run.message(), thread_id="another")])


async def test_an_append_is_all_or_nothing(store: Store, script) -> None:
    good, bad = script(), script()

    with pytest.raises(EventOrderError):
        await store.append([good.started(), bad.started(), bad.started()])

    assert await store.events() == []
    assert await store.run(good.run_id) is None


async def test_one_bad_append_fails_alone(store: Store, script) -> None:
    stored = script().started()
    await store.append([stored])
    runs = [script() for _ in range(50)]
    appends = [store.append(run.whole()) for run in runs]
    appends.insert(20, store.append([script().message()]))
    appends.insert(30, store.append([replace(script().started(), event_id=stored.event_id)]))

    outcomes = await asyncio.gather(*appends, return_exceptions=True)

    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert [type(outcome) for outcome in refused] == [EventOrderError, EventConflictError]
    events = await store.events()
    assert [event.position for event in events] == list(range(1, 252))
    assert {run.status for run in await store.runs(limit=100, status="success")} == {RunStatus.success}
    assert len(await store.runs(limit=100, status="success")) == 50


async def test_one_event_id_in_two_appends_at_once_is_stored_once_and_refused_once(store: Store, script) -> None:
    event = script().started()

    outcomes = await asyncio.gather(
        store.append([event]),
        store.append([replace(event, run_id="another")]),
        store.append([event]),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [list, EventConflictError, list]
    assert len(await store.events()) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", ""),
        ("event_id", "x" * 256),
        ("run_id", "with\0NUL"),
        ("run_id", "half \ud83d"),
        ("thread_id", None),
        ("sequence", 0),
        ("sequence", True),
        ("sequence", 1.0),
        ("event_type", "run_exploded"),
        ("occurred_at", "2026-01-01"),
    ],
)
async def test_an_event_that_cannot_be_kept_is_refused_by_field(store: Store, script, field, value) -> None:
    with pytest.raises(InvalidEventError, match=field) as refused:
        await store.append([replace(script().started(), **{field: value})])

    assert (refused.value.fault, refused.value.retryable) == ("caller", False)


async def test_a_time_that_utc_does_not_have_is_refused(store: Store, script) -> None:
    when = datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))

    with pytest.raises(InvalidEventError, match="occurred_at"):
        await store.append([replace(script().started(), occurred_at=when)])


async def test_what_is_no_event_or_no_payload_is_refused(store: Store, script) -> None:
    with pytest.raises(InvalidEventError, match="RunLifecycleEvent"):
        await store.append(["run_started"])
    for other in (None, 5, script().started()):
        with pytest.raises(InvalidEventError, match=type(other).__name__):
            await store.append(other)
    for payload in ([], None):
        with pytest.raises(PayloadError, match="a mapping, not"):
            await store.append([replace(script().started(), payload=payload)])


async def test_a_time_without_a_zone_is_refused_and_any_zone_becomes_utc(store: Store, script) -> None:
    run = script()
    event = run.started()
    with pytest.raises(InvalidEventError, match="time zone"):
        await store.append([replace(event, occurred_at=event.occurred_at.replace(tzinfo=None))])

    await store.append([replace(event, occurred_at=event.occurred_at.astimezone(ZoneInfo("Asia/Kolkata")))])

    (stored,) = await store.events()
    assert stored.event.occurred_at == event.occurred_at
    assert stored.event.occurred_at.utcoffset() == timedelta(0)


async def test_what_is_stored_does_not_change_with_what_the_emitter_holds(store: Store, script) -> None:
    event = script().started(metadata={"tags": ["a"]})
    (stored,) = await store.append([event])
    event.payload["metadata"]["tags"].append("b")

    assert stored.event.payload["metadata"] == {"tags": ["a"]}


async def test_sql_in_every_text_is_text(store: Store, script, database: sqlite3.Connection) -> None:
    evil = "'); DROP TABLE events; --\" ? :x %s {0} \\"
    run = script(run_id=evil, thread_id=evil)
    event = replace(run.started(evil, metadata={evil: evil}), event_id=evil)
    await store.append(
        [event, run.failed(error=evil, title=evil, completion_data={"token_usage_by_model": {evil: {}}})]
    )

    first, _ = await store.events(run_id=evil, thread_id=evil)
    assert first.event == event
    (listed,) = await store.runs(agent=evil, thread_id=evil)
    assert (listed.run_id, listed.error, listed.metadata) == (evil, evil, {evil: evil})
    assert (await store.thread(evil)).title == evil
    assert list((await store.stats()).by_model) == [evil]
    assert await store.runs(before=listed.cursor) == []
    assert database.execute("SELECT count(*) FROM events").fetchone() == (2,)


async def test_a_person_can_read_the_tables(store: Store, script, database: sqlite3.Connection) -> None:
    run = script()
    await store.append([run.started(), run.message("Grüße")])

    times = database.execute("SELECT occurred_at FROM events ORDER BY position").fetchall()
    (payload,) = database.execute("SELECT payload FROM events WHERE sequence = 2").fetchone()

    assert times == [("2026-01-31T09:30:00.123456Z",), ("2026-01-31T09:30:01.123456Z",)]
    assert '"content":"Grüße"' in payload


async def test_an_unknown_run_has_no_row(store: Store) -> None:
    assert await store.run(new_id()) is None
    assert await store.thread(new_id()) is None


async def test_a_store_counts_what_it_writes(store: Store, script) -> None:
    before = store.writer_stats()
    await store.append(script().whole())
    with pytest.raises(EventOrderError):
        await store.append(script().whole()[1:])
    after = store.writer_stats()

    assert (after.batches_total - before.batches_total, after.works_total - before.works_total) == (2, 2)
    assert (after.events_total - before.events_total, after.failures_total, after.pending) == (5, 0, 0)
    assert after.seconds_total > before.seconds_total
