"""What is exposed of a watched app: read at each scrape, from any thread."""

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual
from tests.integration.metrics.conftest import POOL, WatchedApp, ended, in_a_fleet, shown

from trackside.app.observers.metrics import MetricsObserver
from trackside.app.vitals import (
    EngineStats,
    EngineStatus,
    EngineVitals,
    FeedStats,
    QueueStats,
    Vitals,
    WorkerStats,
    WriterStats,
)
from trackside.harness import RunManager, RunSpec
from trackside.harness.observing.backlog import BufferStats
from trackside.harness.observing.buffered import BufferedObserver
from trackside.testing import Misbehaviour, RecordingObserver, VirtualClock


@virtual
async def test_what_the_runs_of_a_manager_do_is_shown_as_the_manager_says_it() -> None:
    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)

    metrics = MetricsObserver()
    async with RunManager({"sleeper": sleeper}, max_running=2, clock=VirtualClock(), observers=[metrics]) as manager:
        app = WatchedApp()
        metrics.watch(replace(app.vitals(), manager=manager.stats))
        for thread in ("a", "b", "c", "a", "a"):
            await manager.start(RunSpec("sleeper", 10.0, thread_id=thread))
        await manager.start(RunSpec("sleeper", 10.0, after_seconds=100.0))
        await asyncio.sleep(1)
        values = shown(metrics)
        await asyncio.sleep(1_000)

    assert values["trackside_runs_active"] == {("sleeper",): 2}
    assert values["trackside_runs_queued"] == {("place",): 1, ("thread",): 2, ("time",): 1}
    assert values["trackside_runs_stuck"] == {(): 0}
    assert shown(metrics)["trackside_runs_active"] == {("sleeper",): 0}
    assert shown(metrics)["trackside_runs_total"]["sleeper", "success"] == 6


async def test_what_storage_and_subscriptions_do_is_shown(metrics: MetricsObserver) -> None:
    feed = FeedStats(
        subscription="webhook",
        active=True,
        paused=False,
        read_total=9,
        handled_total=5,
        parked_total=1,
        returned_total=1,
        failed_calls_total=4,
        pending=2,
        behind_seconds=1.5,
    )
    app = WatchedApp(feeds=[feed, replace(feed, subscription="mail", active=False, paused=True)], spooled=7)
    app.manager = replace(app.manager, missed_kept_total=3, missed_lost_total=1, stuck=1, stuck_total=2)
    metrics.watch(app.vitals())

    values = shown(metrics)
    assert values["trackside_storage_batch_duration_seconds_count"] == {(): 4}
    assert values["trackside_storage_batch_duration_seconds_sum"] == {(): 0.5}
    assert values["trackside_storage_batch_events_sum"] == {(): 20}
    assert values["trackside_storage_requests_total"] == {(): 9}
    assert values["trackside_storage_pending_requests"] == {(): 3}
    assert values["trackside_spooled_runs"] == {(): 7}
    assert values["trackside_missed_events_total"] == {("kept",): 3, ("lost",): 1}
    assert values["trackside_stuck_runs_total"] == {(): 2}
    assert values["trackside_subscription_active"] == {("webhook",): 1, ("mail",): 0}
    assert values["trackside_subscription_paused"] == {("webhook",): 0, ("mail",): 1}
    assert values["trackside_subscription_lag_seconds"]["webhook",] == 1.5
    assert values["trackside_subscription_failed_calls_total"]["webhook",] == 4


async def test_a_process_of_a_fleet_shows_its_engine_its_places_and_its_duties(metrics: MetricsObserver) -> None:
    said = EngineStats(
        announced_total=9,
        announce_failures_total=2,
        stops_sent_total=3,
        messages_refused_total=4,
        messages_unreadable_total=1,
    )
    cut_off = EngineVitals("nats", EngineStatus(connected=False, why="the server is gone"), said)
    metrics.watch(replace(in_a_fleet(WatchedApp().vitals()), engine=lambda: cut_off, queue=lambda: None))

    values = shown(metrics)
    assert values["trackside_engine_connected"] == {("nats",): 0}
    assert values["trackside_engine_announced_runs_total"] == {(): 9}
    assert values["trackside_engine_unannounced_runs_total"] == {(): 2}
    assert values["trackside_engine_stops_total"] == {("sent",): 3, ("heard",): 0}
    assert values["trackside_engine_messages_total"]["refused",] == 4
    assert values["trackside_engine_unreadable_messages_total"] == {(): 1}
    assert values["trackside_worker_places"] == {(): 16}
    assert values["trackside_worker_running_runs"] == {(): 3}
    assert values["trackside_worker_vain_offers_total"] == {("missed",): 5, ("foreign",): 1}
    assert values["trackside_worker_lost_runs_total"] == {(): 1}
    assert values["trackside_duty_held"] == {("sweeper",): 1, ("reaper",): 0}
    assert not [name for name in values if name.startswith("trackside_queue_")], "it is not the one that looks"


async def test_who_looks_after_a_fleet_shows_its_queue(open_metrics: Any) -> None:
    metrics = open_metrics(max_labels=1)
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    gpu = replace(POOL, oldest_ready_at=hour_ago)
    idle = replace(gpu, pool="default", ready=0, oldest_ready_at=None, workers=0, places=0)
    queue = QueueStats([gpu, idle], {"chat": 2, "draw": 1, "sing": 1})
    metrics.watch(replace(WatchedApp().vitals(), queue=lambda: queue))

    values = shown(metrics)
    assert values["trackside_queue_runs"]["gpu", "ready"] == 3
    assert values["trackside_queue_runs"]["gpu", "delayed"] == 1
    assert values["trackside_queue_runs"]["default", "ready"] == 0
    assert 3_600 <= values["trackside_queue_oldest_ready_seconds"]["gpu",] < 3_660
    assert values["trackside_queue_oldest_ready_seconds"]["default",] == 0
    assert values["trackside_queue_workers"] == {("gpu",): 2, ("default",): 0}
    assert values["trackside_queue_places"]["gpu",] == 4
    assert values["trackside_queue_unserved_runs"] == {("chat",): 2, ("other",): 2}


async def test_a_server_that_executes_what_it_lets_in_shows_nothing_of_a_fleet(metrics: MetricsObserver) -> None:
    metrics.watch(WatchedApp().vitals())
    of_fleets = ("trackside_engine", "trackside_worker", "trackside_duty", "trackside_queue_")
    assert not [name for name in shown(metrics) if name.startswith(of_fleets)]


@virtual
async def test_an_observer_that_hangs_is_shown_with_how_far_it_is_behind_and_what_it_missed() -> None:
    metrics, hanging = MetricsObserver(), RecordingObserver(Misbehaviour(how="hang"))
    buffer = BufferedObserver(hanging, capacity=3, terminal_reserve=0, max_wait=0.0)
    metrics.watch(replace(WatchedApp().vitals(), observers=lambda: {"mail": buffer.stats()}))
    events = ended()
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    for event in [replace_time(event, hour_ago) for event in events]:
        await buffer.on_event(event)
    await asyncio.sleep(1)
    values = shown(metrics)
    await buffer.aclose()

    assert 3_600 <= values["trackside_observer_lag_seconds"]["mail",] < 3_660
    assert values["trackside_observer_pending_events"] == {("mail",): 3}
    dropped = {("mail", why): 0 for why in ("closed", "fork", "not_in_log")}
    assert values["trackside_observer_dropped_events_total"] == {("mail", "overflow"): 2, **dropped}
    assert values["trackside_observer_accepted_events_total"] == {("mail",): 5}
    after = shown(metrics)
    assert after["trackside_observer_lag_seconds"] == {("mail",): 0}
    assert after["trackside_observer_dropped_events_total"]["mail", "closed"] == 2
    assert after["trackside_observer_failed_events_total"] == {("mail",): 1}


async def test_numbers_that_cannot_be_read_are_missing_and_the_others_shown(
    metrics: MetricsObserver, caplog: pytest.LogCaptureFixture
) -> None:
    def gone() -> Any:
        raise OSError("the database is closed")

    metrics.watch(replace(WatchedApp().vitals(), writer=gone))
    for _ in range(3):
        values = shown(metrics)

    assert "trackside_storage_requests_total" not in values
    assert values["trackside_runs_stuck"] == {(): 0}
    assert values["trackside_spooled_runs"] == {(): 0}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the numbers of the storage cannot be read" in caplog.text


async def test_a_manager_may_be_scraped_from_another_thread_while_its_runs_come_and_go(
    metrics: MetricsObserver, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(input: Any) -> None:
        await asyncio.sleep(0)

    done = asyncio.Event()

    def scrape() -> int:
        scrapes = 0
        while not done.is_set():
            shown(metrics)
            scrapes += 1
        return scrapes

    async with RunManager({"agent": agent}, observers=[metrics]) as manager:
        metrics.watch(replace(WatchedApp().vitals(), manager=manager.stats))
        scraping = asyncio.create_task(asyncio.to_thread(scrape), name="scraping")
        for _ in range(40):
            handles = [await manager.start(RunSpec("agent")) for _ in range(50)]
            for handle in handles:
                await handle.result()
        done.set()
        assert await scraping > 1

    assert not caplog.records
    assert shown(metrics)["trackside_runs_total"]["agent", "success"] == 2_000


def replace_time(event: Any, when: datetime) -> Any:
    return replace(event, occurred_at=when)


def numbered() -> Vitals:
    """Vitals in which no two numbers are the same, so that none can be mistaken for another."""
    manager = replace(
        RunManager({}).stats(), stuck=1, stuck_total=2, loop_blocks_total=3, missed_kept_total=4, missed_lost_total=5
    )
    buffer = BufferStats(
        accepted=11,
        delivered=12,
        failed=13,
        dropped={},
        pending=14,
        pending_bytes=15,
        oldest_at=datetime.now(UTC) + timedelta(hours=1),  # by the announcing process's clock
        left_behind=16,
        consumer_deaths=17,
        deferred=18,
        reread_total=19,
    )
    writer = WriterStats(
        batches_total=21, works_total=22, events_total=23, seconds_total=24.0, failures_total=25, pending=26
    )
    feed = FeedStats(
        subscription="mail",
        active=True,
        paused=False,
        read_total=31,
        handled_total=32,
        parked_total=33,
        returned_total=34,
        failed_calls_total=35,
        pending=36,
        behind_seconds=37.0,
    )
    engine = EngineStats(
        announced_total=41,
        announce_failures_total=42,
        offers_total=43,
        redelivered_total=44,
        stops_sent_total=45,
        stops_heard_total=46,
        messages_said_total=47,
        messages_heard_total=48,
        messages_refused_total=49,
        messages_unreadable_total=50,
        reconnects_total=51,
    )
    worker = WorkerStats(
        places=61, running=62, taken_total=63, found_total=64, missed_total=65, foreign_total=66, lost_total=67
    )
    pool = replace(POOL, ready=71, waiting=72, delayed=73, running=74, workers=75, places=76, free=77)
    app = WatchedApp(manager, {"mail": buffer}, writer, [feed], spooled=6)
    return replace(
        app.vitals(),
        engine=lambda: EngineVitals("nats", stats=engine),
        worker=lambda: worker,
        queue=lambda: QueueStats([pool]),
    )


SHOWN: dict[tuple[str, ...], float] = {
    ("runs_stuck",): 1,
    ("stuck_runs_total",): 2,
    ("loop_blocks_total",): 3,
    ("missed_events_total", "kept"): 4,
    ("missed_events_total", "lost"): 5,
    ("spooled_runs",): 6,
    ("observer_accepted_events_total", "mail"): 11,
    ("observer_delivered_events_total", "mail"): 12,
    ("observer_failed_events_total", "mail"): 13,
    ("observer_pending_events", "mail"): 14,
    ("observer_pending_bytes", "mail"): 15,
    ("observer_left_behind_calls", "mail"): 16,
    ("observer_deferred_events", "mail"): 18,
    ("observer_reread_events_total", "mail"): 19,
    ("observer_lag_seconds", "mail"): 0,
    ("storage_batch_duration_seconds_count",): 21,
    ("storage_batch_duration_seconds_sum",): 24,
    ("storage_batch_events_count",): 21,
    ("storage_batch_events_sum",): 23,
    ("storage_requests_total",): 22,
    ("storage_failed_batches_total",): 25,
    ("storage_pending_requests",): 26,
    ("subscription_read_events_total", "mail"): 31,
    ("subscription_handled_events_total", "mail"): 32,
    ("subscription_parked_events_total", "mail"): 33,
    ("subscription_returned_events_total", "mail"): 34,
    ("subscription_failed_calls_total", "mail"): 35,
    ("subscription_pending_events", "mail"): 36,
    ("subscription_lag_seconds", "mail"): 37,
    ("engine_announced_runs_total",): 41,
    ("engine_unannounced_runs_total",): 42,
    ("engine_offers_total",): 43,
    ("engine_redelivered_offers_total",): 44,
    ("engine_stops_total", "sent"): 45,
    ("engine_stops_total", "heard"): 46,
    ("engine_messages_total", "said"): 47,
    ("engine_messages_total", "heard"): 48,
    ("engine_messages_total", "refused"): 49,
    ("engine_unreadable_messages_total",): 50,
    ("engine_reconnects_total",): 51,
    ("worker_places",): 61,
    ("worker_running_runs",): 62,
    ("worker_taken_runs_total",): 63,
    ("worker_found_runs_total",): 64,
    ("worker_vain_offers_total", "missed"): 65,
    ("worker_vain_offers_total", "foreign"): 66,
    ("worker_lost_runs_total",): 67,
    ("queue_runs", "gpu", "ready"): 71,
    ("queue_runs", "gpu", "waiting"): 72,
    ("queue_runs", "gpu", "delayed"): 73,
    ("queue_runs", "gpu", "running"): 74,
    ("queue_workers", "gpu"): 75,
    ("queue_places", "gpu"): 76,
    ("queue_oldest_ready_seconds", "gpu"): 0,
}
"""What is exposed of the `numbered` vitals, by name and labels."""


async def test_each_number_is_shown_under_its_own_name(metrics: MetricsObserver) -> None:
    metrics.watch(numbered())

    values = shown(metrics)
    prefixes = ("runs_stuck", "stuck_", "loop_", "missed_", "spooled_", "observer_", "storage_", "subscription_")
    known = ("observer_dropped_events_total", "subscription_active", "subscription_paused", "engine_connected")
    assert {
        (name.removeprefix("trackside_"), *labels): value
        for name, of_name in values.items()
        for labels, value in of_name.items()
        if name.removeprefix("trackside_").startswith((*prefixes, "engine_", "worker_", "queue_"))
        and name.removeprefix("trackside_") not in known
    } == SHOWN
