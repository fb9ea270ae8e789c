"""Following some of the log: filters are those of events, and an owner's events are his alone."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.storage.following import (
    around_the_next_read,
    collect,
    count_reads,
    hears,
    look_untold_never,
    positions,
    settle,
    take,
    waiters,
)

from trackside import RunLifecycleEvent
from trackside.app.storage import FollowOptions, Store


async def test_filters_are_those_of_events_for_what_is_there_and_for_what_comes(pushed: Store, script) -> None:
    early, late = script(thread_id="t"), script()
    await pushed.append([early.started(agent="rare"), early.thread("busy"), late.started()])
    filters: list[dict[str, Any]] = [
        {"run_id": early.run_id},
        {"thread_id": "t"},
        {"agent": "rare"},
        {"agent": "chat"},
        {"types": "run_completed"},
        {"types": ["run_started", "human_message"]},
        {"since": early.start + timedelta(seconds=2)},
        {"agent": "rare", "types": ["human_message"], "run_id": early.run_id, "thread_id": "t"},
    ]
    whole, new = (
        [collect(pushed.follow(**chosen)) for chosen in filters],
        [collect(pushed.follow(after=3, **chosen)) for chosen in filters],
    )
    await settle()
    await pushed.append([early.message(), late.message()])
    await pushed.append([early.completed(), late.failed(), early.thread("idle"), *script(thread_id="t").whole()])

    for after, followed in ((0, whole), (3, new)):
        for chosen, (seen, task) in zip(filters, followed, strict=True):
            expected = await pushed.events(after, **chosen)
            assert expected, chosen
            async with asyncio.timeout(60):
                while len(seen) < len(expected):
                    await asyncio.sleep(0)
            await settle()
            assert seen == expected, chosen
            task.cancel()


async def test_what_comes_while_an_owner_is_looked_up_is_not_gone_past_for_want_of_its_agent(
    pushed: Store, script
) -> None:
    hers, others = script(), script()
    await pushed.threads_of(None).create(hers.thread_id, belongs_to="ada")
    await pushed.append([hers.started()])
    waiting = asyncio.ensure_future(anext(pushed.follow(after=1, agent="chat", owner="ada")))
    while not waiters(pushed):
        await asyncio.sleep(0)
    await hears(pushed)

    around_the_next_read(pushed, before=lambda: pushed.append([hers.completed()]))
    await pushed.append([others.started()])

    async with asyncio.timeout(60):
        assert (await waiting).position == 3


async def test_what_is_wanted_is_not_held_up_by_others_that_go_on_without_end(pushed: Store, script) -> None:
    hers = script()
    await pushed.threads_of(None).create(hers.thread_id, belongs_to="ada")
    await pushed.append([hers.started()])
    follower = pushed.follow(owner="ada")
    await take(follower, 1)
    run = pushed._readers.run

    async def among_others(read: Callable[..., Any]) -> Any:
        found = await run(read)
        await pushed.append([script().started()])
        return found

    pushed._readers.run = among_others  # type: ignore[method-assign]
    await pushed.append([script().started(), hers.completed()])

    assert await positions(follower, 1) == [3]


async def test_who_had_a_thread_follows_nothing_of_another_who_has_begun_it_anew(pushed: Store, script) -> None:
    async def next_of_ada(after: int, *events: RunLifecycleEvent) -> str:
        """The run of the next event that Ada gets if she follows while these events come."""
        async with asyncio.timeout(60), aclosing(pushed.follow(after=after, owner="ada")) as follower:
            waiting = asyncio.ensure_future(anext(follower))
            while not waiters(pushed):
                await asyncio.sleep(0)
            await pushed.append(events)
            return (await waiting).event.run_id

    threads = pushed.threads_of(None)
    hers = script()
    await threads.create(hers.thread_id, belongs_to="ada")
    await pushed.append([hers.started()])
    assert await next_of_ada(1, hers.completed()) == hers.run_id
    await threads.remove(hers.thread_id)
    await pushed.sweeper().sweep()
    await threads.create(hers.thread_id, belongs_to="bob")
    anew, others = script(thread_id=hers.thread_id), script()
    await pushed.append([anew.started()])
    await threads.create(others.thread_id, belongs_to="ada")

    assert await next_of_ada(3, anew.completed(), others.started()) == others.run_id


async def test_who_has_a_thread_anew_follows_nothing_of_who_had_it_before(pushed: Store, script) -> None:
    threads = pushed.threads_of(None)
    hers = script()
    anew = script(thread_id=hers.thread_id)
    async with asyncio.timeout(60), aclosing(pushed.follow()) as anybody:  # for whom the latest events are kept
        await threads.create(hers.thread_id, belongs_to="ada")
        waiting = asyncio.ensure_future(anext(anybody))
        while not waiters(pushed):
            await asyncio.sleep(0)
        await pushed.append(hers.whole())
        await waiting
        await threads.remove(hers.thread_id)
        await pushed.sweeper().sweep()
        await threads.create(hers.thread_id, belongs_to="bob")
        assert pushed._feed.holds(0)
        async with aclosing(pushed.follow(after=0, owner="bob")) as his:
            following = asyncio.ensure_future(anext(his))
            while waiters(pushed) < 1 and not following.done():
                await asyncio.sleep(0)
            await pushed.append(anew.whole())
            assert (await following).event.run_id == anew.run_id
        async with aclosing(pushed.follow(after=0, owner="ada")) as former:
            waiting = asyncio.ensure_future(anext(former))
            while not waiters(pushed):
                await asyncio.sleep(0)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait({waiting})


async def test_who_waits_for_something_rare_is_neither_woken_nor_left_behind(
    url: str, store: Store, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_untold_never(monkeypatch)
    rare = script()
    async with Store.open(url, follow=FollowOptions(recent_count=8, look_every=3600)) as pushed:
        follower = pushed.follow(run_id=rare.run_id)
        waiting = asyncio.ensure_future(anext(follower))
        await pushed.append([script().started()])
        while rare.run_id not in pushed._feed._waiting:
            await asyncio.sleep(0)
        await hears(pushed)
        (waiter,) = pushed._feed._waiting[rare.run_id].values()
        for _ in range(20):
            await pushed.append(script().whole())
        assert pushed._feed._waiting[rare.run_id] == {follower: waiter}
        reads = count_reads(pushed)

        await pushed.append([rare.started()])

        assert (await waiting).event.run_id == rare.run_id
        assert follower.position == 102
        assert not reads
