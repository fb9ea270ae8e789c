"""A fleet whose hosts are cut off from the database, the broker or both, without anybody being told, and come back."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fleet import SHORT_LEASE, Fleet, FleetProcess
from fleet_asking import answered, next_attempt
from fleet_check import Asked, Words
from fleet_clients import Follower
from hosts import NETWORK, Hosts, why_not
from langgraph_sdk.errors import InternalServerError
from postgres_server import PostgresServer
from spread_fleet import BROKER, DATABASE, SERVICES, SpreadFleet

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}"),
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID"),
]

type OpenFleet = Callable[..., Any]
"""Starts a fleet, as `SpreadFleet` says, which ends with the test."""


@pytest.fixture(scope="session")
def open_postgres() -> Iterator[PostgresServer]:
    """A database server that lets in clients from other hosts."""
    with PostgresServer(fsync=False, settings={"max_connections": "200"}, guests=NETWORK) as server:
        yield server


@pytest.fixture
async def spread_fleet(open_postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[OpenFleet]:
    async with AsyncExitStack() as stack:

        async def open_(**options: Any) -> SpreadFleet:
            hosts = stack.enter_context(Hosts(*SERVICES))
            return await stack.enter_async_context(SpreadFleet(tmp_path, open_postgres, hosts, **options))

        yield open_


async def started(fleet: Fleet, agent: str, words: Words, *, at: int = 0, **work: Any) -> Asked:
    """Start a run, which one of the servers lets in."""
    thread_id, token = str(uuid.uuid4()), uuid.uuid4().hex
    run = await fleet.clients[at].runs.create(
        thread_id,
        agent,
        input={"token": token, "parts": 3, **work},
        if_not_exists="create",
        stream_mode=["custom"],
        stream_resumable=True,
    )
    asked = words.asked[run["run_id"]] = Asked(run["run_id"], thread_id, token)
    return asked


def backends(fleet: Fleet, address: str) -> int:
    """How many connections the database believes it has from an address."""
    [(count,)] = fleet.ask(f"SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{address}'")
    return int(count)


async def is_ready(process: FleetProcess) -> bool:
    """Whether it says that it can do its work."""
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{process.url}/health/ready")).status_code == httpx.codes.OK


async def has_broker(process: FleetProcess) -> bool:
    """Whether a server says that it also has the broker."""
    async with httpx.AsyncClient() as http:
        said: dict[str, Any] = (await http.get(f"{process.url}/health/ready")).json()
    return not said["degraded"]


async def test_a_worker_cut_off_from_the_database_loses_its_run_and_takes_others_again(
    engine: str, spread_fleet: OpenFleet
) -> None:
    """What it does meanwhile is refused; it finds that out when the network is back, and stops."""
    fleet, words = await spread_fleet(engine=engine, servers=1, lease=SHORT_LEASE), Words()
    asked = await started(fleet, "tries", words, parts=10, gate="never")
    cut_off = await fleet.executor_of(asked.run_id)
    host = fleet.host_of(cut_off)
    host.cut(DATABASE)
    following = await next_attempt(fleet, asked, words)
    assert (await answered(fleet, following))["attempt"] == 2
    assert await fleet.executor_of(following.run_id) is not cut_off
    # The database drops connections of which it hears nothing, and so does the worker.
    address = host.address(DATABASE)
    await fleet.until(lambda: not backends(fleet, address), "the database has let go of the connections")
    host.mend(DATABASE)

    def is_refused() -> bool:
        return any(one.what == "refused" and one.run_id == asked.run_id for one in fleet.journal.entries())

    await fleet.until(is_refused, "the worker has noticed, and has stopped its agent")
    for other in fleet.workers:
        if other is not cut_off:
            await other.kill()
    again = await started(fleet, "tries", words)
    await answered(fleet, again)
    assert await fleet.executor_of(again.run_id) is cut_off
    counts = await fleet.check(words)
    assert counts.refused == 1


@pytest.mark.long
async def test_a_worker_and_a_server_cut_off_from_the_broker_go_on_by_looks(spread_fleet: OpenFleet) -> None:
    """Stops arrive late, runs are found, and followers get the true end; all is as before when the network is back."""
    fleet, words = await spread_fleet(engine="nats", servers=2, workers=1, lease=10.0), Words()
    long, doomed = [await started(fleet, "talks", words, parts=10, gate=gate) for gate in ("go", "never")]
    followers = [Follower(long.thread_id, long.run_id) for _ in fleet.servers]
    following = [
        asyncio.create_task(one.follow_at(client)) for one, client in zip(followers, fleet.clients, strict=True)
    ]
    await fleet.until(lambda: all(len(one.numbers) >= 3 for one in followers), "both follow")
    cut_off = [fleet.host_of(process) for process in (fleet.workers[0], fleet.servers[0])]
    for host in cut_off:
        host.cut(BROKER)
    doomed.may_be_cancelled = True
    await fleet.clients[1].runs.cancel(doomed.thread_id, doomed.run_id, wait=True)
    found = [await started(fleet, "talks", words, at=at) for at in (0, 1)]
    for asked in found:
        assert (await answered(fleet, asked, at=0))["token"] == asked.token
    fleet.open("go")
    for event, _ in await asyncio.gather(*following):
        assert event == "end"
    long.followed = [one.numbers for one in followers]
    assert (await answered(fleet, long, at=0))["token"] == long.token
    for host in cut_off:
        host.mend(BROKER)
    await fleet.until(lambda: has_broker(fleet.servers[0]), "the server has the broker again")
    again = await started(fleet, "talks", words, parts=50)
    follower = Follower(again.thread_id, again.run_id)
    assert (await follower.follow_at(fleet.clients[0]))[0] == "end"
    again.followed, again.parts = [follower.numbers], 50 if not follower.gaps else None
    await fleet.check(words)


@pytest.mark.long
async def test_a_server_cut_off_from_the_database_says_so_and_answers_again(
    engine: str, spread_fleet: OpenFleet
) -> None:
    """What it is asked meanwhile fails in bounded time, and what it was asked before is answered in the end."""
    fleet, words = await spread_fleet(engine=engine, servers=2, workers=1, lease=10.0), Words()
    asked = await started(fleet, "talks", words, parts=10, gate="go", at=0)
    await fleet.until_entered(asked.run_id)
    waiting = asyncio.create_task(answered(fleet, asked, at=1))
    host = fleet.host_of(fleet.servers[0])
    host.cut(DATABASE)
    with pytest.raises(InternalServerError, match="cannot be reached"):
        await fleet.clients[0].threads.get(asked.thread_id)
    with pytest.raises(InternalServerError, match="cannot be reached"):
        await started(fleet, "talks", Words(), at=0)
    assert not await is_ready(fleet.servers[0])
    fleet.open("go")
    assert (await waiting)["token"] == asked.token
    host.mend(DATABASE)
    await fleet.until(lambda: is_ready(fleet.servers[0]), "the server is ready again")
    assert (await answered(fleet, asked, at=0))["token"] == asked.token
    again = await started(fleet, "talks", words, at=0)
    assert (await answered(fleet, again, at=0))["token"] == again.token
    await fleet.check(words)
