"""What is removed, and what comes under the same id: what has begun anew does not go with what was there before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from trackside import CompositeObserver, ObserverBinding, run_agent
from trackside.app.observers.storage import StorageObserver
from trackside.app.server.run_ends import RunEnds
from trackside.app.storage import Store
from trackside.app.storage._coordination.steps import Admit
from trackside.app.storage._removal import Candidate, RemoveRuns
from trackside.app.storage._rows.encoding import encode_events, time_text
from trackside.app.storage._rows.fold import RunStart
from trackside.app.storage._threads.forgetting import ForgetThreads
from trackside.app.storage._writing.appending import Append
from trackside.app.storage.crons import Cron
from trackside.app.storage.errors import ImportConflictError, PartialExportError, RemovedThreadError
from trackside.app.storage.retention import prune_threads
from trackside.harness.errors import ThreadInUseError, UnknownThreadError
from trackside.harness.ids import new_id
from trackside.harness.ports import ThreadState
from trackside.harness.types import MultitaskStrategy

NOW = "2026-02-01T00:00:00.000000Z"

type Together = Callable[..., Awaitable[list[Any]]]


def admission(script: Any, run_id: str, thread_id: str, **options: Any) -> Admit:
    start = RunStart(
        created_at=time_text(script().start),
        agent="chat",
        metadata="{}",
        parent_run_id=None,
        trigger=None,
        labels=(),
        request='{"input": "a secret"}',
    )
    asked: dict[str, Any] = {"multitask": MultitaskStrategy.enqueue, "portable": True, "keeps_request": True, **options}
    return Admit(
        run_id=run_id, thread_id=thread_id, owner="me", start=start, due_at=None, idempotency=None, fates={}, **asked
    )


async def ended(store: Store, script: Any, thread_id: str, run_id: str | None = None) -> Candidate:
    """An ended run of a thread, as a remover of runs finds it."""
    told = script(run_id=run_id or new_id(), thread_id=thread_id)
    stored = await store.append(told.whole())
    return Candidate(told.run_id, thread_id, told.start, len(stored), stored[-1].position, asks=False)


async def test_a_thread_that_is_begun_anew_as_it_is_pruned_belongs_to_who_begins_it(
    store: Store, script: Any, together: Together
) -> None:
    ada = store.threads_of("ada")
    await ada.create("t", belongs_to="ada", metadata={"customer": "acme"})
    old = await ended(store, script, "t")
    unrelated = script()

    removed, admitted, appended = await together(
        store._writer.write(RemoveRuns([old])),
        store._writer.write(admission(script, "new", "t", asks_for="ada", thread_metadata={"customer": "emca"})),
        store._writer.write(Append(encode_events(unrelated.whole()))),
    )

    assert (removed.runs, removed.threads, admitted.ready, len(appended)) == (1, 1, True, 5)
    thread = await ada.get("t")
    assert (thread.owner, thread.metadata) == ("ada", {"customer": "emca"})
    assert [run.run_id for run in await store.runs(thread_id="t")] == ["new"]


async def test_runs_of_a_thread_that_is_gone_are_not_of_the_one_that_has_its_id(store: Store, script: Any) -> None:
    old = await ended(store, script, "t")
    elsewhere = await ended(store, script, "another")
    await store._writer.write(RemoveRuns([old]))
    assert await store.thread("t") is None
    deleted = await ended(store, script, "t")
    await store.threads_of(None).remove_run("t", deleted.run_id)
    undone = script(thread_id="t")
    await store.append([undone.started(), undone.event("run_cancelled", cancel_mode="rollback", completion_data={})])
    await store._writer.write(admission(script, "new", "t"))
    assert [run.run_id for run in await store.runs(thread_id="t")] == ["new"]

    asked = {old.run_id, elsewhere.run_id, deleted.run_id, undone.run_id, "new", "never"}
    assert await RunEnds(store).runs_on("t", asked) == {deleted.run_id, undone.run_id, "new"}


async def test_who_changes_a_thread_as_it_is_pruned_finds_none_and_others_are_not_concerned(
    store: Store, script: Any, together: Together
) -> None:
    threads = store.threads_of(None)
    await threads.create("t", metadata={"customer": "acme"})
    old = await ended(store, script, "t")

    removed, changed, appended = await together(
        store._writer.write(RemoveRuns([old])),
        threads.change("t", metadata={"seen": True}),
        store.append(script().whole()),
    )

    assert (removed.threads, len(appended)) == (1, 5)
    assert isinstance(changed, UnknownThreadError)


async def test_what_is_forgotten_of_a_thread_that_was_begun_anew_is_nothing(store: Store, script: Any) -> None:
    """Since the thread was found, another process has cleared up behind it."""
    threads = store.threads_of(None)
    for thread_id in ("anew", "gone"):
        await ended(store, script, thread_id, run_id=f"of {thread_id}")
        await store.thread_states().save(thread_id, ThreadState({"said": "hello"}))
    await threads.remove("gone")

    await store._writer.write(ForgetThreads(claimant="me", forgotten=["anew", "gone"], now=NOW))

    remembered = await store.thread_states().load("anew")
    assert remembered is not None
    assert remembered.values == {"said": "hello"}
    assert [run.run_id for run in (await threads.runs("anew")).runs] == ["of anew"]
    assert await store.thread_states().load("gone") is None
    assert (await store.sweeper().sweep()).runs == 1  # the other thread's run


async def test_runs_of_a_thread_that_was_begun_anew_do_not_go_with_those_before(store: Store, script: Any) -> None:
    """The sweeper clears up behind many threads at once, and found this one while it was gone."""
    anew = await ended(store, script, "t", run_id="anew")

    found = await prune_threads(store._writer, store._readers, ["t"], batch=100)
    removed = await store._writer.write(RemoveRuns([anew], of_gone=True))

    assert (found.runs, removed.runs) == (0, 0)
    assert await store.run("anew") is not None


async def test_a_thread_that_a_cron_runs_on_stays_without_its_runs(store: Store, script: Any) -> None:
    for thread_id in ("of a cron", "of nobody"):
        await ended(store, script, thread_id)
        await store.thread_states().save(thread_id, ThreadState({"said": "hello"}))
    when = script().start
    await store.crons.create(
        Cron(
            cron_id=new_id(),
            agent="chat",
            schedule="* * * * *",
            created_at=when,
            updated_at=when,
            thread_id="of a cron",
        )
    )

    foreseen = await store.prune(older_than=timedelta(0), dry_run=True)
    pruned = await store.prune(older_than=timedelta(0))

    assert (pruned.runs, pruned.threads) == (foreseen.runs, foreseen.threads) == (2, 1)
    remembered = await store.thread_states().load("of a cron")
    assert remembered is not None
    assert remembered.values == {"said": "hello"}
    assert [thread.thread_id for thread in await store.threads()] == ["of a cron"]


async def test_what_was_asked_for_is_not_kept_of_a_run_that_leaves_as_it_comes(
    store: Store, script: Any, together: Together
) -> None:
    asked = {"keeps_request": False, "multitask": MultitaskStrategy.interrupt, "nobodys": True}
    await together(
        store._writer.write(admission(script, "one", "t", **asked)),
        store._writer.write(admission(script, "two", "t", **asked)),
    )

    one = await store.run("one")
    assert one is not None
    assert one.status == "cancelled"
    assert await store.request_of("one") is None
    assert await store.request_of("two") is not None  # this run is still to be executed


async def test_a_run_that_is_removed_as_it_ends_is_gone(store: Store, script: Any, together: Together) -> None:
    told = script(run_id="r", thread_id="t")
    started, busy, message, completed, idle = told.whole()
    await store.append([started, busy, message])
    threads = store.threads_of(None)

    await together(store.append([completed, idle]), threads.remove_run("t", "r"))

    assert (await threads.runs("t")).runs == []
    assert [run.run_id for run in await store.runs(removed=True)] == ["r"]


async def test_a_follower_is_told_of_what_another_owner_begins_under_the_same_id_only_if_it_is_his(
    store: Store, script: Any
) -> None:
    told: dict[str, list[str]] = {"ada": [], "eve": []}
    has_begun = {owner: asyncio.Event() for owner in told}

    async def follow(owner: str) -> None:
        async for stored in store.follow(owner=owner):
            told[owner].append(stored.event.run_id)
            if stored.event.event_type == "thread_status_updated" and stored.event.sequence > 2:
                has_begun[owner].set()

    async with asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow(owner)) for owner in told]
        for owner in told:
            await store.threads_of(owner).create("t", belongs_to=owner)
            await ended(store, script, "t", run_id=f"of {owner}")
            async with asyncio.timeout(30):
                await has_begun[owner].wait()
            await store.threads_of(owner).remove("t")
            await store.sweeper().sweep()
        for follower in followers:
            follower.cancel()

    assert {owner: {*run_ids} for owner, run_ids in told.items()} == {"ada": {"of ada"}, "eve": {"of eve"}}


async def test_nobody_records_a_run_of_a_thread_that_is_gone_as_long_as_the_log_has_anything_of_it(
    store: Store, script: Any
) -> None:
    """A harness that asks no coordinator first: its records would go with what was there before."""
    old = await ended(store, script, "ada")
    await store.thread_states().save("ada", ThreadState({"said": "hello"}))
    await store.threads_of(None).remove("ada")
    late = script(thread_id="ada").whole()

    for _ in ("deleted", "forgotten"):
        with pytest.raises(RemovedThreadError, match="'ada'"):
            await store.append(late)
        await store.sweeper().forget()
    assert [stored.event.run_id for stored in await store.events()] == [old.run_id] * 5

    assert (await store.sweeper().sweep()).runs == 1
    await store.append(late)

    assert [run.run_id for run in await store.runs(thread_id="ada")] == [late[0].run_id]
    assert (await store.sweeper().sweep()).runs == 0
    assert await store.thread_states().load("ada") is None


async def test_an_agent_without_a_coordinator_is_not_called_on_a_thread_that_is_gone(store: Store, script: Any) -> None:
    await ended(store, script, "ada")
    await store.threads_of(None).remove("ada")
    called = []

    def chat(text: str) -> str:
        called.append(text)
        return text

    storage = CompositeObserver([ObserverBinding(StorageObserver(store), required=True)])
    with pytest.raises(RemovedThreadError, match="'ada'"):
        await run_agent(chat, "hello", thread_id="ada", observer=storage)
    await store.sweeper().sweep()
    taken = await run_agent(chat, "hello again", thread_id="ada", observer=storage)

    assert (taken.status, called) == ("success", ["hello again"])
    assert [run.run_id for run in await store.runs()] == [taken.run_id]


async def test_a_run_that_had_begun_before_its_thread_was_gone_is_told_to_its_end(store: Store, script: Any) -> None:
    told = script(thread_id="t").whole()
    await store.append(told[:4])
    await store.threads_of(None).remove("t")
    await store.append(told)

    assert len(await store.events(run_id=told[0].run_id)) == 5


async def test_no_run_begins_on_a_thread_in_the_moment_in_which_it_is_deleted(
    store: Store, script: Any, together: Together
) -> None:
    told = script(thread_id="t").whole()
    await ended(store, script, "t")
    await ended(store, script, "later")
    late = script(thread_id="later").whole()
    threads = store.threads_of(None)

    begun, kept = await together(store.append(told[:3]), threads.remove("t"))
    removed, refused = await together(threads.remove("later"), store.append(late[:3]))

    assert (len(begun), type(kept)) == (3, ThreadInUseError)
    assert (removed, type(refused)) == (None, RemovedThreadError)


async def test_a_thread_whose_time_is_over_takes_no_run_until_it_is_swept(store: Store, script: Any) -> None:
    before = await store.threads_of(None).create("t", ttl_minutes=0.001)
    assert before.expires_at is not None
    late = script(thread_id="t", start=before.expires_at + timedelta(seconds=1)).whole()

    with pytest.raises(RemovedThreadError):
        await store.append(late)


async def test_an_import_takes_no_run_of_a_thread_that_is_gone_and_says_in_which_line(
    store: Store, script: Any, tmp_path: Path
) -> None:
    whole, part = BytesIO(), BytesIO()
    async with Store.open(f"sqlite:///{tmp_path}/elsewhere.db") as other:
        await other.append(script(run_id="of somebody else").whole())
        await other.append(script(run_id="of ada", thread_id="ada").whole())
        await other.export_events(whole)
        await other.export_events(part, since=datetime(2020, 1, 1, tzinfo=UTC))
    await ended(store, script, "ada")
    await store.threads_of(None).remove("ada")

    for export in (whole, part):
        export.seek(0)
        with pytest.raises(ImportConflictError, match=r"Line 7 .*'ada'") as raised:
            await store.import_events(export)
        assert not isinstance(raised.value, PartialExportError)

    await store.sweeper().sweep()
    whole.seek(0)
    await store.import_events(whole)
    assert {run.run_id for run in await store.runs()} == {"of somebody else", "of ada"}


async def test_an_import_takes_no_run_of_long_ago_on_a_thread_whose_time_is_over(
    store: Store, script: Any, tmp_path: Path
) -> None:
    export = BytesIO()
    async with Store.open(f"sqlite:///{tmp_path}/elsewhere.db") as other:
        await other.append(script(run_id="of long ago", thread_id="t").whole())
        await other.export_events(export)
    before = await store.threads_of(None).create("t", ttl_minutes=0.001)
    assert before.expires_at is not None
    while datetime.now(UTC) <= before.expires_at:
        await asyncio.sleep(0.01)

    export.seek(0)
    with pytest.raises(ImportConflictError, match=r"Line 2 .*'t'"):
        await store.import_events(export)
    assert (await store.runs(), (await store.sweeper().sweep()).runs) == ([], 0)
    export.seek(0)
    await store.import_events(export)
    assert [run.run_id for run in await store.runs()] == ["of long ago"]
    assert (await store.sweeper().sweep()).runs == 0
