"""Threads as clients have them: who may use them, whose and which agent's they are, and when they are gone."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest
from tests.integration.storage.managed_runs import Gate, ended, managing

from trackside.app.storage import Store, StoredThread
from trackside.app.storage.errors import InvalidQueryError
from trackside.app.storage.maintenance import check_database
from trackside.app.storage.threads import ThreadQuery
from trackside.harness import RunManager, RunSpec
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


async def test_followers_and_pages_of_an_owner_have_his_events_alone(store: Store, manager: RunManager) -> None:
    follower = store.follow(owner="ada")
    first = asyncio.ensure_future(anext(follower))  # it waits for the feed, so that also gives it all that follows
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
