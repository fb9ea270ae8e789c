"""A fleet that loses a worker, a server or its broker: all get the true end of their runs, each executed once at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fleet import SHORT_LEASE
from fleet_asking import answered, next_attempt, started
from fleet_check import LOST, Words
from fleet_clients import Balanced, FleetClients, Follower

pytestmark = [
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID"),
]

type OpenFleet = Callable[..., Any]


async def test_who_follows_a_run_whose_worker_is_killed_is_told_so_on_every_server(
    engine: str, open_fleet: OpenFleet
) -> None:
    fleet, words = await open_fleet(engine=engine, lease=SHORT_LEASE), Words()
    asked = await started(fleet, "talks", words, parts=10, gate="never")
    asked.may_be_cancelled = True  # it will be lost, and no attempt goes on for it
    followers = [Follower(asked.thread_id, asked.run_id) for _ in fleet.servers]
    following = [
        asyncio.create_task(one.follow_at(client)) for one, client in zip(followers, fleet.clients, strict=True)
    ]
    await fleet.until(lambda: all(len(one.numbers) >= 3 for one in followers), "both follow")
    worker = await fleet.executor_of(asked.run_id)
    await worker.kill()
    for event, says in await asyncio.gather(*following):
        assert (event, says["error"]) == ("error", LOST)
    for one in followers:
        asked.followed.append(one.numbers)
        assert one.numbers[0] == 0
    for at in range(len(fleet.servers)):
        assert (await answered(fleet, asked, at=at))["__error__"]["error"] == LOST
    counts = await fleet.check(words)
    assert (counts.runs, counts.by_status) == (1, {"error": 1})


async def test_the_next_attempt_of_a_run_whose_worker_is_killed_runs_on_another(
    engine: str, open_fleet: OpenFleet
) -> None:
    fleet, words = await open_fleet(engine=engine, lease=SHORT_LEASE), Words()
    asked = await started(fleet, "tries", words, parts=10, gate="never")
    worker = await fleet.executor_of(asked.run_id)
    waiting = asyncio.create_task(answered(fleet, asked, at=1))
    await worker.kill()
    assert (await waiting)["attempt"] == 2
    following = await next_attempt(fleet, asked, words)
    assert (await answered(fleet, following, at=1))["attempt"] == 2
    assert await fleet.executor_of(following.run_id) is not worker
    counts = await fleet.check(words)
    assert (counts.runs, counts.anew) == (2, 1)


async def test_a_server_that_is_killed_takes_no_answer_with_it(engine: str, open_fleet: OpenFleet) -> None:
    """A client that waited asks another server; a client that followed goes on there after what he has."""
    fleet, words = await open_fleet(engine=engine), Words()
    asked = await started(fleet, "talks", words, parts=60, gate="go")
    urls = [server.url for server in fleet.servers]
    async with Balanced(urls) as follows, Balanced(urls) as waits:
        follower = Follower(asked.thread_id, asked.run_id)
        following = asyncio.create_task(follower.follow(follows))
        waiting = asyncio.create_task(waits.surely(lambda client: client.runs.join(asked.thread_id, asked.run_id)))
        await fleet.until(lambda: len(follower.numbers) >= 3, "somebody follows")
        await fleet.servers[0].kill()
        fleet.open("go")
        assert (await following)[0] == "end"
        assert follower.gaps == []
        asked.followed, asked.parts = [follower.numbers], 60
        asked.answer, asked.is_answered = await waiting, True
        assert follows.balancer.went_on
        assert waits.balancer.went_on
    await fleet.check(words)
    await fleet.servers[0].start()
    late = Follower(asked.thread_id, asked.run_id)
    assert (await late.follow_at(fleet.clients[0]))[0] == "end"


async def test_nats_may_be_away_and_come_back_with_an_empty_disk(open_fleet: OpenFleet) -> None:
    fleet, words = await open_fleet(engine="nats"), Words()
    before = await started(fleet, "talks", words, parts=10, gate="go")
    await fleet.until_entered(before.run_id)
    await fleet.kill_nats()
    meanwhile = [await started(fleet, "talks", words, parts=3, at=at) for at in (0, 1)]
    for asked in meanwhile:
        assert (await answered(fleet, asked, at=1))["token"] == asked.token
    fleet.open("go")
    assert (await answered(fleet, before, at=1))["token"] == before.token
    await fleet.start_nats(empty_disk=True)
    after = await started(fleet, "talks", words, parts=50)
    follower = Follower(after.thread_id, after.run_id)
    assert (await follower.follow_at(fleet.clients[1]))[0] == "end"
    after.followed.append(follower.numbers)
    assert (await answered(fleet, after, at=0))["token"] == after.token
    await fleet.check(words)


async def test_a_worker_that_stood_still_past_its_lease_changes_nothing_any_more(
    engine: str, open_fleet: OpenFleet
) -> None:
    fleet, words = await open_fleet(engine=engine, lease=SHORT_LEASE), Words()
    asked = await started(fleet, "tries", words, parts=10, gate="go")
    worker = await fleet.executor_of(asked.run_id)
    worker.stop()
    following = await next_attempt(fleet, asked, words)
    await fleet.until_entered(following.run_id)
    fleet.open("go")
    worker.resume()
    assert (await answered(fleet, following, at=1))["attempt"] == 2

    def is_refused() -> bool:
        return any(one.what == "refused" and one.run_id == asked.run_id for one in fleet.journal.entries())

    await fleet.until(is_refused, "the first worker has noticed, or tried")
    again = await started(fleet, "talks", words, parts=1)
    await answered(fleet, again, at=0)
    counts = await fleet.check(words)
    assert counts.refused >= 1
    assert worker.is_up


async def test_the_database_may_be_restarted_under_load(engine: str, open_fleet: OpenFleet) -> None:
    fleet = await open_fleet(engine=engine)
    async with FleetClients([server.url for server in fleet.servers]) as clients:
        await fleet.until(lambda: clients.done.total() >= 5, "clients are served")
        await fleet.restart_postgres("immediate")
        served = clients.done.total()
        await fleet.until(lambda: clients.done.total() >= served + 10, "clients are served again")
        await clients.stop()
    await fleet.check(clients.words)


@pytest.mark.long
async def test_clients_do_not_notice_what_a_fleet_loses_one_after_the_other(engine: str, open_fleet: OpenFleet) -> None:
    fleet = await open_fleet(engine=engine, workers=3, lease=SHORT_LEASE)
    async with FleetClients([server.url for server in fleet.servers], each=2) as clients:
        for process in (*fleet.workers, *fleet.servers):
            served = clients.done.total()
            await process.kill()
            await fleet.until(lambda served=served: clients.done.total() >= served + 10, "clients are served")
            await process.start()
        if fleet.engine == "nats":
            await fleet.kill_nats()
            served = clients.done.total()
            await fleet.until(lambda: clients.done.total() >= served + 20, "clients are served without NATS")
            await fleet.start_nats(empty_disk=True)
        await fleet.restart_postgres("immediate")
        served = clients.done.total()
        await fleet.until(lambda: clients.done.total() >= served + 20, "clients are served in the end")
        await clients.stop()
    counts = await fleet.check(clients.words)
    assert counts.answered > 20
