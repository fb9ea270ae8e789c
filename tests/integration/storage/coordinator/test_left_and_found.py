"""Nothing is lost between two: replies that do not arrive, workers that come back, steps that meet in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from blockbuster import BlockBuster
from msgspec.structs import replace
from tests.integration.storage.conftest import held_up
from tests.property.queue_hands import AGENT, ForgetfulSession, ForgottenSession, Hand, Held, Step, take
from tests.property.queue_model import Run
from told_events import told

from trackside.app.storage import Store
from trackside.app.storage._coordination.recovery import Reap, Reaped
from trackside.app.storage._coordination.steps import Claim
from trackside.app.storage.errors import DatabaseBusyError, StorageError
from trackside.harness.errors import DuplicateRunError, EventOrderError
from trackside.harness.ids import new_id
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import PausedRun, Settlement, ThreadState
from trackside.harness.types import (
    CancelAction,
    LifecycleEventType,
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadStatus,
)

LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def hand(store: Store) -> Iterator[Callable[[], Hand]]:
    """Makes workers on one store, which know of each other only what the database says."""
    session = ForgetfulSession(store._writer._session)
    store._writer._session = cast("Any", session)
    hands: list[Hand] = []

    def make() -> Hand:
        hands.append(Hand(store, session))
        return hands[-1]

    yield make
    for each in hands:
        if each.coordinator._enrolment._heart is not None:
            each.coordinator._enrolment._heart.stop()


def run_of(thread_id: str, multitask: str = "enqueue", *, due_at: datetime | None = None) -> RunRecord:
    return RunRecord(
        run_id=new_id(),
        thread_id=thread_id,
        agent=AGENT,
        status=RunStatus.pending,
        created_at=datetime.now(UTC),
        multitask=MultitaskStrategy(multitask),
        due_at=due_at,
    )


async def admit(hand: Hand, thread_id: str = "t", multitask: str = "enqueue", *, due_at: datetime | None = None) -> str:
    record = run_of(thread_id, multitask, due_at=due_at)
    await hand.coordinator.admit(record, spec=RunSpec(AGENT, {}))
    return record.run_id


async def start(hand: Hand, run_id: str, thread_id: str = "t") -> None:
    """Claim a run and announce its start, as that worker and no other."""
    claim = await hand.coordinator.claim(run_id)
    assert claim is not None
    held = Held(Run(run_id, thread_id, hand.name, can_move=True), claim=claim)
    hand.store._workers.clear()
    hand.store._workers.add(hand.name)
    await hand.store.append(held.opening())


def take_for_dead(database: Any, hand: Hand) -> None:
    """Have its lease ended, as after a while in which no sign of life came through."""
    hand.coordinator._enrolment._known_until = 0.0
    database.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{hand.name}'")


async def together(hand: Hand, *acts: Callable[[], Any]) -> list[Any]:
    """Do several things that meet in one transaction."""
    return await take(hand, [Step(act, expect=lambda outcome: None) for act in acts], lose_reply=False)


def standing(database: Any, run_id: str) -> Any:
    """Where an active run stands, and whose it is."""
    return database.execute(f"SELECT state, owner FROM active_runs WHERE run_id = '{run_id}'").fetchone()


async def assert_lost(store: Store, database: Any, run_id: str) -> None:
    """A run was ended, as its worker was lost."""
    assert standing(database, run_id) is None
    run = await store.run(run_id)
    assert run is not None
    assert run.error_type == "worker_lost"


def be_back(database: Any, hand: Hand) -> None:
    """Have its own lease ended, too, as when the database is back that was away for all for longer than a lease."""
    take_for_dead(database, hand)
    hand.coordinator._enrolment._written_at = -math.inf


@pytest.mark.just_come
async def test_who_has_only_just_come_gives_others_the_length_of_a_lease_to_be_heard_of(
    hand: Any, database: Any, store: Store
) -> None:
    """The database may have been away until a moment ago, and nobody could renew a lease."""
    a = hand()
    running = await admit(a)
    await start(a, running)
    take_for_dead(database, a)

    b = hand()
    await b.coordinator._enrolment.enroll()
    await b.coordinator._upkeep.clear_up()
    assert standing(database, running) == ("claimed", a.name)

    b.coordinator._enrolment._trusts_from = 0.0  # so much later
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

    b.coordinator._enrolment._trusts_from = 0.0  # so much later
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

    b.coordinator._enrolment._trusts_from = 0.0  # so much later
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
        b.coordinator._enrolment._known_until = 0.0  # nothing is written for so long
    await clearing

    assert standing(database, running) == ("claimed", a.name)


async def test_a_worker_that_is_gone_while_the_database_is_there_is_found_at_once(hand: Any, database: Any) -> None:
    a, b = hand(), hand()
    running = await admit(a)
    await start(a, running)
    await b.coordinator._enrolment.enroll()
    for _ in range(2):
        b.coordinator._enrolment._beat()  # three times in a lease
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


async def test_who_asks_again_for_a_run_that_was_taken_over_meanwhile_is_told_so(
    hand: Any, database: Any, store: Store
) -> None:
    """As where the answer to the first time was lost with the database, and that was away for longer than the lease."""
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

    b.session.loses_in = 2  # after the one that reaps
    await b.coordinator._upkeep.clear_up()

    assert b.told == [("adopted", waiting, True)]


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


async def test_what_was_taken_over_without_hearing_of_it_is_given_back_and_executed(hand: Any, database: Any) -> None:
    a, b = hand(), hand()
    waiting = await admit(a)
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)
    b.store._writer._session = ForgottenSession(b.session._session)
    b.store._writer._session.loses_in = 2  # after the one that reaps
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
        await a.coordinator.admit(record)  # which nobody else could execute
    assert standing(database, record.run_id) == ("pending", a.name)

    await a.coordinator._upkeep.disown()
    await a.coordinator._upkeep.disown()

    assert standing(database, record.run_id) is None
    assert (await a.store.run(record.run_id)).error_type == "worker_lost"


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
    """Whoever ends the last run of a thread says so: also one behind the lost run that never began."""
    a, b = hand(), hand()
    lost, before_it, behind_it = await admit(a), await admit(a, "u"), await admit(a, "u")
    await start(a, lost)
    await start(a, before_it, "u")
    for thread_id in ("t", "u"):
        await store.thread_states().save(thread_id, ThreadState({}, paused))
    await a.coordinator.settle(lost, RunStatus.cancelled, at_rest=ThreadStatus.idle)  # which came to nothing
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
    assert a.timed == {delayed}, "its timer runs again"
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
    """Else it would be taken over by the same worker once more, the start be stored, and nobody execute the run."""
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
    """Its start may be on its way by then, and is no secret to the next look."""
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


async def test_a_run_that_was_claimed_in_the_same_transaction_is_not_ended_for_its_dead_worker(
    hand: Any, database: Any
) -> None:
    a, b = hand(), hand()
    record = run_of("t")
    await a.coordinator.admit(record)  # nobody else could begin it anew
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)

    claim = Claim(run_id=record.run_id, thread_id="t", owner=b.name, fates={})
    _, reaped = await together(b, lambda: b.store._writer.write(claim), lambda: b.store._writer.write(Reap(reaper="c")))

    assert reaped == Reaped([], [])
    assert standing(database, record.run_id) == ("pending", b.name)


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
    )  # its thread's rest is yet to be told

    parts = [await b.store._writer.write(Reap(reaper=b.name, known={own}, limit=2)) for _ in lost]

    assert [(part.ended, part.is_all) for part in parts] == [([run_id], False) for run_id in lost]
    runs = [await b.store.run(run_id) for run_id in lost]
    assert ["has given no sign of life" in str(run and run.error) for run in runs] == [True, True]


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
    a.coordinator._runs.get(run_id).ready = False  # as of one of which nobody has told it yet that it is its turn
    session = a.store._writer._session
    a.store._writer._session = FailingSession(session)
    assert await a.coordinator.claim(run_id) is None
    a.store._writer._session = session

    assert await a.coordinator.withdraw(run_id)


async def test_a_run_that_is_due_while_nothing_can_be_written_begins_when_something_can(
    worker: Any, agents: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a = await worker(lease_seconds=3.0)
    run = await a.start("quick", after_seconds=0.1)
    session = a.store._writer._session
    a.store._writer._session = FailingSession(session)
    async with asyncio.timeout(10):
        while "is due, but could not take its place" not in caplog.text:
            await asyncio.sleep(0.01)
    a.store._writer._session = session

    async with asyncio.timeout(10):
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
    """The run was settled while its start was not in the log; that came before its end, and changed the thread."""
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
    """Nobody else would end it before its turn, and one that is delayed has none."""
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


async def test_a_run_that_has_to_leave_is_withdrawn_by_one_of_two_who_meet(hand: Any) -> None:
    a, b = hand(), hand()
    running = await admit(b)
    await start(b, running)
    waiting = await admit(a)

    admission, withdrawn = await together(
        a, lambda: a.coordinator.admit(run_of("t", "interrupt")), lambda: a.coordinator.withdraw(waiting)
    )

    assert [(run.run_id, run.status) for run in admission.displaced] == [(running, "running"), (waiting, "pending")]
    assert withdrawn is False


async def test_a_run_that_left_for_another_is_not_to_be_had_because_a_third_could_not_be_let_in(hand: Any) -> None:
    a = hand()
    waiting = await admit(a)
    fit = run_of("t", "interrupt")
    misfit = replace(run_of("t", "interrupt"), trigger="\ud800")

    refused, admission = await together(a, *(lambda run=run: a.coordinator.admit(run) for run in (misfit, fit)))

    assert isinstance(refused, StorageError)
    assert [(run.run_id, run.status) for run in admission.displaced] == [(waiting, "pending")]
    assert a.coordinator._runs.fates == {waiting: "withdrawn"}
    assert await a.coordinator.claim(waiting) is None


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
