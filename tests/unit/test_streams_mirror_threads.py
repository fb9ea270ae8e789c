"""Whoever follows a thread hears all its runs, wherever they are executed, with the same numbers on every server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest
from adverse_wire import Adversity
from tests.contract.ways_to_run import virtual
from tests.unit.mirrored_fleet import (
    QUICK,
    RUN,
    SPEC,
    THREAD,
    Fleet,
    fleet,
    heard,
    numbers_of,
    record,
    to_the_end,
    told,
)

from trackside.app.streams import FeedLimits, HubLimits
from trackside.app.streams.frames import now_ms
from trackside.app.streams.live_messages import MOST_BYTES
from trackside.app.streams.mirror import Mirrors
from trackside.app.streams.mirror_options import MirrorOptions
from trackside.app.streams.protocol import Wanted, read_events
from trackside.app.streams.relay import Relay


@virtual
async def test_a_thread_is_followed_over_all_its_runs_with_the_same_numbers_everywhere() -> None:
    async with fleet(servers=2) as made:
        feeds = [server.threads for server in made.servers]
        with made.mirrors[0].thread(THREAD) as first, feeds[0].read(THREAD) as reader:
            await first.catch_up()
            for run_id in ("1", "2"):
                made.begin(run_id)
                made.say(1, 2, run_id=run_id)
                made.end(run_id)
            said = await heard(reader, 8)
            assert said[:4] == [
                ("started", "1", None),
                ("part", "1", b"1"),
                ("part", "1", b"2"),
                ("ended", "1", "success"),
            ]
            made.begin("3")
            made.say(1, run_id="3")
            await heard(reader, 2)
            with made.mirrors[1].thread(THREAD) as second:
                await second.catch_up()
                with feeds[1].read(THREAD, after=0) as late:
                    await heard(late, 10)
                    numbers = [[item.number for item in one.feed.after(0)] for one in (reader, late)]
                    assert (
                        numbers[0] == numbers[1] == [item.number for item in made.hub.threads.feed_of(THREAD).after(0)]
                    )
                with feeds[1].read(THREAD) as from_active:
                    assert told(from_active) == [("started", "3", None), ("part", "3", b"1")]


@virtual
async def test_a_run_that_is_mirrored_already_is_whole_on_its_thread() -> None:
    async with fleet(Adversity(kept=1)) as made:
        with made.mirrors[0].run(THREAD, RUN) as run:
            await run.catch_up()
            made.begin()
            for number in (1, 2, 3):
                made.say(number)
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            with made.mirrors[0].thread(THREAD) as thread:
                await thread.catch_up()
                with made.servers[0].threads.read(THREAD) as reader:
                    made.end()
                    assert [kind for kind, *_ in await heard(reader, 5)] == ["started", "part", "part", "part", "ended"]


@virtual
async def test_a_run_that_has_been_followed_to_its_end_is_whole_on_its_thread() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN) as run:
            await run.catch_up()
            made.begin()
            made.say(1, 2)
            made.end()
            got, _ = await to_the_end(made.servers[0].read(RUN))
            assert numbers_of(got) == [1, 2]
        with made.mirrors[0].thread(THREAD) as thread:
            await thread.catch_up()
            with made.servers[0].threads.read(THREAD, after=0) as reader:
                assert [kind for kind, *_ in await heard(reader, 4)] == ["started", "part", "part", "ended"]
                assert not reader.feed.active


@virtual
async def test_the_log_tells_a_thread_of_runs_that_never_said_anything() -> None:
    async with fleet() as made:
        with made.mirrors[0].thread(THREAD) as mirror, made.servers[0].threads.read(THREAD) as reader:
            await mirror.catch_up()
            made.begin()
            made.log.tell("pending", status="cancelled", started=False)
            assert ("ended", "pending", "cancelled") in await heard(reader, 2)
            made.end()
            assert await heard(reader, 1) == [("ended", RUN, "success")]


@virtual
async def test_a_mirror_of_a_thread_has_caught_up_when_it_misses_no_end_that_only_the_log_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trackside.app.streams.ends._ASK_AGAIN", 0.01)
    async with fleet() as made:
        made.log.is_away = True
        with made.mirrors[0].thread(THREAD) as mirror, made.servers[0].threads.read(THREAD) as reader:
            assert not await mirror.catch_up(0.05)
            made.log.is_away = False
            assert await mirror.catch_up(5)
            made.log.tell("pending", status="cancelled", started=False)
            assert await heard(reader, 1) == [("ended", "pending", "cancelled")]


@virtual
async def test_who_follows_a_thread_hears_the_end_of_a_run_that_was_followed_by_itself_before_anything_was_heard_of_it() -> (
    None
):
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, "pending"), made.mirrors[0].thread(THREAD) as mirror:
            await mirror.catch_up()
            with made.servers[0].threads.read(THREAD) as reader:
                made.log.tell("pending", status="cancelled", started=False)
                assert await heard(reader, 1) == [("ended", "pending", "cancelled")]
                assert not reader.feed.active


@virtual
async def test_a_run_of_a_thread_that_had_ended_before_does_not_stay_active() -> None:
    async with fleet() as made:
        made.begin()
        made.say(1)
        await asyncio.sleep(0)
        made.log.tell(RUN, status="error")
        with made.mirrors[0].thread(THREAD) as mirror, made.servers[0].threads.read(THREAD) as reader:
            await mirror.catch_up()
            assert [kind for kind, *_ in await heard(reader, 4)] == ["started", "part", "missed", "ended"]
            assert not reader.feed.active


@asynccontextmanager
async def executing_server() -> AsyncGenerator[Fleet]:
    """A server that executes runs itself, and so hears its own messages to others; a second one is asked, too."""
    async with fleet() as made:
        itself = Mirrors(made.hub, made.wire, made.log, QUICK)
        made.log.threads[THREAD] = datetime.now(UTC)
        made.mirrors.append(itself)
        yield made


@virtual
async def test_a_run_of_this_process_goes_on_for_its_followers_when_nobody_follows_its_thread_any_more() -> None:
    async with executing_server() as made:
        made.begin()
        made.say(1, 2)
        reader = made.hub.read(RUN)
        with made.mirrors[1].thread(THREAD) as thread:
            await thread.catch_up()
            with made.hub.threads.read(THREAD, after=0) as follower:
                assert [kind for kind, *_ in await heard(follower, 3)] == ["started", "part", "part"]
        async with asyncio.timeout(5):
            while made.mirrors[1].stats.open:
                await asyncio.sleep(0.01)
        assert not reader.is_over
        made.say(3)
        with made.mirrors[0].run(THREAD, RUN), made.mirrors[1].thread(THREAD) as again:
            await again.catch_up()
            with made.hub.threads.read(THREAD, after=0) as follower:
                made.say(4)
                made.end()
                kinds = [kind for kind, *_ in await heard(follower, 6)]
            elsewhere, _ = await to_the_end(made.servers[0].read(RUN))
        assert kinds == ["started", "part", "part", "part", "part", "ended"]
        got, end = await to_the_end(reader)
        assert (numbers_of(got), end.end) == ([1, 2, 3, 4], {"status": "success"})
        assert elsewhere == got


@pytest.mark.parametrize("begins_first", [True, False])
@virtual
async def test_a_run_of_this_process_is_told_once_to_who_follows_its_thread(*, begins_first: bool) -> None:
    async with executing_server() as made:
        if begins_first:
            made.begin()
        with made.mirrors[1].thread(THREAD) as thread, made.hub.threads.read(THREAD) as follower:
            await thread.catch_up()
            if not begins_first:
                made.begin()
            made.say(1)
            await heard(follower, 2)
            await asyncio.sleep(0.01)  # its own messages to others come back
            made.say(2)
            made.end()
            await made.relay.aclose()
            async with asyncio.timeout(5):
                while any(ear.waiting for ear in made.wire.ears):
                    await asyncio.sleep(0.001)
            assert told(follower) == [("part", RUN, b"2"), ("ended", RUN, "success")]


@virtual
async def test_a_run_of_this_process_ends_when_it_says_so_though_the_log_knows_it_before() -> None:
    async with executing_server() as made:
        with made.mirrors[1].thread(THREAD, active=RUN) as thread, made.hub.threads.read(THREAD) as follower:
            await thread.catch_up()
            made.begin()
            made.say(1)
            reader = made.hub.read(RUN)
            made.log.tell(RUN)
            async with asyncio.timeout(5):
                while not made.mirrors[1].stats.ends_logged:
                    await asyncio.sleep(0.01)
            made.say(2)
            made.end(title="as it says it")
            got, end = await to_the_end(reader)
            said = [kind for kind, *_ in await heard(follower, 4)]
        assert (numbers_of(got), end.end) == ([1, 2], {"status": "success", "title": "as it says it"})
        assert said == ["started", "part", "part", "ended"]


@virtual
async def test_who_follows_a_thread_is_told_that_nothing_has_come_of_a_run() -> None:
    async with fleet() as made:
        with made.mirrors[0].thread(THREAD) as mirror, made.servers[0].threads.read(THREAD) as reader:
            await mirror.catch_up()
            made.log.tell(RUN, at=now_ms())
            assert await heard(reader, 2) == [("missed", RUN, None), ("ended", RUN, "success")]


@virtual
async def test_a_changed_state_and_the_end_of_a_thread_come_to_all_servers_once() -> None:
    async with fleet(Adversity(repeated=100), servers=2) as made:
        relays = [Relay(server, made.wire) for server in made.servers]
        with made.mirrors[0].thread(THREAD) as first, made.mirrors[1].thread(THREAD) as second:
            readers = [server.threads.read(THREAD) for server in made.servers]
            for mirror in (first, second):
                await mirror.catch_up()
            made.servers[0].threads.note_state(THREAD, b'{"values":1}')
            made.servers[1].threads.note_state(THREAD, b'{"values":2}')
            made.servers[1].threads.note_state(THREAD, b"x" * (MOST_BYTES + 1))
            for reader in readers:
                got = await heard(reader, 3)
                assert [kind for kind, *_ in got] == ["state", "state", "missed"]
                numbers = [item.number for item in reader.feed.after(0)]
                assert numbers == sorted(set(numbers))
            made.servers[0].threads.forget([THREAD])
            for reader in readers:
                await asyncio.wait_for(reader.wait(), 5)
                assert reader.is_over
                reader.__exit__(None, None, None)
        for relay in relays:
            await relay.aclose(0.05)


@pytest.mark.parametrize("state", [b'{"values":1}', b"x" * (MOST_BYTES + 1)])
@virtual
async def test_a_changed_state_that_the_wire_takes_later_is_told_once_where_it_was_changed(state: bytes) -> None:
    async with fleet() as made:
        server = made.servers[0]
        relay = Relay(server, made.wire)
        with made.mirrors[0].thread(THREAD) as mirror, server.threads.read(THREAD) as reader:
            await mirror.catch_up()
            made.wire.is_away = True
            server.threads.note_state(THREAD, state)
            assert [item.what for item in reader.take()] == [state], "who follows it here does not wait for the wire"
            made.wire.come_back()
            server.threads.note_state(THREAD, b"{}")
            await heard(reader, 1)
            assert [item.what for item in reader.feed.after(0)] == [state, b"{}"]
        await relay.aclose(0.05)


@pytest.mark.parametrize("begins_first", [False, True])
@virtual
async def test_a_run_whose_worker_was_lost_goes_on_under_its_name_whatever_comes_first(begins_first: bool) -> None:
    async with fleet(options=MirrorOptions(grace=60, patience=60)) as made:
        threads = made.servers[0].threads
        with made.mirrors[0].thread(THREAD) as mirror, threads.read(THREAD) as reader:
            assert await mirror.catch_up()
            made.begin()
            made.say(1)
            await heard(reader, 2)
            if not begins_first:
                made.log.tell(RUN, status="error", error_type="worker_lost", retried_as="run-2")
                assert await heard(reader, 1) == [("ended", RUN, "error")], "nobody lives who would say more"
            made.hub.begin(msgspec.structs.replace(record("run-2"), attempt=2, retry_of=RUN), SPEC)
            await heard(reader, 1)
            if begins_first:
                made.log.tell(RUN, status="error", error_type="worker_lost", retried_as="run-2")
                await heard(reader, 1)
            made.end("run-2")
            assert await heard(reader, 1) == [("ended", "run-2", "success")]
            with read_events(threads, THREAD, Wanted(channels={"lifecycle"}), 0) as events:
                said = b"".join(events.pieces())
            assert (said.count(b"id: synth:run-1:"), said.count(b"id: synth:run-2:")) == (3, 0)


@virtual
async def test_a_feed_that_is_not_wanted_any_more_is_forgotten() -> None:
    async with fleet(limits=HubLimits(threads=FeedLimits(idle_threads=0))) as made:
        threads = made.servers[0].threads
        with made.mirrors[0].thread(THREAD) as mirror:
            await mirror.catch_up()
            made.begin()
            made.end()
            with threads.read(THREAD, after=0) as reader:
                await heard(reader, 2)
            assert threads.known(THREAD) is not None, "who looks at it for a moment does not have it forgotten"
        async with asyncio.timeout(5):
            while threads.known(THREAD) is not None:
                await asyncio.sleep(QUICK.linger)
