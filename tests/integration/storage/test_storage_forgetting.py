"""Somebody else's checkpointer is asked to forget threads by one sweeper at a time; whatever it does, others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from trackside.app.storage import Store, sweeping
from trackside.app.storage.sweeping import Sweeper, Swept
from trackside.harness.errors import ThreadExistsError


class _Checkpointer:
    """Somebody else's: what it has of a thread it forgets by the thread's id."""

    def __init__(self) -> None:
        self.has = {"t": "old"}
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.given_up = False

    async def forget(self, thread_ids: Sequence[str]) -> None:
        self.asked.set()
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        for thread_id in thread_ids:
            self.has.pop(thread_id, None)


@pytest.fixture
async def deleted(store: Store) -> None:
    threads = store.threads_of(None)
    await threads.create("t")
    await threads.remove("t")


@pytest.mark.usefixtures("deleted")
@pytest.mark.parametrize("asks", [True, False])
async def test_the_id_of_a_deleted_thread_is_not_free_while_a_checkpointer_is_asked_to_forget_it(
    store: Store, url: str, asks: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process sweeps meanwhile; it may know of the checkpointer or not."""
    monkeypatch.setattr(sweeping, "_PATIENCE", 0.0)
    checkpointer, another = _Checkpointer(), _Checkpointer()
    another.answers.set()
    async with Store.open(url) as other, asyncio.TaskGroup() as tasks:
        sweep = tasks.create_task(store.sweeper(forget=[checkpointer.forget]).sweep())
        await checkpointer.asked.wait()

        assert await other.sweeper(forget=[another.forget] if asks else []).sweep() == (0, 0, 0)

        assert "some that are gone are not forgotten yet" in caplog.text
        assert not another.asked.is_set()
        with pytest.raises(ThreadExistsError):
            await other.threads_of(None).create("t")
        assert await other.fleet.duties() == []
        checkpointer.answers.set()
        assert (await sweep).forgotten == 1
        await other.threads_of(None).create("t")
    assert checkpointer.has == {}


@pytest.mark.usefixtures("deleted")
async def test_who_sweeps_waits_for_another_sweeper_that_is_at_it(store: Store, url: str) -> None:
    checkpointer = _Checkpointer()
    async with Store.open(url) as other, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(store.sweeper(forget=[checkpointer.forget]).sweep())
        await checkpointer.asked.wait()

        class LookingSweeper(Sweeper):
            looks = 0

            async def _forget_page(self, thread_ids: Sequence[str]) -> Any:
                done = await super()._forget_page(thread_ids)
                self.looks += 1
                if self.looks == 2:
                    checkpointer.answers.set()
                return done

        await LookingSweeper(other._writer, other._readers, other.items).sweep()
        await other.threads_of(None).create("t")
    assert first.result().forgotten == 1


@pytest.mark.usefixtures("deleted")
async def test_a_checkpointer_is_not_asked_twice_by_a_sweep_beside_the_sweeper_s_own_rounds(store: Store) -> None:
    asked, answers = asyncio.Event(), asyncio.Event()
    calls = 0

    async def forget(thread_ids: Sequence[str]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            answers.set()
        asked.set()
        await answers.wait()

    class LookingSweeper(Sweeper):
        async def _forget_page(self, thread_ids: Sequence[str]) -> Any:
            done = await super()._forget_page(thread_ids)
            if done is None:
                answers.set()
            return done

    async with LookingSweeper(store._writer, store._readers, store.items, forget=[forget]) as sweeper:
        await asked.wait()
        assert (await sweeper.sweep()).forgotten == 0
    assert calls == 1
    await store.threads_of(None).create("t")


@pytest.mark.usefixtures("deleted")
async def test_a_checkpointer_is_not_asked_for_a_thread_that_began_anew_after_it_was_found(
    store: Store, url: str
) -> None:
    checkpointer = _Checkpointer()
    checkpointer.answers.set()

    async with Store.open(url) as other:

        class LateSweeper(Sweeper):
            async def _forget_page(self, thread_ids: Sequence[str]) -> Any:
                await other.sweeper().sweep()
                await other.threads_of(None).create("t")
                checkpointer.has["t"] = "new"
                return await super()._forget_page(thread_ids)

        sweeper = LateSweeper(store._writer, store._readers, store.items, forget=[checkpointer.forget])
        assert await sweeper.sweep() == Swept()

    assert checkpointer.has == {"t": "new"}


@pytest.mark.usefixtures("deleted")
async def test_a_sweeper_that_was_thought_to_be_gone_stops_asking(
    store: Store, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_PATIENCE", 0.0)
    monkeypatch.setattr(sweeping, "_RENEWED_EVERY", 0.01)
    checkpointer = _Checkpointer()
    async with asyncio.TaskGroup() as tasks:
        sweep = tasks.create_task(store.sweeper(forget=[checkpointer.forget]).sweep())
        await checkpointer.asked.wait()

        database.execute("UPDATE duties SET holder = 'another process, whose sweeper'")

        assert await sweep == Swept()
    assert checkpointer.given_up
    assert checkpointer.has == {"t": "old"}


@pytest.mark.usefixtures("deleted")
async def test_a_claim_that_nobody_renews_ends(store: Store, database: Any) -> None:
    database.execute("INSERT INTO duties VALUES ('forgetting', 'gone', 'an earlier start', 1, '2026-02-01', 1)")
    checkpointer = _Checkpointer()
    checkpointer.answers.set()

    assert (await store.sweeper(forget=[checkpointer.forget]).sweep()).forgotten == 1
    assert checkpointer.has == {}
    assert database.execute("SELECT * FROM duties").fetchall() == []


@pytest.mark.usefixtures("deleted")
async def test_a_checkpointer_that_never_answers_keeps_others_from_forgetting_only_for_a_while(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_LONGEST_CALL", 0.01)
    checkpointer = _Checkpointer()

    with pytest.raises(TimeoutError, match="longer than"):
        await store.sweeper(forget=[checkpointer.forget]).sweep()

    assert checkpointer.given_up
    async with Store.open(url) as other:
        assert (await other.sweeper().sweep()).forgotten == 1


@pytest.mark.usefixtures("deleted")
async def test_a_checkpointer_that_ignores_that_it_is_given_up_keeps_nobody_from_forgetting(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_LONGEST_CALL", 0.01)
    answers = asyncio.Event()

    async def forget(_: Sequence[str]) -> None:
        with suppress(asyncio.CancelledError):
            await answers.wait()
        await answers.wait()

    async with asyncio.timeout(60):
        with pytest.raises(TimeoutError, match="longer than"):
            await store.sweeper(forget=[forget]).sweep()
        async with Store.open(url) as other:
            assert (await other.sweeper().sweep()).forgotten == 1
    answers.set()


async def test_a_checkpointer_that_no_longer_answers_is_not_asked_for_each_of_many_threads(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_LONGEST_FOR_ONE", 0.01)
    asked: list[Sequence[str]] = []
    answered = 3

    async def forget(thread_ids: Sequence[str]) -> None:
        asked.append(thread_ids)
        if len(thread_ids) > 1:
            raise TimeoutError("it took too long")
        if len(asked) > answered + 1:
            await asyncio.Event().wait()

    threads = store.threads_of(None)
    for number in range(20):
        await threads.create(f"t{number:02}")
        await threads.remove(f"t{number:02}")

    with pytest.raises(TimeoutError):
        await store.sweeper(forget=[forget]).sweep()

    assert len(asked) == 1 + answered + sweeping._SURELY_AWAY
    assert (await store.sweeper().sweep()).forgotten == 20 - answered


@pytest.mark.usefixtures("deleted")
async def test_a_checkpointer_that_is_cancelled_of_its_own_accord_does_not_end_the_sweeper(store: Store) -> None:
    tries, again = 0, asyncio.Event()

    async def forget(_: Sequence[str]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise asyncio.CancelledError
        again.set()

    async with asyncio.timeout(60), store.sweeper(forget=[forget], every=0.1):
        await again.wait()
