"""The claim of a run and a run that displaces it in the same transaction agree about which came first."""

from datetime import UTC, datetime
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.app.storage._coordination.steps import Admit, Claim, Displaced, Fates
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.fold import RunStart
from trackside.app.storage._writing.commits import commit_together
from trackside.harness.types import MultitaskStrategy, ThreadStatus

DIALECTS = ["sqlite"]  # the order is decided before the database is asked


def admission(script: Any, run_id: str, fates: Fates, strategy: MultitaskStrategy) -> Admit:
    created_at = time_text(script().start)
    start = RunStart(created_at=created_at, agent="chat", metadata="{}", parent_run_id=None, trigger=None, labels=())
    return Admit(
        run_id=run_id,
        thread_id="t",
        owner="me",
        start=start,
        multitask=strategy,
        due_at=None,
        portable=False,
        keeps_request=True,
        idempotency=None,
        fates=fates,
    )


@pytest.fixture
def write(store: Store) -> Any:
    """Write works in one transaction, and return their outcomes."""
    return lambda *works: commit_together(store._writer._session, works).outcomes


async def test_a_run_that_is_claimed_is_asked_to_stop_by_whoever_comes_in_the_same_transaction(
    write: Any, script: Any, blockbuster: Any
) -> None:
    blockbuster.deactivate()  # the test itself writes, as the writer's thread does
    fates: Fates = {}
    write(admission(script, "one", fates, MultitaskStrategy.enqueue))

    claimed, admitted = write(
        Claim(run_id="one", thread_id="t", owner="me", fates=fates),
        admission(script, "two", fates, MultitaskStrategy.interrupt),
    )

    assert claimed is ThreadStatus.idle
    assert admitted.displaced == [Displaced("one", running=True)]


async def test_a_run_that_was_made_to_leave_cannot_be_claimed_in_the_same_transaction(
    write: Any, script: Any, blockbuster: Any
) -> None:
    blockbuster.deactivate()  # the test itself writes, as the writer's thread does
    fates: Fates = {}
    write(admission(script, "one", fates, MultitaskStrategy.enqueue))

    admitted, claimed = write(
        admission(script, "two", fates, MultitaskStrategy.rollback),
        Claim(run_id="one", thread_id="t", owner="me", fates=fates),
    )

    assert admitted.displaced == [Displaced("one", running=False)]
    assert claimed is None


async def test_a_run_that_is_taken_over_and_due_at_once_makes_those_leave_that_are_taken_over_with_it(
    worker: Any, agents: Any, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker.make(max_running=1) as a:
        await a.start("one", thread_id="t")
        await agents.until_running("one")
        due = await a.start("quick due", thread_id="t", multitask="interrupt", after_seconds=3_600)
        waiting = [await a.start(f"quick {n}", thread_id="t") for n in range(5)]
    by_now = time_text(datetime.now(UTC))  # not already while the first worker closes
    database.execute(f"UPDATE active_runs SET due_at = '{by_now}' WHERE run_id = '{due.run_id}'")

    b = await worker(max_running=1)
    for handle in (due, *waiting):
        await b.until_ended(handle.run_id)

    statuses = {run.run_id: run.status for run in await b.store.runs()}
    assert statuses[due.run_id] == "success"
    assert {statuses[handle.run_id] for handle in waiting} <= {"cancelled", "success"}
    assert "could not be" not in caplog.text


async def test_a_thread_is_given_back_whose_last_run_has_ended_though_nobody_here_heard_of_that(
    worker: Any, agents: Any, database: Any
) -> None:
    a = await worker(lease_seconds=0.3)
    ended = await a.start("quick one", thread_id="t")
    await ended.result()
    # As after the lost reply to a commit in which a run ended and its thread stayed busy for the next one.
    database.execute("UPDATE threads SET status = 'busy' WHERE thread_id = 't'")
    database.execute(
        "INSERT INTO active_runs (run_id, thread_id, state, holds, owner, multitask, at_rest)"
        f" VALUES ('{ended.run_id}', 't', 'ended', true, '{a.coordinator.worker_id}', 'enqueue', 'idle')"
    )

    following = await a.start("quick two", thread_id="t")

    assert (await following.result()).status == "success"
    assert database.execute("SELECT count(*) FROM active_runs").fetchall() == [(0,)]
