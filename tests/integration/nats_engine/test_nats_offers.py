"""Runs get from who announces them to a worker of their pool, to one at a time, and to another if that one does nothing."""

import nats
import pytest
from nats_engines import Open, ignore, soon, until
from nats_server import NatsServer

from trackside.app.engine.nats._engine import NatsEngine
from trackside.app.storage.fleet import ReadyRun


@pytest.fixture
async def server(shared_nats: NatsServer, fleet: str, open_engine: Open) -> NatsEngine:
    return await open_engine(shared_nats.url, prefix=fleet)


@pytest.fixture
async def worker(shared_nats: NatsServer, fleet: str, open_engine: Open) -> NatsEngine:
    return await open_engine(shared_nats.url, prefix=fleet, role="worker", ack_wait=1)


async def kept(server: NatsServer, fleet: str) -> int:
    """How many runs are in the work queue."""
    async with await nats.connect(server.url) as client:
        return (await client.jetstream().stream_info(f"{fleet.upper()}_RUNS")).state.messages


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
