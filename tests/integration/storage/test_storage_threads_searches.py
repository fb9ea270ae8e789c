"""Searches for threads and for their runs: what is found, by what, how much of it at once, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import batched
from typing import Any

import pytest
from sqlalchemy import insert
from tests.integration.storage.managed_runs import Gate, ended, managing
from tests.integration.storage.writer_works import OnSession

from trackside.app.storage import Store, containment
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.tables import runs, threads
from trackside.app.storage.errors import InvalidQueryError
from trackside.app.storage.threads import ThreadQuery
from trackside.harness import RunManager, RunSpec
from trackside.harness.ids import new_id


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
