"""What is said on a thread across all its runs: in order, bounded, and resumable."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from trackside.app.streams import FeedLimits, FeedReader, Frame, HubLimits, StreamHub
from trackside.app.streams.protocol import Wanted, read_events
from trackside.app.streams.thread_feed import Start, id_of
from trackside.harness.ports import StreamGap
from trackside.harness.types import RunRecord, RunSpec, RunStatus

THREAD = "thread-1"
SPEC = RunSpec("a")


def record(run_id: str, thread_id: str = THREAD) -> RunRecord:
    return RunRecord(
        run_id=run_id, thread_id=thread_id, agent="a", status=RunStatus.running, created_at=datetime.now(UTC)
    )


def execute(hub: StreamHub, run_id: str, *said: Any, thread_id: str = THREAD) -> None:
    hub.begin(record(run_id, thread_id), SPEC)
    for one in said:
        hub.publish(run_id, "custom", one)
    hub.close(run_id, end={"status": "success"})


def told(reader: FeedReader) -> list[tuple[str, str, Any]]:
    return [(item.kind, item.run_id, item.what.data if item.kind == "part" else None) for item in reader.take()]


def test_a_follower_gets_all_runs_of_his_thread_one_after_another() -> None:
    hub = StreamHub()
    with hub.threads.read(THREAD) as reader:
        execute(hub, "1", "a", "b")
        execute(hub, "other", "x", thread_id="thread-2")
        execute(hub, "2", "c")
        assert told(reader) == [
            ("started", "1", None),
            ("part", "1", b'"a"'),
            ("part", "1", b'"b"'),
            ("ended", "1", None),
            ("started", "2", None),
            ("part", "2", b'"c"'),
            ("ended", "2", None),
        ]


def test_who_comes_in_the_middle_of_a_run_gets_it_from_its_start_and_nothing_of_those_before() -> None:
    hub = StreamHub()
    execute(hub, "1", "a")
    hub.begin(record("2"), SPEC)
    hub.publish("2", "custom", "b")
    with hub.threads.read(THREAD) as reader:
        assert told(reader) == [("started", "2", None), ("part", "2", b'"b"')]
    hub.close("2", end={"status": "success"})
    with hub.threads.read(THREAD) as reader:
        assert told(reader) == []
    with hub.threads.read(THREAD, after=0) as reader:
        assert [kind for kind, _, _ in told(reader)] == ["started", "part", "ended"] * 2


def test_a_run_that_never_started_has_an_end_all_the_same() -> None:
    hub = StreamHub()
    hub.begin(record("1"), SPEC)
    with hub.threads.read(THREAD) as reader:
        hub.begin(record("2"), SPEC, started=False)
        hub.close("2", end={"cancel_mode": "interrupt"})
        hub.publish("1", "custom", "a")
        assert told(reader) == [("started", "1", None), ("ended", "2", None), ("part", "1", b'"a"')]


def test_a_follower_resumes_by_ids_and_those_of_another_feed_are_none_of_its() -> None:
    hub = StreamHub()
    with hub.threads.read(THREAD) as reader:
        execute(hub, "1", "a", "b")
        reader.take()
        _, said, _, ended = (item.number for item in reader.feed.after(0))
        assert reader.after_id(id_of(said))
        assert told(reader) == [("part", "1", b'"b"'), ("ended", "1", None)]
        assert reader.after_id(id_of(ended))
        assert told(reader) == []
        assert not any(map(reader.after_id, (id_of(ended + 1), id_of(ended + 1_000_000), "x", "1-1", "1-x", "")))
        assert len(told(reader)) == 4, "of what is not known all that is kept comes again"


def test_feeds_that_hear_the_same_give_it_the_same_numbers() -> None:
    feeds = [StreamHub().threads.feed_of(THREAD) for _ in range(2)]
    for feed in feeds:
        feed.note_start("1", Start("a", 1), at=1_000)
        for sequence, at in ((1, 1_000), (2, 1_000), (3, 1_004)):
            feed.note_part("1", Frame(sequence, "custom", "custom", b"1", (), at))
        feed.note_end("1", {"status": "success"}, at=1_004)
    numbers = [[item.number for item in feed.after(0)] for feed in feeds]
    assert numbers[0] == numbers[1] == [1_000_000, 1_000_001, 1_000_002, 1_004_000, 1_004_001]


def test_who_has_heard_what_another_feed_has_missed_is_told_of_a_gap_and_hears_nothing_twice() -> None:
    hub = StreamHub()
    with hub.threads.read(THREAD) as reader:
        frames = [Frame(sequence, "custom", "custom", b"%d" % sequence, (), 1_000) for sequence in range(1, 5)]
        reader.feed.note_missed("1", StreamGap(1, 2), at=1_000)
        for frame in frames[2:]:
            reader.feed.note_part("1", frame)
        for seen_elsewhere in (1_000_000, 1_000_001, 1_000_003):
            assert not reader.after_id(id_of(seen_elsewhere))
            assert [kind for kind, *_ in told(reader)] == ["missed", "part", "part"]


def test_what_falls_out_of_a_feed_is_a_gap() -> None:
    hub = StreamHub(HubLimits(threads=FeedLimits(items=1, behind=3)))
    with hub.threads.read(THREAD) as reader:
        execute(hub, "1", "a", "b", "c")
        gap = reader.gap()
        assert gap is not None
        assert (gap.first, gap.last) == (1, 2)
        assert [kind for kind, _, _ in told(reader)] == ["part", "part", "ended"]


def test_the_thread_of_a_single_run_has_no_feed_of_its_own() -> None:
    hub = StreamHub()
    hub.begin(record("1"), RunSpec("a", thread_ends=True))
    hub.publish("1", "custom", "a")
    hub.close("1", end={"status": "success"})
    assert hub.threads._feeds == {}


def test_others_tell_of_a_changed_state_and_of_a_thread_that_is_gone() -> None:
    hub = StreamHub()
    hub.threads.note_state(THREAD, b'{"unheard":true}')
    with hub.threads.read(THREAD) as reader:
        hub.threads.note_state(THREAD, b'{"a":1}')
        assert [item.what for item in reader.take()] == [b'{"a":1}']
        hub.threads.forget([THREAD, "another"])
        assert reader.is_over


def test_idle_feeds_are_forgotten_oldest_first_but_none_that_somebody_follows_or_that_has_a_run() -> None:
    hub = StreamHub(HubLimits(threads=FeedLimits(idle_threads=2)))
    hub.begin(record("long", "active"), SPEC)
    with hub.threads.read("followed"):
        for number in range(5):
            execute(hub, f"run-{number}", "a", thread_id=f"thread-{number}")
        assert set(hub.threads._feeds) == {"active", "followed", "thread-3", "thread-4"}
    assert set(hub.threads._feeds) == {"active", "thread-4", "followed"}
    execute(hub, "run-5", "a", thread_id="thread-4")
    assert hub.threads.feed_of("thread-4").added == 6


def test_idle_feeds_are_bounded_in_bytes() -> None:
    hub = StreamHub(HubLimits(threads=FeedLimits(idle_bytes=20_000)))
    for number in range(50):
        execute(hub, f"run-{number}", "x" * 1_000, thread_id=f"thread-{number}")
    assert sum(feed.size for feed in hub.threads._feeds.values()) <= 20_000


async def test_followers_are_woken_by_parts_ends_and_closing() -> None:
    hub = StreamHub()
    with hub.threads.read(THREAD) as reader:
        hub.begin(record("1"), SPEC)
        reader.take()
        for step in (
            lambda: hub.publish("1", "custom", 1),
            lambda: hub.close("1", end={}),
            lambda: hub.threads.note_state(THREAD, b"1"),
            hub.end_all,
        ):
            waiting = asyncio.create_task(reader.wait())
            await asyncio.sleep(0)
            step()
            assert await asyncio.wait_for(waiting, 5)
            reader.take()
        assert reader.is_over


def test_who_follows_a_feed_that_begins_anew_is_told_of_a_gap_and_of_what_comes_then() -> None:
    hub = StreamHub()
    execute(hub, "1", "a")
    with (
        hub.threads.read(THREAD, after=0) as reader,
        read_events(hub.threads, THREAD, Wanted(channels={"custom"}), 0) as events,
    ):
        execute(hub, "2", "b")
        reader.feed.begin_anew()
        assert reader.gap() == StreamGap(1, 6)
        assert b'"gap"' in b"".join(events.pieces())
        execute(hub, "3", "c")
        assert [run_id for _, run_id, _ in told(reader)] == ["3", "3", "3"]
        assert b'"c"' in b"".join(events.pieces())
    with hub.threads.read(THREAD, after=0) as reader:
        reader.gap()
        assert [run_id for _, run_id, _ in told(reader)] == ["3", "3", "3"]
