"""Drives the real queue in its state machine: hands that do what a manager would, one step at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, override

from tests.property.queue_model import Run

from trackside.app.storage import Store
from trackside.app.storage._coordination.own_runs import OwnRun
from trackside.app.storage._databases.session import Session
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.coordinator import StoredCoordinator
from trackside.app.storage.errors import OutcomeUnknownError, StorageError
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import terminal_event_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import Claim, Settlement
from trackside.harness.types import CancelAction, CancelMode, LifecycleEventType, RunRecord, RunSpec, RunStatus

AGENT = "a"
type Phase = Literal["waiting", "claimed", "running", "withdrawn", "over"]


class ForgetfulSession:
    """A session that, when told to, commits and then loses the connection before it can say so."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.loses_in = 0
        """Which transaction from now on loses its reply."""

    @contextlib.contextmanager
    def transaction(self, **options: Any) -> Generator[None]:
        with self._session.transaction(**options):
            yield
        self.loses_in -= 1
        if self.loses_in == 0:
            raise OutcomeUnknownError(database="it", why="the reply was lost")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class AwayError(StorageError):
    """The store {database} failed: {why}."""

    retryable = True  # a later try may succeed, so the works that were written together are not to blame


class ForgottenSession(ForgetfulSession):
    """Commits once without saying so, and nobody tries again."""

    @contextlib.contextmanager
    def transaction(self, **options: Any) -> Generator[None]:
        with self._session.transaction(**options):
            yield
        self.loses_in -= 1
        if self.loses_in == 0:
            raise AwayError(database="it", why="nobody has heard what became of it")


class Gate(Work):
    """Holds the writer up, so that it writes all requests made meanwhile in one transaction."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    @property
    @override
    def size(self) -> int:
        return 0

    @override
    def apply(self, unit: UnitOfWork) -> None:
        self.reached.set()
        self.opened.wait(30)


@dataclass(eq=False)
class Held:
    """A run as its executor knows it."""

    run: Run
    phase: Phase = "waiting"
    ready: bool = False
    cancelled: bool = False
    claim: Claim | None = None
    settlement: Settlement | None = None
    status: RunStatus = RunStatus.success
    sequence: int = 0
    said: list[RunLifecycleEvent] = field(default_factory=list)
    reply_lost: bool = False

    def event(self, kind: LifecycleEventType, **payload: Any) -> RunLifecycleEvent:
        self.sequence += 1
        run = self.run
        return RunLifecycleEvent(new_id(), kind, run.run_id, run.thread_id, self.sequence, datetime.now(UTC), payload)

    def opening(self) -> list[RunLifecycleEvent]:
        assert self.claim is not None
        which = {"attempt": self.run.attempt, "retry_of": self.run.retry_of} if self.run.retry_of else {}
        self.said = [self.event(LifecycleEventType.RUN_STARTED, agent=AGENT, metadata={}, **which)]
        if self.claim.thread_status != "busy":
            self.said.append(self.rest("busy"))
        return self.said

    def closing(self) -> list[RunLifecycleEvent]:
        assert self.settlement is not None
        data = {"token_usage_by_model": {"m": {"input_tokens": 3}}, "total_input_tokens": 3, "duration_seconds": 0.5}
        goes_on = {"retried_as": self.settlement.retried_as} if self.settlement.retried_as else {}
        end = self.event(terminal_event_of(self.status), status=self.status.value, completion_data=data, **goes_on)
        self.said = [end]
        if self.settlement.status is not self.settlement.previous:
            self.said.append(self.rest(self.settlement.status.value))
        return self.said

    def rest(self, status: str) -> RunLifecycleEvent:
        return self.event(LifecycleEventType.THREAD_STATUS_UPDATED, status=status)


class Hand:
    """A process that executes runs, as its coordinator sees it: records what it is told."""

    agents: Collection[str] = (AGENT,)

    def __init__(self, store: Store, session: ForgetfulSession) -> None:
        self.store = store
        self.session = session
        self.coordinator: StoredCoordinator = store.coordinator(lease_seconds=3_600)
        # Attached, the coordinator would look after the queue whenever it likes.
        self.coordinator._host = self.coordinator._upkeep._host = self
        self.held: dict[str, Held] = {}
        self.told: list[tuple[Any, ...]] = []
        self.is_enrolled = False
        self.timed: set[str] = set()
        """Delayed runs that have to take their places when due; a rule says when, once for each of them."""
        delay = self.coordinator._runs._delay

        def take_note(own: OwnRun) -> None:
            delay(own)
            self.take_timer(own)

        self.coordinator._runs._delay = take_note  # type: ignore[method-assign]

    @property
    def name(self) -> str:
        return self.coordinator.worker_id

    def on_ready(self, run_id: str) -> None:
        self.told.append(("ready", run_id))

    def on_displaced(self, displaced: Sequence[RunRecord], mode: CancelMode) -> None:
        self.told += [("displaced", run.run_id, run.status is RunStatus.running) for run in displaced]

    def on_cancel(self, run_id: str, action: CancelAction) -> None:
        self.told.append(("cancel", run_id))

    def on_lost(self, run_id: str) -> None:
        self.told.append(("lost", run_id))

    def on_adopted(self, record: RunRecord, spec: RunSpec, *, ready: bool) -> None:
        self.told.append(("adopted", record.run_id, ready))

    def take_timer(self, own: OwnRun) -> None:
        """Let a rule say when a run is due, instead of the timer, if that waits for it."""
        if own in (due_times := self.coordinator._runs.due_times):
            due_times.discard(own)
            self.timed.add(own.record.run_id)

    async def leave(self) -> None:
        """Close the coordinator, as its process would; the next coordinator uses the store."""
        await self.coordinator.aclose()
        self.forget()

    def die(self) -> None:
        """Go without a word, once the lease has ended."""
        if self.coordinator._enrolment._heart is not None:
            self.coordinator._enrolment._heart.stop()
        self.forget()

    def forget(self) -> None:
        """Make the store forget this coordinator."""
        self.store._coordinators.clear()
        self.store._workers.clear()
        self.store._writer.on_handover.clear()


@dataclass
class Step:
    """Something that a hand does, and what has to come of it: a value or an exception."""

    act: Callable[[], Awaitable[Any]]
    expect: Callable[[Any], None]


async def take(hand: Hand, steps: Sequence[Step], *, lose_reply: int) -> list[Any]:
    """Take steps so that they meet in one transaction, in this order; return what came of each.

    `lose_reply` says which transaction loses its reply, the first or a later one; 0: none.
    """
    writer: Any = hand.store._writer
    if len(steps) == 1:
        hand.session.loses_in = int(lose_reply)
        return [*await asyncio.gather(steps[0].act(), return_exceptions=True)]
    await hand.coordinator._enrolment.enroll()
    gate = Gate()
    opened = writer.put(gate)
    while not gate.reached.is_set():
        await asyncio.sleep(0)
    hand.session.loses_in = 1 + lose_reply if lose_reply else 0
    tasks = []
    for step in steps:
        waiting = writer._jobs.qsize()
        task = asyncio.ensure_future(step.act())
        while writer._jobs.qsize() == waiting and not task.done():
            await asyncio.sleep(0)
        tasks.append(task)
    gate.opened.set()
    await opened
    return await asyncio.gather(*tasks, return_exceptions=True)
