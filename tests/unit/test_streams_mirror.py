"""A run's output reaches another process's hub: the same parts with the same numbers, or a gap; then its end."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest
from adverse_wire import AdverseWire, Adversity
from tests.contract.ways_to_run import virtual
from tests.unit.mirrored_fleet import QUICK, RUN, SPEC, THREAD, fleet, numbers_of, record, to_the_end
from told_ends import ToldEnds

from trackside.app.server.following import hear, resume
from trackside.app.streams import EndedStream, HubLimits, Reader, StreamHub
from trackside.app.streams.frames import now_ms
from trackside.app.streams.live_messages import MOST_BYTES, VERSION
from trackside.app.streams.mirror import Mirrors
from trackside.app.streams.relay import Relay, RelayLimits
from trackside.harness.errors import ClosedError
from trackside.harness.ports import StreamPart


@virtual
async def test_a_mirror_has_the_same_parts_with_the_same_ids_and_bytes() -> None:
    async with fleet() as made:
        server, mirrors = made.servers[0], made.mirrors[0]
        with mirrors.run(THREAD, RUN):
            reader, here = server.read(RUN), made.hub.read(RUN)
            made.begin(options={"stream_resumable": True})
            made.hub.publish(RUN, "values", {"n": 1})
            made.hub.publish(RUN, "messages", {"type": "AIMessageChunk", "id": "m", "content": "he"}, ("inner",))
            await asyncio.sleep(0)
            made.hub.publish(RUN, "values", {"n": 2})
            made.end(completion_data={"calls": [1]})
            assert await to_the_end(reader) == await to_the_end(here)
        assert (reader.modes, reader.resumable) == (here.modes, True)
        assert server.values(RUN) == b'{"n":2}'
        assert server.end_of(RUN) == {"status": "success"}
        assert made.wire.ears == set(), "what is over is not listened to"


@virtual
async def test_many_parts_are_one_message_and_a_lone_one_goes_at_once() -> None:
    async with fleet() as made:
        made.begin()
        made.say(*range(500))
        await asyncio.sleep(0)
        assert len(made.wire.said) == 1
        made.say(500)
        await asyncio.sleep(0)
        assert len(made.wire.said) == 2
        assert made.relay.stats.parts == 501


@virtual
async def test_who_comes_late_gets_what_is_kept_then_what_comes_without_a_gap() -> None:
    async with fleet(servers=2) as made:
        made.begin()
        made.say(1, 2, 3)
        await asyncio.sleep(0)
        with made.mirrors[0].run(THREAD, RUN) as mirror:
            assert await mirror.catch_up()
            reader = made.servers[0].read(RUN)
            assert [frame.data for frame in reader.take()] == [b"1", b"2", b"3"]
            made.say(4)
            made.end()
            got, _ = await to_the_end(reader)
        assert numbers_of(got) == [4]
        with made.mirrors[1].run(THREAD, RUN):  # when all is over
            got, end = await to_the_end(made.servers[1].read(RUN))
        assert (numbers_of(got), end.end) == ([1, 2, 3, 4], {"status": "success"})


@virtual
async def test_who_has_had_more_elsewhere_than_has_come_here_goes_on_behind_that() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            made.begin(options={"stream_resumable": True})
            made.say(1, 2)
            assert await reader.reaches(2, 5)
            made.wire.is_away = True
            made.say(3, 4, 5)
            (fifth,) = made.hub.read(RUN, after=4).take()
            assert not resume(reader, fifth.id)
            assert reader.knows("17-5") is False, "it had not begun by then"
            made.say(6)
            made.wire.come_back()
            made.end()
            got, _ = await to_the_end(reader)
        assert numbers_of(got) == [6]
        assert reader.knows(f"{now_ms()}-7") is False, "the worker has said which part was the last"


@pytest.mark.parametrize(("last_event_id", "waited_for"), [(None, []), ("-1", []), ("17-2", [2])])
@virtual
async def test_only_an_id_that_a_client_has_had_elsewhere_is_waited_for(
    last_event_id: str | None, waited_for: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []

    async def reaches(reader: Reader, number: int, seconds: float) -> bool:
        waits.append(number)
        return False

    monkeypatch.setattr(Reader, "reaches", reaches)
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN) as mirror:
            await hear(mirror, made.servers[0].read(RUN), last_event_id)
    assert waits == waited_for


@virtual
async def test_who_has_had_more_of_a_run_than_has_come_before_the_log_told_its_end_gets_that_end() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN):
            made.begin()
            made.say(1)
            assert await made.servers[0].read(RUN).reaches(1, 5)
            made.log.tell(RUN, status="error", error_type="worker_lost")
            await asyncio.wait_for(made.servers[0].read(RUN).wait_for_end(), 5)
            reader = made.servers[0].read(RUN)
            assert not resume(reader, f"{now_ms()}-5")
            got, end = await to_the_end(reader)
        assert got == []
        assert end.end is not None
        assert end.end["error_type"] == "worker_lost"


@pytest.mark.parametrize("heard", [0, 1])
@virtual
async def test_who_goes_on_where_what_was_said_last_did_not_come_is_told_so(heard: int) -> None:
    """The reader had more elsewhere than arrived here, and the log has told the end: it may lack still more."""
    async with fleet() as made:
        made.wire.is_away = not heard
        made.begin()
        made.say(1)
        await asyncio.sleep(0)
        made.wire.is_away = True
        made.say(2, 3, 4)
        (third,) = made.hub.read(RUN, after=2).take()[:1]
        made.log.tell(RUN)
        await asyncio.sleep(0.01)
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            assert not resume(reader, third.id, unsure=True)
            got, end = await to_the_end(reader)
            assert (got, end.end) == ([(4, 4)], {"status": "success"})
            assert await to_the_end(reader) == ([], end), "he is told once"
            got, end = await to_the_end(made.servers[0].read(RUN))
            assert numbers_of(got) == ([1, (2, 2)] if heard else [(1, 1)])
            passing = made.servers[0].read(RUN)
            passing.pass_over()
            assert await to_the_end(passing) == ([], end), "he wants only what comes"


@virtual
async def test_what_is_not_kept_any_more_is_a_gap() -> None:
    async with fleet(Adversity(kept=1)) as made:
        made.begin()
        for number in range(4):
            made.say(number)
            await asyncio.sleep(0)
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            made.say(4)
            made.end()
            got, _ = await to_the_end(reader)
        assert numbers_of(got) == [(1, 3), 4, 5]


@virtual
async def test_a_lost_tail_is_a_gap_before_the_end() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            made.begin()
            made.say(1)
            await asyncio.sleep(0)
            made.wire.adversity = Adversity(lost=100)
            made.say(2, 3)
            await asyncio.sleep(0)
            made.wire.adversity = Adversity()
            made.end()
            got, end = await to_the_end(reader)
        assert (numbers_of(got), end.end) == ([1, (2, 3)], {"status": "success"})


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("reason", ["worker_lost", "process_crashed", "memory_limit", "stuck"])
@virtual
async def test_the_log_tells_the_end_of_a_run_whose_process_is_gone(reason: str, begun: bool) -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            if begun:
                made.begin()
                made.say(1)
            made.log.tell(RUN, status="error", error_type=reason, started=begun)
            got, end = await to_the_end(reader)
        assert numbers_of(got) == ([1] if begun else [])
        assert end.end == {"status": "error", "error_type": reason}
        assert made.mirrors[0].stats.ends_logged == 1
        made.say(2)  # a worker that was taken for dead says more
        await asyncio.sleep(0)
        assert made.servers[0].end_of(RUN) == end.end
        got, _ = await to_the_end(made.servers[0].read(RUN))
        assert numbers_of(got) == ([1] if begun else [])


@virtual
async def test_an_end_in_the_log_waits_for_what_the_worker_has_said_before() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            made.log.tell(RUN)
            for _ in range(5):
                await asyncio.sleep(0)
            made.begin()
            made.say(1)
            made.hub.close(RUN, end={"status": "success", "title": "from the worker"})
            got, end = await to_the_end(reader)
        assert (numbers_of(got), end.end) == ([1], {"status": "success", "title": "from the worker"})
        assert made.mirrors[0].stats.ends_logged == 0


@virtual
async def test_a_worker_that_loses_its_run_ends_nobodys_stream() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            made.begin()
            made.say(1)
            await reader.next()
            made.hub.close(RUN)
            async with asyncio.timeout(5):
                while made.mirrors[0].stats.messages < 2:
                    await asyncio.sleep(0.001)
            assert not reader.is_over
            made.log.tell(RUN, status="timeout")
            got, end = await to_the_end(reader)
        assert (numbers_of(got), end.end) == ([(2, 2)], {"status": "timeout"})  # it may have said more


@pytest.mark.parametrize(
    ("seconds", "missed", "numbers"),
    [(0.0, 0, [*range(1, 32)]), (10.5, 20, [1, (2, 21), *range(22, 32)])],
    ids=["for a moment", "for long"],
)
@virtual
async def test_while_the_wire_is_away_the_ring_is_what_waits(seconds: float, missed: int, numbers: list[Any]) -> None:
    async with fleet(limits=HubLimits(parts=10)) as made:
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            made.begin()
            made.say(1)
            await asyncio.sleep(0)
            made.wire.is_away = True
            made.say(0)
            await asyncio.sleep(seconds)
            refused = made.relay.stats.refused
            for number in range(1, 30):
                made.say(number)
                await asyncio.sleep(0)
            assert made.relay.stats.refused <= max(1, refused), "it is not tried again for each part"
            made.wire.come_back()
            made.end()
            got, _ = await to_the_end(reader)
        assert numbers_of(got) == numbers
        assert made.relay.stats.parts_missed == missed


@virtual
async def test_ended_runs_that_cannot_be_sent_are_bounded() -> None:
    wire, hub = AdverseWire(), StreamHub()
    wire.is_away = True
    relay = Relay(hub, wire, RelayLimits(ended_runs=5, ended_bytes=2_000))
    for number in range(20):
        run_id = f"run-{number}"
        hub.begin(record(run_id), SPEC)
        hub.publish(run_id, "custom", "x" * 100)
        hub.close(run_id, end={"status": "success"})
    assert relay.stats.runs_given_up == 15
    wire.come_back()
    server, log = StreamHub(), ToldEnds()
    mirrors = Mirrors(server, wire, log, QUICK)
    uses = [mirrors.run(THREAD, f"run-{number}") for number in range(15, 20)]
    ends = [await to_the_end(server.read(f"run-{number}")) for number in range(15, 20)]
    assert [end.end for _, end in ends] == [{"status": "success"}] * 5
    assert [numbers_of(got) for got, _ in ends] == [[(1, 1)], [(1, 1)], [1], [1], [1]]
    for use in uses:
        use.close()
    await mirrors.aclose()
    await relay.aclose()


@virtual
async def test_a_run_that_comes_back_to_a_worker_says_all_that_it_says_from_then_on() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            made.wire.is_away = True
            made.begin()
            await asyncio.sleep(0)
            made.hub.close(RUN)  # another process has it for a moment
            made.begin()
            made.wire.come_back()
            await asyncio.sleep(0.05)
            made.say(1)
            made.end()
            got, end = await to_the_end(reader)
        assert (numbers_of(got), end.end) == ([1], {"status": "success"})
        assert made.mirrors[0].stats.ends_said == 1


@virtual
async def test_what_cannot_be_sent_of_a_run_keeps_no_other_waiting() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN), made.mirrors[0].run(THREAD, "other"):
            readers = [made.servers[0].read(run_id) for run_id in (RUN, "other")]
            made.begin()
            made.begin("other")
            made.hub.publish(RUN, "custom", 1, ("half of a character: \ud800",))
            made.say(1, run_id="other")
            await asyncio.sleep(0)
            made.say(2)
            made.end()
            made.end("other")
            ends = [await to_the_end(reader) for reader in readers]
        assert [numbers_of(got) for got, _ in ends] == [[(1, 1), 2], [1]]
        assert made.mirrors[0].stats.ends_said == 2


@virtual
async def test_a_large_part_comes_in_pieces_and_one_that_is_too_large_is_a_gap_with_its_reason() -> None:
    async with fleet(limits=HubLimits(part_bytes=100 * 1_048_576)) as made:
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            made.begin()
            made.hub.publish(RUN, "values", {"text": "é" * MOST_BYTES})
            made.hub.publish(RUN, "custom", "between")
            made.hub.publish(RUN, "values", {"text": "x" * 17 * 1_048_576})
            made.hub.publish(RUN, "custom", "last")
            made.end()
            seen: list[Any] = []
            while not reader.is_over:
                if (gap := reader.gap()) is not None:
                    assert "too large" in (gap.why or "")
                    seen.append((gap.first, gap.last))
                seen += [len(frame.data) for frame in reader.take()]
                await reader.wait()
        assert seen == [2 * MOST_BYTES + len('{"text":""}'), len('"between"'), (3, 3), len('"last"')]
        assert max(map(len, made.wire.said)) < 512 * 1024


@virtual
async def test_messages_of_another_version_and_nonsense_are_passed_over_and_counted() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN) as mirror:
            await mirror.catch_up()
            (ear,) = made.wire.ears
            for nonsense in (b"", b"\x02\x90", VERSION, VERSION + b"\x91\xc3", VERSION + b"\x90", b"{}"):
                ear.hear(nonsense)
            assert made.mirrors[0].stats.not_understood == 6
            made.begin()
            made.end()
            _, end = await to_the_end(made.servers[0].read(RUN))
        assert end.end == {"status": "success"}


@virtual
async def test_mirrors_are_shared_and_linger_and_go() -> None:
    async with fleet() as made:
        mirrors, server = made.mirrors[0], made.servers[0]
        made.begin()
        made.say(1)
        uses = [mirrors.run(THREAD, RUN) for _ in range(100)]
        await uses[0].catch_up()
        for use in uses:
            use.close()
            use.close()
        with mirrors.run(THREAD, RUN):
            assert (made.wire.listens, mirrors.stats.open) == (1, 1)
            await asyncio.sleep(2 * QUICK.linger)
            assert len(made.wire.ears) == 1
        async with asyncio.timeout(5):
            while made.wire.ears:
                await asyncio.sleep(QUICK.linger)
        assert (mirrors.stats.open, server.read_kept(RUN).has_said_anything) == (0, False)
        with mirrors.run(THREAD, RUN) as again:
            await again.catch_up()
            assert [frame.data for frame in server.read(RUN).take()] == [b"1"]


@virtual
async def test_a_part_is_encoded_once_for_all_readers_of_a_mirror() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN):
            readers = [made.servers[0].read(RUN) for _ in range(1_000)]
            made.begin()
            made.say(1)
            made.end()
            got = [await to_the_end(reader) for reader in readers]
        assert len({id(one[1]) for parts, _ in got for one in parts}) == 1
        assert made.mirrors[0].stats.messages == 1


@virtual
async def test_the_manager_of_a_server_streams_what_is_mirrored() -> None:
    async with fleet() as made:
        with made.mirrors[0].run(THREAD, RUN):
            made.begin()
            made.say(1)
            made.hub.publish(RUN, "messages", {"type": "ai", "id": "m", "content": "hi"})
            made.end()
            parts = [part async for part in made.servers[0].follow(RUN)]
            here = [part async for part in made.hub.follow(RUN)]
        assert parts == here
        assert isinstance(parts[0], StreamPart)


@pytest.mark.parametrize("follows_thread", [True, False])
@pytest.mark.parametrize("fails", [True, False])
@virtual
async def test_where_the_log_cannot_tell_how_a_run_ends_nobody_waits_for_that(
    follows_thread: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_end(run_id: str) -> None:
        if fails:
            raise ClosedError(what="store")

    async with fleet() as made:
        server, mirrors = made.servers[0], made.mirrors[0]
        with ExitStack() as uses:
            if follows_thread:
                uses.enter_context(mirrors.thread(THREAD))
            with monkeypatch.context() as patched:
                patched.setattr(made.log, "end_of", no_end)
                uses.enter_context(mirrors.run(THREAD, RUN))
                assert (await to_the_end(server.read(RUN)))[1] == EndedStream(None)
            # a later reader asks anew
            uses.enter_context(mirrors.run(THREAD, RUN))
            made.log.tell(RUN)
            assert (await to_the_end(server.read(RUN)))[1].end == {"status": "success"}


@virtual
async def test_values_of_which_newer_ones_may_be_missing_are_not_taken_for_the_newest() -> None:
    async with fleet() as made:
        server = made.servers[0]
        with made.mirrors[0].run(THREAD, RUN), made.mirrors[0].run(THREAD, "run-2"):
            for run_id in (RUN, "run-2"):
                made.begin(run_id)
                made.hub.publish(run_id, "values", {"n": 1})
            await asyncio.sleep(0)
            made.wire.adversity = Adversity(lost=100)
            made.hub.publish(RUN, "values", {"n": 2})
            await asyncio.sleep(0)
            made.wire.adversity = Adversity()
            made.end()
            made.log.tell("run-2")  # and its worker says nothing more
            for run_id in (RUN, "run-2"):
                await asyncio.wait_for(server.read(run_id).wait_for_end(), 5)
                assert server.values(run_id) is None
