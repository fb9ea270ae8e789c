"""The live output of runs: encoded once, bounded, and the same for every reader, wherever it begins."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackside.app.streams import EndedStream, FeedLimits, Frame, HubLimits, Reader, StreamHub
from trackside.harness.payload import whole
from trackside.harness.ports import StreamGap, StreamPart
from trackside.harness.types import RunRecord, RunSpec, RunStatus

RUN = "run-1"


def record(run_id: str = RUN, thread_id: str = "thread-1", **more: Any) -> RunRecord:
    return RunRecord(
        run_id=run_id, thread_id=thread_id, agent="a", status=RunStatus.running, created_at=datetime.now(UTC), **more
    )


def read_all(reader: Reader) -> list[int | tuple[int, int]]:
    """The numbers of everything there, with gaps as pairs."""
    seen: list[int | tuple[int, int]] = []
    while True:
        if (gap := reader.gap()) is not None:
            seen.append((gap.first, gap.last))
        if not (frames := reader.take()):
            return seen
        seen += [frame.sequence for frame in frames]


def test_who_joins_late_gets_the_past_then_what_comes_and_the_end() -> None:
    hub = StreamHub()
    hub.publish(RUN, "custom", {"n": 1})
    late = hub.read(RUN)
    assert [frame.data for frame in late.take()] == [b'{"n":1}']
    hub.publish(RUN, "custom", {"n": 2})
    assert [frame.data for frame in late.take()] == [b'{"n":2}']
    hub.close(RUN, end={"status": "success"})
    assert late.ready() == EndedStream({"status": "success"})
    assert read_all(hub.read(RUN)) == [1, 2]
    assert hub.end_of(RUN) == {"status": "success"}


def test_a_part_is_encoded_once_for_all_readers() -> None:
    hub = StreamHub()
    readers = [hub.read(RUN) for _ in range(1_000)]
    hub.publish(RUN, "values", {"a": 1})
    frames = {id(frame): frame for reader in readers for frame in reader.take()}
    assert len(frames) == 1
    (frame,) = frames.values()
    assert frame.sse is frame.sse
    assert frame.sse == b'event: values\r\ndata: {"a":1}\r\n\r\n'
    assert frame.resumable_sse is frame.resumable_sse
    assert frame.resumable_sse == b'event: values\r\ndata: {"a":1}\r\nid: %b\r\n\r\n' % frame.id.encode()


def test_what_falls_out_of_the_ring_is_a_gap_for_those_who_have_not_seen_it() -> None:
    hub = StreamHub(HubLimits(parts=3, behind=1))
    slow, quick = hub.read(RUN), hub.read(RUN)
    for number in range(5):
        hub.publish(RUN, "custom", number)
        assert read_all(quick) == [number + 1]
    assert read_all(slow) == [(1, 2), 3, 4, 5]


@pytest.mark.parametrize("limits", [HubLimits(parts=2, behind=5), HubLimits(part_bytes=3_000, behind=5)])
def test_who_keeps_up_gets_all_of_what_is_said_at_once_and_who_comes_later_what_is_kept(limits: HubLimits) -> None:
    hub = StreamHub(limits)
    readers = [hub.read(RUN) for _ in range(3)]
    said = 0
    for _ in range(4):
        for _ in range(10):
            hub.publish(RUN, "custom", "x" * 500)
        expected = [*range(said + 1, said + 11)]
        for reader in readers:
            assert (reader.gap(), [frame.sequence for frame in reader.take()]) == (None, expected)
        said += 10
        assert read_all(hub.read(RUN)) == [(1, said - 2), said - 1, said]


def test_who_does_not_keep_up_gets_a_gap_and_others_all() -> None:
    hub = StreamHub(HubLimits(parts=3, behind=4))
    slow, quick = hub.read(RUN), hub.read(RUN)
    for number in range(100):
        hub.publish(RUN, "custom", number)
        assert read_all(quick) == [number + 1]
    assert read_all(slow) == [(1, 88), *range(89, 101)]
    assert read_all(hub.read(RUN)) == [(1, 97), 98, 99, 100]


def test_nothing_more_is_kept_for_who_has_gone() -> None:
    hub = StreamHub(HubLimits(parts=3, behind=4))
    readers = [hub.read(RUN)]
    for number in range(9):
        hub.publish(RUN, "custom", number)
    assert read_all(hub.read(RUN)) == [*range(1, 10)]
    readers.clear()
    hub.publish(RUN, "custom", 9)
    assert read_all(hub.read(RUN)) == [(1, 7), 8, 9, 10]


def test_who_keeps_up_gets_what_a_run_says_before_it_ends_and_nothing_of_it_stays_in_others_room() -> None:
    hub = StreamHub(HubLimits(parts=2, behind=50, ended_bytes=200_000))
    hub.publish("small", "custom", "y")
    hub.close("small", end={})
    readers = {number: hub.read(f"run-{number}") for number in range(20)}
    for number in range(20):
        for _ in range(30):
            hub.publish(f"run-{number}", "custom", "x" * 1_000)
        hub.close(f"run-{number}", end={})
        reader = readers.pop(number)
        if number % 2:
            assert read_all(reader) == [*range(1, 31)]
        del reader  # half of them go without
    hub.close("last", end={})
    assert hub.read_kept("small").has_said_anything
    assert read_all(hub.read_kept("run-1")) == [(1, 28), 29, 30]


def test_a_ring_is_bounded_in_bytes_and_keeps_the_newest_however_large() -> None:
    hub = StreamHub(HubLimits(part_bytes=10_000))
    for _ in range(50):
        hub.publish(RUN, "custom", "x" * 1_000)
    kept = hub.read(RUN)
    assert kept.gap() is not None
    assert sum(frame.size for frame in kept.take()) <= 10_000
    hub.publish(RUN, "custom", "y" * 100_000)
    (only,) = hub.read(RUN, after=50).take()
    assert len(only.data) == 100_002


def test_runs_that_have_ended_are_forgotten_oldest_first_by_count_and_by_bytes() -> None:
    hub = StreamHub(HubLimits(ended_runs=3, ended_bytes=5_000))
    for number in range(5):
        hub.publish(f"run-{number}", "custom", number)
        hub.close(f"run-{number}", end={})
    assert [hub.read_kept(f"run-{number}").has_said_anything for number in range(5)] == [False, False, True, True, True]
    hub.publish("large", "custom", "x" * 6_000)
    hub.close("large", end={})
    assert [hub.read_kept(f"run-{number}").has_said_anything for number in range(5)] == [False] * 5
    assert hub.read_kept("large").has_said_anything


def test_what_a_run_has_used_and_where_it_failed_is_not_kept_with_its_end() -> None:
    hub = StreamHub()
    with hub.threads.read("thread-1") as thread:
        hub.begin(record(), RunSpec("a"))
        says = {"status": "error", "error": "no", "error_type": "KeyError"}
        hub.close(RUN, end={**says, "completion_data": {"calls": [{}] * 1_000}, "traceback": "a line\n" * 1_000})
        assert hub.end_of(RUN) == says
        assert [item.what for item in thread.take() if item.kind == "ended"] == [says]


def test_many_runs_on_a_thread_take_no_more_memory_than_is_for_them_whatever_they_bring_and_ask() -> None:
    most = 400_000
    hub = StreamHub(HubLimits(ended_bytes=most, threads=FeedLimits(item_bytes=most, idle_bytes=most)))

    def run(number: int) -> None:
        much = f"{number}" * 50_000
        spec = RunSpec("a", command={"resume": {"q": much}})
        hub.begin(record(f"run-{number}", metadata={"much": much}), spec)
        hub.close(f"run-{number}", end={"status": "interrupted", "interrupts": [{"id": "q", "value": much}]})

    run(0)
    tracemalloc.start()
    try:
        for number in range(1, 100):
            run(number)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 3 * most


def test_a_run_that_was_taken_away_and_comes_back_says_what_it_says_then() -> None:
    hub = StreamHub(HubLimits(ended_bytes=1_000))
    hub.publish(RUN, "custom", "before")
    hub.close(RUN)  # lost to another process
    first = hub.read(RUN)
    hub.begin(record(), RunSpec("a"))
    hub.publish(RUN, "custom", "after")
    hub.close(RUN, end={"status": "success"})
    assert [frame.data for frame in hub.read(RUN).take()] == [b'"after"']
    assert [frame.data for frame in first.take()] == [b'"before"']
    assert first.standing.end is None


def test_what_comes_after_the_end_reaches_nobody() -> None:
    hub = StreamHub()
    hub.close(RUN, end={})
    hub.publish(RUN, "custom", 1)
    assert hub.read(RUN).is_over
    assert not hub.read_kept(RUN).has_said_anything


def test_of_a_run_that_is_not_known_nothing_is_kept_and_nobody_waits() -> None:
    reader = StreamHub().read_kept(RUN)
    assert reader.is_over
    assert reader.standing == EndedStream(None)


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else "core"


# An encoder would take some of these as they are, or in a form of its own.
ODD: Mapping[str, Any] = {
    "when": datetime(2026, 1, 2, tzinfo=UTC),
    "what": {1},
    "nan": math.nan,
    "long": 2**64 + 1,
    "keys": {1: "a number", "1": "a text"},
    "text": "a\0b",
    "deep": nested(500),
}


@pytest.mark.parametrize("mode", ["custom", "values", "messages-tuple"])
@pytest.mark.parametrize("said", [ODD, [ODD], object, nested(500)], ids=["mapping", "list", "object", "levels"])
def test_what_json_lacks_is_said_in_its_canonical_form(mode: str, said: Any) -> None:
    hub, data = StreamHub(), said() if callable(said) else said
    hub.publish(RUN, mode, data)
    (part,) = hub.read(RUN).take()
    assert json.loads(part.data) == whole(data)


def test_what_json_lacks_in_a_message_is_said_in_its_canonical_form() -> None:
    alone, paired = StreamHub(), StreamHub()
    message = {"type": "ai", "id": "m", "content": "a\0b", "additional_kwargs": ODD}
    alone.publish(RUN, "messages", message)
    paired.publish(RUN, "messages", (message, {"step": math.nan}))
    said, said_with_more = ([json.loads(part.data) for part in hub.read(RUN).take()] for hub in (alone, paired))
    assert said == [[whole(message), {}], {"m": {"metadata": {}}}, [whole(message)]]
    assert said_with_more == [{"m": {"metadata": {"step": "NaN"}}}, whole([message])]


def test_the_newest_state_is_that_of_the_agent_itself_and_no_question() -> None:
    hub = StreamHub()
    hub.publish(RUN, "values", {"a": 1})
    hub.publish(RUN, "values", {"b": 2}, ("inside:1",))
    hub.publish(RUN, "values", {"__interrupt__": [{"id": "q", "value": "?"}]})
    assert hub.values(RUN) == b'{"a":1}'
    assert [frame.event for frame in hub.read(RUN).take()] == ["values", "values|inside:1", "values"]


def test_ids_are_known_as_long_as_their_parts_are_kept() -> None:
    hub = StreamHub(HubLimits(parts=2))
    for number in range(3):
        hub.publish(RUN, "custom", number)
    reader = hub.read(RUN)
    first, *kept = [f"{frame.at}-{frame.sequence}" for frame in _published(hub)]
    assert [reader.knows(frame_id) for frame_id in kept] == [True, True]
    assert reader.knows("1-1") is None  # it may have been
    assert reader.knows(f"{int(first.partition('-')[0])}-0") is True
    assert [reader.knows(no) for no in ("1-2", "1-9", "x-1", "1-", "1", "-1", "")] == [False] * 7


def _published(hub: StreamHub) -> list[Frame]:
    kept = hub.read(RUN)
    kept.gap()
    frames = kept.take()
    return [Frame(1, "custom", "custom", b"", (), frames[0].at), *frames]


def test_readers_are_told_what_a_run_was_asked_to_say_once_it_has_begun() -> None:
    hub = StreamHub()
    reader = hub.read(RUN)
    assert reader.modes is None
    hub.begin(record(), RunSpec("a", stream_mode=["values", "custom"], options={"stream_resumable": True}))
    assert reader.modes == {"values", "custom"}
    assert reader.resumable


async def test_waiting_ends_with_more_with_the_end_and_when_it_is_nudged_or_roused() -> None:
    hub = StreamHub()
    reader = hub.read(RUN)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    reader.nudge()
    assert not await waiting
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    hub.publish(RUN, "custom", 1)
    assert await waiting
    reader.take()
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    hub.close(RUN, end={})
    assert await waiting
    other = hub.read("other")
    waiting = asyncio.create_task(other.wait())
    await asyncio.sleep(0)
    other.rouse()
    assert not await waiting
    assert not await other.wait()  # the reader stays roused


async def test_who_stops_waiting_leaves_nothing_behind() -> None:
    hub = StreamHub()
    channel = hub.read(RUN)._channel
    for _ in range(100):
        waiting = asyncio.create_task(hub.read(RUN).wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert not channel._wakers


async def test_all_streams_end_when_the_process_is_about_to() -> None:
    hub = StreamHub()
    reader = hub.read(RUN)
    hub.publish(RUN, "custom", 1)
    hub.end_all()
    assert read_all(reader) == [1]
    assert reader.standing == EndedStream(None, closing=True)
    assert hub.read("later").is_over  # including streams that begin meanwhile
    hub.close(RUN, end={"status": "success"})
    assert reader.standing.end == {"status": "success"}


def test_memory_is_flat_over_runs_and_parts() -> None:
    hub = StreamHub(HubLimits(parts=50, ended_runs=20, threads=FeedLimits(items=100, idle_threads=20)))

    def rounds(first: int, last: int) -> None:
        for number in range(first, last):
            run_id, spec = f"run-{number}", RunSpec("a")
            hub.begin(record(run_id, f"thread-{number % 200}"), spec)
            for part in range(120):
                hub.publish(run_id, "custom", {"part": part})
            hub.close(run_id, end={"status": "success"})

    rounds(0, 400)
    gc.collect()
    tracemalloc.start()
    rounds(400, 800)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    rounds(800, 1_600)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after < before * 1.2


class Model:
    """A hub, and readers that check whether what they got can be right."""

    def __init__(self, parts: int, part_bytes: int) -> None:
        self.hub = StreamHub(HubLimits(parts=parts, part_bytes=part_bytes))
        self.readers: list[tuple[Reader, list[int], int]] = []
        self.published = 0
        self.closed = False

    def publish(self, size: int) -> None:
        if not self.closed:
            self.published += 1
            self.hub.publish(RUN, "custom", "x" * size)

    def join(self, after: int) -> None:
        after = min(after, self.published)
        self.readers.append((self.hub.read(RUN, after=after), [], after))

    def read(self, which: int) -> None:
        if not self.readers:
            return
        reader, seen, _ = self.readers[which % len(self.readers)]
        for item in read_all(reader):
            seen += [item] if isinstance(item, int) else range(item[0], item[1] + 1)

    def close(self) -> None:
        self.closed = True
        self.hub.close(RUN, end={"status": "success"})

    def resume(self, which: int) -> None:
        """A client that was cut off comes back with the number of what it has."""
        if self.readers:
            index = which % len(self.readers)
            _, seen, after = self.readers[index]
            self.readers[index] = (self.hub.read(RUN, after=seen[-1] if seen else after), seen, after)


STEPS = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 400)),
    st.tuples(st.just("join"), st.integers(0, 30)),
    st.tuples(st.just("read"), st.integers(0, 5)),
    st.tuples(st.just("resume"), st.integers(0, 5)),
    st.tuples(st.just("close"), st.none()),
)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(300, 2_000), st.lists(STEPS, max_size=60))
def test_every_reader_sees_each_part_once_in_order_or_is_told_that_it_is_gone(
    parts: int, part_bytes: int, steps: list[tuple[str, Any]]
) -> None:
    model = Model(parts, part_bytes)
    model.join(0)
    for name, argument in steps:
        step = getattr(model, name)
        step() if argument is None else step(argument)
    model.close()
    for index, (reader, seen, after) in enumerate(model.readers):
        model.read(index)
        assert seen == list(range(after + 1, model.published + 1))
        assert isinstance(reader.ready(), EndedStream)


@pytest.mark.parametrize("after", [0, 2, 9])
async def test_the_harness_follows_by_the_same_ring(after: int) -> None:
    hub = StreamHub(HubLimits(parts=4))
    for number in range(6):
        hub.publish(RUN, "custom" if number % 2 else "values", number)
    hub.close(RUN, end={})
    found = [part async for part in hub.follow(RUN, after=after, modes=["custom"])]
    expected = [part for part in (2, 4, 6) if part > max(after, 2)]
    gap = [StreamGap(after + 1, 2)] if after < 2 else []
    assert [part if isinstance(part, StreamGap) else part.sequence for part in found] == [*gap, *expected]


async def test_who_follows_in_the_process_gets_messages_as_the_run_said_them() -> None:
    hub = StreamHub()
    pieces = [[{"type": "AIMessageChunk", "id": "m", "content": word}, {"node": "model"}] for word in ("to ", "be")]
    for piece in pieces:
        hub.publish("r", "messages", piece)
    hub.close("r")

    assert [part.data async for part in hub.follow("r", modes=["messages"]) if isinstance(part, StreamPart)] == pieces


@pytest.mark.parametrize(
    ("modes", "happened", "is_known"),
    [
        (["values"], "nothing", True),
        (["custom"], "nothing", False),
        (["values"], "not counted", False),
        (["values"], "not begun", False),
        (["values"], "missed", False),
        (["values"], "lacked", False),
        (["values"], "said", False),
    ],
)
def test_that_a_run_of_another_process_said_no_values_is_known_only_if_all_of_it_was_heard(
    modes: list[str], happened: str, is_known: bool
) -> None:
    hub = StreamHub()
    channel = hub.mirror(RUN)
    assert channel is not None
    channel.modes, channel.begun, channel.counted = (
        frozenset(modes),
        None if happened == "not begun" else object(),
        True,
    )
    channel.take(Frame(1, "values" if happened == "said" else "custom", "said", b'{"n":1}', (), 1))
    if happened == "not counted":
        channel.counted = False
    elif happened == "missed":
        channel.miss(2, at=1)
    elif happened == "lacked":
        channel.lack("it did not come", at=None)
    assert not hub.said_no_values(RUN)  # it has not ended
    hub.close_mirror(RUN, {"status": "success"}, at=2)
    assert hub.said_no_values(RUN) is is_known


def test_that_a_run_of_this_process_said_no_values_is_known_when_it_has_ended_here() -> None:
    hub = StreamHub()
    hub.begin(record(), RunSpec("a", {}))
    hub.publish(RUN, "custom", 1)
    hub.close(RUN, end={"status": "success"})
    assert hub.said_no_values(RUN)
    assert not hub.said_no_values("run-2")
