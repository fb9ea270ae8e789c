"""Which runs are let in, and in which order threads are given to those that wait."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from msgspec.structs import replace

from trackside.harness.errors import DuplicateRunError, ThreadBusyError
from trackside.harness.types import CancelAction, MultitaskStrategy, RunStatus, ThreadStatus
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts.fleet import Coordinators, Worker

_DISPLACING = [MultitaskStrategy.interrupt, MultitaskStrategy.rollback]


class AdmissionPromises(Contract):
    """The part of a `CoordinatorContract` that is about admission."""

    @promise("RunCoordinator.admit")
    async def test_a_run_on_a_free_thread_may_be_claimed_at_once(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        record = worker.record()
        admission = await worker.admit(record)
        assert admission.ready, "a run on a free thread was not ready"
        assert not admission.existing, "a new run was called existing"
        assert not admission.displaced, f"it displaced {admission.displaced} on a free thread"
        assert admission.record.run_id == record.run_id, f"{admission.record} was admitted instead of {record}"
        assert (await worker.get(record.run_id)).status is RunStatus.pending, "it was not pending before its claim"

    @promise("RunCoordinator.admit")
    async def test_a_run_on_a_busy_thread_waits(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        await worker.run_on("t")
        record = worker.record("t")
        assert not (await worker.admit(record)).ready, "a run behind an active one was ready"
        assert await worker.coordinator.claim(record.run_id) is None, "a run behind an active one was to be had"
        assert (await worker.admit(worker.record("another"))).ready, "a busy thread held up a run of another thread"

    @promise("RunCoordinator.admit")
    async def test_waiting_runs_get_their_thread_in_the_order_of_their_admission(
        self, coordinators: Coordinators
    ) -> None:
        worker = await coordinators.worker()
        admitted = [await worker.let_in("t") for _ in range(5)]
        started = [admitted[0]]
        for _ in admitted:
            await worker.start(started[-1])
            release = await worker.end(started[-1])
            if release.next_run_id is None:
                break
            started.append(release.next_run_id)
        assert started == admitted, (
            f"runs {_numbers(admitted, admitted)} started in the order {_numbers(started, admitted)}"
        )

    @promise("RunCoordinator.admit")
    async def test_reject_refuses_a_run_on_a_thread_that_is_not_free(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        first = await worker.let_in("t", multitask="reject")
        await self._is_busy(worker, "an admitted run")
        await worker.start(first)
        await self._is_busy(worker, "an active run")
        second = await worker.let_in("t")
        await worker.end(first)
        await self._is_busy(worker, "a run that has been given the thread")
        await worker.start(second)
        await worker.end(second)
        assert (await worker.admit(worker.record("t", multitask="reject"))).ready, "a free thread was busy"

    async def _is_busy(self, worker: Worker, why: str) -> None:
        refused = worker.record("t", multitask="reject")
        try:
            await worker.admit(refused)
        except ThreadBusyError:
            assert await worker.coordinator.get(refused.run_id) is None, "a run that was refused is there"
        else:
            raise AssertionError(f"reject let a run in although the thread has {why}")

    @promise("RunCoordinator.admit")
    async def test_a_refused_run_leaves_nothing_and_may_come_again(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        first = await worker.run_on("t")
        refused = worker.record("t", multitask="reject")
        with pytest.raises(ThreadBusyError):
            await worker.admit(refused)
        release = await worker.end(first)
        assert release.next_run_id is None, "the thread was given to a run that had been refused"
        assert (await worker.admit(refused)).ready, "the same run was not let in when the thread was free"

    @promise("RunCoordinator.admit")
    async def test_a_run_id_names_one_run(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        taken = await worker.run_on("t")
        record = worker.record("other")
        again = replace(record, run_id=taken)
        for when in ("while it is active", "after its end"):
            try:
                await worker.admit(again)
            except DuplicateRunError:
                pass
            else:
                raise AssertionError(f"another run was let in under the id of a run {when}")
            if when == "while it is active":
                await worker.end(taken)

    @pytest.mark.parametrize("strategy", _DISPLACING, ids=str)
    @promise("RunCoordinator.admit")
    async def test_interrupt_and_rollback_ask_the_active_run_to_stop(
        self, coordinators: Coordinators, strategy: MultitaskStrategy
    ) -> None:
        worker = await coordinators.worker()
        active = await worker.run_on("t")
        record = worker.record("t", multitask=strategy)
        admission = await worker.admit(record)
        assert [r.run_id for r in admission.displaced] == [active], f"displaced were {admission.displaced}"
        asked = await worker.get(active)
        assert asked.cancel_requested == CancelAction(strategy.value), f"it was asked for {asked.cancel_requested}"
        assert asked.status is RunStatus.running, f"a run that has not stopped is {asked.status}"
        assert not admission.ready, "the new run was ready before the active one had stopped"
        assert await worker.coordinator.claim(record.run_id) is None, "two runs of one thread were to be had"
        release = await worker.end(active, RunStatus.cancelled)
        assert release.next_run_id == record.run_id, f"the thread was given to {release.next_run_id}"

    @pytest.mark.parametrize("strategy", _DISPLACING, ids=str)
    @promise("RunCoordinator.admit")
    async def test_interrupt_and_rollback_withdraw_the_runs_that_wait(
        self, coordinators: Coordinators, strategy: MultitaskStrategy
    ) -> None:
        worker = await coordinators.worker()
        active = await worker.run_on("t")
        waiting = [await worker.let_in("t") for _ in range(2)]
        record = worker.record("t", multitask=strategy)
        displaced = [r.run_id for r in (await worker.admit(record)).displaced]
        assert sorted(displaced) == sorted([active, *waiting]), (
            f"of one active and {len(waiting)} waiting runs {len(displaced)} were displaced"
        )
        for run_id in waiting:
            assert not await worker.coordinator.withdraw(run_id), "a displaced run was withdrawn once more"
            await worker.end(run_id, RunStatus.cancelled)
        release = await worker.end(active, RunStatus.cancelled)
        assert release.next_run_id == record.run_id, "a displaced run was given the thread"

    @promise("RunCoordinator.admit")
    async def test_interrupt_takes_the_place_of_a_run_that_has_not_been_claimed(
        self, coordinators: Coordinators
    ) -> None:
        worker = await coordinators.worker()
        pending = await worker.let_in("t")
        record = worker.record("t", multitask="interrupt")
        admission = await worker.admit(record)
        assert [r.run_id for r in admission.displaced] == [pending], f"displaced were {admission.displaced}"
        assert await worker.coordinator.claim(pending) is None, "a displaced run was to be had"
        release = await worker.end(pending, RunStatus.cancelled)
        assert admission.ready or release.next_run_id == record.run_id, "nobody was told that the thread is free"
        await worker.start(record.run_id)

    @promise("one active run")
    async def test_many_admissions_at_once_let_one_run_be_claimed(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        records = [worker.record("t") for _ in range(32)]
        admissions = await asyncio.gather(*(worker.admit(record) for record in records))
        ready = [a.record.run_id for a in admissions if a.ready]
        assert len(ready) == 1, f"{len(ready)} of {len(records)} runs of one thread were ready"
        claims = await asyncio.gather(*(worker.coordinator.claim(record.run_id) for record in records))
        claimed = [claim.record.run_id for claim in claims if claim is not None]
        assert claimed == ready, f"{len(claimed)} runs of one thread were to be had"

    @promise("one active run")
    async def test_many_runs_of_many_threads_each_run_once_and_one_at_a_time(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        active, runs, most = Counter[str](), Counter[str](), Counter[str]()

        async def run_to_the_end(run_id: str | None, thread_id: str) -> None:
            while run_id is not None:
                await worker.start(run_id)
                active[thread_id] += 1
                runs[run_id] += 1
                most[thread_id] = max(most[thread_id], active[thread_id])
                await asyncio.sleep(0)
                active[thread_id] -= 1
                run_id = (await worker.end(run_id)).next_run_id

        async def admit_and_run(thread_id: str) -> None:
            admission = await worker.admit(worker.record(thread_id))
            if admission.ready:
                await run_to_the_end(admission.record.run_id, thread_id)

        threads = [f"t{number % 6}" for number in range(48)]
        await asyncio.gather(*(admit_and_run(thread_id) for thread_id in threads))
        assert max(most.values()) == 1, f"up to {max(most.values())} runs of a thread ran at once"
        assert len(runs) == len(threads), f"{len(threads) - len(runs)} of {len(threads)} runs never got their thread"
        assert set(runs.values()) == {1}, "a run ran twice"

    @promise("RunCoordinator.admit")
    async def test_a_thread_that_has_been_given_back_is_free(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        for status in (RunStatus.success, RunStatus.error, RunStatus.interrupted):
            run_id = await worker.run_on("t", multitask="reject")
            release = await worker.end(run_id, status)
            assert release.next_run_id is None, f"{release.next_run_id} was next, and nobody waits"
            assert (await worker.get(run_id)).status is status, f"after its end as {status} get says something else"

    @promise("RunCoordinator.claim")
    async def test_a_claim_carries_what_was_last_announced_of_the_thread(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        expected = ThreadStatus.idle
        for status, after in (
            (RunStatus.error, ThreadStatus.error),
            (RunStatus.interrupted, ThreadStatus.interrupted),
            (RunStatus.cancelled, ThreadStatus.idle),
            (RunStatus.success, ThreadStatus.idle),
        ):
            is_first = expected is ThreadStatus.idle and status is RunStatus.error
            claim = await worker.start(await worker.let_in("t"))
            assert claim.thread_status is expected, f"the thread was {expected}, and claim says {claim.thread_status}"
            assert is_first or not claim.new_thread, "claim says of a thread that has had runs that it is new"
            await worker.end(claim.record.run_id, status)
            expected = after
        first = await worker.run_on("t")
        second = await worker.let_in("t")
        await worker.end(first)
        claim = await worker.start(second)
        assert claim.thread_status is ThreadStatus.busy, f"a thread that was never idle is {claim.thread_status}"


def _numbers(runs: list[str], order: list[str]) -> list[int]:
    return [order.index(run_id) + 1 for run_id in runs]
