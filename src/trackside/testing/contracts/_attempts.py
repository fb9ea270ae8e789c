"""Runs that are started anew, because their process was lost or shut down: what a durable coordinator makes of them."""

from __future__ import annotations

from trackside.harness.lifecycle import is_terminal
from trackside.harness.types import CancelAction, JsonObject, RunRecord, RunSpec, RunStatus
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts.fleet import Coordinators, Worker


class AttemptPromises(Contract):
    """The part of a `CoordinatorContract` that is about `RunSpec.max_attempts`."""

    @promise("attempts", claim="durable")
    async def test_a_lost_run_is_started_anew_in_front_of_those_that_wait(self, coordinators: Coordinators) -> None:
        before = await coordinators.worker()
        lost = await before.run_on("t", max_attempts=2)
        waiting = await before.let_in("t")
        await before.kill()
        after = await coordinators.worker()
        again, spec = await _retried(after, lost)
        assert (await after.get(lost)).status is RunStatus.error, "a run whose process is gone goes on"
        assert (again.thread_id, again.attempt) == ("t", 2), f"it came back as {again}"
        assert (spec.input, spec.attempt, spec.retry_of) == ({"question": "?"}, 2, lost), f"it came back as {spec}"
        known = await after.get(again.run_id)
        assert (known.attempt, known.retry_of) == (2, lost), f"get says {known}"
        await _told_as(after, lost, again.run_id)
        assert await after.coordinator.claim(waiting) is None, "a run that waited overtook it"
        await after.host.told(lambda: after.host.may_claim(again.run_id), "that it may be claimed")
        claim = await after.start(again.run_id)
        assert claim.thread_status == "busy", f"its thread was called {claim.thread_status} in between"
        assert (await after.end(again.run_id)).next_run_id in {waiting, None}, (
            "another run than the next one got its turn"
        )

    @promise("attempts", claim="durable")
    async def test_the_last_attempt_is_lost_for_good(self, coordinators: Coordinators) -> None:
        first = await coordinators.worker()
        lost = await first.run_on("t", max_attempts=2)
        await first.kill()
        second = await coordinators.worker()
        again, _ = await _retried(second, lost)
        await second.host.told(lambda: second.host.may_claim(again.run_id), "that it may be claimed")
        await second.start(again.run_id)
        await second.kill()
        third = await coordinators.worker()
        following = third.record("t")
        if not (await third.admit(following)).ready:
            await third.host.told(lambda: third.host.may_claim(following.run_id), "that the thread is free")
        assert (await third.get(again.run_id)).status is RunStatus.error, "a run whose process is gone goes on"
        assert not third.host.adopted, f"it was started more often than it should be: {third.host}"

    @promise("attempts", claim="durable")
    async def test_a_run_that_was_shut_down_is_started_anew_elsewhere(self, coordinators: Coordinators) -> None:
        before = await coordinators.worker()
        run_id = await before.run_on("t", max_attempts=2)
        retried_as = await _shut_down(before, run_id)
        assert retried_as is not None, "it has an attempt left, and settle named none"
        await before.aclose()
        after = await coordinators.worker()
        again, _ = await _retried(after, run_id)
        assert again.run_id == retried_as, f"settle had named {retried_as}, and it came as {again.run_id}"
        assert (await after.get(run_id)).status is RunStatus.cancelled, "a run that was shut down is not cancelled"

    @promise("attempts", claim="durable")
    async def test_a_run_without_attempts_left_or_that_was_cancelled_is_not_started_anew(
        self, coordinators: Coordinators
    ) -> None:
        worker = await coordinators.worker()
        once, cancelled = await worker.run_on("t1"), await worker.run_on("t2", max_attempts=3)
        await worker.coordinator.request_cancel(cancelled, CancelAction.interrupt)
        for run_id in (once, cancelled):
            assert await _shut_down(worker, run_id) is None, f"settle named another attempt of {run_id}"


async def _retried(worker: Worker, run_id: str) -> tuple[RunRecord, RunSpec]:
    """The run that continues another one, as this worker was given it."""
    host = worker.host
    await host.told(lambda: any(record.retry_of == run_id for record, _, _ in host.adopted), f"to retry {run_id}")
    (found,) = [(record, spec) for record, spec, _ in host.adopted if record.retry_of == run_id]
    return found


async def _told_as(worker: Worker, run_id: str, retried_as: str) -> None:
    """The log's end of a run says how it goes on."""
    told = await worker.fleet.told(run_id)
    if told is not None:
        (end,) = [event for event in told if is_terminal(event.event_type)]
        assert end.payload.get("retried_as") == retried_as, f"it ended with {dict(end.payload)}"


async def _shut_down(worker: Worker, run_id: str) -> str | None:
    """End a run because its process is going away; returns the id of the run that continues it, if any."""
    settlement = await worker.coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
    says: JsonObject = {} if settlement.retried_as is None else {"retried_as": settlement.retried_as}
    thread_id = await worker.thread_of(run_id)
    await worker.announce_end(run_id, thread_id, RunStatus.cancelled, settlement, cancel_mode="shutdown", **says)
    await worker.release(run_id, thread_id, settlement.status)
    return settlement.retried_as
