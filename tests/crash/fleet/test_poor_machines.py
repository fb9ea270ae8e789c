"""A fleet whose machines disagree about the time, and one whose broker has next to no room."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, override

import httpx
import pytest
from fleet import Fleet
from fleet_check import Asked, Words
from fleet_clients import FleetClients, Follower
from nats_server import NatsServer
from poor_machine import off_by, why_not
from postgres_server import PostgresServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID"),
]

type OpenFleet = Callable[..., Any]


async def started(fleet: Fleet, words: Words, *, at: int = 0, token: str | None = None, **more: Any) -> Asked:
    """Start a run, which one of the servers lets in."""
    thread_id, token = str(uuid.uuid4()), token or uuid.uuid4().hex
    run = await fleet.clients[at].runs.create(
        thread_id,
        "talks",
        input={"token": token, "parts": 5},
        if_not_exists="create",
        stream_mode=["custom"],
        stream_resumable=True,
        **more,
    )
    asked = words.asked[run["run_id"]] = Asked(run["run_id"], thread_id, token)
    return asked


async def answered(fleet: Fleet, asked: Asked, *, at: int = 0) -> None:
    """Get the right answer of a run from a server."""
    asked.answer = await fleet.clients[at].runs.join(asked.thread_id, asked.run_id)
    asked.is_answered = True
    assert asked.answer["token"] == asked.token


@pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")
async def test_machines_may_disagree_about_the_time_by_minutes(engine: str, open_fleet: OpenFleet) -> None:
    """Nobody is taken for dead, nothing is early or late, and followers miss nothing on any server."""
    fleet = await open_fleet(engine=engine, servers=0, workers=0, lease=10.0)
    skews = [await asyncio.to_thread(off_by, seconds, fleet.folder) for seconds in (60, -60)]
    await asyncio.gather(*[add(**env) for env in skews for add in (fleet.add_server, fleet.add_worker)])
    async with FleetClients([server.url for server in fleet.servers]) as clients:
        delayed = [await started(fleet, clients.words, at=at, after_seconds=1) for at in (0, 1)]
        for at, asked in enumerate(delayed):
            async with asyncio.timeout(30):
                await answered(fleet, asked, at=1 - at)
        await fleet.until(lambda: clients.done.total() >= 20, "clients are served")
        await clients.stop()
    counts = await fleet.check(clients.words)
    assert counts.anew == 0
    assert fleet.ask("SELECT run_id FROM runs WHERE ended_at < started_at") == []


class TinyNats(NatsServer):
    """A broker with room for next to nothing, until it gets more."""

    limits = "max_memory_store: 32KB, max_file_store: 32KB"

    @override
    def command(self) -> Sequence[str | Path]:
        command = super().command()
        path = self.data.parent / "nats.conf"
        path.write_text(path.read_text("utf-8").replace("jetstream {", f"jetstream {{ {self.limits},"), "utf-8")
        return command

    def enlarge(self) -> None:
        """Have room from the next start on."""
        path = self.data.parent / "nats.conf"
        path.write_text(path.read_text("utf-8").replace(self.limits, "max_memory_store: 1GB"), "utf-8")


class TinyFleet(Fleet):
    """A fleet with such a broker."""

    @override
    def _make_nats(self) -> NatsServer:
        return TinyNats("max_payload: 4096")


async def degraded(fleet: Fleet) -> str:
    """What a server says that it does worse than it should."""
    async with httpx.AsyncClient() as http:
        reply = await http.get(f"{fleet.servers[0].url}/health/ready")
    assert reply.status_code == httpx.codes.OK
    return " ".join(each["why"] for each in reply.json()["degraded"])


async def test_a_broker_without_room_delays_runs_and_loses_none(fleet_postgres: PostgresServer, tmp_path: Path) -> None:
    """A process says so in words, and when there is room again all is as before."""
    words = Words()
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(TinyFleet(tmp_path, fleet_postgres, servers=1, workers=0))
        for _ in range(4):
            await asyncio.gather(*[started(fleet, words) for _ in range(100)])
        large = await started(fleet, words, token="large" * 2_000)
        await fleet.add_worker()
        await answered(fleet, large)
        await fleet.until_rest()
        assert any("insufficient" in process.log for process in fleet.processes)
        assert isinstance(fleet.nats, TinyNats)
        fleet.nats.enlarge()
        await fleet.kill_nats()
        await fleet.start_nats()

        async def is_well() -> bool:
            return not await degraded(fleet)

        await fleet.until(is_well, "the engine is whole again")
        asked = await started(fleet, words)
        follower = Follower(asked.thread_id, asked.run_id)
        assert (await follower.follow_at(fleet.clients[0]))[0] == "end"
        asked.followed = [follower.numbers]
        await answered(fleet, asked)
        await fleet.check(words)
