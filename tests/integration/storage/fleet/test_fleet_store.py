"""What the processes of a fleet look after for all: workers that are gone, leases, duties, draining."""

import asyncio
import logging
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from tests.integration.runs.stage import Agents
from tests.integration.storage.conftest import held_up
from tests.integration.storage.fleet.running import TAKEN, end_lease, running

from trackside import RunStatus, __version__
from trackside.app.storage._coordination import enrolment, recovery
from trackside.app.storage._databases.postgres import connections
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage.errors import StoreOptionError
from trackside.app.storage.fleet import FleetMember
from trackside.harness.types import FailureReason


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
    async with asyncio.timeout(30):
        while "long" not in agents.cancelled:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("seconds", "said"), [(0, None), (36_000, "ahead of"), (-36_000, "behind")])
async def test_a_process_whose_clock_is_not_that_of_the_database_says_so_as_it_comes(
    member: Any,
    dialect: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    said: str | None,
) -> None:
    if dialect == "sqlite":
        said = None  # it is on this machine

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=seconds)

    monkeypatch.setattr(enrolment, "datetime", Clock)
    with caplog.at_level(logging.WARNING, "trackside.storage"):
        await member()
    lines = [line for line in caplog.messages if "clock" in line]
    assert len(lines) == (said is not None)
    # On a slow machine, time passes between the looks at the two clocks.
    assert said is None or re.search(rf"this machine's clock is 3[56]\d\d\d s {said} the database's", lines[0])


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
    before = datetime.now(UTC)
    await server.store.fleet.bury(third.name, "it is gone, too")
    ((delayed, due_at),) = database.execute("SELECT run_id, due_at FROM active_runs WHERE state = 'delayed'").fetchall()
    assert due_at >= time_text(before + timedelta(seconds=2))
    # Those two seconds may be over before this test looks.
    database.execute(f"UPDATE active_runs SET due_at = '2100-01-01T00:00:00.000000Z' WHERE run_id = '{delayed}'")
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
    """As after a failover to a machine whose clock is behind."""
    server, worker = await member("server"), await member(lease_seconds=60.0)
    handle = await running(server, worker, agents, "long")
    assert await worker.store.fleet.hold_duties(worker.name, ["reaper"], 60) == {"reaper"}
    assert await server.store.fleet.hold_duties(server.name, ["reaper"], 60) == set()
    database.execute(f"UPDATE workers SET lease_until = lease_until + 3000 WHERE worker_id = '{worker.name}'")
    database.execute("UPDATE duties SET lease_until = lease_until + 3000")

    assert {each.worker_id: each.seconds_left for each in await server.store.fleet.workers()}[worker.name] == 0
    assert await server.store.fleet.duties() == []
    assert await server.store.fleet.hold_duties(server.name, ["reaper"], 60) == {"reaper"}
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
    async with asyncio.timeout(30):
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

    async with asyncio.timeout(30):
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


async def test_when_a_process_was_there_last_follows_from_the_length_of_its_own_lease(
    member: Any, database: Any
) -> None:
    asked, patient, brief = await member("server", lease_seconds=60), await member(), await member(lease_seconds=900)
    for each in (asked, patient, brief):
        await each.coordinator._enrolment.enroll()
    for each, silent in ((patient, 200), (brief, 100)):
        database.execute(
            f"UPDATE workers SET started_at = '2026-01-01T00:00:00.000000Z', lease_until = lease_until - {silent}"
            f" WHERE worker_id = '{each.name}'"
        )

    async def by_facts() -> dict[str, datetime]:
        return {one.id: one.last_seen_at for one in (await asked.store.facts()).workers}

    async def by_fleet() -> dict[str, datetime]:
        return {one.worker_id: one.last_seen_at for one in await asked.store.fleet.workers()}

    for read in (by_facts, by_fleet):
        seen, now = await read(), datetime.now(UTC)
        silence = {name: (now - at).total_seconds() for name, at in seen.items()}
        assert 180 < silence[patient.name] < 300
        assert 80 < silence[brief.name] < 180
        assert silence[asked.name] < 60


async def test_ends_whose_reply_was_lost_leave_no_thread_held(member: Any, agents: Agents, database: Any) -> None:
    server, worker = await member("server"), await member(lease_seconds=0.6)
    handle = await running(server, worker, agents, "long", thread_id="t")
    own = worker.coordinator._runs.get(handle.run_id)
    forget = worker.coordinator._on_handover
    worker.store._writer.on_handover.remove(forget)  # as if the reply to the commit had been lost
    agents.let("long")
    await server.ended(handle.run_id)
    async with asyncio.timeout(30):
        while worker.manager.has(handle.run_id):  # the reply is not in yet
            await asyncio.sleep(0.01)
    worker.store._writer.on_handover.append(forget)

    assert own is not None
    async with asyncio.timeout(30):
        while database.execute("SELECT count(*) FROM active_runs").fetchall() != [(0,)]:
            await asyncio.sleep(0.02)


async def test_a_coordinator_says_what_does_not_fit(member: Any) -> None:
    server = await member("server")
    with pytest.raises(StoreOptionError, match="fleet"):
        server.store.coordinator(fleet="worker")
    with pytest.raises(StoreOptionError, match="hands_over"):
        server.store.coordinator(fleet=FleetMember(kind="server", pool_of=str), hands_over=False)


async def test_who_waits_with_what_it_writes_gives_its_signs_of_life_all_the_same(
    member: Any, agents: Agents, dialect: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dialect != "postgres":
        pytest.skip("only one writes to an SQLite file at a time")
    monkeypatch.setattr(connections, "_LEAST_IDLE", 60.0)  # the transaction that is held up idles for a lease
    lease = 5.0  # a machine that stands still for a moment may do so between two signs of life
    server, worker, other = await member("server"), await member(lease_seconds=lease), await member()
    handle = await running(server, worker, agents, "long", thread_id="t")

    async def known_until() -> float:
        select = f"SELECT lease_until FROM workers WHERE worker_id = '{worker.name}'"
        ((until,),) = (await asyncio.to_thread(database.execute, select)).fetchall()
        return float(until)

    async with held_up(worker.store):
        end = await known_until() + lease
        async with asyncio.timeout(20):
            while await known_until() <= end:  # until a sign of life comes after the present lease would have ended
                await asyncio.sleep(0.01)
        reaped = await other.store.fleet.reap(other.name)
        assert worker.store._writer._beside is not None
    assert reaped.ended == []
    while worker.store._writer._beside is not None or worker.store._writer._done_beside:  # until its connection is back
        await asyncio.sleep(0.01)
    agents.let("long")
    assert (await server.ended(handle.run_id)).status is RunStatus.success
