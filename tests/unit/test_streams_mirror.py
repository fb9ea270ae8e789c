"""A run's output reaches another process's hub: the same parts with the same numbers, or a gap; then its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from adverse_wire import AdverseWire, Adversity
from hypothesis import given, settings
from hypothesis import strategies as st
from told_ends import ToldEnds

from trackside.app.server.following import hear, resume
from trackside.app.streams import EndedStream, FeedItem, FeedLimits, FeedReader, HubLimits, Mirror, Reader, StreamHub
from trackside.app.streams.frames import now_ms
from trackside.app.streams.live_messages import MOST_BYTES, VERSION
from trackside.app.streams.mirror import Mirrors
from trackside.app.streams.mirror_options import MirrorOptions
from trackside.app.streams.protocol import Wanted, read_events
from trackside.app.streams.relay import Relay, RelayLimits
from trackside.harness.errors import ClosedError
from trackside.harness.ports import StreamPart
from trackside.harness.types import RunRecord, RunSpec, RunStatus

THREAD, RUN = "thread-1", "run-1"
QUICK = MirrorOptions(linger=0.02, grace=0.05, patience=0.2, doubt=0.02)
STEPS = ["say", "say", "burst", "turn", "read", "thread", "leave", "large", "gone"]
SPEC = RunSpec("a", stream_mode=("values", "custom", "messages"))


def record(run_id: str = RUN, thread_id: str = THREAD) -> RunRecord:
    now = datetime.now(UTC)
    return RunRecord(run_id=run_id, thread_id=thread_id, agent="a", status=RunStatus.running, created_at=now)


class Fleet:
    """A worker that executes, and servers that clients ask."""

    def __init__(
        self, wire: AdverseWire, *, servers: int = 1, limits: HubLimits | None = None, options: MirrorOptions = QUICK
    ) -> None:
        self.wire = wire
        self.log = ToldEnds()
        self.hub = StreamHub(limits)
        self.relay = Relay(self.hub, wire)
        self.servers = [StreamHub(limits) for _ in range(servers)]
        self.mirrors = [Mirrors(server, wire, self.log, options) for server in self.servers]

    def begin(self, run_id: str = RUN, **more: Any) -> None:
        self.hub.begin(record(run_id), RunSpec("a", stream_mode=SPEC.stream_mode, **more))

    def say(self, *numbers: int, run_id: str = RUN) -> None:
        for number in numbers:
            self.hub.publish(run_id, "custom", number)

    def end(self, run_id: str = RUN, **says: Any) -> None:
        end = {"status": "success", **says}
        self.log.tell(run_id, **end)
        self.hub.close(run_id, end=end)


@asynccontextmanager
async def fleet(adversity: Adversity | None = None, seed: int = 0, **more: Any) -> AsyncGenerator[Fleet]:
    made = Fleet(AdverseWire(adversity, seed), **more)
    try:
        yield made
    finally:
        await made.relay.aclose(0.05)
        for mirrors in made.mirrors:
            await mirrors.aclose()


async def to_the_end(reader: Reader) -> tuple[list[Any], EndedStream]:
    """Everything a reader gets: bytes of parts, gaps as pairs; then the end."""
    got: list[Any] = []
    while True:
        if (gap := reader.gap()) is not None:
            got.append((gap.first, gap.last))
        batch = await asyncio.wait_for(reader.next(), 5)
        if isinstance(batch, EndedStream):
            return got, batch
        got += [(frame.id, frame.sse, frame.namespace, frame.said) for frame in batch]


def numbers_of(got: list[Any]) -> list[Any]:
    return [int(one[0].rpartition("-")[2]) if isinstance(one[0], str) else one for one in got]


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
                    await asyncio.sleep(0)
            assert not reader.is_over
            made.log.tell(RUN, status="timeout")
            got, end = await to_the_end(reader)
        assert (numbers_of(got), end.end) == ([(2, 2)], {"status": "timeout"})  # it may have said more


async def test_while_the_wire_is_away_the_ring_is_what_waits() -> None:
    async with fleet(limits=HubLimits(parts=10)) as made:
        with made.mirrors[0].run(THREAD, RUN):
            reader = made.servers[0].read(RUN)
            made.begin()
            made.say(1)
            await asyncio.sleep(0)
            made.wire.is_away = True
            for number in range(30):
                made.say(number)
                await asyncio.sleep(0)
            assert made.relay.stats.refused == 1, "it is not tried again for each part"
            made.wire.come_back()
            made.end()
            got, _ = await to_the_end(reader)
        assert numbers_of(got) == [1, (2, 21), *range(22, 32)]
        assert made.relay.stats.parts_missed == 20


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


def told(reader: FeedReader) -> list[tuple[str, str, Any]]:
    def what(item: Any) -> Any:
        return {"part": lambda: item.what.data, "ended": lambda: item.what["status"]}.get(item.kind, lambda: None)()

    return [(item.kind, item.run_id, what(item)) for item in reader.take()]


async def heard(reader: FeedReader, many: int) -> list[tuple[str, str, Any]]:
    got: list[tuple[str, str, Any]] = []
    async with asyncio.timeout(5):
        while len(got) < many:
            await reader.wait()
            got += told(reader)
    return got


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


async def test_the_log_tells_a_thread_of_runs_that_never_said_anything() -> None:
    async with fleet() as made:
        with made.mirrors[0].thread(THREAD) as mirror, made.servers[0].threads.read(THREAD) as reader:
            await mirror.catch_up()
            made.begin()
            made.log.tell("pending", status="cancelled", started=False)
            assert ("ended", "pending", "cancelled") in await heard(reader, 2)
            made.end()
            assert await heard(reader, 1) == [("ended", RUN, "success")]


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
                    await asyncio.sleep(0)
            assert told(follower) == [("part", RUN, b"2"), ("ended", RUN, "success")]


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


async def test_who_follows_a_thread_is_told_that_nothing_has_come_of_a_run() -> None:
    async with fleet() as made:
        with made.mirrors[0].thread(THREAD) as mirror, made.servers[0].threads.read(THREAD) as reader:
            await mirror.catch_up()
            made.log.tell(RUN, at=now_ms())
            assert await heard(reader, 2) == [("missed", RUN, None), ("ended", RUN, "success")]


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


@pytest.mark.parametrize("begins_first", [False, True])
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


@pytest.mark.parametrize("heard_before", [True, False])
@pytest.mark.parametrize("by", ["worker", "log"])
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


@pytest.mark.parametrize("follows_thread", [True, False])
@pytest.mark.parametrize("fails", [True, False])
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


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    adversity=st.builds(
        Adversity,
        lost=st.sampled_from([0, 0, 20]),
        repeated=st.sampled_from([0, 30]),
        held_up=st.sampled_from([0, 10]),
        refused=st.sampled_from([0, 20]),
        kept=st.sampled_from([0, 3, 1_000]),
    ),
    steps=st.lists(st.sampled_from(STEPS), max_size=25),
    how=st.sampled_from(["worker", "log", "both"]),
)
def test_every_reader_gets_all_in_order_or_a_gap_and_then_the_true_end(
    seed: int, adversity: Adversity, steps: list[str], how: str
) -> None:
    asyncio.run(_every_reader(seed, adversity, steps, how))


async def on_thread(reader: FeedReader) -> list[FeedItem | None]:
    """What a follower of a thread is told, up to its run's end, or its own; None for what its feed no longer keeps."""
    got: list[FeedItem | None] = []
    with reader:
        while True:
            if reader.gap() is not None:
                got.append(None)
            got += reader.take()
            if reader.is_over or "ended" in [item.kind for item in got if item is not None]:
                return got
            await asyncio.wait_for(reader.wait(), 5)


def check_thread(got: list[FeedItem | None], said: dict[int, bytes], *, is_whole: bool) -> None:
    """Check that it has each part of a run once, in order, or a gap for it, between at most one start and one end."""
    kinds = ["gap" if item is None else item.kind for item in got]
    assert (kinds.count("ended"), kinds[-1]) == (1, "ended")
    assert "started" not in kinds[1:] or "gap" in kinds
    place: int | None = 0
    for item in got:
        if item is None:
            place = None
        elif item.kind == "part":
            assert place in {None, item.what.sequence - 1}
            place = item.what.sequence
            assert item.what.sse == said[item.what.sequence]
        elif item.kind == "missed":
            assert place in {None, item.what.first - 1}
            place = item.what.last
    assert place in {None, len(said)} or not is_whole, "what is not known of the tail is a gap"


async def _every_reader(seed: int, adversity: Adversity, steps: list[str], how: str) -> None:
    async with fleet(adversity, seed, limits=HubLimits(parts=20, part_bytes=4 * 1_048_576)) as made:
        mirrors, server = made.mirrors[0], made.servers[0]
        said: dict[int, bytes] = {}
        readers: list[tuple[Mirror, asyncio.Task[Any]]] = []
        made.begin()
        number = 0
        for step in steps:
            for _ in range({"say": 1, "burst": 30, "large": 1}.get(step, 0)):
                number += 1
                made.hub.publish(RUN, "custom", "x" * MOST_BYTES * 2 if step == "large" else number)
                said[number] = made.hub.read(RUN, after=number - 1).take()[0].sse
            if step == "turn":
                await asyncio.sleep(0.002)
            elif step == "read":
                use = mirrors.run(THREAD, RUN)
                readers.append((use, asyncio.create_task(to_the_end(server.read(RUN)))))
            elif step == "thread":
                use = mirrors.thread(THREAD)
                readers.append((use, asyncio.create_task(on_thread(server.threads.read(THREAD)))))
            elif step == "gone":
                made.hub.threads.forget([THREAD])
            elif step == "leave" and len(readers) > 1:
                use, task = readers.pop(0)
                task.cancel()
                use.close()
        last = mirrors.run(THREAD, RUN)
        readers.append((last, asyncio.create_task(to_the_end(server.read(RUN)))))
        end = {"status": "success"}
        if how != "worker" or adversity.lost or "gone" in steps:
            made.log.tell(RUN)
        if how != "log":
            made.hub.close(RUN, end=end)
        for use, task in readers:
            result = await asyncio.wait_for(task, 10)
            use.close()
            is_whole = how != "log" and not mirrors.stats.ends_logged
            if isinstance(result, list):
                if "gone" not in steps:
                    check_thread(result, said, is_whole=is_whole)
                continue
            got, ended = result
            assert ended == EndedStream(end)
            place = 0
            for one in got:
                if isinstance(one[0], int):
                    assert one[0] == place + 1
                    assert one[1] <= number + (mirrors.stats.ends_logged > 0)  # it may have said more
                    place = one[1]
                else:
                    place += 1
                    assert numbers_of([one]) == [place]
                    assert one[1] == said[place]
            if is_whole:
                assert place == number, "what is not known of the tail is a gap"


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
