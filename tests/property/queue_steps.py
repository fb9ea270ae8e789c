"""What the hands in the queue's state machine can do: each move gives a step, and what the model makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from tests.property.queue_hands import AGENT, ForgetfulSession, Hand, Held, Step, take
from tests.property.queue_model import RESTS, Busy, Model, Run
from trusting import trust_leases_from_its_start

from trackside.app.storage import Store
from trackside.app.storage._rows.tables import metadata
from trackside.harness.errors import EventOrderError, InvalidSpecError, ThreadBusyError, UnknownRunError
from trackside.harness.ports import IdempotencyKey
from trackside.harness.types import CancelAction, MultitaskStrategy, RunRecord, RunSpec, RunStatus

WORKERS = 3
LATER = datetime(2100, 1, 1, tzinfo=UTC)
START = datetime(2026, 1, 31, tzinfo=UTC)


class Databases:
    """One database for all examples, opened once for each worker; each example finds it empty."""

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


class Play:
    """Hands on one database, and a model of it. Checks that what they do has the results that the model says."""

    databases: Databases
    look: Any
    model: Model
    hands: list[Hand]
    is_sound = True
    """Whether everything so far came out as the model says."""

    def set_up(self) -> None:
        """Begin anew, with an empty database."""
        self.databases.empty()
        self.look = self.databases.look
        self.model = Model()
        self.hands = [self.hire(*each) for each in zip(self.databases.stores, self.databases.sessions, strict=True)]
        self.admissions = 0

    def hire(self, store: Store, session: ForgetfulSession) -> Hand:
        """A worker that has been there long enough."""
        hand = Hand(store, session)
        trust_leases_from_its_start(hand.coordinator._enrolment)
        return hand

    def run(self, coroutine: Any) -> Any:
        return self.databases.run(coroutine)

    def take(self, hand: Hand, *steps: Step, lose_reply: int = False) -> None:
        """Take steps, together if there are several, and check that what came of each is what the model says."""
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
        """A worker has a lease from its first step on; what becomes of the lease later is another matter."""
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

    def admit(
        self,
        hand: Hand,
        thread_id: str,
        multitask: str,
        *,
        delayed: bool,
        can_move: bool,
        attempts: int,
        key: str | None = None,
        body: str = "",
    ) -> Step:
        self.admissions += 1
        run = Run(f"r{self.admissions:05}", thread_id, hand.name, can_move, multitask, max_attempts=attempts)
        record = RunRecord(
            run_id=run.run_id,
            thread_id=thread_id,
            agent=AGENT,
            status=RunStatus.pending,
            created_at=START + timedelta(seconds=self.admissions),
            multitask=MultitaskStrategy(multitask),
            due_at=LATER if delayed else None,
        )
        spec = RunSpec(AGENT, {}, thread_id=thread_id, max_attempts=attempts) if can_move else None
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
            if admission.ready:  # true at the latest when all the steps that met it have happened
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
            # The hand may not have heard yet what others did to its runs; the log will not take what follows.
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

    def settle(self, hand: Hand, held: Held, status: RunStatus, *, shut_down: bool) -> Step:
        run = held.run

        def expect(settlement: Any) -> None:
            if run.state == "gone" or isinstance(settlement, UnknownRunError):
                assert isinstance(settlement, UnknownRunError)
                assert run.state == "gone" or run.owner != hand.name
                hand.held.pop(run.run_id, None)
                return
            expected = self.model.settle(run, status.value, None, shut_down=shut_down)
            assert not isinstance(settlement, BaseException), settlement
            assert (settlement.previous, settlement.status, settlement.retried_as is not None) == expected
            held.settlement, held.status = settlement, status

        return Step(lambda: hand.coordinator.settle(run.run_id, status, shut_down=shut_down), expect)

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
            assert held.settlement is not None
            self.model.end(run, held.status.value, said, retried_as=held.settlement.retried_as)
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

    def promote(self, hand: Hand, held: Held) -> Step | None:
        run_id = held.run.run_id
        mine = hand.coordinator._runs.get(run_id)
        if mine is None or run_id not in hand.timed:
            return None

        async def act() -> None:
            hand.timed.discard(run_id)
            await hand.coordinator._promote(mine)
            hand.take_timer(mine)

        return Step(act, lambda _: self.model.promote(held.run, hand.name))

    def note_stuck(self, hand: Hand, held: Held) -> Step:
        is_known = held.run.run_id in hand.coordinator._runs

        def expect(failure: Any) -> None:
            assert failure is None, failure
            if is_known:
                self.model.note_stuck(held.run, hand.name)

        return Step(lambda: hand.coordinator.note_stuck(held.run.run_id, START), expect)

    def retry_of(self, run_id: str) -> str:
        """The one run that continues another."""
        ((retry_id,),) = self.look.execute(f"SELECT run_id FROM runs WHERE retry_of = '{run_id}'").fetchall()
        return str(retry_id)

    def clear_up(self, hand: Hand) -> Step:
        def expect(failure: Any) -> None:
            assert failure is None, failure
            self.model.reap(hand.name, self.retry_of)
            if not hand.agents:
                return
            orphans = [run.run_id for run in self.model.adopt(hand.name)]
            adopted = [run_id for what, run_id, *_ in hand.told if what == "adopted"]
            # A hand's own run that comes back is no news; the others come in their order.
            assert not hand.held.keys() & {*adopted}
            assert adopted == [run_id for run_id in orphans if run_id in adopted]

        return Step(hand.coordinator._upkeep.clear_up, expect)

    def step_with(
        self, hand: Hand, held: Held, move: str, status: RunStatus, *, lost: bool, shut_down: bool = False
    ) -> Step | None:
        """What a hand can do about a run of its own; None if this is not the moment for it."""
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
                ends_as = RunStatus.cancelled if held.phase == "withdrawn" or shut_down else status
                return self.settle(hand, held, ends_as, shut_down=shut_down)
            case "close", "withdrawn" if held.run.state == "ended" and held.run.owner == hand.name:
                return self.announce_rest(hand, held)
            case "close", "running" | "withdrawn":
                return self.close(hand, held, lost=lost)
            case "release", "over":
                return self.release(hand, held)
            case "note stuck", "running":
                return self.note_stuck(hand, held)
        return None

    def begin_all(self, number: int) -> None:
        """The code of a hand's runs begins, as far as it can claim them, as a manager arranges at once."""
        hand = self.hands[number]
        for held in [*hand.held.values()]:
            self.go_on(hand, held, ["claim", "open"])

    def go_on(self, hand: Hand, held: Held, moves: Sequence[str]) -> None:
        for move in moves:
            if hand.held.get(held.run.run_id) is held:
                step = self.step_with(hand, held, move, RunStatus.success, lost=False)
                if step is not None:
                    self.take(hand, step)
