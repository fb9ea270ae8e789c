"""Threads whose time is over and what was removed go from the log, from states and from savers, once nobody needs them."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.storage.managed_runs import Gate, ended, managing, say

from trackside.app.storage import Store
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._threads.works import RemoveThread
from trackside.app.storage.errors import StoreOptionError
from trackside.app.storage.maintenance import check_database
from trackside.app.storage.sweeping import ForgetOfAgent
from trackside.app.storage.threads import ThreadQuery
from trackside.harness import RunManager, RunSpec
from trackside.harness.context import RunContext
from trackside.harness.errors import ThreadExistsError, UnknownThreadError
from trackside.harness.types import RunStatus


async def test_what_was_deleted_goes_from_the_log_once_no_subscription_needs_it(
    store: Store, manager: RunManager, url: str
) -> None:
    kept = await ended(manager, owner="ada")
    gone = await ended(manager, owner="ada")
    empty = await store.threads_of("ada").create(belongs_to="ada", metadata={"k": "v"})
    await store.threads_of("ada").change(gone.thread_id, metadata={"k": "v"})
    await store.subscriptions.open("needs-it", start="beginning")
    for thread_id in (gone.thread_id, empty.thread_id):
        await store.threads_of("ada").remove(thread_id)
    with pytest.raises(ThreadExistsError):
        await store.threads_of("ada").create(gone.thread_id)

    sweeper = store.sweeper()
    assert await sweeper.sweep() == (0, 2, 0)
    assert await store.thread_states().load(gone.thread_id) is None
    assert await store.thread(empty.thread_id, removed=True) is None
    assert await store.run(gone.run_id, removed=True) is not None
    await store.subscriptions.delete("needs-it")
    assert await sweeper.sweep() == (0, 0, 1)
    assert await store.run(gone.run_id, removed=True) is None
    assert await store.events(run_id=gone.run_id) == []
    assert await store.thread(gone.thread_id, removed=True) is None
    assert await store.thread_states().load(kept.thread_id) is not None
    assert (await store.stats()).total.runs == 1
    assert await asyncio.to_thread(check_database, url, sample=None) == []


async def test_what_was_deleted_goes_from_the_log_also_if_it_had_asked_something(store: Store) -> None:
    async def asks(input: Any, run: RunContext) -> Any:
        return run.interrupt("sure?")

    async with managing(store, asks=asks) as manager:
        asked = await (await manager.start(RunSpec("asks", "hello"))).result()
    assert asked.status is RunStatus.interrupted
    await store.threads_of(None).remove(asked.thread_id)

    assert await store.sweeper().sweep() == (0, 1, 1)
    assert await store.run(asked.run_id, removed=True) is None
    assert await store.thread(asked.thread_id, removed=True) is None


async def test_a_thread_of_a_run_alone_is_forgotten_and_its_log_stays(store: Store, manager: RunManager) -> None:
    run = await ended(manager, thread_ends=True)
    forgotten: list[str] = []

    async def forget(thread_ids: Any) -> None:
        forgotten.extend(thread_ids)

    sweeper = store.sweeper(forget=[forget])
    assert await sweeper.sweep() == (0, 1, 0)
    assert await store.thread_states().load(run.thread_id) is None
    assert await sweeper.sweep() == (0, 0, 0)
    assert forgotten == [run.thread_id]
    assert len(await store.events(run_id=run.run_id)) > 0
    assert (await store.prune(older_than=timedelta(0))).runs == 1
    assert await store.thread(run.thread_id, removed=True) is None


async def test_what_a_thread_remembers_may_outlive_it_for_a_while(
    store: Store, manager: RunManager, database: Any
) -> None:
    run, other = [await ended(manager, thread_ends=True) for _ in range(2)]
    sweeper = store.sweeper(linger=60)
    assert (await sweeper.sweep()).forgotten == 0
    assert await store.thread_states().load(run.thread_id) is not None
    database.execute(
        f"UPDATE threads SET removed_at = '2020-01-01T00:00:00.000000Z' WHERE thread_id = '{run.thread_id}'"
    )
    assert (await sweeper.sweep()).forgotten == 1
    assert await store.thread_states().load(run.thread_id) is None
    assert await store.thread_states().load(other.thread_id) is not None


async def test_what_a_deleted_thread_remembers_goes_at_once_also_where_that_of_others_lingers(
    store: Store, manager: RunManager
) -> None:
    ends_alone, deleted = await ended(manager, thread_ends=True), await ended(manager, owner="ada")
    await store.threads_of("ada").remove(deleted.thread_id)

    assert (await store.sweeper(linger=3_600).sweep()).forgotten == 1

    assert await store.thread_states().load(deleted.thread_id) is None
    assert await store.thread_states().load(ends_alone.thread_id) is not None


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("every", [0, -1, 0.01, 86_401, math.nan, math.inf, True, "x", None]),
        ("linger", [-1, 2**70, math.nan, math.inf, True, "x", None]),
        ("forget", [print, "x", [None], ["x"], None]),
    ],
    ids=["every", "linger", "forget"],
)
async def test_a_sweeper_that_cannot_be_is_refused_by_the_name_of_what_is_wrong(
    store: Store, option: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(StoreOptionError, match=f"cannot work with {option}="):
            store.sweeper(**{option: value})


async def test_a_removal_in_this_process_is_seen_to_soon(store: Store, manager: RunManager) -> None:
    forgotten = asyncio.Event()

    async def forget(thread_ids: Any) -> None:
        forgotten.set()

    async with store.sweeper(forget=[forget], every=3_600):
        await ended(manager, thread_ends=True)
        await asyncio.wait_for(forgotten.wait(), 60)


async def test_what_threads_remember_that_are_gone_is_forgotten_apart_from_the_log(
    store: Store, manager: RunManager
) -> None:
    ends_alone, deleted, kept = await ended(manager, thread_ends=True), await ended(manager), await ended(manager)
    await store.threads_of(None).remove(deleted.thread_id)

    sweeper = store.sweeper(linger=3_600)
    assert (await sweeper.forget(), await sweeper.forget()) == (1, 0)

    assert await store.thread_states().load(deleted.thread_id) is None
    for other in (ends_alone, kept):
        assert await store.thread_states().load(other.thread_id) is not None
    assert len(await store.events(run_id=deleted.run_id)) > 0


async def test_a_thread_that_is_gone_can_be_forgotten_alone(store: Store, manager: RunManager) -> None:
    threads = store.threads_of(None)
    empty, waiting, there = [(await threads.create()).thread_id for _ in range(3)]
    had_runs = (await ended(manager)).thread_id
    for thread_id in (empty, waiting, had_runs):
        await threads.remove(thread_id)

    assert await store.sweeper().forget_only([empty, had_runs, there])

    assert (await threads.create(empty)).thread_id == empty
    for thread_id in (waiting, had_runs):
        with pytest.raises(ThreadExistsError):
            await threads.create(thread_id)
    assert await store.thread_states().load(had_runs) is None
    assert (await threads.get(there)).thread_id == there
    assert (await store.sweeper().sweep()).forgotten == 1


async def test_a_deleted_thread_stays_in_the_log_until_a_saver_has_forgotten_it(
    store: Store, manager: RunManager
) -> None:
    gone = await ended(manager)
    await store.threads_of(None).remove(gone.thread_id)
    asked: list[str] = []

    async def forget(thread_ids: Any) -> None:
        asked.extend(thread_ids)

    await store.prune(older_than=timedelta(0))
    await store.sweeper(forget=[forget]).sweep()
    assert asked == [gone.thread_id]
    assert await store.thread(gone.thread_id, removed=True) is None


async def test_a_saver_that_fails_is_asked_again(store: Store, manager: RunManager) -> None:
    run = await ended(manager, thread_ends=True)
    asked: list[Any] = []

    async def forget(thread_ids: Any) -> None:
        asked.append([*thread_ids])
        if len(asked) == 1:
            raise ConnectionError("the saver is away")

    sweeper = store.sweeper(forget=[forget])
    with pytest.raises(ConnectionError):
        await sweeper.sweep()
    assert await store.thread_states().load(run.thread_id) is not None
    assert (await sweeper.sweep()).forgotten == 1
    assert asked == [[run.thread_id]] * 2


@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_a_saver_that_fails_for_one_thread_holds_up_no_other(store: Store, manager: RunManager, bad: int) -> None:
    runs = [await ended(manager, thread_ends=True) for _ in range(3)]
    deleted = await ended(manager)
    await store.threads_of(None).remove(deleted.thread_id)
    broken = True

    async def forget(thread_ids: Any) -> None:
        if broken and runs[bad].thread_id in thread_ids:
            raise ValueError("cannot be read")

    sweeper = store.sweeper(forget=[forget])
    with pytest.raises(ValueError, match="cannot be read"):
        await sweeper.sweep()
    states = store.thread_states()
    left = [run.thread_id for run in runs if await states.load(run.thread_id) is not None]
    assert left == [runs[bad].thread_id]
    assert await store.events(run_id=deleted.run_id) == [], "the log of what was deleted goes as well"
    broken = False
    assert (await sweeper.sweep()).forgotten == 1
    assert await states.load(runs[bad].thread_id) is None


async def test_an_agent_is_asked_to_forget_its_own_threads_and_holds_up_no_other(store: Store) -> None:
    async with managing(store, chat=say, pay=say) as manager:
        runs = [await manager.start(RunSpec(agent)) for agent in ("chat", "pay", "chat")]
        for run in runs:
            await run.result()
        await (await manager.start(RunSpec("pay", thread_id=runs[2].thread_id))).result()
    threads = store.threads_of(None)
    unused = (await threads.create(agent="pay")).thread_id
    chats, pays, boths = [run.thread_id for run in runs]
    for thread_id in (chats, pays, boths, unused):
        await threads.remove(thread_id)
    asked: dict[str, set[str]] = {"chat": set(), "pay": set(), "other": set()}
    broken = True

    def forgetting(agent: str) -> ForgetOfAgent:
        async def forget(thread_ids: Any) -> None:
            asked[agent].update(thread_ids)
            if broken and agent == "pay":
                raise ConnectionError("its saver is away")

        return ForgetOfAgent(agent, forget)

    sweeper = store.sweeper(forget=[*map(forgetting, asked)])
    with pytest.raises(ConnectionError):
        await sweeper.sweep()
    assert asked == {"chat": {chats, boths}, "pay": {pays, boths, unused}, "other": set()}
    left = [one for one in (chats, pays, boths, unused) if await store.thread(one, removed=True) is not None]
    assert left == [pays, boths, unused]
    with pytest.raises(ThreadExistsError):
        await threads.create(pays)
    broken = False
    await sweeper.sweep()
    assert (await threads.create(pays)).thread_id == pays


async def test_a_saver_that_is_away_is_not_asked_for_each_of_many_threads(store: Store, manager: RunManager) -> None:
    for _ in range(30):
        await ended(manager, thread_ends=True)
    asked: list[int] = []

    async def forget(thread_ids: Any) -> None:
        asked.append(len(thread_ids))
        raise ConnectionError("the saver is away")

    with pytest.raises(ConnectionError):
        await store.sweeper(forget=[forget]).sweep()
    assert asked == [30, *[1] * 10]


async def test_threads_expire_unless_a_run_is_at_them(store: Store, database: Any) -> None:
    gate = Gate()
    async with managing(store, gate=gate) as manager:
        threads = store.threads_of(None)
        over, busy, later = [(await threads.create(ttl_minutes=5)).thread_id for _ in range(3)]
        handle = await manager.start(RunSpec("gate", thread_id=busy))
        await gate.reached.wait()
        database.execute(f"UPDATE threads SET expires_at = '2020-01-01T00:00:00.000000Z' WHERE thread_id <> '{later}'")
        sweeper = store.sweeper()

        assert (await sweeper.sweep()).expired == 1
        assert {thread.thread_id for thread in (await threads.search(ThreadQuery())).threads} == {busy, later}
        gate.opened.set()
        await handle.result()
        assert (await sweeper.sweep()).expired == 1
        assert {thread.thread_id for thread in (await threads.search(ThreadQuery())).threads} == {later}
        assert await store.thread(over, removed=True) is None


async def test_a_thread_that_is_given_more_time_after_it_was_found_to_be_over_stays(
    store: Store, database: Any, together: Any
) -> None:
    threads = store.threads_of(None)
    before, beside = [(await threads.create(ttl_minutes=5)).thread_id for _ in range(2)]
    database.execute("UPDATE threads SET expires_at = '2020-01-01T00:00:00.000000Z'")
    await threads.change(before, ttl_minutes=60)
    now = time_text(datetime.now(UTC))
    removals = [RemoveThread(thread_id=one, owner=None, now=now, expired=True) for one in (before, beside)]

    _, *removed = await together(threads.change(beside, ttl_minutes=60), *map(store._writer.write, removals))

    assert removed == [False, False]
    assert {thread.thread_id for thread in (await threads.search(ThreadQuery())).threads} == {before, beside}


@pytest.mark.parametrize("ttl", [None, 60])
async def test_a_thread_whose_time_is_over_takes_no_run_also_before_it_is_swept(
    store: Store, database: Any, ttl: float | None
) -> None:
    gate = Gate()
    async with managing(store, gate=gate) as manager:
        threads = store.threads_of(None)
        over, busy = [(await threads.create(ttl_minutes=5)).thread_id for _ in range(2)]
        first = await manager.start(RunSpec("gate", thread_id=busy))
        await gate.reached.wait()
        database.execute("UPDATE threads SET expires_at = '2020-01-01T00:00:00.000000Z'")

        with pytest.raises(UnknownThreadError):
            await manager.start(RunSpec("gate", thread_id=over, thread_ttl=ttl))
        second = await manager.start(RunSpec("gate", thread_id=busy))  # a run is at it, and so it stays
        gate.opened.set()
        await first.result()
        await second.result()
        assert await threads.change(over, ttl_minutes=60)
        assert await (await manager.start(RunSpec("gate", thread_id=over))).result()
