"""What a supervisor knows of its worker's processes, and how their runs end by that."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.runs.stage import Agents

from trackside import RunStatus
from trackside.app.storage._coordination import recovery
from trackside.app.storage.fleet import Taking
from trackside.harness.types import CancelAction


async def running(server: Any, worker: Any, agents: Agents, name: str, **options: Any) -> str:
    """Start a run on the server, and have the worker execute it."""
    handle = await server.start(name, **options)
    assert await worker.take(handle.run_id) == [Taking.taken]
    await agents.until_running(name)
    return str(handle.run_id)


async def test_runs_whose_process_had_to_be_ended_end_as_what_they_were(member: Any, agents: Agents) -> None:
    server, worker, supervisor = await member("server"), await member(), await member()
    fleet = supervisor.store.fleet
    stopped = await running(server, worker, agents, "stopped", max_attempts=2)
    late = await running(server, worker, agents, "late", timeout=3_600.0, max_attempts=2)
    beside = await running(server, worker, agents, "beside", max_attempts=2)
    await server.coordinator.request_cancel(stopped, CancelAction.rollback)

    held = {run.run_id: run for run in await fleet.held([worker.name])}
    ended = await fleet.bury(worker.name, "it was ended", stopped={stopped: "it went on"}, timed_out={late: "too long"})

    assert {*held} == {*ended} == {stopped, late, beside}
    assert [held[run_id].cancel_requested for run_id in (stopped, late)] == [CancelAction.rollback, None]
    assert [held[run_id].timeout for run_id in (stopped, late)] == [None, 3_600.0]
    assert (held[late].agent, held[late].worker_id, held[late].is_stuck) == ("work", worker.name, False)
    records = [await server.ended(run_id) for run_id in (stopped, late, beside)]
    assert [record.status for record in records] == [RunStatus.cancelled, RunStatus.timeout, RunStatus.error]
    assert [record.error for record in records[1:]] == [
        "too long",
        "the process that executed the run went away before the run had ended: it was ended",
    ]
    (event,) = await server.store.events(run_id=stopped, types="run_cancelled")
    assert (event.event.payload["cancel_mode"], event.event.payload["reason"]) == ("rollback", "it went on")
    assert len(supervisor.announced) == 1  # for "beside" alone
    assert (await server.manager.get(supervisor.announced[0])).retry_of == beside
    assert await fleet.held([worker.name]) == []


async def test_a_reaper_leaves_processes_to_their_supervisor_as_long_as_that_is_there(
    member: Any, agents: Agents, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, supervisor = await member("server"), await member()
    await supervisor.coordinator.take(["nothing"])  # this makes it known
    worker = await member(isolated_in=supervisor.name)
    run_id = await running(server, worker, agents, "long")
    names = {worker.name: "child", supervisor.name: "parent"}
    for worker_id, process in names.items():
        database.execute(f"UPDATE workers SET process = '{process}' WHERE worker_id = '{worker_id}'")
    gone = {"child"}
    monkeypatch.setattr(recovery, "is_gone", lambda process: process in gone)

    assert (await server.store.fleet.reap(server.name)).ended == []
    gone.add("parent")
    assert (await server.store.fleet.reap(server.name)).ended == [run_id]


async def test_who_is_vouched_for_lives_on(member: Any, agents: Agents, database: Any) -> None:
    server, supervisor, worker = await member("server"), await member(), await member()
    run_id = await running(server, worker, agents, "busy")
    database.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{worker.name}'")

    await supervisor.store.fleet.vouch_for([worker.name], 60.0)

    assert (await server.store.fleet.reap(server.name)).ended == []
    (one,) = [each for each in await server.store.fleet.workers() if each.worker_id == worker.name]
    assert 0 < one.seconds_left <= 60
    await server.coordinator.request_cancel(run_id, CancelAction.interrupt)
