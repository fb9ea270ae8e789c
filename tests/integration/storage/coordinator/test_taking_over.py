"""What a worker takes over or claims is its own, even if it comes back, and even if others look meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from msgspec.structs import replace
from tests.integration.storage.coordinator.hands import LATER, admit, run_of, standing, start, take_for_dead
from tests.property.queue_hands import AGENT, Held
from tests.property.queue_model import Run

from trackside.harness.errors import EventOrderError
from trackside.harness.types import (
    CancelAction,
    RunRecord,
    RunSpec,
    RunStatus,
)


async def test_a_run_that_is_taken_over_is_what_was_asked_for(
    hand: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = hand(), hand()
    parent, more = await admit(a, "another"), {"metadata": {"customer": "acme"}, "trigger": "cron"}
    record = replace(run_of("t", "rollback"), parent_run_id=parent, **more)
    await a.coordinator.admit(record, spec=RunSpec(AGENT, {"n": 1}, parent_run_id=parent, **more))
    takes, adopted = b.on_adopted, {}

    def note(taken: RunRecord, spec: RunSpec, *, ready: bool) -> Any:
        adopted[taken.run_id] = taken, spec.input, ready
        return takes(taken, spec, ready=ready)

    monkeypatch.setattr(b, "on_adopted", note)
    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()

    assert adopted[record.run_id] == (record, {"n": 1}, True)


@pytest.mark.parametrize(
    "damage",
    [
        "runs SET request = '{'",
        "runs SET request = '[1]'",
        "runs SET metadata = 'no'",
        "active_runs SET multitask = 'newer'",
    ],
)
async def test_a_run_that_cannot_be_read_keeps_no_other_from_being_taken_over(
    hand: Any, database: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = hand(), hand()
    damaged, other = await admit(a, "t1"), await admit(a, "t2")
    database.execute(f"UPDATE {damage} WHERE run_id = '{damaged}'")
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)

    await b.coordinator._upkeep.clear_up()
    await b.coordinator._upkeep.clear_up()

    assert b.told == [("adopted", other, True)]
    assert standing(database, damaged) == ("pending", None)
    assert caplog.text.count(f"run {damaged} waits for another version of Trackside") == 1


async def test_a_host_that_fails_on_a_run_that_it_takes_over_gets_the_others_all_the_same(
    hand: Any, database: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = hand(), hand()
    waiting = [await admit(a, thread_id) for thread_id in ("t1", "t2", "t3")]
    take_for_dead(database, a)
    takes = b.on_adopted

    def fails_on_first(record: RunRecord, spec: RunSpec, *, ready: bool) -> None:
        if record.run_id == waiting[0]:
            raise LookupError("no such agent")
        takes(record, spec, ready=ready)

    monkeypatch.setattr(b, "on_adopted", fails_on_first)
    await b.coordinator._upkeep.clear_up()

    assert b.told == [("adopted", run_id, True) for run_id in waiting[1:]]
    assert f"run {waiting[0]} was taken over, but waits for this process to end" in caplog.text


async def test_a_run_that_is_to_stop_already_is_not_rolled_back_for_who_comes(hand: Any) -> None:
    worker, other = hand(), hand()
    run_id = await admit(worker)
    await start(worker, run_id)
    await other.coordinator.request_cancel(run_id, CancelAction.interrupt)
    await admit(other, multitask="rollback")

    asked = await other.coordinator.get(run_id)
    assert asked is not None
    assert asked.cancel_requested is CancelAction.interrupt


async def test_a_cancel_that_is_asked_here_is_not_heard_of_from_the_database_too(
    hand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = hand(), hand()
    mine, others = await admit(a, "mine"), await admit(a, "others")
    for run_id, thread_id in ((mine, "mine"), (others, "others")):
        await start(a, run_id, thread_id)
    writes, written, looked = a.store._writer.write_to_the_end, asyncio.Event(), asyncio.Event()

    async def write_and_let_others_go_first(work: Any) -> Any:
        outcome = await writes(work)
        written.set()
        await looked.wait()
        return outcome

    await b.coordinator.request_cancel(others, CancelAction.interrupt)
    with monkeypatch.context() as patch:
        patch.setattr(a.store._writer, "write_to_the_end", write_and_let_others_go_first)
        asking = asyncio.create_task(a.coordinator.request_cancel(mine, CancelAction.interrupt))
        await written.wait()
    await a.coordinator._upkeep.look()
    looked.set()
    await asking
    await a.coordinator._upkeep.look()

    assert a.told == [("cancel", others)]


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_run_that_is_to_be_cancelled_when_its_worker_goes_is_started_by_nobody(
    hand: Any, database: Any, leaves: bool
) -> None:
    a, b = hand(), hand()
    waiting = await admit(a)
    await a.coordinator.request_cancel(waiting, CancelAction.rollback)

    if leaves:
        await a.coordinator.aclose()
    else:
        take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()

    assert b.told == []
    assert (await b.store.run(waiting, removed=True)).status is RunStatus.cancelled
    (end,) = await b.store.events(run_id=waiting)
    assert end.event.payload["cancel_mode"] == "rollback"


async def test_a_worker_that_comes_back_owns_what_it_starts_before_another_took_it_over(
    hand: Any, database: Any
) -> None:
    a, b = hand(), hand()
    waiting = await admit(a)
    b.agents = ()
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()
    assert standing(database, waiting) == ("pending", None)

    await start(a, waiting)

    assert standing(database, waiting) == ("claimed", a.name)
    b.agents = (AGENT,)
    await b.coordinator._upkeep.clear_up()
    assert b.told == []
    assert standing(database, waiting) == ("claimed", a.name), "it is not ended as lost: to start it was a sign of life"


async def test_a_delayed_run_that_was_nobodys_when_it_was_due_takes_its_place_when_it_is_given_back(
    hand: Any, database: Any
) -> None:
    a, b = hand(), hand()
    delayed = await admit(a, due_at=LATER)
    b.agents = ()
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()
    own = a.coordinator._held(delayed)
    a.timed.clear()
    await a.coordinator._promote(own)
    assert standing(database, delayed) == ("delayed", None)

    await a.coordinator._upkeep.clear_up()
    assert standing(database, delayed) == ("delayed", a.name)
    assert a.timed == {delayed}, "the timer waits for it again"
    await a.coordinator._promote(own)

    assert a.told == [("ready", delayed)]
    assert standing(database, delayed) == ("pending", a.name)


async def test_a_worker_that_comes_back_is_known_before_it_takes_anything_over(hand: Any, database: Any) -> None:
    a, b = hand(), hand()
    b.agents = ()
    await a.coordinator._enrolment.enroll()
    waiting = await admit(b)
    take_for_dead(database, a)
    database.execute(f"UPDATE active_runs SET owner = NULL WHERE run_id = '{waiting}'")

    await a.coordinator._upkeep.clear_up()

    assert standing(database, waiting) == ("pending", a.name)
    await b.coordinator._upkeep.clear_up()
    assert standing(database, waiting) == ("pending", a.name), "nobody takes it for dead any more"


async def test_a_run_that_is_claimed_is_not_given_up_while_its_start_is_on_its_way_and_nobody_else_has_it(
    hand: Any, database: Any
) -> None:
    """Otherwise the same worker would take the run over again, its start would be stored, and nobody execute it."""
    a, b = hand(), hand()
    run_id = await admit(a)
    claim = await a.coordinator.claim(run_id)
    b.agents = ()
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()
    assert standing(database, run_id) == ("pending", None)

    await a.coordinator._upkeep.look()
    await a.coordinator._upkeep.clear_up()
    assert a.told == []
    a.store._workers.clear()
    a.store._workers.add(a.name)
    await a.store.append(Held(Run(run_id, "t", a.name, can_move=True), claim=claim).opening())

    await a.coordinator._upkeep.look()
    assert standing(database, run_id) == ("claimed", a.name)
    assert a.told == []


async def test_a_run_that_is_claimed_during_a_look_is_not_given_up_by_that(
    hand: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's start may be on its way by then, and the next look knows of it."""
    a, b = hand(), hand()
    claimed, meanwhile = await admit(a, "t"), await admit(a, "u")
    await a.coordinator.claim(claimed)
    b.agents = ()
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()
    read = a.store._readers.all

    async def read_slowly(*query: Any) -> Any:
        assert await a.coordinator.claim(meanwhile)
        return await read(*query)

    monkeypatch.setattr(a.store._readers, "all", read_slowly)
    await a.coordinator._upkeep.look()

    assert a.told == []


async def test_a_run_that_is_claimed_and_was_taken_over_by_another_is_lost(hand: Any, database: Any) -> None:
    a, b = hand(), hand()
    run_id = await admit(a)
    await a.coordinator.claim(run_id)
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()
    assert standing(database, run_id) == ("pending", b.name)

    await a.coordinator._upkeep.look()

    assert a.told == [("lost", run_id)]


async def test_a_run_that_nobody_looks_after_is_not_started_by_who_never_was_its_worker(
    hand: Any, database: Any
) -> None:
    a = hand()
    waiting = await admit(a)
    await a.coordinator.aclose()
    a.store._workers.clear()

    held = Held(Run(waiting, "t", None, can_move=True), claim=cast("Any", run_of("t")))
    with pytest.raises(EventOrderError, match="nobody looks after the run"):
        await a.store.append([held.event(cast("Any", "run_started"), agent=AGENT)])
