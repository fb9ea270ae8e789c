"""Coordinators that each share a truth wrongly in one way, and the test of the contract that has to notice."""

from typing import Any

import pytest
from msgspec.structs import replace
from tests.contract.memory_fleet import FleetMember, MemoryFleet, Truth

from trackside.harness import RunRecord, ThreadStatus
from trackside.harness.ports import Admission, Claim, IdempotencyKey, Release, Settlement
from trackside.harness.types import CancelAction, RunStatus
from trackside.testing import CoordinatorContract


class ClaimsFromACopy(FleetMember):
    """Looks whether a run is pending, and says nobody that it is not any more."""

    claimed = False

    async def claim(self, run_id: str) -> Claim | None:
        claim = await self.truth.queue.claim(run_id)
        if claim is None and not self.owns(run_id) and (record := await self.get(run_id)) is not None:
            return Claim(record, ThreadStatus.idle)
        return claim


class HoldsThreadsForItselfAlone(FleetMember):
    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        return (await super().admit(record, **asked))._replace(ready=True)


class KeepsACancelToItself(FleetMember):
    def tell_of_cancel(self, run_id: str, action: CancelAction) -> None: ...


class TellsNobodyOfAHandover(FleetMember):
    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        release = await self.truth.queue.release(run_id, announced)
        return release if release.next_run_id is None or self.owns(release.next_run_id) else Release()


class TellsEverybodyOfAHandover(FleetMember):
    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        release = await self.truth.queue.release(run_id, announced)
        for member in self.truth.members if release.next_run_id is not None else ():
            member.host.on_ready(release.next_run_id)
        return release


class KnowsKeysOfItsOwnOnly(FleetMember):
    async def admit(self, record: RunRecord, *, idempotency: IdempotencyKey | None = None, **asked: Any) -> Admission:
        own = None if idempotency is None else IdempotencyKey(f"{id(self)} {idempotency.key}", idempotency.body)
        return await super().admit(record, idempotency=own, **asked)


class TakesARepetitionForAnother(FleetMember):
    def admitted(self, record: RunRecord) -> Admission | None:
        return None


class _Leaving(FleetMember):
    """A member whose truth does something wrong when a member has gone."""

    truth_kind: type[Truth]


class LeavesLostRunsRunning(_Leaving):
    class truth_kind(Truth):
        async def lose(self, record: RunRecord) -> None: ...


class EndsLostRunsTwice(_Leaving):
    class truth_kind(Truth):
        async def lose(self, record: RunRecord) -> None:
            await super().lose(record)
            self.log.append(self.end_of(record))


class EndsAgainWhatHasEnded(_Leaving):
    """Learns of an end when the run gives its thread back, not when the end is in the log."""

    class truth_kind(Truth):
        def announced(self, run_id: str) -> ThreadStatus | None:
            return None


class AdoptsWhatWasWithdrawn(_Leaving):
    class truth_kind(Truth):
        def is_lost(self, run_id: str) -> bool:
            return self.queue._runs[run_id].status is RunStatus.running


class CallsLostRunsSuccessful(_Leaving):
    class truth_kind(Truth):
        async def lose(self, record: RunRecord) -> None:
            await super().lose(record)
            self.queue._ended[record.run_id].status = RunStatus.success


class LetsEverybodyAdopt(_Leaving):
    class truth_kind(Truth):
        async def abandon(self, gone: FleetMember) -> None:
            await super().abandon(gone)
            for run_id, owner in self.owners.items():
                for member in self.members:
                    if owner is not member and run_id in self.queue._runs:
                        member.host.on_adopted(*self.specs[run_id], ready=run_id in self.ready)


class AdoptsTheLatestFirst(_Leaving):
    class truth_kind(Truth):
        def orphans(self, member: FleetMember) -> list[str]:
            return super().orphans(member)[::-1]


class AdoptsWhateverTheAgent(_Leaving):
    class truth_kind(Truth):
        def orphans(self, member: FleetMember) -> list[str]:
            return [run_id for run_id, owner in self.owners.items() if owner is None and run_id in self.queue._runs]


class LosesPendingRuns(_Leaving):
    class truth_kind(Truth):
        def adopt(self, member: FleetMember) -> None: ...


class ForgetsKeysWhenOneLeaves(_Leaving):
    class truth_kind(Truth):
        async def abandon(self, gone: FleetMember) -> None:
            await super().abandon(gone)
            self.queue._keys.clear()


class ForgetsThreadsWhenOneLeaves(_Leaving):
    class truth_kind(Truth):
        async def abandon(self, gone: FleetMember) -> None:
            await super().abandon(gone)
            self.queue._resting.clear()


class ForgetsWhatWasAskedFor(_Leaving):
    class truth_kind(Truth):
        def adopt(self, member: FleetMember) -> None:
            for run_id in self.orphans(member):
                record, _ = self.specs[run_id]
                self.specs[run_id] = record, type(self.specs[run_id][1])(record.agent)
            super().adopt(member)


class NeverCallsAnAdoptedRunReady(_Leaving):
    class truth_kind(Truth):
        def adopt(self, member: FleetMember) -> None:
            self.ready.clear()
            super().adopt(member)


class LeavesLostRunsForGood(_Leaving):
    class truth_kind(Truth):
        async def start_anew(self, ended: str) -> None: ...


class StartsLostRunsAnewForEver(_Leaving):
    class truth_kind(Truth):
        def next_attempt(self, record: RunRecord) -> str | None:
            return self.retries.setdefault(record.run_id, f"again-{record.run_id}")


class StartsCancelledRunsAnew(_Leaving):
    class truth_kind(Truth):
        def next_attempt(self, record: RunRecord) -> str | None:
            return super().next_attempt(replace(record, cancel_requested=None))


class LetsAnotherAttemptWaitBehindAllOthers(_Leaving):
    class truth_kind(Truth):
        async def start_anew(self, ended: str) -> None:
            before = set(self.specs)
            await super().start_anew(ended)
            if set(self.specs) != before and (line := self.queue._threads[self.specs[ended][0].thread_id].queue):
                line.rotate(-1)


class CountsNoAttempts(_Leaving):
    class truth_kind(Truth):
        async def start_anew(self, ended: str) -> None:
            await super().start_anew(ended)
            if (run_id := self.retries.get(ended)) is not None:
                record, spec = self.specs[run_id]
                self.specs[run_id] = record, replace(spec, attempt=1)


class ShutsRunsDownForGood(FleetMember):
    async def settle(self, run_id: str, status: RunStatus, *, shut_down: bool = False, **said: Any) -> Settlement:
        return await super().settle(run_id, status, **said)


class SaysOfOthersRunsThatTheyWait(FleetMember):
    async def get(self, run_id: str) -> RunRecord | None:
        record = await super().get(run_id)
        return record if record is None or self.owns(run_id) else replace(record, status=RunStatus.pending)


class DisplacesWithoutAWordToOthers(FleetMember):
    admits = False

    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        self.admits = True
        try:
            return await super().admit(record, **asked)
        finally:
            self.admits = False

    def tell_of_cancel(self, run_id: str, action: CancelAction) -> None:
        if not self.admits:
            super().tell_of_cancel(run_id, action)


class DisplacesDelayedRunsWithoutAWordToOthers(FleetMember):
    def tell_of_cancel(self, run_id: str, action: CancelAction) -> None:
        if self.truth.specs[run_id][0].due_at is None:
            super().tell_of_cancel(run_id, action)


class LeavesDelayedRunsToNobody(_Leaving):
    class truth_kind(Truth):
        def orphans(self, member: FleetMember) -> list[str]:
            due = self.queue._due_times
            return [run_id for run_id in super().orphans(member) if self.queue._runs[run_id] not in due]


MUTANTS: dict[type[FleetMember], str] = {
    ClaimsFromACopy: "test_a_run_is_given_to_one_of_many_coordinators",
    HoldsThreadsForItselfAlone: "test_a_thread_is_held_for_all_coordinators",
    KeepsACancelToItself: "test_a_cancel_reaches_the_process_that_has_the_run",
    TellsNobodyOfAHandover: "test_a_thread_is_handed_over_to_the_run_of_another_process",
    TellsEverybodyOfAHandover: "test_a_thread_is_handed_over_to_the_run_of_another_process",
    KnowsKeysOfItsOwnOnly: "test_a_key_is_known_to_all_coordinators",
    TakesARepetitionForAnother: "test_a_step_that_was_cut_off_and_is_taken_again_answers_as_if_it_had_not_been",
    LeavesLostRunsRunning: "test_the_thread_of_a_dead_process_becomes_free",
    EndsLostRunsTwice: "test_a_run_of_a_dead_process_ends_once_and_its_waiting_runs_go_on",
    EndsAgainWhatHasEnded: "test_whatever_step_a_dead_process_was_at_its_run_ends_once_and_its_thread_becomes_free",
    AdoptsWhatWasWithdrawn: "test_whatever_step_a_dead_process_was_at_its_run_ends_once_and_its_thread_becomes_free",
    CallsLostRunsSuccessful: "test_a_run_that_was_running_is_lost_after_a_restart",
    LetsEverybodyAdopt: "test_a_run_of_a_dead_process_ends_once_and_its_waiting_runs_go_on",
    AdoptsTheLatestFirst: "test_pending_runs_start_in_their_order_after_a_restart",
    AdoptsWhateverTheAgent: "test_runs_are_adopted_by_a_process_that_has_their_agent",
    LosesPendingRuns: "test_pending_runs_start_in_their_order_after_a_restart",
    ForgetsKeysWhenOneLeaves: "test_what_is_known_survives_a_restart",
    ForgetsThreadsWhenOneLeaves: "test_what_is_known_survives_a_restart",
    ForgetsWhatWasAskedFor: "test_pending_runs_start_in_their_order_after_a_restart",
    LeavesLostRunsForGood: "test_a_lost_run_is_started_anew_in_front_of_those_that_wait",
    StartsLostRunsAnewForEver: "test_the_last_attempt_is_lost_for_good",
    StartsCancelledRunsAnew: "test_a_run_without_attempts_left_or_that_was_cancelled_is_not_started_anew",
    LetsAnotherAttemptWaitBehindAllOthers: "test_a_lost_run_is_started_anew_in_front_of_those_that_wait",
    CountsNoAttempts: "test_a_lost_run_is_started_anew_in_front_of_those_that_wait",
    ShutsRunsDownForGood: "test_a_run_that_was_shut_down_is_started_anew_elsewhere",
    NeverCallsAnAdoptedRunReady: "test_pending_runs_start_in_their_order_after_a_restart",
    SaysOfOthersRunsThatTheyWait: "test_every_coordinator_knows_how_a_run_is",
    DisplacesWithoutAWordToOthers: "test_a_displaced_run_of_another_process_is_asked_to_stop",
    DisplacesDelayedRunsWithoutAWordToOthers: "test_a_delayed_run_of_another_process_makes_room_at_once",
    LeavesDelayedRunsToNobody: "test_a_delayed_run_becomes_due_after_a_restart",
}


def suite(kind: type[FleetMember]) -> type[CoordinatorContract]:
    class TestSuite(CoordinatorContract):
        virtual_time = True
        durable = True
        shared = True

        @pytest.fixture
        async def coordinators(self) -> MemoryFleet:
            return MemoryFleet(getattr(kind, "truth_kind", Truth)(), kind)

    return TestSuite
