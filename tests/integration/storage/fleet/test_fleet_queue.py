"""What waits for whom in a fleet's queue: pools, versions, room for agents, threads that somebody has locked."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from raw_postgres import RawConnection
from tests.integration.runs.stage import Agents
from tests.integration.storage.fleet.running import TAKEN, end_lease, running

from trackside.app.engine import upkeep
from trackside.app.storage._coordination import fleet_reads, taking
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.leases import LeaseClock
from trackside.app.storage.fleet import ReadyRun, Taking


async def test_the_queue_says_what_waits_for_whom(member: Any, agents: Agents) -> None:
    server = await member("server", version="v1")
    worker = await member(version="v1", capacity=4, agents=("work",))
    await running(server, worker, agents, "long", thread_id="t")
    await server.start("quick", thread_id="t")
    ready = await server.start("quick")
    await server.start("quick", after_seconds=3_600)
    on_gpu = await server.start("quick", agent="gpu")
    other = await server.start("quick", agent="starter")

    queue = await server.store.fleet.queue()

    default, gpu = queue.pools
    assert (default.pool, default.ready, default.waiting, default.delayed, default.running) == ("default", 2, 1, 1, 1)
    assert default.oldest_ready_at == ready.record.created_at
    assert (default.workers, default.places, default.free) == (1, 4, 4)
    assert (gpu.pool, gpu.ready, gpu.workers, gpu.oldest_ready_at) == ("gpu", 1, 0, on_gpu.record.created_at)
    unserved = [(each.agent, each.version, each.count, each.oldest_at) for each in queue.unserved]
    assert unserved == [
        ("starter", "v1", 1, other.record.created_at),
        ("gpu", "v1", 1, on_gpu.record.created_at),
    ]


async def test_a_run_waits_for_a_worker_since_it_was_due_and_had_its_thread(
    member: Any, agents: Agents, database: Any
) -> None:
    server, worker = await member("server"), await member()
    before = await running(server, worker, agents, "long", thread_id="t")
    following = await server.start("quick", thread_id="t")
    cancelled = await server.start("quick", thread_id="t")
    delayed = await server.start("quick", after_seconds=3_600)
    database.execute("UPDATE runs SET created_at = '2026-01-01T00:00:00.000000Z'")
    agents.let("long")
    ended = await server.ended(before.run_id)
    await cancelled.cancel()
    fleet = server.store.fleet

    (pool,) = (await fleet.queue()).pools
    assert (pool.ready, pool.delayed) == (1, 1)
    assert pool.oldest_ready_at == ended.ended_at

    due_at = "2026-01-02T00:00:00.000000Z"
    database.execute(f"UPDATE active_runs SET due_at = '{due_at}' WHERE run_id = '{delayed.run_id}'")
    assert await fleet.promote_due() == [delayed.run_id]
    (pool,) = (await fleet.queue()).pools
    assert pool.ready == 2
    assert pool.oldest_ready_at == datetime.fromisoformat(due_at)
    assert await worker.take(delayed.run_id) == [TAKEN]
    await server.ended(delayed.run_id)

    await worker.coordinator.aclose()
    queue = await fleet.queue()
    assert [(one.count, one.oldest_at) for one in queue.unserved] == [(1, ended.ended_at)]
    assert following.run_id in server.announced or following.run_id in worker.announced


@pytest.mark.parametrize("drains", [False, True])
async def test_runs_of_a_version_that_no_live_worker_has_are_for_all(
    member: Any, database: Any, *, drains: bool
) -> None:
    old = await member("server", version="v1")
    fleet = old.store.fleet
    handle = await old.start("quick", thread_id="t")
    await old.start("quick", thread_id="t")
    assert await fleet.loosen_versions() == 0

    still = await member(version="v1")
    new = await member(version="v2")
    for each in (still, new):
        await each.coordinator.take_any(0)
    assert await fleet.loosen_versions() == 0
    if drains:
        await fleet.ask_to_drain(still.name)
    else:
        end_lease(database, still.name)
    old.news.clear()
    assert await fleet.loosen_versions(limit=1) == 1
    assert old.announced == [handle.run_id]
    assert [await fleet.loosen_versions() for _ in range(2)] == [1, 0]
    assert await new.take(handle.run_id) == [TAKEN]


async def test_no_more_runs_are_loosened_than_asked_for_however_the_database_finds_them(
    member: Any, database: Any, dialect: str
) -> None:
    if dialect == "postgres":  # else it chooses this way, which is to look for each run, only with some statistics
        name = database.execute("SELECT current_database()").fetchall()[0][0]
        for other in ("hashjoin", "mergejoin", "hashagg", "material", "sort"):
            database.execute(f'ALTER DATABASE "{name}" SET enable_{other} = off')
    server = await member("server", version="v1")
    run_ids = [(await server.start("quick")).run_id for _ in range(5)]
    await (await member(version="v2")).coordinator.take_any(0)
    server.news.clear()

    assert [await server.store.fleet.loosen_versions(limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert server.announced == run_ids


async def test_runs_of_a_version_that_workers_of_other_pools_or_agents_have_are_for_all_of_their_own(
    member: Any, database: Any
) -> None:
    old = await member("server", version="v1")
    fleet = old.store.fleet
    of_pool = [await old.start("quick", agent="gpu") for _ in range(2)]
    of_agent = await old.start("quick", agent="starter")
    stays = await old.start("quick")
    # As an older process leaves it.
    database.execute(f"UPDATE active_runs SET agent = '' WHERE run_id = '{of_pool[1].run_id}'")
    still, new = await member(version="v1"), await member(version="v2", pools=("gpu",), agents=("gpu",))
    for each in (still, new):
        await each.coordinator.take_any(0)
    old.news.clear()

    assert await fleet.loosen_versions() == 2
    assert {*old.announced} == {each.run_id for each in of_pool}
    versions = dict(database.execute("SELECT run_id, version FROM active_runs").fetchall())
    assert versions == {each.run_id: None for each in of_pool} | {each.run_id: "v1" for each in (of_agent, stays)}
    assert await fleet.loosen_versions() == 0, "there is nobody who could take the other one"


async def test_runs_of_an_old_version_behind_many_that_nobody_has_an_agent_for_are_for_all(
    member: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_reads, "MOST_EXAMINED", 2)
    old = await member("server", version="v1")
    for _ in range(3):
        await old.start("quick", agent="starter")
    behind = await old.start("quick")
    new = await member(version="v2")
    await new.coordinator.take_any(0)

    assert await old.store.fleet.loosen_versions() == 1
    assert await new.take(behind.run_id) == [TAKEN]


async def test_a_version_is_kept_while_it_is_not_known_whether_its_workers_live(member: Any, database: Any) -> None:
    """As when the clock of the leases was set, forward or back: all of them seem to have ended."""
    old, new = await member("server", version="v1"), await member(version="v2")
    waits = await old.start("quick")
    await new.coordinator.take_any(0)
    asked: list[LeaseClock | None] = []

    def doubts(now: LeaseClock | None = None) -> bool:
        asked.append(now)
        return False

    assert await old.store.fleet.loosen_versions(trusts_leases=doubts) == 0
    assert [now is not None for now in asked] == [True]
    assert await new.take(waits.run_id) != [TAKEN]
    assert await old.store.fleet.loosen_versions(trusts_leases=lambda _=None: True) == 1


async def test_what_is_ready_is_found_with_its_age_whatever_clock_its_host_had(member: Any, database: Any) -> None:
    server = await member("server")
    fleet = server.store.fleet
    old, young, ahead = [(await server.start("quick")).run_id for _ in range(3)]
    on_gpu = (await server.start("quick", agent="gpu")).run_id
    for run_id, minutes in ((old, -1), (ahead, 1)):
        created_at = time_text(datetime.now(UTC) + timedelta(minutes=minutes))
        database.execute(f"UPDATE runs SET created_at = '{created_at}' WHERE run_id = '{run_id}'")

    assert [run.run_id for run in await fleet.ready(["default", "gpu"])] == [old, young, ahead, on_gpu]
    assert await fleet.ready(["gpu"]) == [ReadyRun(on_gpu, "gpu", "gpu")]
    assert await fleet.ready([]) == []
    assert [run.run_id for run in await fleet.ready(["default"], older_than=30)] == [old, ahead]
    assert [run.run_id for run in await fleet.ready(["default"], limit=2)] == [old, young]


async def test_what_nobody_can_take_keeps_nobody_from_being_told_of_what_he_can(
    member: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told:
        runs: ClassVar[list[str]] = []

        def announce(self, ready: Sequence[ReadyRun]) -> None:
            self.runs.extend(run.run_id for run in ready)

    server, _ = await member("server"), await member()
    for _ in range(3):
        await server.start("quick", agent="starter")
    overlooked = await server.start("quick")
    database.execute("UPDATE runs SET created_at = '2026-01-01T00:00:00.000000Z'")
    monkeypatch.setattr(upkeep, "_AT_ONCE", 2)
    engine: Any = Told()

    await upkeep.FleetUpkeep(server.store.fleet, engine, "server", trusts_leases=lambda _=None: True)._sweep()

    assert engine.runs == [overlooked.run_id]


async def test_a_worker_takes_no_more_runs_of_an_agent_than_it_executes_at_once(member: Any, agents: Agents) -> None:
    pools = ("default", "gpu")
    server = await member("server")
    worker = await member(pools=pools, agents=("work", "gpu"), most={"gpu": 1})
    other = await member(pools=pools, agents=("work", "gpu"))
    gpu = [(await server.start(f"gpu {number}", agent="gpu")).run_id for number in range(4)]
    work = [(await server.start(f"work {number}")).run_id for number in range(3)]

    assert await worker.coordinator.take_any(3) == [gpu[0], *work[:2]]
    assert await worker.coordinator.take_any(3) == [work[2]]
    assert await worker.take(*gpu[1:3]) == [Taking.full] * 2
    assert await other.take(gpu[1]) == [TAKEN]
    agents.let("gpu 0")
    await server.ended(gpu[0])
    assert await worker.take(*gpu[1:]) == [Taking.gone, TAKEN, Taking.full]


async def test_the_processes_of_a_worker_take_no_more_runs_of_an_agent_than_it_executes_at_once(
    member: Any, agents: Agents, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dialect != "postgres":
        pytest.skip("there are no fleets on SQLite, and so no two processes of one worker")
    monkeypatch.setattr(taking, "_COUNTING_TRIES", 3_000)  # else one that waits for long takes nothing for now
    server, other = await member("server"), await member()
    parts = [await member(capacity=1, isolated_in="the worker", most={"work": 2}) for _ in range(4)]
    run_ids = {(await server.start(f"work {number}")).run_id for number in range(5)}

    took = await asyncio.gather(*(part.coordinator.take_any(1) for part in parts))
    taken = {run_id for run_ids in took for run_id in run_ids}
    assert len(taken) == 2
    idle = next(part for part, its_own in zip(parts, took, strict=True) if not its_own)
    left = sorted(run_ids - taken)
    assert await idle.take(left[0]) == [Taking.full]
    assert await other.take(left[0]) == [TAKEN]
    for number in range(5):
        agents.let(f"work {number}")
    for run_id in taken:
        await server.ended(run_id)
    assert await idle.take(left[1]) == [TAKEN]


async def test_a_thread_that_somebody_has_locked_keeps_no_other_waiting(
    member: Any, agents: Agents, database: Any, url: str, dialect: str
) -> None:
    if dialect != "postgres":
        pytest.skip("who writes to an SQLite file is alone there")
    server, worker, other = await member("server"), await member(), await member()
    stuck = await running(server, worker, agents, "one", thread_id="locked")
    lost = await running(server, worker, agents, "two", thread_id="free")
    for thread_id in ("locked due", "due"):
        await server.start("quick", thread_id=thread_id, after_seconds=3_600)
    database.execute("UPDATE active_runs SET due_at = '2026-01-01T00:00:00.000000Z' WHERE state = 'delayed'")
    end_lease(database, worker.name)
    fleet = other.store.fleet
    lock = "SELECT 1 FROM threads WHERE thread_id IN ('locked', 'locked due') FOR UPDATE"
    somebody = await asyncio.to_thread(RawConnection, url)
    try:
        await asyncio.to_thread(somebody.execute, f"BEGIN; {lock}")
        promoted = await fleet.promote_due()
        reaped = await fleet.reap(other.name)
    finally:
        await asyncio.to_thread(somebody.close)
    assert (len(promoted), reaped.ended) == (1, [lost.run_id])
    assert len(await fleet.promote_due()) == 1
    assert (await fleet.reap(other.name)).ended == [stuck.run_id]


async def test_a_thread_that_somebody_has_locked_ends_no_round_of_what_is_due(
    member: Any, dialect: str, database: Any, url: str
) -> None:
    if dialect != "postgres":
        pytest.skip("who writes to an SQLite file is alone there")
    server = await member("server")
    for number in range(6):
        await server.start("quick", thread_id=f"t{number}", after_seconds=3_600)
    due = "UPDATE active_runs SET due_at = '2026-01-0' || (1 + CAST(substr(thread_id, 2) AS INTEGER)) || 'T00:00:00.000000Z'"
    database.execute(due)
    fleet = server.store.fleet
    somebody = await asyncio.to_thread(RawConnection, url)
    try:
        lock = "SELECT 1 FROM threads WHERE thread_id IN ('t0', 't1') FOR UPDATE"
        await asyncio.to_thread(somebody.execute, f"BEGIN; {lock}")
        promoted = [len(await fleet.promote_due(limit=2)) for _ in range(3)]
    finally:
        await asyncio.to_thread(somebody.close)
    assert promoted == [2, 2, 0]
    assert len(await fleet.promote_due()) == 2
