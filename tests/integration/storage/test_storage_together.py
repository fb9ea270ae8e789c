"""Works that meet in one transaction: one that cannot be written does not keep others from being written."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, override

import pytest
from sqlalchemy import select, text
from tests.property.queue_hands import ForgetfulSession

from trackside.app.storage import Store
from trackside.app.storage._graph.works import Chain, PutGraphRows
from trackside.app.storage._rows.tables import thread_labels
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.errors import (
    AccessRefusedError,
    DatabaseBusyError,
    StorageError,
    TransactionConflictError,
)
from trackside.app.storage.threads import ThreadQuery


@dataclass(eq=False)
class Misfit(Work):
    """A work that no database accepts."""

    @override
    def apply(self, unit: UnitOfWork) -> None:
        unit.session.execute(text("SELECT no_such_column FROM runs"))


@dataclass(eq=False)
class Noting(Work):
    """Notes what it knew of itself each time it was applied."""

    known: bool = False
    heard: list[bool] = field(default_factory=list)

    @override
    def apply(self, unit: UnitOfWork) -> list[bool]:
        self.heard.append(self.known)
        self.known = True
        return self.heard

    @override
    def undone(self) -> None:
        self.known = False


class Failing(ForgetfulSession):
    """Fails before each commit with the next of these, unless that is None."""

    def __init__(self, session: Any, *failures: Exception | None) -> None:
        super().__init__(session)
        self.failures = list(failures)
        self.begun = 0

    @contextlib.contextmanager
    @override
    def transaction(self, **options: Any) -> Generator[None]:
        self.begun += 1
        with super().transaction(**options):
            yield
            if self.failures and (failure := self.failures.pop(0)) is not None:
                raise failure


def failing(store: Store, *failures: Exception | None) -> Failing:
    """Give a store a session that fails with these in the transactions after the next one."""
    session: Any = Failing(store._writer._session, None, *failures)  # type: ignore[union-attr]
    store._writer._session = session  # type: ignore[union-attr]
    return session


def kinds(outcomes: Sequence[Any]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


async def test_what_no_database_takes_fails_alone_and_the_others_are_written_in_order(
    store: Store, script, together
) -> None:
    first, second = script().whole(), script().whole()
    told: list[int] = []
    store._writer.on_commit.append(lambda events: told.extend(event.position for event in events))

    outcomes = await together(
        store.append(first[:3]),
        store._writer.write(Misfit()),
        store.append(first[3:]),
        store._writer.write(Misfit()),
        store.append(second),
    )

    assert kinds(outcomes) == ["list", "StorageError", "list", "StorageError", "list"]
    assert [stored.position for outcome in outcomes[::2] for stored in outcome] == [*range(1, 11)]
    assert told == [stored.position for stored in await store.events()] == [*range(1, 11)]
    assert await store.append(script().whole())


async def test_what_follows_on_something_that_could_not_be_written_is_refused(store: Store, script, together) -> None:
    events = script().whole()
    first, *_, last = events
    outcomes = await together(
        store.append([first]), store._writer.write(Misfit()), store.append([last]), store.append(events[1:])
    )

    assert kinds(outcomes) == ["list", "StorageError", "EventOrderError", "list"]
    assert [stored.event for stored in await store.events()] == events


async def test_puts_after_one_that_could_not_be_written_are_not_written_either(store: Store, together) -> None:
    @dataclass(slots=True, eq=False, kw_only=True)
    class MisfitPut(PutGraphRows):
        @override
        def apply(self, unit: UnitOfWork) -> None:
            raise ZeroDivisionError

    chain = Chain()
    write = store._writer.write
    puts = [kind(thread_id="t", run_id=None, chain=chain) for kind in (PutGraphRows, MisfitPut, PutGraphRows)]

    outcomes = await together(*(write(put) for put in puts))

    assert kinds(outcomes) == ["NoneType", "StorageError", "StorageError"]
    assert [str(outcome) for outcome in outcomes[1:]] == [str(chain.failure)] * 2


@pytest.mark.usefixtures("path")
async def test_a_work_knows_nothing_of_what_was_undone_and_remembers_what_may_be_there(store: Store, together) -> None:
    beside_a_misfit, in_conflict, whose_reply_was_lost = Noting(), Noting(), Noting()

    await together(store._writer.write(beside_a_misfit), store._writer.write(Misfit()))
    session = failing(store)
    session.failures = [TransactionConflictError(database="it", why="they met")]
    await store._writer.write(in_conflict)
    session.loses_in = 1
    await store._writer.write(whose_reply_was_lost)

    assert beside_a_misfit.heard == [False, False]
    assert in_conflict.heard == [False, False]
    assert whose_reply_was_lost.heard == [False, True]


@pytest.mark.usefixtures("path")
async def test_a_database_that_goes_away_meanwhile_is_waited_for_once(store: Store, script, together) -> None:
    busy = DatabaseBusyError(database="it", seconds=5)
    session = failing(store, StorageError(database="it", why="one of them does not fit"), None, busy)

    outcomes = await together(*(store.append(script().whole()) for _ in range(4)))

    assert kinds(outcomes) == ["list", *["DatabaseBusyError"] * 3]
    assert session.begun == 4  # the gate, all together, the first, the second
    assert len(await store.events()) == 5


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("error", [AccessRefusedError, DatabaseBusyError])
async def test_what_is_the_fault_of_no_work_is_tried_once_for_all(store: Store, script, error, together) -> None:
    session = failing(store, error(database="it", why="so", seconds=5))

    outcomes = await together(*(store.append(script().whole()) for _ in range(3)))

    assert kinds(outcomes) == [error.__name__] * 3
    assert session.begun == 2


async def test_a_thread_is_found_by_its_metadata_of_now_where_it_changes_several_times_at_once(
    store: Store, together
) -> None:
    threads = store.threads_of(None)
    for thread_id in ("changed", "removed"):
        await threads.create(thread_id, metadata={"n": 0})

    await together(
        threads.create("new", metadata={"n": 1}),
        threads.change("new", metadata={"n": 2}),
        threads.change("changed", metadata={"n": 1}),
        threads.change("changed", metadata={"n": 2}),
        threads.change("removed", metadata={"n": 2}),
        threads.remove("removed"),
    )

    assert [await threads.count(ThreadQuery(metadata={"n": n})) for n in range(3)] == [0, 0, 2]
    labels = await store._readers.run(lambda connection: connection.execute(select(thread_labels)).all())
    assert sorted(map(tuple, labels)) == [("n", "2", "changed"), ("n", "2", "new")]
