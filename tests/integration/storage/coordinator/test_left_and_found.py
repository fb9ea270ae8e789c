"""Runs of workers that are gone are found when their time has come, once, and end as lost."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from tests.integration.storage.conftest import held_up
from tests.integration.storage.coordinator.hands import admit, run_of, standing, start, take_for_dead
from tests.property.queue_hands import AGENT, Hand
from told_events import told

from trackside.app.storage import Store
from trackside.app.storage._coordination.recovery import Reap
from trackside.harness.errors import DuplicateRunError
from trackside.harness.ids import new_id
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import PausedRun, ThreadState
from trackside.harness.types import (
    CancelAction,
    LifecycleEventType,
    RunSpec,
    RunStatus,
    ThreadStatus,
)


async def assert_lost(store: Store, database: Any, run_id: str) -> None:
    """Assert that a run was ended because its worker was lost."""
    assert standing(database, run_id) is None
    run = await store.run(run_id)
    assert run is not None
    assert run.error_type == "worker_lost"


def be_back(database: Any, hand: Hand) -> None:
    """End its own lease as well, as when the database comes back after being away for all for longer than a lease."""
    take_for_dead(database, hand)
    hand.coordinator._enrolment._written_at = -math.inf


@pytest.mark.just_come
async def test_who_has_only_just_come_gives_others_the_length_of_a_lease_to_be_heard_of(
    hand: Any, database: Any, store: Store
) -> None:
    """The database may have been away until a moment ago, so that nobody could renew a lease."""
    a = hand()
    running = await admit(a)
    await start(a, running)
    take_for_dead(database, a)

    b = hand()
    await b.coordinator._enrolment.enroll()
    await b.coordinator._upkeep.clear_up()
    assert standing(database, running) == ("claimed", a.name)

    b.coordinator._enrolment._trusts_from = 0.0  # a lease later
    await b.coordinator._upkeep.clear_up()
    await assert_lost(store, database, running)


async def test_where_the_clock_of_the_leases_was_set_all_have_the_length_of_a_lease_to_be_heard_of(
    hand: Any, database: Any
) -> None:
    a, b = hand(), hand()
    running = await admit(a)
    await start(a, running)
    await b.coordinator._enrolment.enroll()
    session: Any = b.store._writer._session
    later = 2 * b.coordinator._lease
    session.clock = lambda: session._session.clock()._replace(seconds=session._session.clock().seconds + later)

    await b.coordinator._upkeep.clear_up()  # before its own next sign of life
    assert standing(database, running) == ("claimed", a.name)
    b.coordinator._enrolment._renew()
    await b.coordinator._enrolment._beating
    await b.coordinator._upkeep.clear_up()
    assert standing(database, running) == ("claimed", a.name)

    b.coordinator._enrolment._trusts_from = 0.0  # a lease later
    await b.coordinator._upkeep.clear_up()
    assert standing(database, running) is None


async def test_whoever_is_first_when_the_database_is_back_gives_others_the_length_of_a_lease_to_be_heard_of(
    hand: Any, database: Any, store: Store
) -> None:
    a, b = hand(), hand()
    running, waiting = await admit(a), await admit(a, "u")
    await start(a, running)
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    be_back(database, b)

    await b.coordinator._upkeep.clear_up()
    b.coordinator._enrolment.stay()
    await b.coordinator._enrolment._beating
    await b.coordinator._upkeep.clear_up()
    assert (standing(database, running), standing(database, waiting)) == (("claimed", a.name), ("pending", a.name))

    b.coordinator._enrolment._trusts_from = 0.0  # a lease later
    await b.coordinator._upkeep.clear_up()
    assert standing(database, waiting) == ("pending", b.name)
    await assert_lost(store, database, running)


async def test_what_was_to_be_ended_before_the_database_was_away_is_not_when_it_is_back(
    hand: Any, database: Any
) -> None:
    a, b = hand(), hand()
    running = await admit(a)
    await start(a, running)
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    async with held_up(b.store):
        clearing = asyncio.ensure_future(b.coordinator._upkeep.clear_up())
        while not b.store.writer_stats().pending:
            await asyncio.sleep(0)
        b.coordinator._enrolment._known_until = 0.0  # nothing could be written for as long as its lease
    await clearing

    assert standing(database, running) == ("claimed", a.name)


async def test_a_worker_that_is_gone_while_the_database_is_there_is_found_at_once(hand: Any, database: Any) -> None:
    a, b = hand(), hand()
    running = await admit(a)
    await start(a, running)
    await b.coordinator._enrolment.enroll()
    for _ in range(2):
        b.coordinator._enrolment._beat()  # three times per lease
        await asyncio.sleep(0)
        await b.coordinator._enrolment._beating
    take_for_dead(database, a)

    await b.coordinator._upkeep.clear_up()

    assert standing(database, running) is None


async def test_the_end_of_a_lost_run_says_what_the_log_has_of_it(hand: Any, database: Any, store: Store) -> None:
    a, b = hand(), hand()
    lost = await admit(a)
    await start(a, lost)
    said = ["x" * 3_000, [{"type": "text", "text": "and more"}], None]
    messages: list[Any] = [{"id": f"m{n}", "type": "human", "content": content} for n, content in enumerate(said)]
    payloads = [*({"message": message} for message in messages), {"message": "of another emitter"}, {}]
    started = (await store.events(run_id=lost))[-1].event
    human = LifecycleEventType.HUMAN_MESSAGE
    await store.append(
        [
            RunLifecycleEvent(new_id(), human, lost, "t", started.sequence + n, started.occurred_at, payload)
            for n, payload in enumerate(payloads, 1)
        ]
    )

    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()

    assert (await store.events(run_id=lost, types="run_failed"))[0].event.payload["agent"] == AGENT
    run = await store.run(lost)
    assert run is not None
    assert run.error_type == "worker_lost"
    assert run.completion_data["message_count"] == run.message_count == 4
    assert run.completion_data["first_human_message"] == "x" * 2_000
    assert run.completion_data["total_tokens"] == 0
    assert run.duration_seconds is not None
    assert run.duration_seconds > 0


async def test_ends_that_are_announced_for_others_are_told_and_no_others(
    hand: Any, database: Any, store: Store
) -> None:
    a, b = hand(), hand()
    lost, own, unstarted = await admit(a, "t"), await admit(a, "u"), await admit(a, "v")
    for run_id, thread_id in ((lost, "t"), (own, "u")):
        await start(a, run_id, thread_id)
    heard: list[tuple[str, LifecycleEventType]] = []
    store.on_end(lambda event: heard.append((event.run_id, event.event_type)))

    await store.append(
        [RunLifecycleEvent(new_id(), LifecycleEventType.RUN_COMPLETED, own, "u", 3, datetime.now(UTC), {})]
    )
    await b.coordinator.request_cancel(unstarted, CancelAction.interrupt)
    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()

    assert heard == [(unstarted, LifecycleEventType.RUN_CANCELLED), (lost, LifecycleEventType.RUN_FAILED)]


async def test_who_hears_of_ends_and_fails_hears_of_the_next_and_holds_nobody_up(
    hand: Any, database: Any, store: Store
) -> None:
    a, b = hand(), hand()
    runs = [await admit(a, thread_id) for thread_id in ("t", "u")]
    for run_id, thread_id in zip(runs, ("t", "u"), strict=True):
        await start(a, run_id, thread_id)
    heard: list[str] = []

    def hear(event: RunLifecycleEvent) -> None:
        heard.append(event.run_id)
        raise LookupError("of the listener")

    store.on_end(hear)
    take_for_dead(database, a)
    async with asyncio.timeout(30):
        await b.coordinator._upkeep.clear_up()

    assert sorted(heard) == sorted(runs)
    assert [run.error_type for run in await store.runs(status="error")] == ["worker_lost"] * 2


async def test_who_asks_again_for_a_run_that_was_taken_over_meanwhile_is_told_so(
    hand: Any, database: Any, store: Store
) -> None:
    """As when the first answer was lost with the database, which was away for longer than the lease."""
    a, b = hand(), hand()
    record, spec = run_of("t"), RunSpec(AGENT, {})
    await a.coordinator.admit(record, spec=spec)
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()
    await start(b, record.run_id)

    again = await a.coordinator.admit(record, spec=spec)

    assert (again.record.run_id, again.ready, again.elsewhere) == (record.run_id, False, True)
    another = replace(record, created_at=record.created_at + timedelta(seconds=1))
    with pytest.raises(DuplicateRunError):
        await a.coordinator.admit(another, spec=spec)


@pytest.mark.parametrize("damage", ["{", "5"])
async def test_a_message_that_is_damaged_keeps_no_run_from_its_end(
    hand: Any, database: Any, store: Store, damage: str
) -> None:
    a, b = hand(), hand()
    lost = await admit(a)
    await start(a, lost)
    before = (await store.events(run_id=lost))[-1].event
    message = RunLifecycleEvent(
        new_id(),
        LifecycleEventType.HUMAN_MESSAGE,
        lost,
        "t",
        before.sequence + 1,
        before.occurred_at,
        {"message": "hi"},
    )
    await store.append([message])
    database.execute(f"UPDATE events SET payload = '{damage}' WHERE event_id = '{message.event_id}'")

    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()

    run = await store.run(lost)
    assert run is not None
    assert (run.error_type, run.message_count) == ("worker_lost", 0)


@pytest.mark.parametrize("damage", ["{", "5"])
async def test_a_question_that_is_damaged_keeps_no_run_from_its_end(
    hand: Any, database: Any, store: Store, damage: str
) -> None:
    a, b = hand(), hand()
    lost = await admit(a)
    await start(a, lost)
    await store.thread_states().save("t", ThreadState({}, PausedRun(input="a", agent=AGENT)))
    database.execute(f"UPDATE thread_states SET paused = '{damage}' WHERE thread_id = 't'")

    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()

    await assert_lost(store, database, lost)
    assert (await told(store, "t"))[-1] == "thread_status_updated error"


@pytest.mark.parametrize(
    ("paused", "rests"),
    [
        (PausedRun(input="a", interrupts=[{"id": "q", "value": "?"}], agent=AGENT), "interrupted"),
        (PausedRun(input="a", interrupts=[{"id": "q", "value": "?"}]), "interrupted"),
        (PausedRun(input="a", interrupts=[{"id": "q", "value": "?"}], agent="another"), "error"),
        (None, "error"),
    ],
    ids=["its question", "anybody's question", "another's question", "no question"],
)
async def test_a_thread_waits_on_behind_a_lost_run_whose_agent_had_asked_there(
    hand: Any, database: Any, store: Store, paused: PausedRun | None, rests: str
) -> None:
    """Whoever ends the last run of a thread says so, even if that is a run behind the lost one that never began."""
    a, b = hand(), hand()
    lost, before_it, behind_it = await admit(a), await admit(a, "u"), await admit(a, "u")
    await start(a, lost)
    await start(a, before_it, "u")
    for thread_id in ("t", "u"):
        await store.thread_states().save(thread_id, ThreadState({}, paused))
    await a.coordinator.settle(lost, RunStatus.cancelled, at_rest=ThreadStatus.idle)  # this came to nothing
    await a.coordinator.request_cancel(behind_it, CancelAction.interrupt)

    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()

    for run_id in (lost, before_it):
        await assert_lost(store, database, run_id)
    assert (await told(store, "t"))[-2:] == ["run_failed error worker_lost", f"thread_status_updated {rests}"]
    assert (await told(store, "u"))[-3:] == [
        "run_failed error worker_lost",
        "run_cancelled interrupt",
        f"thread_status_updated {rests}",
    ]


async def test_an_own_run_that_has_ended_does_not_make_a_part_of_the_lost_ones_all(hand: Any, database: Any) -> None:
    a, b = hand(), hand()
    own = await admit(b, "own")
    await start(b, own, "own")
    lost = [await admit(a, thread_id) for thread_id in ("one", "other")]
    for run_id, thread_id in zip(lost, ("one", "other"), strict=True):
        await start(a, run_id, thread_id)
    take_for_dead(database, a)
    database.execute(
        f"UPDATE active_runs SET state = 'ended' WHERE run_id = '{own}'"
    )  # what its thread is now is yet to be told

    parts = [await b.store._writer.write(Reap(reaper=b.name, known={own}, limit=2)) for _ in lost]

    assert [(part.ended, part.is_all) for part in parts] == [([run_id], False) for run_id in lost]
    runs = [await b.store.run(run_id) for run_id in lost]
    assert ["has given no sign of life" in str(run and run.error) for run in runs] == [True, True]


async def test_who_cancels_a_run_that_was_left_to_others_hears_that_it_is_lost(hand: Any, database: Any) -> None:
    a, b = hand(), hand()
    waiting = await admit(a)
    b.agents = ()
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    await b.coordinator._upkeep.clear_up()

    await a.coordinator.request_cancel(waiting, CancelAction.interrupt)
    assert await a.coordinator.withdraw(waiting) is False
    await a.coordinator._upkeep.look()

    assert a.told == [("lost", waiting)]


async def test_a_run_that_is_forgotten_during_a_look_is_not_lost(hand: Any) -> None:
    a = hand()
    waiting = await admit(a)
    write = a.store._writer.write

    async def nobody_owns(work: Any) -> Any:
        await write(work)
        a.coordinator._runs.forget(waiting)  # as its release does
        return []

    a.store._writer.write = nobody_owns
    try:
        await a.coordinator._upkeep.look()
    finally:
        a.store._writer.write = write

    assert a.told == []
