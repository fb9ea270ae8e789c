"""Metrics observers, closed after the test, what they expose, and an app for them to watch."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trackside.app.observers.metrics import MetricsObserver
from trackside.app.vitals import (
    EngineVitals,
    FeedStats,
    PoolDepth,
    QueueStats,
    Vitals,
    WorkerStats,
    WriterStats,
)
from trackside.harness import RunLifecycleEvent, RunManager, RunStatus
from trackside.harness.managing.stats import ManagerStats
from trackside.harness.observing.backlog import BufferStats
from trackside.testing.events import make_run

type Open = Callable[..., MetricsObserver]


@pytest.fixture
async def open_metrics() -> AsyncIterator[Open]:
    """Makes observers, and closes them after the test."""
    opened: list[MetricsObserver] = []

    def open_(**options: Any) -> MetricsObserver:
        opened.append(MetricsObserver(**options))
        return opened[-1]

    yield open_
    for observer in opened:
        await observer.aclose()


@pytest.fixture
def metrics(open_metrics: Open) -> MetricsObserver:
    return open_metrics()


def shown(observer: MetricsObserver) -> dict[str, dict[tuple[str, ...], float]]:
    """The exposed values of each series, by the values of its labels in the order of the labels' names."""
    values: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(observer.render()[0].decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert labels not in values.setdefault(sample.name, {}), f"{sample} twice"
            values[sample.name][labels] = sample.value
    return values


def ended(
    run_id: str = "run-1",
    *,
    agent: str | None = "chat",
    status: RunStatus = RunStatus.success,
    data: Mapping[str, Any] | None = None,
    **says: Any,
) -> list[RunLifecycleEvent]:
    """The events of a run of this agent whose terminal event says this."""
    events = make_run(run_id, status=status)
    events[0].payload["agent"] = agent  # type: ignore[index]  # the factory's own dict
    end = events[-2].payload
    end |= {"agent": agent, "completion_data": {"duration_seconds": 0.3} | dict(data or {})} | says  # type: ignore[operator]
    return events


_WRITTEN = WriterStats(batches_total=4, works_total=9, events_total=20, seconds_total=0.5, failures_total=1, pending=3)


WORKER = WorkerStats(places=16, running=3, taken_total=9, found_total=2, missed_total=5, foreign_total=1, lost_total=1)
POOL = PoolDepth(
    pool="gpu", ready=3, waiting=2, delayed=1, running=4, oldest_ready_at=None, workers=2, places=4, free=0
)


def in_a_fleet(vitals: Vitals) -> Vitals:
    """The vitals as those of a worker that has duties for the whole fleet."""
    return replace(
        vitals,
        engine=lambda: EngineVitals("nats"),
        worker=lambda: WORKER,
        duties=lambda: {"sweeper": True, "reaper": False},
        queue=lambda: QueueStats([POOL], {"chat": 2}),
    )


@dataclass
class WatchedApp:
    """What an app says of itself, set by the test."""

    manager: ManagerStats = field(default_factory=lambda: RunManager({}).stats())
    observers: Mapping[str, BufferStats] = field(default_factory=dict)
    writer: WriterStats = _WRITTEN
    feeds: list[FeedStats] = field(default_factory=list)
    spooled: int = 0

    def vitals(self) -> Vitals:
        return Vitals(
            manager=lambda: self.manager,
            observers=lambda: self.observers,
            writer=lambda: self.writer,
            feeds=lambda: self.feeds,
            spooled=lambda: self.spooled,
        )
