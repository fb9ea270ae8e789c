"""What was written is done, though its reply did not arrive: somebody does what follows, and once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.storage.coordinator.hands import LATER, admit, run_of, standing, start, take_for_dead
from tests.property.queue_hands import AGENT, ForgottenSession

from trackside.app.storage import Store
from trackside.app.storage.errors import StorageError
from trackside.harness.types import (
    RunSpec,
)


@pytest.mark.parametrize("lost_reply", [0, 1, 2, 3])
async def test_a_lost_run_is_started_anew_once_though_the_reply_to_that_is_lost(
    hand: Any, database: Any, store: Store, lost_reply: int
) -> None:
    a, b = hand(), hand()
    record = run_of("t")
    await a.coordinator.admit(record, spec=RunSpec(AGENT, {}, max_attempts=2))
    await start(a, record.run_id)
    await b.coordinator._enrolment.enroll()

    take_for_dead(database, a)
    b.session.loses_in = lost_reply
    await b.coordinator._upkeep.clear_up()

    (retried_as,) = await store.retries_of(record.run_id)
    assert [told for told in b.told if told[0] == "adopted"] == [("adopted", retried_as, True)]
    assert len(await store.runs()) == 2


async def test_who_has_to_leave_is_named_although_the_reply_to_the_admission_was_lost(hand: Any) -> None:
    a = hand()
    waiting = await admit(a)

    a.session.loses_in = 1
    admission = await a.coordinator.admit(run_of("t", "interrupt"))

    assert [run.run_id for run in admission.displaced] == [waiting]
    assert await a.coordinator.withdraw(waiting) is False


async def test_who_has_to_leave_is_named_although_the_reply_to_who_became_due_was_lost(hand: Any) -> None:
    a = hand()
    waiting = await admit(a)
    due = await admit(a, multitask="interrupt", due_at=LATER)

    a.session.loses_in = 1
    await a.coordinator._promote(a.coordinator._held(due))

    assert a.told == [("displaced", waiting, False)]


async def test_what_is_taken_over_is_executed_although_the_reply_was_lost(hand: Any, database: Any) -> None:
    a, b = hand(), hand()
    waiting = await admit(a)
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)

    b.session.loses_in = 2  # in the transaction after the one that reaps
    await b.coordinator._upkeep.clear_up()

    assert b.told == [("adopted", waiting, True)]


async def test_what_was_taken_over_without_hearing_of_it_is_given_back_and_executed(hand: Any, database: Any) -> None:
    a, b = hand(), hand()
    waiting = await admit(a)
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    b.store._writer._session = ForgottenSession(b.session._session)
    b.store._writer._session.loses_in = 2  # in the transaction after the one that reaps
    with pytest.raises(StorageError, match="nobody has heard"):
        await b.coordinator._upkeep.clear_up()
    assert standing(database, waiting) == ("pending", b.name)

    await b.coordinator._upkeep.disown()
    assert standing(database, waiting) == ("pending", b.name), "it may be on its way"
    await b.coordinator._upkeep.disown()
    await b.coordinator._upkeep.clear_up()

    assert b.told == [("adopted", waiting, True)]


async def test_what_was_let_in_without_hearing_of_it_holds_its_thread_no_longer(hand: Any, database: Any) -> None:
    a = hand()
    a.agents = ()
    await a.coordinator._enrolment.enroll()
    a.store._writer._session = ForgottenSession(a.session._session)
    a.store._writer._session.loses_in = 1
    record = run_of("t")
    with pytest.raises(StorageError, match="nobody has heard"):
        await a.coordinator.admit(record)  # nobody else could execute this
    assert standing(database, record.run_id) == ("pending", a.name)

    await a.coordinator._upkeep.disown()
    await a.coordinator._upkeep.disown()

    assert standing(database, record.run_id) is None
    assert (await a.store.run(record.run_id)).error_type == "worker_lost"


async def test_what_is_being_let_in_is_not_given_back_however_long_the_reply_takes(
    hand: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = hand()
    a.agents = ()
    record = run_of("t")
    written, may_come = asyncio.Event(), asyncio.Event()
    write = a.store._writer.write_to_the_end

    async def write_and_wait(work: Any) -> Any:
        reply = await write(work)
        written.set()
        await may_come.wait()
        return reply

    with monkeypatch.context() as slow:
        slow.setattr(a.store._writer, "write_to_the_end", write_and_wait)
        async with asyncio.TaskGroup() as tasks:
            admission = tasks.create_task(a.coordinator.admit(record))
            await written.wait()

            await a.coordinator._upkeep.disown()
            await a.coordinator._upkeep.disown()

            may_come.set()
    assert admission.result().ready
    assert standing(database, record.run_id) == ("pending", a.name)
