"""Which worker is told of a run, and what happens when none has room or the server is away."""

import asyncio
import json
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from postgres_server import PostgresServer
from raw_postgres import RawConnection
from tests.integration.engine.postgres.conftest import Fleet, end_sessions, until

from trackside.app.engine.postgres import _directory, _dispatch, _offers
from trackside.app.engine.postgres._notices import MAX_HOPS, WORKERS, Told, channel_of
from trackside.app.storage.fleet import ReadyRun


def stored(worker_id: str, *pools: str, capacity: int = 1, running: int = 0, **other: Any) -> Any:
    facts = {"kind": "worker", "draining": False, "seconds_left": 10.0, "isolated_in": None} | other
    facts = {"agents": (), "version": None} | facts
    return SimpleNamespace(worker_id=worker_id, pools=pools, capacity=capacity, running=running, **facts)


async def test_one_of_64_idle_workers_is_told_of_a_run(fleet: Fleet) -> None:
    server, *engines = [await fleet.engine() for _ in range(5)]
    workers = [await fleet.worker(engines[n % 4], f"worker {n}") for n in range(64)]
    for worker in workers:
        await worker.until_idle()
    await fleet.heard_by(server, *engines)
    looks = sum(worker.looks for worker in workers)

    server.announce([ReadyRun("run 1")])
    await until(lambda: [worker for worker in workers if worker.runs])
    await fleet.heard_by(server, *engines)

    assert [run_id for worker in workers for run_id in worker.runs] == ["run 1"]
    assert sum(worker.looks for worker in workers) == looks
    assert server.stats().announced_total == 1
    assert sum(engine.stats().offers_total for engine in engines) == looks + 1


async def test_a_burst_is_spread_over_the_workers(fleet: Fleet) -> None:
    server, one, two = [await fleet.engine() for _ in range(3)]
    workers = [await fleet.worker(engine, f"worker {n}", places=8) for n, engine in enumerate([one, two, one, two])]
    for worker in workers:
        await worker.until_idle()
    await fleet.heard_by(server, one, two)

    server.announce([ReadyRun(f"run {n}") for n in range(20)])
    await until(lambda: sum(len(worker.runs) for worker in workers) == 20)

    assert [len(worker.runs) for worker in workers] == [5, 5, 5, 5]


async def test_runs_go_to_workers_of_their_pool(fleet: Fleet) -> None:
    server, one = await fleet.engine(), await fleet.engine()
    cpu = await fleet.worker(one, "cpu", "cpu", places=9)
    gpu = await fleet.worker(one, "gpu", "gpu", "ü '\" pool", places=9)
    await cpu.until_idle()
    await gpu.until_idle()
    await fleet.heard_by(server, one)

    server.announce(
        [ReadyRun("a", "gpu"), ReadyRun("b", "cpu"), ReadyRun("c", "nobody's"), ReadyRun("d", "ü '\" pool")]
    )
    await until(lambda: len(cpu.runs) + len(gpu.runs) == 3)

    assert (cpu.runs, sorted(gpu.runs)) == (["b"], ["a", "d"])


async def test_a_full_worker_passes_on_what_it_is_told(fleet: Fleet) -> None:
    server, one, two = [await fleet.engine() for _ in range(3)]
    full = await fleet.worker(one, "full")
    await full.until_idle()
    await fleet.heard_by(server, one)  # the server hears neither of the other worker nor that this one gets full
    server._bus.unlisten(WORKERS, server._dispatch._hear)
    idle = await fleet.worker(two, "idle")
    await idle.until_idle()
    full.occupy(1)

    server.announce([ReadyRun("run")])
    await until(lambda: idle.runs == ["run"])

    assert full.runs == []
    assert two.stats().redelivered_total == 1


async def test_what_all_are_too_full_for_is_looked_for_by_whoever_has_room_first(fleet: Fleet) -> None:
    server, one, two = [await fleet.engine() for _ in range(3)]
    workers = [await fleet.worker(one, "a"), await fleet.worker(two, "b")]
    for worker in workers:
        await worker.until_idle()
        worker.occupy(1)
    await until(lambda: not any(worker.offers._said.has_room for worker in workers))
    await fleet.heard_by(server, one, two)
    looks = [worker.looks for worker in workers]
    sent = server._bus.sent_total

    server.announce([ReadyRun(f"run {n}") for n in range(100)])
    await fleet.heard_by(server, one, two)
    assert server._bus.sent_total <= sent + 9  # `heard_by` sent these, and nobody was told of a run
    assert [worker.looks for worker in workers] == looks

    workers[1].let_go(1)
    await until(lambda: workers[1].looks == looks[1] + 1)
    assert workers[0].looks == looks[0]
    assert not any(worker.runs for worker in workers)


async def test_a_worker_that_is_told_while_it_is_full_looks_when_it_has_room(fleet: Fleet) -> None:
    server, one = await fleet.engine(), await fleet.engine()
    worker = await fleet.worker(one, "only")
    await worker.until_idle()
    await fleet.heard_by(server, one)
    looks = worker.looks
    worker.occupy(1)
    server.announce([ReadyRun("run")])
    await until(lambda: worker.offers._has_missed)

    worker.let_go(1)
    await until(lambda: worker.looks == looks + 1)

    assert worker.runs == []


async def test_more_than_there_seems_to_be_room_for_has_workers_look(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_directory, "_ON_ITS_WAY", 3_600.0)  # however long it takes to tell of the runs
    server, one = await fleet.engine(), await fleet.engine()
    worker = await fleet.worker(one, "only", places=4)
    await worker.until_idle()
    await fleet.heard_by(server, one)

    server.announce([ReadyRun(f"run {n}") for n in range(1_000)])
    await until(lambda: len(worker.runs) == 4 and not worker.offers._said.has_room)
    looks = worker.looks
    worker.let_go(1)
    await until(lambda: worker.looks == looks + 1)

    assert server.stats().announced_total == 4


async def test_a_worker_that_gets_room_as_nobody_is_told_is_told_then(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dispatch, "_UNTOLD", 3_600.0)  # however long it takes others to hear that it has room
    server, one = await fleet.engine(), await fleet.engine()
    worker = await fleet.worker(one, "only")
    await worker.until_idle()
    worker.occupy(1)
    await until(lambda: not worker.offers._said.has_room)
    await fleet.heard_by(server, one)
    looks = worker.looks

    worker.let_go(1)
    await until(lambda: worker.looks == looks + 1)  # before there is anything to find
    server.announce([ReadyRun("run")])
    await until(lambda: worker.looks > looks + 1 or worker.runs)


async def test_of_what_a_worker_says_while_nothing_can_be_sent_the_last_word_counts(fleet: Fleet) -> None:
    server, one = await fleet.engine(), await fleet.engine()
    worker = await fleet.worker(one, "only")
    await worker.until_idle()
    worker.occupy(1)
    await until(lambda: not worker.offers._said.has_room and not one._bus.waiting)
    async with one._bus._turn:  # as while the database is slow
        one._bus.notify("any", "on its way")
        await until(lambda: one._bus._sending)
        for change, has_room in ((worker.let_go, True), (worker.occupy, False), (worker.let_go, True)):
            change(1)
            await until(lambda has_room=has_room: worker.offers._said.has_room is has_room)
    await fleet.heard_by(server, one)

    server.announce([ReadyRun("run")])
    await until(lambda: worker.runs == ["run"])


async def test_looks_that_take_all_places_for_a_moment_do_not_lead_to_looks(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, one = await fleet.engine(), await fleet.engine()
    worker = await fleet.worker(one, "only", places=3)
    await worker.until_idle()
    await fleet.heard_by(server, one)
    looks, sent = worker.looks, one._bus.sent_total
    monkeypatch.setattr(_offers, "_STEADY", 3_600.0)  # a moment, on a machine that may stand still for one as well

    for _ in range(50):
        worker.occupy(3)
        await asyncio.sleep(0)
        worker.let_go(3)
        await asyncio.sleep(0)
    await fleet.heard_by(server, one)

    assert worker.looks == looks
    assert one._bus.sent_total <= sent + 4


async def test_workers_that_nobody_has_heard_of_are_read_from_the_database(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dispatch, "_READ_EVERY", 3_600.0)  # else they are read again where all this takes long
    one = await fleet.engine()
    worker = await fleet.worker(one, "silent", "gpu")
    await worker.until_idle()
    fleet.stored = [
        stored("server", "gpu", kind="server"),
        stored("draining", "gpu", draining=True),
        stored("dead", "gpu", seconds_left=-1.0),
        stored("busy", "gpu", running=1),
        stored("parent", "gpu", capacity=9),
        stored("silent", "gpu", isolated_in="parent"),
    ]
    server = await fleet.engine()
    reads = fleet.reads

    server.announce([ReadyRun("run", "gpu")])
    await until(lambda: worker.runs == ["run"])

    assert fleet.reads <= reads + 1


async def test_runs_go_to_workers_that_have_their_agent_in_their_version(fleet: Fleet) -> None:
    one, two = await fleet.engine(), await fleet.engine()
    others = [await fleet.worker(one, f"other {n}", places=9) for n in range(8)]
    old = await fleet.worker(one, "old", places=9)
    new = await fleet.worker(two, "new", places=9)
    fleet.stored = [
        *(stored(f"other {n}", "default", capacity=9, agents=("write",), version="v2") for n in range(8)),
        stored("old", "default", capacity=9, agents=("draw",), version="v1"),
        stored("new", "default", capacity=9, agents=("draw", "write"), version="v2"),
    ]
    for worker in (*others, old, new):
        await worker.until_idle()
    server = await fleet.engine()
    server.announce([ReadyRun("first", "default", "draw", "v2")])  # has the server read who has which agent
    await until(lambda: server._dispatch._reading is None)
    await fleet.heard_by(server, one, two)

    server.announce([ReadyRun(f"draw {n}", "default", "draw", "v2") for n in range(3)])
    server.announce([ReadyRun("any version", "default", "draw")])
    await until(lambda: len(new.runs) + len(old.runs) == 5)
    await fleet.heard_by(server, one, two)

    assert {"first", "draw 0", "draw 1", "draw 2"} <= {*new.runs}
    assert {*new.runs, *old.runs} == {"first", "draw 0", "draw 1", "draw 2", "any version"}
    assert not any(worker.runs for worker in others)

    server.announce([ReadyRun("as yet nobody's", "default", "sing")])
    await until(lambda: any("as yet nobody's" in worker.runs for worker in (*others, old, new)))


async def test_a_worker_that_has_left_is_told_of_nothing_and_what_it_had_is_anothers(fleet: Fleet) -> None:
    server, one, two = [await fleet.engine() for _ in range(3)]
    staying = await fleet.worker(two, "staying", places=50)
    async with one.join("leaving", ["default"], on_stop=fleet.stops.append) as offers:
        offers.note_free(50)
        (await offers.next()).done()
        await until(lambda: offers._said.has_room)
        await staying.until_idle()
        await fleet.heard_by(server, one, two)
        server.announce([ReadyRun(f"run {n}") for n in range(10)])
        await until(lambda: len(staying.runs) == 5 and len(offers._told) == 5)  # it never asks for these
    await until(lambda: len(staying.runs) == 10)
    await fleet.heard_by(server, one, two)

    server.announce([ReadyRun(f"more {n}") for n in range(10)])
    await until(lambda: len(staying.runs) == 20)


async def test_what_a_worker_declines_is_told_to_another(fleet: Fleet) -> None:
    server, one, two = [await fleet.engine() for _ in range(3)]
    async with one.join("picky", ["default"], on_stop=fleet.stops.append) as offers:
        offers.note_free(1)
        (await offers.next()).done()
        await until(lambda: offers._said.has_room)
        await fleet.heard_by(server, one)
        server.announce([ReadyRun("run")])
        while (offer := await offers.next()).run_id is None:
            offer.done()
        other = await fleet.worker(two, "other")
        await other.until_idle()
        await fleet.heard_by(one, two)

        assert offer.passed_on == 0
        offer.decline(after=0.01)
        await until(lambda: other.runs == ["run"])
        assert other.passed_on == [1]


async def test_who_stops_waiting_for_an_offer_loses_none(fleet: Fleet) -> None:
    server, one = await fleet.engine(), await fleet.engine()
    async with one.join("worker", ["default"], on_stop=fleet.stops.append) as offers:
        offers.note_free(100)
        found: list[str | None] = []
        await until(lambda: offers._said.has_room)
        await fleet.heard_by(server, one)
        server.announce([ReadyRun(f"run {n}") for n in range(50)])
        tries = count()
        while len([*filter(None, found)]) < 50:
            waiting = asyncio.ensure_future(offers.next())
            for _ in range(next(tries) % 3):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                found.append(waiting.result().run_id)
            await asyncio.sleep(0)
    assert [*filter(None, found)] == [f"run {n}" for n in range(50)]


async def test_stops_reach_the_worker_that_has_the_run(fleet: Fleet) -> None:
    server, one = await fleet.engine(), await fleet.engine()
    await (await fleet.worker(one, "a")).until_idle()
    await (await fleet.worker(one, "b")).until_idle()

    server.ask_to_stop("b", "run 1")
    one.ask_to_stop("a", "run 2")
    server.ask_to_stop("nobody", "run 3")
    server.ask_to_stop("b", "x" * 9_000)
    await until(lambda: len(fleet.stops) == 2)

    assert sorted(fleet.stops) == [("a", "run 2"), ("b", "run 1")]
    assert (server.stats().stops_sent_total, one.stats().stops_heard_total) == (3, 2)


async def test_stops_reach_a_worker_that_has_left_until_its_engine_is_closed(
    fleet: Fleet, database: RawConnection
) -> None:
    server, one = await fleet.engine(), await fleet.engine()
    for _ in range(2):  # a worker that leaves and comes back hears each stop once
        async with fleet.working(one, "leaving") as worker:
            await worker.until_idle()

    server.ask_to_stop("leaving", "run 1")
    await until(lambda: fleet.stops)
    reconnects = one.stats().reconnects_total
    await end_sessions(database)
    await until(lambda: one.stats().reconnects_total > reconnects and one.status().connected)
    server.ask_to_stop("leaving", "run 2")
    one.ask_to_stop("leaving", "run 3")
    await until(lambda: len(fleet.stops) >= 3)
    await one.aclose()
    server.ask_to_stop("leaving", "run 4")
    await fleet.heard_by(server, one)

    assert sorted(fleet.stops) == [("leaving", f"run {n}") for n in (1, 2, 3)]


async def test_what_a_worker_is_told_after_it_has_left_another_is_told(fleet: Fleet) -> None:
    server, one, two = [await fleet.engine() for _ in range(3)]
    async with fleet.working(one, "leaving") as worker:
        await worker.until_idle()
    staying = await fleet.worker(two, "staying", places=5)
    await staying.until_idle()
    await fleet.heard_by(server, one, two)

    server._dispatch._tell("leaving", Told("default", ("run",), 0))  # as a server that has not heard of its leaving
    await until(lambda: staying.runs == ["run"])


async def test_nonsense_on_the_channels_is_ignored(fleet: Fleet, database: RawConnection) -> None:
    server, one = await fleet.engine(), await fleet.engine()
    worker = await fleet.worker(one, "worker", places=10)
    await worker.until_idle()
    nonsense = [
        "",
        "{}",
        "null",
        '{"type":"told"}',
        '{"type":"told","pool":1}',
        "\\x00",
        '{"type":"room","worker":"w"}',
    ]
    far = json.dumps({"type": "told", "pool": "none", "runs": [f"x{n}" for n in range(11)], "hops": MAX_HOPS + 9})
    for channel in (WORKERS, channel_of("worker")):
        for payload in [*nonsense, far]:
            database.execute("SELECT pg_notify($1, $2)", (server._bus.name_of(channel), payload))
    await until(lambda: len(worker.runs) == 10)  # whichever runs these are
    worker.let_go(10)
    await worker.until_idle()
    await fleet.heard_by(server, one)
    looks = worker.looks

    server.announce([ReadyRun("run"), ReadyRun("y" * 8_000), ReadyRun("\ud800")])
    await until(lambda: "run" in worker.runs or worker.looks > looks)
    assert server.status().connected


async def test_lost_connections_have_workers_look_and_be_told_again(fleet: Fleet, database: RawConnection) -> None:
    server, one = await fleet.engine(), await fleet.engine()
    worker = await fleet.worker(one, "worker", places=100)
    fleet.stored = [stored("worker", "default", capacity=100)]
    for number in range(20):  # so that it hears of the gap before the connection is ready for all listeners
        one._bus.listen(f"another {number}", fleet.stops.append)
    for round_ in range(3):
        await worker.until_idle(looks=round_ + 1)
        await until(lambda: server.status().connected and one.status().connected)
        await fleet.heard_by(server, one)
        server.announce([ReadyRun(f"run {round_}")])
        await until(lambda round_=round_: f"run {round_}" in worker.runs)
        looks = worker.looks
        await end_sessions(database)
        await until(lambda round_=round_: one.stats().reconnects_total == round_ + 1)
        await until(lambda looks=looks: worker.looks > looks)


async def test_while_the_server_is_away_nobody_is_offered_anything_and_status_says_so(
    own_postgres_server: PostgresServer, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_postgres_server.create_database("runs")
    server, one = await fleet.engine(url), await fleet.engine(url)
    worker = await fleet.worker(one, "worker", places=100)
    await worker.until_idle()
    await asyncio.to_thread(own_postgres_server.stop, "immediate")
    await until(lambda: not server.status().connected and not one.status().connected)
    await until(lambda: server.status().since and one.status().since)

    server.announce([ReadyRun("run")])
    server.ask_to_stop("worker", "run")
    looks = worker.looks
    assert server.stats().announce_failures_total == 1
    assert server.status().why
    await until(lambda: "cannot be reached" in (server.status().why or ""))
    assert (worker.runs, worker.looks) == ([], looks)

    await asyncio.to_thread(own_postgres_server.start)
    await until(lambda: server.status().connected and one.status().connected)
    await until(lambda: worker.looks > looks)
    assert not [record for record in caplog.records if record.exc_info]


async def test_an_engine_is_closed_twice_and_then_does_nothing(fleet: Fleet) -> None:
    server = await fleet.engine()
    await server.aclose()
    await server.aclose()

    server.announce([ReadyRun("run")])
    server.ask_to_stop("worker", "run")

    assert not server.status().connected
    assert (server.stats().announced_total, server.stats().stops_sent_total) == (0, 0)
