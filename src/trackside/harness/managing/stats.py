"""What a manager is doing and has done, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trackside.harness.types import RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerStats:
    """How many runs a manager has, by what they are doing now, and totals since it was made, which only grow.

    A run that is being ended before it has begun is in none of the first four.
    """

    running: int
    """Runs that execute, or whose ends are being announced."""
    waiting_for_place: int
    """Runs whose threads are free for them, while `max_running`, or that of their agents, is reached."""
    waiting_for_thread: int
    """Runs that wait for other runs of their threads."""
    delayed: int
    """Runs that are not due yet."""
    stuck: int
    """Of the running: runs whose agents were cancelled and have not stopped; or have stopped, and what their ends wait
    for (their threads to remember it, or what they did to be undone) takes that long.
    """
    running_by_agent: Mapping[str, int]
    started_total: int
    ended_by_status: Mapping[RunStatus, int]
    """How runs ended, as those who wait for them were told."""
    stuck_total: int
    loop_blocks_total: int
    """How often the event loop was found blocked (`block_warning_after`)."""
    missed_kept_total: int
    """Events that a required observer did not take, and that are kept for it."""
    missed_lost_total: int
    """Events that a required observer did not take, and will never get."""


@dataclass(slots=True)
class Tally:
    """The totals that a manager counts as it goes."""

    started: int = 0
    stuck: int = 0
    ended: dict[RunStatus, int] = field(default_factory=lambda: dict.fromkeys(RunStatus, 0))
