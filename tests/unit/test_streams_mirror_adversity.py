"""Whatever a wire loses, repeats, holds up or refuses: readers get all in order, or a gap, and then the true end."""

from __future__ import annotations

import asyncio
from typing import Any

from adverse_wire import Adversity
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.mirrored_fleet import RUN, THREAD, fleet, numbers_of, to_the_end

from trackside.app.streams import EndedStream, FeedItem, FeedReader, HubLimits, Mirror
from trackside.app.streams.live_messages import MOST_BYTES
from trackside.testing import run_virtual

STEPS = ["say", "say", "burst", "turn", "read", "thread", "leave", "large", "gone"]


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
    run_virtual(_every_reader(seed, adversity, steps, how))


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
    async with fleet(adversity, seed, limits=HubLimits(parts=20, part_bytes=4 * 1_048_576, behind=1)) as made:
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
