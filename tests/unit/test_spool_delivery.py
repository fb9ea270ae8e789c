"""The spool delivers: what in which order, and what becomes of events that the log does not take."""

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.unit.spool_log import AwayError, BrokenError, ListLog, names_in

from trackside.app.spool import DeliveryReport, Spool
from trackside.harness import RunLifecycleEvent
from trackside.harness.errors import EventOrderError
from trackside.testing import assert_run_order, make_run


async def test_a_failure_that_may_pass_ends_the_delivery_and_leaves_everything(spool: Spool) -> None:
    log = ListLog()
    for run_id in ("a", "b", "c"):
        await spool.append(make_run(run_id))
    log.fails["b"] = AwayError()

    report = await spool.deliver(log)
    assert report == DeliveryReport(delivered=1, waiting=2, failure=log.fails.pop("b"))
    assert log.offered == ["a", "b"]
    assert [spool.holds(run_id) for run_id in "abc"] == [False, True, True]

    assert (await spool.deliver(log)).delivered == 2
    assert log.offered == ["a", "b", "b", "c"]
    assert_run_order(log.events)


async def test_while_the_log_is_away_one_record_is_tried_for_all(spool: Spool) -> None:
    log = ListLog()
    log.fails["*"] = AwayError()
    for number in range(10):
        await spool.append(make_run(f"run-{number}", thread_id=f"thread-{number}"))

    assert (await spool.deliver(log)).waiting == 10
    assert log.offered == ["run-0"]


async def test_many_records_are_given_to_the_log_beside_each_other_but_those_of_a_thread_in_order(spool: Spool) -> None:
    class Slow(ListLog):
        async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
            inside.append(events[0].thread_id)
            most.append(len(inside))
            assert len(inside) == len(set(inside))
            await super().append(events)
            inside.remove(events[0].thread_id)

    inside: list[str] = []
    most: list[int] = []
    log = Slow()
    for number in range(200):
        await spool.append(make_run(f"run-{number}", thread_id=f"thread-{number % 70}"))

    assert (await spool.deliver(log)).delivered == 200
    assert max(most) == 64
    for thread in range(70):
        runs = [event.run_id for event in log.events if event.thread_id == f"thread-{thread}" and event.sequence == 1]
        assert runs == [f"run-{number}" for number in range(thread, 200, 70)]


async def test_a_rest_that_comes_in_two_records_is_delivered_in_order(spool: Spool) -> None:
    log = ListLog()
    log.fails["*"] = AwayError()
    events = make_run()
    await spool.append(events[:4])
    await spool.deliver(log)
    await spool.append(events[4:])
    log.fails.clear()

    assert (await spool.deliver(log)).delivered == 2
    assert log.events == events


async def test_what_is_refused_for_good_is_kept_with_the_reason_and_holds_nothing_up(
    spool: Spool, folder: Path, caplog: pytest.LogCaptureFixture, unblocked: None
) -> None:
    lost, good = make_run("lost"), make_run("good")
    log = ListLog(*make_run("lost"))  # ended meanwhile by somebody else, under other ids
    await spool.append(lost[3:])
    await spool.append(good)

    assert await spool.deliver(log) == DeliveryReport(delivered=1, refused=1)

    (line,) = (folder / "refused.jsonl").read_text().splitlines()
    kept = json.loads(line)["record"]
    assert [event["event_id"] for event in kept["events"]] == [event.event_id for event in lost[3:]]
    assert "does not follow" in kept["reason"]
    assert await names_in(folder) == ["refused.jsonl"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the rest of run lost" in record.getMessage()
    assert "does not follow" in record.getMessage()
    assert spool.stats().refused == 1
    assert await spool.deliver(log) == DeliveryReport()


async def test_what_is_set_aside_is_safe_from_a_power_cut_before_it_leaves_its_place(
    spool: Spool, folder: Path, unblocked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ListLog(*make_run("lost"))
    log.fails["stays"] = BrokenError()  # so that its file stays, too
    await spool.append(make_run("lost")[3:])
    await spool.append(make_run("stays", thread_id="another"))
    (waiting,) = folder.iterdir()
    done: list[tuple[str, int]] = []

    def noted(name: str) -> Callable[..., object]:
        really: Callable[..., object] = getattr(os, name)

        def note(descriptor: int, *rest: object) -> object:
            done.append((name, os.fstat(descriptor).st_ino))
            return really(descriptor, *rest)

        return note

    for name in ("write", "fsync"):
        monkeypatch.setattr(os, name, noted(name))
    assert (await spool.deliver(log)).refused == 1
    monkeypatch.undo()

    refused, of = (folder / "refused.jsonl").stat().st_ino, waiting.stat().st_ino
    kept = [("write", refused), ("fsync", refused), ("fsync", folder.stat().st_ino)]  # or a power cut loses it
    assert done == [*kept, ("write", of), ("fsync", of)]


async def test_who_sets_something_aside_waits_for_another_process_that_is_just_at_it(
    spool: Spool, folder: Path, unblocked: None
) -> None:
    # A failed write cuts the file back to its earlier size: that must not cut off what others wrote meanwhile.
    log = ListLog(*make_run("lost"))
    await spool.append(make_run("lost")[3:])
    with (folder / "refused.jsonl").open("wb", buffering=0) as others:
        fcntl.flock(others, fcntl.LOCK_EX)
        delivers = asyncio.create_task(spool.deliver(log))
        await asyncio.wait({delivers}, timeout=0.3)
        assert not delivers.done()
        others.write(b"{}\n")
    assert (await delivers).refused == 1
    before, own = (folder / "refused.jsonl").read_bytes().splitlines()
    assert before == b"{}"
    assert json.loads(own)["record"]["reason"]


async def test_a_failure_that_will_not_pass_holds_up_only_what_comes_behind_on_the_same_thread(spool: Spool) -> None:
    log = ListLog()
    log.fails["bad"] = BrokenError()
    for run_id, thread_id in (("bad", "t1"), ("behind", "t1"), ("other", "t2")):
        await spool.append(make_run(run_id, thread_id=thread_id))

    report = await spool.deliver(log)

    assert report == DeliveryReport(delivered=1, waiting=2, failure=log.fails.pop("bad"))
    assert log.offered == ["bad", "other"]
    await spool.deliver(log)
    assert log.offered[2:] == ["bad", "behind"]


async def test_a_cancelled_delivery_goes_on_where_it_was(spool: Spool) -> None:
    class Slow(ListLog):
        async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
            await super().append(events)
            if events[0].run_id == "b":
                reached.set()
                await asyncio.Event().wait()

    log, reached = Slow(), asyncio.Event()
    for run_id in ("a", "b", "c"):
        await spool.append(make_run(run_id))
    delivery = asyncio.create_task(spool.deliver(log))
    await reached.wait()
    delivery.cancel()
    await asyncio.wait([delivery])

    rest = ListLog(*log.events)
    assert delivery.cancelled()
    assert await spool.deliver(rest) == DeliveryReport(delivered=2)
    assert rest.offered == ["b", "c"]
    assert_run_order(rest.events)


async def test_what_is_spooled_while_a_delivery_is_under_way_waits_for_the_next(spool: Spool) -> None:
    class Slow(ListLog):
        async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
            if not self.offered:
                await spool.append(make_run("meanwhile"))
            await super().append(events)

    log = Slow()
    await spool.append(make_run("a"))

    assert await spool.deliver(log) == DeliveryReport(delivered=1, waiting=1)
    assert spool.holds("meanwhile")
    assert await spool.deliver(log) == DeliveryReport(delivered=1)


async def test_many_at_once_are_all_kept_and_delivered_once(spool: Spool) -> None:
    log = ListLog()
    await asyncio.gather(*(spool.append(make_run(f"run-{number}")) for number in range(50)))
    reports = await asyncio.gather(*(spool.deliver(log) for _ in range(5)))

    assert sum(report.delivered for report in reports) == 50
    assert_run_order(log.events)
    assert spool.stats().delivered == spool.stats().spooled == 50


def test_the_log_of_these_tests_keeps_the_order_itself() -> None:
    with pytest.raises(EventOrderError):
        asyncio.run(ListLog().append(make_run()[1:]))
