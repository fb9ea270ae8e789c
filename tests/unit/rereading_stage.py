"""A buffered observer with a log behind it, and events of several runs for it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from tests.contract.recorded_log import RecordedLog
from tests.unit.buffer_hands import assert_adds_up

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.buffered import BufferedObserver, BufferStats
from trackside.testing import RecordingObserver, make_event


def of_run(run_id: str, count: int, *, first: int = 1, **fields: Any) -> list[RunLifecycleEvent]:
    return [make_event(run_id=run_id, sequence=number, **fields) for number in range(first, first + count)]


def in_turns(*runs: Sequence[RunLifecycleEvent]) -> list[RunLifecycleEvent]:
    """The events of several runs of equal length: the first of each, then the second of each …"""
    return [event for row in zip(*runs, strict=True) for event in row]


def by_run(events: Iterable[RunLifecycleEvent]) -> dict[str, list[RunLifecycleEvent]]:
    runs: dict[str, list[RunLifecycleEvent]] = defaultdict(list)
    for event in events:
        runs[event.run_id].append(event)
    return runs


class Stage:
    """A buffer of two events, the log behind it, and what each is given."""

    def __init__(self, observer: Any = None, **options: Any) -> None:
        self.log = RecordedLog()
        self.observer: Any = RecordingObserver() if observer is None else observer
        options = {"capacity": 2, "terminal_reserve": 0, "log": self.log, "name": "it"} | options
        self.buffer = BufferedObserver(self.observer, **options)

    async def announce(self, *events: RunLifecycleEvent) -> None:
        """Write the events, then offer them, as a manager does, without waiting for anything."""
        self.log.write(events)
        for event in events:
            with pytest.raises(StopIteration):
                self.buffer.on_event(event).send(None)

    def stats(self) -> BufferStats:
        stats = self.buffer.stats()
        assert_adds_up(stats)
        return stats
