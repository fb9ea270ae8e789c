"""Threads as clients have them: who may use them, and what becomes of them when they are removed."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import Any

import pytest
from sqlalchemy import insert
from tests.integration.storage.writer_works import OnSession

from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store, StoredThread, containment
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.tables import runs, threads
from trackside.app.storage._threads.works import RemoveThread
from trackside.app.storage.errors import InvalidQueryError, StoreOptionError
from trackside.app.storage.maintenance import check_database
from trackside.app.storage.sweeping import ForgetOfAgent
from trackside.app.storage.threads import ThreadQuery
from trackside.harness import ObserverBinding, RunManager, RunSpec
from trackside.harness.context import RunContext
from trackside.harness.errors import (
    RunInUseError,
    ThreadExistsError,
    ThreadInUseError,
    TracksideError,
    UnknownRunError,
    UnknownThreadError,
)
from trackside.harness.ids import new_id
from trackside.harness.types import RunStatus


async def say(input: Any) -> dict[str, Any]:
    return {"said": input}


class Gate:
    """An agent that waits until it is let go on."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, input: Any, run: RunContext) -> dict[str, Any]:
        self.reached.set()
        await self.opened.wait()
        return {}


@asynccontextmanager
async def managing(store: Store, *, max_running: int = 256, **agents: Any) -> AsyncIterator[RunManager]:
    """A manager whose runs are recorded in the store."""
    observer = ObserverBinding(StorageObserver(store), required=True)
    coordinator, states = store.coordinator(), store.thread_states()
    async with RunManager(
        {"say": say, **agents},
        observers=[observer],
        coordinator=coordinator,
        states=states,
        max_running=max_running,
    ) as manager:
        yield manager


async def ended(manager: RunManager, **spec: Any) -> Any:
    """A run, to its end."""
    handle = await manager.start(RunSpec("say", "hello", **spec))
    return await handle.result()


@pytest.fixture
async def manager(store: Store) -> AsyncIterator[RunManager]:
    async with managing(store) as manager:
        yield manager


async def test_a_thread_belongs_to_the_owner_of_its_first_run(store: Store, manager: RunManager) -> None:
    run = await ended(manager, owner="ada")
    thread_id = run.thread_id

    for spec in ({"owner": "eve"}, {"owner": "eve", "thread_exists": True}):
        with pytest.raises(UnknownThreadError):
            await ended(manager, thread_id=thread_id, **spec)
    await ended(manager, thread_id=thread_id, owner="root", any_owner=True)
    await ended(manager, thread_id=thread_id)
    assert (await store.threads_of(None).get(thread_id)).owner == "ada"
    assert (await store.threads_of("ada").runs(thread_id)).total == 3
    with pytest.raises(UnknownThreadError):
        await store.threads_of("eve").runs(thread_id)
    nobodys = await ended(manager)
    with pytest.raises(UnknownThreadError):
        await ended(manager, thread_id=nobodys.thread_id, owner="ada")


async def test_nothing_is_left_of_a_run_that_was_not_let_in(store: Store, manager: RunManager) -> None:
    for spec in ({"thread_exists": True}, {"thread_exists": True, "owner": "ada"}):
        thread_id, run_id = new_id(), new_id()
        with pytest.raises(UnknownThreadError):
            await ended(manager, thread_id=thread_id, run_id=run_id, **spec)
        assert await store.thread(thread_id, removed=True) is None
        assert await store.run(run_id, removed=True) is None
    assert await store.events() == []


async def agent_of(store: Store, thread_id: str) -> str | None:
    return (await store.threads_of(None).get(thread_id)).agent


async def test_a_thread_is_of_the_agent_that_began_last(store: Store) -> None:
    gate = Gate()
    async with managing(store, gate=gate) as manager:
        first = await manager.start(RunSpec("gate"))
        thread_id = first.thread_id
        await gate.reached.wait()
        second = await manager.start(RunSpec("say", thread_id=thread_id))
        assert await agent_of(store, thread_id) == "gate"
        gate.opened.set()
        await second.result()
        assert await agent_of(store, thread_id) == "say"


@pytest.mark.parametrize("after_seconds", [None, 3_600])
async def test_a_run_that_never_began_leaves_its_thread_its_agent(store: Store, after_seconds: float | None) -> None:
    gate = Gate()
    async with managing(store, gate=gate) as manager:
        first = await manager.start(RunSpec("gate"))
        thread_id = first.thread_id
        await gate.reached.wait()
        second = await manager.start(RunSpec("say", thread_id=thread_id, after_seconds=after_seconds))
        await manager.cancel(second.run_id)
        await second.result()
        gate.opened.set()
        await first.result()
    assert await agent_of(store, thread_id) == "gate"


@pytest.mark.parametrize("is_made", [False, True], ids=["with its run", "before its run"])
async def test_a_thread_without_an_agent_gets_that_of_a_run_which_has_not_begun(store: Store, is_made: bool) -> None:
    thread_id = new_id()
    if is_made:
        await store.threads_of(None).create(thread_id)
    async with managing(store, gate=Gate()) as manager:
        later = await manager.start(RunSpec("say", thread_id=thread_id, after_seconds=3_600))
        other = await manager.start(RunSpec("gate", thread_id=thread_id, after_seconds=3_600))
        assert await agent_of(store, thread_id) == "say"
        for handle in (later, other):
            await manager.cancel(handle.run_id)
            await handle.result()
    assert await agent_of(store, thread_id) == "say"


async def test_a_thread_of_a_run_alone_is_gone_with_its_end(store: Store, manager: RunManager) -> None:
    run = await ended(manager, thread_ends=True, owner="ada")

    assert await store.thread(run.thread_id) is None
    assert await store.run(run.run_id) is None
    assert await store.runs() == []
    assert (await store.threads_of("ada").search(ThreadQuery())).total == 0
    with pytest.raises(UnknownThreadError):
        await ended(manager, thread_id=run.thread_id, owner="ada")
    kept = await store.thread(run.thread_id, removed=True)
    (listed,) = await store.runs(removed=True, owner="ada")
    events = await store.events(owner="ada")
    assert kept is not None
    assert kept.removed_at == listed.removed_at == listed.ended_at
    assert [stored.event.run_id for stored in events] == [run.run_id] * len(events) != []


async def test_a_thread_that_ends_stays_as_long_as_another_run_may_come(store: Store) -> None:
    gate = Gate()
    async with managing(store, gate=gate) as manager:
        first = await manager.start(RunSpec("gate", thread_ends=True))
        await gate.reached.wait()
        waiting = await manager.start(RunSpec("say", thread_id=first.thread_id))
        later = await manager.start(RunSpec("say", thread_id=first.thread_id, after_seconds=3_600))
        gate.opened.set()
        await first.result()
        await waiting.result()
        assert await store.thread(first.thread_id) is not None
        await manager.cancel(later.run_id)
        await later.result()
        assert await store.thread(first.thread_id) is None


@pytest.mark.parametrize("after_seconds", [None, 3_600])
async def test_a_thread_that_ends_goes_with_a_run_that_never_began(store: Store, after_seconds: float | None) -> None:
    gate = Gate()
    async with managing(store, gate=gate) as manager:
        if after_seconds is None:
            handle = await manager.start(RunSpec("gate", thread_ends=True))
            await gate.reached.wait()
        else:
            handle = await manager.start(RunSpec("gate", thread_ends=True, after_seconds=after_seconds))
        await manager.cancel(handle.run_id)
        assert (await handle.result()).status is RunStatus.cancelled
        assert await store.thread(handle.thread_id) is None


async def test_a_run_that_is_rolled_back_is_gone_and_the_log_has_it(store: Store, url: str) -> None:
    gate = Gate()
    async with managing(store, gate=gate) as manager:
        for mode, is_there in (("rollback", False), ("interrupt", True)):
            gate.reached.clear()
            handle = await manager.start(RunSpec("gate"))
            await gate.reached.wait()
            await manager.cancel(handle.run_id, action=mode)
            await handle.result()
            assert (await store.run(handle.run_id) is not None) is is_there
            assert (await store.threads_of(None).runs(handle.thread_id)).total == is_there
            assert (await store.thread(handle.thread_id)) is not None
            assert await store.events(run_id=handle.run_id) != []
    assert await asyncio.to_thread(check_database, url) == []


async def test_a_run_is_removed_once_it_has_ended(store: Store, url: str) -> None:
    gate = Gate()
    async with managing(store, gate=gate) as manager:
        handle = await manager.start(RunSpec("gate", owner="ada"))
        await gate.reached.wait()
        with pytest.raises(RunInUseError):
            await store.remove_run(handle.thread_id, handle.run_id)
        assert [run.run_id for run in await store.threads_of("ada").active_runs()] == [handle.run_id]
        assert await store.threads_of("eve").active_runs() == []
        gate.opened.set()
        await handle.result()
    with pytest.raises(UnknownThreadError):
        await store.remove_run(handle.thread_id, handle.run_id, owner="eve")
    with pytest.raises(UnknownRunError):
        await store.remove_run(handle.thread_id, new_id(), owner="ada")
    await store.remove_run(handle.thread_id, handle.run_id, owner="ada")
    with pytest.raises(UnknownRunError):
        await store.remove_run(handle.thread_id, handle.run_id, owner="ada")
    assert await store.run(handle.run_id) is None
    assert len(await store.events(run_id=handle.run_id)) > 0
    assert await asyncio.to_thread(check_database, url) == []


@pytest.mark.long
async def test_a_search_gives_as_many_threads_as_it_is_asked_for(store: Store) -> None:
    """Also more than a statement takes values."""
    ids, now = [f"t{number:05}" for number in range(33_000)], time_text(datetime.now(UTC))

    def fill(session: Any) -> None:
        for some in batched(ids, 1_000):
            rows = [{"thread_id": one, "status": "idle", "created_at": now, "updated_at": now} for one in some]
            session.execute(insert(threads).values(rows))

    await store._writer.write(OnSession(fill))

    page = await store.threads_of(None).search(ThreadQuery(limit=len(ids) + 1, sort_by="thread_id", descending=False))

    assert [thread.thread_id for thread in page.threads] == ids
    assert page.total == len(ids)


async def test_of_threads_and_runs_as_many_are_asked_for_at_once_as_are_named(store: Store) -> None:
    """Also more than a statement takes values; a search says how many it takes at most."""
    others = [f"t{number:05}" for number in range(33_000)]
    theirs, gate = store.threads_of(None), Gate()
    async with managing(store, gate=gate) as manager:
        handles = [await manager.start(RunSpec("gate")) for _ in range(2)]
        run_ids, thread_ids = [one.run_id for one in handles], [one.thread_id for one in handles]

        assert [*await theirs.contents([thread_ids[0], *others, thread_ids[1]])] == thread_ids
        assert [*await theirs.runs_of([thread_ids[0], *others, thread_ids[1]])] == thread_ids
        for field, ask in (
            ("ids", lambda: theirs.search(ThreadQuery(ids=others))),
            ("run_ids", lambda: theirs.active_runs(run_ids=others)),
        ):
            with pytest.raises(InvalidQueryError) as refused:
                await ask()
            assert refused.value.details["field"] == field
        assert (await theirs.search(ThreadQuery(ids=[*others[:9_998], *thread_ids]))).total == 2
        active = await theirs.active_runs(run_ids=[run_ids[1], *others[:9_997], *run_ids])
        assert [run.run_id for run in active] == run_ids
        gate.opened.set()


@pytest.mark.long
async def test_a_thread_gives_as_many_of_its_runs_as_it_is_asked_for(store: Store, manager: RunManager) -> None:
    thread_id = (await ended(manager, multitask="reject")).thread_id
    ids = [f"r{number:05}" for number in range(33_000)]
    same = {"thread_id": thread_id, "status": "success", "created_at": time_text(datetime.now(UTC))}
    same |= {"last_sequence": 3, "metadata": "{}"}

    def fill(session: Any) -> None:
        for some in batched(ids, 1_000):
            session.execute(insert(runs).values([{"run_id": one, **same} for one in some]))

    await store._writer.write(OnSession(fill))

    page = await store.threads_of(None).runs(thread_id, limit=len(ids) + 1)

    assert (len(page.runs), page.total) == (len(ids) + 1, len(ids) + 1)
    assert [*page.strategies.values()] == ["reject"]


async def test_runs_of_a_thread_come_in_pages_from_either_end(store: Store, manager: RunManager) -> None:
    thread_id = new_id()
    run_ids = [(await ended(manager, thread_id=thread_id)).run_id for _ in range(4)]
    threads = store.threads_of(None)

    newest = await threads.runs(thread_id, limit=3)
    oldest = await threads.runs(thread_id, newest_first=False, limit=3, offset=2, status="success")

    assert ([run.run_id for run in newest.runs], newest.total) == (run_ids[:0:-1], 4)
    assert ([run.run_id for run in oldest.runs], oldest.total) == (run_ids[2:], 4)
    assert (await threads.runs(thread_id, status=["error", "timeout"])).total == 0


async def test_two_processes_that_make_one_thread_for_two_owners(url: str, store: Store) -> None:
    async with Store.open(url) as other, managing(store) as mine, managing(other) as its:
        for _ in range(20):
            thread_id = new_id()
            both = await asyncio.gather(
                ended(mine, thread_id=thread_id, owner="ada"),
                ended(its, thread_id=thread_id, owner="eve"),
                return_exceptions=True,
            )
            refused = [one for one in both if isinstance(one, UnknownThreadError)]
            assert len(refused) == 1, both
            owner = (await store.threads_of(None).get(thread_id)).owner
            assert owner == ("eve" if refused == [both[0]] else "ada")
            assert (await store.threads_of(None).runs(thread_id)).total == 1
    assert await asyncio.to_thread(check_database, url) == []


async def test_a_thread_is_removed_or_has_a_run_never_both(url: str, store: Store) -> None:
    async with Store.open(url) as other, managing(store) as manager:
        for _ in range(20):
            thread_id = (await store.threads_of(None).create(metadata={"k": "v"})).thread_id
            removed, run = await asyncio.gather(
                other.threads_of(None).remove(thread_id),
                ended(manager, thread_id=thread_id, thread_exists=True),
                return_exceptions=True,
            )
            if isinstance(run, UnknownThreadError):
                assert removed is None
            else:
                # It was busy, or removed after the run: what there is of either is whole.
                assert isinstance(removed, ThreadInUseError) or await store.thread(thread_id) is None, (removed, run)
                assert run.status is RunStatus.success
            assert await store.run_with_events(new_id()) is None
    assert await asyncio.to_thread(check_database, url) == []


async def test_a_thread_that_is_made_in_one_transaction_with_its_run(store: Store, manager: RunManager) -> None:
    threads = store.threads_of("ada")

    async def made_or_there(thread_id: str) -> StoredThread:
        with suppress(ThreadExistsError):
            return await threads.create(thread_id, belongs_to="ada", metadata={"k": thread_id})
        return await threads.get(thread_id)

    for _ in range(10):
        thread_id = new_id()
        made, run = await asyncio.gather(
            made_or_there(thread_id),
            ended(manager, thread_id=thread_id, owner="ada"),
        )
        assert (made.thread_id, made.owner, run.status) == (thread_id, "ada", RunStatus.success)
        await asyncio.gather(
            threads.change(thread_id, metadata={"l": 1}),
            threads.change(thread_id, metadata={"m": 2}),
            ended(manager, thread_id=thread_id, owner="ada"),
        )
        found = await threads.search(ThreadQuery(metadata={"l": 1, "m": 2}, ids=[thread_id]))
        assert found.total == 1


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
        await asyncio.wait_for(forgotten.wait(), 20)


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


async def test_what_a_search_compares_is_compared_beside_the_event_loop(
    store: Store, manager: RunManager, compared: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {"deep": {"k": ["v", {"n": 1}]}}
    thread_id = (await ended(manager, thread_metadata=metadata)).thread_id
    await store.threads_of(None).create()

    for query in (ThreadQuery(metadata=metadata), ThreadQuery(values={"said": "hello"}, metadata=metadata)):
        found = await store.threads_of(None).search(query)
        assert [thread.thread_id for thread in found.threads] == [thread_id]
        assert await store.threads_of(None).count(query) == 1
    assert {} in compared
    assert metadata in compared
    assert {"said": "hello"} in compared
    many = ThreadQuery(metadata={"deep": {"k": [{"n": 2}] * 3}})
    with monkeypatch.context() as changes, pytest.raises(InvalidQueryError, match="comparisons"):
        changes.setattr(containment, "MOST_COMPARISONS", 1)
        await store.threads_of(None).search(ThreadQuery(metadata={"deep": {"k": [{"n": 1}] * 3}}))
    assert (await store.threads_of(None).search(many)).total == 0


async def test_a_thread_is_found_as_busy_from_the_admission_of_its_run_on(store: Store) -> None:
    gate = Gate()
    async with managing(store, max_running=1, gate=gate) as manager:
        threads = store.threads_of(None)
        ids = [(await threads.create(metadata={"n": n, "deep": {"k": "v"}})).thread_id for n in range(4)]
        started, waiting, delayed, idle = ids
        first = await manager.start(RunSpec("gate", thread_id=started))
        await gate.reached.wait()
        second = await manager.start(RunSpec("gate", thread_id=waiting))
        later = await manager.start(RunSpec("gate", thread_id=delayed, after_seconds=3_600))
        assert await threads.holder(waiting) == second.run_id
        assert (await threads.holder(delayed), await threads.holder(idle)) == (None, None)

        async def found(**query: Any) -> set[str]:
            wanted = ThreadQuery(**query)
            page = await threads.search(wanted)
            assert page.total == len(page.threads) == await threads.count(wanted)
            return {thread.thread_id for thread in page.threads}

        labelled = {"metadata": {"n": 1}}  # which leads to few
        for more in ({}, {"ids": ids}, {"sort_by": "created_at"}, {"metadata": {"deep": {"k": "v"}}}):
            assert await found(**more) == {*ids}
            assert await found(**more, status="busy") == {started, waiting}
            assert await found(**more, status="idle") == {delayed, idle}
            assert await found(**more, status=["idle", "error"]) == {delayed, idle}
            assert await found(**more, status=["busy", "error"]) == {started, waiting}
            assert await found(**more, status=["busy", "idle"]) == {*ids}
            assert await found(**more, status="idle", announced=True) == {waiting, delayed, idle}
        assert (await found(**labelled, status="busy"), await found(**labelled, status="idle")) == ({waiting}, set())
        both = [await threads.search(ThreadQuery(status="busy", limit=1, offset=offset)) for offset in (0, 1)]
        assert [(page.threads[0].thread_id, page.total) for page in both] == [(waiting, 2), (started, 2)]
        ordered = (await threads.search(ThreadQuery(sort_by="status", descending=False))).threads
        assert {one.thread_id for one in ordered[:2]} == {started, waiting}
        gate.opened.set()
        await manager.cancel(later.run_id)
        for handle in (first, second, later):
            await handle.result()
        assert (await found(status="busy"), await found(status="idle")) == (set(), {*ids})


async def test_followers_and_pages_of_an_owner_have_his_events_alone(store: Store, manager: RunManager) -> None:
    follower = store.follow(owner="ada")
    first = asyncio.ensure_future(anext(follower))  # which waits for the feed, and so are all after it served by it
    runs = [(await ended(manager, owner=owner, thread_ends=ends)) for owner in ("ada", "eve") for ends in (True, False)]
    expected = [stored.event.run_id for stored in await store.events(owner="ada")]
    followed = [await first, *[await anext(follower) for _ in expected[1:]]]
    seen = [stored.event.run_id for stored in followed]

    assert seen == expected
    assert set(expected) == {run.run_id for run in runs[:2]}
    both = [await store.events(owner="ada", **more) for more in ({"agent": "say"}, {"types": "run_completed"})]
    assert {stored.event.run_id for page in both for stored in page} == set(expected)
    assert await store.events(owner="ada", run_id=runs[2].run_id) == []
    assert await store.events(owner="ada", thread_id=runs[3].thread_id) == []
    assert {run.run_id for run in await store.runs(owner="eve", removed=True)} == {run.run_id for run in runs[2:]}
    assert {thread.thread_id for thread in await store.threads(owner="ada")} == {runs[1].thread_id}


async def test_a_new_thread_has_the_metadata_of_the_request(store: Store, manager: RunManager) -> None:
    run = await ended(manager, thread_metadata={"owner": "ada", "tags": ["a"]}, metadata={"of": "the run"})
    threads = store.threads_of(None)
    assert (await threads.get(run.thread_id)).metadata == {"owner": "ada", "tags": ["a"]}
    for wanted in ({"owner": "ada"}, {"tags": ["a"]}):
        assert [one.thread_id for one in (await threads.search(ThreadQuery(metadata=wanted))).threads] == [
            run.thread_id
        ]
    await ended(manager, thread_id=run.thread_id, thread_metadata={"owner": "eve"})
    assert (await threads.get(run.thread_id)).metadata["owner"] == "ada"


async def test_a_search_finds_numbers_that_are_the_same_however_they_are_written(
    store: Store, manager: RunManager
) -> None:
    threads = store.threads_of(None)
    whole, written, begun = [
        (await threads.create(metadata={"n": 1, "deep": [2]})).thread_id,
        (await threads.create(metadata={"n": 1.0, "deep": [2.0]})).thread_id,
        (await ended(manager, thread_metadata={"n": 1.0, "deep": [2]}, metadata={"n": 1.0})).thread_id,
    ]
    await threads.create(metadata={"n": 1.5, "deep": [2.5]})
    await threads.create(metadata={"n": True, "deep": [True]})

    for wanted in ({"n": 1}, {"n": 1.0}, {"deep": [2]}, {"deep": [2.0]}):
        found = await threads.search(ThreadQuery(metadata=wanted))
        assert {one.thread_id for one in found.threads} == {whole, written, begun}
    for number in (1, 1.0):
        assert [run.thread_id for run in await store.runs(metadata={"n": number})] == [begun]


async def test_metadata_may_have_more_keys_than_a_statement_has_room_for(store: Store, manager: RunManager) -> None:
    many = {f"k{n}": n for n in range(11_000)}
    threads = store.threads_of(None)

    made = await threads.create(metadata=many)
    changed = await threads.create(metadata={"k0": "not yet"})
    await threads.change(changed.thread_id, metadata=many)
    copied = await threads.copy(made.thread_id)
    begun = (await ended(manager, thread_metadata=many)).thread_id
    everything = {made.thread_id, changed.thread_id, copied.thread_id, begun}

    assert (await threads.get(changed.thread_id)).metadata == many
    for wanted in ({"k10999": 10_999}, many):
        found = await threads.search(ThreadQuery(metadata=wanted))
        assert {one.thread_id for one in found.threads} == everything
    assert await threads.count(ThreadQuery(metadata={**many, "k10999": 0})) == 0


@pytest.mark.parametrize("by", ["metadata", "values"])
async def test_a_search_that_would_compare_without_end_is_refused(store: Store, manager: RunManager, by: str) -> None:
    threads = store.threads_of(None)
    much = [*range(1_100), {}]
    await (await manager.start(RunSpec("say", much, thread_metadata={"said": much}))).result()

    async def count(said: list[Any]) -> int:
        query: dict[str, Any] = {by: {"said": said}}
        return await threads.count(ThreadQuery(**query))

    assert await count([1_099] * 10_000) == 1
    with pytest.raises(InvalidQueryError, match="comparisons"):
        await count([{}] * 1_000)
    assert await count([{}, 1]) == 1


async def test_runs_are_looked_for_by_a_few_of_their_metadata(store: Store) -> None:
    many = {f"k{n}": n for n in range(1_001)}
    for look in (store.runs, store.threads):
        with pytest.raises(InvalidQueryError, match="metadata"):
            await look(metadata=many)


@pytest.mark.parametrize("said", ["a\0", "a\ud800", 5], ids=ascii)
async def test_threads_are_looked_for_by_agents_that_a_database_can_hold(store: Store, said: Any) -> None:
    threads = store.threads_of(None)
    for look in (threads.search, threads.count):
        with pytest.raises(InvalidQueryError, match=" agent="):
            await look(ThreadQuery(agent=said))


async def test_what_others_want_of_metadata_holds_besides_what_is_asked_for(store: Store) -> None:
    threads = store.threads_of(None)
    await threads.create(metadata={"owner": "ada", "members": ["ada", "eve"], "n": 1})
    both = [
        ({}, {"owner": "ada"}, 1),
        ({"n": 1}, {"owner": "ada"}, 1),
        ({"owner": "ada"}, {"owner": "eve"}, 0),
        ({"owner": "eve"}, {"owner": "ada"}, 0),
        ({"members": ["ada"]}, {"members": ["eve"]}, 1),
        ({"members": ["ada"]}, {"members": ["bob"]}, 0),
        ({"members": ["bob"]}, {"members": ["ada"]}, 0),
        ({}, {"n": True}, 0),
        ({}, {"n": "1"}, 0),
        ({}, {"missing": None}, 0),
    ]
    for metadata, wanted, fit in both:
        query = ThreadQuery(metadata=metadata, wanted=wanted)
        assert await threads.count(query) == fit, (metadata, wanted)
        assert (await threads.search(query)).total == fit, (metadata, wanted)


async def test_what_agents_say_takes_the_place_of_what_metadata_say(store: Store) -> None:
    threads = store.threads_of(None)
    made = [(agent, said) for agent in ("chat", "pay", None) for said in ("chat", "pay", None)]
    for agent, said in made:
        metadata = {"n": 1} if said is None else {"n": 1, "graph": said}
        await threads.create(f"{agent}-{said}", agent=agent, metadata=metadata)
    asked: list[tuple[Any, list[str]]] = [("chat", ["chat"]), ("pay", ["pay", "more"]), ("more", []), ([], [])]
    for wanted, agents in asked:
        fitting = {f"{agent}-{said}" for agent, said in made if agent in agents or (agent is None and said == wanted)}
        query = ThreadQuery(wanted={"graph": wanted, "n": 1}, by_agent={"graph": agents})
        assert {thread.thread_id for thread in (await threads.search(query)).threads} == fitting, wanted
        assert await threads.count(query) == len(fitting), wanted
        assert await threads.count(ThreadQuery(wanted={"graph": wanted, "n": 2}, by_agent={"graph": agents})) == 0
    with pytest.raises(InvalidQueryError, match=" metadata="):
        await threads.count(ThreadQuery(wanted={"graph": "a\0"}, by_agent={"graph": []}))


async def test_a_number_that_nothing_can_be_found_by_is_looked_for_in_vain(store: Store) -> None:
    threads = store.threads_of(None)
    await threads.create(metadata={"n": 1})
    for number in (10**5_000, -(10**5_000)):
        assert await threads.count(ThreadQuery(metadata={"n": number})) == 0
        with pytest.raises(InvalidQueryError, match=" metadata="):
            await store.runs(metadata={"n": number})


@pytest.mark.parametrize("said", ["x" * 256, "a\0", "\ud800", 5], ids=["long", "NUL", "half", "number"])
async def test_what_no_database_takes_as_an_id_or_an_owner_is_refused_by_name(store: Store, said: Any) -> None:
    threads = store.threads_of(None)
    await threads.create("t")
    asked = [
        ("thread_id", threads.create(said)),
        ("belongs_to", threads.create(belongs_to=said)),
        ("agent", threads.create(agent=said)),
        ("agent", threads.change("t", agent=said)),
        ("copy_id", threads.copy("t", copy_id=said)),
        ("belongs_to", threads.copy("t", belongs_to=said)),
    ]

    for field, asking in asked:
        with pytest.raises(InvalidQueryError, match=f" {field}="):
            await asking
    longest = await threads.copy("t", copy_id="t" * 255, belongs_to="o" * 255)
    assert (longest.thread_id, longest.owner) == ("t" * 255, "o" * 255)


async def test_a_thread_made_or_copied_among_those_of_an_owner_is_his(store: Store) -> None:
    adas = store.threads_of("ada")
    made = await adas.create("t", metadata={"n": 1})
    copied = await adas.copy("t", copy_id="copy")
    for another in (adas.create("strange", belongs_to="eve"), adas.copy("t", copy_id="strange", belongs_to="eve")):
        with pytest.raises(InvalidQueryError, match=" belongs_to='eve'"):
            await another
    of_nobody = await store.threads_of(None).create("nobody's")

    assert (made.owner, copied.owner, of_nobody.owner) == ("ada", "ada", None)
    assert [thread.thread_id for thread in await store.threads()] == ["nobody's", "copy", "t"]
    assert (await store.threads_of(None).copy("t")).owner is None


async def test_a_copy_may_have_metadata_of_its_own(store: Store) -> None:
    threads = store.threads_of(None)
    thread = await threads.create(metadata={"owner": "ada", "n": 1})
    assert (await threads.copy(thread.thread_id)).metadata == {"owner": "ada", "n": 1}
    copied = await threads.copy(thread.thread_id, metadata={"owner": "eve"})
    assert copied.metadata == {"owner": "eve"}
    found = await threads.search(ThreadQuery(metadata={"owner": "eve"}))
    assert [one.thread_id for one in found.threads] == [copied.thread_id]


async def test_a_copy_is_called_as_its_thread_is(store: Store, script: Any) -> None:
    run = script(thread_id="t")
    await store.append([run.started(), run.completed("A title"), run.thread("idle")])
    await store.threads_of(None).copy("t", copy_id="copy")
    assert {thread.thread_id: thread.title for thread in await store.threads()} == {"t": "A title", "copy": "A title"}


async def test_no_copy_takes_the_place_of_a_thread_that_is_or_was_there(store: Store) -> None:
    threads = store.threads_of("ada")
    await threads.create("t", belongs_to="ada", metadata={"n": 1})
    await threads.create("own", belongs_to="ada")
    await threads.create("removed", belongs_to="ada")
    await threads.remove("removed")
    await store.threads_of(None).create("another's", belongs_to="eve")

    for taken in ("own", "removed", "another's", "t"):
        with pytest.raises(ThreadExistsError, match=taken):
            await threads.copy("t", copy_id=taken, belongs_to="ada")

    assert (await threads.get("own")).metadata == {}


async def test_random_walks_leave_a_sound_database(store: Store, manager: RunManager, url: str) -> None:
    dice = random.Random(6)  # a seeded walk
    ids = [new_id() for _ in range(4)]
    owners = ["ada", "eve", None]

    async def step() -> None:
        thread_id, owner = dice.choice(ids), dice.choice(owners)
        threads = store.threads_of(owner)
        move: Any = dice.choice(
            [
                lambda: threads.create(thread_id, belongs_to=owner, metadata={"k": dice.randrange(3)}),
                lambda: threads.change(thread_id, metadata={"k": dice.randrange(3)}, ttl_minutes=5),
                lambda: threads.remove(thread_id),
                lambda: threads.copy(thread_id, belongs_to=owner),
                lambda: ended(
                    manager,
                    thread_id=thread_id,
                    owner=owner,
                    thread_ends=dice.random() < 0.3,
                    thread_metadata={"k": dice.randrange(3)},
                ),
                lambda: store.sweeper().sweep(),
            ]
        )
        try:
            await move()
        except TracksideError:
            ids[:] = [new_id() if known == thread_id else known for known in ids]

    for _ in range(12):
        await asyncio.gather(*(step() for _ in range(8)))
    assert await asyncio.to_thread(check_database, url, sample=None) == []
    page = await store.threads_of(None).search(ThreadQuery(limit=1_000))
    assert page.total == len(page.threads) == await store.threads_of(None).count(ThreadQuery())
