"""An announced run gets to a worker of its pool, to one at a time, and to another if that one does nothing."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
import pytest
from nats.aio.client import Client
from nats_engines import Open, ignore, soon, taken, until
from nats_server import NatsServer

from trackside.app.engine.nats import EngineOptionError
from trackside.app.engine.nats._engine import NatsEngine
from trackside.app.storage.fleet import ReadyRun

WORKER = """
import asyncio, sys
from trackside.app.engine.nats import NatsOptions, open_nats

async def work(url, prefix):
    async with open_nats(NatsOptions(url=url, prefix=prefix, role="worker")) as engine:
        async with engine.join("doomed", ["default"], on_stop=print) as offers:
            offer = await offers.next()
            print(offer.run_id, flush=True)
            await asyncio.Event().wait()

asyncio.run(work(*sys.argv[1:]))
"""


@pytest.fixture
async def server(shared_nats: NatsServer, fleet: str, open_engine: Open) -> NatsEngine:
    """Its offers keep their worker, however long that stands still; the first engine makes the queue: all wait."""
    return await open_engine(shared_nats.url, prefix=fleet, ack_wait=3_600)


@pytest.fixture
async def worker(shared_nats: NatsServer, fleet: str, open_engine: Open) -> NatsEngine:
    return await open_engine(shared_nats.url, prefix=fleet, role="worker", ack_wait=3_600)


@pytest.fixture
async def hasty_server(shared_nats: NatsServer, fleet: str, open_engine: Open) -> NatsEngine:
    """For offers that lose a worker of which nothing is heard, though not one that stands still for a moment."""
    return await open_engine(shared_nats.url, prefix=fleet, ack_wait=3)


@pytest.fixture
async def hasty_worker(shared_nats: NatsServer, fleet: str, open_engine: Open) -> NatsEngine:
    return await open_engine(shared_nats.url, prefix=fleet, role="worker", ack_wait=3)


@pytest.fixture
async def client(shared_nats: NatsServer) -> AsyncIterator[Client]:
    """Another client of the same NATS."""
    async with await nats.connect(shared_nats.url) as connected:
        yield connected


class Queue:
    """The work queue of a fleet, as NATS sees it."""

    def __init__(self, client: Client, fleet: str) -> None:
        self.client = client
        self.stream = f"{fleet.upper()}_RUNS"

    async def kept(self) -> int:
        """How many runs the queue has."""
        return (await self.client.jetstream().stream_info(self.stream)).state.messages

    async def offered(self, pool: str = "default") -> tuple[int, int]:
        """How many runs a worker holds now, and how many of those another worker held before."""
        info = await self.client.jetstream().consumer_info(self.stream, pool)
        return info.num_ack_pending or 0, info.num_redelivered or 0

    async def until_kept(self, count: int) -> None:
        async with asyncio.timeout(30):
            while await self.kept() != count:
                pass


@pytest.fixture
def queue(client: Client, fleet: str) -> Queue:
    return Queue(client, fleet)


async def test_a_run_goes_to_a_worker_of_its_pool(server: NatsEngine, worker: NatsEngine) -> None:
    async with (
        worker.join("w1", ["default"], on_stop=ignore) as default,
        worker.join("w2", ["gpu", "tpu"], on_stop=ignore) as others,
    ):
        server.announce([ReadyRun("a"), ReadyRun("b", "gpu"), ReadyRun("c", "tpu")])
        assert (await soon(default)).run_id == "a"
        assert {(await soon(others)).run_id, (await soon(others)).run_id} == {"b", "c"}
    assert server.stats().announced_total == 3
    assert worker.stats().offers_total == 3


async def test_what_is_announced_before_a_worker_is_there_waits_for_it(server: NatsEngine, worker: NatsEngine) -> None:
    server.announce([ReadyRun("early", "late-pool")])
    await until(lambda: server.stats().announced_total)
    async with worker.join("w", ["late-pool"], on_stop=ignore) as offers:
        assert (await soon(offers)).run_id == "early"


async def test_a_run_that_is_announced_twice_is_offered_once(
    server: NatsEngine, worker: NatsEngine, queue: Queue
) -> None:
    for _ in range(3):
        server.announce([ReadyRun("twice"), ReadyRun("twice")])
    await until(lambda: server.stats().announced_total == 6)
    assert await queue.kept() == 1
    async with worker.join("w", ["default"], on_stop=ignore) as offers:
        (await soon(offers)).done()
        server.announce([ReadyRun("last")])
        assert (await soon(offers)).run_id == "last"
    assert server.stats().announce_failures_total == 0


async def test_a_run_that_is_done_can_be_announced_again_at_once(
    server: NatsEngine, worker: NatsEngine, queue: Queue
) -> None:
    async with worker.join("w", ["default"], on_stop=ignore) as offers:
        for _ in range(5):
            server.announce([ReadyRun("attempts")])
            offer = await soon(offers)
            offer.done()
            offer.done()  # a second time does nothing
            await queue.until_kept(0)


async def test_a_run_that_is_ready_again_before_its_offer_is_done_is_offered_again(
    worker: NatsEngine, queue: Queue
) -> None:
    async with worker.join("w", ["default"], on_stop=ignore) as offers:
        worker.announce([ReadyRun("next attempt")])
        offer = await soon(offers)
        worker.announce([ReadyRun("next attempt")])
        offer.done()
        again = await soon(offers)
        assert again.run_id == "next attempt"
        again.done()
        await queue.until_kept(0)
    assert worker.stats().redelivered_total == 1


async def test_what_one_worker_declines_another_is_offered(
    server: NatsEngine, worker: NatsEngine, queue: Queue
) -> None:
    async with worker.join("other version", ["default"], on_stop=ignore) as offers:
        server.announce([ReadyRun("declined")])
        first = await soon(offers)
        assert first.passed_on == 0
        first.decline(after=0.2)
        offers.note_free(0)
        async with worker.join("right version", ["default"], on_stop=ignore) as others:
            offer = await soon(others)
            assert (offer.run_id, offer.passed_on) == ("declined", 1)
            offer.done()
            await queue.until_kept(0)


async def test_an_offer_stays_the_workers_while_it_lives(
    shared_nats: NatsServer, fleet: str, open_engine: Open, client: Client, queue: Queue
) -> None:
    server = await open_engine(shared_nats.url, prefix=fleet, ack_wait=6)
    worker = await open_engine(shared_nats.url, prefix=fleet, ack_wait=6, role="worker")
    signs = 0

    async def count(_: object) -> None:
        nonlocal signs
        signs += 1

    await client.subscribe(f"$JS.ACK.{queue.stream}.>", cb=count)
    await taken(client)
    async with worker.join("w", ["default"], on_stop=ignore) as offers:
        server.announce([ReadyRun("long"), ReadyRun("longer")])
        held = [await soon(offers), await soon(offers)]
        async with worker.join("would take it", ["default"], on_stop=ignore) as others:
            others.note_free(1)
            await until(lambda: signs >= 10)  # longer than a worker that says nothing keeps an offer
            assert await queue.offered() == (2, 0)
        for offer in held:
            offer.done()
        await queue.until_kept(0)


@asynccontextmanager
async def doomed_worker(url: str, fleet: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, url, fleet, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_what_a_killed_worker_had_another_is_offered(
    hasty_server: NatsEngine, hasty_worker: NatsEngine, shared_nats: NatsServer, fleet: str
) -> None:
    hasty_server.announce([ReadyRun("orphan")])
    async with doomed_worker(shared_nats.url, fleet) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"orphan\n"
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with hasty_worker.join("heir", ["default"], on_stop=ignore) as offers:
        assert (await soon(offers)).run_id == "orphan"
    assert hasty_worker.stats().redelivered_total == 1


async def test_cancelling_next_loses_no_offer(server: NatsEngine, worker: NatsEngine, queue: Queue) -> None:
    wanted = {f"run {number}" for number in range(40)}
    got: list[str | None] = []
    async with worker.join("hasty", ["default"], on_stop=ignore) as offers:
        for number, run_id in enumerate(sorted(wanted)):
            asking = asyncio.create_task(offers.next())
            server.announce([ReadyRun(run_id)])
            if number % 2:  # cancel at the moment the offer comes
                await until(lambda asking=asking: offers._asking or asking.done())
                while offers._asking:
                    await asyncio.sleep(0)
            for _ in range(0 if number % 2 else number):  # turn the loop, so that each cancels at another moment
                await asyncio.sleep(0)
            if asking.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await asking
            else:
                got.append(asking.result().run_id)
                asking.result().done()
        while len(got) < len(wanted):
            offer = await soon(offers)
            got.append(offer.run_id)
            offer.done()
        await queue.until_kept(0)
    assert sorted(map(str, got)) == sorted(wanted)


async def test_who_leaves_gives_back_what_was_not_taken(server: NatsEngine, worker: NatsEngine, queue: Queue) -> None:
    async with worker.join("leaves", ["default"], on_stop=ignore) as offers:
        server.announce([ReadyRun("taken")])
        assert (await soon(offers)).run_id == "taken"
        offers.note_free(3)
        server.announce([ReadyRun(f"left {number}") for number in range(3)])
        async with asyncio.timeout(30):
            while (await queue.offered())[0] < 4:
                pass
    async with worker.join("stays", ["default"], on_stop=ignore) as offers:
        assert {(await soon(offers)).run_id for _ in range(3)} == {"left 0", "left 1", "left 2"}


async def test_what_a_worker_declines_that_has_left_another_is_offered_at_once(
    server: NatsEngine, worker: NatsEngine
) -> None:
    async with worker.join("leaves", ["default"], on_stop=ignore) as offers:
        server.announce([ReadyRun("too late")])
        offer = await soon(offers)
    offer.decline(after=0.0)
    async with worker.join("stays", ["default"], on_stop=ignore) as offers:
        assert (await soon(offers)).run_id == "too late"


async def test_what_a_worker_has_that_has_left_stays_its_own_until_that_is_done(
    hasty_server: NatsEngine, hasty_worker: NatsEngine, client: Client, queue: Queue
) -> None:
    said = await client.subscribe(f"$JS.ACK.{queue.stream}.>")
    await taken(client)
    async with hasty_worker.join("leaves", ["default"], on_stop=ignore) as offers:
        hasty_server.announce([ReadyRun("goes on")])
        offer = await soon(offers)
    assert (await said.next_msg(30)).data == b"+WPI"
    hasty_worker.announce([ReadyRun("goes on")])
    offer.done()
    async with hasty_worker.join("stays", ["default"], on_stop=ignore) as offers:
        again = await soon(offers)
        assert again.run_id == "goes on"
        again.done()
        await queue.until_kept(0)
    await until(lambda: not hasty_worker._offers)


async def test_a_worker_without_a_free_place_is_passed_over(
    server: NatsEngine, worker: NatsEngine, queue: Queue
) -> None:
    async with worker.join("full", ["default"], on_stop=ignore) as full:
        full.note_free(4)  # its pulls wait at the server, and stay there
        server.announce([ReadyRun("first")])
        await soon(full)
        full.note_free(0)
        async with worker.join("free", ["default"], on_stop=ignore) as free:
            for number in range(8):
                server.announce([ReadyRun(f"run {number}")])
                assert (await soon(free)).run_id == f"run {number}"


async def test_nonsense_in_the_work_queue_is_ignored_and_said_once(
    server: NatsEngine, worker: NatsEngine, client: Client, fleet: str, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    nonsense = [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"v":1}',
        b'{"v":1,"run":7}',
        b'{"v":1,"run":""}',
        b'{"v":9,"run":"x"}',
        b"{" * 9_999,
    ]
    for number, payload in enumerate([*nonsense, b"x" * 500_000]):
        await client.jetstream().publish(f"{fleet}.runs.default.n{number}", payload)
    async with worker.join("w", ["default"], on_stop=ignore) as offers:
        server.announce([ReadyRun("sense")])
        assert (await soon(offers)).run_id == "sense"
        await queue.until_kept(1)
    assert worker.stats().messages_unreadable_total == 9
    assert sum("not from this fleet" in record.message for record in caplog.records) == 1


async def test_a_stop_reaches_its_worker_alone(
    server: NatsEngine, worker: NatsEngine, shared_nats: NatsServer, fleet: str, open_engine: Open, client: Client
) -> None:
    heard: list[str] = []
    others: list[str] = []
    named = await open_engine(shared_nats.url, prefix=fleet, role="worker", user="gpu-1")
    async with (
        named.join("worker . with * any > id", ["default"], on_stop=heard.append),
        worker.join("another", ["default"], on_stop=others.append),
    ):
        await until(lambda: len(server._stops._users) == 2)
        server.ask_to_stop("nobody", "run 0")
        server.ask_to_stop("worker . with * any > id", "run 1")
        worker.ask_to_stop("another", "run 2")  # a worker's request is passed on by a server
        worker.ask_to_stop("worker . with * any > id", "run 3")
        await until(lambda: (heard, others) == (["run 1", "run 3"], ["run 2"]))
        for subject in (f"{fleet}.workers.gpu-1.here", f"{fleet}.asks.gpu-1", f"{fleet}.rollcall"):
            for payload in (b"", b"nonsense", b'{"v":1}'):
                await client.publish(subject, payload)
        await client.publish(f"{fleet}.workers.evil.here", b'{"v":1,"worker":"another"}')  # the earlier user keeps it
        await taken(client)
        await until(lambda: server.stats().messages_unreadable_total == 7)
        server.ask_to_stop("another", "run 4")
        await until(lambda: others == ["run 2", "run 4"])


async def test_a_stop_reaches_a_worker_that_has_left_also_on_another_connection(
    server: NatsEngine, worker: NatsEngine
) -> None:
    heard: list[str] = []
    for _ in range(2):  # a worker that leaves and comes back hears each stop once
        async with worker.join("leaves", ["default"], on_stop=heard.append):
            await until(lambda: server._stops._users)
    await until(lambda: not worker._offers)
    server.ask_to_stop("leaves", "run 1")
    await until(lambda: heard)

    worker._connection.link.lose("the test has it so")
    server._stops._users.clear()
    await until(lambda: server._stops._users)  # the worker has said that it is there
    server.ask_to_stop("leaves", "run 2")
    await until(lambda: len(heard) >= 2)
    assert heard == ["run 1", "run 2"]


async def test_a_pool_whose_name_can_be_no_subject_is_refused(
    server: NatsEngine, worker: NatsEngine, caplog: pytest.LogCaptureFixture
) -> None:
    for pool in ("", "a.b", "*", ">", "a b", "x" * 65):
        with pytest.raises(EngineOptionError, match="pool"):
            async with worker.join("w", [pool], on_stop=ignore):
                pass
        server.announce([ReadyRun("r", pool)])
    assert server.stats().announce_failures_total == 6


async def test_a_message_that_many_want_goes_to_one_and_a_burst_to_all(server: NatsEngine, worker: NatsEngine) -> None:
    got: list[str | None] = []

    async def work(number: int) -> None:
        async with worker.join(f"w{number}", ["default"], on_stop=ignore) as offers:
            while True:
                offer = await offers.next()
                got.append(offer.run_id)
                offer.done()

    workers = [asyncio.create_task(work(number)) for number in range(8)]
    server.announce([ReadyRun(f"run {number}") for number in range(2_000)])
    await until(lambda: len(got) >= 2_000)
    for each in workers:
        each.cancel()
    await asyncio.wait(workers)
    assert len(set(got)) == len(got) == 2_000
    assert worker.stats().redelivered_total == 0
