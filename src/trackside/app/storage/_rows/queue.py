"""Who holds a thread and who waits for it: pure, except for one question that the database may have to answer.

A run is in the queue of its thread from its admission to its release. At most one run of a thread holds it, and only
that one may be claimed. What is found here is what one transaction sees; what it changes is written at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Protocol

from msgspec import Struct, field

from trackside.app.storage.fleet import DEFAULT_POOL, QueueNews, ReadyRun, StopAsked
from trackside.harness.types import CancelAction, ThreadStatus


class Standing(StrEnum):
    """Where an active run stands."""

    delayed = "delayed"
    """It is not due yet: it neither holds its thread nor waits for it."""
    pending = "pending"
    """It waits; if it holds its thread, it may be claimed."""
    claimed = "claimed"
    """Its start is in the log."""
    withdrawn = "withdrawn"
    """It will never be claimed; its owner is about to announce its end."""
    ended = "ended"
    """Its end is in the log, but the thread has to be announced as resting before it is given back."""


class ActiveRun(Struct, kw_only=True, eq=False):
    """A row of `active_runs`; `at_rest` is the thread's status if nobody waits.

    Until it is `stored`, its `ordinal` is 0, which means a place behind all others, or that of the run that it retries.
    Its `version` and `agent` are not read again: nothing here depends on them.
    """

    run_id: str
    thread_id: str
    state: Standing
    multitask: str
    ordinal: int = 0
    holds: bool = False
    owner: str | None = None
    due_at: str | None = None
    cancel_requested: CancelAction | None = None
    at_rest: ThreadStatus | None = None
    portable: bool = False
    keeps_request: bool = True
    pool: str = DEFAULT_POOL
    version: str | None = None
    agent: str = ""
    stored: bool = False

    @property
    def waits(self) -> bool:
        """Whether it is in the line behind the one that holds the thread."""
        return self.state is Standing.pending and not self.holds

    @property
    def has_not_begun(self) -> bool:
        """Whether it is still to be started, now or when it is due."""
        return self.state in {Standing.pending, Standing.delayed}

    @property
    def waits_for_worker(self) -> bool:
        """Whether another worker can take it over: it has not begun, and nobody wants it to stop."""
        return self.has_not_begun and self.cancel_requested is None

    @property
    def is_ready(self) -> bool:
        """Whether it is nobody's, and any worker of its pool may claim it."""
        is_pending = self.state is Standing.pending and self.holds
        return is_pending and self.owner is None and self.portable and self.cancel_requested is None


class Lane(Struct, kw_only=True, eq=False):
    """A thread as one transaction sees it: its status as last announced, who holds it, who is the first to wait.

    `status` is None while the thread has no row. `waiting` are those that are known, in their order; unless `complete`,
    the database may have more behind them. `delayed` are runs that are not due yet, known only where the thread `ends`.
    """

    thread_id: str
    status: ThreadStatus | None = None
    exists: bool = False
    """Whether it has a row, or gets one in this transaction."""
    owner: str | None = None
    ends: bool = False
    removed: bool = False
    expires_at: str | None = None
    delayed: list[str] = field(default_factory=list)
    holder: ActiveRun | None = None
    waiting: deque[ActiveRun] = field(default_factory=deque)
    complete: bool = True
    arrivals: deque[ActiveRun] = field(default_factory=deque)
    """Those that this transaction lets in, behind all others."""


class Line(Protocol):
    """What a queue asks of the database."""

    def waiting(self, thread_id: str, *, after: int, limit: int) -> list[ActiveRun]:
        """Runs that wait for a thread, first come first, from behind this ordinal on."""
        ...


@dataclass(frozen=True, slots=True)
class Handover:
    """What became of a thread whose holder has ended.

    `next_run_id` holds it now. If `at_rest` is given, nobody waits, although the thread was announced as busy: it stays
    held until it has been announced as that.
    """

    run_id: str
    thread_id: str
    thread_status: ThreadStatus
    next_run_id: str | None = None
    next_owner: str | None = None
    at_rest: ThreadStatus | None = None


_PAGE = 64


class Queue:
    """The active runs of some threads, and what one transaction changes about them."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._lanes: dict[str, Lane] = {}
        self._runs: dict[str, ActiveRun] = {}
        self.changed: dict[str, ActiveRun] = {}
        """Rows to make or to change."""
        self.removed: dict[str, ActiveRun] = {}
        """Rows to delete."""
        self.handovers: list[Handover] = []
        self.made_ready: list[ReadyRun] = []
        """Runs that a separate statement has made ready, and that need not be known here."""
        self._stopped: list[ActiveRun] = []
        self._handed_on: list[tuple[ActiveRun, str]] = []
        """Runs that have got their thread from a run of another owner, each with its own owner."""

    def know(self, run: ActiveRun) -> ActiveRun:
        """Take in a stored row; what is already known of it takes precedence."""
        if run.run_id in self.removed:
            return self.removed[run.run_id]
        return self._runs.setdefault(run.run_id, run)

    def know_lane(self, lane: Lane) -> None:
        """Take in a thread as the database has it."""
        if lane.thread_id not in self._lanes:
            lane.holder = None if lane.holder is None else self.know(lane.holder)
            lane.waiting = deque(self.know(run) for run in lane.waiting)
            self._lanes[lane.thread_id] = lane

    def knows_lane(self, thread_id: str) -> bool:
        """Whether a thread has been taken in."""
        return thread_id in self._lanes

    def lane(self, thread_id: str) -> Lane:
        """A thread that has been taken in."""
        return self._lanes[thread_id]

    def forget_lane(self, thread_id: str) -> None:
        """Treat a thread, if it has been taken in, as one without a row, and so without runs."""
        if thread_id in self._lanes:
            self._lanes[thread_id] = Lane(thread_id=thread_id)

    def find(self, run_id: str) -> ActiveRun | None:
        """An active run that has been taken in, and is still active."""
        return self._runs.get(run_id)

    def first_waiting(self, lane: Lane) -> ActiveRun | None:
        """The run that will hold the thread next."""
        return next(self._each_waiting(lane), None)

    def all_waiting(self, lane: Lane) -> list[ActiveRun]:
        """All runs that wait for the thread, in their order."""
        return [*self._each_waiting(lane)]

    def _each_waiting(self, lane: Lane) -> Iterator[ActiveRun]:
        known = 0
        last = 0
        while True:
            for run in [*islice(lane.waiting, known, None)]:
                last = run.ordinal
                if self._still_waits(run):
                    yield run
            known = len(lane.waiting)
            if lane.complete:
                break
            page = self._line.waiting(lane.thread_id, after=last, limit=_PAGE)
            lane.waiting.extend(self.know(run) for run in page)
            lane.complete = len(page) < _PAGE
        yield from [run for run in lane.arrivals if self._still_waits(run)]

    def _still_waits(self, run: ActiveRun) -> bool:
        return run.waits and self._runs.get(run.run_id) is run

    def enter(self, run: ActiveRun) -> None:
        """Let a run in: it holds its thread if nobody does, waits behind the others, or is delayed."""
        self._runs[run.run_id] = run
        self.change(run)
        lane = self._lanes.get(run.thread_id)
        if run.state is Standing.delayed and lane is not None:
            lane.delayed.append(run.run_id)
        elif run.state is Standing.pending:
            assert lane is not None
            if lane.holder is None:
                self._hold(lane, run)
            else:
                self._line_up(lane, run)

    def _line_up(self, lane: Lane, run: ActiveRun) -> None:
        """Let a run wait: behind all others, or at its place, if it has one from the run that it retries."""
        if not run.ordinal:
            lane.arrivals.append(run)
            return
        index = next((index for index, other in enumerate(lane.waiting) if run.ordinal < other.ordinal), None)
        if index is None:
            lane.arrivals.appendleft(run)
        else:
            lane.waiting.insert(index, run)

    def change(self, run: ActiveRun) -> None:
        """Note that a row has been changed."""
        self.changed[run.run_id] = run

    def ask_to_stop(self, run: ActiveRun, action: CancelAction) -> None:
        """Note that somebody wants a run to stop; the first who does counts."""
        if run.cancel_requested is None:
            run.cancel_requested = action
            self._stopped.append(run)
        self.change(run)

    def news(self) -> QueueNews | None:
        """What workers of a fleet have to be told of all this; None if there is nothing."""
        ready = [
            ReadyRun(run.run_id, run.pool, run.agent, run.version) for run in self.changed.values() if run.is_ready
        ]
        stops = [
            StopAsked(run.run_id, run.owner)
            for run in self._stopped
            if run.owner is not None and run.state is Standing.claimed and run.run_id not in self.removed
        ]
        stops += [StopAsked(run.run_id, owner) for run, owner in self._handed_on if run.run_id not in self.removed]
        if not (ready or stops or self.made_ready):
            return None
        return QueueNews(ready=(*ready, *self.made_ready), stops=(*stops,))

    def release(self, run: ActiveRun, status: ThreadStatus, at_rest: ThreadStatus) -> None:
        """Give the thread of a run whose end is in the log to the next, unless it must be announced as resting first.

        `status` is the thread's, as announced by now; `at_rest` what it is when nobody waits.
        """
        if not run.holds:
            self._remove(run)
            self.handovers.append(Handover(run.run_id, run.thread_id, status))
            return
        lane = self._lanes[run.thread_id]
        following = self.first_waiting(lane)
        if following is None and status is ThreadStatus.busy:
            run.state = Standing.ended
            run.at_rest = run.at_rest or at_rest
            self.change(run)
            self.handovers.append(Handover(run.run_id, run.thread_id, status, at_rest=run.at_rest))
            return
        self._remove(run)
        lane.holder = None
        if following is None:
            self.handovers.append(Handover(run.run_id, run.thread_id, status))
            return
        following.at_rest = run.at_rest or at_rest
        self._hold(lane, following)
        if following.owner is not None and following.owner != run.owner:
            self._handed_on.append((following, following.owner))
        self.handovers.append(
            Handover(run.run_id, run.thread_id, status, next_run_id=following.run_id, next_owner=following.owner)
        )

    def is_over(self, thread_id: str) -> bool:
        """Whether a thread that ends with its last run has no run left that could hold it."""
        lane = self._lanes.get(thread_id)
        if lane is None or not lane.ends or lane.removed or lane.holder is not None:
            return False
        return not any(self._may_come(run_id) for run_id in lane.delayed)

    def _may_come(self, run_id: str) -> bool:
        """Whether a run that was delayed still is, as far as this transaction knows."""
        run = self._runs.get(run_id)
        return run_id not in self.removed and (run is None or run.state is Standing.delayed)

    def _hold(self, lane: Lane, run: ActiveRun) -> None:
        run.holds = True
        lane.holder = run
        self.change(run)

    def _remove(self, run: ActiveRun) -> None:
        del self._runs[run.run_id]
        self.changed.pop(run.run_id, None)
        self.removed[run.run_id] = run
