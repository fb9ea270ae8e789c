"""How a running app does, in numbers: what metrics show and health checks judge.

Numbers are read by functions that return at once, from any thread, so that whoever scrapes them holds nobody up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from trackside.harness.backlog import BufferStats
from trackside.harness.stats import ManagerStats

__all__ = ["FeedStats", "Vitals", "WatchingObserver", "WriterStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterStats:
    """What a store has written in this process. Totals only grow."""

    batches_total: int
    """Transactions."""
    works_total: int
    """Requests that they took: appends, steps of the coordinator."""
    events_total: int
    seconds_total: float
    """How long the transactions took, from their BEGIN to the answer to their COMMIT."""
    failures_total: int
    """Transactions that failed; what was in them was tried again or refused."""
    pending: int
    """Requests that wait for a transaction now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedStats:
    """How the feeding of one durable observer goes in this process. Totals only grow."""

    subscription: str
    active: bool
    """Whether this process feeds it now; else another does, it is paused, or it has failed."""
    paused: bool
    read_total: int
    handled_total: int
    parked_total: int
    returned_total: int
    failed_calls_total: int
    pending: int
    """Events that the observer has in hand."""
    behind_seconds: float
    """How old the oldest event is that was read and not handled yet; 0 if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """Where the numbers of an app come from."""

    manager: Callable[[], ManagerStats]
    observers: Callable[[], Mapping[str, BufferStats]]
    """Of the observers behind buffers, by their names."""
    writer: Callable[[], WriterStats]
    feeds: Callable[[], Sequence[FeedStats]]
    spooled: Callable[[], int]
    """Runs whose rest waits on this machine's disk for the log."""


@runtime_checkable
class WatchingObserver(Protocol):
    """An observer that wants to see how the app does, besides its runs."""

    def watch(self, vitals: Vitals) -> None:
        """Called once, when the app is assembled and before any run."""
        ...
