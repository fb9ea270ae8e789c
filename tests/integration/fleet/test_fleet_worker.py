"""A worker takes what it has room for, whatever becomes of its offers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from fleet_here import fleet_here
from nats_server import NatsServer
from raw_postgres import RawConnection

from trackside import AgentLimits, RunContext, RunSpec
from trackside.app.cli.serving.worker_life import WorkerLife
from trackside.app.settings import EngineSettings, Settings, WorkerSettings
from trackside.app.storage.errors import ServerUnreachableError
from trackside.app.storage.fleet import ReadyRun
from trackside.app.wiring import open_app


class Crowd:
    """An agent that counts how many of its runs go on at once, and holds them until it is told to let them go."""

    def __init__(self) -> None:
        self.now = self.most = self.ended = 0
        self.go = asyncio.Event()

    async def agent(self, input: Any) -> dict[str, Any]:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go.wait()
        self.now -= 1
        self.ended += 1
        return {"answer": input}


async def _nothing(*asked: Any, **more: Any) -> list[Any]:
    return []


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_no_more_runs_than_places_and_each_once(have_fleet: Any) -> None:
    crowd = Crowd()
    async with have_fleet({"crowd": crowd.agent}, workers=2, servers=1, worker=WorkerSettings(concurrency=3)) as fleet:
        manager = fleet.servers[0].app.manager
        runs = await asyncio.gather(*(manager.start(RunSpec("crowd", number)) for number in range(40)))
        await until(lambda: crowd.now == 6)
        assert [worker.worker.stats().running for worker in fleet.workers] == [3, 3]
        crowd.go.set()
        await until(lambda: crowd.ended == len(runs))
        assert crowd.most == 6
        await until(lambda: sum(worker.worker.stats().running for worker in fleet.workers) == 0)
        assert sum(worker.worker.stats().taken_total for worker in fleet.workers) == len(runs)


async def test_a_run_that_nobody_was_told_of_is_found(have_fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd()
    crowd.go.set()
    async with have_fleet({"crowd": crowd.agent}, servers=1) as fleet:
        engine = fleet.servers[0].app.engine
        monkeypatch.setattr(engine, "announce", lambda ready: None)
        await fleet.servers[0].app.manager.start(RunSpec("crowd", 1))
        await until(lambda: crowd.ended == 1)


async def test_an_offer_of_a_run_that_is_not_to_be_had_costs_nothing(have_fleet: Any) -> None:
    crowd = Crowd()
    crowd.go.set()
    async with have_fleet({"crowd": crowd.agent}, servers=1) as fleet:
        server, (worker,) = fleet.servers[0].app, fleet.workers
        run = await server.manager.start(RunSpec("crowd", 1))
        await until(lambda: crowd.ended == 1)
        for run_id in (run.run_id, "there-is-none"):
            server.engine.announce([ReadyRun(run_id)])
        again = await server.manager.start(RunSpec("crowd", 2))
        await until(lambda: crowd.ended == 2)
        await until(lambda: worker.worker.stats().running == 0)
        assert (await server.store.run(again.run_id)).status == "success"


async def test_a_defect_costs_a_worker_no_place_and_no_run(have_fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd()
    crowd.go.set()
    async with have_fleet({"crowd": crowd.agent}, servers=1, worker=WorkerSettings(concurrency=1)) as fleet:
        worker = fleet.workers[0].worker
        coordinator, failed = worker._coordinator, asyncio.Event()
        takes = {name: getattr(coordinator, name) for name in ("take", "take_any")}

        def fails(name: str) -> Any:
            async def take(*asked: Any) -> Any:
                monkeypatch.setattr(coordinator, name, takes[name])
                failed.set()
                raise KeyError("a defect")

            return take

        for name in takes:
            monkeypatch.setattr(coordinator, name, fails(name))
        await fleet.servers[0].app.manager.start(RunSpec("crowd", 1))
        await until(lambda: failed.is_set() and crowd.ended == 1)
        await until(lambda: worker.stats().running == 0)
        assert not any(loop.done() for loop in worker._loops)


async def test_a_worker_that_the_database_does_not_answer_leaves_offers_to_others(
    have_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd, asked = Crowd(), []
    crowd.go.set()
    async with have_fleet({"crowd": crowd.agent}, workers=2, servers=1, worker=WorkerSettings(concurrency=1)) as fleet:
        manager, (away, well) = fleet.servers[0].app.manager, (worker.worker for worker in fleet.workers)

        async def fails(*runs: Any) -> Any:
            asked.append(runs[0])
            raise ServerUnreachableError(database="db", why="it does not answer")

        with monkeypatch.context() as cut:
            cut.setattr(away._coordinator, "take", fails)
            cut.setattr(away._coordinator, "take_any", fails)
            for number in range(12):
                await manager.start(RunSpec("crowd", number))
                await until(lambda ended=number + 1: crowd.ended == ended)
            assert well.stats().taken_total == 12
            assert len([runs for runs in asked if isinstance(runs, list)]) <= 1
        crowd.go.clear()
        for number in range(2):
            await manager.start(RunSpec("crowd", number))
        await until(lambda: crowd.now == 2)
        assert away.stats().taken_total == 1
        crowd.go.set()


async def test_a_first_run_that_waited_for_its_time_knows_what_its_thread_was_given_meanwhile(have_fleet: Any) -> None:
    async def agent(input: Any, run: RunContext) -> dict[str, Any]:
        return {"known": dict(run.values)}

    async with have_fleet({"agent": agent}, servers=1) as fleet:
        client, still_waits = fleet.servers[0].client, False
        for seconds in (1, 10, 100):  # longer each time, for a machine that is too busy for the first
            thread_id = str(uuid4())
            run = await client.runs.create(thread_id, "agent", input={}, if_not_exists="create", after_seconds=seconds)
            await client.threads.update_state(thread_id, {"customer": "ada"})
            if still_waits := (await client.runs.get(thread_id, run["run_id"]))["status"] == "pending":
                break
        assert still_waits
        assert (await client.runs.join(thread_id, run["run_id"]))["known"] == {"customer": "ada"}


async def test_a_worker_that_gives_a_later_run_its_place_stops_what_that_displaces_here(have_fleet: Any) -> None:
    """The worker knows already, so nobody tells it; it does not wait for its next round, a third of a lease later."""
    crowd = Crowd()
    async with have_fleet({"crowd": crowd.agent}, servers=1, lease=600.0) as fleet:
        client, thread_id = fleet.servers[0].client, str(uuid4())
        run = await client.runs.create(thread_id, "crowd", input={}, if_not_exists="create")
        await until(lambda: crowd.now == 1)
        await fleet.servers[0].app.retire()
        await until(lambda: fleet.workers[0].fleet_part.duties.holds("scheduler"))
        await client.runs.create(thread_id, "crowd", input={}, multitask_strategy="interrupt", after_seconds=1)
        async with asyncio.timeout(30):
            await client.runs.join(thread_id, run["run_id"])
        crowd.go.set()


async def test_what_a_run_starts_behind_a_run_of_another_worker_begins_when_that_has_ended(have_fleet: Any) -> None:
    crowd, waits = Crowd(), asyncio.Event()

    async def leads(input: Any, run: RunContext) -> dict[str, Any]:
        (manager,) = [app.manager for app in fleet.workers if app.manager.has(run.run_id)]
        below = await manager.start(RunSpec("crowd", "below", thread_id="shared"))
        waits.set()
        return {"below": (await below.result()).output}

    agents, settings = {"crowd": crowd.agent, "leads": leads}, WorkerSettings(concurrency=1)
    async with have_fleet(agents, workers=2, servers=1, worker=settings, lease=600.0) as fleet:
        client, manager = fleet.servers[0].client, fleet.servers[0].app.manager
        await manager.start(RunSpec("crowd", "before", thread_id="shared"))
        await until(lambda: crowd.now == 1)
        run = await manager.start(RunSpec("leads"))
        async with asyncio.timeout(30):
            await waits.wait()
            crowd.go.set()
            assert await client.runs.join(run.thread_id, run.run_id) == {"below": {"answer": "below"}}


async def test_who_stops_taking_leaves_what_waits_to_others(have_fleet: Any) -> None:
    crowd = Crowd()
    async with have_fleet({"crowd": crowd.agent}, workers=2, servers=1, worker=WorkerSettings(concurrency=1)) as fleet:
        manager, (leaving, staying) = fleet.servers[0].app.manager, fleet.workers
        for number in range(6):
            await manager.start(RunSpec("crowd", number))
        await until(lambda: crowd.now == 2)
        await leaving.worker.stop()
        crowd.go.set()
        await until(lambda: crowd.ended == 6)
        await leaving.worker.until_idle()
        assert leaving.worker.stats().taken_total == 1
        assert staying.worker.stats().taken_total == 5


async def test_a_worker_that_stops_amid_a_look_sees_through_what_that_takes(
    have_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd, looked, goes_on = Crowd(), asyncio.Event(), asyncio.Event()
    async with have_fleet({"crowd": crowd.agent}, servers=1) as fleet:
        server, (worker,) = fleet.servers[0].app, fleet.workers
        take_any = worker.worker._coordinator.take_any

        async def take_slowly(room: int) -> list[str]:
            if room < worker.worker.stats().places:  # an offer that comes to nothing occupies a place just now
                worker.worker._look_soon.set()
                return []
            if taken := await take_any(room):
                looked.set()
                await goes_on.wait()
            return taken

        monkeypatch.setattr(worker.worker._coordinator, "take_any", take_slowly)
        monkeypatch.setattr(server.engine, "announce", lambda ready: None)
        monkeypatch.setattr(type(server.store.fleet), "ready", _nothing)  # nor does the sweeper offer the run
        await server.manager.start(RunSpec("crowd", 1))
        worker.worker._look_soon.set()
        await looked.wait()
        assert (worker.worker.stats().running, worker.worker.executing) == (worker.worker.stats().places, 0)
        await worker.worker.stop()
        goes_on.set()
        await until(
            lambda: (crowd.now, worker.worker.stats().running) == (1, 1)
        )  # the places for which it looked are free again
        crowd.go.set()
        assert worker.worker.executing == 1
        await worker.worker.until_idle()
        assert (worker.worker.stats().running, worker.worker.executing, crowd.ended) == (0, 0, 1)


async def test_a_run_that_is_offered_while_somebody_is_at_its_thread_begins_as_soon_as_he_is_not(
    have_fleet: Any, postgres_with_tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd()
    async with have_fleet({"crowd": crowd.agent}, servers=1) as fleet:
        server, (worker,) = fleet.servers[0].app, fleet.workers
        monkeypatch.setattr(
            worker.worker._coordinator, "take_any", _nothing
        )  # neither a look nor the sweeper finds the run
        monkeypatch.setattr(type(server.store.fleet), "ready", _nothing)
        await server.manager.start(RunSpec("crowd", 1, thread_id="t"))
        await until(lambda: crowd.now == 1)
        took = worker.worker._coordinator.take
        asked: list[list[str]] = []

        async def take_beside_somebody(run_ids: list[str]) -> Any:
            asked.append(run_ids)
            if len(asked) > 2:
                return await took(run_ids)
            somebody = await asyncio.to_thread(RawConnection, postgres_with_tables)
            try:
                await asyncio.to_thread(somebody.execute, "BEGIN; SELECT 1 FROM threads FOR UPDATE")
                return await took(run_ids)
            finally:
                await asyncio.to_thread(somebody.close)

        monkeypatch.setattr(worker.worker._coordinator, "take", take_beside_somebody)
        await server.manager.start(RunSpec("crowd", 2, thread_id="t"))
        crowd.go.set()
        await until(lambda: crowd.ended == 2)
        assert len(asked) == 3


async def test_a_worker_that_stops_is_known_to_have_no_room_while_it_finishes_its_runs(have_fleet: Any) -> None:
    crowd = Crowd()
    async with have_fleet({"crowd": crowd.agent}, servers=1, worker=WorkerSettings(concurrency=3)) as fleet:
        server, (worker,) = fleet.servers[0].app, fleet.workers
        await server.manager.start(RunSpec("crowd", 1))
        await until(lambda: crowd.now == 1)
        asked: list[str] = []
        worker.worker.on_drain.append(lambda: asked.append("to leave"))
        (known,) = (await server.store.fleet.queue()).pools
        assert (known.workers, known.places) == (1, 3)

        await worker.worker.stop()
        async with asyncio.timeout(30):
            while (await server.store.fleet.queue()).pools[0].workers:
                await asyncio.sleep(0.01)

        (known,) = (await server.store.fleet.queue()).pools
        assert (known.workers, known.places, known.free, known.running) == (0, 0, 0, 1)
        assert asked == [], "a process that begins anew would not do so"
        crowd.go.set()
        await worker.worker.until_idle()


async def test_a_worker_that_ends_leaves_behind_a_run_whose_agent_does_not_stop(
    have_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_stop = asyncio.Event(), asyncio.Event()

    async def deaf(input: Any) -> dict[str, Any]:
        begun.set()
        while not may_stop.is_set():
            with suppress(asyncio.CancelledError):
                await may_stop.wait()
        return {}

    async with have_fleet({"deaf": deaf}, servers=1, shutdown_grace=0.0) as fleet:
        server, (worker,) = fleet.servers[0].app, fleet.workers
        monkeypatch.setattr(worker.store, "leave_within", lambda seconds: None)  # however slow the database is
        run = await server.manager.start(RunSpec("deaf"))
        await until(begun.is_set)
        health: Any = SimpleNamespace(begin_ending=lambda why: None)
        life = WorkerLife(0.0, lambda *_, **__: None)
        life._begin_to_end(False)
        try:
            async with asyncio.timeout(60):
                await life.end(worker, worker.worker, health)
            assert worker.manager.has(run.run_id)
        finally:
            may_stop.set()
        await until(lambda: not worker.manager.has(run.run_id))


async def test_runs_of_a_pool_go_to_its_workers(postgres_with_tables: str) -> None:
    places: list[str] = []

    def agent_at(place: str) -> Any:
        async def agent(input: Any, run: RunContext) -> dict[str, Any]:
            places.append(place)
            return {}

        return agent

    here = {"render": agent_at("default"), "chat": agent_at("default")}
    there = {"render": agent_at("gpu"), "chat": agent_at("gpu")}
    pools = {"render": "gpu"}
    async with fleet_here(here, postgres_with_tables, "postgres", servers=1, pools=pools) as fleet:
        settings = Settings(
            database_url=postgres_with_tables,
            engine=EngineSettings(url="postgres", lease=60.0),
            worker=WorkerSettings(pools=("gpu",)),
            pools=pools,
        )
        async with open_app(settings, there, role="worker"):
            for name in ("render", "chat"):
                await fleet.servers[0].app.manager.start(RunSpec(name))
            await until(lambda: len(places) == 2)
            assert sorted(places) == ["default", "gpu"]


async def test_an_agent_of_which_a_worker_executes_few_takes_no_place_from_others(have_fleet: Any) -> None:
    few, many = Crowd(), Crowd()
    agents, settings = {"few": few.agent, "many": many.agent}, WorkerSettings(concurrency=3)
    limits = {"few": AgentLimits(max_running=1)}
    async with have_fleet(agents, workers=2, servers=1, worker=settings, limits=limits) as fleet:
        manager = fleet.servers[0].app.manager
        for number in range(6):
            await manager.start(RunSpec("few", number))
        for number in range(4):
            await manager.start(RunSpec("many", number))
        await until(lambda: few.now == 2 and many.now == 4)
        assert [worker.worker.stats().running for worker in fleet.workers] == [3, 3]
        many.go.set()
        few.go.set()
        await until(lambda: few.ended == 6 and many.ended == 4)
        assert few.most == 2


async def test_a_worker_that_is_cut_off_waits_for_no_look_that_was_meant_for_later(postgres_with_tables: str) -> None:
    crowd = Crowd()
    crowd.go.set()
    with NatsServer() as nats:
        async with fleet_here({"crowd": crowd.agent}, postgres_with_tables, nats.url, servers=1) as fleet:
            server, (worker,) = fleet.servers[0].app, fleet.workers
            await server.manager.start(RunSpec("crowd", 1))
            await until(lambda: crowd.ended == 1)
            worker.worker._look_every = 3_600.0
            worker.worker._look_soon.set()
            await until(lambda: not worker.worker._look_soon.is_set() and worker.worker.stats().running == 0)

            await asyncio.to_thread(nats.stop, "KILL")
            await until(lambda: not (worker.engine.status().connected or server.engine.status().connected))
            await server.manager.start(RunSpec("crowd", 2))
            await until(lambda: crowd.ended == 2)
