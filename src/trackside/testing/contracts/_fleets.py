"""Several processes on one truth, and what becomes of the runs of one that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from trackside.harness.errors import ThreadBusyError
from trackside.harness.lifecycle import is_terminal
from trackside.harness.ports import IdempotencyKey
from trackside.harness.types import CancelAction, RunStatus, ThreadStatus
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts.fleet import AGENT, Coordinators, Worker
from trackside.testing.run_order import assert_run_order


class FleetPromises(Contract):
    """The part of a `CoordinatorContract` that is about the claims `shared` and `durable`."""

    @promise("shared", claim="shared")
    async def test_a_run_is_given_to_one_of_many_coordinators(self, coordinators: Coordinators) -> None:
        workers = [await coordinators.worker() for _ in range(3)]
        for number in range(6):
            run_id = await workers[0].let_in(f"t{number}")
            claims = await asyncio.gather(*(worker.coordinator.claim(run_id) for worker in workers))
            given = sum(claim is not None for claim in claims)
            assert given == 1, f"3 coordinators that claimed a run at once were given it {given} times"

    @promise("one active run", claim="shared")
    async def test_a_thread_is_held_for_all_coordinators(self, coordinators: Coordinators) -> None:
        a, b = await coordinators.worker(), await coordinators.worker()
        admissions = await asyncio.gather(*(w.admit(w.record("t")) for w in (a, b) * 8))
        ready = sum(admission.ready for admission in admissions)
        assert ready == 1, f"of 16 runs that two coordinators admitted to one thread {ready} were ready"
        for worker in (a, b):
            with pytest.raises(ThreadBusyError):
                await worker.admit(worker.record("t", multitask="reject"))

    @promise("shared", claim="shared")
    async def test_a_thread_is_handed_over_to_the_run_of_another_process(self, coordinators: Coordinators) -> None:
        a, b = await coordinators.worker(), await coordinators.worker()
        first = await a.run_on("t")
        second = b.record("t")
        assert not (await b.admit(second)).ready, "two processes held one thread"
        await a.end(first)
        await b.host.told(lambda: second.run_id in b.host.ready, "that its run may be claimed")
        claim = await b.start(second.run_id)
        assert claim.thread_status is ThreadStatus.busy, f"the thread was handed over and is {claim.thread_status}"
        assert second.run_id not in a.host.ready, "the host of another process was told of it, too"

    @promise("shared", claim="shared")
    async def test_a_cancel_reaches_the_process_that_has_the_run(self, coordinators: Coordinators) -> None:
        a, b = await coordinators.worker(), await coordinators.worker()
        running, pending = await a.run_on("t1"), await a.let_in("t2")
        await b.coordinator.request_cancel(running, CancelAction.rollback)
        await a.host.told(lambda: (running, CancelAction.rollback) in a.host.cancels, "of a cancel")
        await b.coordinator.request_cancel(pending, CancelAction.rollback)
        said = (pending, CancelAction.rollback)  # or that somebody has ended it already, which is as good
        await a.host.told(lambda: said in a.host.cancels or pending in a.host.lost, "of a cancel")
        assert await a.coordinator.claim(pending) is None, "a run was claimed after it had been cancelled"
        assert not b.host.cancels, "who had asked for a cancel was told of it"

    @promise("shared", claim="shared")
    async def test_a_displaced_run_of_another_process_is_asked_to_stop(self, coordinators: Coordinators) -> None:
        a, b = await coordinators.worker(), await coordinators.worker()
        running = await a.run_on("t")
        record = b.record("t", multitask="interrupt")
        assert not (await b.admit(record)).ready, "it was ready before the active run had stopped"
        said = (running, CancelAction.interrupt)
        await a.host.told(lambda: said in a.host.cancels, "that its run has to make room")
        await a.end(running, RunStatus.cancelled)
        await b.host.told(lambda: record.run_id in b.host.ready, "that its run may be claimed")

    @promise("shared", claim="shared")
    async def test_a_delayed_run_of_another_process_makes_room_at_once(self, coordinators: Coordinators) -> None:
        a, b = await coordinators.worker(), await coordinators.worker()
        delayed = await a.let_in("t", due_in=3_600)
        assert (await b.admit(b.record("t", multitask="rollback"))).ready, "a delayed run held its thread"
        said = (delayed, CancelAction.rollback)  # or that somebody has ended it already, which is as good
        await a.host.told(lambda: said in a.host.cancels or delayed in a.host.lost, "that its run has to make room")

    @promise("idempotency", claim="shared")
    async def test_a_key_is_known_to_all_coordinators(self, coordinators: Coordinators) -> None:
        a, b = await coordinators.worker(), await coordinators.worker()
        key = IdempotencyKey("key", "body")
        first, again = a.record("t"), b.record("t")
        await a.admit(first, key=key)
        admission = await b.admit(again, key=key)
        assert admission.existing, "the same request started another run in another process"
        assert admission.record.run_id == first.run_id, f"the key named another run: {admission.record.run_id}"

    @promise("RunCoordinator.get", claim="shared")
    async def test_every_coordinator_knows_how_a_run_is(self, coordinators: Coordinators) -> None:
        a, b = await coordinators.worker(), await coordinators.worker()
        run_id = await a.let_in("t")
        seen = [(await b.get(run_id)).status]
        await a.start(run_id)
        seen.append((await b.get(run_id)).status)
        await a.end(run_id, RunStatus.interrupted)
        seen.append((await b.get(run_id)).status)
        expected = [RunStatus.pending, RunStatus.running, RunStatus.interrupted]
        assert seen == expected, f"another process saw {', '.join(seen)}"

    @promise("I7", claim="shared")
    async def test_a_run_of_a_dead_process_ends_once_and_its_waiting_runs_go_on(
        self, coordinators: Coordinators
    ) -> None:
        dead, *alive = [await coordinators.worker() for _ in range(3)]
        lost = await dead.run_on("t")
        waiting = [await dead.let_in("t") for _ in range(2)]
        elsewhere = await dead.let_in("elsewhere")
        await dead.kill()
        await _adopted(alive, [*waiting, elsewhere])
        await _is_lost(alive, lost)
        await _run_in_order(alive, waiting)
        await _run_in_order(alive, [elsewhere])

    @promise("I7", claim="shared")
    async def test_the_thread_of_a_dead_process_becomes_free(self, coordinators: Coordinators) -> None:
        dead, alive = await coordinators.worker(), await coordinators.worker()
        lost = await dead.run_on("t")
        await dead.kill()
        following = alive.record("t")
        if not (await alive.admit(following)).ready:
            await alive.host.told(lambda: alive.host.may_claim(following.run_id), "that the thread is free")
        await _is_lost([alive], lost)
        claim = await alive.start(following.run_id)
        assert claim.thread_status is not ThreadStatus.idle, "a thread whose run was lost is idle"

    @pytest.mark.parametrize("step", ["claimed", "withdrawn", "settled", "announced"])
    @promise("I7", claim="shared")
    async def test_whatever_step_a_dead_process_was_at_its_run_ends_once_and_its_thread_becomes_free(
        self, coordinators: Coordinators, step: str
    ) -> None:
        dead, alive = await coordinators.worker(), await coordinators.worker()
        run_id = await _die_when(dead, step)
        following = alive.record("t")
        may_claim = alive.host.may_claim
        if not (await alive.admit(following)).ready:
            what = f"that the thread of a run is free whose process was gone when it was {step}, or to go on with it"
            await alive.host.told(lambda: may_claim(following.run_id) or may_claim(run_id), what)
            if not may_claim(following.run_id):  # the run counts as one that nobody had begun, and comes first
                await alive.start(run_id)
                await alive.end(run_id)
        await alive.start(following.run_id)
        ended = await alive.get(run_id)
        assert ended.ended_at is not None, f"its process was gone when it was {step}, and it is {ended.status} for ever"
        if (told := await coordinators.told(run_id)) is not None:
            assert_run_order(told)

    @promise("shared", claim="shared")
    async def test_runs_are_adopted_by_a_process_that_has_their_agent(self, coordinators: Coordinators) -> None:
        dead = await coordinators.worker()
        without = await coordinators.worker(agents=["another agent"])
        capable = await coordinators.worker(agents=["another agent", AGENT])
        pending = await dead.let_in("t")
        await dead.kill()
        await _adopted([capable], [pending])
        assert not without.host.adopted, "a process without the agent was given its run"

    @pytest.mark.parametrize("ending", ["closed", "killed"])
    @promise("durable", claim="durable")
    async def test_pending_runs_start_in_their_order_after_a_restart(
        self, coordinators: Coordinators, ending: str
    ) -> None:
        before = await coordinators.worker()
        pending = [await before.let_in("t") for _ in range(4)]
        await (before.aclose() if ending == "closed" else before.kill())
        after = await coordinators.worker()
        await _adopted([after], pending)
        record, spec, _ = next(adopted for adopted in after.host.adopted if adopted[0].run_id == pending[0])
        assert (record.thread_id, record.agent) == ("t", AGENT), f"the run came back as {record}"
        assert spec.input == {"question": "?"}, f"what was asked for came back as {spec}"
        await _run_in_order([after], pending)

    @promise("I7", claim="durable")
    async def test_a_run_that_was_running_is_lost_after_a_restart(self, coordinators: Coordinators) -> None:
        before = await coordinators.worker()
        lost, waiting = await before.run_on("t"), await before.let_in("t")
        await before.kill()
        after = await coordinators.worker()
        await _adopted([after], [waiting])
        await _run_in_order([after], [waiting])
        await _is_lost([after], lost)

    @promise("durable", claim="durable")
    async def test_what_is_known_survives_a_restart(self, coordinators: Coordinators) -> None:
        before, key = await coordinators.worker(), IdempotencyKey("key", "body")
        record = before.record("t")
        await before.admit(record, key=key)
        await before.start(record.run_id)
        await before.end(record.run_id, RunStatus.error)
        await before.aclose()
        after = await coordinators.worker()
        assert (await after.get(record.run_id)).status is RunStatus.error, "how a run had ended was forgotten"
        admission = await after.admit(after.record("t"), key=key)
        assert admission.existing, "an idempotency key was forgotten"
        claim = await after.start(await after.let_in("t"))
        assert claim.thread_status is ThreadStatus.error, f"the thread was left as error and is {claim.thread_status}"

    @promise("due_at", claim="durable")
    async def test_a_delayed_run_becomes_due_after_a_restart(self, coordinators: Coordinators) -> None:
        before = await coordinators.worker()
        delayed = await before.let_in("t", due_in=0.1)
        await before.aclose()
        after = await coordinators.worker()
        await _adopted([after], [delayed])
        await _run_in_order([after], [delayed])


async def _die_when(worker: Worker, step: str) -> str:
    """Have a process die after it has taken this step of a run, and before the next one; returns the run's id."""
    run_id = await worker.let_in("t")
    if step == "withdrawn":
        await worker.coordinator.withdraw(run_id)
    elif step == "claimed":
        await worker.coordinator.claim(run_id)
    else:
        await worker.start(run_id)
        settlement = await worker.coordinator.settle(run_id, RunStatus.success)
        if step == "announced":
            await worker.announce_end(run_id, "t", RunStatus.success, settlement)
    await worker.kill()
    return run_id


async def _adopted(alive: Sequence[Worker], runs: Sequence[str]) -> None:
    """Each of these runs has been adopted by exactly one of the workers that are alive, in this order."""
    for run_id in runs:
        waits = [asyncio.create_task(_was_adopted(worker, run_id), name="waits for an adoption") for worker in alive]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()
    adopted = [record.run_id for worker in alive for record, _, _ in worker.host.adopted]
    twice = {run_id for run_id in adopted if adopted.count(run_id) > 1}
    assert not twice, f"{len(twice)} runs were adopted more than once"
    for worker in alive:
        order = [record.run_id for record, _, _ in worker.host.adopted if record.run_id in runs]
        assert order == [run_id for run_id in runs if run_id in order], "runs were adopted in another order"


async def _was_adopted(worker: Worker, run_id: str) -> None:
    host = worker.host
    await host.told(lambda: any(record.run_id == run_id for record, _, _ in host.adopted), f"to adopt {run_id}")


async def _run_in_order(alive: Sequence[Worker], runs: Sequence[str]) -> None:
    """These runs of one thread can be executed, one after another, by the workers that adopted them."""
    for run_id, following in zip(runs, [*runs[1:], None], strict=True):
        (worker,) = [w for w in alive if any(record.run_id == run_id for record, _, _ in w.host.adopted)]
        if run_id == runs[0]:
            await worker.host.told(lambda w=worker, r=run_id: w.host.may_claim(r), f"that {run_id} may be claimed")  # type: ignore[misc]
        assert following is None or await worker.coordinator.claim(following) is None, "a run overtook another"
        await worker.start(run_id)
        release = await worker.end(run_id)
        own = following in {record.run_id for record, _, _ in worker.host.adopted}
        assert not own or release.next_run_id == following, f"next was {release.next_run_id}, not {following}"


async def _is_lost(alive: Sequence[Worker], run_id: str) -> None:
    """A run of a dead process has ended, once, as lost."""
    for worker in alive:
        record = await worker.get(run_id)
        assert record.status is RunStatus.error, f"the run of a dead process is {record.status}"
        assert await worker.coordinator.claim(run_id) is None, "the run of a dead process was to be had"
    told = await alive[0].fleet.told(run_id)
    if told is not None:
        assert_run_order(told)
        (end,) = [event for event in told if is_terminal(event.event_type)]
        assert end.payload.get("error_type") == "worker_lost", f"it ended with {dict(end.payload)}"
