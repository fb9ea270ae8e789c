"""Threads, runs and workers as anybody would describe them: dicts and lists; no SQL, no transactions, no caches.

Each method is a step of `harness.ports.RunCoordinator`, or an append, and gives the expected answer. The caller has
already said which runs it concerns: the model looks nothing up, and does nothing twice.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

type State = Literal["delayed", "pending", "claimed", "withdrawn", "ended", "gone"]

RESTS = {"success": "idle", "cancelled": "idle", "interrupted": "interrupted", "error": "error", "timeout": "error"}
LAST_AT_ONCE = 2
"""The last attempt that starts without a delay."""

_place = attrgetter("number")


class Busy(Exception):
    """The strategy is `reject`, and another run has the thread."""


@dataclass(eq=False)
class Run:
    run_id: str
    thread_id: str
    owner: str | None
    can_move: bool
    multitask: str = "enqueue"
    max_attempts: int = 1
    attempt: int = 1
    retry_of: str | None = None
    number: int = 0
    """The run's place among all runs."""
    state: State = "pending"
    cancel: str | None = None
    rest: str | None = None
    status: str = "pending"
    is_stuck: bool = False
    sequence: int = 0
    ended_as: int = 0
    """How many runs had ended when this one had."""
    next_run_id: str | None = None
    """The run that got the thread after it."""

    @property
    def waits(self) -> bool:
        """Whether its code has not begun, and nobody has taken it out of the queue."""
        return self.state in {"pending", "delayed"}

    @property
    def has_ended(self) -> bool:
        return self.status not in {"pending", "running"}

    @property
    def has_attempts_left(self) -> bool:
        """Whether it can be begun once more."""
        return self.can_move and self.attempt < self.max_attempts

    @property
    def may_go_on(self) -> bool:
        """Whether it is begun once more if its worker goes."""
        return self.has_attempts_left and self.cancel is None


@dataclass(eq=False)
class Thread:
    status: str = "idle"
    holder: Run | None = None
    line: list[Run] = field(default_factory=list)


@dataclass
class Model:
    runs: dict[str, Run] = field(default_factory=dict)
    threads: dict[str, Thread] = field(default_factory=dict)
    workers: dict[str, bool] = field(default_factory=dict)
    """Workers that have a lease, and whether that lease goes on."""
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    events: int = 0
    ends: int = 0
    pruned: int = 0
    starting: set[tuple[str, str]] = field(default_factory=set)
    """Runs that a worker has claimed, but whose start is not in the log."""

    @property
    def active(self) -> list[Run]:
        """The runs that have not ended for their thread, in the order of arrival."""
        return sorted((run for run in self.runs.values() if run.state != "gone"), key=lambda run: run.number)

    def thread(self, thread_id: str) -> Thread:
        return self.threads.setdefault(thread_id, Thread())

    def holds(self, run: Run) -> bool:
        return self.thread(run.thread_id).holder is run

    def lives(self, owner: str | None) -> bool:
        """Whether this owner is alive to look after its runs."""
        return owner is not None and self.workers.get(owner, False)

    def admit(self, run: Run, *, delayed: bool) -> list[tuple[str, bool]]:
        """Which runs have to make room, and whether each is running."""
        if run.multitask == "reject" and not delayed and self.thread(run.thread_id).holder is not None:
            raise Busy
        self._know(run)
        displaced: list[tuple[str, bool]] = []
        if delayed:
            run.state = "delayed"
        else:
            displaced = self.take_place(run)
        others = [other for other in self.runs.values() if other.state == "delayed" and other is not run]
        here = [other for other in others if other.thread_id == run.thread_id]
        return sorted([*displaced, *self._make_room(run, here)])

    def _know(self, run: Run) -> None:
        run.number = run.number or self._last_number() + 1
        self.runs[run.run_id] = run
        self.thread(run.thread_id)

    def _last_number(self) -> int:
        return max((run.number for run in self.runs.values()), default=0)

    def take_place(self, run: Run) -> list[tuple[str, bool]]:
        """The run takes its thread, or joins the line at its place, which is usually the last."""
        thread = self.thread(run.thread_id)
        displaced = sorted(self._make_room(run, [*thread.line, *([thread.holder] if thread.holder else ())]))
        run.state = "pending"
        if thread.holder is None:
            thread.holder = run
        else:
            insort(thread.line, run, key=_place)
        return displaced

    def start_anew(self, ended: Run, run_id: str) -> None:
        """Another attempt at an ended run, in its place: at once, or after a while. Whoever cancelled it is heard."""
        run = Run(
            run_id,
            ended.thread_id,
            owner=None if ended.cancel is None else ended.owner,
            can_move=True,
            max_attempts=ended.max_attempts,
            attempt=ended.attempt + 1,
            retry_of=ended.run_id,
            number=ended.number,
            cancel=ended.cancel,
        )
        self._know(run)
        if run.attempt <= LAST_AT_ONCE:
            self.take_place(run)
        else:
            run.state = "delayed"

    def _make_room(self, coming: Run, present: list[Run]) -> Iterator[tuple[str, bool]]:
        for run in present if coming.multitask in {"interrupt", "rollback"} else ():
            is_own = run.owner == coming.owner
            if run.state == "claimed" or (
                run.state == "pending" and is_own and (run.owner, run.run_id) in self.starting
            ):
                run.cancel = run.cancel or coming.multitask
                yield run.run_id, True
            elif run.waits and is_own:
                run.cancel = run.cancel or coming.multitask
                self._withdraw(run)
                yield run.run_id, False
            elif run.waits:
                self.end_for_others(run, "cancelled")

    def _withdraw(self, run: Run) -> None:
        run.state = "withdrawn"
        thread = self.thread(run.thread_id)
        if run in thread.line:
            thread.line.remove(run)

    def promote(self, run: Run, owner: str) -> list[tuple[str, bool]] | None:
        if run.state != "delayed" or run.owner != owner or run.cancel is not None:
            return None
        if run.retry_of is None:
            run.number = self._last_number() + 1
        return self.take_place(run)

    def may_be_claimed(self, run: Run, worker: str) -> bool:
        is_to_be_had = run.state == "pending" and self.holds(run) and run.cancel is None
        return is_to_be_had and (run.owner == worker or not self.lives(run.owner))

    def withdraw(self, run: Run, worker: str) -> bool:
        if not run.waits or run.owner != worker:
            return False
        self._withdraw(run)
        return True

    def request_cancel(self, run: Run, worker: str, action: str) -> None:
        if run.waits and run.owner != worker:
            run.cancel = run.cancel or action
            self.end_for_others(run, "cancelled")
        elif run.state != "gone":
            run.cancel = run.cancel or action

    def start(self, run: Run, worker: str) -> bool:
        """Whether the log takes the start of a run from this worker."""
        if run.has_ended or run.sequence or run.owner not in {None, worker}:
            return False
        run.owner = worker
        run.status, run.state, run.rest = "running", "claimed", None
        self.starting.discard((worker, run.run_id))
        return True

    def settle(self, run: Run, status: str, at_rest: str | None, *, shut_down: bool) -> tuple[str, str, bool]:
        """What the thread was announced as, what it will be, and whether the run goes on."""
        thread = self.thread(run.thread_id)
        goes_on = shut_down and run.may_go_on
        if run.state != "claimed":
            return thread.status, thread.status, goes_on
        at_rest = at_rest or RESTS[status]
        if not thread.line and not (goes_on and run.attempt < LAST_AT_ONCE):
            return thread.status, at_rest, goes_on
        run.rest = at_rest
        return thread.status, "busy", goes_on

    def note_stuck(self, run: Run, worker: str) -> None:
        if run.state == "claimed" and run.owner == worker:
            run.is_stuck = True

    def end(self, run: Run, status: str, thread_status: str | None, *, retried_as: str | None = None) -> None:
        """The run's end is in the log, perhaps with its thread's status, and with the run that it goes on as."""
        if run.waits:
            self._withdraw(run)
        run.status = status
        self.ends += 1
        run.ended_as = self.ends
        self.tell(run)
        if thread_status is not None:
            self.tell(run, thread_status)
        if retried_as is not None and run.has_attempts_left:
            self.start_anew(run, retried_as)
        self.release(run)

    def tell(self, run: Run, thread_status: str | None = None) -> None:
        """Count one more event."""
        run.sequence += 1
        self.events += 1
        if thread_status is not None:
            self.thread(run.thread_id).status = thread_status

    def release(self, run: Run) -> None:
        """Give the thread to the next in line, unless it is still called busy and no run is left to keep it so."""
        thread = self.thread(run.thread_id)
        if not self.holds(run):
            run.state = "gone"
            return
        rest = run.rest or RESTS[run.status]
        if not thread.line and thread.status == "busy":
            run.state, run.rest = "ended", rest
            if any(other.retry_of == run.run_id for other in self.runs.values()):  # the other run has its place
                run.number = self._last_number() + 1
            return
        run.state = "gone"
        thread.holder = thread.line.pop(0) if thread.line else None
        if thread.holder is not None:
            thread.holder.rest = rest
            run.next_run_id = thread.holder.run_id

    def end_for_others(self, run: Run, status: str, retried_as: str | None = None) -> None:
        """End a run that its owner does not end, as the harness would."""
        thread = self.thread(run.thread_id)
        rest = (None if run.state == "claimed" else run.rest) or RESTS[status]
        goes_on = retried_as is not None and run.attempt < LAST_AT_ONCE
        is_last = self.holds(run) and thread.status == "busy" and not thread.line and not goes_on
        self.end(run, status, rest if is_last else None, retried_as=retried_as)

    def reap(self, reaper: str, retry_of: Callable[[str], str]) -> None:
        """End the runs of workers that are gone, or leave them to others; `retry_of` names a run's next attempt."""
        for run in self.active:
            if run.owner in {None, reaper} or self.lives(run.owner):
                continue
            if run.waits and run.can_move and run.cancel is None:
                run.owner = None
            elif run.state == "ended":
                self.tell(run, run.rest or "idle")
                self.release(run)
            elif run.state == "claimed":
                self.end_for_others(run, "error", retry_of(run.run_id) if run.may_go_on else None)
            else:
                is_cancelled = run.state == "withdrawn" or run.cancel is not None
                self.end_for_others(run, "cancelled" if is_cancelled else "error")
        self.workers = {worker: lives for worker, lives in self.workers.items() if lives or worker == reaper}

    def adopt(self, worker: str) -> list[Run]:
        """Take over the runs that wait for a worker."""
        orphans = [run for run in self.active if run.owner is None and run.waits and run.can_move]
        for run in orphans:
            run.owner = worker
        return orphans

    def leave(self, worker: str) -> None:
        """A worker goes: its runs that have not started wait for another."""
        for run in self.active:
            if run.owner == worker and run.waits and run.can_move and run.cancel is None:
                run.owner = None
        self.workers.pop(worker, None)

    def prune(self, passed: set[str]) -> None:
        """Remove ended runs, except those with open questions and those that a subscription has not passed."""
        for run in [run for run in self.runs.values() if run.state == "gone"]:
            if run.run_id in passed and not self._asks(run):
                self.pruned += run.sequence
                del self.runs[run.run_id]
                self.keys = {key: named for key, named in self.keys.items() if named[1] != run.run_id}
        for thread_id, thread in [*self.threads.items()]:
            is_empty = not any(run.thread_id == thread_id for run in self.runs.values())
            if is_empty and thread.status in {"idle", "error"}:
                del self.threads[thread_id]

    def _asks(self, run: Run) -> bool:
        asked = [r.ended_as for r in self.runs.values() if r.thread_id == run.thread_id and r.status == "interrupted"]
        return self.thread(run.thread_id).status == "interrupted" and run.ended_as == max(asked, default=0)
