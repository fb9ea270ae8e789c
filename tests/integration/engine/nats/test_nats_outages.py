"""NATS goes away and comes back, unchanged or empty: the engine says so, loses no more than it may, and goes on."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator

import nats
import pytest
from nats_engines import Open, ignore, soon, taken, until
from nats_server import NatsServer

from trackside.app.engine.nats import NatsOptions, _announcing, open_nats
from trackside.app.engine.nats._engine import NatsEngine
from trackside.app.engine.nats._link import Link
from trackside.app.engine.nats._options import load_access
from trackside.app.engine.ports import Offers
from trackside.app.storage.fleet import ReadyRun
from trackside.app.streams.wire import Topic

RUN = Topic("thread", "run")


def lose_disk(server: NatsServer) -> None:
    shutil.rmtree(server.data)
    server.data.mkdir()


async def restart(server: NatsServer, *engines: NatsEngine, empty: bool = False) -> None:
    """Kill NATS, and start it again once all engines have seen that it is away."""
    await asyncio.to_thread(server.stop, "KILL")
    await until(lambda: not any(engine.status().connected for engine in engines), seconds=60)
    if empty:
        await asyncio.to_thread(lose_disk, server)
    await asyncio.to_thread(server.start)
    await until(lambda: all(engine.status().connected for engine in engines), seconds=60)


async def done_with_all(offers: Offers) -> None:
    while True:
        (await offers.next()).done()


@pytest.fixture
async def server(own_nats: NatsServer, open_engine: Open) -> NatsEngine:
    return await open_engine(own_nats.url)


@pytest.fixture
async def worker(own_nats: NatsServer, open_engine: Open) -> NatsEngine:
    return await open_engine(own_nats.url, role="worker", ack_wait=1)


@pytest.fixture
async def stopped_nats() -> AsyncIterator[NatsServer]:
    """A NATS server that has an address but is not running."""
    with NatsServer() as server:
        await asyncio.to_thread(server.stop, "KILL")
        yield server


async def test_a_process_starts_while_nats_is_away_and_connects_when_it_is_there(
    stopped_nats: NatsServer, open_engine: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = await open_engine(stopped_nats.url, away=True)
    await until(lambda: "Connect call failed" in str(engine.status().why))
    status = engine.status()
    assert not status.connected
    assert status.since is not None
    engine.announce([ReadyRun("r")])
    engine.ask_to_stop("w", "r")
    assert not engine.live.say(RUN, b"x")
    listening = engine.live.listen(RUN, lambda _: None)
    async with engine.join("w", ["default"], on_stop=ignore) as offers:
        asking = asyncio.create_task(offers.next())
        await asyncio.to_thread(stopped_nats.start)
        await until(lambda: engine.status().connected)
        assert engine.status().since is None
        async with asyncio.timeout(30):
            await listening.caught_up.wait()
            engine.announce([ReadyRun("r")])
            assert (await asking).run_id == "r"
    assert engine.stats().reconnects_total == 0
    assert [record.levelno for record in caplog.records if "NATS" in record.message] == [
        logging.WARNING,
        logging.WARNING,
    ]


async def test_an_engine_is_closed_while_nats_is_away(stopped_nats: NatsServer) -> None:
    async with asyncio.timeout(30):
        async with open_nats(NatsOptions(url=stopped_nats.url)) as engine, engine.join("w", ["p"], on_stop=ignore):
            listening = engine.live.listen(RUN, lambda _: None)
        await engine.aclose()
    listening.close()
    assert not engine.status().connected
    engine.announce([ReadyRun("r")])
    assert not engine.live.say(RUN, b"x")


async def test_work_goes_on_after_nats_was_killed(
    own_nats: NatsServer, server: NatsEngine, worker: NatsEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with worker.join("w", ["default"], on_stop=ignore) as offers:
        server.announce([ReadyRun("held"), ReadyRun("ended"), ReadyRun("waits")])
        held, ended = await soon(offers), await soon(offers)
        await until(lambda: server.stats().announced_total == 3)
        await asyncio.to_thread(own_nats.stop, "KILL")
        await until(lambda: not worker.status().connected and not server.status().connected)
        ended.done()  # said once NATS is back
        await asyncio.to_thread(own_nats.start)
        while (offer := await soon(offers)).run_id != "waits":  # a server that was killed may offer a run once more
            offer.done()
        held.done()
        offer.done()
        finishing = asyncio.create_task(done_with_all(offers))
        async with await nats.connect(own_nats.url) as client, asyncio.timeout(30):
            while (await client.jetstream().stream_info("TRACKSIDE_RUNS")).state.messages:
                pass
        finishing.cancel()
    await until(lambda: server.status().connected)
    assert worker.stats().reconnects_total == server.stats().reconnects_total == 1
    assert [record.message.partition(" is ")[2][:5] for record in caplog.records if " is " in record.message] == [
        *("away:", "away:"),
        *("back", "back"),
    ]


async def test_streams_and_consumers_are_made_anew_on_an_empty_disk(
    own_nats: NatsServer, server: NatsEngine, worker: NatsEngine
) -> None:
    heard: list[bytes] = []
    listening = server.live.listen(RUN, heard.append)
    async with worker.join("w", ["default", "gpu"], on_stop=ignore) as offers:
        server.announce([ReadyRun("old", "gpu")])
        assert (await soon(offers)).run_id == "old"
        await restart(own_nats, server, worker, empty=True)
        server.announce([ReadyRun("new", "gpu"), ReadyRun("old", "gpu")])  # as the sweep does
        assert {(await soon(offers)).run_id for _ in range(2)} == {"new", "old"}
    await until(lambda: worker.live.say(RUN, b"said"))
    await until(lambda: heard == [b"said"])
    late: list[bytes] = []
    listening = server.live.listen(RUN, late.append)
    async with asyncio.timeout(30):
        await listening.caught_up.wait()
    assert late[0] == b"said"


async def test_what_is_said_of_an_offer_is_not_understood_as_said_of_another_one_on_an_empty_disk(
    own_nats: NatsServer, server: NatsEngine, worker: NatsEngine
) -> None:
    async with worker.join("w", ["default"], on_stop=ignore) as offers:
        server.announce([ReadyRun("old")])
        old = await soon(offers)
        await asyncio.to_thread(own_nats.stop, "KILL")
        await until(lambda: not worker.status().connected and not server.status().connected)
        old.done()  # number 1 of the queue
        await asyncio.to_thread(lose_disk, own_nats)
        await asyncio.to_thread(own_nats.start)
        await until(lambda: server.status().connected)
        server.announce([ReadyRun("new")])  # number 1 of another queue
        new = await soon(offers)
        assert new.run_id == "new"
        assert not worker._offers[0]._owed
        async with await nats.connect(own_nats.url) as client:
            assert (await client.jetstream().stream_info("TRACKSIDE_RUNS")).state.messages == 1


async def test_nothing_is_said_of_an_offer_that_is_done_when_nats_is_back_with_an_empty_disk(
    own_nats: NatsServer, server: NatsEngine, worker: NatsEngine
) -> None:
    async with worker.join("w", ["default"], on_stop=ignore) as offers:
        server.announce([ReadyRun("old")])
        old = await soon(offers)  # number 1 of the queue
        await restart(own_nats, server, worker, empty=True)
        server.announce([ReadyRun("new")])  # number 1 of another queue
        new = await soon(offers)
        async with await nats.connect(own_nats.url) as client:
            said = await client.subscribe("$JS.ACK.TRACKSIDE_RUNS.>")
            await taken(client)
            old.done()
            new.done()
            while (message := await said.next_msg(30)).data == b"+WPI":
                pass
            assert message.subject == new.subject
        assert not worker._offers[0].is_owing


async def test_a_queue_and_a_consumer_that_are_deleted_are_made_again(
    own_nats: NatsServer, server: NatsEngine, worker: NatsEngine
) -> None:
    async with (
        worker.join("w", ["default"], on_stop=ignore) as offers,
        await nats.connect(own_nats.url) as client,
    ):
        asking = asyncio.create_task(offers.next())
        await until(lambda: worker._offers[0]._pools[0].is_there)
        await client.jetstream().delete_consumer("TRACKSIDE_RUNS", "default")
        server.announce([ReadyRun("first")])
        async with asyncio.timeout(30):
            assert (await asking).run_id == "first"
        asking = asyncio.create_task(offers.next())
        await client.jetstream().delete_stream("TRACKSIDE_RUNS")
        server.announce([ReadyRun("second")])
        # NATS may silently forget a pull that comes just then; the engine gives it up after 35 s.
        async with asyncio.timeout(90):
            assert (await asking).run_id == "second"


async def test_a_nats_that_answers_no_more_is_believed_to_be_gone(
    own_nats: NatsServer, server: NatsEngine, worker: NatsEngine
) -> None:
    async with worker.join("w", ["default"], on_stop=ignore) as offers:
        server.announce([ReadyRun("held")])
        offer = await soon(offers)
        await asyncio.to_thread(own_nats.freeze)
        said = 0
        while server.live.say(RUN, b"x" * 50_000):  # the engine takes what its buffers hold, and no more
            said += 1
            await asyncio.sleep(0)
        assert said < 2_000
        server.announce([ReadyRun(f"run {number}") for number in range(30_000)])
        offer.done()
        await until(lambda: not server.status().connected and not worker.status().connected)
        assert "did not answer" in str(server.status().why)
        assert server.stats().announce_failures_total >= 10_000
        await asyncio.to_thread(own_nats.stop, "KILL")
        await asyncio.to_thread(own_nats.start)
        await until(lambda: server.status().connected and worker.status().connected)
        writable = asyncio.Event()
        server.live.on_writable.append(writable.set)
        assert server.live.say(RUN, b"x") or await writable.wait()
        server.announce([ReadyRun("after")])
        while (await soon(offers)).run_id != "after":
            pass


async def test_what_is_said_as_soon_as_nats_is_back_is_kept_for_who_comes_after(
    own_nats: NatsServer, server: NatsEngine
) -> None:
    """NATS has lost what it kept, and listeners may be back later than speakers."""
    await asyncio.to_thread(own_nats.stop, "KILL")
    await until(lambda: not server.status().connected)
    said: list[bool] = []
    server.live.on_writable.append(lambda: said.append(server.live.say(RUN, b"x")))
    await asyncio.to_thread(own_nats.start)
    await until(lambda: said)
    heard: list[bytes] = []
    listening = server.live.listen(RUN, heard.append)
    async with asyncio.timeout(30):
        await listening.caught_up.wait()
    assert (said, heard) == ([True], [b"x"])


async def test_a_flood_while_nats_is_away_is_bounded_and_counted(
    own_nats: NatsServer, server: NatsEngine, worker: NatsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(own_nats.stop, "KILL")
    await until(lambda: not server.status().connected and server._announcer._link is None)
    with monkeypatch.context() as patch:
        patch.setattr(_announcing, "_STALE_SECONDS", 3_600.0)  # however long the flood takes
        for number in range(50):
            server.announce([ReadyRun(f"run {number}.{each}") for each in range(1_000)])
            server.ask_to_stop("w", f"run {number}")
            assert not server.live.say(RUN, b"x" * 100_000)
    assert len(server._announcer._waiting) == 20_000
    assert server.stats().announce_failures_total == 30_000
    assert server.stats().messages_refused_total == 50
    await asyncio.to_thread(own_nats.start)
    await until(lambda: server._announcer._link is not None and not server._announcer._waiting)
    stats = server.stats()
    async with asyncio.timeout(30):
        await server._announcer.drained()
    stats = server.stats()
    assert stats.announced_total + stats.announce_failures_total == 50_000


async def test_who_waits_until_all_was_told_waits_no_longer_when_the_rest_is_given_up(
    own_nats: NatsServer, server: NatsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(own_nats.stop, "KILL")
    await until(lambda: not server.status().connected and server._announcer._link is None)
    server.announce([ReadyRun("run")])
    waiting = asyncio.create_task(server._announcer.drained())
    await asyncio.sleep(0)
    assert not waiting.done()

    monkeypatch.setattr(_announcing, "_STALE_SECONDS", -1.0)
    server.announce([])  # which gives up what is stale, while there is no connection

    async with asyncio.timeout(20):
        await waiting
    assert server.stats().announce_failures_total == 1


async def test_two_hundred_workers_connect_at_once_and_again(
    own_nats: NatsServer, server: NatsEngine, open_engine: Open
) -> None:
    workers = await asyncio.gather(*[open_engine(own_nats.url, role="worker", away=True) for _ in range(200)])
    got: list[str | None] = []

    async def work(number: int) -> None:
        async with workers[number].join(f"w{number}", ["default"], on_stop=ignore) as offers:
            while True:
                offer = await offers.next()
                got.append(offer.run_id)
                offer.done()

    tasks = [asyncio.create_task(work(number)) for number in range(200)]
    await until(lambda: all(worker.status().connected for worker in workers), seconds=60)
    server.announce([ReadyRun(f"run {number}") for number in range(400)])
    await until(lambda: len(got) == 400, seconds=60)
    await restart(own_nats, server, *workers)
    server.announce([ReadyRun(f"later {number}") for number in range(400)])
    await until(lambda: len({*got}) == 800, seconds=60)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_nats_without_jetstream_moves_nothing_and_says_why(open_engine: Open) -> None:
    with NatsServer(jetstream=False) as server:
        engine = await open_engine(server.url, away=True)
        await until(lambda: "JetStream" in str(engine.status().why))
        assert not engine.status().connected


async def test_a_stream_that_is_something_else_is_left_alone_and_said(own_nats: NatsServer, open_engine: Open) -> None:
    async with await nats.connect(own_nats.url) as client:
        await client.jetstream().add_stream(name="TRACKSIDE_RUNS", subjects=["mine.>"])
        engine = await open_engine(own_nats.url, away=True)
        await until(lambda: "TRACKSIDE_RUNS exists with other subjects" in str(engine.status().why))
        await client.jetstream().delete_stream("TRACKSIDE_RUNS")
    await until(lambda: engine.status().connected)


async def test_a_nats_that_is_too_old_is_left_alone_and_said(open_engine: Open) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.10.29","headers":true,"max_payload":1048576}\r\n')
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as old:
        port = old.sockets[0].getsockname()[1]
        engine = await open_engine(f"nats://127.0.0.1:{port}", away=True)
        await until(lambda: "needs 2.11 or later" in str(engine.status().why))
        await engine.aclose()


async def test_what_is_announced_last_is_sent_before_the_engine_is_closed(own_nats: NatsServer) -> None:
    async with open_nats(NatsOptions(url=own_nats.url)) as engine:
        await until(lambda: engine.status().connected)
        engine.announce([ReadyRun(f"run {number}") for number in range(3_000)])
    await engine.aclose()
    async with await nats.connect(own_nats.url) as client:
        assert (await client.jetstream().stream_info("TRACKSIDE_RUNS")).state.messages == 3_000


async def test_a_connection_goes_though_who_closes_it_is_told_to_leave_meanwhile(own_nats: NatsServer) -> None:
    access = await asyncio.to_thread(load_access, NatsOptions(url=own_nats.url))
    link = Link(access, name="leaving", on_slow=ignore, on_denied=ignore)
    await link.connect()
    writer = link._client._transport._io_writer
    closing = asyncio.create_task(link.aclose())
    await asyncio.sleep(0)  # the closing has begun

    closing.cancel()
    await asyncio.wait([closing])

    assert closing.cancelled()
    assert writer.transport.is_closing()
    await link.aclose()
