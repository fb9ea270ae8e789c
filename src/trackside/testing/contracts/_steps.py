"""The steps of a run that was let in: claim, withdraw, settle, release, cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any

import pytest

from trackside.harness.errors import TracksideError, UnknownRunError
from trackside.harness.ids import new_id
from trackside.harness.ports import Release, Settlement
from trackside.harness.types import CancelAction, RunStatus, ThreadStatus
from trackside.testing.contracts._cutting import taken_again
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts.fleet import Coordinators


class StepPromises(Contract):
    """The part of a `CoordinatorContract` that is about the steps of one run."""

    @promise("RunCoordinator.claim")
    async def test_a_claim_makes_a_run_running_and_gives_its_record(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        record = worker.record()
        await worker.admit(record)
        claim = await worker.start(record.run_id)
        assert claim.record.run_id == record.run_id, f"claim gave {claim.record}"
        assert claim.record.thread_id == record.thread_id, f"claim gave {claim.record}"
        now = await worker.get(record.run_id)
        assert now.status is RunStatus.running, f"a claimed run is {now.status}"
        assert now.started_at is not None, "a claimed run has no started_at"

    @promise("RunCoordinator.claim")
    async def test_of_many_claims_at_once_one_gets_the_run(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.let_in()
        claims = await asyncio.gather(*(worker.coordinator.claim(run_id) for _ in range(8)))
        given = sum(claim is not None for claim in claims)
        assert given == 1, f"8 claims at once were given the run {given} times"

    @promise("RunCoordinator.claim")
    async def test_a_run_that_runs_or_has_ended_is_not_to_be_had(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.run_on()
        assert await worker.coordinator.claim(run_id) is None, "a running run was to be had"
        await worker.end(run_id)
        assert await worker.coordinator.claim(run_id) is None, "an ended run was to be had"

    @promise("RunCoordinator.note_stuck")
    async def test_a_run_that_does_not_stop_is_known_to_be_stuck_until_it_has_ended(
        self, coordinators: Coordinators
    ) -> None:
        worker = await coordinators.worker()
        run_id, since = await worker.run_on(), coordinators.clock.now()
        assert (await worker.get(run_id)).stuck_since is None, "a run is stuck that nobody wanted to stop"
        await worker.coordinator.note_stuck(run_id, since)
        stuck_since = (await worker.get(run_id)).stuck_since
        assert stuck_since == since, f"it is stuck since {since}, and get says {stuck_since}"
        await worker.end(run_id, RunStatus.cancelled)
        assert (await worker.get(run_id)).stuck_since is None, "a run that has ended is stuck"

    @promise("RunCoordinator.withdraw")
    async def test_of_many_that_withdraw_a_run_one_is_told_yes(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.let_in()
        told = await asyncio.gather(*(worker.coordinator.withdraw(run_id) for _ in range(8)))
        assert sum(told) == 1, f"8 withdrawals at once were told yes {sum(told)} times"
        assert not await worker.coordinator.withdraw(run_id), "a withdrawn run was withdrawn once more"
        await worker.end(run_id, RunStatus.cancelled)
        assert not await worker.coordinator.withdraw(run_id), "an ended run was withdrawn"

    @promise("RunCoordinator.withdraw")
    async def test_a_withdrawn_run_is_never_to_be_had(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        first, second = await worker.run_on("t"), await worker.let_in("t")
        third = await worker.let_in("t")
        release = await worker.drop(second)
        assert release == Release(), f"a run that only waited gave back a thread: {release}"
        release = await worker.end(first)
        assert release.next_run_id == third, f"next was {release.next_run_id}, and a withdrawn run stood before {third}"
        assert await worker.coordinator.claim(second) is None, "a withdrawn run was to be had"

    @promise("RunCoordinator.withdraw")
    async def test_a_running_run_cannot_be_withdrawn(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.run_on()
        assert not await worker.coordinator.withdraw(run_id), "a running run was withdrawn"
        await worker.end(run_id)

    @promise("RunCoordinator.withdraw")
    async def test_a_withdrawn_run_at_the_head_gives_its_thread_to_the_next(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        first, second = await worker.let_in("t"), await worker.let_in("t")
        release = await worker.drop(first)
        assert release.next_run_id == second, f"next was {release.next_run_id}"
        claim = await worker.start(second)
        assert claim.thread_status is ThreadStatus.idle, f"nobody had started, and the thread was {claim.thread_status}"

    @promise("RunCoordinator.claim")
    async def test_of_a_claim_and_a_withdrawal_one_wins(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        for number in range(8):
            run_id = await worker.let_in(f"t{number}")
            steps: list[Awaitable[Any]] = [worker.coordinator.claim(run_id), worker.coordinator.withdraw(run_id)]
            first, second = await asyncio.gather(*(steps if number % 2 else steps[::-1]))
            assert bool(first) != bool(second), f"a claim and a withdrawal at once gave {first} and {second}"

    @promise("RunCoordinator.settle")
    async def test_a_settled_run_holds_its_thread_and_has_not_ended(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.run_on("t")
        settlement = await worker.coordinator.settle(run_id, RunStatus.success)
        expected = Settlement(ThreadStatus.busy, ThreadStatus.idle)
        assert settlement == expected, f"settle says {settlement}, not {expected}"
        assert (await worker.get(run_id)).status is RunStatus.running, "it had ended before its end was durable"
        assert not (await worker.admit(worker.record("t"))).ready, "its thread was free before its end was durable"

    @promise("RunCoordinator.settle")
    async def test_a_thread_stays_busy_while_another_run_waits(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.run_on("t")
        await worker.let_in("t")
        settlement = await worker.coordinator.settle(run_id, RunStatus.error)
        assert settlement.status is ThreadStatus.busy, f"another waits, and the thread becomes {settlement.status}"

    @promise("RunCoordinator.settle")
    async def test_a_run_may_say_what_its_thread_is_at_rest(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.run_on("t")
        await worker.end(run_id, RunStatus.cancelled, at_rest=ThreadStatus.interrupted)
        claim = await worker.start(await worker.let_in("t"))
        assert claim.thread_status is ThreadStatus.interrupted, f"it was left interrupted and is {claim.thread_status}"

    @promise("RunCoordinator.settle")
    async def test_a_run_may_be_settled_again_as_something_else(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.run_on("t")
        await worker.coordinator.settle(run_id, RunStatus.cancelled, at_rest=ThreadStatus.interrupted, shut_down=True)
        settlement = await worker.coordinator.settle(run_id, RunStatus.error, error="it could not be saved")
        expected = Settlement(ThreadStatus.busy, ThreadStatus.error)
        assert settlement == expected, f"it was settled as a failure last, and settle says {settlement}, not {expected}"
        await worker.announce_end(run_id, "t", RunStatus.error, settlement, error="it could not be saved")
        await worker.release(run_id, "t", settlement.status)
        assert (await worker.get(run_id)).status is RunStatus.error, "it was settled, and ended, as a failure"

    @promise("RunCoordinator.settle")
    async def test_what_a_thread_is_at_rest_is_what_was_said_last(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        first, second = await worker.run_on("t"), await worker.let_in("t")
        await worker.coordinator.settle(first, RunStatus.cancelled, at_rest=ThreadStatus.interrupted)
        settlement = await worker.coordinator.settle(first, RunStatus.error)
        await worker.drop(second)
        await worker.announce_end(first, "t", RunStatus.error, settlement)
        release = await worker.coordinator.release(first, settlement.status)
        expected = Settlement(ThreadStatus.busy, ThreadStatus.error)
        assert release.settlement == expected, f"it was settled as a failure last, and release says {release}"

    @promise("RunCoordinator.get")
    async def test_get_says_how_a_run_ended(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.run_on("t")
        await worker.end(run_id, RunStatus.error, error="it broke", title="A title")
        record = await worker.get(run_id)
        assert record.status is RunStatus.error, f"it ended as error, and get says {record.status}"
        assert (record.error, record.title) == ("it broke", "A title"), f"get says {record.error!r}, {record.title!r}"
        assert record.ended_at is not None, "an ended run has no ended_at"

    @promise("RunCoordinator.release")
    async def test_a_thread_called_busy_for_a_run_that_is_gone_is_held_until_it_is_said_to_rest(
        self, coordinators: Coordinators
    ) -> None:
        worker = await coordinators.worker()
        first, second = await worker.run_on("t"), await worker.let_in("t")
        settlement = await worker.coordinator.settle(first, RunStatus.error)
        await worker.drop(second)
        await worker.announce_end(first, "t", RunStatus.error, settlement)
        release = await worker.coordinator.release(first, settlement.status)
        expected = Settlement(ThreadStatus.busy, ThreadStatus.error)
        assert release.settlement == expected, f"nobody waits, busy was announced, and release says {release}"
        third = worker.record("t")
        assert not (await worker.admit(third)).ready, "the thread was free before it was said to rest"
        await worker.announce_rest(first, "t", expected)
        release = await worker.coordinator.release(first, ThreadStatus.error)
        assert release.next_run_id == third.run_id, f"next was {release.next_run_id}, and a run had come meanwhile"

    @promise("RunCoordinator.release")
    async def test_a_run_withdrawn_from_a_busy_thread_leaves_it_as_the_run_before_did(
        self, coordinators: Coordinators
    ) -> None:
        worker = await coordinators.worker()
        first, second = await worker.run_on("t"), await worker.let_in("t")
        await worker.end(first, RunStatus.error)
        await worker.drop(second)
        claim = await worker.start(await worker.let_in("t"))
        assert claim.thread_status is ThreadStatus.error, (
            f"the last run failed, and the thread is {claim.thread_status}"
        )

    @promise("RunCoordinator.release")
    async def test_a_waiting_run_is_not_forgotten_whoever_leaves_before_it(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        runs = [await worker.let_in("t") for _ in range(6)]
        await worker.start(runs[0])
        for gone in (runs[1], runs[3]):
            await worker.drop(gone)
        order = [runs[0]]
        while (release := await worker.end(order[-1])).next_run_id is not None:
            order.append(release.next_run_id)
            await worker.start(order[-1])
        expected = [runs[0], runs[2], runs[4], runs[5]]
        assert order == expected, f"runs {[runs.index(r) + 1 for r in order]} got the thread, not 1, 3, 5, 6"

    @promise("RunCoordinator.request_cancel")
    async def test_a_cancel_before_the_claim_wins(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.let_in("t")
        await worker.coordinator.request_cancel(run_id, CancelAction.interrupt)
        assert await worker.coordinator.claim(run_id) is None, "a run was claimed after it had been cancelled"
        await worker.drop(run_id)
        assert (await worker.get(run_id)).status is RunStatus.cancelled, "it did not end as cancelled"
        assert (await worker.admit(worker.record("t", multitask="reject"))).ready, "its thread stayed held"

    @promise("RunCoordinator.request_cancel")
    async def test_a_cancel_before_the_thread_is_given_wins(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        first, second = await worker.run_on("t"), await worker.let_in("t")
        await worker.coordinator.request_cancel(second, CancelAction.interrupt)
        await worker.end(first)
        assert await worker.coordinator.claim(second) is None, "a run was claimed after it had been cancelled"
        await worker.drop(second)

    @pytest.mark.parametrize("action", list(CancelAction), ids=str)
    @promise("RunCoordinator.request_cancel")
    async def test_a_cancel_of_a_running_run_is_remembered_and_ends_nothing(
        self, coordinators: Coordinators, action: CancelAction
    ) -> None:
        worker = await coordinators.worker()
        run_id = await worker.run_on("t")
        for _ in range(2):
            record = await worker.coordinator.request_cancel(run_id, action)
            assert record.cancel_requested is action, f"{action} was asked for, and {record.cancel_requested} noted"
            assert record.status is RunStatus.running, f"a run that has not stopped is {record.status}"
        assert (await worker.get(run_id)).cancel_requested is action, "get does not know of the cancel"

    @promise("RunCoordinator.request_cancel")
    async def test_a_cancel_changes_nothing_about_an_ended_run(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.run_on("t")
        await worker.end(run_id)
        record = await worker.coordinator.request_cancel(run_id, CancelAction.rollback)
        assert record.status is RunStatus.success, f"a run that had ended as success is {record.status}"
        assert record.cancel_requested is None, "a cancel was noted for a run that had ended"

    @promise("RunCoordinator.get")
    async def test_nobody_knows_a_run_that_there_is_not(self, coordinators: Coordinators) -> None:
        coordinator, nobody = (await coordinators.worker()).coordinator, new_id()
        assert await coordinator.get(nobody) is None, "get knows a run that there is not"
        assert await coordinator.claim(nobody) is None, "claim gave a run that there is not"
        assert not await coordinator.withdraw(nobody), "withdraw took out a run that there is not"
        with pytest.raises(UnknownRunError):
            await coordinator.request_cancel(nobody, CancelAction.interrupt)
        with pytest.raises(TracksideError):
            await coordinator.settle(nobody, RunStatus.success)
        with pytest.raises(TracksideError):
            await coordinator.release(nobody, ThreadStatus.idle)

    @pytest.mark.parametrize("turns", [1, 2, 4, 16])
    @promise("repeatable")
    async def test_a_step_that_was_cut_off_and_is_taken_again_answers_as_if_it_had_not_been(
        self, coordinators: Coordinators, turns: int
    ) -> None:
        worker = await coordinators.worker()
        coordinator, cut = worker.coordinator, partial(taken_again, turns)
        record, second = worker.record("t"), worker.record("t")
        admission = await cut("admit", lambda: worker.admit(record))
        assert admission.ready, "a run on a free thread was not ready"
        claim = await cut("claim", lambda: coordinator.claim(record.run_id))
        assert claim is not None, "a run that was to be had was lost with the reply of its claim"
        await worker.announce_start(claim)
        await worker.admit(second)
        asked = await cut("request_cancel", lambda: coordinator.request_cancel(record.run_id, CancelAction.interrupt))
        assert asked.cancel_requested is CancelAction.interrupt, f"{asked.cancel_requested} was noted"
        settlement = await cut("settle", lambda: coordinator.settle(record.run_id, RunStatus.cancelled))
        expected = Settlement(ThreadStatus.busy, ThreadStatus.busy)
        assert settlement == expected, f"settle says {settlement}, not {expected}"
        await worker.announce_end(record.run_id, "t", RunStatus.cancelled, settlement)
        release = await cut("release", lambda: coordinator.release(record.run_id, settlement.status))
        assert release.next_run_id == second.run_id, f"next was {release.next_run_id}"
        withdrawn = await cut("withdraw", lambda: coordinator.withdraw(second.run_id))
        assert withdrawn, "nobody was told to announce the end of a run whose withdrawal was cut off"
