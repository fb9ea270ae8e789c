"""I5–I7, I30: whatever workers do to runs, threads and each other, the queue stands as a few lines of Python say.

The model (`queue_model`) knows who holds a thread and who waits; nothing of rows, locks or caches. Steps that meet in one
transaction, commits whose reply is lost, workers that are taken for dead and come back, and runs that change hands are
part of the game. In the end everybody does what he was told, and nothing may be left over.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from postgres_server import RawConnection
from tests.property.queue_hands import AGENT, ForgetfulSession, Hand, Held, Step, take
from tests.property.queue_model import RESTS, Busy, Model, Run

from trackside.app.storage import Store
from trackside.app.storage._checks import contents
from trackside.app.storage._tables import metadata
from trackside.harness.errors import EventOrderError, InvalidSpecError, ThreadBusyError, UnknownRunError
from trackside.harness.ports import IdempotencyKey
from trackside.harness.types import CancelAction, MultitaskStrategy, RunRecord, RunSpec, RunStatus, ThreadStatus

WORKERS = 3
LATER = datetime(2100, 1, 1, tzinfo=UTC)
START = datetime(2026, 1, 31, tzinfo=UTC)
SUBSCRIPTION = "mail"
ENDS = [RunStatus.success, RunStatus.success, RunStatus.error, RunStatus.interrupted, RunStatus.cancelled]
STRATEGIES = ["enqueue", "enqueue", "enqueue", "reject", "interrupt", "rollback"]
MOVES = ["claim", "claim", "open", "open", "close", "close", "withdraw", "release", "promote"]
LIVENESS_ROUNDS = 25

workers = st.integers(0, WORKERS - 1)
threads = st.sampled_from(["t0", "t0", "t1"])
rarely = st.integers(0, 5).map(lambda n: n == 0)


class Databases:
    """One database for all examples, open as often as there are workers; each example finds it empty."""

    def __init__(self, url: str, look: Any) -> None:
        self.runner = asyncio.Runner()
        self.look = look
        self.stack = AsyncExitStack()
        self.stores = [
            self.run(self.stack.enter_async_context(Store.open(url, synchronous="NORMAL"))) for _ in range(WORKERS)
        ]
        self.sessions = [ForgetfulSession(store._writer._session) for store in self.stores]
        for store, session in zip(self.stores, self.sessions, strict=True):
            store._writer._session = cast("Any", session)

    def run(self, coroutine: Any) -> Any:
        async def main() -> Any:
            return await coroutine

        return self.runner.run(main())

    def empty(self) -> None:
        for table in reversed(metadata.sorted_tables):
            if table.name == "counters":
                self.look.execute("UPDATE counters SET value = 0 WHERE name = 'position'")
            else:
                self.look.execute(f"DELETE FROM {table.name}")

    def close(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()


class Queueing(RuleBasedStateMachine):
    databases: Databases

    @initialize()
    def open(self) -> None:
        self.databases.empty()
        self.look = self.databases.look
        self.model = Model()
        self.hands = [Hand(*each) for each in zip(self.databases.stores, self.databases.sessions, strict=True)]
        self.runs = 0
        self.cursor = 0
        self.is_sound = True
        subscriptions = self.databases.stores[0].subscriptions
        self.run(subscriptions.open(SUBSCRIPTION, start="beginning"))
        self.consumer = self.run(subscriptions.acquire(SUBSCRIPTION))

    def run(self, coroutine: Any) -> Any:
        return self.databases.run(coroutine)

    def take(self, hand: Hand, *steps: Step, lose_reply: int = False) -> None:
        """Take steps, together if there are several, and see that what came of each is what the model says."""
        if not steps:
            return
        self.is_sound = False
        outcomes = self.run(take(hand, steps, lose_reply=lose_reply))
        if len(steps) > 1:
            self.enroll(hand)
        for step, outcome in zip(steps, outcomes, strict=True):
            step.expect(outcome)
        for each in self.hands:
            self.hear(each)
        self.is_sound = True

    def enroll(self, hand: Hand) -> None:
        """A worker has a lease from its first step on; what becomes of it later is another matter."""
        if not hand.is_enrolled:
            hand.is_enrolled = self.model.workers[hand.name] = True

    def hear(self, hand: Hand) -> None:
        """Believe what the coordinator says, as far as it is true."""
        told, hand.told = hand.told, []
        for what, run_id, *more in told:
            run = self.model.runs.get(run_id)
            held = hand.held.get(run_id)
            match what:
                case "ready":
                    assert run is None or run.has_ended or self.model.holds(run), f"{run_id} was called ready"
                    if held is not None:
                        held.ready = True
                case "displaced":
                    self.displace(hand, run_id, running=more[0])
                case "cancel":
                    assert run is None or run.has_ended or run.cancel is not None, f"{run_id} was called cancelled"
                    if held is not None:
                        held.cancelled = True
                case "lost":
                    assert run is None or run.has_ended or run.owner != hand.name, f"{run_id} was called lost"
                    hand.held.pop(run_id, None)
                case "adopted":
                    assert run is not None
                    assert run.owner == hand.name or run.has_ended, f"{run_id} was given to two"
                    hand.held[run_id] = Held(run, ready=more[0])

    def displace(self, hand: Hand, run_id: str, *, running: bool) -> None:
        held = hand.held.get(run_id)
        if held is None:
            return
        held.cancelled = True
        if not running:
            held.phase = "withdrawn"

    # What hands do: each gives the step, and what the model makes of it.

    def admit(
        self, hand: Hand, thread_id: str, multitask: str, *, delayed: bool, can_move: bool, key: str | None, body: str
    ) -> Step:
        self.runs += 1
        run = Run(f"r{self.runs:05}", thread_id, hand.name, self.runs, can_move, multitask)
        record = RunRecord(
            run_id=run.run_id,
            thread_id=thread_id,
            agent=AGENT,
            status=RunStatus.pending,
            created_at=START + timedelta(seconds=self.runs),
            multitask=MultitaskStrategy(multitask),
            due_at=LATER if delayed else None,
        )
        spec = RunSpec(AGENT, {}, thread_id=thread_id) if can_move else None
        named = None if key is None else IdempotencyKey(key, body)

        def expect(admission: Any) -> None:
            self.enroll(hand)
            known = self.model.keys.get(key) if key is not None else None
            if known is not None and known[0] != body:
                assert isinstance(admission, InvalidSpecError), admission
                return
            if known is not None:
                assert (admission.record.run_id, admission.existing) == (known[1], True)
                return
            try:
                displaced = self.model.admit(run, delayed=delayed)
            except Busy:
                assert isinstance(admission, ThreadBusyError), admission
                return
            assert not isinstance(admission, BaseException), admission
            if key is not None:
                self.model.keys[key] = body, run.run_id
            told = [(other.run_id, other.status is RunStatus.running) for other in admission.displaced]
            assert sorted(told) == displaced
            assert admission.ready or not self.model.holds(run)
            hand.held[run.run_id] = Held(run)
            if admission.ready:  # true at the latest when all that met it has happened
                hand.told.append(("ready", run.run_id))
            for other, running in displaced:
                self.displace(hand, other, running=running)

        return Step(lambda: hand.coordinator.admit(record, spec=spec, idempotency=named), expect)

    def claim(self, hand: Hand, run: Run) -> Step:
        held = hand.held.get(run.run_id)

        def expect(claim: Any) -> None:
            self.enroll(hand)
            may = self.model.may_be_claimed(run, hand.name)
            if held is not None and held.phase != "waiting":
                assert claim is None
                return
            # What others did to its runs, it may not have heard yet; the log will not take what follows.
            is_stale = held is not None and held.ready and (run.owner != hand.name or run.has_ended)
            if claim is None:
                assert not may or is_stale or (held is not None and held.cancelled), f"{run} was to be had"
                return
            assert not isinstance(claim, BaseException), claim
            assert may or is_stale, f"{run} was claimed"
            assert claim.thread_status == self.model.thread(run.thread_id).status or is_stale
            if held is None or not held.ready:
                run.owner = hand.name
            self.model.starting.add((hand.name, run.run_id))
            mine = hand.held.setdefault(run.run_id, held or Held(run))
            mine.phase, mine.claim = "claimed", claim

        return Step(lambda: hand.coordinator.claim(run.run_id), expect)

    def start(self, hand: Hand, held: Held) -> Step:
        events = held.opening()

        def expect(stored: Any) -> None:
            if not self.model.start(held.run, hand.name):
                assert isinstance(stored, EventOrderError), stored
                hand.held.pop(held.run.run_id, None)
                return
            assert not isinstance(stored, BaseException), stored
            self.model.tell(held.run)
            if len(events) == 2:
                self.model.tell(held.run, "busy")
            if hand.held.get(held.run.run_id) is held:
                held.phase = "running"

        return Step(lambda: hand.store.append(events), expect)

    def settle(self, hand: Hand, held: Held, status: RunStatus, at_rest: ThreadStatus | None) -> Step:
        run = held.run

        def expect(settlement: Any) -> None:
            if run.state == "gone" or isinstance(settlement, UnknownRunError):
                assert isinstance(settlement, UnknownRunError)
                assert run.state == "gone" or run.owner != hand.name
                hand.held.pop(run.run_id, None)
                return
            expected = self.model.settle(run, status.value, at_rest)
            assert not isinstance(settlement, BaseException), settlement
            assert (settlement.previous, settlement.status) == expected
            held.settlement, held.status = settlement, status

        return Step(lambda: hand.coordinator.settle(run.run_id, status, at_rest=at_rest), expect)

    def close(self, hand: Hand, held: Held, *, lost: bool) -> Step:
        events = held.closing()
        run = held.run

        def expect(stored: Any) -> None:
            if run.has_ended:
                assert isinstance(stored, EventOrderError), stored
                hand.held.pop(run.run_id, None)
                return
            assert not isinstance(stored, BaseException), stored
            said = events[1].payload["status"] if len(events) == 2 else None
            self.model.end(run, held.status.value, said)
            held.phase, held.reply_lost = "over", lost

        return Step(lambda: hand.store.append(events), expect)

    def release(self, hand: Hand, held: Held) -> Step:
        run = held.run
        assert held.settlement is not None
        announced = held.settlement.status

        def expect(release: Any) -> None:
            if isinstance(release, UnknownRunError):  # it was told that the run is lost, which it had ended itself
                hand.held.pop(run.run_id, None)
                return
            assert not isinstance(release, BaseException), release
            if release.settlement is not None:
                assert release.settlement.status == (run.rest or RESTS[run.status])
                held.settlement, held.phase = release.settlement, "withdrawn" if run.state == "ended" else "over"
                return
            hand.held.pop(run.run_id, None)
            following = self.model.runs.get(run.next_run_id or "")
            if release.next_run_id is not None:
                assert release.next_run_id == run.next_run_id
                if release.next_run_id in hand.held:
                    hand.held[release.next_run_id].ready = True
            elif following is not None and not held.reply_lost:
                assert following.owner != hand.name or following.state != "pending" or run.state == "ended"

        return Step(lambda: hand.coordinator.release(run.run_id, announced), expect)

    def announce_rest(self, hand: Hand, held: Held) -> Step:
        assert held.settlement is not None
        run, status = held.run, held.settlement.status.value
        events = [held.rest(status)]

        def expect(stored: Any) -> None:
            if run.state != "ended":
                assert isinstance(stored, EventOrderError), stored
                hand.held.pop(run.run_id, None)
                return
            assert not isinstance(stored, BaseException), stored
            self.model.tell(run, status)
            self.model.release(run)
            held.phase = "over"

        return Step(lambda: hand.store.append(events), expect)

    def withdraw(self, hand: Hand, held: Held) -> Step:
        run = held.run

        def expect(withdrawn: Any) -> None:
            if (hand.name, run.run_id) in self.model.starting or held.phase != "waiting":
                assert withdrawn is False, withdrawn
                return
            expected = self.model.withdraw(run, hand.name)
            assert withdrawn is expected, (withdrawn, run)
            if withdrawn:
                held.phase = "withdrawn"

        return Step(lambda: hand.coordinator.withdraw(run.run_id), expect)

    def cancel(self, hand: Hand, run: Run, action: str) -> Step:
        def expect(record: Any) -> None:
            if self.model.runs.get(run.run_id) is not run:
                assert isinstance(record, UnknownRunError), record
                return
            assert not isinstance(record, BaseException), record
            self.model.request_cancel(run, hand.name, action)
            if (held := hand.held.get(run.run_id)) is not None:
                held.cancelled = True

        return Step(lambda: hand.coordinator.request_cancel(run.run_id, CancelAction(action)), expect)

    def promote(self, hand: Hand, held: Held) -> Step:
        mine = hand.coordinator._mine.get(held.run.run_id)

        async def act() -> None:
            if mine is not None:
                await hand.coordinator._promote(mine)

        def expect(_: Any) -> None:
            if mine is not None:
                self.model.promote(held.run, hand.name)

        return Step(act, expect)

    def clear_up(self, hand: Hand) -> Step:
        def expect(failure: Any) -> None:
            assert failure is None, failure
            self.model.reap(hand.name)
            self.model.adopt(hand.name)
            for what, run_id, *_ in hand.told:  # a run of its own that comes back is no news
                assert what != "adopted" or run_id not in hand.held

        return Step(hand.coordinator._clear_up, expect)

    def step_with(self, hand: Hand, held: Held, move: str, status: RunStatus, *, lost: bool) -> Step | None:
        """What a hand can do about a run of its own; None if that is not the moment for it."""
        match move, held.phase:
            case "claim", "waiting" if held.ready and not held.cancelled:
                return self.claim(hand, held.run)
            case "open", "claimed":
                return self.start(hand, held)
            case "withdraw", "waiting":
                return self.withdraw(hand, held)
            case "promote", "waiting" if held.run.state == "delayed":
                return self.promote(hand, held)
            case "close", "running" | "withdrawn" if held.settlement is None:
                ends_as = RunStatus.cancelled if held.phase == "withdrawn" else status
                return self.settle(hand, held, ends_as, None)
            case "close", "withdrawn" if held.run.state == "ended" and held.run.owner == hand.name:
                return self.announce_rest(hand, held)
            case "close", "running" | "withdrawn":
                return self.close(hand, held, lost=lost)
            case "release", "over":
                return self.release(hand, held)
        return None

    # Rules.

    @rule(
        number=workers,
        thread_id=threads,
        multitask=st.sampled_from(STRATEGIES),
        delayed=rarely,
        can_move=st.integers(0, 3).map(bool),
        key=st.sampled_from([None, None, None, "k"]),
        body=st.sampled_from(["b", "b", "c"]),
        lost=rarely,
    )
    def admit_one(
        self,
        number: int,
        thread_id: str,
        multitask: str,
        delayed: bool,
        can_move: bool,
        key: str | None,
        body: str,
        lost: bool,
    ) -> None:
        hand = self.hands[number]
        step = self.admit(hand, thread_id, multitask, delayed=delayed, can_move=can_move, key=key, body=body)
        self.take(hand, step, lose_reply=lost)

    @rule(data=st.data(), number=workers, moves=st.lists(st.sampled_from(MOVES), min_size=1, max_size=3), lost=rarely)
    def move(self, data: Any, number: int, moves: list[str], lost: bool) -> None:
        """A hand does something about a run of its own, maybe several things one after another."""
        hand = self.hands[number]
        for move in moves:
            if not hand.held:
                return
            held = hand.held[data.draw(st.sampled_from(sorted(hand.held)))]
            step = self.step_with(hand, held, move, data.draw(st.sampled_from(ENDS)), lost=lost)
            if step is not None:
                self.take(hand, step, lose_reply=lost)

    @rule(data=st.data(), number=workers, lost=rarely)
    def meet(self, data: Any, number: int, lost: bool) -> None:
        """Several steps of one process meet in one transaction."""
        hand = self.hands[number]
        steps: list[Step] = []
        touched: set[str] = set()
        for kind in data.draw(st.lists(st.sampled_from(["admit", "cancel", *MOVES]), min_size=2, max_size=5)):
            if kind == "admit":
                multitask, delayed = data.draw(st.sampled_from(STRATEGIES)), data.draw(rarely)
                thread_id = data.draw(threads)
                steps.append(self.admit(hand, thread_id, multitask, delayed=delayed, can_move=True, key=None, body=""))
            elif kind == "cancel" and self.model.runs:
                run = self.model.runs[data.draw(st.sampled_from(sorted(self.model.runs)))]
                steps.append(self.cancel(hand, run, "interrupt"))
            elif hand.held and kind not in {"claim", "promote"}:
                held = hand.held[data.draw(st.sampled_from(sorted(hand.held)))]
                if held.run.run_id in touched:
                    continue
                touched.add(held.run.run_id)
                step = self.step_with(hand, held, kind, RunStatus.success, lost=lost)
                if step is not None:
                    steps.append(step)
        self.take(hand, *steps, lose_reply=lost)

    @rule(data=st.data(), number=workers, action=st.sampled_from(["interrupt", "rollback"]), lost=rarely)
    def cancel_one(self, data: Any, number: int, action: str, lost: bool) -> None:
        if self.model.runs:
            run = self.model.runs[data.draw(st.sampled_from(sorted(self.model.runs)))]
            self.take(self.hands[number], self.cancel(self.hands[number], run, action), lose_reply=lost)

    @rule(data=st.data(), number=workers)
    def claim_of_another(self, data: Any, number: int) -> None:
        hand = self.hands[number]
        others = sorted(self.model.runs.keys() - hand.held.keys())
        if others:
            run = self.model.runs[data.draw(st.sampled_from(others))]
            if run.waits or run.state == "gone":
                self.take(hand, self.claim(hand, run))

    @rule(number=workers)
    def end_lease(self, number: int) -> None:
        name = self.hands[number].name
        self.look.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{name}'")
        if name in self.model.workers:
            self.model.workers[name] = False

    @rule(number=workers)
    def renew(self, number: int) -> None:
        coordinator = self.hands[number].coordinator
        self.run(coordinator._enroll())
        self.enroll(self.hands[number])
        self.run(coordinator._writer.write(coordinator._registration()))
        self.model.workers[coordinator.worker_id] = True

    @rule(number=workers, lost=st.sampled_from([0, 0, 0, 0, 1, 2]))
    def clear_up_one(self, number: int, lost: int) -> None:
        self.take(self.hands[number], self.clear_up(self.hands[number]), lose_reply=lost)

    @rule(number=workers)
    def look_around(self, number: int) -> None:
        self.run(self.hands[number].coordinator._look())
        self.hear(self.hands[number])

    @rule(number=workers, leaves=st.booleans())
    def replace(self, number: int, leaves: bool) -> None:
        """A process ends, properly or not, and another one takes its place."""
        hand = self.hands[number]
        if leaves:
            self.run(hand.leave())
            if hand.is_enrolled:
                self.model.leave(hand.name)
        else:
            self.end_lease(number)
            hand.die()
        self.hands[number] = Hand(hand.store, hand.session)

    @rule(number=workers)
    def prune(self, number: int) -> None:
        last = self.look.execute("SELECT run_id, max(position) FROM events GROUP BY run_id").fetchall()
        self.run(self.hands[number].store.prune(older_than=None))
        self.model.prune({run_id for run_id, position in last if position <= self.cursor})

    @rule(limit=st.integers(1, 20))
    def consume(self, limit: int) -> None:
        batch = self.run(self.consumer.read(limit))
        positions = [stored.position for stored in batch.events]
        there = self.look.execute(f"SELECT position FROM events WHERE position > {self.cursor} ORDER BY position")
        assert positions == [position for (position,) in there.fetchall()][:limit]
        if positions:
            self.run(self.consumer.acknowledge(positions[-1]))
            self.cursor = positions[-1]

    @invariant()
    def it_stands_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        model, self.is_sound = self.model, False
        columns = "run_id, thread_id, state, holds, owner, cancel_requested"
        rows = self.look.execute(f"SELECT {columns} FROM active_runs ORDER BY ordinal").fetchall()
        stored = {run_id: (state, bool(holds), owner, cancel) for run_id, _, state, holds, owner, cancel in rows}
        expected = {run.run_id: (run.state, model.holds(run), run.owner, run.cancel) for run in model.active}
        assert stored == expected, (stored, expected)
        for thread_id, thread in model.threads.items():
            line = [row[0] for row in rows if row[1] == thread_id and row[2] == "pending" and not row[3]]
            assert line == [run.run_id for run in thread.line]
            assert thread.holder is not None or not line
            assert thread.holder is not None or thread.status != "busy"
        found = self.look.execute("SELECT run_id, status, last_sequence FROM runs").fetchall()
        assert {row[0]: row[1:] for row in found} == {r.run_id: (r.status, r.sequence) for r in model.runs.values()}
        found = self.look.execute("SELECT thread_id, status FROM threads").fetchall()
        assert dict(found) == {thread_id: thread.status for thread_id, thread in model.threads.items()}
        ((count, last),) = self.look.execute("SELECT count(*), max(position) FROM events").fetchall()
        assert count == model.events - model.pruned
        assert last is None or last <= model.events
        self.is_sound = True

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        try:
            if not self.is_sound:  # something has failed already
                return
            self.everybody_does_what_he_was_told()
            self.it_stands_as_the_model_says()
            readers = self.databases.stores[0]._readers
            assert self.run(readers.run(lambda connection: [*contents(connection, None)])) == []
        finally:
            self.run(self.consumer.release())
            for hand in self.hands:
                self.run(hand.leave())

    def everybody_does_what_he_was_told(self) -> None:
        """After a while nobody holds a thread, and nobody waits: nothing was forgotten (I7)."""
        for _ in range(LIVENESS_ROUNDS):
            if not self.model.active:
                return
            for number, hand in enumerate(self.hands):
                self.renew(number)
                self.clear_up_one(number, lost=0)
                self.look_around(number)
                for held in [*hand.held.values()]:
                    self.go_on(hand, held)
        raise AssertionError(f"these are stuck: {self.model.active}; known are {[hand.held for hand in self.hands]}")

    def go_on(self, hand: Hand, held: Held) -> None:
        moves = ["withdraw"] if held.cancelled else []
        for move in [*moves, "promote", "claim", "open", "close", "close", "release", "close", "release"]:
            if hand.held.get(held.run.run_id) is held:
                step = self.step_with(hand, held, move, RunStatus.success, lost=False)
                if step is not None:
                    self.take(hand, step)


def play(databases: Databases, *, examples: int) -> None:
    """The same examples each time; thousands of others, by chance, in a long run."""
    usual = settings()
    is_long = usual.max_examples > 1_000
    machine = type("Queueing", (Queueing,), {"databases": databases})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=usual.max_examples if is_long else examples,
            stateful_step_count=30,
            derandomize=not is_long,
            suppress_health_check=[*HealthCheck],
        ),
    )


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Databases]:
    path = tmp_path / "runs.db"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as look:
        look.execute("PRAGMA synchronous = OFF")
        with closing(Databases(f"sqlite:///{path}", look)) as databases:
            yield databases


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Databases]:
    with closing(RawConnection(postgres_url)) as look, closing(Databases(postgres_url, look)) as databases:
        yield databases


def test_the_queue_stands_as_the_model_says(sqlite: Databases) -> None:
    play(sqlite, examples=150)


def test_the_queue_stands_as_the_model_says_on_postgres(postgres: Databases) -> None:
    play(postgres, examples=30)
