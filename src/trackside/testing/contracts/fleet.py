"""Coordinators to test, and what surrounds one in a process: a manager's stories without a manager."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from trackside.harness.ids import new_id
from trackside.harness.lifecycle import terminal_event_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import (
    Admission,
    Claim,
    Clock,
    IdempotencyKey,
    Release,
    RunCoordinator,
    Settlement,
    SystemClock,
)
from trackside.harness.types import (
    CancelAction,
    CancelMode,
    JsonObject,
    LifecycleEventType,
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadStatus,
)
from trackside.testing.contracts._promise import opened

AGENT = "agent"
"""The agent whose runs every worker of the kit can execute."""


class Coordinators:
    """Opens coordinators that share one truth; what the fixture of a `CoordinatorContract` returns.

        Coordinators(MyCoordinator)

    Subclass it if runs are recorded in a log of the coordinator's own, if several processes share a truth, or if it
    outlives them.

    Args:
        open: makes a coordinator, or an async context manager of one, each time as a process of its own would.
        clock: the clock by which coordinators judge what is due.
        patience: within how many seconds coordinators tell their hosts what they have to be told.
    """

    def __init__(
        self,
        open: Callable[[], RunCoordinator | AbstractAsyncContextManager[RunCoordinator]],
        *,
        clock: Clock | None = None,
        patience: float = 10.0,
    ) -> None:
        self._open = open
        self._patience = patience
        self._workers: list[Worker] = []
        self.clock: Clock = clock or SystemClock()
        self.sequences: dict[str, int] = {}

    async def announce(self, coordinator: RunCoordinator, events: Sequence[RunLifecycleEvent]) -> None:
        """Make these events durable as the process of this coordinator does. Needed where the truth is a log."""

    async def kill(self, coordinator: RunCoordinator) -> None:
        """End this coordinator's process from one moment to the next: it renews nothing and gives nothing back.

        Needed for the claims `shared` and `durable`. Others find out in their usual way; make leases short.
        """
        raise NotImplementedError(f"{type(self).__name__} needs the method `kill` for what its contract claims")

    async def told(self, run_id: str) -> Sequence[RunLifecycleEvent] | None:
        """What the log says about a run; None where there is no log."""
        return None

    async def worker(self, *, agents: Sequence[str] = (AGENT,)) -> Worker:
        """Open a coordinator with a host, as a process that executes runs of these agents."""
        stack = AsyncExitStack()
        coordinator = await stack.enter_async_context(opened(self._open()))
        worker = Worker(self, coordinator, RecordingHost(agents, patience=self._patience), stack)
        coordinator.attach(worker.host)
        self._workers.append(worker)
        return worker

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        async with AsyncExitStack() as stack:
            for worker in self._workers:
                stack.push_async_callback(worker.aclose)


class RecordingHost:
    """A `RunHost` that keeps what it is told."""

    def __init__(self, agents: Sequence[str], *, patience: float) -> None:
        self.agents = tuple(agents)
        self._patience = patience
        self.ready: list[str] = []
        self.displaced: list[tuple[str, CancelMode]] = []
        self.cancels: list[tuple[str, CancelAction]] = []
        self.lost: list[str] = []
        self.adopted: list[tuple[RunRecord, RunSpec, bool]] = []
        self._news = asyncio.Event()

    def on_ready(self, run_id: str) -> None:
        self.ready.append(run_id)
        self._news.set()

    def on_displaced(self, displaced: Sequence[RunRecord], mode: CancelMode) -> None:
        self.displaced.extend((record.run_id, mode) for record in displaced)
        self._news.set()

    def on_cancel(self, run_id: str, action: CancelAction) -> None:
        self.cancels.append((run_id, action))
        self._news.set()

    def on_lost(self, run_id: str) -> None:
        self.lost.append(run_id)
        self._news.set()

    def on_adopted(self, record: RunRecord, spec: RunSpec, *, ready: bool) -> None:
        self.adopted.append((record, spec, ready))
        self._news.set()

    def may_claim(self, run_id: str) -> bool:
        """Whether it has been told that this run may be claimed."""
        return run_id in self.ready or any(record.run_id == run_id and ready for record, _, ready in self.adopted)

    async def told(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something that it has been told makes this true.

        Raises:
            AssertionError: nothing did, for as long as that may take.
        """
        try:
            async with asyncio.timeout(self._patience):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"the host was not told {what}; it was told {self}") from None

    def __str__(self) -> str:
        adopted = [(record.run_id, ready) for record, _, ready in self.adopted]
        return f"ready {self.ready}, displaced {self.displaced}, cancels {self.cancels}, lost {self.lost}, adopted {adopted}"


@dataclass(slots=True)
class Worker:
    """One process: a coordinator, its host, and the steps of runs in the order in which a manager takes them."""

    fleet: Coordinators
    coordinator: RunCoordinator
    host: RecordingHost
    _stack: AsyncExitStack

    def record(
        self,
        thread_id: str = "thread",
        *,
        multitask: MultitaskStrategy | str = MultitaskStrategy.enqueue,
        agent: str = AGENT,
        due_in: float | None = None,
    ) -> RunRecord:
        """A run to admit, due now or in `due_in` seconds."""
        now = self.fleet.clock.now()
        return RunRecord(
            run_id=new_id(),
            thread_id=thread_id,
            agent=agent,
            status=RunStatus.pending,
            created_at=now,
            multitask=MultitaskStrategy(multitask),
            due_at=None if due_in is None else now + timedelta(seconds=due_in),
        )

    async def admit(
        self, record: RunRecord, *, key: IdempotencyKey | None = None, max_attempts: int | None = None
    ) -> Admission:
        """Let a run in, with what is needed to execute it elsewhere, at most `max_attempts` times."""
        spec = RunSpec(
            record.agent,
            {"question": "?"},
            thread_id=record.thread_id,
            run_id=record.run_id,
            max_attempts=max_attempts,
        )
        return await self.coordinator.admit(record, spec=spec, idempotency=key)

    async def let_in(self, thread_id: str = "thread", *, max_attempts: int | None = None, **options: Any) -> str:
        """Admit a new run; returns its id."""
        record = self.record(thread_id, **options)
        await self.admit(record, max_attempts=max_attempts)
        return record.run_id

    async def claim(self, run_id: str) -> Claim | None:
        """Claim a run and, if it is to be had, announce its start."""
        claim = await self.coordinator.claim(run_id)
        if claim is not None:
            await self.announce_start(claim)
        return claim

    async def announce_start(self, claim: Claim) -> None:
        """Make the start of a run durable, and that its thread is busy if it was not."""
        start = [(LifecycleEventType.RUN_STARTED, {"agent": claim.record.agent, "metadata": {}})]
        if claim.thread_status is not ThreadStatus.busy:
            start.append(_thread_status(claim.thread_status, ThreadStatus.busy))
        await self._announce(claim.record.run_id, claim.record.thread_id, start)

    async def start(self, run_id: str) -> Claim:
        """Claim a run that has to be available."""
        claim = await self.claim(run_id)
        assert claim is not None, f"run {run_id} was to be had, and claim returned None"
        return claim

    async def run_on(self, thread_id: str = "thread", **options: Any) -> str:
        """Admit a run on a free thread and start it; returns its id."""
        run_id = await self.let_in(thread_id, **options)
        await self.start(run_id)
        return run_id

    async def end(self, run_id: str, status: RunStatus = RunStatus.success, **said: Any) -> Release:
        """Take a claimed or withdrawn run to its end: settle, announce, release, as often as that needs."""
        thread_id = await self.thread_of(run_id)
        settlement = await self.coordinator.settle(run_id, status, **said)
        await self.announce_end(run_id, thread_id, status, settlement, **said)
        return await self.release(run_id, thread_id, settlement.status)

    async def announce_end(
        self,
        run_id: str,
        thread_id: str,
        status: RunStatus,
        settlement: Settlement,
        *,
        at_rest: ThreadStatus | None = None,
        **said: Any,
    ) -> None:
        """Make the end of a run durable, and what its thread becomes if that is something else."""
        end = [(terminal_event_of(status), {"status": status.value, "completion_data": {}, **said})]
        if settlement.status is not settlement.previous:
            end.append(_thread_status(settlement.previous, settlement.status))
        await self._announce(run_id, thread_id, end)

    async def announce_rest(self, run_id: str, thread_id: str, settlement: Settlement) -> None:
        """Make durable what a thread becomes after all."""
        await self._announce(run_id, thread_id, [_thread_status(settlement.previous, settlement.status)])

    async def release(self, run_id: str, thread_id: str, announced: ThreadStatus) -> Release:
        """Give the thread back; announce first what has to be announced first."""
        release = await self.coordinator.release(run_id, announced)
        while (settlement := release.settlement) is not None:
            await self.announce_rest(run_id, thread_id, settlement)
            release = await self.coordinator.release(run_id, settlement.status)
        return release

    async def drop(self, run_id: str) -> Release:
        """Withdraw a pending run and take it to its end."""
        withdrawn = await self.coordinator.withdraw(run_id)
        assert withdrawn, f"run {run_id} was pending, and withdraw returned {withdrawn}"
        return await self.end(run_id, RunStatus.cancelled)

    async def get(self, run_id: str) -> RunRecord:
        """The record of a run, which has to be known."""
        record = await self.coordinator.get(run_id)
        assert record is not None, f"run {run_id} was admitted, and get returned None"
        return record

    async def thread_of(self, run_id: str) -> str:
        """The thread of a run."""
        return (await self.get(run_id)).thread_id

    async def kill(self) -> None:
        """End this process from one moment to the next."""
        await self.fleet.kill(self.coordinator)

    async def aclose(self) -> None:
        """End this process in good order."""
        await self._stack.aclose()

    async def _announce(
        self, run_id: str, thread_id: str, parts: Sequence[tuple[LifecycleEventType, JsonObject]]
    ) -> None:
        sequences, events = self.fleet.sequences, list[RunLifecycleEvent]()
        for kind, says in parts:
            sequences[run_id] = sequences.get(run_id, 0) + 1
            now = self.fleet.clock.now()
            events.append(RunLifecycleEvent(new_id(), kind, run_id, thread_id, sequences[run_id], now, says))
        await self.fleet.announce(self.coordinator, events)


def _thread_status(previous: ThreadStatus, status: ThreadStatus) -> tuple[LifecycleEventType, JsonObject]:
    return LifecycleEventType.THREAD_STATUS_UPDATED, {"status": status.value, "previous": previous.value}
