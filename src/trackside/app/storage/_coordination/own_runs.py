"""The runs that one worker looks after, as far as it knows: what it keeps in memory about them, but no step of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, KeysView
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from msgspec.structs import replace

from trackside.app.storage._coordination.steps import Fates
from trackside.app.storage._rows.queue import Handover
from trackside.app.storage._writing.fences import hold_run
from trackside.harness.due_times import DueTimes
from trackside.harness.types import CancelAction, RunRecord, RunStatus, ThreadStatus


@dataclass(slots=True, eq=False, kw_only=True)
class OwnRun:
    """A run that this worker looks after, from its admission to its release."""

    record: RunRecord
    ready: bool
    thread_status: ThreadStatus
    new_thread: bool = False
    """Whether it holds a thread that nobody had before."""
    claimed: bool = False
    withdrawn: bool = False
    cancel_requested: CancelAction | None = None
    cancels: int = 0
    """How many callers are asking here, at this moment, to cancel it: what the database says about that is no news."""
    handover: Handover | None = None
    over: bool = False
    """Its end is in the log."""
    said_rest: bool = False
    """Whether it was settled with the status of its thread at rest, which may be written by now."""
    retry_id: str | None = None
    """The id of the run that it goes on as, should it have been shut down."""

    @property
    def is_in_line(self) -> bool:
        """Whether it waits for its thread, as far as is known here; one for later may not do so yet."""
        is_for_later = self.record.due_at is not None
        return not (self.claimed or self.withdrawn or self.over or is_for_later or self.cancel_requested)

    @property
    def goes_on(self) -> bool:
        """Whether its end is not in the log, as far as is known here."""
        return not self.over and self.handover is None

    def asked_to_stop(self, *, running: bool) -> RunRecord:
        """What is known here about a run that somebody has asked to stop."""
        status = RunStatus.running if running else RunStatus.pending
        return replace(self.record, status=status, cancel_requested=self.cancel_requested)


class OwnRuns:
    """All of them, by their ids and by thread.

    Args:
        on_due: is called with each run that has to take its place now, as it is due.
        store: stands for the store that has them.
    """

    def __init__(self, on_due: Callable[[OwnRun], object], store: object = None) -> None:
        self.fates: Fates = {}
        """What was decided about runs whose step is not committed yet."""
        self.untold: set[str] = set()
        """Runs that have ended here, but whose ends may not be in the log yet: they may come later, from the spool."""
        self.due_times: DueTimes[OwnRun] = DueTimes(on_due, now=partial(datetime.now, UTC))
        """When those that are not due yet will be."""
        self._store = store
        self._runs: dict[str, OwnRun] = {}
        self._of_thread: dict[str, dict[str, OwnRun]] = {}
        """The same, by thread, in the order in which they came."""
        self._let_in: dict[str, RunRecord] = {}
        """Runs whose admission here has not returned."""
        self._given: dict[str, ThreadStatus] = {}
        """Runs that got their thread before their admission here had returned, and the thread's status."""
        self._displaced: dict[str, CancelAction] = {}
        """Runs that had to make room before their admission here had returned, and what for."""

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._runs

    def __iter__(self) -> Iterator[OwnRun]:
        return iter(self._runs.values())

    def is_expected(self, run_id: str) -> bool:
        """Whether this worker has a run, is about to hear that it was let in, or has yet to tell how it ended."""
        return run_id in self._runs or run_id in self._let_in or run_id in self.untold

    def ids(self) -> KeysView[str]:
        """A live view of their ids."""
        return self._runs.keys()

    def get(self, run_id: str) -> OwnRun | None:
        """The run with this id; None if it is not this worker's."""
        return self._runs.get(run_id)

    @contextmanager
    def letting_in(self, record: RunRecord) -> Generator[None]:
        """While a run is being let in here: others may have to know it before its admission has returned."""
        self._let_in[record.run_id] = record
        try:
            yield
        finally:
            self._let_in.pop(record.run_id, None)

    def take_early(self, run_id: str) -> OwnRun | None:
        """Look after a run whose admission is known to be written but has not returned; None if it is no such run."""
        record = self._let_in.get(run_id)
        return None if record is None else self.take(record, ready=False, thread_status=ThreadStatus.idle)

    def take(self, record: RunRecord, *, ready: bool, thread_status: ThreadStatus) -> OwnRun:
        """Look after a run from now on, or update how it stands."""
        own = self._runs.get(record.run_id)
        if own is not None:
            own.ready, own.thread_status = ready, thread_status
            self._delay(own)  # what it was to do may have come to nothing while the run had no owner
            return own
        if (given := self._given.pop(record.run_id, None)) is not None:
            ready, thread_status = True, given
        own = self._runs[record.run_id] = OwnRun(record=record, ready=ready, thread_status=thread_status)
        if (action := self._displaced.pop(record.run_id, None)) is not None:
            own.cancel_requested, own.withdrawn = action, True
        self._of_thread.setdefault(record.thread_id, {})[record.run_id] = own
        self._delay(own)
        return own

    def _delay(self, own: OwnRun) -> None:
        due_at = own.record.due_at
        if due_at is not None and not own.ready:
            self.due_times.add(own, due_at)

    def hold(self, own: OwnRun) -> None:
        """Note that a run is claimed, by the task that executes it."""
        own.claimed = True
        hold_run(self._store, own.record.run_id)

    def give(self, run_id: str, thread_status: ThreadStatus) -> None:
        """Note that a run yet to be taken has its thread: whoever waits for its admission has not heard of that."""
        self._given[run_id] = thread_status

    def displace(self, run_id: str, action: CancelAction) -> None:
        """Note that a run yet to be taken had to make room: whoever waits for its admission has not heard of that."""
        self._displaced[run_id] = action

    def forget(self, run_id: str) -> None:
        """Stop looking after a run, if this worker did."""
        own = self._runs.pop(run_id, None)
        self.fates.pop(run_id, None)
        if own is None:
            return
        of_thread = self._of_thread[own.record.thread_id]
        del of_thread[run_id]
        if not of_thread:
            del self._of_thread[own.record.thread_id]
        self.due_times.discard(own)

    def another_waits(self, own: OwnRun) -> bool:
        """Whether another run is known to wait for the thread of this one."""
        return any(other.is_in_line for other in self._of_thread[own.record.thread_id].values() if other is not own)
