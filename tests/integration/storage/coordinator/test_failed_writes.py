"""What could not be written is made up for: runs end, begin or can be claimed once writing works again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from datetime import datetime
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.integration.storage.coordinator.hands import LATER, admit, run_of, standing, start
from tests.property.queue_hands import ForgetfulSession, Held
from tests.property.queue_model import Run

from trackside.app.storage import Store
from trackside.app.storage.errors import DatabaseBusyError, StorageError
from trackside.harness.ports import Settlement
from trackside.harness.types import (
    CancelAction,
    LifecycleEventType,
    RunStatus,
    ThreadStatus,
)


class FailingSession(ForgetfulSession):
    """A session on which nothing can be committed."""

    @contextlib.contextmanager
    def transaction(self, **options: Any) -> Generator[None]:
        with self._session.transaction():
            yield
            raise StorageError(database="it", why="no space is left")


async def test_a_run_whose_end_is_kept_nowhere_is_ended_as_lost_and_its_thread_goes_on(
    worker: Any, agents: Any
) -> None:
    a = await worker()
    run = await a.start("one", thread_id="t")
    await agents.until_running("one")
    session = a.store._writer._session
    a.store._writer._session = FailingSession(session)
    agents.let("one")
    assert "a required observer did not take that" in (await run.result()).error
    a.store._writer._session = session

    following = await a.start("quick two", thread_id="t")

    assert (await following.result()).status is RunStatus.success
    record = await a.store.run(run.run_id)
    assert record.error_type == "worker_lost"
    assert record.error == "how the run had ended could neither be stored nor be spooled"


async def test_a_run_whose_claim_could_not_be_written_may_be_withdrawn(hand: Any) -> None:
    a = hand()
    run_id = await admit(a)
    a.coordinator._runs.get(run_id).ready = False  # as if nobody had told the worker yet that it is the run's turn
    session = a.store._writer._session
    a.store._writer._session = FailingSession(session)
    assert await a.coordinator.claim(run_id) is None
    a.store._writer._session = session

    assert await a.coordinator.withdraw(run_id)


async def test_a_run_that_is_due_while_nothing_can_be_written_begins_when_something_can(
    worker: Any, agents: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a = await worker(lease_seconds=3.0)
    run = await a.start("quick", after_seconds=3_600)
    session = a.store._writer._session
    a.store._writer._session = FailingSession(session)
    a.coordinator._spawn(a.coordinator._runs.get(run.run_id))  # as the timer does
    async with asyncio.timeout(30):
        while "is due, but could not take its place" not in caplog.text:
            await asyncio.sleep(0.01)
    a.store._writer._session = session

    async with asyncio.timeout(30):
        assert (await run.result()).status is RunStatus.success


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_run_that_has_ended_here_is_nobody_elses_while_its_end_is_spooled(
    hand: Any, database: Any, has_begun: bool
) -> None:
    a = hand()
    run_id = await admit(a)
    if has_begun:
        await start(a, run_id)
    else:
        assert await a.coordinator.claim(run_id) is not None
    await a.coordinator.release(run_id, ThreadStatus.busy)
    before = standing(database, run_id)

    for _ in range(3):
        await a.coordinator._upkeep.disown()

    assert standing(database, run_id) == before


async def test_a_thread_whose_run_could_be_stored_only_in_the_end_is_said_to_have_been_busy(hand: Any) -> None:
    """The run was settled before its start was in the log; the start came before the end, and changed the thread."""
    a = hand()
    run_id = await admit(a)
    claim = await a.coordinator.claim(run_id)
    held = Held(Run(run_id, "t", a.name, can_move=True), claim=claim)
    settlement = await a.coordinator.settle(run_id, RunStatus.error)
    a.store._workers.add(a.name)

    await a.store.append([*held.opening(), held.event(LifecycleEventType.RUN_FAILED, status="error")])
    release = await a.coordinator.release(run_id, settlement.status)

    assert release.settlement == Settlement(previous=ThreadStatus.busy, status=ThreadStatus.error)


async def test_a_cancel_that_could_not_be_stored_leaves_a_run_that_can_be_claimed(hand: Any) -> None:
    a = hand()
    waiting = await admit(a)

    a.store._writer._session = FailingSession(a.session)
    with pytest.raises(StorageError, match="no space is left"):
        await a.coordinator.request_cancel(waiting, CancelAction.interrupt)
    a.store._writer._session = a.session

    assert await a.coordinator.claim(waiting) is not None


@pytest.mark.parametrize("due_at", [None, LATER])
async def test_a_cancelled_run_that_could_not_be_taken_out_of_the_queue_is_to_be_taken_out_again(
    hand: Any, due_at: datetime | None
) -> None:
    """Nobody else would end it before its turn, and a delayed run has no turn."""
    a = hand()
    await start(a, await admit(a))
    waiting = await admit(a, due_at=due_at)
    await a.coordinator.request_cancel(waiting, CancelAction.interrupt)
    a.store._writer._session = FailingSession(a.session)
    with pytest.raises(StorageError, match="no space is left"):
        await a.coordinator.withdraw(waiting)
    a.store._writer._session = a.session

    await a.coordinator._upkeep.look()
    assert a.told == [("cancel", waiting)]
    assert await a.coordinator.withdraw(waiting)

    await a.coordinator._upkeep.look()
    assert a.told == [("cancel", waiting)]


@pytest.mark.usefixtures("path")
async def test_who_comes_while_another_waits_for_a_locked_database_waits_no_second_time(
    url: str, database: Any, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()
    async with Store.open(url, busy_timeout=0.05) as store:
        coordinator = store.coordinator()
        tries = []
        write = store._writer.write
        store._writer.write = lambda work: (tries.append(work), write(work))[1]  # type: ignore[method-assign]

        database.execute("BEGIN IMMEDIATE")
        admissions = [coordinator.admit(run_of(f"t{n}")) for n in range(3)]
        outcomes = await asyncio.gather(*admissions, return_exceptions=True)
        database.rollback()
        admission = await coordinator.admit(run_of("t"))
        await coordinator.aclose()

    assert [type(outcome) for outcome in outcomes] == [DatabaseBusyError] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert admission.ready
    assert len(tries) == 2, "one for all three, and one when it was free again"
