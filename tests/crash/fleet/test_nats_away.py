"""NATS is gone, for a while or for good: runs go on, processes say that they do worse, and all get their answers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest
from fleet import SHORT_LEASE, Fleet, FleetProcess
from fleet_asking import answered, noted, started
from fleet_check import Words
from fleet_clients import Balanced, FleetClients, Follower

pytestmark = [
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID"),
]

type OpenFleet = Callable[..., Any]


METRICS: Final = """
[[observers]]
type = "metrics"
"""


async def health(process: FleetProcess) -> tuple[int, Any]:
    """What a process answers to a health check: a server, or a worker at the port that it has for that alone."""
    path = "health/ready" if process.name.startswith("server") else "ready"
    async with httpx.AsyncClient(timeout=20) as http:
        answer = await http.get(f"{process.url}/{path}")
        return answer.status_code, answer.json()


async def connected(process: FleetProcess) -> float:
    """What the metrics of a process say of its engine."""
    async with httpx.AsyncClient(timeout=20) as http:
        text = (await http.get(f"{process.url}/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("trackside_engine_connected")]
    return float(line.rpartition(" ")[2])


async def until_said(fleet: Fleet, *, degraded: bool) -> None:
    """Wait until all processes say that they do without NATS, or that they have it again."""

    async def look() -> bool:
        for process in fleet.processes:
            code, says = await health(process)
            if code != httpx.codes.OK or bool(says["degraded"]) is not degraded:
                return False
            if await connected(process) != (not degraded):
                return False
        return True

    await fleet.until(look, f"all are {'' if degraded else 'not '}degraded")


async def waited(fleet: Fleet, words: Words, *, at: int, token: str) -> None:
    """Start a run on no thread, so that its thread ends with it, and wait for it in one request."""
    named: list[str] = []
    answer: Any = await fleet.clients[at].runs.wait(
        None, "talks", input={"token": token, "parts": 2}, on_run_created=lambda run: named.append(run["run_id"])
    )
    row = fleet.ask(f"SELECT thread_id FROM runs WHERE run_id = '{named[0]}'")
    asked = noted(words, named[0], row[0][0], token)
    asked.answer, asked.is_answered = answer, True
    assert answer["token"] == token


async def test_who_waits_for_a_run_without_a_thread_gets_its_result_without_nats(open_fleet: OpenFleet) -> None:
    """The result of such a run is removed with its thread: the server that is asked has to read it nevertheless."""
    fleet, words = await open_fleet(engine="nats", settings=METRICS, workers=1), Words()
    before = await started(fleet, "talks", words, parts=2, gate="go", thread_id=None)
    waiting = asyncio.create_task(answered(fleet, before, at=1))
    streamed = asyncio.create_task(Follower(before.thread_id, before.run_id).follow_at(fleet.clients[0]))
    await fleet.until_entered(before.run_id)
    await fleet.kill_nats()
    await until_said(fleet, degraded=True)
    fleet.open("go")
    assert (await waiting)["token"] == before.token
    assert (await streamed)[0] == "end"
    await asyncio.gather(*(waited(fleet, words, at=number % 2, token=uuid.uuid4().hex) for number in range(10)))
    assert (await answered(fleet, before, at=0))["token"] == before.token
    await fleet.check(words)


async def be_away(fleet: Fleet, seconds: float) -> None:
    """Let clients go on while NATS is away for this long."""
    async with FleetClients([server.url for server in fleet.servers]) as clients:
        await fleet.until(lambda: clients.done.total() >= 3, "clients are served")
        await fleet.kill_nats()
        await asyncio.sleep(seconds)  # the test is about just that: a while
        await until_said(fleet, degraded=True)
        served = clients.done.total()
        await fleet.until(lambda: clients.done.total() >= served + 5, "clients are served without NATS")
        await fleet.start_nats()
        await until_said(fleet, degraded=False)
        served = clients.done.total()
        await fleet.until(lambda: clients.done.total() >= served + 5, "clients are served again")
        await clients.stop()
    await fleet.check(clients.words)


async def test_nats_may_be_away_for_a_moment(open_fleet: OpenFleet) -> None:
    await be_away(await open_fleet(engine="nats", lease=SHORT_LEASE, settings=METRICS), 0.0)


@pytest.mark.long
async def test_nats_may_be_away_for_half_a_minute(open_fleet: OpenFleet) -> None:
    await be_away(await open_fleet(engine="nats", lease=SHORT_LEASE, settings=METRICS), 30.0)


async def test_a_fleet_starts_and_stops_without_nats(open_fleet: OpenFleet) -> None:
    """It is gone for good: processes come and go all the same."""
    fleet, words = await open_fleet(engine="nats", settings=METRICS, servers=1, workers=1), Words()
    await fleet.kill_nats()
    server, worker = await asyncio.gather(fleet.add_server(), fleet.add_worker())
    await until_said(fleet, degraded=True)
    assert await fleet.workers[0].terminate() == 0
    async with Balanced([one.url for one in fleet.servers], first=1) as balanced:
        asked = await started(fleet, "talks", words, parts=3, at=1)
        follower = Follower(asked.thread_id, asked.run_id)
        assert (await follower.follow(balanced))[0] == "end"
        assert (await answered(fleet, asked, at=0))["token"] == asked.token
    assert await fleet.executor_of(asked.run_id) is worker
    assert await server.terminate() == 0
    assert await worker.terminate() == 0
    await fleet.check(words)
