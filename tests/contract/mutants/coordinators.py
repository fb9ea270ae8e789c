"""Coordinators, each broken in one way, and the test of the contract that has to notice."""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Self

import pytest
from msgspec.structs import replace

from trackside.harness import RunRecord, ThreadBusyError, ThreadStatus
from trackside.harness.due_times import DueTimes
from trackside.harness.errors import DuplicateRunError
from trackside.harness.ids import new_id
from trackside.harness.memory import MemoryCoordinator
from trackside.harness.ports import Admission, Claim, IdempotencyKey, Release, RunHost, Settlement
from trackside.harness.types import CancelAction, MultitaskStrategy, RunStatus
from trackside.testing import CoordinatorContract, Coordinators, VirtualClock


class LetsTwoHoldAThread(MemoryCoordinator):
    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        return await super().admit(replace(record, thread_id=f"{record.thread_id} {new_id()}"), **asked)


class LooksBeforeItWaits(MemoryCoordinator):
    """Checks whether a thread is free in one statement, and admits in another."""

    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        free = record.thread_id not in self._threads
        await asyncio.sleep(0)
        thread_id = f"{record.thread_id} {new_id()}" if free and record.thread_id in self._threads else record.thread_id
        return await super().admit(replace(record, thread_id=thread_id), **asked)


class LetsTheLastGoFirst(MemoryCoordinator):
    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        admission = await super().admit(record, **asked)
        if (
            not admission.ready
            and record.thread_id in self._threads
            and (queue := self._threads[record.thread_id].queue)
        ):
            queue.rotate(1)
        return admission


class GivesARunTwice(MemoryCoordinator):
    async def claim(self, run_id: str) -> Claim | None:
        claim = await super().claim(run_id)
        run = self._runs.get(run_id)
        if claim is None and run is not None and run.status is RunStatus.running:
            return Claim(run.record, ThreadStatus.busy)
        return claim


class SaysThatEachThreadIsNew(MemoryCoordinator):
    async def claim(self, run_id: str) -> Claim | None:
        claim = await super().claim(run_id)
        return claim and claim._replace(new_thread=True)


class StartsWhatWasCancelled(MemoryCoordinator):
    async def request_cancel(self, run_id: str, action: CancelAction) -> RunRecord:
        run = self._runs.get(run_id)
        if run is not None and run.status is RunStatus.pending:
            return run.snapshot()
        return await super().request_cancel(run_id, action)


class NotesACancelOfWhatHasEnded(MemoryCoordinator):
    async def request_cancel(self, run_id: str, action: CancelAction) -> RunRecord:
        return replace(await super().request_cancel(run_id, action), cancel_requested=action)


class LetsInWhatItShouldReject(MemoryCoordinator):
    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        if record.multitask is MultitaskStrategy.reject:
            record = replace(record, multitask=MultitaskStrategy.enqueue)
        return await super().admit(record, **asked)


class WithdrawsTwice(MemoryCoordinator):
    async def withdraw(self, run_id: str) -> bool:
        run = self._runs.get(run_id)
        return await super().withdraw(run_id) or (run is not None and run.withdrawn)


class WithdrawsWhatRuns(MemoryCoordinator):
    async def withdraw(self, run_id: str) -> bool:
        return await super().withdraw(run_id) or run_id in self._runs


class IgnoresKeys(MemoryCoordinator):
    async def admit(self, record: RunRecord, *, idempotency: IdempotencyKey | None = None, **asked: Any) -> Admission:
        return await super().admit(record, **asked)


class TakesWhoAsksAgainForALostReply(MemoryCoordinator):
    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        known = self._runs.get(record.run_id)
        if known is not None and known.status is RunStatus.pending:
            return Admission(record=record, ready=known.claimable)
        return await super().admit(record, **asked)


class IgnoresBodies(MemoryCoordinator):
    async def admit(self, record: RunRecord, *, idempotency: IdempotencyKey | None = None, **asked: Any) -> Admission:
        key = None if idempotency is None else IdempotencyKey(idempotency.key, "")
        return await super().admit(record, idempotency=key, **asked)


class ForgetsKeysAtTheEnd(MemoryCoordinator):
    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        self._keys.clear()
        return await super().release(run_id, announced)


class UsesUpTheKeyOfWhatItRefuses(MemoryCoordinator):
    async def admit(self, record: RunRecord, *, idempotency: IdempotencyKey | None = None, **asked: Any) -> Admission:
        try:
            return await super().admit(record, idempotency=idempotency, **asked)
        except ThreadBusyError:
            if idempotency is not None:
                await super().admit(
                    replace(record, thread_id=new_id(), run_id=new_id()), idempotency=idempotency, **asked
                )
            raise


class ForgetsWhoIsNext(MemoryCoordinator):
    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        release = await super().release(run_id, announced)
        return release if release.settlement is not None else Release()


class FreesAThreadThatIsCalledBusy(MemoryCoordinator):
    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        release = await super().release(run_id, announced)
        if release.settlement is not None:
            return await super().release(run_id, release.settlement.status)
        return release


class EndsARunThatIsSettled(MemoryCoordinator):
    async def settle(self, run_id: str, status: RunStatus, **said: Any) -> Settlement:
        settlement = await super().settle(run_id, status, **said)
        self._runs[run_id].status = status
        return settlement


class CallsEveryThreadIdle(MemoryCoordinator):
    async def claim(self, run_id: str) -> Claim | None:
        claim = await super().claim(run_id)
        return None if claim is None else claim._replace(thread_status=ThreadStatus.idle)


class CallsAThreadIdleWhileAnotherWaits(MemoryCoordinator):
    async def settle(self, run_id: str, status: RunStatus, **said: Any) -> Settlement:
        return (await super().settle(run_id, status, **said))._replace(status=ThreadStatus.idle)


class DisplacesOnlyTheActiveRun(MemoryCoordinator):
    def _make_room(self, present: Iterable[Any], strategy: MultitaskStrategy) -> list[RunRecord]:
        return super()._make_room([*present][:1], strategy)


class LeavesDelayedRunsAlone(MemoryCoordinator):
    def _make_room(self, present: Iterable[Any], strategy: MultitaskStrategy) -> list[RunRecord]:
        return super()._make_room([run for run in present if run not in self._due_times], strategy)


class DisplacesBeforeItIsDue(MemoryCoordinator):
    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        admission = await super().admit(record, **asked)
        if record.due_at is None or (thread := self._threads.get(record.thread_id)) is None:
            return admission
        displaced = self._make_room([thread.head, *(thread.queue or ())], record.multitask)
        return admission._replace(displaced=[*admission.displaced, *displaced])


class DisplacesDelayedRunsWhenItIsDue(MemoryCoordinator):
    def _on_due(self, run: Any) -> None:
        self._make_room(self._delayed[run.record.thread_id], run.record.multitask)
        super()._on_due(run)


class HoldsAThreadForADelayedRun(MemoryCoordinator):
    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        return await super().admit(replace(record, due_at=None), **asked)


class TellsNobodyWhatIsDue(MemoryCoordinator):
    def attach(self, host: RunHost) -> None: ...


class LetsADelayedRunGoFirst(MemoryCoordinator):
    def _take_place(self, run: Any) -> list[RunRecord]:
        displaced = super()._take_place(run)
        if run.record.due_at is not None and run.thread.queue:
            run.thread.queue.rotate(1)
        return displaced


class ForgetsWhatIsStuck(MemoryCoordinator):
    async def note_stuck(self, run_id: str, since: datetime) -> None: ...


class CallsEndedRunsStuck(MemoryCoordinator):
    async def get(self, run_id: str) -> RunRecord | None:
        record = await super().get(run_id)
        run = self._ended.get(run_id)
        return record if record is None or run is None else replace(record, stuck_since=run.stuck_since)


class CallsAFreeThreadBusy(MemoryCoordinator):
    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        return (await super().admit(record, **asked))._replace(ready=False)


class KnowsWhatItHasRefused(MemoryCoordinator):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.refused: set[str] = set()

    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        if record.run_id in self.refused:
            raise DuplicateRunError(run_id=record.run_id)
        try:
            return await super().admit(record, **asked)
        except ThreadBusyError:
            self.refused.add(record.run_id)
            raise


class TakesTheIdOfARunThatHasEnded(MemoryCoordinator):
    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        self._ended.pop(record.run_id, None)
        return await super().admit(record, **asked)


class DisplacesWithoutAWord(MemoryCoordinator):
    def _make_room(self, present: Iterable[Any], strategy: MultitaskStrategy) -> list[RunRecord]:
        displaced = super()._make_room(runs := [*present], strategy)
        for run in runs:
            if run.status is RunStatus.running:
                run.cancel_requested = None
        return displaced


class WaitsBehindWhatIsNotClaimed(MemoryCoordinator):
    def _make_room(self, present: Iterable[Any], strategy: MultitaskStrategy) -> list[RunRecord]:
        runs = [run for run in present if run.thread.head is not run or run.status is RunStatus.running]
        return super()._make_room(runs, strategy)


class NeverFreesAThreadThatFailed(MemoryCoordinator):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.failed: set[str] = set()

    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        if record.thread_id in self.failed and record.multitask is MultitaskStrategy.reject:
            raise ThreadBusyError(thread_id=record.thread_id)
        return await super().admit(record, **asked)

    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        if announced is ThreadStatus.error:
            self.failed.add(self._runs[run_id].thread.thread_id)
        return await super().release(run_id, announced)


class ForgetsWhenRunsStarted(MemoryCoordinator):
    async def get(self, run_id: str) -> RunRecord | None:
        record = await super().get(run_id)
        return record and replace(record, started_at=None)


class GivesWhatHasEnded(MemoryCoordinator):
    async def claim(self, run_id: str) -> Claim | None:
        ended = self._ended.get(run_id)
        return await super().claim(run_id) if ended is None else Claim(ended.record, ThreadStatus.idle)


class GivesAWithdrawnRunsThreadToNobody(MemoryCoordinator):
    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        withdrawn = (run := self._runs.get(run_id)) is not None and run.withdrawn
        release = await super().release(run_id, announced)
        return Release() if withdrawn and release.settlement is None else release


class KeepsAWithdrawnRunInItsLine(MemoryCoordinator):
    def _withdraw(self, run: Any) -> None:
        line = run.thread.queue and run.thread.queue.copy()
        super()._withdraw(run)
        run.thread.queue = line


class LooksBeforeItWithdraws(MemoryCoordinator):
    async def withdraw(self, run_id: str) -> bool:
        run = self._runs.get(run_id)
        is_pending = run is not None and run.status is RunStatus.pending and not run.withdrawn
        await asyncio.sleep(0)
        return await super().withdraw(run_id) or is_pending


class WithdrawsWhatThereIsNot(MemoryCoordinator):
    async def withdraw(self, run_id: str) -> bool:
        return await super().withdraw(run_id) or await self.get(run_id) is None


class HearsNoCancelOfWhatRuns(MemoryCoordinator):
    async def request_cancel(self, run_id: str, action: CancelAction) -> RunRecord:
        run = self._runs.get(run_id)
        if run is not None and run.status is RunStatus.running:
            return replace(run.snapshot(), cancel_requested=action)
        return await super().request_cancel(run_id, action)


class ForgetsACancelWhenItGivesAThread(MemoryCoordinator):
    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        release = await super().release(run_id, announced)
        if release.next_run_id is not None:
            self._runs[release.next_run_id].cancel_requested = None
        return release


class ForgetsTitles(MemoryCoordinator):
    async def settle(self, run_id: str, status: RunStatus, *, title: str | None = None, **said: Any) -> Settlement:
        return await super().settle(run_id, status, **said)


class KnowsBetterWhatAThreadIs(MemoryCoordinator):
    async def settle(
        self, run_id: str, status: RunStatus, *, at_rest: ThreadStatus | None = None, **said: Any
    ) -> Settlement:
        return await super().settle(run_id, status, **said)


class SettlesARunOnce(MemoryCoordinator):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.settled: dict[str, Settlement] = {}

    async def settle(self, run_id: str, status: RunStatus, **said: Any) -> Settlement:
        if run_id not in self.settled:
            self.settled[run_id] = await super().settle(run_id, status, **said)
        return self.settled[run_id]


class LeavesAThreadAsWasSaidFirst(MemoryCoordinator):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first: dict[str, ThreadStatus] = {}

    async def settle(self, run_id: str, status: RunStatus, **said: Any) -> Settlement:
        settlement = await super().settle(run_id, status, **said)
        thread = self._runs[run_id].thread
        thread.at_rest = self.first.setdefault(run_id, thread.at_rest)
        return settlement


class CallsAThreadIdleWhenARunIsWithdrawn(MemoryCoordinator):
    async def settle(self, run_id: str, status: RunStatus, **said: Any) -> Settlement:
        run = self._runs[run_id]
        if run.withdrawn:
            run.thread.at_rest = ThreadStatus.idle
        return await super().settle(run_id, status, **said)


class LooksForAKeyBeforeItWaits(MemoryCoordinator):
    async def admit(self, record: RunRecord, *, idempotency: IdempotencyKey | None = None, **asked: Any) -> Admission:
        is_new = idempotency is not None and idempotency.key not in self._keys
        await asyncio.sleep(0)
        if is_new and idempotency is not None:
            self._keys.pop(idempotency.key, None)
        return await super().admit(record, idempotency=idempotency, **asked)


class DisplacesNobodyWhenItIsDue(MemoryCoordinator):
    def _on_due(self, run: Any) -> None:
        run.record = replace(run.record, multitask=MultitaskStrategy.enqueue)
        super()._on_due(run)


class HasWithdrawnRunsBecomeDue(MemoryCoordinator):
    def _withdraw(self, run: Any) -> None:
        due_times, self._due_times = self._due_times, DueTimes(self._on_due, now=self._now)
        super()._withdraw(run)
        self._due_times = due_times


class NeverCloses(MemoryCoordinator):
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.Event().wait()


MUTANTS: dict[type[MemoryCoordinator], str] = {
    LetsTwoHoldAThread: "test_a_run_on_a_busy_thread_waits",
    LooksBeforeItWaits: "test_many_admissions_at_once_let_one_run_be_claimed",
    LetsTheLastGoFirst: "test_waiting_runs_get_their_thread_in_the_order_of_their_admission",
    GivesARunTwice: "test_of_many_claims_at_once_one_gets_the_run",
    SaysThatEachThreadIsNew: "test_a_claim_carries_what_was_last_announced_of_the_thread",
    StartsWhatWasCancelled: "test_a_cancel_before_the_claim_wins",
    NotesACancelOfWhatHasEnded: "test_a_cancel_changes_nothing_about_an_ended_run",
    LetsInWhatItShouldReject: "test_reject_refuses_a_run_on_a_thread_that_is_not_free",
    WithdrawsTwice: "test_of_many_that_withdraw_a_run_one_is_told_yes",
    WithdrawsWhatRuns: "test_a_running_run_cannot_be_withdrawn",
    IgnoresKeys: "test_the_same_request_gives_the_run_that_is_there",
    TakesWhoAsksAgainForALostReply: "test_a_run_that_is_named_and_asked_for_again_is_the_one_that_is_there",
    IgnoresBodies: "test_a_key_with_another_body_is_refused",
    ForgetsKeysAtTheEnd: "test_the_same_request_gives_the_run_that_is_there",
    UsesUpTheKeyOfWhatItRefuses: "test_a_refused_request_does_not_use_its_key_up",
    ForgetsWhoIsNext: "test_a_waiting_run_is_not_forgotten_whoever_leaves_before_it",
    FreesAThreadThatIsCalledBusy: "test_a_thread_called_busy_for_a_run_that_is_gone_is_held_until_it_is_said_to_rest",
    EndsARunThatIsSettled: "test_a_settled_run_holds_its_thread_and_has_not_ended",
    CallsEveryThreadIdle: "test_a_claim_carries_what_was_last_announced_of_the_thread",
    CallsAThreadIdleWhileAnotherWaits: "test_a_thread_stays_busy_while_another_run_waits",
    DisplacesOnlyTheActiveRun: "test_interrupt_and_rollback_withdraw_the_runs_that_wait",
    LeavesDelayedRunsAlone: "test_runs_that_are_not_due_make_room_at_once",
    DisplacesBeforeItIsDue: "test_runs_that_are_not_due_make_room_at_once",
    DisplacesDelayedRunsWhenItIsDue: "test_a_run_that_has_become_due_leaves_those_alone_that_are_not",
    HoldsAThreadForADelayedRun: "test_a_delayed_run_holds_nothing_and_nobody_waits_for_it",
    TellsNobodyWhatIsDue: "test_a_delayed_run_may_be_claimed_when_it_is_due",
    ForgetsWhatIsStuck: "test_a_run_that_does_not_stop_is_known_to_be_stuck_until_it_has_ended",
    CallsEndedRunsStuck: "test_a_run_that_does_not_stop_is_known_to_be_stuck_until_it_has_ended",
    LetsADelayedRunGoFirst: "test_a_run_that_has_become_due_waits_behind_those_that_are_there",
    CallsAFreeThreadBusy: "test_a_run_on_a_free_thread_may_be_claimed_at_once",
    KnowsWhatItHasRefused: "test_a_refused_run_leaves_nothing_and_may_come_again",
    TakesTheIdOfARunThatHasEnded: "test_a_run_id_names_one_run",
    DisplacesWithoutAWord: "test_interrupt_and_rollback_ask_the_active_run_to_stop",
    WaitsBehindWhatIsNotClaimed: "test_interrupt_takes_the_place_of_a_run_that_has_not_been_claimed",
    NeverFreesAThreadThatFailed: "test_a_thread_that_has_been_given_back_is_free",
    ForgetsWhenRunsStarted: "test_a_claim_makes_a_run_running_and_gives_its_record",
    GivesWhatHasEnded: "test_a_run_that_runs_or_has_ended_is_not_to_be_had",
    GivesAWithdrawnRunsThreadToNobody: "test_a_withdrawn_run_at_the_head_gives_its_thread_to_the_next",
    KeepsAWithdrawnRunInItsLine: "test_a_withdrawn_run_is_never_to_be_had",
    LooksBeforeItWithdraws: "test_of_a_claim_and_a_withdrawal_one_wins",
    WithdrawsWhatThereIsNot: "test_nobody_knows_a_run_that_there_is_not",
    HearsNoCancelOfWhatRuns: "test_a_cancel_of_a_running_run_is_remembered_and_ends_nothing",
    ForgetsACancelWhenItGivesAThread: "test_a_cancel_before_the_thread_is_given_wins",
    ForgetsTitles: "test_get_says_how_a_run_ended",
    KnowsBetterWhatAThreadIs: "test_a_run_may_say_what_its_thread_is_at_rest",
    SettlesARunOnce: "test_a_run_may_be_settled_again_as_something_else",
    LeavesAThreadAsWasSaidFirst: "test_what_a_thread_is_at_rest_is_what_was_said_last",
    CallsAThreadIdleWhenARunIsWithdrawn: "test_a_run_withdrawn_from_a_busy_thread_leaves_it_as_the_run_before_did",
    LooksForAKeyBeforeItWaits: "test_of_many_same_requests_at_once_one_starts_a_run",
    DisplacesNobodyWhenItIsDue: "test_a_run_that_has_become_due_displaces_as_it_was_asked_to",
    HasWithdrawnRunsBecomeDue: "test_a_delayed_run_that_is_cancelled_or_withdrawn_never_becomes_due",
    NeverCloses: "test_a_run_on_a_busy_thread_waits",
}


def suite(kind: type[MemoryCoordinator]) -> type[CoordinatorContract]:
    class TestSuite(CoordinatorContract):
        virtual_time = True

        @pytest.fixture
        async def coordinators(self) -> Coordinators:
            clock = VirtualClock()
            return Coordinators(lambda: kind(clock=clock), clock=clock)

    return TestSuite
