"""What the processes of a fleet see to for all: workers that are gone, duties, draining, versions; what waits for whom."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from raw_postgres import RawConnection
from tests.integration.runs.stage import Agents
from tests.integration.storage.conftest import held_up

from trackside import RunStatus, __version__
from trackside.app.storage._coordination import fleet_reads, recovery
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.leases import LeaseClock
from trackside.app.storage.errors import StoreOptionError
from trackside.app.storage.fleet import FleetMember, ReadyRun, Taking
from trackside.harness.types import FailureReason

TAKEN = Taking.taken


async def running(server: Any, worker: Any, agents: Agents, name: str, **options: Any) -> Any:
    """A run that a worker executes."""
    handle = await server.start(name, **options)
    assert await worker.take(handle.run_id) == [TAKEN]
    await agents.until_running(name)
    return handle


def end_lease(database: Any, worker_id: str) -> None:
    database.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{worker_id}'")


async def test_the_runs_of_a_worker_that_gives_no_sign_of_life_end_with_the_reason(
    member: Any, agents: Agents, database: Any
) -> None:
    server, worker, other = await member("server"), await member(), await member()
    handle = await running(server, worker, agents, "long", thread_id="t")
    follows = await server.start("quick", thread_id="t")
    fleet = other.store.fleet
    assert (await fleet.reap(other.name)).ended == []
    end_lease(database, worker.name)

    reaped = await fleet.reap(other.name)

    assert (reaped.ended, reaped.orphaned) == ([handle.run_id], [])
    record = await server.ended(handle.run_id)
    assert record.status is RunStatus.error
    process = worker.coordinator._enrolment._name
    assert record.error == (
        "the process that executed the run went away before the run had ended: "
        f"process {process} has given no sign of life"
    )
    assert other.announced == [follows.run_id]
    assert [each.worker_id for each in await fleet.workers()] == [server.name, other.name]
    worker.coordinator.nudge()
    async with asyncio.timeout(10):
        while "long" not in agents.cancelled:
            await asyncio.sleep(0.01)


async def test_while_leases_say_nothing_only_those_are_gone_whose_processes_have_ended(
    member: Any, agents: Agents, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, worker, other = await member("server"), await member(), await member()
    handles = [await running(server, each, agents, f"at {each.name}") for each in (worker, other)]
    for each in (worker, other):
        end_lease(database, each.name)
    database.execute(f"UPDATE workers SET process = 'ended' WHERE worker_id = '{other.name}'")
    monkeypatch.setattr(recovery, "is_gone", lambda process: process == "ended")
    fleet = server.store.fleet

    assert (await fleet.reap(server.name, trusts_leases=lambda now=None: False)).ended == [handles[1].run_id]
    assert (await fleet.reap(server.name, trusts_leases=lambda now=None: True)).ended == [handles[0].run_id]


async def test_what_a_dead_worker_had_not_begun_is_anybodys(member: Any, agents: Agents, database: Any) -> None:
    server, worker, other = await member("server"), await member(max_running=1), await member()
    await running(server, worker, agents, "long")
    handle = await server.start("quick")
    await worker.take(handle.run_id)
    end_lease(database, worker.name)

    reaped = await other.store.fleet.reap(other.name)

    assert reaped.orphaned == other.announced == [handle.run_id]
    assert await other.take(handle.run_id) == [TAKEN]
    await server.ended(handle.run_id)


async def test_a_worker_that_its_supervisor_knows_to_be_dead_is_buried_with_his_words(
    member: Any, agents: Agents, caplog: pytest.LogCaptureFixture
) -> None:
    server, worker, other = await member("server"), await member(), await member()
    handle = await running(server, worker, agents, "long")
    again = await running(server, worker, agents, "again", max_attempts=2)

    with caplog.at_level(logging.WARNING):
        ended = await other.store.fleet.bury(worker.name, "it took more than 1 GiB", FailureReason.memory_limit)

    assert sorted(ended) == sorted([handle.run_id, again.run_id])
    assert "it is started anew as run" in caplog.text
    (event,) = await server.store.events(run_id=handle.run_id, types="run_failed")
    assert event.event.payload["error_type"] == "memory_limit"
    assert event.event.payload["error"] == "it took more than 1 GiB"
    (retry,) = other.announced
    assert (await server.manager.get(retry)).retry_of == again.run_id
    assert await other.take(retry) == [TAKEN]
    assert await other.store.fleet.bury("nobody", "?") == []


async def test_attempts_keep_pool_and_version(member: Any, agents: Agents, database: Any) -> None:
    server = await member("server", version="v1")
    worker = await member(version="v1", pools=("gpu",))
    handle = await running(server, worker, agents, "long", agent="gpu", max_attempts=2)

    await server.store.fleet.bury(worker.name, "it is gone")

    assert database.execute("SELECT owner, pool, version FROM active_runs").fetchall() == [(None, "gpu", "v1")]
    assert server.news[-1].ready[0].pool == "gpu"
    assert server.announced[-1] != handle.run_id


async def test_a_delayed_attempt_is_promoted_in_its_place(member: Any, agents: Agents, database: Any) -> None:
    server, worker, third = await member("server"), await member(), await member()
    handle = await running(server, worker, agents, "long", thread_id="t", max_attempts=3)
    await server.start("quick", thread_id="t")
    await server.store.fleet.bury(worker.name, "it is gone")
    second = server.announced[-1]
    assert await third.take(second) == [TAKEN]
    await third.until_started(second)
    await server.store.fleet.bury(third.name, "it is gone, too")
    (delayed,) = database.execute("SELECT run_id FROM active_runs WHERE state = 'delayed'").fetchall()[0]
    assert (await server.manager.get(delayed)).retry_of == second != handle.run_id

    assert await server.store.fleet.promote_due() == []
    database.execute(f"UPDATE active_runs SET due_at = '2026-01-01T00:00:00.000000Z' WHERE run_id = '{delayed}'")
    assert await server.store.fleet.promote_due() == [delayed]
    first_to_wait = "SELECT run_id FROM active_runs WHERE NOT holds ORDER BY ordinal"
    assert database.execute(first_to_wait).fetchall() == [(delayed,)]


async def test_only_the_reapers_own_lease_does_not_matter(member: Any, agents: Agents, database: Any) -> None:
    server, worker = await member("server"), await member()
    handle = await running(server, worker, agents, "long")
    end_lease(database, worker.name)

    assert (await worker.store.fleet.reap(worker.name)).ended == []
    assert (await server.store.fleet.reap(server.name)).ended == [handle.run_id]


async def test_no_lease_goes_on_for_long_where_the_clock_is_set_back(
    member: Any, agents: Agents, database: Any
) -> None:
    """As it is by a failover to a machine whose clock is behind."""
    server, worker = await member("server"), await member(lease_seconds=60.0)
    handle = await running(server, worker, agents, "long")
    assert await worker.store.fleet.hold_duties(worker.name, ["reaper"], 4) == {"reaper"}
    assert await server.store.fleet.hold_duties(server.name, ["reaper"], 4) == set()
    database.execute(f"UPDATE workers SET lease_until = lease_until + 3000 WHERE worker_id = '{worker.name}'")
    database.execute("UPDATE duties SET lease_until = lease_until + 3000")

    assert {each.worker_id: each.seconds_left for each in await server.store.fleet.workers()}[worker.name] == 0
    assert await server.store.fleet.duties() == []
    assert await server.store.fleet.hold_duties(server.name, ["reaper"], 4) == {"reaper"}
    assert (await server.store.fleet.reap(server.name)).ended == [handle.run_id]


async def test_duties_are_held_by_one_and_passed_on(member: Any, database: Any) -> None:
    one, two = (await member()).store.fleet, (await member()).store.fleet
    names = ["reaper", "scheduler", "sweeper"]

    assert await one.hold_duties("one", names[:2], 60) == {"reaper", "scheduler"}
    assert await two.hold_duties("two", names, 60) == {"sweeper"}
    held = {duty.name: duty for duty in await two.duties()}
    assert {name: duty.holder for name, duty in held.items()} == {
        "reaper": "one",
        "scheduler": "one",
        "sweeper": "two",
    }
    assert all(0 < duty.seconds_left <= 60 for duty in held.values())
    since = held["reaper"].since

    database.execute("UPDATE duties SET lease_until = 0 WHERE name = 'scheduler'")
    assert await two.hold_duties("two", names, 60) == {"scheduler", "sweeper"}
    assert await one.hold_duties("one", names, 60) == {"reaper"}
    renewed = {duty.name: duty for duty in await two.duties()}
    assert renewed["reaper"].since == since
    assert renewed["scheduler"].since > since

    await two.release_duties("two")
    assert await one.hold_duties("one", names, 60) == {*names}
    assert await one.hold_duties("one", [], 60) == set()


async def test_of_many_who_want_a_duty_at_once_one_has_it(member: Any, database: Any) -> None:
    fleets = [(await member()).store.fleet for _ in range(4)]
    for _ in range(10):
        holders = await asyncio.gather(*(fleet.hold_duties(str(n), ["x"], 60) for n, fleet in enumerate(fleets)))
        held = [n for n, names in enumerate(holders) if names]
        assert len(held) <= 1
        (found,) = await fleets[0].duties()
        assert held in ([], [int(found.holder)])
        database.execute("UPDATE duties SET lease_until = 0")


async def test_a_worker_hears_that_it_shall_drain_with_its_next_sign_of_life(member: Any) -> None:
    server, worker = await member("server"), await member(lease_seconds=3.0)
    asked = asyncio.Event()
    worker.coordinator.on_drain.append(asked.set)
    await worker.coordinator.take_any(0)
    assert not worker.coordinator.draining

    assert await server.store.fleet.ask_to_drain(worker.name)
    async with asyncio.timeout(10):
        await asked.wait()
    assert worker.coordinator.draining
    assert {each.worker_id: each.draining for each in await server.store.fleet.workers()}[worker.name]
    assert not await server.store.fleet.ask_to_drain("nobody")
    assert not await server.store.fleet.ask_to_drain(server.name)


async def test_workers_say_what_they_are(member: Any) -> None:
    server = await member("server", address="http://here:8000")
    worker = await member(
        lease_seconds=3.0, pools=("gpu", "default"), agents=("a", "b"), version="v1", capacity=3, isolated_in="w"
    )
    inline = await member(None)
    for each in (server, worker, inline):
        await each.coordinator._enrolment.enroll()
    worker.coordinator.note_running(2)

    async with asyncio.timeout(10):
        while True:
            found = {each.worker_id: each for each in await server.store.fleet.workers()}
            if found[worker.name].running == 2:
                break
            await asyncio.sleep(0.02)
    kinds = [found[each.name].kind for each in (server, worker, inline)]
    assert kinds == ["server", "worker", "inline"]
    said = found[worker.name]
    assert (said.pools, said.agents, said.version) == (("gpu", "default"), ("a", "b"), "v1")
    assert (said.capacity, said.isolated_in, said.release, said.draining) == (3, "w", __version__, False)
    assert said.seconds_left > 0
    assert found[server.name].address == "http://here:8000"


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
    """As where the clock of their leases was set, forward or back: all seem to have ended."""
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

    assert [run.run_id for run in await fleet.ready()] == [old, young, ahead, on_gpu]
    assert await fleet.ready(["gpu"]) == [ReadyRun(on_gpu, "gpu")]
    assert await fleet.ready([]) == []
    assert [run.run_id for run in await fleet.ready(older_than=30)] == [old, ahead]
    assert [run.run_id for run in await fleet.ready(limit=2)] == [old, young]


async def test_ends_whose_reply_was_lost_leave_no_thread_held(member: Any, agents: Agents, database: Any) -> None:
    server, worker = await member("server"), await member(lease_seconds=0.6)
    handle = await running(server, worker, agents, "long", thread_id="t")
    own = worker.coordinator._runs.get(handle.run_id)
    forget = worker.coordinator._on_handover
    worker.store._writer.on_handover.remove(forget)  # as if the reply to the commit was lost
    agents.let("long")
    await server.ended(handle.run_id)
    worker.store._writer.on_handover.append(forget)

    assert own is not None
    async with asyncio.timeout(10):
        while database.execute("SELECT count(*) FROM active_runs").fetchall() != [(0,)]:
            await asyncio.sleep(0.02)


async def test_a_coordinator_says_what_does_not_fit(member: Any) -> None:
    server = await member("server")
    with pytest.raises(StoreOptionError, match="fleet"):
        server.store.coordinator(fleet="worker")
    with pytest.raises(StoreOptionError, match="hands_over"):
        server.store.coordinator(fleet=FleetMember(kind="server", pool_of=str), hands_over=False)


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
    member: Any, agents: Agents, dialect: str
) -> None:
    if dialect != "postgres":
        pytest.skip("there are no fleets on SQLite, and so no two processes of one worker")
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


async def test_who_waits_with_what_it_writes_gives_its_signs_of_life_all_the_same(
    member: Any, agents: Agents, dialect: str, database: Any
) -> None:
    if dialect != "postgres":
        pytest.skip("only one writes to an SQLite file at a time")
    lease = 2.5
    server, worker, other = await member("server"), await member(lease_seconds=lease), await member()
    handle = await running(server, worker, agents, "long", thread_id="t")

    async def known_until() -> float:
        select = f"SELECT lease_until FROM workers WHERE worker_id = '{worker.name}'"
        ((until,),) = (await asyncio.to_thread(database.execute, select)).fetchall()
        return float(until)

    async with held_up(worker.store):
        end = await known_until() + lease
        async with asyncio.timeout(20):
            while await known_until() <= end:  # no sign of life came after the lease of now would have ended
                await asyncio.sleep(0.01)
        reaped = await other.store.fleet.reap(other.name)
        assert worker.store._writer._beside is not None
    assert reaped.ended == []
    while worker.store._writer._beside is not None or worker.store._writer._done_beside:  # its connection is given back
        await asyncio.sleep(0.01)
    agents.let("long")
    assert (await server.ended(handle.run_id)).status is RunStatus.success
