"""Runs that a server lets in and workers take."""

import asyncio
from typing import Any

import pytest
from tests.integration.runs.stage import Agents
from tests.integration.storage.conftest import held_up

from trackside import NoResultHereError, RunStatus
from trackside.app.storage.errors import NoFleetError, SchemaMovedOnError
from trackside.app.storage.fleet import ReadyRun, Taking
from trackside.harness.errors import ClosedError, DuplicateRunError
from trackside.harness.ports import ThreadState

TAKEN, GONE, BUSY, FOREIGN = Taking.taken, Taking.gone, Taking.busy, Taking.foreign


async def test_a_run_is_nobodys_until_a_worker_takes_it_and_ends_there(member: Any, database: Any) -> None:
    server, worker = await member("server"), await member()
    handle = await server.start("quick")

    assert server.announced == [handle.run_id]
    assert database.execute("SELECT owner, pool, version FROM active_runs").fetchall() == [(None, "default", None)]
    with pytest.raises(NoResultHereError, match="another process"):
        await handle.result()
    assert await worker.take(handle.run_id) == [TAKEN]
    assert (await server.ended(handle.run_id)).status is RunStatus.success
    assert await worker.take(handle.run_id, "no such run") == [GONE, GONE]
    assert worker.announced == []


async def test_of_two_workers_one_gets_a_run(member: Any, agents: Agents) -> None:
    server, *workers = await member("server"), await member(), await member()
    handle = await server.start("quick")

    takings = await asyncio.gather(*(worker.take(handle.run_id) for worker in workers))

    assert sorted(taking for (taking,) in takings) in ([GONE, TAKEN], [Taking.locked, TAKEN])
    await server.ended(handle.run_id)
    assert agents.begun == ["quick"]


async def test_runs_wait_for_workers_of_their_pool_with_their_agents_and_version(member: Any) -> None:
    server = await member("server", version="v2")
    on_gpu, plain, other_agent = [
        (await server.start("quick", agent=agent)).run_id for agent in ("gpu", "work", "starter")
    ]
    old, new = await member(version="v1"), await member(version="v2", pools=("gpu",))
    unversioned, both = await member(), await member(version="v2", pools=("default", "gpu"))

    assert server.news[0].ready == (ReadyRun(on_gpu, "gpu", "gpu", "v2"),)
    assert await old.take(on_gpu, plain) == [FOREIGN, FOREIGN]
    assert await unversioned.take(plain) == [FOREIGN]
    assert await new.take(plain) == [FOREIGN]
    assert await old.coordinator.take_any(10) == await unversioned.coordinator.take_any(10) == []
    both.manager._agents.pop("starter")
    assert await both.take(other_agent) == [FOREIGN]
    assert await both.coordinator.take_any(10) == [on_gpu, plain]
    assert await new.coordinator.take_any(10) == []


async def test_an_unversioned_run_is_for_all(member: Any) -> None:
    server, worker = await member("server"), await member(version="v9")

    assert await worker.take((await server.start("quick")).run_id) == [TAKEN]


async def test_the_oldest_ones_are_taken_and_no_more_than_wanted(member: Any) -> None:
    server, worker = await member("server"), await member()
    run_ids = [(await server.start("quick")).run_id for _ in range(5)]

    assert await worker.coordinator.take_any(2) == run_ids[:2]
    assert await worker.coordinator.take_any(0) == []
    assert await worker.coordinator.take_any(10) == run_ids[2:]
    assert await worker.coordinator.take_any(10) == []


async def test_those_of_other_agents_are_passed_over_and_the_order_is_that_of_all(member: Any, database: Any) -> None:
    server, worker = await member("server"), await member(pools=("default", "gpu"))
    worker.manager._agents.pop("starter")
    agents = ["starter", "gpu", "work", "starter", "work", "gpu", "work"]
    run_ids = [(await server.start("quick", agent=agent)).run_id for agent in agents]
    # As an older process leaves it.
    database.execute(f"UPDATE active_runs SET agent = '' WHERE run_id IN ('{run_ids[3]}', '{run_ids[4]}')")

    assert await worker.coordinator.take_any(3) == [run_ids[1], run_ids[2], run_ids[4]]
    assert await worker.coordinator.take_any(10) == run_ids[5:]
    assert await worker.coordinator.take_any(10) == []
    (unserved,) = (await server.store.fleet.queue()).unserved
    assert (unserved.agent, unserved.count) == ("starter", 2)


async def test_the_next_run_of_a_thread_is_ready_when_the_one_before_it_has_ended(member: Any, agents: Agents) -> None:
    server, worker = await member("server"), await member()
    first = await server.start("first", thread_id="t")
    second = await server.start("quick", thread_id="t")

    assert server.announced == [first.run_id]
    assert await worker.take(second.run_id, first.run_id) == [BUSY, TAKEN]
    assert worker.announced == []
    agents.let("first")
    await worker.ended(first.run_id)
    await worker.until_announcing()
    assert worker.announced == [second.run_id]
    assert await worker.take(second.run_id) == [TAKEN]
    await worker.ended(second.run_id)
    told = [each for each in await worker.told("t") if each != "human_message"]
    assert told == [
        "run_started",
        "thread_status_updated busy",
        "run_completed success",
        "run_started",
        "run_completed success",
        "thread_status_updated idle",
    ]


async def test_a_delayed_run_is_ready_when_whoever_has_the_duty_says_so(member: Any) -> None:
    server, worker = await member("server"), await member()
    later = await server.start("quick", after_seconds=3_600)
    soon = await server.start("quick", after_seconds=0.01)

    assert server.announced == []
    assert await worker.take(later.run_id) == [BUSY]
    async with asyncio.timeout(30):
        while not (promoted := await worker.store.fleet.promote_due()):
            await asyncio.sleep(0.01)
    assert promoted == worker.announced == [soon.run_id]
    assert await worker.store.fleet.promote_due() == []
    assert await worker.take(soon.run_id) == [TAKEN]
    await server.ended(soon.run_id)


async def test_a_first_run_that_waited_for_its_time_knows_what_its_thread_was_given_meanwhile(member: Any) -> None:
    server, worker = await member("server", remembers=True), await member(agents=("knows",), remembers=True)
    handle = await server.start(agent="knows", thread_id="t", after_seconds=0.01)
    await server.store.thread_states().save("t", ThreadState(values={"customer": "ada"}))
    async with asyncio.timeout(30):
        while not await worker.store.fleet.promote_due():
            await asyncio.sleep(0.01)

    assert await worker.take(handle.run_id) == [TAKEN]
    assert (await worker.manager.result(handle.run_id)).output == {"known": {"customer": "ada"}}


async def test_a_run_of_nobodys_is_cancelled_where_it_is(member: Any) -> None:
    server, worker = await member("server"), await member()
    waiting, delayed = await server.start("never"), await server.start("never", after_seconds=3_600)

    for handle in (waiting, delayed):
        await handle.cancel()
        assert (await server.manager.get(handle.run_id)).status is RunStatus.cancelled
        assert await worker.take(handle.run_id) == [GONE]
    assert server.stops == []


async def test_who_executes_a_run_is_named_when_it_shall_stop(member: Any, agents: Agents) -> None:
    server, worker = await member("server"), await member()
    handle = await server.start("long")
    await worker.take(handle.run_id)
    await agents.until_running("long")

    await handle.cancel()
    await handle.cancel()
    assert server.stops == [(handle.run_id, worker.name)]
    worker.coordinator.nudge()
    assert (await server.ended(handle.run_id)).status is RunStatus.cancelled
    assert agents.cancelled == ["long"]
    assert worker.stops == []


async def test_whose_run_gets_a_thread_is_named_when_another_has_had_it(member: Any, agents: Agents) -> None:
    server, one, other = await member("server"), await member(), await member()
    first = await server.start("first", thread_id="t")
    await one.take(first.run_id)
    await agents.until_running("first")
    # Of an agent that nobody else knows: the worker's own, like runs that its runs start.
    second, third = [await other.start(agent=lambda _: "done", thread_id="t") for _ in range(2)]

    agents.let("first")
    await one.ended(first.run_id)
    await one.until_stopping()
    assert one.stops == [(second.run_id, other.name)]
    other.coordinator.nudge()
    await other.ended(third.run_id)
    assert other.stops == [], "it knows"


class SlowHost:
    """A host that turns to what it is given when it is told to."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self.given: list[Any] = []

    def on_adopted(self, record: Any, spec: Any, *, ready: bool) -> None:
        self.given.append(lambda: self._host.on_adopted(record, spec, ready=ready))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)


async def test_a_cancel_between_the_taking_and_the_start_keeps_the_agent_from_running(
    member: Any, agents: Agents
) -> None:
    server, worker = await member("server"), await member()
    handle = await server.start("quick")
    worker.coordinator._host = slow = SlowHost(worker.coordinator._host)
    await worker.take(handle.run_id)
    await handle.cancel()
    (give,) = slow.given
    give()

    assert (await server.ended(handle.run_id)).status is RunStatus.cancelled
    async with asyncio.timeout(30):
        while worker.manager.has(handle.run_id):
            await asyncio.sleep(0.01)
    assert agents.begun == []
    assert await worker.told(handle.thread_id) == ["run_cancelled interrupt"]


async def test_newcomers_make_room_for_themselves_wherever_the_others_are(member: Any, agents: Agents) -> None:
    server, worker = await member("server"), await member()
    running = await server.start("long", thread_id="t")
    await worker.take(running.run_id)
    await agents.until_running("long")
    waiting = await server.start("never", thread_id="t")
    newcomer = await server.start("quick", thread_id="t", multitask="interrupt")

    assert (await server.manager.get(waiting.run_id)).status is RunStatus.cancelled
    assert server.stops == [(running.run_id, worker.name)]
    worker.coordinator.nudge()
    await server.ended(running.run_id)
    assert await worker.take(newcomer.run_id) == [TAKEN]
    assert (await server.ended(newcomer.run_id)).status is RunStatus.success


async def test_one_of_nobodys_that_holds_its_thread_makes_room(member: Any) -> None:
    server = await member("server")
    first = await server.start("never", thread_id="t")
    second = await server.start("quick", thread_id="t", multitask="rollback")

    assert (await server.manager.get(first.run_id)).status is RunStatus.cancelled
    assert server.announced == [first.run_id, second.run_id]


async def test_what_a_run_starts_is_of_the_same_worker(member: Any, agents: Agents) -> None:
    server, worker = await member("server"), await member()
    handle = await server.start("child", agent="starter")
    await worker.take(handle.run_id)

    assert (await server.ended(handle.run_id)).status is RunStatus.success
    assert agents.begun == ["quick child"]
    assert worker.announced == []


async def test_an_id_is_taken_once_also_where_nobody_executes(member: Any) -> None:
    server, other = await member("server"), await member("server")
    await server.start("quick", run_id="r")

    for each in (server, other):
        with pytest.raises(DuplicateRunError):
            await each.start("quick", run_id="r")


async def test_keys_find_their_runs_wherever_they_are(member: Any, agents: Agents) -> None:
    server, worker = await member("server"), await member()
    first = await server.start("quick", idempotency_key="k")
    again = await server.start("quick", idempotency_key="k")
    await worker.take(first.run_id)
    await server.ended(first.run_id)
    later = await server.start("quick", idempotency_key="k")

    assert (again.run_id, again.existing) == (first.run_id, True)
    assert (await later.result()).status is RunStatus.success
    assert agents.begun == ["quick"]


async def test_what_a_worker_leaves_before_it_has_begun_is_anybodys_and_news(member: Any, agents: Agents) -> None:
    server, worker, other = await member("server"), await member(max_running=1), await member()
    running = await server.start("long")
    await worker.take(running.run_id)
    await agents.until_running("long")
    handle = await server.start("quick")
    assert await worker.take(handle.run_id) == [TAKEN]
    await worker.manager.aclose()
    await worker.coordinator.aclose()

    assert worker.announced == [handle.run_id]
    assert await other.take(handle.run_id) == [TAKEN]
    await server.ended(handle.run_id)


async def test_nothing_is_taken_once_a_newer_version_has_changed_the_tables(member: Any, database: Any) -> None:
    server, worker = await member("server"), await member()
    handle = await server.start("quick")
    database.execute("UPDATE alembic_version SET version_num = '9999'")

    for taking in (worker.take(handle.run_id), worker.coordinator.take_any(1)):
        with pytest.raises(SchemaMovedOnError, match="9999"):
            await taking
    assert database.execute("SELECT owner FROM active_runs").fetchall() == [(None,)]


async def test_only_workers_of_a_fleet_take(member: Any) -> None:
    inline, worker = await member(None), await member()
    with pytest.raises(NoFleetError):
        await inline.take("r")
    await worker.coordinator.aclose()
    with pytest.raises(ClosedError):
        await worker.take("r")


async def test_a_taking_whose_caller_goes_is_finished_all_the_same(member: Any, agents: Agents) -> None:
    server, worker = await member("server"), await member()
    handle = await server.start("quick")
    assert await worker.coordinator.take_any(0) == []  # this makes it known
    taking = asyncio.create_task(worker.take(handle.run_id))
    await asyncio.sleep(0)
    taking.cancel()

    assert (await server.ended(handle.run_id)).status is RunStatus.success
    assert taking.cancelled()


async def test_inline_processes_beside_a_fleet_take_over_its_runs_but_not_those_of_pools(
    member: Any, agents: Agents
) -> None:
    server = await member("server", version="v1")
    on_gpu, plain = [(await server.start("quick", agent=agent)).run_id for agent in ("gpu", "work")]
    inline = await member(None, lease_seconds=0.3)

    await inline.ended(plain)
    own = await inline.start("quick")
    await own.result()
    assert (await server.manager.get(on_gpu)).status is RunStatus.pending


async def test_what_a_worker_takes_too_late_is_anybodys_and_news_while_it_finishes_the_rest(
    member: Any, agents: Agents
) -> None:
    server, worker, other = await member("server"), await member(), await member()
    running = await server.start("long")
    await worker.take(running.run_id)
    await agents.until_running("long")
    handle = await server.start("quick")
    async with held_up(worker.store):
        taking = asyncio.ensure_future(worker.take(handle.run_id))
        while not worker.store.writer_stats().pending:
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(worker.manager.aclose(grace=60))
        while not worker.manager.closing:
            await asyncio.sleep(0)

    assert await taking == [BUSY]
    assert worker.announced == [handle.run_id]
    assert await other.take(handle.run_id) == [TAKEN]
    assert (await server.ended(handle.run_id)).status is RunStatus.success
    assert not closing.done()
    agents.let("long")
    await closing
    assert (await server.ended(running.run_id)).status is RunStatus.success
