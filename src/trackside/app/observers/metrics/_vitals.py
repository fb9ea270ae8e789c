"""Reads how the app is doing, whenever somebody scrapes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, get_args

from prometheus_client import Metric

from trackside.app.observers.metrics import definitions as d
from trackside.app.observers.metrics._instruments import gauge_or_counter, summary
from trackside.app.vitals import EngineVitals, FeedStats, QueueStats, Vitals, WorkerStats, WriterStats
from trackside.harness.managing.stats import ManagerStats
from trackside.harness.observing.backlog import BufferStats, DropReason

logger = logging.getLogger("trackside.metrics")

DROP_REASONS: Final = get_args(DropReason.__value__)


class VitalsMetrics:
    """The metrics of an app that is watched.

    Args:
        vitals: where its numbers come from.
        by_agent: puts numbers by agent under the labels that agents have.
    """

    def __init__(self, vitals: Vitals, by_agent: Callable[[Mapping[str, int]], Mapping[str, int]]) -> None:
        self._by_agent = by_agent
        self._readings: Sequence[tuple[str, Callable[[], Iterable[Metric]]]] = (
            ("manager", lambda: self._of_manager(vitals.manager())),
            ("spool", lambda: [_plain(d.SPOOLED_RUNS, vitals.spooled())]),
            ("observers", lambda: _of_observers(vitals.observers())),
            ("storage", lambda: _of_writer(vitals.writer())),
            ("subscriptions", lambda: _of_feeds(vitals.feeds())),
            ("engine", lambda: _of_engine(vitals.engine())),
            ("worker", lambda: _of_worker(vitals.worker())),
            ("duties", lambda: _of_duties(vitals.duties())),
            ("queue", lambda: self._of_queue(vitals.queue())),
        )
        self._failed: set[str] = set()

    def collect(self) -> Iterable[Metric]:
        """The current metrics. Only numbers that cannot be read are missing, which shows in Prometheus."""
        for name, read in self._readings:
            try:
                metrics = [*read()]
            except Exception:
                if name not in self._failed:  # only once, not at every scrape
                    self._failed.add(name)
                    logger.warning(
                        "the numbers of the %s cannot be read; their metrics are missing", name, exc_info=True
                    )
            else:
                yield from metrics

    def _of_manager(self, stats: ManagerStats) -> Iterable[Metric]:
        yield active_runs(self._by_agent(stats.running_by_agent))
        waiting = {"place": stats.waiting_for_place, "thread": stats.waiting_for_thread, "time": stats.delayed}
        yield _by(d.RUNS_QUEUED, waiting)
        yield _plain(d.RUNS_STUCK, stats.stuck)
        yield _plain(d.STUCK_RUNS, stats.stuck_total)
        yield _by(d.MISSED_EVENTS, {"kept": stats.missed_kept_total, "lost": stats.missed_lost_total})
        yield _plain(d.LOOP_BLOCKS, stats.loop_blocks_total)

    def _of_queue(self, queue: QueueStats | None) -> Iterable[Metric]:
        """What waits in a fleet. Only one of its processes reports it, or the sums over all would be too high."""
        if queue is None:
            return
        now = datetime.now(UTC)
        runs = [((one.pool, state), getattr(one, state)) for one in queue.pools for state in _QUEUE_STATES]
        yield gauge_or_counter(d.QUEUE_RUNS, runs)
        yield _by(d.QUEUE_OLDEST, {one.pool: _age(one.oldest_ready_at, now) for one in queue.pools})
        yield _by(d.QUEUE_WORKERS, {one.pool: one.workers for one in queue.pools})
        yield _by(d.QUEUE_PLACES, {one.pool: one.places for one in queue.pools})
        yield _by(d.QUEUE_UNSERVED, self._by_agent(queue.unserved))


def active_runs(by_agent: Mapping[str, int]) -> Metric:
    """How many runs of each agent are active now."""
    return _by(d.RUNS_ACTIVE, by_agent)


def _of_observers(buffers: Mapping[str, BufferStats]) -> Iterable[Metric]:
    now = datetime.now(UTC)
    lags = {name: _age(stats.oldest_at, now) for name, stats in buffers.items()}
    yield _by(d.OBSERVER_LAG, lags)
    for definition, number in _OF_BUFFER.items():
        yield _by(definition, {name: number(stats) for name, stats in buffers.items()})
    # There from the start, at 0, because a rate needs the step to the first one.
    dropped = [((name, why), stats.dropped.get(why, 0)) for name, stats in buffers.items() for why in DROP_REASONS]
    yield gauge_or_counter(d.OBSERVER_DROPPED, dropped)


def _of_writer(stats: WriterStats) -> Iterable[Metric]:
    yield summary(d.STORAGE_BATCH_DURATION, count=stats.batches_total, total=stats.seconds_total)
    yield summary(d.STORAGE_BATCH_SIZE, count=stats.batches_total, total=stats.events_total)
    yield _plain(d.STORAGE_REQUESTS, stats.works_total)
    yield _plain(d.STORAGE_FAILURES, stats.failures_total)
    yield _plain(d.STORAGE_PENDING, stats.pending)


def _of_feeds(feeds: Sequence[FeedStats]) -> Iterable[Metric]:
    for definition, number in _OF_FEED.items():
        yield _by(definition, {feed.subscription: number(feed) for feed in feeds})


def _of_engine(engine: EngineVitals | None) -> Iterable[Metric]:
    if engine is None:
        return
    stats = engine.stats
    yield _by(d.ENGINE_CONNECTED, {engine.name: engine.status.connected})
    yield _plain(d.ENGINE_RECONNECTS, stats.reconnects_total)
    yield _plain(d.ENGINE_ANNOUNCED, stats.announced_total)
    yield _plain(d.ENGINE_ANNOUNCE_FAILURES, stats.announce_failures_total)
    yield _plain(d.ENGINE_OFFERS, stats.offers_total)
    yield _plain(d.ENGINE_REDELIVERED, stats.redelivered_total)
    yield _by(d.ENGINE_STOPS, {"sent": stats.stops_sent_total, "heard": stats.stops_heard_total})
    said, heard, refused = stats.messages_said_total, stats.messages_heard_total, stats.messages_refused_total
    yield _by(d.ENGINE_MESSAGES, {"said": said, "heard": heard, "refused": refused})
    yield _plain(d.ENGINE_UNREADABLE, stats.messages_unreadable_total)


def _of_worker(worker: WorkerStats | None) -> Iterable[Metric]:
    if worker is None:
        return
    yield _plain(d.WORKER_PLACES, worker.places)
    yield _plain(d.WORKER_RUNNING, worker.running)
    yield _plain(d.WORKER_TAKEN, worker.taken_total)
    yield _plain(d.WORKER_FOUND, worker.found_total)
    yield _plain(d.WORKER_LOST, worker.lost_total)
    yield _by(d.WORKER_VAIN_OFFERS, {"missed": worker.missed_total, "foreign": worker.foreign_total})


def _of_duties(duties: Mapping[str, bool]) -> Iterable[Metric]:
    if duties:
        yield _by(d.DUTY_HELD, duties)


_QUEUE_STATES = ("ready", "waiting", "delayed", "running")

_OF_BUFFER: Mapping[d.Definition, Callable[[BufferStats], float]] = {
    d.OBSERVER_ACCEPTED: lambda stats: stats.accepted,
    d.OBSERVER_DELIVERED: lambda stats: stats.delivered,
    d.OBSERVER_FAILED: lambda stats: stats.failed,
    d.OBSERVER_PENDING: lambda stats: stats.pending,
    d.OBSERVER_DEFERRED: lambda stats: stats.deferred,
    d.OBSERVER_REREAD: lambda stats: stats.reread_total,
    d.OBSERVER_PENDING_BYTES: lambda stats: stats.pending_bytes,
    d.OBSERVER_LEFT_BEHIND: lambda stats: stats.left_behind,
}

_OF_FEED: Mapping[d.Definition, Callable[[FeedStats], float]] = {
    d.SUBSCRIPTION_ACTIVE: lambda feed: feed.active,
    d.SUBSCRIPTION_PAUSED: lambda feed: feed.paused,
    d.SUBSCRIPTION_LAG: lambda feed: feed.behind_seconds,
    d.SUBSCRIPTION_PENDING: lambda feed: feed.pending,
    d.SUBSCRIPTION_READ: lambda feed: feed.read_total,
    d.SUBSCRIPTION_HANDLED: lambda feed: feed.handled_total,
    d.SUBSCRIPTION_PARKED: lambda feed: feed.parked_total,
    d.SUBSCRIPTION_RETURNED: lambda feed: feed.returned_total,
    d.SUBSCRIPTION_FAILED_CALLS: lambda feed: feed.failed_calls_total,
}


def _plain(definition: d.Definition, value: float) -> Metric:
    return gauge_or_counter(definition, [((), value)])


def _by(definition: d.Definition, values: Mapping[str, float]) -> Metric:
    return gauge_or_counter(definition, [((name,), value) for name, value in values.items()])


def _age(since: datetime | None, now: datetime) -> float:
    return 0 if since is None else max(0, (now - since).total_seconds())
