"""Threads that are gone or made again: their followers hear that, nothing of a namesake, and runs to their end."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from adverse_wire import Adversity
from tests.contract.ways_to_run import virtual
from tests.unit.mirrored_fleet import QUICK, RUN, THREAD, fleet, heard, numbers_of, to_the_end, told

from trackside.app.streams import EndedStream
from trackside.app.streams.protocol import Wanted, read_events


@virtual
async def test_who_follows_a_thread_hears_nothing_of_one_that_had_its_id_before() -> None:
    async with fleet() as made:
        made.log.threads[THREAD] = datetime.now(UTC)
        made.begin()
        made.say(1)
        made.end()
        made.begin("cut off")
        made.hub.threads.note_state(THREAD, b"{}")
        await asyncio.sleep(0)
        made.hub.threads.forget([THREAD])
        made.begin("new")
        made.say(2, run_id="new")
        await asyncio.sleep(0)
        with made.mirrors[0].thread(THREAD, made_at=made.log.threads[THREAD]) as mirror:
            await mirror.catch_up()
            with made.servers[0].threads.read(THREAD) as reader:
                reader.seen = reader.feed.first_kept - 1  # as a reader does that wants all that is kept
                assert told(reader) == [("started", "new", None), ("part", "new", b"2")]
                made.end("cut off")
                made.end("new")
                assert await heard(reader, 1) == [("ended", "new", "success")]
                for ear in [*made.wire.ears]:  # as after an outage
                    for _, message in [*made.wire.kept]:
                        ear.hear(message)
                await asyncio.sleep(0.05)
                assert (told(reader), reader.is_over) == ([], False)


@virtual
async def test_a_thread_with_an_id_that_was_there_before_is_whole_though_what_is_kept_is_heard_twice_at_first() -> None:
    async with fleet() as made:
        made.log.threads[THREAD] = datetime.now(UTC)
        for run_id in ("old", "new", "on"):
            made.begin(run_id)
            made.say(1, run_id=run_id)
            if run_id != "on":
                made.end(run_id)
            await asyncio.sleep(0)
            if run_id == "old":
                made.hub.threads.forget([THREAD])
        with made.mirrors[0].thread(THREAD) as mirror:
            (ear,) = made.wire.ears
            for _, message in [*made.wire.kept]:
                ear.hear(message)
            await mirror.catch_up()
            with made.servers[0].threads.read(THREAD) as reader:
                reader.seen = reader.feed.first_kept - 1
                runs = [(kind, run_id) for kind, run_id, _ in told(reader)]
                assert runs[:3] == [("started", "new"), ("part", "new"), ("ended", "new")]
                assert runs[3:] == [("started", "on"), ("part", "on")]
                made.end("on")
                assert await heard(reader, 1) == [("ended", "on", "success")]


@pytest.mark.parametrize("another_is_there", [True, False])
@virtual
async def test_who_follows_a_thread_hears_that_it_is_gone_also_while_its_mirror_catches_up(
    another_is_there: bool,
) -> None:
    async with fleet(Adversity(held_up=100)) as made:
        made.begin()
        await asyncio.sleep(0)
        with made.mirrors[0].thread(THREAD, made_at=datetime.now(UTC)), made.servers[0].threads.read(THREAD) as reader:
            made.hub.threads.forget([THREAD])
            if another_is_there:
                made.log.threads[THREAD] = datetime.now(UTC)
            made.wire.adversity = Adversity()
            await asyncio.wait_for(reader.wait_for_end(), 5)
            assert reader.thread_is_gone


@virtual
async def test_who_follows_a_thread_hears_that_it_is_gone_also_if_the_word_of_that_is_lost() -> None:
    async with fleet(Adversity(lost=100), options=replace(QUICK, look_every=0.01)) as made:
        made_at = made.log.threads[THREAD] = datetime.now(UTC)
        with made.mirrors[0].thread(THREAD, made_at=made_at) as mirror, made.servers[0].threads.read(THREAD) as reader:
            assert await mirror.catch_up()
            await asyncio.sleep(0.05)
            assert not reader.is_over
            del made.log.threads[THREAD]
            made.hub.threads.forget([THREAD])
            await asyncio.wait_for(reader.wait_for_end(), 5)
            assert reader.thread_is_gone


@pytest.mark.parametrize("deleted", ["here", "elsewhere"])
@virtual
async def test_who_follows_a_thread_that_is_made_again_hears_it_though_the_word_that_the_first_is_gone_comes_later(
    deleted: str,
) -> None:
    async with fleet() as made:
        mirrors, threads = made.mirrors[0], made.servers[0].threads
        first = datetime.now(UTC)
        second = made.log.threads[THREAD] = first + timedelta(seconds=1)
        with mirrors.thread(THREAD, made_at=first) as before, threads.read(THREAD) as of_first:
            await before.catch_up()
            made.wire.is_away = True
            (threads if deleted == "here" else made.hub.threads).forget([THREAD])
            with mirrors.thread(THREAD, made_at=second) as mirror, threads.read(THREAD) as of_second:
                assert await mirror.catch_up()
                assert of_first.thread_is_gone
                made.wire.come_back()
                made.begin()
                assert await heard(of_second, 1) == [("started", RUN, None)]
                made.end()
                assert await heard(of_second, 1) == [("ended", RUN, "success")]
                await asyncio.sleep(QUICK.grace)
                assert not of_second.is_over


@pytest.mark.parametrize("ended", [True, False])
@virtual
async def test_who_follows_a_thread_that_is_made_again_hears_nothing_of_the_first_once_the_word_that_it_is_gone_has_come(
    ended: bool,
) -> None:
    async with fleet() as made:
        mirrors, threads = made.mirrors[0], made.servers[0].threads
        second = made.log.threads[THREAD] = datetime.now(UTC)
        made.begin("old")
        made.say(1, 2, run_id="old")
        if ended:
            made.end("old")
        made.hub.threads.note_state(THREAD, b"{}")
        await asyncio.sleep(0)
        made.log.earlier.add("old")
        made.wire.is_away = True
        made.hub.threads.forget([THREAD])
        with mirrors.thread(THREAD, made_at=second) as mirror, threads.read(THREAD) as reader:
            assert await mirror.catch_up()
            with read_events(threads, THREAD, Wanted(channels={"custom", "values"}), 0) as events:
                assert b'"payload":2' in b"".join(events.pieces()), "nobody can know yet whose that is"
            made.wire.come_back()
            made.begin("new")
            made.say(3, run_id="new")
            while ("part", "new", b"3") not in await heard(reader, 1):
                pass
            await asyncio.sleep(0.01)
            reader.seen = reader.feed.first_kept - 1  # as a reader does that wants all that is kept
            assert told(reader) == [("started", "new", None), ("part", "new", b"3")]
            with read_events(threads, THREAD, Wanted(channels={"custom", "values"}), 0) as events:
                pieces = b"".join(events.pieces())
                assert (b'"payload":2' in pieces, b'"payload":3' in pieces) == (False, True)
            if not ended:
                made.end("old")
            made.end("new")
            assert await heard(reader, 1) == [("ended", "new", "success")]
            assert (reader.feed.active, reader.is_over) == (set(), False)


@pytest.mark.parametrize("heard_before", [True, False])
@pytest.mark.parametrize("by", ["worker", "log"])
@virtual
async def test_who_follows_a_run_hears_its_end_also_if_its_thread_is_gone_before(by: str, heard_before: bool) -> None:
    async with fleet() as made:
        server, mirrors = made.servers[0], made.mirrors[0]
        with mirrors.thread(THREAD) as thread, server.threads.read(THREAD) as follower:
            await thread.catch_up()
            with mirrors.run(THREAD, RUN):
                reader = server.read(RUN)
                if heard_before:
                    made.begin(thread_ends=True)
                    made.hub.publish(RUN, "values", {"n": 1})
                    await asyncio.sleep(0)
                made.log.tell(RUN)
                made.hub.threads.forget([THREAD])  # its end is committed, and the worker's message about it comes later
                await asyncio.wait_for(follower.wait_for_end(), 5)
                if by == "worker":
                    if not heard_before:
                        made.begin(thread_ends=True)
                        made.hub.publish(RUN, "values", {"n": 1})
                    made.hub.close(RUN, end={"status": "success"})
                _, end = await to_the_end(reader)
        assert end == EndedStream({"status": "success"})
        assert server.values(RUN) == (b'{"n":1}' if by == "worker" else None)
        assert (made.wire.ears, mirrors.stats.open) == (set(), 0)
        assert server.threads.known(THREAD) is None


@pytest.mark.parametrize("comes_late", [False, True])
@virtual
async def test_who_follows_a_run_has_all_of_it_where_its_thread_was_gone_before_its_mirror_had_caught_up(
    comes_late: bool,
) -> None:
    async with fleet() as made:
        server, mirrors = made.servers[0], made.mirrors[0]
        made.log.threads[THREAD] = datetime.now(UTC)  # there is another thread with its id
        made.begin()
        made.say(1)
        await asyncio.sleep(0)
        made.hub.threads.forget([THREAD])
        with ExitStack() as stack:
            thread = stack.enter_context(mirrors.thread(THREAD, made_at=made.log.threads[THREAD]))
            if comes_late:
                assert await thread.catch_up()
            stack.enter_context(mirrors.run(THREAD, RUN))
            reader = server.read(RUN)
            assert await thread.catch_up()
            made.say(2)
            made.end()
            got, end = await to_the_end(reader)
        assert (numbers_of(got), end.end) == ([1, 2], {"status": "success"})


@virtual
async def test_only_runs_that_somebody_follows_outlive_their_thread() -> None:
    async with fleet() as made:
        server, mirrors = made.servers[0], made.mirrors[0]
        with mirrors.thread(THREAD) as thread:
            await thread.catch_up()
            for run_id in (RUN, "heard", "over"):
                made.begin(run_id)
            followed = [mirrors.run(THREAD, RUN), mirrors.run(THREAD, RUN), mirrors.run(THREAD, "over")]
            made.end("over")
            await asyncio.wait_for(server.read("over").wait_for_end(), 5)
            reader = server.read("heard")
            made.hub.threads.forget([THREAD])
            assert (await to_the_end(reader))[1] == EndedStream(None), "nobody would have it end"
            assert {ear.topic for ear in made.wire.ears} == {(THREAD, RUN)}
            made.end()
            assert (await to_the_end(server.read(RUN)))[1].end == {"status": "success"}
            for mirror in followed:
                mirror.close()
