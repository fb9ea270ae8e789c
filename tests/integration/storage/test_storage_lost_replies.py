"""A committed change is answered as such, though the reply to the commit was lost and the change is written again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, override

import pytest
from sqlalchemy import delete
from tests.property.queue_hands import ForgetfulSession

from trackside.app.storage import PruneReport, Store
from trackside.app.storage._rows.client_tables import crons
from trackside.app.storage._threads.works import RemoveThread
from trackside.app.storage.api_keys import digest_of
from trackside.app.storage.crons import Cron
from trackside.app.storage.errors import CronExistsError, TransactionConflictError
from trackside.harness.errors import ThreadExistsError, UnknownRunError, UnknownThreadError

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
CRON = Cron(cron_id="c", agent="a", schedule="* * * * *", created_at=NOW, updated_at=NOW)
CHANGED = replace(CRON, schedule="5 * * * *", updated_at=NOW + timedelta(seconds=1))


@pytest.fixture
def lose(store: Store) -> Callable[[], None]:
    """Lose the reply to the next commit."""
    session: Any = ForgetfulSession(store._writer._session)  # type: ignore[union-attr]
    store._writer._session = session  # type: ignore[union-attr]

    def lose() -> None:
        session.loses_in = 1

    return lose


async def test_events_that_were_stored_are_stored_once(store: Store, script: Any, lose: Callable[[], None]) -> None:
    run = script().whole()
    lose()

    placed = await store.append(run)

    assert [(one.position, one.event.event_id) for one in placed] == [*enumerate([one.event_id for one in run], 1)]
    assert await store.events() == placed


async def test_a_key_that_was_made_is_given(store: Store, lose: Callable[[], None]) -> None:
    lose()

    key, secret = await store.api_keys.create("laptop", owner="ada")

    assert await store.api_keys.all() == [key]
    assert await store.api_keys.find(digest_of(secret)) == key


async def test_a_thread_that_was_removed_is_removed_and_followers_hear_of_it(store: Store, lose: Any) -> None:
    threads = store.threads_of(None)
    told: list[str] = []
    store._writer.on_removal.append(told.extend)
    await threads.create("t")
    lose()

    await threads.remove("t")

    assert told == ["t"]
    with pytest.raises(UnknownThreadError):
        await threads.remove("t")


async def test_a_thread_that_was_copied_is_copied_once(store: Store, lose: Callable[[], None]) -> None:
    threads = store.threads_of(None)
    await threads.create("t", metadata={"n": 1})
    lose()

    copied = await threads.copy("t", copy_id="copy")

    assert (copied.thread_id, copied.metadata) == ("copy", {"n": 1})
    with pytest.raises(ThreadExistsError):
        await threads.copy("t", copy_id="copy")


async def test_an_expired_thread_that_was_removed_counts(store: Store, lose: Callable[[], None]) -> None:
    await store.threads_of(None).create("t", ttl_minutes=1)
    work = RemoveThread(thread_id="t", owner=None, now="2100-01-01T00:00:00.000000Z", expired=True)
    lose()

    assert await store._writer.write(work) is True
    assert await store._writer.write(replace(work, removed=False)) is False


async def test_a_run_that_was_removed_is_removed(store: Store, script: Any, lose: Callable[[], None]) -> None:
    run = script()
    await store.append(run.whole())
    threads = store.threads_of(None)
    lose()

    await threads.remove_run(run.thread_id, run.run_id)

    assert await threads.run(run.thread_id, run.run_id) is None
    with pytest.raises(UnknownRunError):
        await threads.remove_run(run.thread_id, run.run_id)


async def test_what_was_pruned_is_counted(store: Store, script: Any, lose: Callable[[], None]) -> None:
    run, kept = script(), script()
    await store.append([*run.whole(), kept.started()])
    lose()

    assert await store.prune(older_than=None) == PruneReport(runs=1, events=5, threads=1, kept_for={}, kept_waiting=0)
    assert [left.run_id for left in await store.runs()] == [kept.run_id]


async def test_a_cron_that_was_changed_or_deleted_is_answered_so(store: Store, lose: Callable[[], None]) -> None:
    lose()
    await store.crons.create(CRON)
    lose()
    with pytest.raises(CronExistsError):
        await store.crons.create(CRON)
    lose()
    assert await store.crons.replace(CRON, CHANGED)
    lose()
    assert not await store.crons.replace(CRON, CHANGED), "another has changed it so"
    assert await store.crons.get("c") == CHANGED
    lose()
    assert await store.crons.delete("c")
    lose()
    assert not await store.crons.delete("c")


class MeetingSession(ForgetfulSession):
    """Conflicts with another transaction, which goes first: it deletes all crons, and the next one here is repeated."""

    meets = False

    @contextlib.contextmanager
    @override
    def transaction(self, **options: Any) -> Generator[None]:
        if not self.meets:
            with super().transaction(**options):
                yield
            return
        self.meets = False
        try:
            with super().transaction(**options):
                yield
                raise TransactionConflictError(database="it", why="they met")
        finally:
            with super().transaction():
                self.execute(delete(crons))


async def test_what_another_did_between_two_tries_is_not_ones_own(store: Store) -> None:
    session: Any = MeetingSession(store._writer._session)  # type: ignore[union-attr]
    store._writer._session = session  # type: ignore[union-attr]

    for change in (lambda: store.crons.delete("c"), lambda: store.crons.replace(CRON, CHANGED)):
        await store.crons.create(CRON)
        session.meets = True
        assert not await change()
        assert await store.crons.get("c") is None
