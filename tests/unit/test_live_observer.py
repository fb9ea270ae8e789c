"""Followers of runs get everything in order, once, from wherever they join; a slow one holds up nobody."""

import asyncio
import gc
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual

from trackside.app.delivery import ObserverOptionError
from trackside.app.observers.live import (
    FollowEnd,
    InvalidFollowError,
    LiveEvent,
    LiveFollower,
    LiveGap,
    LiveObserver,
    NotLiveError,
)
from trackside.harness import LifecycleEventType, RunLifecycleEvent
from trackside.harness.errors import ClosedError
from trackside.testing.events import make_event, make_run

RUN = make_run("r", thread_id="t", messages=3)
TERMINAL = len(RUN) - 1


def message(sequence: int, text: str = "hello", *, run_id: str = "r") -> RunLifecycleEvent:
    says = {"message": {"id": "m", "type": "human", "content": text}}
    return make_event(run_id=run_id, thread_id="t", sequence=sequence, payload=says)


def messages(*sequences: int) -> list[RunLifecycleEvent]:
    return [message(sequence) for sequence in sequences]


def short(item: LiveEvent | LiveGap) -> int | tuple[int, int]:
    return item.event.sequence if isinstance(item, LiveEvent) else (item.first, item.last)


async def all_of(follower: LiveFollower) -> list[int | tuple[int, int]]:
    return [short(item) async for item in follower]


def ready(follower: LiveFollower) -> list[int | tuple[int, int]]:
    items = []
    while (item := follower.next_ready()) is not None:
        items.append(short(item))
    return items


async def gave(live: LiveObserver, events: Sequence[RunLifecycleEvent]) -> LiveObserver:
    for event in events:
        await live.on_event(event)
    return live


@virtual
async def test_a_follower_from_the_start_has_every_event_once_and_ends_with_the_run() -> None:
    live = LiveObserver()
    follower = live.follow("r", expected=True)
    reading = asyncio.create_task(all_of(follower))
    for event in RUN:
        await live.on_event(event)
        await asyncio.sleep(0.1)
    assert await reading == [event.sequence for event in RUN]
    assert follower.end is FollowEnd.finished


@pytest.mark.parametrize("joins_after", range(len(RUN)))
@virtual
async def test_who_joins_late_gets_the_past_and_then_the_rest_without_gap_or_repeat(joins_after: int) -> None:
    live = LiveObserver()
    await gave(live, RUN[: joins_after + 1])
    reading = asyncio.create_task(all_of(live.follow("r")))
    await asyncio.sleep(0)
    await live.on_events(RUN[joins_after + 1 :])
    assert await reading == [event.sequence for event in RUN]


@pytest.mark.parametrize("after", range(len(RUN) + 1))
@virtual
async def test_who_comes_again_goes_on_after_what_it_had(after: int) -> None:
    live = await gave(LiveObserver(), RUN)
    assert await all_of(live.follow("r", after=after)) == [event.sequence for event in RUN[after:]]


@virtual
async def test_who_had_more_elsewhere_than_has_come_here_gets_nothing_twice() -> None:
    live = await gave(LiveObserver(), RUN[:2])
    follower = live.follow("r", after=4)
    await live.on_events(RUN[2:])
    assert await all_of(follower) == [event.sequence for event in RUN[4:]]


@virtual
async def test_a_follower_gets_what_follows_the_terminal_event_even_if_it_comes_a_little_later() -> None:
    live = await gave(LiveObserver(), RUN[:TERMINAL])
    reading = asyncio.create_task(all_of(live.follow("r")))
    await asyncio.sleep(0.1)
    assert not reading.done()
    await live.on_event(RUN[TERMINAL])
    assert await reading == [event.sequence for event in RUN]


@virtual
async def test_a_follower_ends_where_nothing_follows_the_terminal_event() -> None:
    live = await gave(LiveObserver(), RUN[:TERMINAL])
    assert await all_of(live.follow("r")) == [event.sequence for event in RUN[:TERMINAL]]


@virtual
async def test_each_of_several_runs_has_its_own_time_for_what_follows_its_end() -> None:
    live, loop = LiveObserver(), asyncio.get_running_loop()

    async def ends_at(run_id: str) -> float:
        await all_of(live.follow(run_id, expected=True))
        return loop.time() - began

    began = loop.time()
    reading = [asyncio.create_task(ends_at(run_id)) for run_id in ("a", "b", "c", "d")]
    for run_id in ("a", "b", "c", "d"):
        run = make_run(run_id, thread_id=run_id)
        await gave(live, run if run_id == "b" else run[:-1])
        await asyncio.sleep(0.1)
    assert [await ended for ended in reading] == pytest.approx([0.25, 0.1, 0.45, 0.55])


@virtual
async def test_who_joins_a_run_that_is_over_has_it_at_once() -> None:
    live = await gave(LiveObserver(), RUN)
    follower = live.follow("r")
    assert ready(follower) == [event.sequence for event in RUN]
    assert follower.end is FollowEnd.finished


@virtual
async def test_a_run_that_nobody_knows_is_said_to_be_unknown() -> None:
    with pytest.raises(NotLiveError, match="run r is not known here: .*Read it from the log"):
        LiveObserver().follow("r")


@virtual
async def test_a_run_that_was_expected_in_vain_leaves_nothing_behind() -> None:
    live = LiveObserver()
    async with live.follow("r", expected=True):
        assert live.stats().running == 1
    assert live.stats().running == 0


@virtual
async def test_a_run_that_this_process_saw_only_the_rest_of_begins_with_a_gap() -> None:
    live = await gave(LiveObserver(), RUN[2:])
    assert await all_of(live.follow("r")) == [(1, 2), *(event.sequence for event in RUN[2:])]


@virtual
async def test_events_that_never_came_are_a_gap_between_those_that_did() -> None:
    live = await gave(LiveObserver(), messages(1, 2, 6))
    assert ready(live.follow("r")) == [1, 2, (3, 5), 6]


@virtual
async def test_an_event_that_comes_again_is_left_out() -> None:
    live = await gave(LiveObserver(), [*RUN[:3], *RUN[:3], *RUN[3:]])
    assert await all_of(live.follow("r")) == [event.sequence for event in RUN]
    assert (live.stats().events_total, live.stats().repeated_total) == (len(RUN), 3)


@virtual
async def test_a_slow_reader_is_told_which_events_it_missed_and_others_miss_nothing() -> None:
    live = LiveObserver(run_events=10)
    slow, quick = live.follow("r", expected=True), live.follow("r", expected=True)
    seen = []
    for sequence in range(1, 101):
        await live.on_event(message(sequence))
        seen += ready(quick)
    assert seen == list(range(1, 101))
    assert ready(slow) == [(1, 90), *range(91, 101)]
    assert live.stats().gaps_total == 1


@virtual
async def test_a_reader_that_is_overtaken_twice_has_two_gaps_with_what_it_read_between() -> None:
    live = await gave(LiveObserver(run_events=2), messages(1, 2, 3))
    slow = live.follow("r")
    assert [short(await anext(slow)) for _ in range(2)] == [(1, 1), 2]
    await gave(live, messages(4, 5, 6))
    assert ready(slow) == [(3, 4), 5, 6]


@virtual
async def test_a_slow_reader_that_wanted_all_or_nothing_is_let_go_with_the_reason() -> None:
    live = LiveObserver(run_events=10)
    slow = live.follow("r", expected=True, on_slow="end")
    await gave(live, messages(*range(1, 12)))
    assert await all_of(slow) == []
    assert slow.end is FollowEnd.slow
    assert (live.stats().slow_total, live.stats().readers) == (1, 0)


@virtual
async def test_large_events_are_bounded_by_their_bytes_and_the_last_is_always_kept() -> None:
    live = LiveObserver(run_bytes=100_000)
    follower = live.follow("r", expected=True)
    for sequence in range(1, 6):
        await live.on_event(message(sequence, "x" * 80_000))
    assert ready(follower) == [(1, 4), 5]


@virtual
async def test_all_that_is_kept_is_bounded_and_finished_runs_go_first() -> None:
    live = LiveObserver(max_bytes=1_000_000)
    for number in range(40):
        for event in make_run(f"r{number}", messages=0):
            await live.on_event(event)
        await live.on_event(message(1, "x" * 40_000, run_id=f"open{number}"))
        assert live.stats().bytes <= 1_000_000
    assert live.stats().finished == 0
    with pytest.raises(NotLiveError):
        live.follow("r0")
    assert ready(live.follow("open39")) == [1]


@virtual
async def test_what_is_kept_for_those_who_follow_everything_is_bounded_too() -> None:
    live = LiveObserver(max_bytes=10_000)
    for number in range(40):
        await live.on_events(make_run(f"r{number}"))
    assert live.stats().bytes <= 10_000


@virtual
async def test_runs_are_kept_after_their_end_for_a_time_and_only_so_many() -> None:
    live = LiveObserver(finished=2, finished_seconds=60)
    for number in range(3):
        await gave(live, make_run(f"r{number}"))
    with pytest.raises(NotLiveError):
        live.follow("r0")
    assert ready(live.follow("r1"))
    await asyncio.sleep(61)
    with pytest.raises(NotLiveError):
        live.follow("r2")
    assert live.stats().finished == 0


@virtual
async def test_a_run_that_never_ends_is_forgotten_for_newer_ones_and_its_followers_are_told() -> None:
    live = LiveObserver(running=2)
    await gave(live, [message(1, run_id="a"), message(1, run_id="b"), message(2, run_id="a")])
    quiet = live.follow("b")
    await live.on_event(message(1, run_id="c"))
    assert ready(quiet) == [1]
    assert quiet.end is FollowEnd.forgotten
    assert ready(live.follow("a")) == [1, 2]


@virtual
async def test_everything_is_followed_from_now_on_and_taken_up_again_by_position() -> None:
    live = await gave(LiveObserver(), make_run("before"))
    follower = live.follow()
    await gave(live, [message(1, run_id="a"), message(1, run_id="b")])
    assert ready(follower) == [1, 1]
    mark = follower.mark
    await follower.aclose()
    await gave(live, [message(7, run_id="c")])
    assert ready(live.follow(after=mark)) == [7]


@virtual
async def test_who_takes_everything_up_too_late_is_told_so_and_who_has_a_foreign_position_too() -> None:
    live = await gave(LiveObserver(run_events=2), messages(1, 2, 3, 4))
    assert ready(live.follow(after=1)) == [(2, 2), 3, 4]
    with pytest.raises(NotLiveError, match="position 5 is not known here: 4 is the last"):
        live.follow(after=5)


@virtual
async def test_a_thread_is_followed_across_its_runs_and_no_other_threads() -> None:
    live = await gave(LiveObserver(), make_run("one", thread_id="t"))
    follower = live.follow(thread_id="t", after=0)
    await gave(live, [*make_run("other", thread_id="u"), *make_run("two", thread_id="t")])
    seen = [item.event.run_id for item in iter(follower.next_ready, None) if isinstance(item, LiveEvent)]
    assert list(dict.fromkeys(seen)) == ["one", "two"]
    assert len(seen) == 2 * len(make_run())


@virtual
async def test_who_leaves_a_thread_or_a_run_takes_nothing_from_those_who_follow_it_or_will() -> None:
    live = await gave(LiveObserver(), messages(1))
    async with live.follow(thread_id="t", after=0) as stays:
        for also in ({"thread_id": "t", "after": 0}, {"run_id": "r"}):
            async with live.follow(**also) as leaves:
                assert ready(leaves) == [1]
        await gave(live, messages(2))
        assert ready(stays) == [1, 2]
    async with live.follow("r") as comes:
        assert ready(comes) == [1, 2]


@virtual
async def test_what_was_kept_for_who_followed_a_thread_takes_no_room_when_nobody_does() -> None:
    live = await gave(LiveObserver(), messages(1, 2))
    before = live.stats().bytes
    async with live.follow(thread_id="t"):
        assert live.stats().bytes > before
    assert live.stats().bytes == before


@virtual
async def test_runs_that_are_not_kept_any_more_take_no_room() -> None:
    live = LiveObserver(run_events=1, finished=1)
    taken = []
    for run_id in "abc":
        await gave(live, make_run(run_id))
        await asyncio.sleep(60)
        async with live.follow():
            assert live.stats().finished == 1
            taken.append(live.stats().bytes)
    assert taken == [taken[0]] * 3


@virtual
async def test_who_wants_more_of_a_thread_than_is_kept_is_told_what_is_missing() -> None:
    live = await gave(LiveObserver(run_events=2), messages(1, 2, 3))
    assert ready(live.follow(thread_id="t", after=0)) == [(1, 1), 2, 3]


@virtual
async def test_closing_lets_every_follower_end_with_what_it_had_to_come() -> None:
    live = await gave(LiveObserver(), RUN[:2])
    followers = [live.follow("r"), live.follow(after=0), live.follow(thread_id="t", after=0)]
    reading = [asyncio.create_task(all_of(follower)) for follower in followers]
    waiting = asyncio.create_task(all_of(live.follow("r", after=2)))
    await asyncio.sleep(1)
    await live.aclose()
    await live.aclose()
    assert await asyncio.gather(*reading, waiting) == [[1, 2], [1, 2], [1, 2], []]
    assert {follower.end for follower in followers} == {FollowEnd.closed}
    with pytest.raises(ClosedError):
        live.follow("r")
    with pytest.raises(ClosedError):
        await live.on_event(RUN[2])


@virtual
async def test_a_wait_that_is_cancelled_for_a_heartbeat_loses_nothing_and_leaves_nothing() -> None:
    live = LiveObserver()
    follower = live.follow("r", expected=True)
    for _ in range(100):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(follower), timeout=15)
    assert not follower._channel.waiters
    await live.on_event(message(1))
    assert short(await anext(follower)) == 1


@virtual
async def test_a_reader_that_breaks_off_is_counted_no_more() -> None:
    live = await gave(LiveObserver(), RUN)
    async for _ in live.follow("r"):
        break
    gc.collect()
    assert live.stats().readers == 0


@virtual
async def test_a_thousand_readers_are_woken_and_the_event_is_encoded_once() -> None:
    live = LiveObserver()
    followers = [live.follow("r", expected=True) for _ in range(2_500)]
    waiting = [asyncio.create_task(anext(follower)) for follower in followers]
    await asyncio.sleep(0)
    await live.on_event(RUN[0])
    items = await asyncio.gather(*waiting)
    assert len({id(item.data) for item in items if isinstance(item, LiveEvent)}) == 1
    assert live.stats().readers == 2_500


@virtual
async def test_the_data_of_an_event_is_one_line_of_json_whatever_it_says() -> None:
    hostile: dict[str, Any] = {"text": "a\nb\r\n\n: c\u2028", "half": "\ud83d", "set": {1}, "nan": float("nan")}
    live = await gave(LiveObserver(), [make_event(run_id="r", payload=hostile)])
    item = live.follow("r").next_ready()
    assert isinstance(item, LiveEvent)
    assert b"\n" not in item.data
    assert b"\r" not in item.data
    said = json.loads(item.data)
    assert said["payload"]["text"] == "a\nb\r\n\n: c\u2028"
    assert (said["run_id"], said["sequence"], said["event_type"]) == ("r", 1, LifecycleEventType.HUMAN_MESSAGE)


@pytest.mark.parametrize("option", ["run_events", "run_bytes", "running", "max_bytes"])
@pytest.mark.parametrize("value", [0, -1, "10", 1.5, True])
def test_a_number_that_is_none_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ObserverOptionError, match=option):
        LiveObserver(**{option: value})


@virtual
async def test_what_does_not_fit_together_is_refused() -> None:
    live = LiveObserver()
    for wrong in ({"run_id": "r", "thread_id": "t"}, {"after": -1}, {"after": "3"}, {"on_slow": "wait"}):
        with pytest.raises(InvalidFollowError):
            live.follow(**wrong)  # type: ignore[arg-type]


@virtual
async def test_an_event_that_comes_again_after_the_end_of_its_run_begins_no_other() -> None:
    live = await gave(LiveObserver(), [*RUN, RUN[0], RUN[-1]])
    follower = live.follow("r")
    assert ready(follower) == [event.sequence for event in RUN]
    assert follower.end is FollowEnd.finished
    assert (live.stats().running, live.stats().repeated_total) == (0, 2)


@virtual
async def test_a_run_that_is_forgotten_takes_no_room_and_is_counted() -> None:
    live = LiveObserver(run_events=1, running=1)
    taken = []
    for run_id in "abc":
        await live.on_event(message(1, run_id=run_id))
        taken.append(live.stats().bytes)
    assert taken == [taken[0]] * 3
    assert (live.stats().running, live.stats().forgotten_total) == (1, 2)


@virtual
async def test_a_gap_says_of_which_run_events_are_missing_or_that_they_may_be_of_any() -> None:
    live = await gave(LiveObserver(run_events=1), messages(1, 2))
    assert live.follow("r").next_ready() == LiveGap(first=1, last=1, run_id="r")
    assert live.follow(thread_id="t", after=0).next_ready() == LiveGap(first=1, last=1)


@virtual
async def test_who_comes_too_late_for_the_first_events_is_not_taken_for_slow() -> None:
    live = await gave(LiveObserver(run_events=2), messages(1, 2, 3))
    late = live.follow("r", on_slow="end")
    assert ready(late) == [(1, 1), 2, 3]
    assert (late.end, live.stats().slow_total) == (None, 0)


@virtual
async def test_no_run_is_kept_after_its_end_if_none_is_to_be() -> None:
    live = await gave(LiveObserver(finished=0), RUN)
    assert live.stats().finished == 0


@virtual
async def test_what_follows_the_end_of_a_run_that_is_not_kept_any_more_begins_none_that_goes_on() -> None:
    live = await gave(LiveObserver(finished=0), RUN[:TERMINAL])
    await asyncio.sleep(1)
    await live.on_event(message(1, run_id="another"))
    await live.on_event(RUN[TERMINAL])
    late = live.follow("r")
    assert await all_of(late) == [(1, TERMINAL), RUN[TERMINAL].sequence]
    assert (late.end, live.stats().running) == (FollowEnd.finished, 1)


@virtual
async def test_a_run_of_which_only_its_second_event_came_goes_on() -> None:
    busy = make_event(LifecycleEventType.THREAD_STATUS_UPDATED, run_id="r", sequence=2, payload={"status": "busy"})
    live = await gave(LiveObserver(), [busy])
    await asyncio.sleep(1)
    assert live.stats().running == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("finished", -1),
        ("finished", 1.5),
        ("finished_seconds", -1),
        ("finished_seconds", math.nan),
        ("finished_seconds", "60"),
        ("finished_seconds", True),
    ],
)
def test_what_cannot_be_kept_after_the_end_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ObserverOptionError, match=f"^{option}: "):
        LiveObserver(**{option: value})
