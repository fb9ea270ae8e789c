"""The place of the next attempt at a run in its thread, and what cancels and late ends make of it."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.storage.coordinator.attempts import by_hand, event, let_in, retry_of, shut_down, start
from tests.integration.storage.coordinator.conftest import take_for_dead

from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.harness.errors import EventOrderError
from trackside.harness.types import CancelAction, RunStatus


class Dawdle(Work):
    """Keeps the writer from the next transaction until it may go on."""

    def __init__(self) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    @property
    def size(self) -> int:
        return 0

    def apply(self, unit: UnitOfWork) -> None:
        self.begun.set()
        self.may_go_on.wait()


async def test_who_comes_in_the_transaction_of_an_end_leaves_the_place_to_the_next_attempt(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        await start(store, coordinator, first := await let_in(coordinator, max_attempts=2))
        settlement = await coordinator.settle(first, RunStatus.cancelled, shut_down=True)
        store._writer.put(slow := Dawdle())
        await asyncio.to_thread(slow.begun.wait)
        end = event(first, "run_cancelled", 3, cancel_mode="shutdown", retried_as=settlement.retried_as)
        together = asyncio.gather(let_in(coordinator, "elsewhere"), store.append([end]))
        while store._writer._jobs.qsize() < 2:
            await asyncio.sleep(0)
        slow.may_go_on.set()

        newcomer, _ = await together

        assert (await coordinator.get(newcomer)).status is RunStatus.pending
        assert await coordinator.claim(await retry_of(store, first)) is not None


async def test_a_third_attempt_waits_and_then_goes_before_those_that_came_meanwhile(url: str, database: Any) -> None:
    async with by_hand(url) as (store, coordinator):
        first = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, first)
        second = await shut_down(store, coordinator, first)
        waiting = [await let_in(coordinator) for _ in range(2)]
        await start(store, coordinator, second)
        before = datetime.now(UTC)
        third = await shut_down(store, coordinator, second, sequence=2)
        after = datetime.now(UTC)

        known = await coordinator.get(third)
        assert (known.attempt, known.retry_of, known.status) == (3, second, "pending")
        assert known.due_at is not None
        skew = timedelta(seconds=0.1)  # between this clock and the database's
        assert before - skew <= known.due_at - timedelta(seconds=2) <= after + skew
        await start(store, coordinator, waiting[0])  # the pause keeps nobody waiting
        database.execute(f"UPDATE active_runs SET owner = '{coordinator.worker_id}' WHERE run_id = '{third}'")
        mine = coordinator._runs.take(known, ready=False, thread_status="busy")
        await coordinator._promote(mine)
        await coordinator.settle(waiting[0], RunStatus.success)
        await store.append([event(waiting[0], "run_completed", 2, status="success", completion_data={})])

        assert (await coordinator.release(waiting[0], "busy")).next_run_id == third
        assert await coordinator.claim(waiting[1]) is None


async def test_a_thread_rests_while_its_only_run_waits_for_its_next_attempt(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        first = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, first)
        second = await shut_down(store, coordinator, first)
        thread = await store.thread("t")
        assert thread is not None
        assert thread.status == "busy"
        await start(store, coordinator, second)
        await shut_down(store, coordinator, second, sequence=2)

        thread = await store.thread("t")
        assert thread is not None
        assert thread.status == "idle"
        following = await let_in(coordinator)
        await start(store, coordinator, following)


async def test_an_attempt_has_the_place_of_a_run_that_holds_its_thread_until_that_is_said_to_rest(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        first = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, first)
        second = await shut_down(store, coordinator, first)
        await start(store, coordinator, second)
        waiting = await let_in(coordinator)
        settlement = await coordinator.settle(second, RunStatus.cancelled, shut_down=True)
        assert settlement.status == "busy"
        assert await coordinator.withdraw(waiting)
        await store.append([event(waiting, "run_cancelled", 1, cancel_mode="interrupt")])
        await store.append([event(second, "run_cancelled", 2, retried_as=settlement.retried_as)])

        assert await retry_of(store, second) == settlement.retried_as
        release = await coordinator.release(second, "busy")
        assert release.settlement.status == "idle"


async def test_a_run_that_was_asked_to_cancel_is_lost_for_good(url: str, database: Any) -> None:
    async with by_hand(url) as (store, coordinator), by_hand(url) as (_, other):
        run_id = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, run_id)
        await other.request_cancel(run_id, CancelAction.interrupt)
        take_for_dead(database, coordinator.worker_id)
        await other._upkeep.clear_up()

        found = await store.run(run_id)
        assert found is not None
        assert (found.error_type, await store.retries_of(run_id)) == ("worker_lost", [])


async def test_a_run_that_was_asked_to_cancel_has_no_other_attempt_where_its_manager_closes_meanwhile(url: str) -> None:
    async with by_hand(url) as (store, coordinator), by_hand(url) as (_, other):
        run_id = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, run_id)
        await other.request_cancel(run_id, CancelAction.interrupt)

        settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
        assert (settlement.retried_as, settlement.status) == (None, "idle")


async def test_a_cancel_that_comes_when_the_next_attempt_is_settled_ends_that(url: str, database: Any) -> None:
    async with by_hand(url) as (store, coordinator), by_hand(url) as (_, other):
        run_id = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, run_id)
        settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
        await other.request_cancel(run_id, CancelAction.interrupt)
        end = event(run_id, "run_cancelled", 3, cancel_mode="shutdown", retried_as=settlement.retried_as)
        await store.append([end])
        await coordinator.aclose()
        await other._enrolment.enroll()
        await other._upkeep.clear_up()

        again = await store.run(settlement.retried_as)
        assert again is not None
        assert (again.status, again.started_at) == ("cancelled", None)
        assert database.execute("SELECT count(*) FROM active_runs").fetchall() == [(0,)]
        thread = await store.thread("t")
        assert thread is not None
        assert thread.status == "idle"


async def test_an_end_that_comes_late_starts_the_run_anew_once(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        run_id = await let_in(coordinator, max_attempts=2)
        await start(store, coordinator, run_id)
        settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
        assert await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True) == settlement
        spooled = event(run_id, "run_cancelled", 3, cancel_mode="shutdown", retried_as=settlement.retried_as)
        await coordinator.aclose()
    async with by_hand(url) as (store, _):  # as the next process delivers it, before anything else runs
        for _ in range(2):
            await store.append([spooled])

        assert await retry_of(store, run_id) == settlement.retried_as
        assert len(await store.runs()) == 2


async def test_an_end_that_comes_after_the_run_was_given_up_starts_nothing_more(url: str, database: Any) -> None:
    async with by_hand(url) as (store, coordinator), by_hand(url) as (_, other):
        run_id = await let_in(coordinator, max_attempts=2)
        await start(store, coordinator, run_id)
        settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
        take_for_dead(database, coordinator.worker_id)
        await other._upkeep.clear_up()

        with pytest.raises(EventOrderError):
            await store.append([event(run_id, "run_cancelled", 3, retried_as=settlement.retried_as)])
        assert await retry_of(store, run_id) != settlement.retried_as
        assert len(await store.runs()) == 2


async def test_the_next_attempt_has_no_name_of_a_run_that_is_there(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        run_id, other = await let_in(coordinator, max_attempts=2), await let_in(coordinator)
        await start(store, coordinator, run_id)
        await store.append([event(run_id, "run_cancelled", 3, cancel_mode="shutdown", retried_as=other)])

        assert len(await store.runs()) == 2
        assert await coordinator.claim(other) is not None
