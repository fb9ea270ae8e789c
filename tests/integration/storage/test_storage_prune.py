"""Old runs leave whole, with all that follows from them, while others write and read."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from tests.integration.storage.pruned_runs import DAY, LONG_AGO, removed
from tests.integration.storage.writer_works import Execute

from trackside.app.storage import PruneReport, Store, retention
from trackside.app.storage._removal import Candidate, RemoveRuns
from trackside.app.storage._rows.tables import idempotency_keys, metadata
from trackside.app.storage.errors import InvalidQueryError, ReadOnlyStoreError
from trackside.app.storage.maintenance import check_database
from trackside.harness.errors import EventOrderError
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import ThreadState


async def count(store: Store, table: Any) -> int:
    query = select(func.count()).select_from(table)
    return await store._readers.run(lambda connection: connection.execute(query).scalar_one())


async def everything(store: Store, *, but: Sequence[str] = ()) -> dict[str, list[Any]]:
    """All rows of all tables."""

    def read(connection: Any) -> dict[str, list[Any]]:
        return {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
            if table.name not in but
        }

    return await store._readers.run(read)


USAGE = {"input_tokens": 10, "output_tokens": 4, "cache_read_tokens": 2, "reasoning_tokens": 1, "cost_usd": 0.25}
DATA: dict[str, Any] = {
    "total_input_tokens": 10,
    "total_output_tokens": 4,
    "llm_call_count": 2,
    "tool_call_count": 1,
    "message_count": 3,
    "duration_seconds": 1.5,
    "cost_usd": 0.25,
    "token_usage_by_model": {"small": USAGE},
    "token_usage_by_caller": {"lead_agent": USAGE},
}


def used(run: Any, **metadata: Any) -> list[RunLifecycleEvent]:
    return [run.started(metadata=metadata), run.thread("busy"), run.completed("A title", **DATA), run.thread("idle")]


async def test_a_run_leaves_no_trace_but_its_positions(store: Store, script) -> None:
    untouched = await everything(store)
    for _ in range(3):
        run = script(start=LONG_AGO)
        await store.append(used(run, customer="a"))
        key = insert(idempotency_keys).values(key=run.run_id, body="{}", run_id=run.run_id)
        await store._writer.write(Execute(key))
        await store.thread_states().save(run.thread_id, ThreadState({"x": 1}))

    report = await store.prune(older_than=DAY)
    (later,) = await store.append([script().started()])

    assert report == removed(3, 12, 3)
    assert later.position == 13
    await store.append([])
    rest = await everything(store, but=["counters", "runs", "events", "event_times", "threads", "run_labels"])
    assert rest == {name: untouched[name] for name in rest}
    assert [stored.position for stored in await store.events()] == [13]


async def test_what_others_have_is_as_if_the_removed_runs_had_never_been(url: str, store: Store, script) -> None:
    for start in (LONG_AGO, datetime.now(UTC)):
        for agent in ("chat", "search"):
            run = script(start=start)
            await store.append([run.started(agent, metadata={"n": 1}), run.completed(**DATA), run.thread("idle")])
    young = (await everything(store))["runs"][2:]

    assert await store.prune(older_than=DAY) == removed(2, 6, 2)

    after = await everything(store)
    assert after["runs"] == young
    assert await store.stats() == await store.stats(since=LONG_AGO + DAY)
    totals = [table for name, table in after.items() if name.endswith("_totals")]
    assert all(start > 1_600_000_000 // seconds for rows in totals for seconds, start, *_ in rows)
    assert all(amount > 0 for rows in totals for row in rows for amount in [row[-1]])


async def test_only_runs_that_ended_so_long_ago(store: Store, script) -> None:
    now = datetime.now(UTC)
    old, young, active = script(start=now - 2 * DAY), script(start=now - DAY / 2), script(start=now - 9 * DAY)
    late = script(start=now - 9 * DAY)
    await store.append([*old.whole(), *young.whole(), active.started(), late.started()])
    late.start = now
    await store.append([late.completed()])

    assert await store.prune(older_than=DAY) == removed(1, 5, 1)
    assert {run.run_id for run in await store.runs()} == {young.run_id, active.run_id, late.run_id}
    assert await store.prune(older_than=None) == removed(2, 7, 2)
    assert [run.run_id for run in await store.runs()] == [active.run_id]


async def test_runs_of_one_moment_all_go_however_many_are_looked_at_together(
    store: Store, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PAGE", 2)
    for _ in range(5):
        await store.append(script(start=LONG_AGO).whole())

    told: list[PruneReport] = []
    assert await store.prune(older_than=DAY, dry_run=True) == removed(5, 25, 5)
    assert await store.prune(older_than=DAY, batch=5, on_removed=told.append) == removed(5, 25, 5)
    assert told == [removed(number, 5 * number, number) for number in range(1, 6)]


async def test_a_run_that_was_created_since_is_young_whatever_it_says_of_its_end(store: Store, script) -> None:
    run = script(start=datetime.now(UTC))
    await store.append([run.started()])
    run.start = LONG_AGO  # a clock was set back
    await store.append([run.completed(), run.thread("idle"), script(thread_id=run.thread_id).started()])

    assert await store.prune(older_than=DAY, dry_run=True) == removed()
    assert await store.prune(older_than=DAY) == removed()
    assert await store.prune(older_than=None) == removed(1, 3)


async def test_a_thread_that_was_never_said_to_rest_stays_though_its_time_is_over(
    store: Store, script, database: Any
) -> None:
    busy, idle = script(thread_id="busy", start=LONG_AGO), script(thread_id="idle", start=LONG_AGO)
    await store.append([busy.started(), busy.thread("busy"), busy.completed(), *idle.whole()])
    database.execute("UPDATE threads SET expires_at = '2020-01-01T00:00:00Z'")

    assert await store.prune(older_than=DAY, dry_run=True) == removed(2, 8, 1)
    assert await store.prune(older_than=DAY) == removed(2, 8, 1)
    assert [thread.thread_id for thread in await store.threads()] == ["busy"]


@pytest.mark.parametrize(
    ("filter", "gone"),
    [
        ({"status": "error"}, {"b"}),
        ({"status": ["error", "success"]}, {"a", "b", "c"}),
        ({"agent": "search"}, {"c"}),
        ({"agent": "search", "status": "error"}, set()),
        ({"thread_id": "t-a"}, {"a"}),
        ({"agent": "nobody"}, set()),
        ({}, {"a", "b", "c", "d"}),
    ],
)
async def test_only_runs_that_fit(store: Store, script, filter: dict[str, Any], gone: set[str]) -> None:
    a, b, c, d = (script(name, f"t-{name}", LONG_AGO) for name in "abcd")
    await store.append([a.started(), a.completed(), b.started(), b.failed()])
    await store.append([c.started("search"), c.completed(), d.event("run_cancelled", cancel_mode="interrupt")])
    foreseen = await store.prune(older_than=DAY, dry_run=True, **filter)
    assert len(await store.runs()) == 4

    done = await store.prune(older_than=DAY, **filter)

    assert {run.run_id for run in await store.runs()} == set("abcd") - gone
    assert (done, done.runs) == (foreseen, len(gone))


async def test_a_moment_is_as_good_as_an_age(store: Store, script) -> None:
    first, second = script("a", "t-a", LONG_AGO), script("b", "t-b", LONG_AGO + DAY)
    await store.append([*first.whole(), *second.whole()])
    before = (LONG_AGO + DAY).astimezone(timezone(timedelta(hours=2)))

    assert await store.prune(older_than=before, dry_run=True) == removed(1, 5, 1)
    assert await store.prune(older_than=before) == removed(1, 5, 1)
    assert [run.run_id for run in await store.runs()] == ["b"]


async def test_a_thread_goes_with_its_last_run_and_else_names_the_last_that_it_has(store: Store, script) -> None:
    first, second = script(thread_id="t", start=LONG_AGO), script(thread_id="t", start=LONG_AGO + DAY)
    await store.append([*first.whole(), second.started(), second.failed(), second.thread("error")])

    assert await store.prune(older_than=DAY, status="error") == removed(1, 3, 0)
    (thread,) = await store.threads()
    assert thread.last_run_id == first.run_id

    assert await store.prune(older_than=DAY) == removed(1, 5, 1)
    assert await store.threads() == []


async def test_a_thread_that_is_changed_as_its_last_run_goes_names_that_run_no_more(
    url: str, store: Store, script, together
) -> None:
    first, last, only = script(thread_id="t", start=LONG_AGO), script(thread_id="t", start=LONG_AGO + DAY), script()
    await store.append([*first.whole(), *last.whole(), *only.whole()])
    candidates = [Candidate(run.run_id, run.thread_id, LONG_AGO, 5, 0, asks=False) for run in (last, only)]
    threads = store.threads_of(None)

    *_, gone = await together(
        threads.change("t", metadata={"n": 1}),
        threads.change(only.thread_id, metadata={"n": 2}),
        store._writer.write(RemoveRuns(candidates)),
    )

    assert gone == (2, 10, 0)
    named = {thread.thread_id: (thread.last_run_id, thread.metadata) for thread in await store.threads()}
    assert named == {"t": (first.run_id, {"n": 1}), only.thread_id: (None, {"n": 2})}
    assert await asyncio.to_thread(check_database, url, sample=None) == []


async def test_the_last_run_of_a_thread_is_as_young_as_what_somebody_did_to_the_thread(store: Store, script) -> None:
    first, last = script(thread_id="t", start=LONG_AGO), script(thread_id="t", start=LONG_AGO + DAY)
    deleted = script(start=LONG_AGO)
    await store.append([*first.whole(), *last.whole(), *deleted.whole()])
    threads = store.threads_of(None)
    await threads.change("t", metadata={"n": 1})
    await threads.remove(deleted.thread_id)

    assert await store.prune(older_than=DAY, dry_run=True) == removed(2, 10)
    assert await store.prune(older_than=DAY) == removed(2, 10)

    (thread,) = await store.threads()
    assert (thread.last_run_id, thread.metadata) == (last.run_id, {"n": 1})
    assert await store.prune(older_than=timedelta()) == removed(1, 5, 1)


async def test_a_thread_that_is_changed_after_its_last_run_was_chosen_keeps_it(store: Store, script, together) -> None:
    before, beside = script(start=LONG_AGO), script(start=LONG_AGO)
    await store.append([*before.whole(), *beside.whole()])
    candidates = [Candidate(run.run_id, run.thread_id, LONG_AGO, 5, 0, asks=False) for run in (before, beside)]
    threads = store.threads_of(None)
    await threads.change(before.thread_id, metadata={"n": 1})

    _, gone = await together(
        threads.change(beside.thread_id, metadata={"n": 2}),
        store._writer.write(RemoveRuns(candidates, cutoff=LONG_AGO + DAY)),
    )

    assert gone == (0, 0, 0)
    assert len(await store.threads()) == 2


async def test_a_thread_whose_last_run_is_removed_names_the_one_that_the_log_has_before_it(
    store: Store, script
) -> None:
    answered, asking = script(thread_id="t", start=LONG_AGO + DAY), script(thread_id="t", start=LONG_AGO)
    failed = script(thread_id="t", start=LONG_AGO + 2 * DAY)
    for run in (answered, asking):
        await store.append([run.started(), run.event("run_completed", status="interrupted"), run.thread("interrupted")])
    await store.append([failed.started(), failed.failed(), failed.thread("interrupted")])

    assert await store.prune(older_than=DAY, status="error") == removed(1, 3)

    (thread,) = await store.threads()
    assert thread.last_run_id == asking.run_id
    assert [run.run_id for run in await store.runs(waiting=True)] == [asking.run_id]
    assert await store.prune(older_than=DAY) == removed(1, 3, waiting=1)
    assert [run.run_id for run in await store.runs()] == [asking.run_id]


async def test_nothing_can_follow_in_a_run_that_has_gone(store: Store, script) -> None:
    run = script(start=LONG_AGO)
    await store.append(run.whole())
    await store.prune(older_than=DAY)

    with pytest.raises(EventOrderError):
        await store.append([run.thread("error")])


async def test_an_event_that_comes_in_the_same_transaction_saves_its_run(store: Store, script) -> None:
    runs_ = [script(start=LONG_AGO) for _ in range(50)]
    for run in runs_:
        await store.append(run.whole())
    late = [asyncio.create_task(store.append([run.thread("error")])) for run in runs_]
    pruning = asyncio.create_task(store.prune(older_than=DAY, batch=5))
    outcomes = await asyncio.gather(*late, return_exceptions=True)
    report = await pruning

    accepted = sum(isinstance(outcome, list) for outcome in outcomes)
    assert all(isinstance(outcome, list | EventOrderError) for outcome in outcomes)
    assert report.runs == 50
    assert report.events == 250 + accepted
    assert await store.events() == []


async def test_pruning_while_others_append_and_follow(store: Store, script) -> None:
    for _ in range(60):
        await store.append(script(start=LONG_AGO).whole())
    done = asyncio.Event()
    written: list[int] = []

    async def produce() -> None:
        while not done.is_set():
            for event in script(start=datetime.now(UTC)).whole():
                (stored,) = await store.append([event])
                written.append(stored.position)

    async def read(seen: list[int]) -> None:
        while not done.is_set():
            seen += [stored.position for stored in await store.events(max(seen, default=0), limit=50)]

    by_readers: list[list[int]] = [[], []]
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(produce())
        for seen in by_readers:
            tasks.create_task(read(seen))
        report = await store.prune(older_than=DAY, batch=10)
        while min(max(seen, default=0) for seen in by_readers) <= 300:  # until each reader has seen something new
            await asyncio.sleep(0.005)
        done.set()

    assert report == removed(60, 300, 60)
    assert sorted(written) == list(range(301, 301 + len(written)))
    for positions in by_readers:
        seen = [position for position in positions if position > 300]
        assert seen == sorted(written)[: len(seen)]
        assert seen


async def test_prunes_at_once_beside_appends_to_the_same_threads(url: str, store: Store, script) -> None:
    threads = [f"t-{number}" for number in range(5)]
    for number in range(100):
        await store.append(used(script(thread_id=threads[number % 5], start=LONG_AGO)))
    done = asyncio.Event()

    async def produce(one: Store) -> int:
        count = 0
        while not done.is_set():
            await one.append(used(script(thread_id=threads[count % 5], start=datetime.now(UTC))))
            count += 1
        return count

    async with (  # with patience: a file gives nobody a turn
        Store.open(url, busy_timeout=60) as first,
        Store.open(url, busy_timeout=60) as second,
        Store.open(url, busy_timeout=60) as third,
        asyncio.TaskGroup() as tasks,
    ):
        producers = [tasks.create_task(produce(one)) for one in (first, second, third, third)]
        reports = await asyncio.gather(*(one.prune(older_than=DAY, batch=20) for one in (first, second, third)))
        done.set()

    appended = sum(producer.result() for producer in producers)
    assert sum(report.runs for report in reports) == 100
    assert len(await store.runs(limit=10_000)) == appended
    assert await asyncio.to_thread(check_database, url, sample=None) == []


async def test_a_big_run_goes_in_one_piece_and_small_ones_together(store: Store, script) -> None:
    big = script(start=LONG_AGO)
    await store.append([big.started(), *[big.message() for _ in range(50)], big.completed()])
    for _ in range(3):
        await store.append(script(start=LONG_AGO).whole())

    assert await store.prune(older_than=DAY, batch=10) == removed(4, 67, 4)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("older_than", -DAY),
        ("older_than", timedelta.max),
        ("older_than", 3),
        ("older_than", datetime(2026, 1, 31)),  # which lacks its offset
        ("status", "running"),
        ("status", "asleep"),
        ("status", 7),
        ("agent", "\0"),
        ("thread_id", 7),
        ("batch", 0),
        ("batch", "many"),
        ("batch", 2**70),
    ],
)
async def test_an_argument_that_does_not_fit_is_named(store: Store, argument: str, value: Any) -> None:
    with pytest.raises(InvalidQueryError, match=argument):
        await store.prune(**{"older_than": DAY, argument: value})


@pytest.mark.parametrize("dry_run", [False, True])
async def test_no_status_at_all_is_refused_rather_than_taken_for_all_of_them(
    store: Store, script, dry_run: bool
) -> None:
    await store.append(script(start=LONG_AGO).whole())

    with pytest.raises(InvalidQueryError, match=r"status=\[\].*leave it out"):
        await store.prune(older_than=DAY, status=[], dry_run=dry_run)

    assert len(await store.runs()) == 1


async def test_statuses_that_can_be_read_but_once_choose_their_runs_alone(store: Store, script) -> None:
    a, b = (script(name, f"t-{name}", LONG_AGO) for name in "ab")
    await store.append([a.started(), a.completed(), b.started(), b.failed()])

    await store.prune(older_than=DAY, status=iter(["error"]))

    assert [run.run_id for run in await store.runs()] == ["a"]


async def test_who_may_only_look_removes_nothing(url: str, store: Store, script) -> None:
    await store.append(script(start=LONG_AGO).whole())
    async with Store.open(url, read_only=True) as looking:
        assert await looking.prune(older_than=DAY, dry_run=True) == removed(1, 5, 1)
        with pytest.raises(ReadOnlyStoreError):
            await looking.prune(older_than=DAY)
