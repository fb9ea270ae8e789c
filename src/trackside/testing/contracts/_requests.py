"""Requests that come again, and runs that are asked for now and start later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from typing import ClassVar

import pytest
from msgspec.structs import replace

from trackside.harness.errors import DuplicateRunError, InvalidSpecError, ThreadBusyError
from trackside.harness.ports import IdempotencyKey
from trackside.harness.types import CancelAction, CancelMode, RunRecord, RunStatus, ThreadStatus
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts.fleet import Coordinators, Worker

_KEY = IdempotencyKey("key", "body")


class RequestPromises(Contract):
    """The part of a `CoordinatorContract` that is about idempotency keys and delayed runs."""

    delay: ClassVar[float] = 0.1
    """Seconds after which the runs of a test are due: about as long as a few steps of the coordinator take."""

    @promise("idempotency")
    async def test_the_same_request_gives_the_run_that_is_there(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        first = worker.record("t")
        assert not (await worker.admit(first, key=_KEY)).existing, "a new key was called known"
        await self._finds(worker, first.run_id, RunStatus.pending)
        await worker.start(first.run_id)
        await self._finds(worker, first.run_id, RunStatus.running)
        await worker.end(first.run_id)
        await self._finds(worker, first.run_id, RunStatus.success)

    async def _finds(self, worker: Worker, run_id: str, status: RunStatus) -> None:
        again = worker.record("t", multitask="reject")
        admission = await worker.admit(again, key=_KEY)
        assert admission.existing, f"the same request started another run while the first was {status}"
        assert admission.record.run_id == run_id, f"the key named {run_id}, and {admission.record.run_id} came back"
        assert admission.record.status is status, f"the run was {status} and came back as {admission.record.status}"
        assert await worker.coordinator.get(again.run_id) is None, "the same request left another run behind"

    @promise("idempotency")
    async def test_a_run_that_is_named_and_asked_for_again_is_the_one_that_is_there(
        self, coordinators: Coordinators
    ) -> None:
        worker = await coordinators.worker()
        ahead, first = await worker.run_on("t"), worker.record("t")
        await worker.admit(first, key=_KEY)
        again = replace(first, created_at=first.created_at + timedelta(seconds=1))

        async def finds(status: RunStatus) -> None:
            admission = await worker.admit(again, key=_KEY)
            assert admission.existing, f"the same request, by run id and key, was taken for a new run: it was {status}"
            assert admission.record.status is status, (
                f"the run was {status}, and came back as {admission.record.status}"
            )
            for key in (None, IdempotencyKey("another", "another body")):
                with pytest.raises(DuplicateRunError):
                    await worker.admit(again, key=key)

        await finds(RunStatus.pending)
        await worker.end(ahead)
        await finds(RunStatus.pending)
        await worker.start(first.run_id)
        await finds(RunStatus.running)
        await worker.end(first.run_id)
        await finds(RunStatus.success)

    @promise("idempotency")
    async def test_a_key_with_another_body_is_refused(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        first = worker.record("t")
        await worker.admit(first, key=_KEY)
        for when in ("active", "ended"):
            other = worker.record("t2")
            try:
                await worker.admit(other, key=IdempotencyKey(_KEY.key, "another body"))
            except InvalidSpecError:
                assert await worker.coordinator.get(other.run_id) is None, "a refused request left a run behind"
            else:
                raise AssertionError(f"the key of an {when} run was taken with another body")
            if when == "active":
                await worker.start(first.run_id)
                await worker.end(first.run_id)

    @promise("idempotency")
    async def test_of_many_same_requests_at_once_one_starts_a_run(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        records = [worker.record(f"t{number}") for number in range(8)]
        admissions = await asyncio.gather(*(worker.admit(record, key=_KEY) for record in records))
        new = [a for a in admissions if not a.existing]
        assert len(new) == 1, f"8 same requests at once started {len(new)} runs"
        assert {a.record.run_id for a in admissions} == {new[0].record.run_id}, "they were given different runs"

    @promise("idempotency")
    async def test_a_refused_request_does_not_use_its_key_up(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        first = await worker.run_on("t")
        with pytest.raises(ThreadBusyError):
            await worker.admit(worker.record("t", multitask="reject"), key=_KEY)
        await worker.end(first)
        admission = await worker.admit(worker.record("t", multitask="reject"), key=_KEY)
        assert not admission.existing, "a request that was refused was taken for one that is there"

    @promise("due_at")
    async def test_a_delayed_run_holds_nothing_and_nobody_waits_for_it(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        delayed = worker.record("t", due_in=3_600)
        assert not (await worker.admit(delayed)).ready, "a run was ready before it was due"
        assert await worker.coordinator.claim(delayed.run_id) is None, "a run was to be had before it was due"
        admission = await worker.admit(worker.record("t", multitask="reject"))
        assert admission.ready, "a delayed run held its thread"
        await worker.start(admission.record.run_id)
        settlement = await worker.coordinator.settle(admission.record.run_id, RunStatus.success)
        assert settlement.status is ThreadStatus.idle, f"a delayed run kept its thread {settlement.status}"
        await worker.announce_end(admission.record.run_id, "t", RunStatus.success, settlement)
        release = await worker.release(admission.record.run_id, "t", settlement.status)
        assert release.next_run_id is None, "a delayed run was given its thread before it was due"
        await worker.drop(delayed.run_id)

    @promise("due_at")
    async def test_a_delayed_run_may_be_claimed_when_it_is_due(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()
        run_id = await worker.let_in("t", due_in=self.delay)
        await worker.host.told(lambda: run_id in worker.host.ready, "that a run is due")
        await worker.start(run_id)
        await worker.end(run_id)

    @promise("due_at")
    async def test_a_run_that_has_become_due_waits_behind_those_that_are_there(
        self, coordinators: Coordinators
    ) -> None:
        worker = await coordinators.worker()

        async def story(thread: str, delay: float) -> None:
            delayed = worker.record(thread, multitask="reject", due_in=delay)
            await worker.admit(delayed)
            holder, before = await worker.run_on(thread), await worker.let_in(thread)
            _check_in_time(worker, delayed)
            await self._pass_delay(worker, delay)
            after = await worker.let_in(thread)
            order = [holder]
            while (release := await worker.end(order[-1])).next_run_id is not None:
                order.append(release.next_run_id)
                await worker.start(order[-1])
            names = {holder: "holder", before: "before", delayed.run_id: "delayed", after: "after"}
            seen = [names[run_id] for run_id in order]
            assert seen == ["holder", "before", "delayed", "after"], f"the order of the thread was {', '.join(seen)}"
            assert delayed.run_id not in worker.host.ready, "its host was told that it may be claimed while it waited"

        await self._in_time(story)

    @promise("due_at")
    async def test_a_run_that_has_become_due_displaces_as_it_was_asked_to(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()

        async def story(thread: str, delay: float) -> None:
            delayed = worker.record(thread, multitask="interrupt", due_in=delay)
            await worker.admit(delayed)
            holder = await worker.let_in(thread)
            claim = await worker.claim(holder)
            _check_in_time(worker, delayed)
            assert claim is not None, "a run was not to be had because of one that was not due"
            said = (holder, CancelMode.interrupt)
            await worker.host.told(lambda: said in worker.host.displaced, "that a run has to make room")
            assert (await worker.get(holder)).cancel_requested is CancelAction.interrupt, "the active run was not asked"
            release = await worker.end(holder, RunStatus.cancelled)
            assert release.next_run_id == delayed.run_id, f"the thread was given to {release.next_run_id}"

        await self._in_time(story)

    @pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
    @promise("due_at")
    async def test_runs_that_are_not_due_make_room_at_once(self, coordinators: Coordinators, strategy: str) -> None:
        worker = await coordinators.worker()
        active, waiting = await worker.run_on("t"), await worker.let_in("t")
        first, second = [await worker.let_in("t", due_in=3_600) for _ in range(2)]
        elsewhere = await worker.let_in("t2", due_in=3_600)

        later = worker.record("t", multitask=strategy, due_in=3_600)
        displaced = [r.run_id for r in (await worker.admit(later)).displaced]
        assert sorted(displaced) == sorted([first, second]), (
            f"of two runs that were not due {len(displaced)} were displaced by one that comes later"
        )
        for run_id in (first, second):
            asked = (await worker.get(run_id)).cancel_requested
            assert asked == CancelAction(strategy), f"it was asked for {asked}"
            assert not await worker.coordinator.withdraw(run_id), "a displaced run was withdrawn once more"
            await worker.end(run_id, RunStatus.cancelled)
        for run_id in (active, waiting, elsewhere):
            asked = (await worker.get(run_id)).cancel_requested
            assert asked is None, "a run had to make room before the other one was due"

        record = worker.record("t", multitask=strategy)
        displaced = [r.run_id for r in (await worker.admit(record)).displaced]
        assert sorted(displaced) == sorted([active, waiting, later.run_id]), (
            f"of an active run, one that waits and one that is not due {len(displaced)} were displaced"
        )
        for run_id in (later.run_id, waiting):
            await worker.end(run_id, RunStatus.cancelled)
        release = await worker.end(active, RunStatus.cancelled)
        assert release.next_run_id == record.run_id, f"the thread was given to {release.next_run_id}"
        await worker.start(record.run_id)
        assert (await worker.end(record.run_id)).next_run_id is None, "a displaced run was given the thread"
        await worker.drop(elsewhere)

    @promise("due_at")
    async def test_a_run_that_has_become_due_leaves_those_alone_that_are_not(self, coordinators: Coordinators) -> None:
        worker = await coordinators.worker()

        async def story(thread: str, delay: float) -> None:
            record = worker.record(thread, multitask="rollback", due_in=delay)
            await worker.admit(record)
            later = await worker.let_in(thread, due_in=3_600)
            _check_in_time(worker, record)
            await worker.host.told(lambda: record.run_id in worker.host.ready, "that a run is due")
            assert (await worker.get(later)).cancel_requested is None, "a run that came after it had to make room"
            await worker.drop(later)

        await self._in_time(story)

    @promise("due_at")
    async def test_a_delayed_run_that_is_cancelled_or_withdrawn_never_becomes_due(
        self, coordinators: Coordinators
    ) -> None:
        worker = await coordinators.worker()

        async def story(thread: str, delay: float) -> None:
            cancelled, withdrawn = (worker.record(thread, due_in=delay) for _ in range(2))
            await worker.admit(cancelled)
            await worker.admit(withdrawn)
            await worker.coordinator.request_cancel(cancelled.run_id, CancelAction.interrupt)
            await worker.coordinator.withdraw(withdrawn.run_id)
            _check_in_time(worker, cancelled)
            await worker.end(withdrawn.run_id, RunStatus.cancelled)
            await worker.drop(cancelled.run_id)
            await self._pass_delay(worker, delay)
            gone = {cancelled.run_id, withdrawn.run_id}
            assert not gone & {*worker.host.ready}, "a run that was gone became due"
            admission = await worker.admit(worker.record(thread, multitask="reject"))
            assert admission.ready, "a run that was gone held its thread"

        await self._in_time(story)

    async def _in_time(self, story: Callable[[str, float], Awaitable[None]]) -> None:
        """Tell a story whose beginning has to be over before its run is due.

        If a busy machine was too slow, tell it again with more time than it took.
        """
        now = asyncio.get_running_loop().time
        delay = self.delay
        for number in count():
            began = now()
            try:
                await story(f"t{number}", delay)
                break
            except _TooSlowError:
                delay = 3 * max(delay, now() - began)

    async def _pass_delay(self, worker: Worker, delay: float) -> None:
        """Let a run become due on a thread of its own: what was due before it is due by now."""
        later = await worker.let_in(f"another for {delay}", due_in=delay)
        await worker.host.told(lambda: later in worker.host.ready, "that a run is due")


class _TooSlowError(Exception):
    """A run was due before the steps were taken that have to come first."""


def _check_in_time(worker: Worker, record: RunRecord) -> None:
    if record.due_at is not None and worker.fleet.clock.now() >= record.due_at:
        raise _TooSlowError
